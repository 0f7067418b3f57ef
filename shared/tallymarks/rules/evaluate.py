"""Evaluating rules: a pure function, and how its outcome changes the state that the next event meets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from tallymarks import limits
from tallymarks.errors import BalanceOutOfRange
from tallymarks.events import AnyEvent, EventType, PointsEvent, created_at_of
from tallymarks.rules.criteria import Check
from tallymarks.rules.facts import CustomerState, Facts
from tallymarks.rules.fulfilments import Effect, GivePoints, JoinSegment, LeaveSegment
from tallymarks.rules.rule import Rule
from tallymarks.segments import Segment, Status


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What a tenant's events are assessed by: the active rules by event type, and its segments."""

    revision: int
    rules: Mapping[EventType, tuple[Rule, ...]]
    segments: Mapping[UUID, Segment]
    names_segments: bool
    """Whether any active rule asks about or changes memberships: else they need not be loaded."""

    @classmethod
    def of(cls, revision: int, rules: Iterable[Rule], segments: Iterable[Segment]) -> "RuleSet":
        """Keep the active rules, in the order in which their effects apply: oldest first."""
        in_order = sorted(rules, key=lambda rule: (rule.created_at, rule.rule_id, rule.version))
        active = [rule for rule in in_order if rule.status is Status.ACTIVE]
        return cls(
            revision,
            {kind: tuple(rule for rule in active if rule.event_type is kind) for kind in EventType},
            {segment.segment_id: segment for segment in segments},
            names_segments=any(True for rule in active for _ in rule.segments_named()),
        )


@dataclass(frozen=True, slots=True)
class Effected:
    """One effect, and the fulfilment that it comes from; `rule` is None for what the event itself does."""

    effect: Effect
    rule: Rule | None
    fulfilment_index: int


@dataclass(frozen=True, slots=True)
class Considered:
    """How one rule looked at the event: each of its criteria up to the first that did not match."""

    rule: Rule
    matched: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an event does, and why."""

    effects: tuple[Effected, ...]
    considered: tuple[Considered, ...]


def evaluate(event: AnyEvent, customer: CustomerState, rule_set: RuleSet, now: datetime) -> Outcome:
    """Assess one event.

    Every rule sees the customer as before the event, so that no rule depends on the order of the others; the effects
    then apply in rule order. Membership counts at `now`, a rule's date range at the event's createdAt.
    """
    facts = Facts(event, event.event_type, customer, rule_set.segments, now, customer.balance)
    effects: list[Effected] = []
    if isinstance(event, PointsEvent):
        effects.append(Effected(GivePoints(event.points.quantity), None, 0))
    considered: list[Considered] = []
    for rule in rule_set.rules.get(EventType(event.event_type), ()):
        if rule.applies_at(created_at_of(event)):
            consideration = consider(rule, facts)
            considered.append(consideration)
            if consideration.matched:
                effects.extend(fulfil(rule, facts))
    return Outcome(tuple(effects), tuple(considered))


def consider(rule: Rule, facts: Facts) -> Considered:
    """Ask each criterion in turn, up to the first that does not match."""
    checks: list[Check] = []
    for criterion in rule.criteria:
        checks.append(criterion.check(facts))
        if not checks[-1].matched:
            return Considered(rule, matched=False, checks=tuple(checks))
    return Considered(rule, matched=True, checks=tuple(checks))


def fulfil(rule: Rule, facts: Facts) -> Iterable[Effected]:
    """Give the effects of a matching rule."""
    for index, fulfilment in enumerate(rule.fulfilments):
        effect = fulfilment.fulfil(facts)
        if effect is not None:
            yield Effected(effect, rule, index)


def apply(customer: CustomerState, effects: Iterable[Effected]) -> CustomerState:
    """Give the customer's state after the effects.

    Raises:
        BalanceOutOfRange: a balance beyond its bound; nothing of the event may then be kept.
    """
    balance, memberships = customer.balance, dict(customer.memberships)
    for effected in effects:
        match effected.effect:
            case GivePoints(amount):
                balance += amount
            case JoinSegment(segment_id, lapses_at):
                memberships[segment_id] = lapses_at
            case LeaveSegment(segment_id):
                memberships.pop(segment_id, None)
    if abs(balance) > limits.POINTS_MAX:
        raise BalanceOutOfRange.of("balance", balance)
    return replace(customer, balance=balance, memberships=memberships)
