"""Criteria on what is bought, in orders and in baskets alike."""

from typing import Any

import pytest

from tallymarks import limits
from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.criteria import Check
from tests.unit.builders import action, basket, order, points, transaction
from tests.unit.criteria import check, criterion, is_refused

SHOES = {"sku": "S-1", "vendor": "Acme", "category": "Shoes.Running", "type": "shoe", "quantity": 2, "tags": ["new"]}
SOCKS = {"sku": "S-2", "vendor": "Best", "category": "Socks", "type": "sock", "quantity": 3, "tags": ["new", "wool"]}
BARE: dict[str, Any] = {}
CARD = {"amount": "30", "scheme": "Visa", "bank": "First", "bin": "411111"}
CHEQUE = {"amount": "20.5", "bank": "Second"}
COUPON = {"method": "coupon"}

ITEM_TEXTS = {"sku": "sku", "vendor": "vendor", "category": "category", "productType": "type"}
PAYMENT_TEXTS = ["scheme", "bank", "bin"]
TOTALS = {
    "orderTotal": "total",
    "taxTotal": "tax_total",
    "shippingTotal": "shipping_total",
    "discountTotal": "discount_total",
}


def bought(**fields: Any) -> list[AnyEvent | BasketEvent]:
    """An order and a basket of the same content."""
    content = {"total": "10", **fields}
    return [order(order=content), basket(basket=content)]


def seen(fields: dict[str, Any], **content: Any) -> Check:
    """How the criterion looks at the order; it looks so at the basket too."""
    in_order, in_basket = (check(event, **fields) for event in bought(**content))
    assert in_order == in_basket
    return in_order


class TestTotals:
    @pytest.mark.parametrize("kind", TOTALS)
    @pytest.mark.parametrize(
        ("operator", "matched"),
        [
            ("equals", (False, True, False)),
            ("notEquals", (True, False, True)),
            ("lessThan", (True, False, False)),
            ("atMost", (True, True, False)),
            ("atLeast", (False, True, True)),
            ("moreThan", (False, False, True)),
        ],
    )
    def test_compares_at_the_edge(self, kind: str, operator: str, matched: tuple[bool, ...]) -> None:
        fields = {"type": kind, "operator": operator, "value": "5"}
        for total, expected in zip(("4.9999", "5", "5.0001"), matched, strict=True):
            assert seen(fields, **{TOTALS[kind]: total}) == Check(expected, saw=total)

    @pytest.mark.parametrize("kind", ["taxTotal", "shippingTotal", "discountTotal"])
    @pytest.mark.parametrize("operator", ["notEquals", "lessThan", "atLeast"])
    def test_a_total_that_is_not_told_matches_nothing(self, kind: str, operator: str) -> None:
        assert seen({"type": kind, "operator": operator, "value": 0}) == Check(matched=False, saw=None)


class TestTexts:
    @pytest.mark.parametrize("kind", ITEM_TEXTS)
    @pytest.mark.parametrize(
        ("operator", "value", "matched"),
        [
            ("equals", "B.2", True),
            ("equals", "B", False),
            ("equals", "b.2", False),
            ("equals", "A", True),
            ("beginsWith", "B", True),
            ("beginsWith", "B.2", True),
            ("beginsWith", "B.2.", False),
            ("beginsWith", "2", False),
            ("notEquals", "B.2", False),
            ("notEquals", "B", True),
        ],
    )
    def test_one_of_the_items_has_it_or_none_has(self, kind: str, operator: str, value: str, matched: bool) -> None:
        name = ITEM_TEXTS[kind]
        fields = {"type": kind, "operator": operator, "value": value}
        assert seen(fields, items=[{name: "A"}, BARE, {name: "B.2"}, {name: "A"}]) == Check(matched, saw="A, B.2")

    @pytest.mark.parametrize("kind", PAYMENT_TEXTS)
    @pytest.mark.parametrize(
        ("operator", "value", "matched"),
        [
            ("equals", "4111", True),
            ("equals", "41", False),
            ("beginsWith", "41", True),
            ("beginsWith", "55", False),
            ("notEquals", "4111", False),
            ("notEquals", "5500", True),
        ],
    )
    def test_one_of_the_payments_has_it_or_none_has(self, kind: str, operator: str, value: str, matched: bool) -> None:
        fields = {"type": kind, "operator": operator, "value": value}
        assert seen(fields, payments=[{kind: "4111"}, COUPON]) == Check(matched, saw="4111")

    @pytest.mark.parametrize("kind", [*ITEM_TEXTS, *PAYMENT_TEXTS])
    @pytest.mark.parametrize("operator", ["equals", "beginsWith", "notEquals"])
    def test_what_is_not_told_matches_nothing(self, kind: str, operator: str) -> None:
        fields = {"type": kind, "operator": operator, "value": "A"}
        nothing = Check(matched=False, saw=None)
        assert seen(fields) == seen(fields, items=[BARE], payments=[COUPON]) == nothing

    @pytest.mark.parametrize(
        ("operator", "value", "matched"),
        [
            ("equals", "wool", True),
            ("equals", "Wool", False),
            ("beginsWith", "wo", True),
            ("notEquals", "wool", False),
            ("notEquals", "silk", True),
        ],
    )
    def test_a_tag_is_there_or_is_not(self, operator: str, value: str, matched: bool) -> None:
        fields = {"type": "tag", "operator": operator, "value": value}
        assert seen(fields, items=[SHOES, SOCKS, BARE]) == Check(matched, saw="new, wool")

    def test_items_without_tags_tell_that_there_are_none_and_no_items_tell_nothing(self) -> None:
        absent = {"type": "tag", "operator": "notEquals", "value": "wool"}
        assert seen(absent, items=[BARE]) == Check(matched=True, saw=None)
        assert seen(absent) == Check(matched=False, saw=None)

    def test_compares_the_whole_unless_told_otherwise_and_needs_a_value(self) -> None:
        assert seen({"type": "sku", "value": "S-1"}, items=[SHOES]).matched
        assert not seen({"type": "sku", "value": "S"}, items=[SHOES]).matched
        assert is_refused(type="sku", value="")
        assert is_refused(type="sku")
        assert is_refused(type="sku", operator="contains", value="S")

    def test_tells_a_bounded_part_of_what_it_saw(self) -> None:
        many = [{"sku": f"{number:0100}"} for number in range(limits.ORDER_ITEMS_MAX)]
        saw = seen({"type": "sku", "value": "A"}, items=many).saw
        assert saw is not None
        assert len(saw) == limits.SAW_LENGTH_MAX
        assert saw.startswith("0" * 100 + ", ")


class TestProductQuantity:
    @pytest.mark.parametrize(
        ("fields", "saw"),
        [
            ({}, "6"),
            ({"sku": "S-1"}, "2"),
            ({"sku": "S-2"}, "3"),
            ({"sku": "S-3"}, "0"),
        ],
        ids=str,
    )
    def test_adds_up_the_pieces_of_all_or_of_one_product(self, fields: dict[str, str], saw: str) -> None:
        wanted = {"type": "productQuantity", "operator": "equals", "value": int(saw), **fields}
        assert seen(wanted, items=[SHOES, SOCKS, BARE]) == Check(matched=True, saw=saw)

    @pytest.mark.parametrize(("quantity", "matched"), [(2, False), (3, True), (4, True)])
    def test_compares_at_the_edge(self, quantity: int, matched: bool) -> None:
        at_least_three = {"type": "productQuantity", "operator": "atLeast", "value": 3}
        assert seen(at_least_three, items=[{"quantity": quantity}]).matched is matched

    def test_without_items_there_is_nothing_to_count(self) -> None:
        none = {"type": "productQuantity", "operator": "atMost", "value": 10}
        assert seen(none) == Check(matched=False, saw=None)
        assert seen(none, items=[{"quantity": 0}]) == Check(matched=True, saw="0")


class TestTagCount:
    @pytest.mark.parametrize(("value", "matched"), [(1, False), (2, True), (3, False)])
    def test_counts_each_tag_once(self, value: int, matched: bool) -> None:
        fields = {"type": "tagCount", "operator": "equals", "value": value}
        assert seen(fields, items=[SHOES, SOCKS, SHOES]) == Check(matched, saw="2")

    def test_no_tags_are_none_and_no_items_are_nothing(self) -> None:
        none = {"type": "tagCount", "operator": "equals", "value": 0}
        assert seen(none, items=[BARE]) == Check(matched=True, saw="0")
        assert seen(none) == Check(matched=False, saw=None)


class TestPaymentAmount:
    @pytest.mark.parametrize(
        ("fields", "saw"),
        [
            ({}, "50.5"),
            ({"scheme": "Visa"}, "30"),
            ({"bank": "Second"}, "20.5"),
            ({"bin": "411111"}, "30"),
            ({"scheme": "Visa", "bank": "Second"}, "0"),
            ({"scheme": "Visa", "bank": "First", "bin": "411111"}, "30"),
        ],
        ids=str,
    )
    def test_adds_up_what_was_paid_in_all_or_by_one_way(self, fields: dict[str, str], saw: str) -> None:
        wanted = {"type": "paymentAmount", "operator": "equals", "value": saw, **fields}
        assert seen(wanted, payments=[CARD, CHEQUE, COUPON]) == Check(matched=True, saw=saw)

    @pytest.mark.parametrize(("amount", "matched"), [("49.9999", False), ("50", True), ("50.0001", True)])
    def test_compares_at_the_edge(self, amount: str, matched: bool) -> None:
        at_least_fifty = {"type": "paymentAmount", "operator": "atLeast", "value": "50"}
        assert seen(at_least_fifty, payments=[{"amount": amount}]).matched is matched

    def test_without_payments_there_is_nothing_to_compare(self) -> None:
        assert seen({"type": "paymentAmount", "operator": "atMost", "value": 1}) == Check(matched=False, saw=None)


PURCHASE = [
    *({"type": kind, "operator": "atLeast", "value": 0} for kind in (*TOTALS, "productQuantity", "tagCount")),
    {"type": "paymentAmount", "operator": "atLeast", "value": 0},
    *({"type": kind, "operator": "notEquals", "value": "A"} for kind in (*ITEM_TEXTS, *PAYMENT_TEXTS, "tag")),
]


@pytest.mark.parametrize("fields", PURCHASE, ids=lambda fields: str(fields["type"]))
def test_goes_with_orders_and_baskets_and_no_other_event(fields: dict[str, Any]) -> None:
    assert criterion(**fields).event_types() == {EventType.ORDER, EventType.BASKET}
    for other in (action(), transaction(), points()):
        assert check(other, **fields) == Check(matched=False, saw=None)
