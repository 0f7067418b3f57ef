"""Triggers become action events: each once, from its instant on, in bounded lots, whatever happens in between."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits, outbox
from tallymarks.broker import Broker, Topology
from tallymarks.database import Connection, Database
from tallymarks.errors import BalanceOutOfRange
from tallymarks.rules.triggers import DEPTH_KEY, SOURCE_KEY, trigger_id_of
from tallymarks.service import new_id
from tallymarks.triggers import event_of
from tallymarks_assessor.assess import Assessor
from tallymarks_calendar.triggers import Triggers
from tests.integration.pipeline.parts import (
    FOLLOW_UP,
    action,
    balances_of,
    count,
    events_in_outbox,
    give,
    in_name_space,
    ledger_of,
    make_rule,
    messages_in_outbox,
    order,
    points,
    publish,
    schedule,
    seeded_ids,
    trigger,
    working,
)
from tests.parts import PATIENCE_SECONDS, START, ApiClient, Clock, Tenant, until

TICK = timedelta(milliseconds=1)


async def publish_all(triggers: Triggers) -> list[int]:
    """Go round until nothing is due; gives what each round published."""
    numbers = []
    while number := await triggers.publish_due(asyncio.Event()):
        numbers.append(number)
    return numbers


async def published(owner: asyncpg.Connection, tenant: Tenant) -> list[UUID]:
    """The ids of the tenant's events that wait to be relayed, in the order of publishing."""
    return [event.event_id for event in await events_in_outbox(owner, tenant.tenant_id)]


# --- when, and what ---------------------------------------------------------------------------------------------------


async def test_a_trigger_is_published_from_its_instant_on_and_is_gone(
    triggers: Triggers, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    due_at = START + timedelta(days=7)
    waiting = trigger(seeded_ids(1), due_at, reference="R-1", depth=3)
    await schedule(database, tenant.tenant_id, [waiting])
    clock.now = due_at - TICK
    assert await publish_all(triggers) == []
    clock.now = due_at + timedelta(hours=5)  # late, which does not show
    assert await publish_all(triggers) == [1]
    (event,) = await events_in_outbox(owner, tenant.tenant_id)
    assert event == event_of(waiting)
    assert (event.event_id, event.customer_id, event.created_at) == (waiting.trigger_id, waiting.customer_id, due_at)
    assert (event.event_type, event.name_space, event.reference) == ("action", FOLLOW_UP, "R-1")
    assert {one.key: one.value for one in event.attributes} == {
        DEPTH_KEY: "3",
        SOURCE_KEY: str(waiting.source_event_id),
    }
    assert await count(owner, "triggers") == 0


async def test_a_trigger_that_is_written_again_is_left_as_it_is(
    triggers: Triggers, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(2)
    first, other = trigger(ids), trigger(ids)
    later = trigger(ids, START + timedelta(days=1), trigger_id=first.trigger_id)
    await schedule(database, tenant.tenant_id, [first])
    await schedule(database, tenant.tenant_id, [other, later])
    await schedule(database, tenant.tenant_id, [])
    assert await publish_all(triggers) == [2]
    assert set(await published(owner, tenant)) == {first.trigger_id, other.trigger_id}


async def test_the_oldest_are_published_first_in_bounded_lots(
    triggers: Triggers, database: Database, owner: asyncpg.Connection, tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "CALENDAR_EVENTS_MAX", 4)
    ids = seeded_ids(3)
    customer_id = ids()
    due = [trigger(ids, START - number * TICK, customer_id=customer_id) for number in range(10)]
    await schedule(database, tenant.tenant_id, due)
    assert await publish_all(triggers) == [4, 4, 2]
    assert await published(owner, tenant) == [one.trigger_id for one in reversed(due)]


async def test_rules_look_at_the_event_of_a_trigger_as_at_any_action(
    database: Database, topology: Topology, assessing: None, owner: asyncpg.Connection, tenant: Tenant,
    api: ApiClient, clock: Clock,
) -> None:  # fmt: skip
    ids = seeded_ids(4)
    due = [trigger(ids, START + timedelta(days=7)) for _ in range(3)]
    rule_id = await make_rule(api, "action", give(10), criteria=[in_name_space(FOLLOW_UP)])
    await make_rule(api, "action", give(1), criteria=[in_name_space("Customer.Other")])
    await schedule(database, tenant.tenant_id, due)
    stop = asyncio.Event()
    replicas = [Triggers(database, topology, now=clock, new_id=new_id, committed=asyncio.Event()) for _ in range(2)]
    running = [asyncio.create_task(replica.run(stop)) for replica in replicas]
    clock.advance(days=7)

    async def are_given() -> bool:
        return await balances_of(owner, tenant.tenant_id) == {one.customer_id: 10 for one in due}

    await until(are_given)
    stop.set()
    await asyncio.gather(*running)
    assert await ledger_of(owner, tenant.tenant_id) == Counter(
        (one.customer_id, one.trigger_id, rule_id, 10) for one in due
    )


# --- once, whatever happens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replica_count", [1, 3])
async def test_replicas_share_many_triggers_of_one_instant_in_bounded_lots(
    database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, replica_count: int
) -> None:
    ids = seeded_ids(5)
    due = [trigger(ids) for _ in range(6_000)]
    await schedule(database, tenant.tenant_id, due)
    replicas = [
        Triggers(database, topology, now=clock, new_id=new_id, committed=asyncio.Event()) for _ in range(replica_count)
    ]
    shares = await asyncio.gather(*map(publish_all, replicas))
    assert sum(map(sum, shares)) == len(due)
    assert max(map(max, shares)) <= limits.CALENDAR_EVENTS_MAX
    assert Counter(await published(owner, tenant)) == Counter(one.trigger_id for one in due)
    assert await count(owner, "triggers") == 0


async def test_a_lot_that_fails_leaves_nothing_and_is_done_again(
    triggers: Triggers, database: Database, owner: asyncpg.Connection, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = trigger(seeded_ids(6))
    await schedule(database, tenant.tenant_id, [waiting])
    put = outbox.put

    async def put_and_fail(connection: Connection, *arguments: Any) -> None:
        await put(connection, *arguments)
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "put", put_and_fail)
        with pytest.raises(Exception, match="ConnectionResetError"):
            await triggers.publish_due(asyncio.Event())
    assert await messages_in_outbox(owner) == []
    assert await count(owner, "triggers") == 1
    assert await publish_all(triggers) == [1]
    assert await published(owner, tenant) == [waiting.trigger_id]


async def test_what_was_committed_and_not_relayed_is_relayed_by_another_and_counts_once(
    triggers: Triggers, database: Database, broker: Broker, assessor: Assessor, owner: asyncpg.Connection,
    tenant: Tenant, api: ApiClient, clock: Clock,
) -> None:  # fmt: skip
    ids = seeded_ids(7)
    due = [trigger(ids) for _ in range(20)]
    await make_rule(api, "action", give(10))
    await schedule(database, tenant.tenant_id, due)
    assert await publish_all(triggers) == [20]
    # The process that committed it has published it, and died before it could delete it.
    sent = await events_in_outbox(owner, tenant.tenant_id)
    await publish(broker, tenant.tenant_id, sent)

    async def is_relayed_and_assessed() -> bool:
        return not await messages_in_outbox(owner) and len(await ledger_of(owner, tenant.tenant_id)) == 20

    async with working(database, broker, assessor, clock):
        await until(is_relayed_and_assessed)
    await assessor.assess(tenant.tenant_id, sent)  # once more
    assert await balances_of(owner, tenant.tenant_id) == {one.customer_id: 10 for one in due}


async def test_a_trigger_that_another_holds_is_passed_over(
    triggers: Triggers, database: Database, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    ids = seeded_ids(8)
    held, free = trigger(ids), trigger(ids)
    await schedule(database, tenant.tenant_id, [held, free])
    async with owner.transaction():
        await owner.execute("SELECT FROM triggers WHERE trigger_id = $1 FOR UPDATE", held.trigger_id)
        assert await publish_all(triggers) == [1]
    assert await publish_all(triggers) == [1]
    assert await published(owner, tenant) == [free.trigger_id, held.trigger_id]


async def test_a_round_is_left_when_it_is_to_stop_and_the_lot_under_way_is_finished(
    database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant,
    clock: Clock,
) -> None:  # fmt: skip
    ids = seeded_ids(9)
    for one in (tenant, other_tenant):
        await schedule(database, one.tenant_id, [trigger(ids) for _ in range(3)])
    stop = asyncio.Event()

    def stopping() -> UUID:
        stop.set()  # in the middle of the first tenant's lot
        return new_id()

    triggers = Triggers(database, topology, now=clock, new_id=stopping, committed=asyncio.Event())
    await asyncio.wait_for(triggers.run(stop), PATIENCE_SECONDS)
    (first, *_) = messages = await messages_in_outbox(owner)
    assert {message.tenant_id for message in messages} == {first.tenant_id}
    assert sum(len(message.events) for message in messages) == 3
    assert await count(owner, "triggers", first.tenant_id) == 0
    assert await count(owner, "triggers") == 3


async def test_no_backlog_holds_up_another_tenant_and_each_has_its_own_events(
    triggers: Triggers, database: Database, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "CALENDAR_EVENTS_MAX", 10)
    ids = seeded_ids(10)
    many, few = [trigger(ids) for _ in range(25)], [trigger(ids) for _ in range(3)]
    await schedule(database, tenant.tenant_id, many)
    await schedule(database, other_tenant.tenant_id, few)
    assert await triggers.publish_due(asyncio.Event()) == 10 + 3
    assert set(await published(owner, other_tenant)) == {one.trigger_id for one in few}
    assert await publish_all(triggers) == [10, 5]
    assert set(await published(owner, tenant)) == {one.trigger_id for one in many}


# --- from a rule on ---------------------------------------------------------------------------------------------------


def make(name_space: str, count: int, unit: str) -> dict[str, Any]:
    """A fulfilment: a trigger."""
    return {"type": "trigger", "after": {"count": count, "unit": unit}, "nameSpace": name_space}


async def test_a_rule_makes_a_trigger_once_which_comes_relative_to_when_the_event_happened(
    assessor: Assessor, triggers: Triggers, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock
) -> None:
    ids = seeded_ids(11)
    rule_id = await make_rule(api, "order", give(1), make(FOLLOW_UP, 7, "days"), make("Customer.Year", 1, "years"))
    happened_at = START - timedelta(days=1)
    bought = order(ids(), ids(), "10", happened_at)
    for _ in range(2):
        await assessor.assess(tenant.tenant_id, [bought, bought])
    assert await count(owner, "triggers") == 2
    clock.now = happened_at + timedelta(days=7) - TICK
    assert await publish_all(triggers) == []
    clock.now += TICK
    assert await publish_all(triggers) == [1]
    (event,) = await events_in_outbox(owner, tenant.tenant_id)
    assert event.event_id == trigger_id_of(bought.event_id, rule_id, 1)
    assert (event.customer_id, event.name_space, event.created_at) == (bought.customer_id, FOLLOW_UP, clock.now)
    await assessor.assess(tenant.tenant_id, [bought, event, event])
    (left,) = await owner.fetch("SELECT name_space, depth FROM triggers")
    assert tuple(left) == ("Customer.Year", 1)


async def test_rules_that_trigger_each_other_come_to_an_end(
    assessor: Assessor, triggers: Triggers, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient,
    clock: Clock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "TRIGGER_DEPTH_MAX", 5)
    ids = seeded_ids(12)
    await make_rule(api, "action", give(1), make("Ping", 1, "minutes"))
    await assessor.assess(tenant.tenant_id, [action(ids(), ids())])
    for _ in range(5):
        clock.advance(minutes=1)
        assert await publish_all(triggers) == [1]
        await assessor.assess(tenant.tenant_id, (await events_in_outbox(owner, tenant.tenant_id))[-1:])
    assert await count(owner, "triggers") == 0
    assert list((await balances_of(owner, tenant.tenant_id)).values()) == [6]


async def test_a_batch_that_fails_makes_no_trigger(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient
) -> None:
    ids = seeded_ids(13)
    await make_rule(api, "action", make(FOLLOW_UP, 1, "days"))
    customer_id = ids()
    too_much = [points(ids(), customer_id, limits.POINTS_MAX) for _ in range(2)]
    with pytest.raises(BalanceOutOfRange):
        await assessor.assess(tenant.tenant_id, [action(ids(), customer_id), *too_much])
    assert await count(owner, "triggers") == 0
