"""Simulating a rule on history: what it would have done with one recorded event after the other, and nothing else.

Events are looked at again in the order of their createdAt, within one instant in that of their ids; points events come
after the other events of their instant. What was recorded is the customer's past, save what the rule itself has done in
it; what the rule does in the simulation comes on top. No other rule is asked again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import orjson
from pydantic import TypeAdapter

from tallymarks import limits
from tallymarks.errors import BalanceOutOfRange, TooManyEffects
from tallymarks.events import AnyEvent, EventType, PointsEvent, RedemptionEvent, created_at_of
from tallymarks.rules.assessment import Assessment, Situation, assess
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.facts import CustomerState, Totals, Window
from tallymarks.rules.fulfilments import GivePoints, JoinSegment, LeaveSegment
from tallymarks.rules.rule import Rule, RuleContent
from tallymarks.rules.rule_limits import PeriodUnit, period_from
from tallymarks.rules.rule_set import RuleSet
from tallymarks.rules.uses import LIFE, RuleUses, use_keys
from tallymarks.segments import Status, later


class SimulatedRule(RuleContent):
    """A rule as it is simulated."""

    rule_id: UUID
    """What the rule of this id has done in history is left out."""
    version: int | None
    """Of a saved rule: the version that is simulated."""

    def as_active(self, tenant_id: UUID, at: datetime) -> Rule:
        """Give it as a rule that is active and always was."""
        return Rule(
            **{name: getattr(self, name) for name in RuleContent.model_fields},
            rule_id=self.rule_id,
            tenant_id=tenant_id,
            version=self.version or 1,
            effective_from=None,
            effective_to=None,
            status=Status.ACTIVE,
            created_at=at,
            changed_at=at,
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as it was recorded."""

    event: AnyEvent
    depth: int
    """Of a points event that followed from another event, how many lie before it; else 0."""
    rule_id: UUID | None
    """Of a points event that followed: the rule that gave the points."""


class Stay(NamedTuple):
    """A membership, as far as it was recorded."""

    segment_id: UUID
    joined_at: datetime
    lapses_at: datetime | None


@dataclass(frozen=True, slots=True)
class Past:
    """What was recorded of a customer before an event."""

    customer_created_at: datetime
    totals: Totals
    """What was done since the event of the customer that was looked at before, that one counted in."""
    moved: int
    """The points that were moved from the instant of that event on, before the instant of this one."""
    windows: Mapping[Window, int] = field(default_factory=dict)
    stays: Sequence[Stay] = ()
    """All of the customer's memberships."""


@dataclass(frozen=True, slots=True)
class OwnMembership:
    """What the rule has done to one membership; `left_at` ends what others had begun before."""

    is_member: bool
    lapses_at: datetime | None
    left_at: datetime | None


@dataclass(frozen=True, slots=True)
class SimulatedCustomer:
    """A customer, after the event that was looked at last: kept from one lot of events to the next."""

    event_id: UUID
    """The event that was looked at last."""
    created_at: datetime
    """Its instant."""
    totals: Totals = field(default_factory=Totals)
    """As recorded, before that event."""
    balance: int = 0
    """As recorded, before the instant of that event."""
    instant_points: int = 0
    """Of the points events of that instant that were looked at, that one with them."""
    points_events: int = 0
    """The number of points transactions that the rule has made, each of which is a points event."""
    points: int = 0
    points_earned: int = 0
    points_event_places: tuple[tuple[str | None, datetime], ...] = ()
    """NameSpace and instant of the newest of these events, where the rule asks about the recent past."""
    memberships: Mapping[UUID, OwnMembership] = field(default_factory=dict)
    life_uses: int = 0
    period_uses: int = 0
    """In the calendar period of the event that was looked at last."""
    matched_day: datetime | None = None
    """The day of the last match."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the rule made of one event, and of the points events that followed from what it gave."""

    customer: SimulatedCustomer
    matches: int = 0
    limited: int = 0
    """Matches that a limit kept from taking effect."""
    points: int = 0
    is_first_match: bool = False
    """Whether the customer had no match before."""
    is_first_match_of_day: bool = False
    is_assessable: bool = True
    """False where it, with all that follows, would have been put aside."""


_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
_CUSTOMER: TypeAdapter[SimulatedCustomer] = TypeAdapter(SimulatedCustomer)
_BESIDE_THE_EVENT = ("sourceEventId", "balance", "pendingBalance")


def read_recorded(body: str | bytes) -> Recorded:
    """Read an event out of what was recorded, which has more than the event: where it came from, what was answered.

    Raises:
        pydantic.ValidationError: it was recorded in another form.
    """
    fields = orjson.loads(body)
    followed = "sourceEventId" in fields
    depth, rule_id = fields.pop("depth", 1 if followed else 0), fields.pop("assessmentRuleId", None)
    for name in _BESIDE_THE_EVENT:
        fields.pop(name, None)
    return Recorded(_EVENT.validate_json(orjson.dumps(fields)), depth, UUID(rule_id) if rule_id else None)


def kept_customer(customer: SimulatedCustomer) -> bytes:
    """Give a customer as it is kept, as JSON."""
    return _CUSTOMER.dump_json(customer)


def read_customer(kept: bytes) -> SimulatedCustomer:
    """Read a customer out of what was kept."""
    return _CUSTOMER.validate_json(kept)


def look_again(
    recorded: Recorded, before: SimulatedCustomer | None, past: Past, rule_set: RuleSet, together: RuleUses
) -> Look:
    """Look at a recorded event with the one rule of a rule set, as if the rule had been active then.

    Args:
        recorded: the event; never one that the rule itself has made.
        before: the customer after the event that was looked at before; None where this is the first.
        past: what was recorded of the customer.
        rule_set: the rule, and the segments that it names.
        together: what all customers have used of the rule so far.
    """
    (rule,) = rule_set.rules
    event, at = recorded.event, created_at_of(recorded.event)
    seen = before or SimulatedCustomer(event.event_id, at)
    customer = replace(
        seen,
        event_id=event.event_id,
        created_at=at,
        totals=seen.totals.plus_all(past.totals),
        balance=seen.balance + past.moved,
        instant_points=seen.instant_points if seen.created_at == at else 0,
        period_uses=seen.period_uses if _is_same_period(rule, seen.created_at, at) else 0,
    )
    after = customer
    if isinstance(event, PointsEvent):
        after = replace(customer, instant_points=customer.instant_points + event.points.quantity)
    situation = Situation(_state(recorded, customer, past, rule), {rule.rule_id: together}, past.windows)
    try:
        assessment = assess(event, situation, rule_set, at, first_depth=recorded.depth)
    except (BalanceOutOfRange, TooManyEffects):
        return Look(after, is_assessable=False)
    return _looked(assessment, after, rule_set, at)


def _state(recorded: Recorded, customer: SimulatedCustomer, past: Past, rule: Rule) -> CustomerState:
    """Give the customer that the event meets: what was recorded before it, and on top what the rule has done."""
    event, at = recorded.event, customer.created_at
    balance = customer.balance + customer.instant_points + customer.points
    if isinstance(event, RedemptionEvent):
        balance -= event.redemption.points  # it was debited before it was assessed
    elif isinstance(event, PointsEvent) and recorded.depth:
        balance += event.points.quantity
    own = Totals(
        {EventType.POINTS: customer.points_events}, {EventType.POINTS: Decimal(customer.points)}, customer.points_earned
    )
    uses = {key: customer.life_uses if key.period == LIFE else customer.period_uses for key in use_keys(rule, at)}
    recent = tuple((EventType.POINTS, name_space, made_at) for name_space, made_at in customer.points_event_places)
    return CustomerState(
        event.customer_id,
        past.customer_created_at,
        balance,
        _memberships(customer, past.stays, at),
        customer.totals.plus_all(own),
        uses,
        recent,
    )


def _memberships(customer: SimulatedCustomer, stays: Sequence[Stay], at: datetime) -> Mapping[UUID, datetime | None]:
    """Give the memberships of an instant: those that others gave before it, and what the rule has made of them."""
    current: dict[UUID, datetime | None] = {}
    for segment_id, joined_at, lapses_at in stays:
        own = customer.memberships.get(segment_id)
        is_ended = own is not None and own.left_at is not None and joined_at <= own.left_at
        if joined_at < at and (lapses_at is None or lapses_at > at) and not is_ended:
            current[segment_id] = lapses_at
    for segment_id, own in customer.memberships.items():
        if own.is_member and (own.lapses_at is None or own.lapses_at > at):
            current[segment_id] = later(current.get(segment_id, own.lapses_at), own.lapses_at)
    return current


def _looked(assessment: Assessment, customer: SimulatedCustomer, rule_set: RuleSet, at: datetime) -> Look:
    """Count what the rule did, for itself and for the customer."""
    outcomes = [(step, step.outcome) for step in assessment.steps if step.outcome is not None]
    considered = [one for _, outcome in outcomes for one in outcome.considered if one.matched]
    effects = [one for _, outcome in outcomes for one in outcome.effects if one.rule is not None]
    given = [one.effect.amount for one in effects if isinstance(one.effect, GivePoints)]
    day = period_from(at, PeriodUnit.DAY)
    life_uses, period_uses = _uses(assessment.customer, rule_set.rules[0], at)
    after = replace(
        customer,
        points_events=customer.points_events + len(given),
        points=customer.points + sum(given),
        points_earned=customer.points_earned + sum(amount for amount in given if amount > 0),
        memberships=_own_memberships(customer.memberships, effects, at),
        life_uses=life_uses,
        period_uses=period_uses,
        matched_day=day if considered else customer.matched_day,
    )
    if given and rule_set.asks_windows:
        places = (*after.points_event_places, *[(assessment.steps[0].event.name_space, at)] * len(given))
        after = replace(after, points_event_places=places[-limits.WINDOW_EVENTS_MAX :])
    return Look(
        after,
        matches=len(considered),
        limited=sum(one.limited is not None for one in considered),
        points=sum(given),
        is_first_match=bool(considered) and customer.matched_day is None,
        is_first_match_of_day=bool(considered) and customer.matched_day != day,
    )


def _uses(customer: CustomerState, rule: Rule, at: datetime) -> tuple[int, int]:
    """Give what the customer has used of the rule, ever and in the period of the instant."""
    of_life, of_period = 0, 0
    for key in use_keys(rule, at):
        if key.period == LIFE:
            of_life = customer.uses.get(key, 0)
        else:
            of_period = customer.uses.get(key, 0)
    return of_life, of_period


def _is_same_period(rule: Rule, one: datetime, other: datetime) -> bool:
    if rule.limits is None or rule.limits.per_period is None:
        return True
    unit = rule.limits.per_period.unit
    return period_from(one, unit) == period_from(other, unit)


def _own_memberships(
    before: Mapping[UUID, OwnMembership], effects: Sequence[Effected], at: datetime
) -> Mapping[UUID, OwnMembership]:
    changed = dict(before)
    for effected in effects:
        match effected.effect:
            case JoinSegment(segment_id, lapses_at):
                so_far = changed.get(segment_id)
                changed[segment_id] = OwnMembership(
                    is_member=True, lapses_at=lapses_at, left_at=so_far.left_at if so_far else None
                )
            case LeaveSegment(segment_id):
                changed[segment_id] = OwnMembership(is_member=False, lapses_at=None, left_at=at)
    return changed
