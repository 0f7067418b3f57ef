"""What a rule is refused for beyond the form of its parts, and where the refusal points."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tallymarks import limits
from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.rule import NewRule
from tests.unit.builders import OTHER_SEGMENT, SEGMENT, baskets, facts, generated, rule
from tests.unit.criteria import criteria_fields, criterion, recorded_events, states, with_past

Json = dict[str, Any]

GIFT: Json = {"type": "points", "amount": 5}
ADD: Json = {"type": "addToSegment", "segmentId": str(SEGMENT)}
REMOVE: Json = {"type": "removeFromSegment", "segmentId": str(SEGMENT)}
IN: Json = {"type": "inSegment", "segmentId": str(SEGMENT)}
NOT_IN: Json = {"type": "notInSegment", "segmentId": str(SEGMENT)}
EVERY: Json = {"type": "everyEvent"}


def body(event_type: str, criteria: Iterable[Json] = (), fulfilments: Iterable[Json] = (GIFT,), **fields: Any) -> Json:
    return {
        "name": "Rule",
        "eventType": event_type,
        "criteria": list(criteria),
        "fulfilments": list(fulfilments),
        **fields,
    }


def refusals(rule_body: Json) -> dict[str, tuple[str, Any]]:
    """The places of what is wrong with the rule, each with the message and the refused value."""
    try:
        NewRule.model_validate(rule_body)
    except ValidationError as error:
        return {".".join(map(str, one["loc"])): (one["msg"], one["input"]) for one in error.errors()}
    return {}


def places(event_type: str, *criteria: Json, **fields: Any) -> set[str]:
    return set(refusals(body(event_type, criteria, **fields)))


def text(kind: str, value: str, operator: str = "equals") -> Json:
    return {"type": kind, "value": value, "operator": operator}


def number(kind: str, operator: str, value: object, **fields: object) -> Json:
    return {"type": kind, "operator": operator, "value": value, **fields}


def nth(n: int) -> Json:
    return {"type": "nthEvent", "n": n}


def every_nth(n: int) -> Json:
    return {"type": "everyNthEvent", "n": n}


def in_period(count: int, days: int = 30) -> Json:
    return {"type": "countInPeriod", "count": count, "period": {"count": days, "unit": "days"}}


def since(count: int, instant: str = "2026-01-01T00:00:00.000Z") -> Json:
    return {"type": "countSince", "count": count, "since": instant}


class TestFit:
    @pytest.mark.parametrize(
        ("event_type", "part"),
        [
            ("order", number("actionAmount", "equals", 1)),
            ("order", number("actionCount", "equals", 1)),
            ("order", number("transactionAmount", "equals", 1)),
            ("transaction", number("orderTotal", "equals", 1)),
            ("action", number("taxTotal", "equals", 1)),
            ("action", number("shippingTotal", "equals", 1)),
            ("action", number("discountTotal", "equals", 1)),
            ("transaction", text("sku", "A")),
            ("transaction", text("vendor", "A")),
            ("transaction", text("category", "A")),
            ("transaction", text("productType", "A")),
            ("transaction", number("productQuantity", "equals", 1)),
            ("transaction", number("paymentAmount", "equals", 1)),
            ("transaction", text("bin", "A")),
            ("transaction", text("bank", "A")),
            ("transaction", text("scheme", "A")),
            ("transaction", text("tag", "A")),
            ("transaction", number("tagCount", "equals", 1)),
            ("redemption", number("pointsQuantity", "equals", 1)),
            ("order", number("previousBalance", "equals", 1)),
            ("order", number("balance", "equals", 1)),
            ("order", number("lifetimePoints", "equals", 1)),
            ("action", number("yearsSinceJoining", "equals", 1)),
            ("redemption", number("lifetimeEventValue", "equals", 1)),
            ("anniversary", {"type": "lifetimeEventThreshold", "value": 1}),
            ("basket", nth(1)),
            ("basket", every_nth(2)),
            ("basket", in_period(1)),
            ("basket", since(1)),
            ("basket", number("lifetimeEventValue", "equals", 1)),
        ],
        ids=lambda value: str(value["type"]) if isinstance(value, dict) else value,
    )
    def test_a_criterion_that_the_event_has_no_field_for_is_refused(self, event_type: str, part: Json) -> None:
        refused = refusals(body(event_type, [EVERY, part]))
        assert set(refused) == {"criteria.1.type"}
        message, value = refused["criteria.1.type"]
        assert message.endswith(f", not {event_type}")
        assert value == part["type"]

    @pytest.mark.parametrize("event_type", ["action", "points", "redemption", "anniversary", "basket"])
    def test_points_per_unit_go_with_spend_only(self, event_type: str) -> None:
        per_unit = {"type": "pointsPerUnit", "rate": "1"}
        wrong = refusals(body(event_type, fulfilments=[GIFT, per_unit]))
        # A basket's own points are given by its rules' fulfilments; whether these are among them they say themselves.
        fits = EventType(event_type) in rule(fulfilments=[per_unit]).fulfilments[0].event_types()
        assert set(wrong) == (set() if fits else {"fulfilments.1.type"})

    @pytest.mark.parametrize("event_type", [str(one) for one in EventType if one not in ("error", "reversal")])
    @pytest.mark.parametrize(
        "part",
        [
            EVERY,
            text("nameSpace", "A"),
            {"type": "reference", "value": "A"},
            {"type": "campaign", "value": "A"},
            {"type": "attribute", "key": "A", "value": "A"},
            IN,
            NOT_IN,
            number("lifetimeSpend", "moreThan", 1),
        ],
        ids=lambda part: str(part["type"]),
    )
    def test_what_every_event_has_goes_with_every_type(self, event_type: str, part: Json) -> None:
        assert places(event_type, part) == set()


class TestContradictions:
    @pytest.mark.parametrize(
        ("event_type", "one", "other", "place"),
        [
            ("action", text("nameSpace", "A"), text("nameSpace", "B"), "value"),
            ("action", text("nameSpace", "A"), text("nameSpace", "a"), "value"),
            ("action", text("nameSpace", "A.B"), text("nameSpace", "A.C", "beginsWith"), "value"),
            ("action", text("nameSpace", "A"), text("nameSpace", "A.B", "beginsWith"), "value"),
            ("action", text("nameSpace", "A.B", "beginsWith"), text("nameSpace", "A"), "value"),
            ("action", text("nameSpace", "A", "beginsWith"), text("nameSpace", "B", "beginsWith"), "value"),
            ("action", {"type": "reference", "value": "1"}, {"type": "reference", "value": "2"}, "value"),
            ("action", {"type": "campaign", "value": "1"}, {"type": "campaign", "value": "2"}, "value"),
            ("action", IN, NOT_IN, "segmentId"),
            ("action", NOT_IN, IN, "segmentId"),
            ("order", text("sku", "A"), text("sku", "A", "notEquals"), "value"),
            ("order", text("tag", "A", "notEquals"), text("tag", "A"), "value"),
            ("order", text("scheme", "A", "notEquals"), text("scheme", "A"), "value"),
            ("action", number("actionCount", "moreThan", 5), number("actionCount", "lessThan", 6), "value"),
            ("action", number("actionCount", "equals", 5), number("actionCount", "equals", 6), "value"),
            ("action", number("actionCount", "equals", 5), number("actionCount", "notEquals", 5), "value"),
            ("action", number("actionAmount", "atLeast", "5"), number("actionAmount", "lessThan", "5"), "value"),
            (
                "order",
                number("orderTotal", "moreThan", "5.0000"),
                number("orderTotal", "lessThan", "5.0001"),
                "value",
            ),
            ("order", number("taxTotal", "atLeast", 6), number("taxTotal", "atMost", 5), "value"),
            ("order", number("shippingTotal", "equals", 0), number("shippingTotal", "moreThan", 0), "value"),
            (
                "order",
                number("productQuantity", "atLeast", 2, sku="A"),
                number("productQuantity", "atMost", 1, sku="A"),
                "value",
            ),
            (
                "order",
                number("paymentAmount", "atLeast", 2, scheme="A"),
                number("paymentAmount", "atMost", 1, scheme="A"),
                "value",
            ),
            (
                "transaction",
                number("transactionAmount", "equals", 1),
                number("transactionAmount", "equals", 2),
                "value",
            ),
            ("points", number("pointsQuantity", "moreThan", -1), number("pointsQuantity", "lessThan", 1), "value"),
            ("points", number("balance", "moreThan", 10), number("balance", "lessThan", 11), "value"),
            ("order", number("lifetimeSpend", "atLeast", 100), number("lifetimeSpend", "lessThan", 100), "value"),
            (
                "order",
                number("lifetimeEventValue", "lessThan", 100),
                {"type": "lifetimeEventThreshold", "value": 100},
                "value",
            ),
            (
                "points",
                number("lifetimeEventValue", "moreThan", 5),
                number("lifetimeEventValue", "lessThan", 6),
                "value",
            ),
            ("order", nth(10), nth(20), "n"),
            ("order", nth(10), every_nth(3), "n"),
            ("order", every_nth(3), nth(10), "n"),
            ("order", every_nth(999_983), every_nth(999_979), "n"),
            ("order", in_period(2), in_period(3), "count"),
            ("order", since(2), since(3), "count"),
        ],
        ids=lambda value: f"{value['type']}" if isinstance(value, dict) else value,
    )
    def test_what_no_event_can_match_together_is_refused_at_the_later(
        self, event_type: str, one: Json, other: Json, place: str
    ) -> None:
        refused = refusals(body(event_type, [one, EVERY, other]))
        assert set(refused) == {f"criteria.2.{place}"}
        message, value = refused[f"criteria.2.{place}"]
        assert message == "no event can match this together with criteria.0"
        assert value == criterion(**other).model_dump(mode="json")[place]
        assert places(event_type, one) == places(event_type, other) == set()

    @pytest.mark.parametrize(
        ("event_type", "one", "other"),
        [
            ("action", text("nameSpace", "A"), text("nameSpace", "A")),
            ("action", text("nameSpace", "A.B"), text("nameSpace", "A", "beginsWith")),
            ("action", text("nameSpace", "A", "beginsWith"), text("nameSpace", "A.B", "beginsWith")),
            ("action", {"type": "reference", "value": "1"}, {"type": "campaign", "value": "2"}),
            ("action", IN, {**NOT_IN, "segmentId": str(OTHER_SEGMENT)}),
            ("action", IN, IN),
            (
                "action",
                {"type": "attribute", "key": "A", "value": "1"},
                {"type": "attribute", "key": "A", "value": "2"},
            ),
            ("order", text("sku", "A"), text("sku", "B")),
            ("order", text("sku", "A"), text("sku", "B", "notEquals")),
            ("order", text("sku", "A"), text("vendor", "A", "notEquals")),
            ("order", text("tag", "A", "beginsWith"), text("tag", "A", "notEquals")),
            ("action", number("actionCount", "moreThan", 5), number("actionCount", "lessThan", 7)),
            ("order", number("orderTotal", "moreThan", 5), number("orderTotal", "lessThan", 6)),
            ("order", number("orderTotal", "atLeast", 5), number("orderTotal", "atMost", 5)),
            ("order", number("orderTotal", "atLeast", 5), number("taxTotal", "lessThan", 5)),
            (
                "order",
                number("productQuantity", "atLeast", 2, sku="A"),
                number("productQuantity", "atMost", 1, sku="B"),
            ),
            ("order", number("paymentAmount", "atLeast", 2), number("paymentAmount", "atMost", 1, bank="A")),
            (
                "order",
                number("lifetimeEventValue", "atMost", 100),
                {"type": "lifetimeEventThreshold", "value": 100},
            ),
            ("order", {"type": "lifetimeEventThreshold", "value": 1}, {"type": "lifetimeEventThreshold", "value": 2}),
            ("points", number("balance", "equals", 1), number("previousBalance", "equals", 2)),
            ("order", nth(12), every_nth(3)),
            ("order", every_nth(4), every_nth(6)),
            ("order", in_period(2, 30), in_period(3, 60)),
            ("order", since(2), since(3, "2025-01-01T00:00:00.000Z")),
        ],
        ids=lambda value: f"{value['type']}" if isinstance(value, dict) else value,
    )
    def test_what_an_event_can_match_together_is_taken(self, event_type: str, one: Json, other: Json) -> None:
        assert places(event_type, one, other) == places(event_type, other, one) == set()

    def test_three_can_contradict_where_no_two_do(self) -> None:
        three = [
            number("actionCount", "atLeast", 5),
            number("actionCount", "notEquals", 5),
            number("actionCount", "atMost", 5),
        ]
        message, value = refusals(body("action", three))["criteria.2.value"]
        assert message == "no event can match this together with criteria.0, criteria.1"
        assert value == 5

    @pytest.mark.parametrize(
        ("event_type", "one"),
        [
            ("points", number("pointsQuantity", "equals", 0)),
            ("points", number("lifetimeEventValue", "equals", "1.5")),
            ("points", number("lifetimePoints", "lessThan", 0)),
            ("points", number("pointsQuantity", "moreThan", limits.POINTS_MAX)),
            ("action", number("actionCount", "lessThan", 0)),
            ("action", number("actionCount", "moreThan", limits.COUNT_MAX)),
            ("action", number("actionAmount", "moreThan", "999999999999.9999")),
            ("order", number("orderTotal", "lessThan", "-999999999999.9999")),
            ("order", number("productQuantity", "lessThan", 0)),
            ("basket", number("tagCount", "lessThan", 0)),
            ("anniversary", number("yearsSinceJoining", "equals", 0)),
            ("anniversary", number("yearsSinceJoining", "lessThan", 1)),
        ],
        ids=str,
    )
    def test_a_number_that_no_event_has_is_refused(self, event_type: str, one: Json) -> None:
        assert refusals(body(event_type, [one]))["criteria.0.value"][0] == "no event can match this"

    @pytest.mark.parametrize(
        ("event_type", "kind"),
        [("action", "actionCount"), ("order", "productQuantity"), ("order", "tagCount"), ("points", "pointsQuantity")],
    )
    def test_a_fraction_of_what_comes_whole_is_refused(self, event_type: str, kind: str) -> None:
        assert places(event_type, number(kind, "equals", 1.5)) == {f"criteria.0.{kind}.value"}

    def test_every_fault_is_named(self) -> None:
        criteria = [IN, NOT_IN, number("orderTotal", "equals", 1), nth(1), nth(2)]
        assert places("action", *criteria, fulfilments=[ADD, REMOVE]) == {
            "criteria.1.segmentId",
            "criteria.2.type",
            "criteria.4.n",
            "fulfilments.1.segmentId",
        }


class TestTime:
    @pytest.mark.parametrize(
        ("instant", "is_refused"),
        [
            ("2026-05-31T23:59:59.999Z", False),
            ("2026-06-01T00:00:00.000Z", True),
            ("2027-01-01T00:00:00.000Z", True),
        ],
    )
    def test_counting_from_the_rules_end_on_is_refused(self, instant: str, is_refused: bool) -> None:
        refused = refusals(body("order", [EVERY, since(1, instant)], toAt="2026-06-01T00:00:00.000Z"))
        assert set(refused) == ({"criteria.1.since"} if is_refused else set())
        if is_refused:
            assert refused["criteria.1.since"][1] == instant
        assert places("order", since(1, instant)) == set()


class TestLoops:
    @pytest.mark.parametrize("pair", [(ADD, REMOVE), (REMOVE, ADD)], ids=["add first", "remove first"])
    def test_adding_to_and_removing_from_one_segment_is_refused(self, pair: tuple[Json, Json]) -> None:
        one, other = pair
        refused = refusals(body("action", fulfilments=[one, GIFT, other]))
        assert set(refused) == {"fulfilments.2.segmentId"}
        message, value = refused["fulfilments.2.segmentId"]
        assert "fulfilments.0" in message
        assert value == str(SEGMENT)

    def test_of_two_segments_it_is_none(self) -> None:
        assert places("action", fulfilments=[ADD, {**REMOVE, "segmentId": str(OTHER_SEGMENT)}]) == set()
        assert places("action", fulfilments=[ADD, ADD]) == places("action", fulfilments=[REMOVE, REMOVE]) == set()

    def test_a_membership_that_is_asked_for_may_be_changed(self) -> None:
        assert places("action", IN, fulfilments=[REMOVE]) == places("action", NOT_IN, fulfilments=[ADD]) == set()


class Holder(BaseModel):
    """A body that holds a rule."""

    rule: NewRule


def test_the_place_of_the_rule_comes_first() -> None:
    with pytest.raises(ValidationError) as refusal:
        Holder.model_validate({"rule": body("action", [IN, NOT_IN])})
    assert [one["loc"] for one in refusal.value.errors()] == [("rule", "criteria", 1, "segmentId")]


def test_a_stored_rule_is_read_whatever_is_wrong_with_it() -> None:
    stored = rule(event_type="action", criteria=[IN, NOT_IN, nth(1), nth(2)], fulfilments=[ADD, REMOVE])
    assert len(stored.criteria) == 4


@generated
@given(
    recorded_events() | baskets(),
    st.lists(criteria_fields(), min_size=1, max_size=4),
    states(),
)
def test_what_some_event_matches_is_never_refused(
    event: AnyEvent | BasketEvent, fields: list[Json], state: Any
) -> None:
    seen = facts(event, state=state)
    matching = [one for one in fields if criterion(**one).check(seen).matched]
    fitting = [one for one in matching if EventType(event.event_type) in criterion(**one).event_types()]
    assert places(event.event_type, *fitting) == set()


@generated
@given(st.integers(1, 30), st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 30))
def test_numbers_of_events_exclude_each_other_just_where_none_is_left(number_of: int, every: list[int], n: int) -> None:
    criteria = [nth(n), *map(every_nth, every)]
    possible = all(n % one == 0 for one in every)
    assert (places("order", *criteria) == set()) is possible
    seen = facts(state=with_past({"action": number_of - 1}))
    if all(criterion(**one).check(seen).matched for one in criteria):
        assert possible


@generated
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["equals", "notEquals", "lessThan", "atMost", "atLeast", "moreThan"]), st.integers(0, 6)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_ranges_exclude_each_other_just_where_no_number_is_left(compared: list[tuple[str, int]]) -> None:
    criteria = [number("actionCount", operator, value) for operator, value in compared]
    tests: dict[str, Any] = {
        "equals": int.__eq__,
        "notEquals": int.__ne__,
        "lessThan": int.__lt__,
        "atMost": int.__le__,
        "atLeast": int.__ge__,
        "moreThan": int.__gt__,
    }
    possible = any(all(tests[operator](one, value) for operator, value in compared) for one in range(9))
    assert (places("action", *criteria) == set()) is possible
