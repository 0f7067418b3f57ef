"""Assessing one event to its end: its own rules, then the points events that its points transactions are."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid5

from tallymarks import limits
from tallymarks.errors import TooManyEffects
from tallymarks.events import AnyEvent, EventBase, PointsEvent, PointsQuantity, RedemptionEvent, created_at_of
from tallymarks.rules.evaluate import Effected, Outcome, apply, evaluate
from tallymarks.rules.facts import CustomerState, Facts, Window, counted_in
from tallymarks.rules.fulfilments import GivePoints
from tallymarks.rules.rule_set import RuleSet
from tallymarks.rules.uses import RuleUses, counted_together


class Situation(NamedTuple):
    """What an event of a customer is assessed in."""

    customer: CustomerState
    """As before the event."""
    rule_uses: Mapping[UUID, RuleUses]
    """What all customers together have used of the rules with a limit on that."""
    windows: Mapping[Window, int]
    """What was read of the customer's past."""


class Step(NamedTuple):
    """One event that was looked at: the one that arrived, or a points event that followed from it."""

    event: AnyEvent
    source_event_id: UUID | None
    """Of a points event that followed: the event whose points transaction it is."""
    rule_id: UUID | None
    """Of such a points event: the rule that made the transaction; None where the source event itself did."""
    depth: int
    """0 for the event that arrived; a points event is one deeper than the event it follows from."""
    outcome: Outcome | None
    """None where it lies too deep to be assessed: it is recorded only."""


class Assessment(NamedTuple):
    """All that one event leads to."""

    steps: tuple[Step, ...]
    customer: CustomerState
    """As after all of it."""
    rule_uses: Mapping[UUID, RuleUses]


class _Waiting(NamedTuple):
    """An event that is still to be looked at."""

    event: AnyEvent
    source_event_id: UUID | None
    rule_id: UUID | None
    depth: int
    balance_before: int


def assess(
    event: AnyEvent, situation: Situation, rule_set: RuleSet, now: datetime, *, first_depth: int = 0
) -> Assessment:
    """Assess an event, and after it the points events that follow from it, breadth first.

    Points rules feed each other at most `limits.POINTS_DEPTH_MAX` deep: what lies deeper is recorded and not assessed.

    Args:
        event: what arrived; or, looked at again, a points event that had followed from another.
        situation: what it meets.
        rule_set: the rules.
        now: the instant at which memberships count.
        first_depth: of such a points event its depth; its own points are in the balance already.

    Raises:
        BalanceOutOfRange: a balance beyond its bound; nothing of the event may then be kept.
        TooManyEffects: rules that feed each other without an end in sight; likewise.
    """
    customer, rule_uses = situation.customer, situation.rule_uses
    steps: list[Step] = []
    effects = 0
    moved_before = event.points.quantity if first_depth and isinstance(event, PointsEvent) else 0
    waiting = [_Waiting(event, None, None, first_depth, customer.balance - moved_before)]
    for next_one in waiting:  # which grows meanwhile
        looked_at, depth = next_one.event, next_one.depth
        outcome: Outcome | None = None
        balance = customer.balance
        if depth == 0 and isinstance(looked_at, RedemptionEvent):
            # Debited when it was decided: before the rules had any effect, and in the balance already.
            follows = points_event(looked_at, -looked_at.redemption.points, None, 0)
            balance_before = balance + looked_at.redemption.points
            waiting.append(_Waiting(follows, looked_at.event_id, None, 1, balance_before))
        facts = Facts(
            looked_at, looked_at.event_type, customer, rule_set.segments, now, next_one.balance_before,
            situation.windows,
        )  # fmt: skip
        if depth <= limits.POINTS_DEPTH_MAX:
            outcome = evaluate(facts, rule_set, rule_uses)
            effects += len(outcome.effects)
            if effects > limits.EFFECTS_PER_EVENT_MAX:
                raise TooManyEffects.of("eventId", str(event.event_id))
            if depth == 0 and isinstance(looked_at, PointsEvent):
                own = Effected(GivePoints(looked_at.points.quantity), None, 0)
                outcome = outcome._replace(effects=(own, *outcome.effects))
            customer = apply(customer, outcome.effects, outcome.uses)
            if outcome.uses:
                rule_uses = counted_together(rule_uses, outcome.uses)
            for effected in outcome.effects:
                if isinstance(effected.effect, GivePoints):
                    if effected.rule is not None:
                        rule_id = effected.rule.rule_id
                        follows = points_event(looked_at, effected.effect.amount, rule_id, effected.fulfilment_index)
                        waiting.append(_Waiting(follows, looked_at.event_id, rule_id, depth + 1, balance))
                    balance += effected.effect.amount
        steps.append(Step(looked_at, next_one.source_event_id, next_one.rule_id, depth, outcome))
        customer = counted_in(customer, facts, is_looked_back_at=rule_set.asks_windows)
    return Assessment(tuple(steps), customer, rule_uses)


def points_event(source: EventBase, quantity: int, rule_id: UUID | None, fulfilment_index: int) -> PointsEvent:
    """Make the points event that a points transaction is; everything but the points is its source's.

    Its id follows from the transaction's: the same transaction is never two events.
    """
    return PointsEvent.built(
        event_id=points_event_id(source.event_id, rule_id, fulfilment_index),
        customer_id=source.customer_id,
        name_space=source.name_space,
        reference=source.reference,
        campaign=source.campaign,
        attributes=source.attributes,
        created_at=created_at_of(source),
        event_type="points",
        points=PointsQuantity.built(quantity=quantity),
    )


def points_event_id(source_event_id: UUID, rule_id: UUID | None, fulfilment_index: int) -> UUID:
    """Give the id of the points event of a transaction: of a rule's fulfilment, or of what the event itself does."""
    return uuid5(source_event_id, _points_of(rule_id, fulfilment_index))


@lru_cache(maxsize=1_000)
def _points_of(rule_id: UUID | None, fulfilment_index: int) -> str:
    return "points" if rule_id is None else f"points:{rule_id}:{fulfilment_index}"
