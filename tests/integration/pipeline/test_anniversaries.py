"""Anniversaries become events: each customer's, each year, once, in bounded lots, whatever happens in between."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits, outbox
from tallymarks.broker import Broker, Topology
from tallymarks.database import Connection, Database
from tallymarks.events import AnniversaryEvent
from tallymarks.messages import read_events
from tallymarks.segments import anniversary
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tallymarks_calendar.anniversaries import NAME_SPACE, Anniversaries, anniversary_id_of
from tests.integration.pipeline.parts import (
    action,
    balances_of,
    events_in_outbox,
    give,
    join,
    ledger_of,
    make_rule,
    messages_in_outbox,
    publish,
    seeded_ids,
    working,
)
from tests.parts import PATIENCE_SECONDS, START, ApiClient, Clock, Tenant, until

TICK = timedelta(milliseconds=1)
LEAP_DAY = datetime(2024, 2, 29, 12, 30, 0, 1000, tzinfo=UTC)


async def next_of(owner: asyncpg.Connection) -> dict[UUID, datetime]:
    """Customer → next anniversary."""
    rows = await owner.fetch("SELECT customer_id, next_anniversary_at FROM customers")
    return {row["customer_id"]: row["next_anniversary_at"] for row in rows}


async def published(owner: asyncpg.Connection, tenant: Tenant) -> list[tuple[UUID, int, datetime | None]]:
    """Customer, years and createdAt of the anniversaries that wait to be relayed, in the order of publishing."""
    events = await events_in_outbox(owner, tenant.tenant_id)
    return [(one.customer_id, one.anniversary.years, one.created_at) for one in of_anniversaries(events)]


def of_anniversaries(events: Any) -> list[AnniversaryEvent]:
    assert all(isinstance(event, AnniversaryEvent) for event in events)
    return list(events)


async def publish_all(anniversaries: Anniversaries) -> list[int]:
    """Go round until nothing is due; gives what each round published."""
    numbers = []
    while number := await anniversaries.publish_due(asyncio.Event()):
        numbers.append(number)
    return numbers


# --- when, and what ---------------------------------------------------------------------------------------------------


async def test_every_new_customer_has_the_first_anniversary_ahead(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock
) -> None:
    ids = seeded_ids(1)
    by_event, by_call = ids(), ids()
    clock.now = LEAP_DAY
    # A backdated event makes its customer now.
    await assessor.assess(tenant.tenant_id, [action(ids(), by_event, at=LEAP_DAY - timedelta(days=900))])
    assert (await api.post("/api/v1/customers", {"customerId": str(by_call)})).status == 200
    expected = datetime(2025, 2, 28, 12, 30, 0, 1000, tzinfo=UTC)
    assert await next_of(owner) == {by_event: expected, by_call: expected}


async def test_an_anniversary_is_published_from_its_instant_on_and_once(
    anniversaries: Anniversaries, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    customer_id = new_id()
    await join(database, tenant.tenant_id, [customer_id], START)
    first, second = anniversary(START, 1), anniversary(START, 2)
    clock.now = first - TICK
    assert await publish_all(anniversaries) == []
    clock.now = first
    assert await publish_all(anniversaries) == [1]
    (event,) = of_anniversaries(await events_in_outbox(owner, tenant.tenant_id))
    assert event.event_id == anniversary_id_of(tenant.tenant_id, customer_id, 1)
    assert (event.customer_id, event.created_at, event.anniversary.years) == (customer_id, first, 1)
    assert event.name_space == NAME_SPACE
    assert await next_of(owner) == {customer_id: second}
    clock.now = second - TICK
    assert await publish_all(anniversaries) == []


async def test_who_joined_on_a_leap_day_has_it_on_28_february_and_on_the_leap_day_when_there_is_one(
    anniversaries: Anniversaries, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    customer_id = new_id()
    await join(database, tenant.tenant_id, [customer_id], LEAP_DAY)
    expected = [LEAP_DAY.replace(year=2024 + years, day=29 if years == 4 else 28) for years in range(1, 6)]
    for at in expected:
        clock.now = at - TICK
        assert await publish_all(anniversaries) == []
        clock.now = at
        assert await publish_all(anniversaries) == [1]
    assert await published(owner, tenant) == [(customer_id, years, at) for years, at in enumerate(expected, 1)]


async def test_missed_years_are_made_up_for_in_their_order_and_in_bounded_lots(
    anniversaries: Anniversaries, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "CALENDAR_EVENTS_MAX", 4)
    joined = {new_id(): START + timedelta(days=number) for number in range(6)}
    for customer_id, at in joined.items():
        await join(database, tenant.tenant_id, [customer_id], at)
    clock.now = anniversary(START, 3) + timedelta(days=10)
    lots = await publish_all(anniversaries)
    assert sum(lots) == 3 * len(joined)
    assert max(lots) == 4
    events = await published(owner, tenant)
    for customer_id, at in joined.items():
        of_one = [(years, created_at) for whose, years, created_at in events if whose == customer_id]
        assert of_one == [(years, anniversary(at, years)) for years in (1, 2, 3)]
    assert await next_of(owner) == {customer_id: anniversary(at, 4) for customer_id, at in joined.items()}


async def test_rules_give_points_for_anniversaries_each_year_once(
    database: Database, topology: Topology, assessing: None, owner: asyncpg.Connection, tenant: Tenant,
    api: ApiClient, clock: Clock,
) -> None:  # fmt: skip
    customer_ids = [new_id() for _ in range(3)]
    rule_id = await make_rule(api, "anniversary", give(10))
    await join(database, tenant.tenant_id, customer_ids, START)
    stop = asyncio.Event()
    replicas = [
        Anniversaries(database, topology, now=clock, new_id=new_id, committed=asyncio.Event()) for _ in range(2)
    ]
    running = [asyncio.create_task(replica.run(stop)) for replica in replicas]
    for years in (1, 2):
        clock.now = anniversary(START, years)
        expected = dict.fromkeys(customer_ids, 10 * years)

        async def are_given(expected: dict[UUID, int] = expected) -> bool:
            return await balances_of(owner, tenant.tenant_id) == expected

        await until(are_given)
    stop.set()
    await asyncio.gather(*running)
    assert await ledger_of(owner, tenant.tenant_id) == Counter(
        (customer_id, anniversary_id_of(tenant.tenant_id, customer_id, years), rule_id, 10)
        for customer_id in customer_ids
        for years in (1, 2)
    )


# --- once, whatever happens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replica_count", [1, 3])
async def test_replicas_share_one_day_of_many_customers_in_bounded_lots(
    database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, replica_count: int
) -> None:
    customer_ids = [new_id() for _ in range(6_000)]
    await join(database, tenant.tenant_id, customer_ids, START)
    clock.now = anniversary(START, 1)
    replicas = [
        Anniversaries(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())
        for _ in range(replica_count)
    ]
    shares = await asyncio.gather(*map(publish_all, replicas))
    assert sum(map(sum, shares)) == len(customer_ids)
    assert max(map(max, shares)) <= limits.CALENDAR_EVENTS_MAX
    events = await published(owner, tenant)
    assert Counter(customer_id for customer_id, _, _ in events) == Counter(customer_ids)
    assert set((await next_of(owner)).values()) == {anniversary(START, 2)}
    # xmin is the transaction that wrote a row.
    lots = await owner.fetch("SELECT count(*) FROM customers GROUP BY xmin")
    assert max(lot["count"] for lot in lots) <= limits.CALENDAR_EVENTS_MAX


async def test_a_lot_that_fails_leaves_nothing_and_is_done_again(
    anniversaries: Anniversaries, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    customer_id = new_id()
    await join(database, tenant.tenant_id, [customer_id], START)
    clock.now = anniversary(START, 1)
    put = outbox.put

    async def put_and_fail(connection: Connection, *arguments: Any) -> None:
        await put(connection, *arguments)
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "put", put_and_fail)
        with pytest.raises(Exception, match="ConnectionResetError"):
            await anniversaries.publish_due(asyncio.Event())
    assert await messages_in_outbox(owner) == []
    assert await next_of(owner) == {customer_id: clock.now}
    assert await publish_all(anniversaries) == [1]
    assert await published(owner, tenant) == [(customer_id, 1, clock.now)]


async def test_what_was_committed_and_not_relayed_is_relayed_by_another_and_counts_once(
    anniversaries: Anniversaries, database: Database, broker: Broker, assessor: Assessor, owner: asyncpg.Connection,
    tenant: Tenant, api: ApiClient, clock: Clock,
) -> None:  # fmt: skip
    customer_ids = [new_id() for _ in range(20)]
    await make_rule(api, "anniversary", give(10))
    await join(database, tenant.tenant_id, customer_ids, START)
    clock.now = anniversary(START, 1)
    assert await publish_all(anniversaries) == [20]
    # The process that committed it has published it, and died before it could delete it.
    sent = await events_in_outbox(owner, tenant.tenant_id)
    await publish(broker, tenant.tenant_id, sent)

    async def is_relayed_and_assessed() -> bool:
        return not await messages_in_outbox(owner) and len(await ledger_of(owner, tenant.tenant_id)) == 20

    async with working(database, broker, assessor, clock):
        await until(is_relayed_and_assessed)
    await assessor.assess(tenant.tenant_id, sent)  # once more
    assert await balances_of(owner, tenant.tenant_id) == dict.fromkeys(customer_ids, 10)


async def test_a_customer_who_is_being_changed_is_passed_over_and_has_it_later(
    anniversaries: Anniversaries, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    held, free = new_id(), new_id()
    await join(database, tenant.tenant_id, sorted([held, free]), START)
    clock.now = anniversary(START, 1)
    async with owner.transaction():
        await owner.execute("SELECT FROM customers WHERE customer_id = $1 FOR NO KEY UPDATE", held)
        assert await publish_all(anniversaries) == [1]
    assert await publish_all(anniversaries) == [1]
    assert [customer_id for customer_id, _, _ in await published(owner, tenant)] == [free, held]


async def test_an_account_whose_points_are_being_moved_does_not_hold_up_its_anniversary(
    anniversaries: Anniversaries, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    customer_id = new_id()
    await join(database, tenant.tenant_id, [customer_id], START)
    clock.now = anniversary(START, 1)
    async with owner.transaction():
        await owner.execute("SELECT FROM accounts FOR UPDATE")
        await owner.execute("SELECT FROM customers FOR KEY SHARE")
        assert await publish_all(anniversaries) == [1]


async def test_a_round_is_left_when_it_is_to_stop_and_the_lot_under_way_is_finished(
    database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant,
    clock: Clock,
) -> None:  # fmt: skip
    for one in (tenant, other_tenant):
        await join(database, one.tenant_id, [new_id() for _ in range(3)], START)
    clock.now = anniversary(START, 1)
    stop = asyncio.Event()

    def stopping() -> UUID:
        stop.set()  # in the middle of the first tenant's lot
        return new_id()

    anniversaries = Anniversaries(database, topology, now=clock, new_id=stopping, committed=asyncio.Event())
    await asyncio.wait_for(anniversaries.run(stop), PATIENCE_SECONDS)
    (first, *_) = messages = await messages_in_outbox(owner)
    assert {message.tenant_id for message in messages} == {first.tenant_id}
    assert sum(len(message.events) for message in messages) == 3
    assert Counter((await next_of(owner)).values()) == {anniversary(START, 1): 3, anniversary(START, 2): 3}


# --- tenants ----------------------------------------------------------------------------------------------------------


async def test_no_backlog_holds_up_another_tenant_and_each_has_its_own_events(
    anniversaries: Anniversaries, database: Database, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant,
    clock: Clock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "CALENDAR_EVENTS_MAX", 10)
    ids = seeded_ids(2)
    many, few = sorted(ids() for _ in range(25)), sorted(ids() for _ in range(3))
    # The same customers' ids may be in use in both.
    many[:3] = few
    await join(database, tenant.tenant_id, many, START)
    await join(database, other_tenant.tenant_id, few, START)
    clock.now = anniversary(START, 1)
    assert await anniversaries.publish_due(asyncio.Event()) == 10 + 3
    assert sorted(customer_id for customer_id, _, _ in await published(owner, other_tenant)) == few
    assert await publish_all(anniversaries) == [10, 5]
    assert sorted(customer_id for customer_id, _, _ in await published(owner, tenant)) == sorted(many)
    rows = await owner.fetch("SELECT body FROM outbox")
    event_ids = [event.event_id for row in rows for event in read_events(row["body"]).events]
    assert len(set(event_ids)) == len(event_ids) == 28
