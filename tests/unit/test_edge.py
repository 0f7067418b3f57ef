"""The edge of the api: JSON is read exactly, and a refusal names what was sent and where."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tallymarks import limits
from tallymarks.customers import NewCustomer
from tallymarks.errors import ErrorBody, InsufficientPoints, InvalidRequest, Refusal, shown
from tallymarks.events import ActionEvent, EventBase, OrderEvent, PointsEvent, RedemptionEvent
from tallymarks.rules.rule import NewRule
from tallymarks_api.edge import parse_json, validated
from tallymarks_api.events import read_batch
from tallymarks_api.paged import PageQuery, containing
from tallymarks_api.redemptions import read_redemption_or_customer
from tests.unit.builders import CUSTOMER, EVENT, generated

IDS = {"eventId": str(EVENT), "customerId": str(CUSTOMER)}
ACTION = {**IDS, "eventType": "action"}
GIFT = {"type": "points", "amount": 1}


def refused(form: Any, data: object) -> dict[str | None, str | None]:
    """The places that are refused, each with the value as it is shown."""
    with pytest.raises(InvalidRequest) as refusal:
        validated(form, data)
    return {error.param: error.value for error in refusal.value.errors}


class TestParseJson:
    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            ("0.1", Decimal("0.1")),
            ("999999999999.9999", Decimal("999999999999.9999")),
            ("1.10", Decimal("1.10")),
            ("1e3", Decimal(1_000)),
            ("12345678901234567890", 12345678901234567890),
            ("-0", 0),
            ("true", True),
            ("null", None),
            ('"\\u00e9\\ud83c\\udf81"', "é🎁"),
            (' {"a": [1, {"b": ""}]} ', {"a": [1, {"b": ""}]}),
        ],
    )
    def test_reads_every_value_exactly(self, raw: str, expected: object) -> None:
        read = parse_json(raw.encode())
        assert read == expected
        assert type(read) is type(expected)

    @pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "nan", '{"a": NaN}', "[1, Infinity]", "-NaN"])
    def test_refuses_what_is_no_number(self, raw: str) -> None:
        self.is_refused(raw.encode())

    @pytest.mark.parametrize("raw", ["1e9999999999999999999", "0e9999999999999999999", "1e-9999999999999999999"])
    def test_refuses_exponents_that_no_decimal_has(self, raw: str) -> None:
        self.is_refused(raw.encode())

    @pytest.mark.parametrize("raw", ["9" * 5_000, "9" * 1_000_000, "-" + "9" * 5_000])
    def test_refuses_integers_that_would_take_long_to_read(self, raw: str) -> None:
        self.is_refused(raw.encode())

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b" ",
            b"{",
            b"[1, 2",
            b'{"a": 1,}',
            b"[1,]",
            b"{'a': 1}",
            b"{a: 1}",
            b"{} {}",
            b"[1] x",
            b"01",
            b".5",
            b"1.",
            b"+1",
            b"0x10",
            b"tru",
            b'"\n"',
            b'"\\x"',
            b'"abc',
            b"// no\n1",
            b"\xef\xbb\xbf{}",
            b"\xff\xfe{\x00}\x00",
            b'"\xff"',
            b'"\xed\xa0\x80"',
            b'"\\ud800"',
            b'"\\udc00\\ud800"',
            b"\x00",
        ],
    )
    def test_refuses_what_is_not_json(self, raw: bytes) -> None:
        self.is_refused(raw)

    @pytest.mark.parametrize("raw", ['{"a": 1, "a": 1}', '{"a": {"b": 1, "c": 2, "b": 3}}', '{"\\u0061": 1, "a": 2}'])
    def test_refuses_a_key_that_is_there_twice(self, raw: str) -> None:
        """Which of them counts, two readers could tell differently."""
        self.is_refused(raw.encode())

    @pytest.mark.parametrize("template", ["%s", "[[%s]]", '{"a": {"b": [%s]}}'])
    def test_refuses_objects_with_more_fields_than_any_has(self, template: str) -> None:
        def wide(fields: int) -> bytes:
            return (template % json.dumps({f"field{number}": 1 for number in range(fields)})).encode()

        parse_json(wide(limits.OBJECT_KEYS_MAX))
        with pytest.raises(InvalidRequest) as refusal:
            parse_json(wide(limits.OBJECT_KEYS_MAX + 1))
        assert [error.param for error in refusal.value.errors] == ["body"]

    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
    @pytest.mark.parametrize("depth", [300, 100_000])
    def test_refuses_what_is_nested_without_end(self, opening: str, closing: str, depth: int) -> None:
        self.is_refused((opening * depth + "1" + closing * depth).encode())

    @generated
    @given(st.binary(max_size=200))
    def test_bytes_are_json_or_refused_and_nothing_else(self, raw: bytes) -> None:
        try:
            parse_json(raw)
        except InvalidRequest:
            self.is_refused(raw)

    @staticmethod
    def is_refused(raw: bytes) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            parse_json(raw)
        (error,) = refusal.value.errors
        assert error.param == "body"
        assert "not valid JSON" in error.message
        assert refusal.value.detail == error.message


class TestValidated:
    def test_gives_the_value_of_a_model_or_another_form(self) -> None:
        assert isinstance(validated(ActionEvent, IDS), ActionEvent)
        numbers: TypeAdapter[list[int]] = TypeAdapter(list[int])
        assert validated(numbers, [1]) == [1]

    @pytest.mark.parametrize("data", [None, 1, "text", [], [IDS]])
    def test_what_is_no_object_is_wrong_as_a_whole(self, data: object) -> None:
        assert set(refused(ActionEvent, data)) == {"body"}

    def test_names_each_field_with_the_value_that_was_sent(self) -> None:
        body = {
            **IDS,
            "order": {"total": Decimal("1.00001"), "items": [{"price": 1}, {"price": "x", "quantity": True}]},
        }
        assert refused(OrderEvent, body) == {
            "order.total": "1.00001",
            "order.items.1.price": "x",
            "order.items.1.quantity": "true",
        }

    @pytest.mark.parametrize(
        ("value", "as_shown"),
        [
            (True, "true"),
            (None, None),
            (5, "5"),
            (Decimal("1E+3"), "1E+3"),
            ([1, None], "[1, null]"),
            ({"a": Decimal("0.10")}, '{"a": "0.10"}'),
            (10**4_299, ("1" + "0" * 198) + "…"),
        ],
        ids=["flag", "null", "integer", "decimal", "list", "object", "large"],
    )
    def test_shows_the_value_as_the_caller_wrote_it(self, value: object, as_shown: str | None) -> None:
        assert refused(
            ActionEvent, {**IDS, "nameSpace": value} if value is not None else {**IDS, "eventId": value}
        ) == {"nameSpace" if value is not None else "eventId": as_shown}

    def test_the_largest_integer_that_json_may_carry_can_be_shown(self) -> None:
        large = parse_json(b"9" * 4_300)
        assert refused(PointsEvent, {**IDS, "points": {"quantity": large}}) == {"points.quantity": "9" * 199 + "…"}

    def test_what_is_missing_has_no_value(self) -> None:
        assert refused(ActionEvent, {}) == {"eventId": None, "customerId": None}
        assert refused(OrderEvent, {**IDS, "order": {"items": []}}) == {"order.total": None}

    def test_names_a_missing_field_even_where_the_type_has_the_same_name(self) -> None:
        assert refused(OrderEvent, {**IDS, "eventType": "order"}) == {"order": None}
        assert refused(PointsEvent, {**IDS, "eventType": "points"}) == {"points": None}

    def test_names_the_parts_of_a_rule_without_their_types(self) -> None:
        rule = {
            "name": "Rule",
            "eventType": "action",
            "criteria": [
                {"type": "everyEvent"},
                {"type": "nameSpace", "operator": "contains", "value": ""},
                {"type": "attribute", "value": "blue"},
                {"type": "reference", "reference": "R-1"},
                {"type": "inSegment", "segmentId": "VIP"},
                {"type": "unknown"},
                {},
            ],
            "fulfilments": [{"type": "points", "points": 5}, {"type": "points", "amount": "1"}, GIFT],
        }
        assert set(refused(NewRule, rule)) == {
            "criteria.1.operator",
            "criteria.1.value",
            "criteria.2.key",
            "criteria.3.value",
            "criteria.3.reference",
            "criteria.4.segmentId",
            "criteria.5",
            "criteria.6",
            "fulfilments.0.amount",
            "fulfilments.0.points",
            "fulfilments.1.amount",
        }

    def test_names_the_parts_of_a_rule_that_do_not_fit_together(self) -> None:
        rule = {
            "name": "Rule",
            "eventType": "action",
            "criteria": [{"type": "campaign", "value": "A"}, {"type": "campaign", "value": "B"}],
            "fulfilments": [GIFT, {"type": "pointsPerUnit", "rate": 1}],
        }
        assert refused(NewRule, rule) == {"criteria.1.value": "B", "fulfilments.1.type": "pointsPerUnit"}

    def test_a_rule_that_is_wrong_as_a_whole_is_named_as_the_body(self) -> None:
        same = "2026-01-01T00:00:00.000Z"
        rule = {"name": "Rule", "eventType": "action", "fulfilments": [GIFT], "fromAt": same, "toAt": same}
        with pytest.raises(InvalidRequest) as refusal:
            validated(NewRule, rule)
        (error,) = refusal.value.errors
        assert error.param == "body"
        assert error.message.startswith("fromAt ")

    def test_tells_the_number_of_errors_and_shows_a_bounded_part(self) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            validated(OrderEvent, {**IDS, "order": {"total": 1}, **{f"unknown{number}": 1 for number in range(50)}})
        assert len(refusal.value.errors) == limits.FIELD_ERRORS_SHOWN_MAX == 20
        assert refusal.value.detail.startswith("50 ")

    @pytest.mark.parametrize(
        ("name", "bad"),
        [("order.items", {"price": "x"}), ("order.payments", {"amount": "x"}), ("attributes", {"value": "x"})],
    )
    def test_a_list_is_read_up_to_its_first_wrong_element(self, name: str, bad: dict[str, str]) -> None:
        body: dict[str, Any] = {"total": 1}
        sent: dict[str, Any] = {**IDS, "order": body}
        (body if name.startswith("order.") else sent)[name.removeprefix("order.")] = [bad] * 50
        assert {place and place.rsplit(".", 1)[0] for place in refused(OrderEvent, sent)} == {f"{name}.0"}

    def test_the_place_of_the_data_comes_first(self) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            validated(ActionEvent, {**IDS, "action": {"count": -1}}, under=("events", 7))
        assert [error.param for error in refusal.value.errors] == ["events.7.action.count"]

    @pytest.mark.parametrize("limit", ["0", "101", "-1", "1.5", "", "all", "1e1", " 5", "+5", "5_0", "٥"])
    def test_a_limit_is_between_1_and_100(self, limit: str) -> None:
        assert refused(PageQuery, {"limit": limit}) == {"limit": limit}
        assert [validated(PageQuery, {"limit": good}).limit for good in ("1", "100")] == [1, 100]
        assert validated(PageQuery, {}).limit == 50


class TestShown:
    def test_cuts_what_is_long(self) -> None:
        assert shown("a" * 200) == "a" * 200
        assert shown("a" * 201) == "a" * 199 + "…"
        assert shown("🎁" * 10, 5) == "🎁🎁🎁🎁…"

    def test_says_nothing_of_nothing(self) -> None:
        assert shown(None) is None

    @pytest.mark.parametrize(("value", "expected"), [("\ud800", "\\ud800"), (5, "5"), (["a"], "['a']"), ("", "")])
    def test_is_a_text_that_can_be_sent(self, value: object, expected: str) -> None:
        assert shown(value) == expected

    @generated
    @given(st.text(st.characters()) | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
    def test_never_fails_and_is_never_long(self, value: object) -> None:
        text = shown(value)
        assert text is None or len(text.encode()) <= 4 * 200

    def test_an_error_carries_the_code_the_sentence_and_the_field(self) -> None:
        refusal = InsufficientPoints.of("redemption.points", 7, "The balance is 5 points.")
        assert ErrorBody.of(refusal).model_dump(mode="json") == {
            "code": "InsufficientPoints",
            "message": "The balance does not cover the redemption.",
            "detail": "The balance is 5 points.",
            "errors": [{"message": "The balance is 5 points.", "param": "redemption.points", "value": "7"}],
        }

    def test_every_refusal_has_a_code_a_status_and_a_sentence(self) -> None:
        for kind in Refusal.__subclasses__():
            assert kind.code.isalnum()
            assert kind.status in {400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 503}
            assert kind.message.endswith(".")
            assert str(kind()) == kind.message


class TestReadBatch:
    @staticmethod
    def read(*sent: object) -> list[EventBase | dict[str | None, str | None]]:
        """What each event is read as; for a refused one its wrong places."""
        return [
            {error.param: error.value for error in item.errors} if isinstance(item, Refusal) else item
            for _, item in read_batch({"events": list(sent)}).items
        ]

    def test_reads_events_of_every_kind_in_order(self) -> None:
        sent = [
            ACTION,
            {**IDS, "eventType": "order", "order": {"total": 1}},
            {**IDS, "eventType": "transaction", "transaction": {"amount": 1}},
            {**IDS, "eventType": "points", "points": {"quantity": 1}},
        ]
        kinds = [type(event).__name__ for event in self.read(*sent)]
        assert kinds == ["ActionEvent", "OrderEvent", "TransactionEvent", "PointsEvent"]
        assert [given_item for given_item, _ in read_batch({"events": sent}).items] == sent

    def test_a_bad_event_is_named_by_its_place_and_refuses_no_other(self) -> None:
        bad_order = {**IDS, "eventType": "order", "order": {"total": "x", "items": [{"quantity": -1}]}}
        first, second, third = self.read(ACTION, bad_order, ACTION)
        assert isinstance(first, ActionEvent)
        assert isinstance(third, ActionEvent)
        assert second == {"events.1.order.total": "x", "events.1.order.items.0.quantity": "-1"}

    def test_names_what_is_missing_by_its_place(self) -> None:
        assert self.read({**IDS, "eventType": "order"}, {"eventType": "action", "customerId": str(CUSTOMER)}) == [
            {"events.0.order": None},
            {"events.1.eventId": None},
        ]

    @pytest.mark.parametrize(
        ("event_type", "as_shown"),
        [
            ("redemption", "redemption"),
            ("basket", "basket"),
            ("error", "error"),
            ("Action", "Action"),
            (None, None),
            (5, "5"),
            (["action"], "['action']"),
        ],
        ids=str,
    )
    def test_an_unknown_type_is_told_with_its_place(self, event_type: object, as_shown: str | None) -> None:
        assert self.read({**IDS, "eventType": event_type}) == [{"events.0.eventType": as_shown}]
        assert self.read(IDS) == [{"events.0.eventType": None}]

    @pytest.mark.parametrize("event", [None, 1, "x", [], [IDS]])
    def test_what_is_no_object_has_no_type(self, event: object) -> None:
        assert self.read(event) == [{"events.0.eventType": None}]

    def test_holds_1_to_1000_events(self) -> None:
        assert limits.BATCH_EVENTS_MAX == 1_000
        assert len(self.read(*[ACTION] * 1_000)) == 1_000
        for number in (0, 1_001):
            with pytest.raises(InvalidRequest) as refusal:
                self.read(*[ACTION] * number)
            assert [error.param for error in refusal.value.errors] == ["events"]

    @pytest.mark.parametrize("data", [None, [], {}, {"events": None}, {"events": {}}, {"events": [IDS], "more": 1}])
    def test_refuses_what_is_no_batch(self, data: object) -> None:
        with pytest.raises(InvalidRequest):
            read_batch(data)


class TestRedemptionOrCustomer:
    """Two calls of the page share a path: the body tells which it is."""

    def test_a_body_like_a_customer_is_one(self) -> None:
        assert isinstance(read_redemption_or_customer({"emailAddress": "a@b"}), NewCustomer)
        assert isinstance(read_redemption_or_customer({"emailAddress": None, "firstName": "Ada"}), NewCustomer)

    def test_a_redemption_is_a_redemption(self) -> None:
        assert isinstance(read_redemption_or_customer({**IDS, "redemption": {"points": 1}}), RedemptionEvent)

    @pytest.mark.parametrize(
        "data",
        [
            {},
            [],
            None,
            {"firstName": "Ada"},
            {**IDS, "redemption": {"points": 1}, "emailAddress": "a@b"},
            {"emailAddress": "a@b", "isAccountLocked": True},
            IDS,
        ],
        ids=str,
    )
    def test_neither_is_refused(self, data: object) -> None:
        with pytest.raises(InvalidRequest):
            read_redemption_or_customer(data)

    def test_an_event_without_its_redemption_is_told_so(self) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            read_redemption_or_customer(IDS)
        assert [error.param for error in refusal.value.errors] == ["redemption"]


@pytest.mark.parametrize(
    ("keyword", "pattern"),
    [("ada", "%ada%"), ("100%", "%100\\%%"), ("a_b", "%a\\_b%"), ("a\\b", "%a\\\\b%"), ("\\%_", "%\\\\\\%\\_%")],
)
def test_what_is_special_in_a_pattern_is_ordinary_in_a_keyword(keyword: str, pattern: str) -> None:
    assert containing(keyword) == pattern
