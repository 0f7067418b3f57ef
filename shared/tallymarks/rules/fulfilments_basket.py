"""Fulfilments of basket rules: what the caller is told to take off, or to give, before a basket becomes an order.

Each discount is counted on the basket as it was sent, whatever the other rules take off.
"""

from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from tallymarks import limits
from tallymarks.events import EventType, Order, OrderItem
from tallymarks.rules.facts import Facts
from tallymarks.rules.fulfilment import (
    DiscountKind,
    DiscountTarget,
    Effect,
    FulfilmentBase,
    GrantDiscount,
    GrantVoucher,
)
from tallymarks.values import LongText, PositiveAmount, RequiredText

BASKET_TYPES = frozenset({EventType.BASKET})
SMALLEST_AMOUNT = Decimal(1).scaleb(-limits.AMOUNT_DIGITS_AFTER_POINT_MAX)


class OfferDiscount(FulfilmentBase):
    """Takes a percentage or an amount off the basket, its delivery, or the items with a sku or of a category."""

    type: Literal["discount"]
    target: DiscountTarget
    kind: DiscountKind
    value: PositiveAmount
    """Per cent (100 at the most), or an amount in the basket's currency."""
    sku: RequiredText | None = None
    """Of a discount on products: whose sku is this."""
    category: RequiredText | None = None
    """Likewise, whose category is this; where both are given, both must be."""

    @field_validator("value")
    @classmethod
    def _is_no_more_than_all(cls, value: Decimal, info: ValidationInfo) -> Decimal:
        if info.data.get("kind") is DiscountKind.PERCENTAGE and value > limits.PERCENTAGE_MAX:
            raise ValueError("a discount is 100 per cent at the most")
        return value

    @model_validator(mode="after")
    def _selects_products(self) -> "OfferDiscount":
        if (self.sku is None and self.category is None) is (self.target is DiscountTarget.PRODUCT):
            raise ValueError("a discount on products needs a sku or a category, and no other discount has one")
        return self

    def event_types(self) -> frozenset[EventType]:
        """Only baskets."""
        return BASKET_TYPES

    def fulfil(self, facts: Facts) -> Effect | None:
        """Give what is taken off, exactly; none where there is nothing to take it from, or it comes to nothing.

        A percentage is rounded half up to 4 decimals. It is never more than what it is taken from, nor, on products,
        than the basket's total: what items cost, times how many they are, has no other bound.
        """
        purchase = facts.event.purchase
        if purchase is None:
            return None
        # All of it is exact in the 28 digits of decimals: a thousand of the largest lines have as many, and what is not
        # capped by the total has at most 16 with 6 more behind them.
        whole = self._taken_from(purchase)
        off = whole * self.value.scaleb(-2) if self.kind is DiscountKind.PERCENTAGE else self.value
        most = min(whole, purchase.total) if self.target is DiscountTarget.PRODUCT else whole
        amount = min(off, most).quantize(SMALLEST_AMOUNT, ROUND_HALF_UP)
        if amount <= 0:
            return None
        return GrantDiscount(self.target, self.kind, self.value, amount, self.sku, self.category)

    def _taken_from(self, purchase: Order) -> Decimal:
        match self.target:
            case DiscountTarget.BASKET:
                return purchase.total
            case DiscountTarget.DELIVERY:
                return purchase.shipping_total or Decimal(0)
            case DiscountTarget.PRODUCT:
                return sum((_cost(item) for item in purchase.items if self._selects(item)), start=Decimal(0))

    def _selects(self, item: OrderItem) -> bool:
        return self.sku in (None, item.sku) and self.category in (None, item.category)


def _cost(item: OrderItem) -> Decimal:
    """Give what a line costs: one without a price nothing, one without a quantity is one piece."""
    pieces = 1 if item.quantity is None else item.quantity
    return (item.price or Decimal(0)) * pieces


class OfferVoucher(FulfilmentBase):
    """Offers the customer a voucher."""

    type: Literal["voucher"]
    code: RequiredText
    description: LongText | None = None

    def event_types(self) -> frozenset[EventType]:
        """Only baskets."""
        return BASKET_TYPES

    def fulfil(self, facts: Facts) -> Effect | None:  # noqa: ARG002 - it is the same for every basket
        """Give the voucher."""
        return GrantVoucher(self.code, self.description)
