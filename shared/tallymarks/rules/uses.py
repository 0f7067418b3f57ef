"""Uses of rules that have limits: what a match counts under, and whether there is room for one more."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from tallymarks import limits
from tallymarks.rules.facts import UseKey
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_limits import period_from

LIFE = "life"
"""The period of the limit that has none."""


class Limited(StrEnum):
    """The limit that a match ran into, by its name in the rule."""

    PER_CUSTOMER = "perCustomer"
    PER_PERIOD = "perPeriod"
    TOTAL = "total"
    POINTS_TOTAL = "pointsTotal"


class RuleUses(NamedTuple):
    """How often all customers together have used a rule, and the points that it gave them."""

    uses: int = 0
    points: int = 0


NEVER_USED = RuleUses()


class Use(NamedTuple):
    """A match that counts towards the limits of its rule."""

    rule_id: UUID
    keys: tuple[UseKey, ...]
    """What it counts under for the customer."""
    points: int


def use_keys(rule: Rule, at: datetime) -> tuple[UseKey, ...]:
    """Give what a match at this instant counts under for its customer, where the rule asks."""
    rule_limits, keys = rule.limits, []
    if rule_limits is not None and rule_limits.per_customer is not None:
        keys.append(UseKey(rule.rule_id, LIFE, limits.INSTANT_MIN))
    if rule_limits is not None and rule_limits.per_period is not None:
        unit = rule_limits.per_period.unit
        keys.append(UseKey(rule.rule_id, unit, period_from(at, unit)))
    return tuple(keys)


def counts_together(rule: Rule) -> bool:
    """Tell whether the rule has a limit on what all customers use together."""
    return rule.limits is not None and (rule.limits.total is not None or rule.limits.points_total is not None)


def limit_met(rule: Rule, use: Use, of_customer: Mapping[UseKey, int], together: RuleUses) -> Limited | None:
    """Tell which limit of the rule leaves no room for the use; None where all do.

    Args:
        rule: the rule that matched.
        use: what the match would count.
        of_customer: the customer's uses so far.
        together: what all customers have used so far.
    """
    if rule.limits is None:
        return None
    for key in use.keys:
        so_far = of_customer.get(key, 0)
        if key.period == LIFE:
            if rule.limits.per_customer is not None and so_far >= rule.limits.per_customer:
                return Limited.PER_CUSTOMER
        elif rule.limits.per_period is not None and so_far >= rule.limits.per_period.count:
            return Limited.PER_PERIOD
    if rule.limits.total is not None and together.uses >= rule.limits.total:
        return Limited.TOTAL
    if rule.limits.points_total is not None and together.points + use.points > rule.limits.points_total:
        return Limited.POINTS_TOTAL
    return None


def counted_for_customer(uses: Mapping[UseKey, int], more: Iterable[Use]) -> Mapping[UseKey, int]:
    """Give the customer's uses with these counted in."""
    counted = dict(uses)
    for use in more:
        for key in use.keys:
            counted[key] = counted.get(key, 0) + 1
    return counted


def counted_together(uses: Mapping[UUID, RuleUses], more: Iterable[Use]) -> Mapping[UUID, RuleUses]:
    """Give the uses by all customers with these counted in."""
    counted = dict(uses)
    for use in more:
        so_far = counted.get(use.rule_id, NEVER_USED)
        counted[use.rule_id] = RuleUses(so_far.uses + 1, so_far.points + use.points)
    return counted
