"""Replaying one lot of recorded events: what is read of history, and what of it is written to the simulation alone."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from pydantic import ValidationError

from tallymarks import limits
from tallymarks.database import Connection, Record
from tallymarks.events import EventType, created_at_of
from tallymarks.rule_sets import segment_of
from tallymarks.rules.facts import COUNTED_TYPES, VALUED_TYPES, Totals, Window
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_limits import PeriodUnit, period_from
from tallymarks.rules.rule_set import RuleSet
from tallymarks.rules.simulation import (
    Look,
    Past,
    Recorded,
    SimulatedCustomer,
    SimulatedRule,
    Stay,
    kept_customer,
    look_again,
    read_customer,
    read_recorded,
)
from tallymarks.rules.uses import RuleUses
from tallymarks.sql import rules as rules_sql
from tallymarks.sql import simulations as sql

NIL = UUID(int=0)
BEFORE_HISTORY = (limits.INSTANT_MIN - timedelta(days=1), NIL)

Place = tuple[datetime, UUID]
"""An event's place in history."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulation whose row this transaction has locked."""

    simulation_id: UUID
    rule: Rule
    to_at: datetime
    position: Place
    together: RuleUses
    """What all customers have used of the rule so far."""

    @classmethod
    def of(cls, tenant_id: UUID, row: Record) -> "Simulation":
        """Read the row."""
        rule = SimulatedRule.model_validate_json(row["rule"]).as_active(tenant_id, limits.INSTANT_MIN)
        together = RuleUses(row["matches"] - row["limited"], int(row["points"]))
        position = (row["position_at"], row["position_id"])
        return cls(row["simulation_id"], rule, row["to_at"], position, together)


@dataclass(frozen=True, slots=True)
class Lookup:
    """An event that is to be looked at, and the place of its customer's event before it."""

    recorded: Recorded
    customer_created_at: datetime
    after: Place

    @property
    def customer_id(self) -> UUID:
        """The customer."""
        return self.recorded.event.customer_id

    @property
    def at(self) -> datetime:
        """The event's instant."""
        return created_at_of(self.recorded.event)


@dataclass(slots=True)
class Found:
    """What was found in a lot, in all or on one day."""

    matches: int = 0
    limited: int = 0
    unassessable: int = 0
    customers: int = 0
    points: int = 0

    def add(self, look: Look, *, is_new_customer: bool) -> None:
        """Count in what one event led to."""
        self.matches += look.matches
        self.limited += look.limited
        self.unassessable += not look.is_assessable
        self.customers += is_new_customer
        self.points += look.points


@dataclass(slots=True)
class Lot:
    """One lot of a simulation: how far it goes, and what was found in it."""

    reached: Place
    rows: Sequence[Record]
    """The events of the rule's type."""
    customers: dict[UUID, SimulatedCustomer] = field(default_factory=dict)
    found: Found = field(default_factory=Found)
    days: defaultdict[datetime, Found] = field(default_factory=lambda: defaultdict(Found))

    def add(self, customer_id: UUID, look: Look) -> None:
        """Count in what one event led to."""
        self.customers[customer_id] = look.customer
        self.found.add(look, is_new_customer=look.is_first_match)
        if look.matches:
            day = period_from(look.customer.created_at, PeriodUnit.DAY)
            self.days[day].add(look, is_new_customer=look.is_first_match_of_day)


async def replay(
    connection: Connection, tenant_id: UUID, simulation: Simulation, *, events_max: int, now: datetime
) -> int | None:
    """Look at the next events of a simulation, and write what was found together with how far it has got.

    Args:
        connection: in a transaction of the tenant, which has the simulation locked.
        tenant_id: the tenant.
        simulation: how far it has got.
        events_max: how many events to look at, at most.
        now: when this happens.

    Returns:
        The number of events looked at; None where history has no more, and nothing was written.
    """
    lot = await _next_lot(connection, tenant_id, simulation, events_max)
    if lot is None:
        return None
    rule_set = await _rule_set(connection, tenant_id, simulation.rule)
    lookups = await _lookups(connection, tenant_id, simulation, rule_set, lot)
    pasts = await _pasts(connection, tenant_id, lookups, rule_set)
    together = simulation.together
    for number, (lookup, past) in enumerate(zip(lookups, pasts, strict=True)):
        if number % limits.EVALUATED_AT_ONCE_MAX == 0:
            await asyncio.sleep(0)
        before = lot.customers.get(lookup.customer_id)
        look = look_again(lookup.recorded, before, past, rule_set, together)
        together = RuleUses(together.uses + look.matches - look.limited, together.points + look.points)
        lot.add(lookup.customer_id, look)
    await _write(connection, tenant_id, simulation.simulation_id, lot, now)
    return len(lot.rows)


async def _next_lot(connection: Connection, tenant_id: UUID, simulation: Simulation, events_max: int) -> Lot | None:
    """Find the next events of the rule's type, bounded in number and bytes, and in how many others lie between."""
    places = await connection.fetch(
        sql.FIND_NEXT,
        tenant_id,
        *simulation.position,
        simulation.to_at,
        simulation.rule.event_type,
        limits.SIMULATION_PASSED_MAX,
        events_max,
    )
    if not places:
        return None
    found = [row for row in places if row["is_found"]]
    rows: list[Record] = []
    size = 0
    in_order = connection.cursor(
        sql.SELECT_EVENTS, tenant_id, [row["event_id"] for row in found], prefetch=limits.SIMULATION_FETCHED_AT_ONCE
    )
    async for row in in_order:
        size += len(row["body"])
        if rows and size > limits.SIMULATION_BYTES_MAX:
            reached = rows[-1]
            break
        rows.append(row)
    else:
        reached = rows[-1] if len(found) == events_max else next(row for row in places if not row["is_found"])
    return Lot((reached["created_at"], reached["event_id"]), rows)


async def _rule_set(connection: Connection, tenant_id: UUID, rule: Rule) -> RuleSet:
    named = sorted({segment_id for _, segment_id in rule.segments_named()})
    rows = await connection.fetch(rules_sql.SELECT_SEGMENTS_NAMED, tenant_id, named)
    return RuleSet.of_any_status(0, [rule], map(segment_of, rows))


async def _lookups(
    connection: Connection, tenant_id: UUID, simulation: Simulation, rule_set: RuleSet, lot: Lot
) -> list[Lookup]:
    """Give the events that the rule could match, and read the customers as they were left; they go into the lot.

    What lies between two of them is summed up when the later one is looked at. Of points events all are looked at but
    those that the rule has made itself: within an instant they tell the balance before one another.
    """
    rule = simulation.rule
    chosen: list[tuple[Recorded, datetime]] = []
    for row in lot.rows:
        try:
            recorded = read_recorded(row["body"])
        except ValidationError:
            lot.found.unassessable += 1
            continue
        is_points = rule.event_type is EventType.POINTS
        if is_points and recorded.rule_id == rule.rule_id:
            continue
        could_match = rule.applies_at(row["created_at"]) and any(rule_set.matching(recorded.event, rule.event_type))
        if is_points or could_match:
            chosen.append((recorded, row["customer_created_at"]))
    customer_ids = sorted({recorded.event.customer_id for recorded, _ in chosen})
    kept = await connection.fetch(sql.SELECT_CUSTOMERS, tenant_id, simulation.simulation_id, customer_ids)
    lot.customers.update({row["customer_id"]: read_customer(row["state"]) for row in kept})
    last = {customer_id: (one.created_at, one.event_id) for customer_id, one in lot.customers.items()}
    lookups = []
    for recorded, customer_created_at in chosen:
        event = recorded.event
        lookups.append(Lookup(recorded, customer_created_at, last.get(event.customer_id, BEFORE_HISTORY)))
        last[event.customer_id] = (created_at_of(event), event.event_id)
    return lookups


async def _pasts(connection: Connection, tenant_id: UUID, lookups: Sequence[Lookup], rule_set: RuleSet) -> list[Past]:
    """Read what was recorded before each event, with one query for each kind of thing."""
    if not lookups:
        return []
    (rule,) = rule_set.rules
    totals = await _totals(connection, tenant_id, lookups, rule)
    moved = await connection.fetch(
        sql.SUM_TRANSACTIONS,
        tenant_id,
        list(range(len(lookups))),
        [lookup.customer_id for lookup in lookups],
        [lookup.after[0] for lookup in lookups],
        [lookup.at for lookup in lookups],
        rule.rule_id,
    )
    points = {row["place"]: int(row["points"] or 0) for row in moved}
    windows = await _windows(connection, tenant_id, lookups, rule_set) if rule_set.asks_windows else {}
    stays = await _stays(connection, tenant_id, lookups) if rule_set.names_segments else {}
    return [
        Past(
            lookup.customer_created_at,
            totals[place],
            points[place],
            windows.get(place, {}),
            stays.get(lookup.customer_id, ()),
        )
        for place, lookup in enumerate(lookups)
    ]


async def _totals(connection: Connection, tenant_id: UUID, lookups: Sequence[Lookup], rule: Rule) -> dict[int, Totals]:
    """Sum up what the customers did before each event and after the one before it, less what was taken back."""
    asked = (
        tenant_id,
        list(range(len(lookups))),
        [lookup.customer_id for lookup in lookups],
        [lookup.after[0] for lookup in lookups],
        [lookup.after[1] for lookup in lookups],
        [lookup.at for lookup in lookups],
        [lookup.recorded.event.event_id for lookup in lookups],
        rule.event_type is EventType.POINTS,
    )
    rows = await connection.fetch(sql.SUM_EVENTS, *asked, str(rule.rule_id))
    totals = {row["place"]: _totals_of(row) for row in rows}
    if any(row["reversal_count"] for row in rows):
        found = await connection.fetch(sql.FIND_REVERSALS, *asked)
        taken = await connection.fetch(
            sql.SELECT_TAKEN,
            tenant_id,
            [row["place"] for row in found],
            [row["event_id"] for row in found],
            [UUID(row["reverses"]) for row in found],
            rule.rule_id,
        )
        for row in taken:
            totals[row["place"]] = totals[row["place"]].plus_all(_taken_back(row))
    return totals


def _taken_back(row: Record) -> Totals:
    event_type = row["event_type"]
    return Totals(
        {event_type: -1 if row["is_last"] else 0}, {event_type: -row["amount"]}, int(row["points_earned"] or 0)
    )


def _totals_of(row: Record) -> Totals:
    return Totals(
        {event_type: row[f"{event_type}_count"] for event_type in COUNTED_TYPES},
        {event_type: row[f"{event_type}_value"] or Decimal(0) for event_type in VALUED_TYPES},
        int(row["points_earned"] or 0),
    )


async def _windows(
    connection: Connection, tenant_id: UUID, lookups: Sequence[Lookup], rule_set: RuleSet
) -> Mapping[int, Mapping[Window, int]]:
    """Answer what the rule asks about the past of each event."""
    (rule,) = rule_set.rules
    asked = [
        (place, window)
        for place, lookup in enumerate(lookups)
        for criterion in rule.criteria
        for window in criterion.windows(lookup.recorded.event, rule.event_type)
    ]
    rows = await connection.fetch(
        sql.COUNT_IN_WINDOWS,
        tenant_id,
        list(range(len(asked))),
        [lookups[place].customer_id for place, _ in asked],
        [window.event_type for _, window in asked],
        [window.name_space for _, window in asked],
        [window.after for _, window in asked],
        [window.until for _, window in asked],
        [window.count_max for _, window in asked],
        [lookups[place].recorded.event.event_id for place, _ in asked],
        str(rule.rule_id),
    )
    answered: defaultdict[int, dict[Window, int]] = defaultdict(dict)
    for row in rows:
        place, window = asked[row["place"]]
        answered[place][window] = row["events"]
    return answered


async def _stays(connection: Connection, tenant_id: UUID, lookups: Sequence[Lookup]) -> Mapping[UUID, Sequence[Stay]]:
    """Read the memberships that may matter to the events, by customer."""
    customer_ids = sorted({lookup.customer_id for lookup in lookups})
    first, last = lookups[0].at, lookups[-1].at
    stays: defaultdict[UUID, list[Stay]] = defaultdict(list)
    for row in await connection.fetch(sql.SELECT_STAYS, tenant_id, customer_ids, first, last):
        stays[row["customer_id"]].append(Stay(row["segment_id"], row["joined_at"], row["lapses_at"]))
    return stays


async def _write(connection: Connection, tenant_id: UUID, simulation_id: UUID, lot: Lot, now: datetime) -> None:
    """Write the customers, the days, and how far the simulation has got."""
    if lot.customers:
        in_order = sorted(lot.customers.items())
        await connection.execute(
            sql.UPSERT_CUSTOMERS,
            tenant_id,
            simulation_id,
            [customer_id for customer_id, _ in in_order],
            [kept_customer(customer) for _, customer in in_order],
        )
    if lot.days:
        days = sorted(lot.days.items())
        await connection.execute(
            sql.ADD_TO_DAYS,
            tenant_id,
            simulation_id,
            [day for day, _ in days],
            [found.matches for _, found in days],
            [found.limited for _, found in days],
            [found.customers for _, found in days],
            [found.points for _, found in days],
        )
    found = lot.found
    await connection.execute(
        sql.MOVE_ON,
        tenant_id,
        simulation_id,
        now,
        *lot.reached,
        len(lot.rows),
        lot.rows[-1]["created_at"] if lot.rows else None,
        found.matches,
        found.limited,
        found.unassessable,
        found.customers,
        found.points,
    )
