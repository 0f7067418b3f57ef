"""Evaluating rules: a pure function, and how its outcome changes the state that the next event meets."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from tallymarks import limits
from tallymarks.errors import BalanceOutOfRange
from tallymarks.events import created_at_of
from tallymarks.rules.asked import Considered
from tallymarks.rules.criteria import Check
from tallymarks.rules.facts import NONE, CustomerState, Facts
from tallymarks.rules.fulfilments import Effect, GivePoints, JoinSegment, LeaveSegment
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_set import RuleSet
from tallymarks.rules.uses import NEVER_USED, RuleUses, Use, counted_for_customer, limit_met, use_keys


class Effected(NamedTuple):
    """One effect, and the fulfilment that it comes from; `rule` is None for what the event itself does."""

    effect: Effect
    rule: Rule | None
    fulfilment_index: int


class Outcome(NamedTuple):
    """What an event does, and why."""

    effects: tuple[Effected, ...]
    considered: tuple[Considered, ...]
    uses: tuple[Use, ...] = ()
    checks: Mapping[int, Check] = NONE
    """How each criterion that was asked looked at it, by its number in the rule set."""


NOTHING = Outcome((), ())


def evaluate(facts: Facts, rule_set: RuleSet, rule_uses: Mapping[UUID, RuleUses]) -> Outcome:
    """Ask each rule that could match what it makes of the event.

    Every rule sees the customer as before the event, so that no rule depends on the order of the others; the effects
    then apply in rule order. Memberships count at `now`; date ranges, versions and periods at the event's createdAt.
    """
    to_ask = rule_set.to_ask(facts.event, facts.event_type)
    if not to_ask:
        return NOTHING
    effects: list[Effected] = []
    considered: list[Considered] = []
    uses: list[Use] = []
    checks: dict[int, Check] = {}
    at = created_at_of(facts.event)
    for asked in to_ask:
        if asked.is_ranged and not asked.rule.applies_at(at):
            continue
        consideration = asked.consider(facts, checks)
        if consideration.matched:
            rule = asked.rule
            given = list(fulfil(rule, facts))
            if rule.limits is not None:
                use = _use(rule, given, at)
                limited = limit_met(rule, use, facts.customer.uses, rule_uses.get(rule.rule_id, NEVER_USED))
                if limited is None:
                    uses.append(use)
                else:
                    consideration = asked.limited_by(limited)
            if consideration.limited is None:
                effects.extend(given)
        considered.append(consideration)
    return Outcome(tuple(effects), tuple(considered), tuple(uses), checks)


def fulfil(rule: Rule, facts: Facts) -> Iterable[Effected]:
    """Give the effects of a matching rule."""
    for index, fulfilment in enumerate(rule.fulfilments):
        effect = fulfilment.fulfil(facts)
        if effect is not None:
            yield Effected(effect, rule, index)


def _use(rule: Rule, given: Iterable[Effected], at: datetime) -> Use:
    points = sum(effected.effect.amount for effected in given if isinstance(effected.effect, GivePoints))
    return Use(rule.rule_id, use_keys(rule, at), points)


def apply(customer: CustomerState, effects: Sequence[Effected], uses: Sequence[Use] = ()) -> CustomerState:
    """Give the customer's state after the effects; the event itself is not counted in yet.

    Raises:
        BalanceOutOfRange: a balance beyond its bound; nothing of the event may then be kept.
    """
    if not effects and not uses:
        return customer
    balance, memberships = customer.balance, customer.memberships
    for effected in effects:
        match effected.effect:
            case GivePoints(amount):
                balance += amount
            case JoinSegment(segment_id, lapses_at):
                memberships = {**memberships, segment_id: lapses_at}
            case LeaveSegment(segment_id):
                memberships = {key: lapse for key, lapse in memberships.items() if key != segment_id}
    return CustomerState(
        customer.customer_id,
        customer.created_at,
        in_range(balance),
        memberships,
        customer.totals,
        counted_for_customer(customer.uses, uses) if uses else customer.uses,
        customer.recent,
    )


def in_range(balance: int) -> int:
    """Hold a balance to its bound.

    Raises:
        BalanceOutOfRange: it is beyond.
    """
    if abs(balance) > limits.POINTS_MAX:
        raise BalanceOutOfRange.of("balance", balance)
    return balance
