"""Simulations go forward lot by lot, each once, whatever happens in between; and history is only read."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from tallymarks import limits
from tallymarks.database import UNAVAILABLE_ERRORS, Connection, Database
from tallymarks.events import AnyEvent
from tallymarks_assessor.assess import Assessor
from tallymarks_calendar import replay
from tallymarks_calendar.simulations import FAULT, TOOK_TOO_LONG, Simulations
from tests.integration.pipeline.parts import (
    RULES,
    action,
    add_to,
    count,
    end_sessions,
    give,
    in_name_space,
    make_rule,
    make_segment,
    order,
    points,
    seeded_ids,
)
from tests.parts import START, ApiClient, Clock, Tenant, credentials, until

Json = dict[str, Any]

SIMULATIONS = "/api/v1/admin/simulations"
DAY = timedelta(days=1)
EVENTS = 12


def a_rule(event_type: str = "action", *fulfilments: Json, **fields: Any) -> Json:
    return {"name": "Tried", "eventType": event_type, "fulfilments": fulfilments or [give(2)], **fields}


async def ask(api: ApiClient, clock: Clock, rule: Json, **fields: Any) -> str:
    """Ask for a simulation of all until now; gives its id."""
    body = {"rule": rule, "fromAt": START.isoformat(), "toAt": clock().isoformat(), **fields}
    answered = await api.post(f"{RULES}/simulate", body)
    assert answered.status == 200, answered.body
    assert answered.body["status"] == "waiting"
    simulation_id: str = answered.body["simulationId"]
    return simulation_id


async def told(api: ApiClient, simulation_id: str) -> Json:
    answered = await api.get(f"{SIMULATIONS}/{simulation_id}")
    assert answered.status == 200, answered.body
    found: Json = answered.body
    return found


async def go_on(simulations: Simulations, lots_max: int = 10_000) -> int:
    """Go on until nothing is left to do, or for so many lots; gives the number of lots."""
    lots = 0
    while lots < lots_max and await simulations.go_on(asyncio.Event()):
        lots += 1
    return lots


def results(matches: int, customers: int, points_given: int, limited: int = 0, unassessable: int = 0) -> Json:
    return {
        "matches": matches, "limited": limited, "customers": customers, "points": points_given,
        "unassessable": unassessable,
    }  # fmt: skip


def visits(seed: int = 1, number: int = EVENTS) -> list[AnyEvent]:
    """Actions of three customers in turn, eight hours apart."""
    ids = seeded_ids(seed)
    customer_ids = [ids() for _ in range(3)]
    return [action(ids(), customer_ids[one % 3], "Visit", START + timedelta(hours=8 * one)) for one in range(number)]


@pytest.fixture
async def visited(assessor: Assessor, tenant: Tenant, clock: Clock) -> Sequence[AnyEvent]:
    """A history of four days."""
    events = visits()
    await assessor.assess(tenant.tenant_id, events)
    clock.advance(days=30)
    return events


@pytest.fixture
def simulations(database: Database, clock: Clock) -> Simulations:
    """The simulations of a replica, in lots of two events, not running by themselves."""
    return Simulations(database, now=clock, events_max=2)


# --- how it goes forward ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("visited")
async def test_a_simulation_tells_how_far_it_is_and_what_it_has_found_until_then(
    simulations: Simulations, api: ApiClient, owner: asyncpg.Connection, clock: Clock
) -> None:
    simulation_id = await ask(api, clock, a_rule(limits={"perCustomer": 2}), toAt=(START + 4 * DAY).isoformat())
    waiting = await told(api, simulation_id)
    assert waiting["progress"] == {"events": 0, "lastCreatedAt": None, "fraction": 0}
    assert (waiting["results"], waiting["days"], waiting["startedAt"]) == (results(0, 0, 0), [], None)
    assert await go_on(simulations, 2) == 2
    running = await told(api, simulation_id)
    assert (running["status"], running["finishedAt"]) == ("running", None)
    assert running["progress"] == {"events": 4, "lastCreatedAt": "2026-03-15T09:26:53.589Z", "fraction": 0.25}
    assert running["results"] == results(4, 3, 8)
    await go_on(simulations)
    done = await told(api, simulation_id)
    assert (done["status"], done["progress"]["events"], done["progress"]["fraction"]) == ("done", EVENTS, 1)
    assert done["results"] == results(EVENTS, 3, 12, limited=6)
    assert done["days"] == [
        {"day": "2026-03-14", "matches": 2, "limited": 0, "customers": 2, "points": 4},
        {"day": "2026-03-15", "matches": 3, "limited": 0, "customers": 3, "points": 6},
        {"day": "2026-03-16", "matches": 3, "limited": 2, "customers": 3, "points": 2},
        {"day": "2026-03-17", "matches": 3, "limited": 3, "customers": 3, "points": 0},
        {"day": "2026-03-18", "matches": 1, "limited": 1, "customers": 1, "points": 0},
    ]
    assert await count(owner, "simulation_customers") == 0


@pytest.mark.usefixtures("visited")
@pytest.mark.parametrize(
    ("rule", "first", "end"),
    [
        (a_rule(criteria=[in_name_space("Elsewhere")]), START, START + 5 * DAY),
        (a_rule(criteria=[{"type": "nthEvent", "n": 100}]), START, START + 5 * DAY),
        (a_rule("order"), START, START + 5 * DAY),
        (a_rule(toAt=START.isoformat()), START, START + 5 * DAY),
        (a_rule(), START + 5 * DAY, START + 6 * DAY),
        (a_rule(), START - 6 * DAY, START),
    ],
)
async def test_a_rule_that_never_matches_and_a_range_without_events_come_to_nothing(
    simulations: Simulations, api: ApiClient, owner: asyncpg.Connection, clock: Clock, rule: Json, first: datetime,
    end: datetime,
) -> None:  # fmt: skip
    simulation_id = await ask(api, clock, rule, fromAt=first.isoformat(), toAt=end.isoformat())
    await go_on(simulations)
    found = await told(api, simulation_id)
    assert (found["status"], found["results"], found["days"]) == ("done", results(0, 0, 0), [])
    assert await count(owner, "simulation_customers") == 0


@pytest.mark.usefixtures("visited")
async def test_a_range_begins_in_the_middle_of_what_customers_have_done(
    simulations: Simulations, api: ApiClient, clock: Clock
) -> None:
    rule = a_rule(criteria=[{"type": "nthEvent", "n": 3}])
    simulation_id = await ask(
        api, clock, rule, fromAt=(START + timedelta(hours=7 * 8)).isoformat(),
        toAt=(START + timedelta(hours=8 * 8)).isoformat(),
    )  # fmt: skip
    await go_on(simulations)
    found = await told(api, simulation_id)  # the first instant is in, the last is out
    assert (found["progress"]["events"], found["results"]) == (1, results(1, 1, 2))


async def test_events_of_other_types_are_passed_in_bounded_lots(
    simulations: Simulations, api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "SIMULATION_PASSED_MAX", 3)
    ids = seeded_ids(2)
    events: list[AnyEvent] = [action(ids(), ids(), at=START + timedelta(minutes=n)) for n in range(10)]
    events.append(order(ids(), ids(), "10", START + timedelta(minutes=10)))
    await assessor.assess(tenant.tenant_id, events)
    clock.advance(days=1)
    simulation_id = await ask(api, clock, a_rule("order"))
    assert await go_on(simulations) == 6  # four lots, the end, and what is cleared away
    assert (await told(api, simulation_id))["results"] == results(1, 1, 2)


@pytest.mark.usefixtures("visited")
async def test_a_lot_of_large_events_is_shorter(
    database: Database, api: ApiClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SIMULATION_BYTES_MAX", 1_000)
    simulation_id = await ask(api, clock, a_rule())
    lots = await go_on(Simulations(database, now=clock))
    assert 3 < lots < EVENTS
    assert (await told(api, simulation_id))["results"] == results(EVENTS, 3, 2 * EVENTS)


async def test_events_of_one_instant_are_looked_at_in_the_order_of_their_ids(
    simulations: Simulations, api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(3)
    customer_id = ids()
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id) for _ in range(7)])
    clock.advance(days=1)
    period = {"type": "countInPeriod", "count": 3, "period": {"count": 1, "unit": "days"}}
    found = [
        await ask(api, clock, a_rule(criteria=[criterion]))
        for criterion in ({"type": "everyNthEvent", "n": 2}, period, {"type": "nthEvent", "n": 7})
    ]
    await go_on(simulations)
    assert [(await told(api, one))["results"]["matches"] for one in found] == [3, 1, 1]


async def test_a_lapsed_membership_counts_until_it_lapsed(
    simulations: Simulations, api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock, sweeper: Any
) -> None:
    ids = seeded_ids(4)
    segment_id = await make_segment(api, "days", {"mode": "period", "count": 1, "unit": "days"})
    await make_rule(api, "action", add_to(segment_id), criteria=[in_name_space("Join")])
    customer_id = ids()
    for number, name_space in enumerate(["Visit", "Join", "Visit", "Visit"]):
        clock.now = START + number * timedelta(hours=13)
        await assessor.assess(tenant.tenant_id, [action(ids(), customer_id, name_space, clock())])
    clock.advance(days=1)
    assert await sweeper.sweep(asyncio.Event()) == 1
    member = {"type": "inSegment", "segmentId": str(segment_id)}
    inside = await ask(api, clock, a_rule(criteria=[in_name_space("Visit"), member]))
    outside = await ask(api, clock, a_rule(criteria=[{**member, "type": "notInSegment"}]))
    await go_on(simulations)
    assert [(await told(api, one))["results"]["matches"] for one in (inside, outside)] == [1, 3]


async def test_what_was_taken_back_counts_no_more_after_it(
    simulations: Simulations, api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(6)
    customer_id, first = ids(), ids()
    await make_rule(api, "order", give(10))
    await assessor.assess(tenant.tenant_id, [order(first, customer_id, "40", START)])
    for amount, hours in ((10, 24), (30, 48)):
        clock.now = START + timedelta(hours=hours)
        reversal = {
            "eventId": str(ids()), "customerId": str(customer_id), "reverses": str(first), "amount": amount,
            "createdAt": clock().isoformat(),
        }  # fmt: skip
        assert (await api.post("/api/v1/events/reversals", reversal)).status == 200
    visits_after = [action(ids(), customer_id, at=START + timedelta(hours=hours)) for hours in (12, 36, 60)]
    await assessor.assess(tenant.tenant_id, visits_after)
    clock.advance(days=30)
    # Before the reversals, between them (a quarter is back, and 2 of the 10 points), and after.
    for number, (orders, spend, earned) in enumerate([(1, 40, 10), (1, 30, 8), (0, 0, 0)]):
        seen = f"totals.counts.order == {orders} && totals.spend == {spend}.0 && totals.pointsEarned == {earned}"
        rule = a_rule(criteria=[{"type": "expression", "expression": seen}])
        simulation_id = await ask(api, clock, rule)
        await go_on(simulations)
        days = [one["day"] for one in (await told(api, simulation_id))["days"]]
        assert days == [f"2026-03-{14 + number}"], seen


# --- whatever happens -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("visited")
async def test_a_lot_that_breaks_off_leaves_nothing_and_is_done_again(
    simulations: Simulations, api: ApiClient, owner: asyncpg.Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation_id = await ask(api, clock, a_rule())
    await go_on(simulations, 2)
    before = await told(api, simulation_id)
    write = replay._write

    async def written_and_lost(connection: Connection, *rest: Any) -> None:
        await write(connection, *rest)
        assert await end_sessions(owner, in_transaction=True) == 1
        await connection.fetchval("SELECT 1")

    with monkeypatch.context() as patched:
        patched.setattr(replay, "_write", written_and_lost)
        with pytest.raises(UNAVAILABLE_ERRORS):
            await simulations.go_on(asyncio.Event())
    assert await told(api, simulation_id) == before
    await go_on(simulations)
    assert (await told(api, simulation_id))["results"] == results(EVENTS, 3, 2 * EVENTS)


@pytest.mark.usefixtures("visited")
async def test_another_replica_goes_on_where_one_has_stopped(
    simulations: Simulations, database: Database, api: ApiClient, clock: Clock
) -> None:
    rule = a_rule(criteria=[{"type": "everyNthEvent", "n": 2}], limits={"total": 5})
    simulation_id = await ask(api, clock, rule)
    await go_on(simulations, 3)
    assert await go_on(Simulations(database, now=clock, events_max=3)) == 4  # two lots, the end, and the clearing
    assert (await told(api, simulation_id))["results"] == results(6, 3, 10, limited=1)


@pytest.mark.usefixtures("visited")
async def test_replicas_that_race_look_at_each_event_once(database: Database, api: ApiClient, clock: Clock) -> None:
    asked = [await ask(api, clock, a_rule("action", give(number + 1))) for number in range(4)]
    replicas = [Simulations(database, now=clock, events_max=2) for _ in range(3)]
    stop = asyncio.Event()
    running = [asyncio.create_task(replica.run(stop)) for replica in replicas]

    async def are_done() -> bool:
        return {(await told(api, one))["status"] for one in asked} == {"done"}

    await until(are_done)
    stop.set()
    await asyncio.gather(*running)
    for number, one in enumerate(asked):
        found = await told(api, one)
        assert (found["progress"]["events"], found["results"]) == (EVENTS, results(EVENTS, 3, (number + 1) * EVENTS))


@pytest.mark.usefixtures("visited")
async def test_a_cancelled_simulation_stops_and_keeps_what_it_has_found(
    simulations: Simulations, api: ApiClient, owner: asyncpg.Connection, clock: Clock
) -> None:
    simulation_id, other = await ask(api, clock, a_rule()), await ask(api, clock, a_rule())
    await go_on(simulations, 2)
    cancelled = await api.delete(f"{SIMULATIONS}/{simulation_id}")
    assert (cancelled.status, cancelled.body["status"]) == (200, "cancelled")
    await go_on(simulations)
    found = await told(api, simulation_id)
    assert (found["status"], found["progress"]["events"], found["results"]) == ("cancelled", 4, results(4, 3, 8))
    assert (await told(api, other))["status"] == "done"
    assert await count(owner, "simulation_customers") == 0
    removed = await api.delete(f"{SIMULATIONS}/{simulation_id}")
    assert (removed.status, removed.body["status"]) == (200, "cancelled")
    for again in (await api.get(f"{SIMULATIONS}/{simulation_id}"), await api.delete(f"{SIMULATIONS}/{simulation_id}")):
        assert (again.status, again.body["code"]) == (404, "NotFound")
    await go_on(simulations)
    assert await owner.fetchval("SELECT array_agg(simulation_id) FROM simulations") == [UUID(other)]
    assert await owner.fetchval("SELECT array_agg(DISTINCT simulation_id) FROM simulation_days") == [UUID(other)]


@pytest.mark.usefixtures("visited")
async def test_a_cancellation_waits_for_the_lot_under_way_only(
    simulations: Simulations, api: ApiClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation_id = await ask(api, clock, a_rule())
    write, is_written, may_end = replay._write, asyncio.Event(), asyncio.Event()

    async def held(*arguments: Any) -> None:
        await write(*arguments)
        is_written.set()
        await may_end.wait()

    monkeypatch.setattr(replay, "_write", held)
    lot = asyncio.create_task(simulations.go_on(asyncio.Event()))
    await is_written.wait()
    cancelling = asyncio.create_task(api.delete(f"{SIMULATIONS}/{simulation_id}"))
    may_end.set()
    assert await lot == 1
    assert (await cancelling).body["status"] == "cancelled"
    await go_on(simulations)
    assert (await told(api, simulation_id))["progress"]["events"] == 2


@pytest.mark.usefixtures("visited")
async def test_what_is_cleared_away_is_bounded_too(
    simulations: Simulations, api: ApiClient, owner: asyncpg.Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SIMULATION_CLEARED_MAX", 2)
    simulation_id = await ask(api, clock, a_rule())
    while (await told(api, simulation_id))["status"] != "done":
        await go_on(simulations, 1)
    left = [await count(owner, "simulation_customers")]
    while await go_on(simulations, 1):
        left.append(await count(owner, "simulation_customers"))
    assert left == [3, 1, 0]


@pytest.mark.usefixtures("visited")
async def test_a_lot_that_takes_too_long_is_halved_until_it_does_not(
    database: Database, api: ApiClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    pasts = replay._pasts

    async def slow(connection: Connection, tenant_id: UUID, lookups: Sequence[Any], *rest: Any) -> Any:
        sizes.append(len(lookups))
        if len(lookups) > 2:
            raise asyncpg.QueryCanceledError
        return await pasts(connection, tenant_id, lookups, *rest)

    monkeypatch.setattr(replay, "_pasts", slow)
    simulation_id = await ask(api, clock, a_rule())
    await go_on(Simulations(database, now=clock, events_max=8))
    assert sizes[:4] == [8, 4, 2, 4]
    assert (await told(api, simulation_id))["results"] == results(EVENTS, 3, 2 * EVENTS)


@pytest.mark.usefixtures("visited")
@pytest.mark.parametrize(("error", "failure"), [(asyncpg.QueryCanceledError, TOOK_TOO_LONG), (KeyError, FAULT)])
async def test_one_that_cannot_go_on_fails_and_holds_up_no_other(
    simulations: Simulations, api: ApiClient, owner: asyncpg.Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch,
    error: type[Exception], failure: str,
) -> None:  # fmt: skip
    first = await ask(api, clock, a_rule())
    await go_on(simulations, 1)

    async def broken(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(replay, "_pasts", broken)
        while (await told(api, first))["status"] == "running":
            await go_on(simulations, 1)
    second = await ask(api, clock, a_rule())
    await go_on(simulations)
    found = await told(api, first)
    assert (found["status"], found["failure"], found["results"]) == ("failed", failure, results(2, 2, 4))
    assert (await told(api, second))["status"] == "done"
    assert await count(owner, "simulation_customers") == 0


async def test_events_that_would_have_been_put_aside_or_cannot_be_read_are_counted(
    simulations: Simulations, api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant,
    clock: Clock,
) -> None:  # fmt: skip
    ids = seeded_ids(5)
    rich, other = ids(), ids()
    events: list[AnyEvent] = [
        points(ids(), rich, limits.POINTS_MAX, START),
        action(ids(), rich, at=START + DAY),
        action(ids(), other, at=START + DAY),
        action(ids(), other, at=START + 2 * DAY),
    ]
    await assessor.assess(tenant.tenant_id, events)
    await owner.execute("UPDATE events SET body = body || '{\"surprise\": 1}' WHERE event_id = $1", events[-1].event_id)
    clock.advance(days=3)
    simulation_id = await ask(api, clock, a_rule())
    await go_on(simulations)
    assert (await told(api, simulation_id))["results"] == results(1, 1, 2, unassessable=2)


async def test_what_happens_in_one_tenant_is_nothing_to_another(
    simulations: Simulations, api: ApiClient, api_url: str, assessor: Assessor, tenant: Tenant, other_tenant: Tenant,
    clock: Clock,
) -> None:  # fmt: skip
    events = visits()
    await assessor.assess(tenant.tenant_id, events)
    await assessor.assess(other_tenant.tenant_id, events[:3])
    clock.advance(days=30)
    async with aiohttp.ClientSession() as session:
        other = ApiClient(session, api_url, credentials(other_tenant.admin))
        asked = [(one, await ask(one, clock, a_rule())) for one in (api, other)]
        await go_on(simulations)
        assert [(await told(one, simulation_id))["results"]["matches"] for one, simulation_id in asked] == [EVENTS, 3]
        for method in (other.get, other.delete):
            assert (await method(f"{SIMULATIONS}/{asked[0][1]}")).status == 404
        assert [row["simulationId"] for row in (await other.get(SIMULATIONS)).body["simulations"]] == [asked[1][1]]
    assert (await told(api, asked[0][1]))["status"] == "done"
