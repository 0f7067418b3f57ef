"""Simulating rules on history, with a key of role admin: asking for it, how far it is and what was found, ending it."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from dateutil.relativedelta import relativedelta
from pydantic import ConfigDict, Field, TypeAdapter, model_validator

from tallymarks import limits
from tallymarks.credentials import Role
from tallymarks.database import Connection, Record
from tallymarks.errors import InvalidRequest, LimitReached, ResourceNotFound, SegmentNotFound
from tallymarks.events import EventType
from tallymarks.rule_sets import rule_of
from tallymarks.rules.rule import NewRule, RuleContent
from tallymarks.rules.simulation import SimulatedRule
from tallymarks.sql import rules as rules_sql
from tallymarks.sql import simulations as sql
from tallymarks.values import Id, Instant, Model, format_instant
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing, found
from tallymarks_api.paged import NIL, PageQuery, last_id, read_page
from tallymarks_api.rules import RULES, require_segments

TAG = "Administration"


class SimulationStatus(StrEnum):
    """What has become of a simulation."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = (SimulationStatus.WAITING, SimulationStatus.RUNNING)


class SimulationPath(Model):
    """One simulation."""

    simulation_id: UUID


class NewSimulation(Model):
    """The body that asks for a simulation: of a rule that is written out, or of a saved one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "rule": {
                        "name": "Large orders",
                        "eventType": "order",
                        "criteria": [{"type": "orderTotal", "operator": "atLeast", "value": "50"}],
                        "fulfilments": [{"type": "points", "amount": 5}],
                    },
                    "fromAt": "2025-03-01T00:00:00.000Z",
                    "toAt": "2026-03-01T00:00:00.000Z",
                }
            ]
        }
    )

    rule: NewRule | None = None
    """Its status does not matter. Where it has the ruleId of a saved rule it takes the place of that one."""
    rule_id: Id | None = None
    """A saved rule, of any status: what its newest version says."""
    from_at: Instant
    """The first instant of the events that are looked at, by their createdAt."""
    to_at: Instant
    """The instant from which on none is looked at any more: not later than now, and at most 5 years after fromAt."""

    @model_validator(mode="after")
    def _is_of_one_rule(self) -> "NewSimulation":
        if (self.rule is None) is (self.rule_id is None):
            raise ValueError("either rule or ruleId must be given")
        return self


class Progress(Model):
    """How far a simulation has got."""

    events: int
    """The events of the rule's type that were looked at."""
    last_created_at: Instant | None
    """The createdAt of the last of them."""
    fraction: Annotated[float, Field(ge=0, le=1)]
    """The part of the range of time that lies behind."""


class FoundOnDay(Model):
    """What the rule would have done with the events of a day, or of all."""

    matches: int
    """Also of points events that would have followed from its own points."""
    limited: int
    """Of the matches those that a limit of the rule would have kept from taking effect."""
    customers: int
    """The customers with a match."""
    points: int
    """The points given, less those taken."""


class SimulationResults(FoundOnDay):
    """What the rule would have done with all events that were looked at."""

    unassessable: int
    """Events that would have been put aside: the balance beyond its bound, effects without end, an unknown form."""


class SimulationDay(FoundOnDay):
    """What the rule would have done on one day, in UTC."""

    day: date


class SimulationSummary(Model):
    """A simulation, without what was found on each day."""

    simulation_id: UUID
    tenant_id: UUID
    rule_id: UUID
    rule_name: str
    from_at: Instant
    to_at: Instant
    status: SimulationStatus
    failure: str | None
    """Why it failed, where it did."""
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    progress: Progress
    results: SimulationResults


class Simulation(SimulationSummary):
    """A simulation, with what it has found until now."""

    rule: SimulatedRule
    """The rule as it was when the simulation was asked for."""
    days: tuple[SimulationDay, ...]
    """Those on which there was a match, in their order."""


class SimulationsPage(Model):
    """A page of simulations, oldest first."""

    simulations: tuple[SimulationSummary, ...]
    offset_key: str | None


async def simulate_rule(call: Call[Nothing, Nothing, NewSimulation]) -> Answer:
    """Ask for a simulation; it is brought forward in the background, one after the other of a tenant."""
    body, now = call.body, call.parts.now()
    _require_range(body.from_at, body.to_at, now)
    async with call.parts.database.transaction(call.tenant_id) as connection:
        await connection.fetchval(rules_sql.LOCK_TENANT, call.tenant_id)
        rule = await _rule(connection, call)
        await _make_room(connection, call.tenant_id, now)
        row = await connection.fetchrow(
            sql.INSERT, call.tenant_id, call.parts.new_id(), rule.model_dump_json(), body.from_at, body.to_at, now, NIL
        )
    return Answer(_summary(found(row, "simulationId", None)))


async def list_simulations(call: Call[Nothing, PageQuery, None]) -> Answer:
    """Answer a page of the simulations."""
    after = last_id(call.caller, "simulations", call.query)
    rows, offset_key = await read_page(call, sql.SELECT_PAGE, after, scope="simulations", column="simulation_id")
    return Answer(SimulationsPage(simulations=tuple(map(_summary, rows)), offset_key=offset_key))


async def get_simulation(call: Call[SimulationPath, Nothing, None]) -> Answer:
    """Answer a simulation, with what it has found until now."""
    simulation_id = call.path.simulation_id
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await _read(connection, call.tenant_id, simulation_id)
        days = await connection.fetch(sql.SELECT_DAYS, call.tenant_id, simulation_id)
    rule = SimulatedRule.model_validate_json(row["rule"])
    return Answer(
        Simulation(
            **dict(_summary(row)),
            rule=rule,
            days=tuple(SimulationDay(day=one["day_from"].date(), **_without(one, "day_from")) for one in days),
        )
    )


async def end_simulation(call: Call[SimulationPath, Nothing, None]) -> Answer:
    """Cancel a simulation that is not finished, which keeps what it has found; remove one that is."""
    simulation_id, now = call.path.simulation_id, call.parts.now()
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await connection.fetchrow(sql.CANCEL, call.tenant_id, simulation_id, now)
        if row is None:
            row = await _read(connection, call.tenant_id, simulation_id)
            await connection.execute(sql.REMOVE, call.tenant_id, simulation_id, now)
    return Answer(_summary(row))


def _require_range(from_at: datetime, to_at: datetime, now: datetime) -> None:
    if to_at > now:
        raise InvalidRequest.of("toAt", format_instant(to_at), "toAt must not be in the future.")
    if from_at >= to_at:
        raise InvalidRequest.of("fromAt", format_instant(from_at), "fromAt must be before toAt.")
    if from_at + relativedelta(years=limits.SIMULATION_YEARS_MAX) < to_at:
        raise InvalidRequest.of("fromAt", format_instant(from_at), "The range is at most 5 years.")


async def _rule(connection: Connection, call: Call[Nothing, Nothing, NewSimulation]) -> SimulatedRule:
    """Give the rule that is asked for.

    Raises:
        ResourceNotFound: there is no such saved rule.
        SegmentNotFound: it names a segment that there is not.
        InvalidRequest: it is a rule of baskets, of which nothing is recorded.
    """
    body = call.body
    content: RuleContent
    if body.rule is not None:
        content, version, place = body.rule, None, "rule.eventType"
        rule_id = body.rule.rule_id or call.parts.new_id()
        await require_segments(connection, call.tenant_id, content, "rule.")
    else:
        row = await connection.fetchrow(rules_sql.SELECT_RULE, call.tenant_id, body.rule_id)
        saved = rule_of(found(row, "ruleId", body.rule_id))
        content, version, rule_id, place = saved, saved.version, saved.rule_id, "ruleId"
    if content.event_type is EventType.BASKET:
        raise InvalidRequest.of(place, content.event_type, "Nothing of baskets is recorded, so there is no history.")
    fields = {name: getattr(content, name) for name in RuleContent.model_fields}
    return SimulatedRule(**fields, rule_id=rule_id, version=version)


async def _make_room(connection: Connection, tenant_id: UUID, now: datetime) -> None:
    """Hold a tenant to its bounds; where it keeps as many as it may, the oldest finished one goes.

    Raises:
        LimitReached: too many are not finished, or not cleared away yet.
    """
    rows = await connection.fetch(sql.SELECT_STATUSES, tenant_id, limits.SIMULATIONS_STORED_MAX)
    kept = [row for row in rows if row["removed_at"] is None]
    finished = [row["simulation_id"] for row in kept if row["status"] not in UNFINISHED]
    is_full = len(kept) >= limits.SIMULATIONS_KEPT_MAX
    if (
        len(kept) - len(finished) >= limits.SIMULATIONS_UNFINISHED_MAX
        or len(rows) >= limits.SIMULATIONS_STORED_MAX
        or (is_full and not finished)
    ):
        raise LimitReached
    if is_full:
        await connection.execute(sql.REMOVE, tenant_id, finished[0], now)


async def _read(connection: Connection, tenant_id: UUID, simulation_id: UUID) -> Record:
    row = await connection.fetchrow(sql.SELECT, tenant_id, simulation_id)
    return found(row, "simulationId", simulation_id)


def _summary(row: Record) -> SimulationSummary:
    rule = SimulatedRule.model_validate_json(row["rule"])
    behind = (row["position_at"] - row["from_at"]) / (row["to_at"] - row["from_at"])
    is_done = row["status"] == SimulationStatus.DONE
    return SimulationSummary(
        **{name: row[name] for name in SimulationSummary.model_fields if name in row},
        rule_id=rule.rule_id,
        rule_name=rule.name,
        progress=Progress(
            events=row["events"],
            last_created_at=row["last_event_at"],
            fraction=1.0 if is_done else round(behind, 6),
        ),
        results=SimulationResults(**{name: row[name] for name in SimulationResults.model_fields}),
    )


def _without(row: Record, name: str) -> dict[str, object]:
    return {column: value for column, value in row.items() if column != name}


SIMULATIONS = "/api/v1/admin/simulations"

ENDPOINTS = (
    Endpoint(
        "POST", f"{RULES}/simulate", TAG, "Simulate a rule on history", simulate_rule,
        answers={200: SimulationSummary}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(NewSimulation),
        role=Role.ADMIN, refusals=(ResourceNotFound, SegmentNotFound, LimitReached),
    ),
    Endpoint(
        "GET", SIMULATIONS, TAG, "List simulations", list_simulations,
        answers={200: SimulationsPage}, path_parameters=Nothing, query=PageQuery, role=Role.ADMIN,
    ),
    Endpoint(
        "GET", f"{SIMULATIONS}/{{simulationId}}", TAG, "Get a simulation", get_simulation,
        answers={200: Simulation}, path_parameters=SimulationPath, query=Nothing, role=Role.ADMIN,
        refusals=(ResourceNotFound,),
    ),
    Endpoint(
        "DELETE", f"{SIMULATIONS}/{{simulationId}}", TAG, "Cancel or remove a simulation", end_simulation,
        answers={200: SimulationSummary}, path_parameters=SimulationPath, query=Nothing, role=Role.ADMIN,
        refusals=(ResourceNotFound,),
    ),
)  # fmt: skip
