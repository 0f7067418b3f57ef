"""Criteria on what is bought, in an order or in a basket that may become one.

What the caller did not tell never matches, whatever the operator: an order without items has no sku to compare, not
even one that differs.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import ClassVar, Literal

from tallymarks import limits
from tallymarks.events import EventType, Order, OrderItem, OrderPayment
from tallymarks.rules.claims import Claim, Numbers, Texts
from tallymarks.rules.comparison import AMOUNTS, Comparison
from tallymarks.rules.criterion import Check, CriterionBase, FoundBy, listed
from tallymarks.rules.facts import Facts
from tallymarks.values import Amount, Count, RequiredText

PURCHASE_TYPES = frozenset({EventType.ORDER, EventType.BASKET})


class TotalComparison(Comparison[Amount]):
    """Compares one of the totals of an order or a basket."""

    possible: ClassVar = AMOUNTS
    looks_at: ClassVar = PURCHASE_TYPES

    def number(self, facts: Facts) -> Decimal | None:
        """Give the total."""
        purchase = facts.event.purchase
        return self._total(purchase) if purchase else None

    @abstractmethod
    def _total(self, purchase: Order) -> Decimal | None: ...


class OrderTotal(TotalComparison):
    """Compares the total."""

    type: Literal["orderTotal"]

    def _total(self, purchase: Order) -> Decimal:
        return purchase.total


class TaxTotal(TotalComparison):
    """Compares the tax."""

    type: Literal["taxTotal"]

    def _total(self, purchase: Order) -> Decimal | None:
        return purchase.tax_total


class ShippingTotal(TotalComparison):
    """Compares the cost of shipping."""

    type: Literal["shippingTotal"]

    def _total(self, purchase: Order) -> Decimal | None:
        return purchase.shipping_total


class DiscountTotal(TotalComparison):
    """Compares the discount that was given."""

    type: Literal["discountTotal"]

    def _total(self, purchase: Order) -> Decimal | None:
        return purchase.discount_total


class ProductQuantity(Comparison[Count]):
    """Compares the number of pieces: of all products, or of the one with the sku. A line without a quantity is one."""

    type: Literal["productQuantity"]
    sku: RequiredText | None = None
    possible: ClassVar = Numbers.whole(0, limits.ORDER_ITEMS_MAX * limits.COUNT_MAX)
    looks_at: ClassVar = PURCHASE_TYPES

    def number(self, facts: Facts) -> int | None:
        """Add up the quantities; None where there are no items."""
        purchase = facts.event.purchase
        if purchase is None or not purchase.items:
            return None
        counted = (item for item in purchase.items if self.sku in (None, item.sku))
        return sum(1 if item.quantity is None else item.quantity for item in counted)

    def subject(self) -> str:
        """Name the product, or all."""
        return "pieces" if self.sku is None else f"pieces of {self.sku}"


class TagCount(Comparison[Count]):
    """Compares the number of different tags on the items."""

    type: Literal["tagCount"]
    possible: ClassVar = Numbers.whole(0, limits.ORDER_ITEMS_MAX * limits.ITEM_TAGS_MAX)
    looks_at: ClassVar = PURCHASE_TYPES

    def number(self, facts: Facts) -> int | None:
        """Count the tags, each once; None where there are no items."""
        purchase = facts.event.purchase
        if purchase is None or not purchase.items:
            return None
        return len({tag for item in purchase.items for tag in item.tags})


class PaymentAmount(Comparison[Amount]):
    """Compares what was paid, in all or by the payments of one scheme, bank or bin; one without an amount is 0."""

    type: Literal["paymentAmount"]
    scheme: RequiredText | None = None
    bank: RequiredText | None = None
    bin: RequiredText | None = None
    possible: ClassVar = Numbers(limits.ORDER_PAYMENTS_MAX * AMOUNTS.least, limits.ORDER_PAYMENTS_MAX * AMOUNTS.most)
    looks_at: ClassVar = PURCHASE_TYPES

    def number(self, facts: Facts) -> Decimal | None:
        """Add up the payments; None where there are none."""
        purchase = facts.event.purchase
        if purchase is None or not purchase.payments:
            return None
        counted = (payment.amount for payment in purchase.payments if self._is_counted(payment))
        return sum((amount for amount in counted if amount is not None), start=Decimal(0))

    def subject(self) -> str:
        """Name the payments that are added up."""
        return f"payments by {self.scheme!r} {self.bank!r} {self.bin!r}"

    def _is_counted(self, payment: OrderPayment) -> bool:
        wanted = ((self.scheme, payment.scheme), (self.bank, payment.bank), (self.bin, payment.bin))
        return all(name in (None, seen) for name, seen in wanted)


class PurchaseText(CriterionBase):
    """Matches when one of the texts is the value, or begins with it; with `notEquals` when none of them is."""

    operator: Literal["equals", "beginsWith", "notEquals"] = "equals"
    value: RequiredText
    looks_at: ClassVar = PURCHASE_TYPES

    def found_by(self) -> FoundBy | None:
        """Tell that one of the texts must be the value."""
        return FoundBy(self.type, self.value) if self.operator == "equals" else None

    def check(self, facts: Facts) -> Check:
        """Compare each of the texts; case counts."""
        purchase = facts.event.purchase
        texts = None if purchase is None else self._texts(purchase)
        if texts is None:
            return Check(matched=False, saw=None)
        return Check(self._matches(texts), listed(texts))

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for both types
        """Tell whether there is such a text; others may stand beside it."""
        if self.operator != "beginsWith":
            found = Texts("some" if self.operator == "equals" else "none")
            yield Claim("value", f"{type(self).__name__} {self.value}", found)

    def _matches(self, texts: list[str]) -> bool:
        match self.operator:
            case "equals":
                return self.value in texts
            case "beginsWith":
                return any(text.startswith(self.value) for text in texts)
            case "notEquals":
                return self.value not in texts

    @abstractmethod
    def _texts(self, purchase: Order) -> list[str] | None:
        """Give the texts, None where none were told."""


class ItemText(PurchaseText):
    """A text that each item may have."""

    def _texts(self, purchase: Order) -> list[str] | None:
        return _told(map(self._text, purchase.items))

    @abstractmethod
    def _text(self, item: OrderItem) -> str | None: ...


class Sku(ItemText):
    """Looks at the items' skus."""

    type: Literal["sku"]

    def _text(self, item: OrderItem) -> str | None:
        return item.sku


class Vendor(ItemText):
    """Looks at the items' vendors."""

    type: Literal["vendor"]

    def _text(self, item: OrderItem) -> str | None:
        return item.vendor


class Category(ItemText):
    """Looks at the items' categories."""

    type: Literal["category"]

    def _text(self, item: OrderItem) -> str | None:
        return item.category


class ProductType(ItemText):
    """Looks at the items' types."""

    type: Literal["productType"]

    def _text(self, item: OrderItem) -> str | None:
        return item.type


class Tag(PurchaseText):
    """Looks at the tags of all items: items without tags tell that there are none."""

    type: Literal["tag"]

    def _texts(self, purchase: Order) -> list[str] | None:
        return [tag for item in purchase.items for tag in item.tags] if purchase.items else None


class PaymentText(PurchaseText):
    """A text that each payment may have."""

    def _texts(self, purchase: Order) -> list[str] | None:
        return _told(map(self._text, purchase.payments))

    @abstractmethod
    def _text(self, payment: OrderPayment) -> str | None: ...


class Scheme(PaymentText):
    """Looks at the payments' schemes, such as Visa."""

    type: Literal["scheme"]

    def _text(self, payment: OrderPayment) -> str | None:
        return payment.scheme


class Bank(PaymentText):
    """Looks at the payments' banks."""

    type: Literal["bank"]

    def _text(self, payment: OrderPayment) -> str | None:
        return payment.bank


class Bin(PaymentText):
    """Looks at the first digits of the cards that were paid with, which name their issuer."""

    type: Literal["bin"]

    def _text(self, payment: OrderPayment) -> str | None:
        return payment.bin


def _told(texts: Iterable[str | None]) -> list[str] | None:
    return [text for text in texts if text is not None] or None
