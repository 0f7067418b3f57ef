"""The value types of the contract."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tallymarks import limits
from tallymarks.customers import NewCustomer
from tallymarks.events import ActionEvent
from tallymarks.rules.rule import NewRule
from tallymarks.segments import NewSegment
from tallymarks.values import (
    Amount,
    Attribute,
    Attributes,
    Count,
    EmailAddress,
    Flag,
    Id,
    Instant,
    LongText,
    Model,
    Points,
    Rate,
    RequiredText,
    Text,
    format_amount,
    format_instant,
    parse_instant,
)
from tallymarks_api.edge import parse_json
from tests.unit.builders import CUSTOMER, generated, instants

AMOUNT: TypeAdapter[Decimal] = TypeAdapter(Amount)
INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


def amount_in(json: str) -> Decimal:
    """Read an amount out of JSON as the api does."""
    return AMOUNT.validate_python(parse_json(json.encode()))


def refuses(form: Any, value: object) -> bool:
    try:
        TypeAdapter(form).validate_python(value)
    except ValidationError:
        return True
    return False


class TestBuilt:
    def test_is_the_value_that_would_be_read(self) -> None:
        read = Attribute(key="a", name="a", value="b")
        assert Attribute.built(key="a", name="a", value="b") == read
        assert hash(Attribute.built(key="a", name="a", value="b")) == hash(read)

    def test_is_frozen_too(self) -> None:
        with pytest.raises(ValidationError):
            Attribute.built(key="a", name="a", value="b").value = "c"  # type: ignore[misc]


class TestAmount:
    @pytest.mark.parametrize(
        "text", ["999999999999.9999", "-999999999999.9999", "0.0001", "0", "19.99", "0.1", "12", "-0.0001"]
    )
    def test_is_exact_as_a_number_and_as_a_text(self, text: str) -> None:
        assert amount_in(text) == Decimal(text)
        assert amount_in(f'"{text}"') == Decimal(text)

    @generated
    @given(st.integers(-(10**12) + 1, 10**12 - 1), st.text("0123456789", max_size=4))
    def test_every_decimal_of_12_and_4_digits_survives_the_way_in_and_out(self, whole: int, fraction: str) -> None:
        text = f"{whole}.{fraction}" if fraction else str(whole)
        expected = Decimal(text)
        for json in (text, f'"{text}"'):
            amount = amount_in(json)
            assert amount == expected
            assert AMOUNT.dump_json(amount) == f'"{text}"'.encode()

    @pytest.mark.parametrize(
        ("json", "expected"),
        [("1.5e3", "1500"), ("15E-1", "1.5"), ("1e11", "100000000000"), ("0e5", "0"), ("-2E0", "-2")],
    )
    def test_a_number_may_have_an_exponent_and_is_answered_without(self, json: str, expected: str) -> None:
        assert amount_in(json) == Decimal(expected)
        assert "e" not in format_amount(amount_in(json)).lower()

    @pytest.mark.parametrize(
        "json",
        [
            "1000000000000",
            "-1000000000000",
            "1e12",
            "1e999999",
            "-1e999999",
            "0.00001",
            "1e-5",
            "1.00000",
            "9" * 4_000,
            "0." + "0" * 4_000 + "1",
            '"1000000000000"',
            '"0.00001"',
        ],
    )
    def test_refuses_more_than_12_digits_before_and_4_after_the_point(self, json: str) -> None:
        with pytest.raises(ValidationError, match="digits"):
            amount_in(json)

    @pytest.mark.parametrize(
        "json",
        [
            *('"NaN"', '"nan"', '"Infinity"', '"-Infinity"', '"1e3"', '"1,5"', '" 1"', '"1 "', '"1\\n"', '"+1"', '""'),
            *('".5"', '"1."', '"0x10"', '"1_000"', '"\\u0661"', '"--1"', "true", "false", "null", "[]", "{}"),
        ],
    )
    def test_refuses_what_is_no_plain_decimal(self, json: str) -> None:
        with pytest.raises(ValidationError):
            amount_in(json)

    @pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), 0.1, float("nan"), b"1"])
    def test_refuses_what_is_not_exact(self, value: object) -> None:
        assert refuses(Amount, value)

    @pytest.mark.parametrize(("json", "is_refused"), [("0", True), ("-1", True), ("0.0001", False), ("1000", False)])
    def test_a_rate_is_positive_and_at_most_1000(self, json: str, is_refused: bool) -> None:
        assert refuses(Rate, parse_json(json.encode())) is is_refused
        assert refuses(Rate, Decimal("1000.0001"))


class TestInstant:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2026-02-28T09:30:00Z", "2026-02-28T09:30:00.000Z"),
            ("2026-02-28t09:30:00z", "2026-02-28T09:30:00.000Z"),
            ("2026-02-28 09:30:00Z", "2026-02-28T09:30:00.000Z"),
            ("2026-02-28T09:30:00+05:45", "2026-02-28T03:45:00.000Z"),
            ("2026-02-28T23:30:00-11:30", "2026-03-01T11:00:00.000Z"),
            ("2026-02-28T09:30:00-00:00", "2026-02-28T09:30:00.000Z"),
            ("2024-02-29T00:00:00.1Z", "2024-02-29T00:00:00.100Z"),
            ("1900-01-01T00:00:00Z", "1900-01-01T00:00:00.000Z"),
            ("2200-01-01T00:00:00Z", "2200-01-01T00:00:00.000Z"),
            ("1899-12-31T23:00:00-01:00", "1900-01-01T00:00:00.000Z"),
        ],
    )
    def test_is_read_with_any_offset_and_answered_in_utc(self, text: str, expected: str) -> None:
        instant = INSTANT.validate_python(text)
        assert instant.tzinfo is UTC
        assert INSTANT.dump_json(instant) == f'"{expected}"'.encode()

    @pytest.mark.parametrize(
        ("fraction", "milliseconds"),
        [("0009", 0), ("9999", 999), ("123456", 123), ("999999999", 999), ("001999999", 1), ("5", 500)],
    )
    def test_is_cut_to_milliseconds_never_rounded(self, fraction: str, milliseconds: int) -> None:
        assert INSTANT.validate_python(f"2026-02-28T09:30:00.{fraction}Z").microsecond == milliseconds * 1000

    @pytest.mark.parametrize(
        "text",
        [
            "2026-02-28T09:30:00",
            "2026-02-28",
            "2026-02-28T09:30Z",
            "20260228T093000Z",
            "2026-W09-6T09:30:00Z",
            "2026-02-28T09:30:00,5Z",
            "2026-02-28T09:30:00.Z",
            "2026-02-28T09:30:00.1234567890Z",
            "2026-02-28T09:30:00Z ",
            "2026-02-28T09:30:00Z\n",
            "2026-02-28T09:30:00+0100",
            "2026-02-28T09:30:00+01",
            "+002026-02-28T09:30:00Z",
            "२०२६-02-28T09:30:00Z",
            "now",
            "",
        ],
    )
    def test_refuses_every_other_notation(self, text: str) -> None:
        with pytest.raises(ValidationError, match="RFC 3339"):
            INSTANT.validate_python(text)

    @pytest.mark.parametrize(
        "text",
        [
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-02-28T24:00:00Z",
            "2026-02-28T09:60:00Z",
            "2016-12-31T23:59:60Z",
            "2026-02-28T09:30:00+24:00",
            "2026-02-28T09:30:00+05:60",
        ],
    )
    def test_refuses_what_no_calendar_or_clock_has(self, text: str) -> None:
        """A leap second among them: no instant of the database can hold it."""
        assert refuses(Instant, text)

    @pytest.mark.parametrize(
        "text",
        [
            "1899-12-31T23:59:59.999Z",
            "1900-01-01T00:00:00+00:01",
            "2200-01-01T00:00:00.001Z",
            "2200-01-01T00:00:00-00:01",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59.999999-23:59",
        ],
    )
    def test_refuses_what_is_outside_of_1900_to_2200(self, text: str) -> None:
        with pytest.raises(ValidationError, match="1900 and 2200"):
            INSTANT.validate_python(text)

    @pytest.mark.parametrize("value", [0, 1772271000, Decimal(0), True, None, [], datetime(2026, 1, 1)])  # noqa: DTZ001
    def test_refuses_what_is_no_text_and_no_aware_datetime(self, value: object) -> None:
        assert refuses(Instant, value)

    @generated
    @given(instants, st.integers(-1439, 1439))
    def test_is_the_same_instant_whatever_the_offset(self, at: datetime, offset_minutes: int) -> None:
        elsewhere = at.astimezone(timezone(timedelta(minutes=offset_minutes)))
        assert parse_instant(elsewhere.isoformat()) == at
        assert parse_instant(format_instant(elsewhere)) == at


class TestText:
    @pytest.mark.parametrize(
        ("form", "length_max"), [(Text, limits.TEXT_LENGTH_MAX), (LongText, limits.DESCRIPTION_LENGTH_MAX)]
    )
    def test_has_a_greatest_length_in_characters(self, form: Any, length_max: int) -> None:
        assert not refuses(form, "🎁" * length_max)
        assert refuses(form, "🎁" * (length_max + 1))

    def test_lengths_are_those_of_the_contract(self) -> None:
        assert (limits.TEXT_LENGTH_MAX, limits.DESCRIPTION_LENGTH_MAX) == (256, 2_000)

    @pytest.mark.parametrize("form", [Text, RequiredText, LongText, EmailAddress])
    @pytest.mark.parametrize("bad", ["\x00", "a\x00b", "\ud800", "a\udfffb"])
    def test_refuses_nul_and_surrogates(self, form: Any, bad: str) -> None:
        assert refuses(form, bad)
        assert refuses(form, f"a@{bad}")

    @pytest.mark.parametrize("form", [Text, RequiredText, LongText, EmailAddress])
    @pytest.mark.parametrize("value", [1, Decimal(1), True, None, [], b"text"])
    def test_refuses_what_is_no_text(self, form: Any, value: object) -> None:
        assert refuses(form, value)

    def test_may_be_empty_only_where_it_is_not_required(self) -> None:
        assert not refuses(Text, "")
        assert not refuses(LongText, "")
        assert refuses(RequiredText, "")

    def test_is_kept_as_it_is(self) -> None:
        sent = "  Ünïcode \u202e \t\n'\"\\%_ \x7f 名前 "
        assert TypeAdapter(Text).validate_python(sent) == sent

    @pytest.mark.parametrize("address", ["a@b", "first.last+tag@example.com", "ü@例え.jp", "a" * 252 + "@b"])
    def test_an_email_address_has_something_on_both_sides(self, address: str) -> None:
        assert not refuses(EmailAddress, address)

    @pytest.mark.parametrize(
        "address", ["", "@", "a@", "@b", "a", "a@b@c", "a b@c", "a@b c", "a@b\n", "\na@b", "a" * 253 + "@b"]
    )
    def test_refuses_what_is_no_email_address(self, address: str) -> None:
        assert refuses(EmailAddress, address)


class TestWholeNumbersAndFlags:
    @pytest.mark.parametrize("form", [Points, Count])
    @pytest.mark.parametrize("json", ['"1"', "1.0", "1.5", "1e3", "true", "null"])
    def test_a_whole_number_is_a_json_integer(self, form: Any, json: str) -> None:
        assert refuses(form, parse_json(json.encode()))

    def test_points_are_bounded(self) -> None:
        assert limits.POINTS_MAX == 10**15
        for quantity in (10**15, -(10**15)):
            assert not refuses(Points, quantity)
        for quantity in (10**15 + 1, -(10**15) - 1, 10**30):
            assert refuses(Points, quantity)

    def test_a_count_is_not_negative_and_bounded(self) -> None:
        assert not refuses(Count, 0)
        assert not refuses(Count, limits.COUNT_MAX)
        assert refuses(Count, -1)
        assert refuses(Count, limits.COUNT_MAX + 1)

    @pytest.mark.parametrize("value", [0, 1, "true", "yes", None, Decimal(1)])
    def test_a_flag_is_true_or_false(self, value: object) -> None:
        assert refuses(Flag, value)
        assert not refuses(Flag, value=True)


class TestId:
    def test_is_a_uuid_in_any_spelling_of_its_text(self) -> None:
        for text in (str(CUSTOMER), str(CUSTOMER).upper(), CUSTOMER.hex, f"urn:uuid:{CUSTOMER}"):
            assert TypeAdapter(Id).validate_python(text) == CUSTOMER

    @pytest.mark.parametrize("value", ["", "x", str(CUSTOMER)[:-1], CUSTOMER.int, None, True, [str(CUSTOMER)]])
    def test_refuses_what_is_none(self, value: object) -> None:
        assert refuses(Id, value)

    def test_is_not_the_nil_uuid_which_stands_before_all_others(self) -> None:
        assert refuses(Id, str(UUID(int=0)))
        assert not refuses(Id, str(UUID(int=1)))

    @pytest.mark.parametrize(
        ("form", "name"),
        [
            (ActionEvent, "eventId"),
            (ActionEvent, "customerId"),
            (NewCustomer, "customerId"),
            (NewRule, "ruleId"),
            (NewSegment, "segmentId"),
        ],
    )
    def test_is_what_a_caller_gives(self, form: type[Model], name: str) -> None:
        with pytest.raises(ValidationError, match=f"{name}\n.*nil UUID"):
            form.model_validate({name: str(UUID(int=0))})


class TestAttribute:
    @pytest.mark.parametrize(
        "given_as", [{"key": "colour"}, {"name": "colour"}, {"key": "colour", "name": "colour"}], ids=str
    )
    def test_takes_key_or_name_or_both_and_answers_both(self, given_as: dict[str, str]) -> None:
        attribute = Attribute.model_validate({**given_as, "value": "blue"})
        assert attribute.model_dump(mode="json") == {"key": "colour", "name": "colour", "value": "blue"}

    @pytest.mark.parametrize(
        "bad",
        [
            {"key": "colour", "name": "color", "value": "blue"},
            {"key": "colour", "name": None, "value": "blue"},
            {"key": None, "name": "colour", "value": "blue"},
            {"key": None, "value": "blue"},
            {"value": "blue"},
            {"key": "", "value": "blue"},
            {"key": "colour"},
            {"key": "colour", "value": None},
            {"key": "colour", "value": 1},
            {"key": 1, "value": "blue"},
            {"key": ["colour"], "value": "blue"},
            {"key": "colour", "value": "blue", "unit": "hue"},
            {"key": "k" * 257, "value": "blue"},
            {"key": "a\x00", "value": "blue"},
            "colour",
            None,
            [],
        ],
        ids=str,
    )
    def test_refuses_what_is_no_key_with_a_value(self, bad: object) -> None:
        assert refuses(Attribute, bad)

    def test_a_key_may_stand_there_twice_and_the_order_is_kept(self) -> None:
        sent = [{"key": "b", "value": "1"}, {"key": "a", "value": "2"}, {"key": "b", "value": "3"}]
        read: tuple[Attribute, ...] = TypeAdapter(Attributes).validate_python(sent)
        assert [(one.key, one.value) for one in read] == [("b", "1"), ("a", "2"), ("b", "3")]

    def test_there_are_at_most_100(self) -> None:
        one = {"key": "k", "value": "v"}
        assert limits.ATTRIBUTES_MAX == 100
        assert not refuses(Attributes, [one] * 100)
        assert refuses(Attributes, [one] * 101)
