"""Each points transaction is a points event: recorded and assessed with the event that it follows from, or neither."""

from uuid import UUID

import asyncpg
import orjson
import pytest

from tallymarks.broker import Broker
from tallymarks.errors import TooManyEffects
from tallymarks.rules.assessment import points_event_id
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.parts import (
    action,
    balances_of,
    count,
    give,
    in_name_space,
    ledger_of,
    make_rule,
    messages_ready,
    order,
    per_unit,
    points,
    publish,
    seeded_ids,
    waiting_letters,
)
from tests.parts import START, ApiClient, Clock, Tenant, until

SEARCH = "/api/v1/customers/events"


async def points_events(api: ApiClient) -> set[str]:
    """The ids of the events that a search for points events finds."""
    answered = await api.get(SEARCH, eventType="points", limit=100)
    assert answered.status == 200
    return {event["eventId"] for event in answered.body["events"]}


async def sources(owner: asyncpg.Connection) -> dict[UUID, UUID | None]:
    """Points event → the event that it followed from."""
    rows = await owner.fetch("SELECT event_id, body FROM events WHERE event_type = 'points'")
    bodies = {row["event_id"]: orjson.loads(row["body"]) for row in rows}
    return {one: UUID(body["sourceEventId"]) if "sourceEventId" in body else None for one, body in bodies.items()}


async def test_each_transaction_is_one_and_can_be_searched(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    rule_id = await make_rule(api, "order", per_unit("1"), give(-2))
    ids = seeded_ids(1)
    bought, by_hand = order(ids(), ids(), "10"), points(ids(), ids(), 5)
    await assessor.assess(tenant.tenant_id, [bought, by_hand, order(ids(), ids(), "0.5")])
    followed = [points_event_id(bought.event_id, rule_id, place) for place in (0, 1)]
    assert {str(one) for one in followed} <= await points_events(api)
    made_by = await sources(owner)
    assert [made_by[one] for one in followed] == [bought.event_id] * 2
    assert made_by[by_hand.event_id] is None
    # As many as transactions, of which one is by hand.
    assert len(made_by) == await count(owner, "transactions", tenant.tenant_id)
    (row,) = await owner.fetch("SELECT * FROM events WHERE event_id = $1", followed[0])
    assert (row["customer_id"], row["created_at"], row["assessed_at"]) == (bought.customer_id, START, START)


@pytest.mark.usefixtures("assessing")
async def test_so_is_a_redemptions(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(2)
    customer_id, event_id = ids(), ids()
    spent = {"type": "pointsQuantity", "operator": "lessThan", "value": 0}
    rule_id = await make_rule(api, "points", give(1), criteria=[spent])
    await assessor.assess(tenant.tenant_id, [points(ids(), customer_id, 100)])
    body = {"eventId": str(event_id), "customerId": str(customer_id), "redemption": {"points": 40}}
    assert (await api.post("/api/v1/events/redemptions", body)).status == 200
    debit = points_event_id(event_id, None, 0)

    async def is_recorded() -> bool:
        return str(debit) in await points_events(api)

    await until(is_recorded)
    assert (await sources(owner))[debit] == event_id
    ledger = await ledger_of(owner, tenant.tenant_id)
    assert ledger[customer_id, debit, rule_id, 1] == 1
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 61}


async def test_points_rules_look_at_it_in_the_same_transaction(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_rule(api, "action", give(10), criteria=[in_name_space("A")])
    bonus = await make_rule(api, "points", give(3), criteria=[in_name_space("A")])
    ids = seeded_ids(3)
    events = [action(ids(), ids(), "A")]

    def fail(*_: object, **__: object) -> None:
        raise ValueError("after all that was written")

    with monkeypatch.context() as patched:
        patched.setattr("tallymarks_assessor.assess.triggers.write", fail)
        with pytest.raises(ValueError, match="after all that was written"):
            await assessor.assess(tenant.tenant_id, events)
    assert [await count(owner, table) for table in ("events", "transactions", "assessments")] == [0, 0, 0]
    await assessor.assess(tenant.tenant_id, events)
    # The bonus is a points event of the nameSpace too, and gives a bonus, three deep.
    ledger = await ledger_of(owner, tenant.tenant_id)
    assert sorted((row[3], row[2] == bonus) for row in ledger) == [(3, True), (3, True), (3, True), (10, False)]


async def test_rules_that_feed_themselves_end_at_the_third_and_what_is_deeper_is_recorded(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    rule_id = await make_rule(api, "points", give(1))
    ids = seeded_ids(4)
    event = points(ids(), ids(), 100)
    await assessor.assess(tenant.tenant_id, [event])
    chain = [event.event_id]
    for _ in range(4):
        chain.append(points_event_id(chain[-1], rule_id, 0))
    assert set(await sources(owner)) == set(chain)
    assert await balances_of(owner, tenant.tenant_id) == {event.customer_id: 104}
    rows = await owner.fetch("SELECT event_id, explanation FROM assessments")
    kept = {row["event_id"]: orjson.loads(row["explanation"]) for row in rows}
    assert [(kept[one]["depth"], kept[one]["assessed"]) for one in chain] == [
        *((depth, True) for depth in range(4)),
        (4, False),
    ]
    (account,) = await owner.fetch("SELECT points_count, points_value, points_earned FROM accounts")
    assert tuple(account) == (5, 104, 104)


@pytest.mark.usefixtures("assessing")
async def test_an_event_with_effects_without_end_is_put_aside_and_its_neighbours_count(
    api: ApiClient, broker: Broker, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    await make_rule(api, "action", *[give(1)] * 20, criteria=[in_name_space("Many")])
    await make_rule(api, "points", *[give(1)] * 20, criteria=[in_name_space("Many")])
    ids = seeded_ids(5)
    customer_id = ids()
    poison = action(ids(), customer_id, "Many")
    await publish(broker, tenant.tenant_id, [points(ids(), customer_id, 1), poison, points(ids(), customer_id, 1)])

    async def is_put_aside() -> bool:
        return await messages_ready(broker, broker.topology.dead_letters) == 1

    await until(is_put_aside)
    (letter,) = await waiting_letters(broker)
    assert (letter["eventId"], letter["reasonCode"]) == (str(poison.event_id), TooManyEffects.code)

    async def neighbours_count() -> bool:
        return await balances_of(owner, tenant.tenant_id) == {customer_id: 2}

    await until(neighbours_count)
    # Nothing of it is left but the error that tells of it.
    types = await owner.fetch("SELECT event_type FROM events WHERE tenant_id = $1", tenant.tenant_id)
    assert sorted(row["event_type"] for row in types) == ["error", "points", "points"]


@pytest.mark.parametrize("taken_first", [True, False])
async def test_an_event_of_a_caller_that_takes_its_id_keeps_nobody_from_being_assessed(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, taken_first: bool
) -> None:
    """Which only somebody does who knows how it is derived: the points count, and one event has the id."""
    rule_id = await make_rule(api, "order", give(5))
    ids = seeded_ids(6)
    bought = order(ids(), ids(), "1")
    taking = action(points_event_id(bought.event_id, rule_id, 0), bought.customer_id)
    for event in (taking, bought) if taken_first else (bought, taking):
        await assessor.assess(tenant.tenant_id, [event])
    assert await balances_of(owner, tenant.tenant_id) == {bought.customer_id: 5}
    (row,) = await owner.fetch("SELECT event_type FROM events WHERE event_id = $1", taking.event_id)
    assert row["event_type"] == ("action" if taken_first else "points")


async def test_of_a_callers_event_and_a_points_event_with_its_id_in_one_batch_the_callers_stays(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    rule_id = await make_rule(api, "order", give(5))
    ids = seeded_ids(7)
    orders = [order(ids(), ids(), "1") for _ in range(50)]
    taking = [action(points_event_id(bought.event_id, rule_id, 0), bought.customer_id) for bought in orders]
    assessed = await assessor.assess(tenant.tenant_id, [*orders, *taking])
    assert (assessed.events, assessed.duplicates) == (100, 0)
    rows = await owner.fetch(
        "SELECT DISTINCT event_type FROM events WHERE event_id = ANY($1)", [event.event_id for event in taking]
    )
    assert [row["event_type"] for row in rows] == ["action"]
