"""A rule that is simulated on history does what it did, or would have done: in lots of any size, and once."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from tallymarks.database import Database
from tallymarks.events import AnyEvent, RedemptionEvent, ReversalEvent, created_at_of
from tallymarks.messages import event_json
from tallymarks.rule_sets import rules_of_versions
from tallymarks.rules.explanation import expand, versions_named
from tallymarks_assessor.assess import Assessor
from tallymarks_calendar.simulations import Simulations
from tests.integration.pipeline.histories import (
    BY_ITSELF,
    BY_WHAT_RULES_DO,
    Json,
    history,
    make_setting,
    rule_of,
    with_reversals,
)
from tests.integration.pipeline.parts import RULES, seeded_ids
from tests.parts import START, ApiClient, Clock, Tenant, credentials
from tests.unit.criteria import TYPES

SIMULATIONS = "/api/v1/admin/simulations"
OWN_TABLES = {"simulations", "simulation_days", "simulation_customers"}

Days = dict[str, tuple[int, int, int, int]]
"""Day → matches, limited, customers, points."""


# --- what is asked of a simulation ------------------------------------------------------------------------------------


async def ask(api: ApiClient, clock: Clock, **fields: Any) -> str:
    """Ask for a simulation of the whole history; gives its id."""
    body = {"fromAt": START.isoformat(), "toAt": clock().isoformat(), **fields}
    answered = await api.post(f"{RULES}/simulate", body)
    assert answered.status == 200, answered.body
    simulation_id: str = answered.body["simulationId"]
    return simulation_id


async def told(api: ApiClient, simulation_id: str) -> Json:
    """What is answered of a simulation."""
    answered = await api.get(f"{SIMULATIONS}/{simulation_id}")
    assert answered.status == 200, answered.body
    found: Json = answered.body
    return found


async def finish(simulations: Simulations) -> int:
    """Go on until nothing is left to do; gives the number of lots."""
    lots = 0
    while await simulations.go_on(asyncio.Event()):
        lots += 1
    return lots


def days_of(simulation: Json) -> Days:
    """What was found on each day, which must add up to what was found in all."""
    days = {one["day"]: (one["matches"], one["limited"], one["customers"], one["points"]) for one in simulation["days"]}
    results = simulation["results"]
    for place, name in enumerate(("matches", "limited", None, "points")):
        assert name is None or sum(day[place] for day in days.values()) == results[name]
    return days


async def simulated(simulations: Simulations, api: ApiClient, clock: Clock, **fields: Any) -> tuple[Days, int]:
    """Simulate to the end; gives what was found by day, and the number of customers."""
    simulation_id = await ask(api, clock, **fields)
    await finish(simulations)
    found = await told(api, simulation_id)
    assert (found["status"], found["failure"], found["progress"]["fraction"]) == ("done", None, 1)
    assert found["results"]["unassessable"] == 0
    assert (await api.delete(f"{SIMULATIONS}/{simulation_id}")).status == 200
    return days_of(found), found["results"]["customers"]


# --- what the pipeline did --------------------------------------------------------------------------------------------


async def happen(
    assessor: Assessor, clock: Clock, apis: Mapping[UUID, ApiClient], events: Sequence[AnyEvent | ReversalEvent]
) -> None:
    """Let events happen, each at its instant, in several tenants; redemptions and reversals are decided by the api."""
    for event in events:
        clock.now = created_at_of(event)
        for tenant_id, api in apis.items():
            if isinstance(event, RedemptionEvent | ReversalEvent):
                body = event_json(event).decode().replace(f'"eventType":"{event.event_type}",', "").encode()
                answered = await api.call("POST", f"/api/v1/events/{event.event_type}s", raw=body)
                assert answered.status == 200, answered.body
            if isinstance(event, ReversalEvent):
                continue
            assert (await assessor.assess(tenant_id, [event])).events == 1
    clock.advance(days=1)


async def done_by(owner: asyncpg.Connection, database: Database, tenant: Tenant, rule_id: UUID) -> tuple[Days, int]:
    """What the explanations and the ledger say that a rule did, by day, and to how many customers."""
    rows = await owner.fetch(
        "SELECT event_id, customer_id, created_at, explanation FROM events JOIN assessments USING (tenant_id, event_id)"
        " WHERE tenant_id = $1",
        tenant.tenant_id,
    )
    named = {key for row in rows for key in versions_named(row["explanation"])}
    async with database.transaction(tenant.tenant_id) as connection:
        rules = await rules_of_versions(connection, tenant.tenant_id, named)
    days: defaultdict[str, list[Any]] = defaultdict(lambda: [0, 0, set(), 0])
    for row in rows:
        for explained in expand(row["event_id"], row["explanation"], rules).rules:
            if explained.rule_id == rule_id and explained.matched:
                day = days[_day(row["created_at"])]
                day[0] += 1
                day[1] += explained.limited_by is not None
                day[2].add(row["customer_id"])
    for row in await owner.fetch(
        "SELECT created_at, amount FROM transactions"
        " WHERE tenant_id = $1 AND assessment_rule_id = $2 AND event_type <> 'reversal'",
        tenant.tenant_id,
        rule_id,
    ):
        days[_day(row["created_at"])][3] += row["amount"]
    customers = {customer_id for day in days.values() for customer_id in day[2]}
    return {key: (day[0], day[1], len(day[2]), day[3]) for key, day in days.items()}, len(customers)


def _day(at: datetime) -> str:
    return at.date().isoformat()


async def rows_of_all_tables(owner: asyncpg.Connection) -> dict[str, list[str]]:
    """Every row there is, but for those of simulations."""
    tables = await owner.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    return {
        row["relname"]: [one[0] for one in await owner.fetch(f'SELECT t::text FROM "{row["relname"]}" t ORDER BY 1')]
        for row in tables
        if row["relname"] not in OWN_TABLES
    }


# --- agreement --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def apis(api_url: str, tenant: Tenant, other_tenant: Tenant) -> Any:
    """Clients of two tenants in which the same happens: in the first with the rules to simulate, in the other without.

    By the id of the tenant.
    """
    async with aiohttp.ClientSession() as session:
        yield {one.tenant_id: ApiClient(session, api_url, credentials(one.admin)) for one in (tenant, other_tenant)}


def test_every_criterion_is_simulated() -> None:
    assert set(BY_ITSELF) | set(BY_WHAT_RULES_DO) == TYPES


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.timeout(300)
async def test_rules_do_in_a_simulation_what_they_did_when_they_were_active(
    assessor: Assessor, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock,
    apis: dict[UUID, ApiClient], seed: int,
) -> None:  # fmt: skip
    random, ids = Random(seed), seeded_ids(seed + 1_000)
    with_rules, without = apis.values()
    for api in apis.values():
        await make_setting(api)
    rules = [rule_of(kind, random, ids()) for kind in BY_ITSELF.values()]
    for rule in rules:
        assert (await with_rules.post(RULES, rule)).status == 200
    await happen(assessor, clock, apis, with_reversals(seed, history(seed, 70)))
    before = await rows_of_all_tables(owner)
    matching = limited = 0
    for number, rule in enumerate(rules):
        rule_id = UUID(rule["ruleId"])
        expected, customers = await done_by(owner, database, tenant, rule_id)
        limited += sum(day[1] for day in expected.values())
        matching += bool(expected)
        # In the tenant itself what the rule has done already is left out.
        asked: list[tuple[ApiClient, Json]] = [(without, {"rule": rule}), (with_rules, {"ruleId": rule["ruleId"]})]
        for events_max, (api, fields) in zip((1, 500) if number % 2 else (500, 3), asked, strict=True):
            simulations = Simulations(database, now=clock, events_max=events_max)
            found = await simulated(simulations, api, clock, **fields)
            assert found == (expected, customers), (rule, events_max)
    assert matching > len(rules) * 0.8
    assert limited
    assert await rows_of_all_tables(owner) == before


@pytest.mark.parametrize("name", BY_WHAT_RULES_DO)
@pytest.mark.parametrize("seed", [3, 4])
async def test_a_rule_meets_in_a_simulation_what_it_has_done_itself(
    assessor: Assessor, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock,
    apis: dict[UUID, ApiClient], name: str, seed: int,
) -> None:  # fmt: skip
    with_rule, without = apis.values()
    for api in apis.values():
        await make_setting(api)
    rule = rule_of(BY_WHAT_RULES_DO[name], Random(f"{seed} {name}"), UUID(int=seed << 64))
    assert (await with_rule.post(RULES, rule)).status == 200
    await happen(assessor, clock, apis, history(seed, 50))
    before = await rows_of_all_tables(owner)
    expected, customers = await done_by(owner, database, tenant, UUID(rule["ruleId"]))
    assert expected
    for events_max, api in ((1, without), (3, with_rule), (500, without), (500, with_rule)):
        asked = {"rule": rule} if api is without else {"ruleId": rule["ruleId"]}
        found = await simulated(Simulations(database, now=clock, events_max=events_max), api, clock, **asked)
        assert found == (expected, customers), (rule, events_max)
    assert await rows_of_all_tables(owner) == before
