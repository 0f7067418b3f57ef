"""Expressions: what they see, what they may cost, and that nothing in them is ever more than a reason not to match."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.errors import FieldError, InvalidRequest
from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.criteria import Check
from tallymarks.rules.criteria_expression import Expression
from tallymarks.rules.criterion import RULE_TYPES
from tallymarks.rules.expression_review import Fault
from tallymarks.rules.expressions import Program, compiled
from tallymarks.rules.facts import CustomerState
from tallymarks.rules.rule import NewRule
from tallymarks_api.edge import validated
from tests.parts import START
from tests.unit.builders import (
    CUSTOMER,
    EVENT,
    OTHER_SEGMENT,
    SEGMENT,
    action,
    amounts,
    anniversary,
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
from tests.unit.criteria import recorded_events, states, with_past

ITEMS = "event.order.items"
SMALL = "event.order.total > 5.0"


def criterion(text: str) -> Expression:
    return Expression(type="expression", expression=text)


def check(text: str, event: AnyEvent | BasketEvent | None = None, state: CustomerState | None = None) -> Check:
    """How the expression looks at the event; it must be one."""
    assert isinstance(compiled(text), Program), compiled(text)
    return criterion(text).check(facts(event, state=state))


def fault(text: str) -> str:
    """What is wrong with the text."""
    found = compiled(text)
    assert isinstance(found, Fault), text
    return str(found)


def program(text: str) -> Program:
    found = compiled(text)
    assert isinstance(found, Program), found
    return found


def order_of(items: int) -> AnyEvent:
    lines = [{"sku": f"S-{number}", "price": "2.5", "quantity": number, "tags": ["new"]} for number in range(items)]
    return order(order={"total": "10", "items": lines})


class TestWhatItSees:
    @pytest.mark.parametrize(
        "text",
        [
            f"event.eventId == '{EVENT}' && event.customerId == '{CUSTOMER}' && event.eventType == 'order'",
            "event.createdAt == timestamp('2026-03-14T09:26:53.589Z') && now == event.createdAt",
            f"customer.customerId == '{CUSTOMER}' && customer.createdAt == now && customer.balance == 70",
            "totals.counts.order == 2 && totals.counts.action == 0 && totals.pointsEarned == 90",
            "totals.values.order == 30.5 && totals.values.transaction == 1.25 && totals.spend == 31.75",
            "event.attributes[0].key == 'a' && event.attributes[0].name == 'a' && event.attributes[0].value == 'b'",
        ],
    )
    def test_the_event_and_the_customer_before_it(self, text: str) -> None:
        state = with_past({"order": 2}, {"order": "30.5", "transaction": "1.25"}, points_earned=90, balance=70)
        assert check(text, order(attributes=[{"key": "a", "value": "b"}]), state).matched

    def test_current_memberships_in_the_order_of_their_ids(self) -> None:
        state = customer(memberships={OTHER_SEGMENT: None, SEGMENT: None, id_of(1): START})
        assert check(f"segments.size() == 2 && segments[0] == '{SEGMENT}'", None, state).matched
        assert not check(f"'{id_of(1)}' in segments", None, state).matched

    def test_a_basket_that_is_looked_at_as_an_order_is_one(self) -> None:
        as_order = replace(facts(basket("12.5")), event_type="order")
        assert criterion("event.order.total == 12.5 && event.eventType == 'order'").check(as_order).matched

    def test_the_balance_without_the_points_of_the_event(self) -> None:
        moved = replace(facts(state=customer(balance=105)), balance_before=100)
        assert criterion("customer.balance == 100").check(moved).matched

    @pytest.mark.parametrize(
        ("text", "saw"),
        [
            ("event.order.total > 5.0", "event.order.total = 10.0"),
            ("event.campaign == 'A' || event.reference != 'R'", "event.campaign is absent, event.reference = 'R-1'"),
            ("has(event.order.taxTotal)", "event.order.taxTotal is absent"),
            ("has(event.order)", "event.order is there"),
            (f"{ITEMS}.exists(i, i.sku == event.reference)", "event.order.items has 0, event.reference = 'R-1'"),
            ("event.createdAt < now", "event.createdAt = 2026-03-14T09:26:53.589Z"),
            ("totals.counts.order + totals.counts.order == 0", "totals.counts.order = 0"),
            ("['a'].exists(event, event == 'a' && .event.order.total > 5.0)", "event.order.total = 10.0"),
            ("true", "true"),
        ],
    )
    def test_tells_the_fields_that_it_looked_at(self, text: str, saw: str) -> None:
        assert check(text, order(reference="R-1")).saw == saw

    def test_tells_no_more_than_the_explanation_keeps(self) -> None:
        saw = check("event.campaign.size() + event.reference.size() > 0", action(campaign="c" * 256, reference="r")).saw
        assert saw is not None
        assert len(saw) == limits.SAW_LENGTH_MAX

    @generated
    @given(amounts)
    def test_an_amount_equals_itself_written_out(self, amount: Decimal) -> None:
        assert check(f"event.order.total == {amount:f}", order(str(amount))).matched


class TestFailing:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("1 / totals.counts.order > 0", "divide by zero"),
            ("9223372036854775807 + totals.counts.order + 1 > 0", "integer overflow"),
            ("event.order.items[0].sku == ''", "Index error"),
            ("int(event.reference) > 0", "cannot convert string to int"),
            ("timestamp(event.reference) > now", "String to Timestamp conversion failed"),
        ],
    )
    def test_does_not_match_and_says_why(self, text: str, reason: str) -> None:
        seen = check(text, order(reference="R-1"))
        assert not seen.matched
        assert str(seen.saw).startswith(f"failed: {reason}")

    def test_does_not_matter_where_the_rest_decides(self) -> None:
        assert check("1 / totals.counts.order > 0 || true").matched

    def test_more_segments_than_it_may_be_handed(self) -> None:
        memberships = {id_of(number): None for number in range(limits.EXPRESSION_SEGMENTS_MAX)}
        assert check("segments.size() == 1000", None, customer(memberships=dict(memberships))).matched
        beyond = check("segments.size() > 0", None, customer(memberships={**memberships, SEGMENT: None}))
        assert beyond == Check(matched=False, saw="failed: the customer is in more than 1000 segments")
        assert check("customer.balance == 0", None, customer(memberships={**memberships, SEGMENT: None})).matched

    def test_a_number_beyond_64_bits(self) -> None:
        seen = check("event.anniversary.years > 1", anniversary(2**63))
        assert not seen.matched
        assert str(seen.saw).startswith("failed: ")

    def test_loops_are_stopped_by_the_budget(self) -> None:
        text = f"{ITEMS}.all(i, {ITEMS}.all(j, i.price == j.price))"
        assert check(text, order_of(99)).matched
        assert check(text, order_of(1_000)) == Check(
            matched=False, saw="failed: Iteration budget exceeded, event.order.items has 1000"
        )

    def test_a_stored_one_that_is_none_loads(self) -> None:
        stored = rule(criteria=[{"type": "expression", "expression": "event.gone == 1"}])
        seen = stored.criteria[0].check(facts())
        assert seen == Check(matched=False, saw="failed: 1:6: undefined field 'gone' not found in struct 'Event'")
        assert stored.criteria[0].event_types() == RULE_TYPES


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "at"),
        [
            ("", "1:1"),
            ("foo", "1:1"),
            ("true &&\n  foo", "2:3"),
            ("true &&\r\n  'é😀' == foo", "2:11"),
            ("'\\ud800' == 'a'", "1:1"),
            ("event.order.total > 5.0 &&\n\n event == event", "3:2"),
            ("'é😀' == '' || {'a': 1}.size() == 1", "1:15"),
        ],
    )
    def test_tells_the_place(self, text: str, at: str) -> None:
        assert fault(text).startswith(f"{at}: ")

    @pytest.mark.parametrize(
        "text",
        [
            "segments",
            "event.order",
            "[true, 'a'][0]",
            "event == event",
            f"{ITEMS} == {ITEMS}",
            f"{ITEMS}.exists(i, i == {ITEMS}[0])",
            "event.attributes[0] in event.attributes",
            "segments in [segments]",
            "[[1]].size() == 1",
            "[1, 'a'][0] == 1",
            "{'a': 1}.size() == 1",
            "tallymarks.Order{}.total == 0.0",
            "google.protobuf.Int64Value{value: 1} == 1",
            "'a' + 'b' == 'ab'",
            "(segments + segments).size() > 1",
            "['a'].map(x, x + x).size() == 1",
            "type(1) == int",
            "dyn(1) > 2",
            "bytes('a').size() == 1",
            "uint(1) > 0u",
            "event.reference.matches('(')",
            "event.reference.matches('\\\\pL')",
            "event.reference.matches('.{101}')",
            "event.reference.matches('(a{11}){11}')",
            f"event.reference.matches('{'a' * 101}')",
            "event.reference.matches(event.campaign)",
            "now.getHours('localtime') == 1",
            "now.getHours('../../etc/passwd') == 1",
            "now.getHours('/etc/localtime') == 1",
            "now.getHours('Europe/Nowhere') == 1",
            "now.getHours(event.reference) == 1",
            "event.order.total == event.basket.total",
            f"{'(' * 40}true{')' * 40}",
            f"{'event.order.total > 5.0 && ' * 40}true",
        ],
    )
    def test_what_could_grow_or_is_not_there(self, text: str) -> None:
        fault(text)

    @pytest.mark.parametrize(
        "text",
        [
            f"{ITEMS}.filter(i, true).size() > 1",
            f"{ITEMS}.map(i, i.sku).size() > 1",
            "segments.filter(s, s != '').size() > 1",
            f"{ITEMS}.exists(i, i.sku.matches('.{{30}}'))",
            f"{ITEMS}.exists(i, {ITEMS}.exists(j, i.sku.matches('a')))",
            f"{ITEMS}.exists(i, {ITEMS}.exists(j, i.sku in segments))",
            f"{ITEMS}.all(i, {ITEMS}.all(j, {' && '.join(['i.price < j.price'] * 45)}))",
        ],
    )
    def test_what_takes_too_many_steps(self, text: str) -> None:
        assert "too many steps" in fault(text)

    @pytest.mark.parametrize(
        "text",
        [
            f"{ITEMS}.exists(i, i.sku.matches('^A-[0-9]+$'))",
            f"{ITEMS}.exists(i, i.sku in segments)",
            f"{ITEMS}.all(i, i.tags.exists(t, t.startsWith(i.category)))",
            "event.attributes.filter(a, a.key == 'k').map(a, double(a.value)).exists(v, v > 2.0)",
            f"{'!' * 900}true",
        ],
    )
    def test_and_not_what_takes_few(self, text: str) -> None:
        assert program(text).steps <= limits.EXPRESSION_STEPS_MAX

    def test_the_turns_of_a_loop_are_steps_themselves(self) -> None:
        turns = limits.ORDER_ITEMS_MAX
        assert program(f"{ITEMS}.all(i, true)").steps > 8 * turns
        assert program("event.order.payments.all(p, true)").steps < 2 * limits.ORDER_PAYMENTS_MAX * 10

    @pytest.mark.parametrize(
        ("expression", "message"),
        [
            ("event.order.totl > 5.0", "1:12: undefined field 'totl' not found in struct 'Order'"),
            ("", "String should have at least 1 character"),
            ("a" * 1_001, "String should have at most 1000 characters"),
            ("a\x00b", "must not contain NUL"),
        ],
    )
    def test_in_a_rule_with_its_place(self, expression: str, message: str) -> None:
        criteria = [{"type": "everyEvent"}, {"type": "expression", "expression": expression}]
        body = {
            "name": "R",
            "eventType": "order",
            "criteria": criteria,
            "fulfilments": [{"type": "points", "amount": 1}],
        }
        with pytest.raises(InvalidRequest) as refused:
            validated(NewRule, body)
        (error,) = refused.value.errors
        assert (error.param, error.message) == ("criteria.1.expression", message)
        assert isinstance(error, FieldError)

    def test_in_a_rule_of_a_type_without_its_fields(self) -> None:
        criteria = [{"type": "expression", "expression": SMALL}]
        body = {
            "name": "R",
            "eventType": "action",
            "criteria": criteria,
            "fulfilments": [{"type": "points", "amount": 1}],
        }
        with pytest.raises(InvalidRequest) as refused:
            validated(NewRule, body)
        (error,) = refused.value.errors
        assert (error.param, error.message) == (
            "criteria.0.type",
            "expression goes with events of type order, not action",
        )


@pytest.mark.parametrize(
    ("text", "event_types"),
    [
        ("true", RULE_TYPES),
        ("event.campaign == 'A' && totals.counts.order > 1", RULE_TYPES),
        (SMALL, {EventType.ORDER}),
        ("has(event.basket)", {EventType.BASKET}),
        ("['a'].exists(event, event == 'order')", RULE_TYPES),
        ("['a'].exists(event, .event.order.total > 5.0)", {EventType.ORDER}),
    ],
)
def test_goes_with_the_types_that_have_its_fields(text: str, event_types: set[EventType]) -> None:
    assert criterion(text).event_types() == event_types


def test_memberships_are_needed_where_it_asks_for_segments() -> None:
    def needed(text: str) -> bool:
        return rule_set([rule(criteria=[{"type": "expression", "expression": text}])]).names_segments

    assert needed("segments.size() > 0")
    assert not needed("event.campaign == 'segments'")
    assert not needed("['a'].exists(segments, segments == 'a')")
    assert needed("['a'].exists(segments, segments == 'a' && .segments.size() > 0)")


class TestCost:
    def test_a_text_is_compiled_once(self) -> None:
        one = criterion(SMALL)
        assert one.program is one.program is criterion(SMALL).program

    def test_what_is_compiled_is_no_part_of_the_criterion(self) -> None:
        one = criterion(SMALL)
        assert one.program is not None
        assert one == criterion(SMALL)
        assert one.model_dump() == {"type": "expression", "expression": SMALL}

    def test_the_variables_are_made_once_for_all_expressions_and_only_for_them(self) -> None:
        looked_at = facts(order())
        assert looked_at.memo == {}
        criterion(SMALL).check(looked_at)
        (made,) = looked_at.memo.values()
        criterion("totals.counts.order == 0").check(looked_at)
        assert list(looked_at.memo.values()) == [made]
        assert replace(looked_at, balance_before=1).memo == {}

    def test_what_loops_have_made_is_given_back_before_the_event_is_done(self) -> None:
        attributes = [{"key": str(number), "value": "v"} for number in range(limits.ATTRIBUTES_MAX)]
        looked_at = facts(action(attributes=attributes))
        heavy = criterion("event.attributes.filter(a, true).filter(a, true).filter(a, true).size() == 100")
        assert heavy.check(looked_at).matched
        before = resident_bytes()
        for _ in range(300):
            heavy.check(looked_at)
        assert resident_bytes() - before < 30 * 1024 * 1024


def resident_bytes() -> int:
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


# --- generated --------------------------------------------------------------------------------------------------------

WORDS = (
    *(
        "event",
        ".order",
        ".items",
        ".total",
        ".campaign",
        ".attributes",
        ".createdAt",
        "customer.balance",
        "segments",
        "now",
    ),
    *(
        "totals.counts.order",
        "totals.spend",
        "'a'",
        "''",
        "1",
        "0",
        "2.5",
        "9223372036854775807",
        "true",
        "null",
        "[",
        "]",
    ),
    *(
        "(",
        ")",
        "{",
        "}",
        "i",
        ".sku",
        ".tags",
        ".exists(i, ",
        ".all(i, ",
        ".filter(i, ",
        ".map(i, ",
        ".size()",
        "has(",
    ),
    *(
        " == ",
        " != ",
        " < ",
        " in ",
        " && ",
        " || ",
        " ? ",
        " : ",
        " + ",
        " - ",
        " / ",
        " % ",
        "!",
        "-",
        ",",
        "\n",
        "é",
        "\0",
    ),
    *(".matches('a+')", ".matches(", "double(", "string(", "timestamp(", "duration('1h')", ".getHours('UTC')", "//"),
)


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} ? {parts[1]} : {parts[2]})"),
        inner.map(lambda part: f"!({part})"),
        st.tuples(st.sampled_from(["all", "exists", "exists_one"]), inner).map(
            lambda parts: f"event.attributes.{parts[0]}(a, {parts[1]})"
        ),
    )


conditions = st.recursive(
    st.sampled_from(
        [
            "event.campaign.contains('a')",
            "customer.balance / totals.counts.order > 1",
            "totals.spend * 2.0 > 1.0",
            "event.attributes[1].value == event.reference",
            "segments.exists(s, s > event.reference)",
            "event.createdAt - customer.createdAt > duration('24h')",
            "double(event.reference) > 0.0",
            "event.createdAt.getFullYear('Asia/Tokyo') % totals.counts.action == 0",
        ]
    ),
    _nested,
    max_leaves=8,
)


@generated
@given(st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
def test_any_text_is_an_expression_or_not(text: str) -> None:
    found = compiled(text)
    if isinstance(found, Program):
        found.evaluate(facts(order_of(3)))


@generated
@given(conditions, recorded_events() | baskets(), states())
def test_any_condition_is_true_or_false_or_fails_with_a_reason(
    text: str, event: AnyEvent | BasketEvent, state: CustomerState
) -> None:
    seen = criterion(text).check(facts(event, state=state))
    assert seen.matched in {True, False}
    assert seen.saw
    assert not (seen.matched and seen.saw.startswith("failed"))
