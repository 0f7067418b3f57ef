"""Asking rules about a basket: what basket rules offer for it, and what it would earn were it an order."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tallymarks import limits
from tallymarks.errors import TooManyEffects
from tallymarks.events import BasketEvent, OrderEvent
from tallymarks.rules.assessment import Assessment, Situation, assess
from tallymarks.rules.evaluate import Effected, Outcome, apply, evaluate
from tallymarks.rules.facts import Facts
from tallymarks.rules.fulfilment import GivePoints
from tallymarks.rules.rule_set import RuleSet


@dataclass(frozen=True, slots=True)
class BasketAssessment:
    """All that rules make of one basket; none of it is to be kept."""

    offered: Outcome
    """What basket rules give for it."""
    ordered: Assessment
    """What would follow were it posted as an order."""

    def points(self) -> Iterator[tuple[Effected, int]]:
        """Give each effect that gives or takes points, with these: of the order, what follows, and then the basket."""
        outcomes = [step.outcome for step in self.ordered.steps if step.outcome is not None]
        for outcome in (*outcomes, self.offered):
            for effected in outcome.effects:
                if isinstance(effected.effect, GivePoints):
                    yield effected, effected.effect.amount


def assess_basket(basket: BasketEvent, situation: Situation, rule_set: RuleSet, now: datetime) -> BasketAssessment:
    """Ask basket rules about the basket, and all others about the order that it would be.

    Both see the customer as before either: nothing of a basket changes what the next one meets.

    Raises:
        BalanceOutOfRange: the points would carry a balance beyond its bound.
        TooManyEffects: the basket has more effects than an event may have, or its rules feed each other without an end.
    """
    customer = situation.customer
    facts = Facts(
        basket, basket.event_type, customer, rule_set.segments, now, customer.balance, windows=situation.windows
    )
    offered = evaluate(facts, rule_set, situation.rule_uses)
    if len(offered.effects) > limits.EFFECTS_PER_EVENT_MAX:
        raise TooManyEffects.of("eventId", str(basket.event_id))
    ordered = assess(order_of(basket), situation, rule_set, now)
    apply(ordered.customer, offered.effects)
    return BasketAssessment(offered, ordered)


def order_of(basket: BasketEvent) -> OrderEvent:
    """Make the order that a basket would be."""
    return OrderEvent(
        event_id=basket.event_id,
        customer_id=basket.customer_id,
        name_space=basket.name_space,
        reference=basket.reference,
        campaign=basket.campaign,
        attributes=basket.attributes,
        created_at=basket.created_at,
        order=basket.basket,
    )
