"""Baskets: what discounts come to, what else rules give for a basket, and why."""

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tallymarks import limits
from tallymarks.errors import BalanceOutOfRange, TooManyEffects
from tallymarks.events import BasketEvent, EventType
from tallymarks.rules.assessment import Situation
from tallymarks.rules.basket import BasketAssessment, assess_basket, order_of
from tallymarks.rules.explanation import explain
from tallymarks.rules.facts import CustomerState
from tallymarks.rules.fulfilments import Fulfilment, GrantDiscount, GrantVoucher
from tallymarks.rules.rule import NewRule, Rule
from tests.parts import START
from tests.unit.builders import (
    CUSTOMER,
    EVENT,
    SEGMENT,
    amounts,
    basket,
    baskets,
    customer,
    facts,
    generated,
    id_of,
    order,
    rule,
    rule_set,
)

FORM: TypeAdapter[Fulfilment] = TypeAdapter(Fulfilment)


def discount(target: str = "basket", kind: str = "percentage", value: object = "10", **fields: Any) -> dict[str, Any]:
    return {"type": "discount", "target": target, "kind": kind, "value": value, **fields}


def holding(total: str = "100", *items: dict[str, Any], **fields: Any) -> BasketEvent:
    return basket(basket={"total": total, "items": items, **fields})


def off(event: BasketEvent, **fields: Any) -> str | None:
    """What a discount takes off the basket."""
    effect = FORM.validate_python(fields).fulfil(facts(event))
    if effect is None:
        return None
    assert isinstance(effect, GrantDiscount)
    assert effect.value == Decimal(str(fields["value"]))
    return str(effect.amount)


def is_refused(**fields: Any) -> bool:
    try:
        FORM.validate_python(fields)
    except ValidationError:
        return True
    return False


def assessed(event: BasketEvent, *rules: Rule, state: CustomerState | None = None) -> BasketAssessment:
    return assess_basket(event, Situation(state or customer(), {}, {}), rule_set(rules), START)


SHOE, SOCK = {"sku": "SHOE", "category": "Shoes", "price": "59.99"}, {"sku": "SOCK", "category": "Socks", "price": "3"}


class TestDiscount:
    @pytest.mark.parametrize(
        ("percentage", "total", "expected"),
        [
            ("10", "50", "5.0000"),
            ("100", "50", "50.0000"),
            ("0.0001", "50", "0.0001"),
            ("50", "0.0001", "0.0001"),
            ("49.9999", "0.0001", None),
            ("10", "0.0005", "0.0001"),
            ("10", "0.0004", None),
            ("33.3333", "10", "3.3333"),
            ("12.5", "0.0036", "0.0005"),
            ("15", "9.9990", "1.4999"),
            ("100", "999999999999.9999", "999999999999.9999"),
            ("99.9999", "999999999999.9999", "999998999999.9999"),
            ("10", "0", None),
            ("10", "-50", None),
        ],
    )
    def test_a_percentage_is_exact_and_rounded_half_up_to_4_decimals(
        self, percentage: str, total: str, expected: str | None
    ) -> None:
        assert off(holding(total), **discount(value=percentage)) == expected

    @pytest.mark.parametrize(
        ("value", "total", "expected"),
        [
            ("5", "50", "5.0000"),
            ("50", "50", "50.0000"),
            ("50.0001", "50", "50.0000"),
            ("999999999999.9999", "0.0001", "0.0001"),
            ("5", "0", None),
            ("5", "-1", None),
        ],
    )
    def test_an_amount_is_never_more_than_the_basket(self, value: str, total: str, expected: str | None) -> None:
        assert off(holding(total), **discount(kind="absolute", value=value)) == expected

    @pytest.mark.parametrize(
        ("kind", "value", "shipping", "expected"),
        [
            ("percentage", "100", "4.90", "4.9000"),
            ("percentage", "50", "4.9", "2.4500"),
            ("absolute", "3", "4.90", "3.0000"),
            ("absolute", "10", "4.90", "4.9000"),
            ("absolute", "10", "0", None),
            ("percentage", "100", None, None),
        ],
    )
    def test_on_delivery_is_taken_from_what_shipping_costs(
        self, kind: str, value: str, shipping: str | None, expected: str | None
    ) -> None:
        assert off(holding("1", shipping_total=shipping), **discount("delivery", kind, value)) == expected

    @pytest.mark.parametrize(
        ("items", "selector", "expected"),
        [
            ([SHOE], {"sku": "SHOE"}, "5.9990"),
            ([{**SHOE, "quantity": 2}], {"sku": "SHOE"}, "11.9980"),
            ([{**SHOE, "quantity": 2}, SOCK, SHOE], {"sku": "SHOE"}, "17.9970"),
            ([{**SHOE, "quantity": 0}], {"sku": "SHOE"}, None),
            ([SOCK], {"sku": "SHOE"}, None),
            ([], {"sku": "SHOE"}, None),
            ([{"sku": "SHOE"}, SOCK], {"sku": "SHOE"}, None),
            ([SHOE, SOCK, {**SOCK, "sku": "SOCK-2"}], {"category": "Socks"}, "0.6000"),
            ([SHOE, SOCK, {**SOCK, "sku": "SOCK-2"}], {"category": "Socks", "sku": "SOCK-2"}, "0.3000"),
            ([SHOE, SOCK], {"category": "Socks", "sku": "SHOE"}, None),
            ([SHOE], {"sku": "shoe"}, None),
            ([SHOE, {**SHOE, "price": "-9.99"}], {"sku": "SHOE"}, "5.0000"),
            ([{**SHOE, "price": "-9.99"}], {"sku": "SHOE"}, None),
        ],
    )
    def test_on_products_is_taken_from_the_lines_that_it_selects(
        self, items: list[dict[str, Any]], selector: dict[str, str], expected: str | None
    ) -> None:
        assert off(holding("500", *items), **discount("product", **selector)) == expected

    @pytest.mark.parametrize(
        ("kind", "value", "total", "expected"),
        [
            ("absolute", "200", "500", "119.9800"),
            ("absolute", "200", "100", "100.0000"),
            ("percentage", "100", "100", "100.0000"),
            ("percentage", "50", "100", "59.9900"),
            ("percentage", "50", "0", None),
        ],
    )
    def test_on_products_is_never_more_than_they_cost_nor_than_the_basket(
        self, kind: str, value: str, total: str, expected: str | None
    ) -> None:
        event = holding(total, {**SHOE, "quantity": 2}, SOCK)
        assert off(event, **discount("product", kind, value, sku="SHOE")) == expected

    def test_on_the_largest_basket_there_can_be_is_exact(self) -> None:
        line = {"sku": "SHOE", "price": "999999999999.9999", "quantity": limits.COUNT_MAX}
        credit = {**line, "price": "-999999999999.9998"}
        least = discount("product", value="0.0001", sku="SHOE")
        assert off(holding("999999999999.9999", *[line] * limits.ORDER_ITEMS_MAX), **least) == "999999999999.9999"
        # What the credits leave is 500 times a thousand million times 0.0001.
        halves = [line] * (limits.ORDER_ITEMS_MAX // 2) + [credit] * (limits.ORDER_ITEMS_MAX // 2)
        assert off(holding("99999999", *halves), **discount("product", value="1", sku="SHOE")) == "500000.0000"

    @generated
    @given(amounts, st.decimals("0.0001", 100, places=4), st.sampled_from(["percentage", "absolute"]))
    def test_is_exact_whatever_the_numbers(self, total: Decimal, value: Decimal, kind: str) -> None:
        asked = Fraction(total) * Fraction(value) / 100 if kind == "percentage" else Fraction(value)
        cents = min(asked, Fraction(total)) * 10**4
        rounded = (2 * cents.numerator + cents.denominator) // (2 * cents.denominator)
        found = off(holding(str(total)), **discount(kind=kind, value=value))
        assert found == (str(Decimal(rounded).scaleb(-4)) if rounded > 0 else None)

    @generated
    @given(baskets(), st.sampled_from(["basket", "delivery", "product"]), st.sampled_from(["percentage", "absolute"]))
    def test_never_raises_and_never_takes_more_than_there_is(self, event: BasketEvent, target: str, kind: str) -> None:
        sku = next((item.sku for item in event.basket.items if item.sku), "SHOE") if target == "product" else None
        effect = FORM.validate_python(discount(target, kind, 100, sku=sku)).fulfil(facts(event))
        most = (event.basket.shipping_total or 0) if target == "delivery" else event.basket.total
        if effect is not None:
            assert isinstance(effect, GrantDiscount)
            assert 0 < effect.amount <= most
            assert effect.amount == effect.amount.quantize(Decimal("0.0001"), ROUND_HALF_UP)

    @pytest.mark.parametrize(
        "changed",
        [
            {"target": "order"},
            {"kind": "percent"},
            {"value": 0},
            {"value": "-1"},
            {"value": "100.0001"},
            {"value": "0.00001"},
            {"value": None},
            {"kind": "absolute", "value": 10**12},
            {"sku": "SHOE"},
            {"target": "delivery", "category": "Shoes"},
            {"target": "product"},
            {"target": "product", "sku": ""},
            {"currency": "EUR"},
        ],
        ids=str,
    )
    def test_refuses_what_is_none(self, changed: dict[str, Any]) -> None:
        assert is_refused(**{**discount(), **changed})

    def test_tells_the_place_of_more_than_all(self) -> None:
        with pytest.raises(ValidationError) as refused:
            FORM.validate_python(discount(value=101))
        assert refused.value.errors()[0]["loc"] == ("discount", "value")

    def test_takes_more_than_a_hundred_where_it_is_an_amount(self) -> None:
        assert off(holding("500"), **discount(kind="absolute", value="100.0001")) == "100.0001"


class TestRule:
    @pytest.mark.parametrize("one", [discount(), {"type": "voucher", "code": "A"}], ids=lambda one: one["type"])
    def test_discounts_and_vouchers_go_with_baskets_only(self, one: dict[str, Any]) -> None:
        for event_type in set(EventType) - {EventType.ERROR, EventType.REVERSAL}:
            fields = {"name": "Rule", "event_type": event_type, "fulfilments": [one]}
            if event_type is EventType.BASKET:
                NewRule.model_validate(fields)
            else:
                with pytest.raises(ValidationError, match="goes with events of type basket"):
                    NewRule.model_validate(fields)

    @pytest.mark.parametrize(
        "one",
        [
            {"type": "addToSegment", "segment_id": SEGMENT},
            {"type": "removeFromSegment", "segment_id": SEGMENT},
            {"type": "trigger", "after": {"count": 1, "unit": "days"}, "name_space": "A"},
        ],
        ids=lambda one: one["type"],
    )
    def test_what_is_kept_goes_with_no_basket(self, one: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match="not basket"):
            NewRule.model_validate({"name": "Rule", "event_type": "basket", "fulfilments": [one]})

    @pytest.mark.parametrize("changed", [{"code": ""}, {"code": None}, {"description": "x" * 2001}], ids=str)
    def test_a_voucher_has_a_code(self, changed: dict[str, Any]) -> None:
        assert is_refused(**{"type": "voucher", "code": "A", **changed})


class TestAssessment:
    def test_a_basket_becomes_the_order_with_all_that_it_has(self) -> None:
        said = {"name_space": "Shop", "reference": "R", "campaign": "C", "attributes": [{"key": "a", "value": "b"}]}
        assert order_of(basket("12", **said)) == order("12", **said)

    def test_each_rule_sees_the_customer_and_the_basket_as_they_are(self) -> None:
        rules = [
            rule(number, event_type="basket", fulfilments=[discount(), {"type": "points", "amount": 5}])
            for number in (1, 2)
        ]
        offered = assessed(holding("50"), *rules).offered
        assert [one.effect.amount for one in offered.effects if isinstance(one.effect, GrantDiscount)] == [5, 5]

    def test_points_are_those_of_the_order_of_what_follows_and_of_the_basket(self) -> None:
        assessment = assessed(
            holding("19.99"),
            rule(1, event_type="basket", fulfilments=[{"type": "pointsPerUnit", "rate": "0.5"}]),
            rule(2, event_type="order", fulfilments=[{"type": "pointsPerUnit", "rate": "2"}]),
            rule(
                3,
                event_type="points",
                criteria=[{"type": "pointsQuantity", "operator": "equals", "value": 39}],
                fulfilments=[{"type": "points", "amount": 7}],
            ),
            rule(4, event_type="action", fulfilments=[{"type": "points", "amount": 1000}]),
        )
        found = [(one.rule.rule_id, amount) for one, amount in assessment.points() if one.rule]
        assert found == [(id_of(2), 39), (id_of(3), 7), (id_of(1), 9)]

    def test_vouchers_are_told_as_the_rule_has_them(self) -> None:
        wanted = {"type": "voucher", "code": "THANKS", "description": "5 off"}
        offered = assessed(holding("1"), rule(event_type="basket", fulfilments=[wanted])).offered
        assert [one.effect for one in offered.effects] == [GrantVoucher("THANKS", "5 off")]

    def test_points_of_a_basket_keep_the_bound_of_a_balance(self) -> None:
        giving = rule(event_type="basket", fulfilments=[{"type": "points", "amount": 1}])
        with pytest.raises(BalanceOutOfRange):
            assessed(holding("1"), giving, state=customer(balance=limits.POINTS_MAX))

    def test_a_basket_has_no_more_effects_than_an_event(self) -> None:
        vouchers = [{"type": "voucher", "code": "A"}] * limits.RULE_FULFILMENTS_MAX
        number = limits.EFFECTS_PER_EVENT_MAX // limits.RULE_FULFILMENTS_MAX
        rules = [rule(one, event_type="basket", fulfilments=vouchers) for one in range(number + 1)]
        assert len(assessed(holding("1"), *rules[:number]).offered.effects) == limits.EFFECTS_PER_EVENT_MAX
        with pytest.raises(TooManyEffects):
            assessed(holding("1"), *rules)

    @generated
    @given(baskets())
    def test_never_raises_on_a_basket(self, event: BasketEvent) -> None:
        assessed(event, rule(event_type="basket", fulfilments=[discount(), {"type": "voucher", "code": "A"}]))


def test_the_explanation_tells_discounts_vouchers_and_points_of_a_basket() -> None:
    fulfilments = [
        discount(),
        discount("delivery"),
        {"type": "voucher", "code": "THANKS"},
        {"type": "points", "amount": 5},
    ]
    criteria = [{"type": "orderTotal", "operator": "atLeast", "value": "50"}]
    rules = [
        rule(1, event_type="basket", criteria=criteria, fulfilments=fulfilments),
        rule(
            2,
            event_type="basket",
            criteria=[{"type": "orderTotal", "operator": "atLeast", "value": "51"}],
            fulfilments=[{"type": "voucher", "code": "MORE"}],
        ),
    ]
    explanation = explain(EVENT, assessed(holding("50"), *rules).offered)
    matched, unmatched = explanation.rules
    assert (explanation.depth, explanation.source_event_id, explanation.is_assessed) == (0, None, True)
    assert [(one.criteria[0].matched, one.criteria[0].saw) for one in explanation.rules] == [
        (True, "50"),
        (False, "50"),
    ]
    told = [one.model_dump(mode="json", exclude_none=True, exclude={"wanted"}) for one in matched.fulfilments]
    assert told == [
        {"hasEffect": True, "discount": "5.0000"},
        {"hasEffect": False},
        {"hasEffect": True},
        {"hasEffect": True, "amount": 5},
    ]
    assert [one.has_effect for one in unmatched.fulfilments] == [False]


def test_a_basket_is_of_the_customer_who_asks() -> None:
    assert assessed(holding("1")).ordered.customer.customer_id == CUSTOMER
