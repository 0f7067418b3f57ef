"""Baskets: what the rules would give, told while the caller waits; nothing of them is recorded."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from tallymarks import situations
from tallymarks.errors import BalanceOutOfRange, TooManyEffects, Unauthorized
from tallymarks.events import BasketEvent
from tallymarks.rules.basket import BasketAssessment, assess_basket, order_of
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.fulfilment import DiscountKind, DiscountTarget, GrantDiscount, GrantVoucher
from tallymarks.values import Amount, Model
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing
from tallymarks_api.events import TAG


class OfRule(Model):
    """What comes of one rule."""

    rule_id: UUID
    rule_version: int
    rule_name: str


class PointsOffered(OfRule):
    """Points that a rule would give, or take."""

    amount: int


class DiscountOffered(OfRule):
    """What is to be taken off; each is counted on the basket as it was sent."""

    target: DiscountTarget
    kind: DiscountKind
    value: Amount
    """Per cent, or an amount, as the rule has it."""
    amount: Amount
    """What that comes to: rounded half up to 4 decimals, and never more than what it is taken from, or the total."""
    sku: str | None
    """Of a discount on products: the sku that it is on."""
    category: str | None
    """Likewise, the category."""


class VoucherOffered(OfRule):
    """A voucher that the customer may have."""

    code: str
    description: str | None


class BasketOffer(Model):
    """What the rules would give for a basket."""

    customer_id: UUID
    tenant_id: UUID
    points_if_ordered: int
    """All of `points` together: an estimate, since what is ordered is assessed when it is."""
    points: tuple[PointsOffered, ...]
    """Of order rules, of the points rules that follow, and of basket rules."""
    discounts: tuple[DiscountOffered, ...]
    vouchers: tuple[VoucherOffered, ...]


async def post_basket(call: Call[Nothing, Nothing, BasketEvent]) -> Answer:
    """Answer what the rules would give for a basket: points were it ordered now, discounts, and vouchers.

    Nothing is recorded, not even an unknown customer, so the same basket can be asked about any number of times.
    """
    now, basket = call.parts.now(), call.body
    if basket.created_at is None:
        basket = basket.model_copy(update={"created_at": now})
    async with call.parts.database.reading(call.tenant_id) as connection:
        rule_set = await call.parts.rule_sets.current(connection, call.tenant_id)
        if rule_set is None:
            raise Unauthorized
        situation = await situations.look(connection, call.tenant_id, order_of(basket), rule_set, now)
    return Answer(offer_of(call.tenant_id, basket, assess_basket(basket, situation, rule_set, now)))


def offer_of(tenant_id: UUID, basket: BasketEvent, assessment: BasketAssessment) -> BasketOffer:
    """Tell what rules would give for the basket."""
    points = tuple(_points(assessment))
    return BasketOffer(
        customer_id=basket.customer_id,
        tenant_id=tenant_id,
        points_if_ordered=sum(one.amount for one in points),
        points=points,
        discounts=tuple(_discounts(assessment.offered.effects)),
        vouchers=tuple(_vouchers(assessment.offered.effects)),
    )


def _points(assessment: BasketAssessment) -> Iterator[PointsOffered]:
    for effected, amount in assessment.points():
        yield PointsOffered(**_rule(effected), amount=amount)


def _discounts(effects: Iterable[Effected]) -> Iterator[DiscountOffered]:
    for effected in effects:
        match effected.effect:
            case GrantDiscount(target, kind, value, amount, sku, category):
                yield DiscountOffered(
                    **_rule(effected), target=target, kind=kind, value=value, amount=amount, sku=sku, category=category
                )


def _vouchers(effects: Iterable[Effected]) -> Iterator[VoucherOffered]:
    for effected in effects:
        match effected.effect:
            case GrantVoucher(code, description):
                yield VoucherOffered(**_rule(effected), code=code, description=description)


def _rule(effected: Effected) -> dict[str, Any]:
    if effected.rule is None:
        raise TypeError("a basket has no effect of its own")
    rule = effected.rule
    return {"rule_id": rule.rule_id, "rule_version": rule.version, "rule_name": rule.name}


ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/events/baskets", TAG, "Ask what a basket would give", post_basket,
        answers={200: BasketOffer}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(BasketEvent),
        refusals=(BalanceOutOfRange, TooManyEffects),
    ),
)  # fmt: skip
