"""When a membership lapses."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tallymarks.errors import InvalidRequest
from tallymarks.segments import (
    Expiry,
    NewSegment,
    Status,
    anniversary,
    lapses_at,
    later,
    next_anniversary,
    require_near,
)
from tallymarks.values import format_instant, parse_instant
from tests.parts import START
from tests.unit.builders import generated, instants, segment


def at(text: str) -> datetime:
    """An instant: the day, at half past eight unless another time is given."""
    read = parse_instant(text if "T" in text else f"{text}T08:30:00.123Z")
    assert isinstance(read, datetime)
    return read


def lapse(expiry: dict[str, Any], joined_at: str, customer_created_at: str = "2020-05-31") -> str | None:
    """The day of the lapse, which keeps the time of day."""
    read = Expiry.model_validate(expiry)
    lapsed = lapses_at(read, joined_at=at(joined_at), customer_created_at=at(customer_created_at))
    if lapsed is None:
        return None
    assert lapsed.timetz() == at("2020-01-01").timetz()
    return lapsed.date().isoformat()


UNTIL_ANNIVERSARY = {"mode": "untilAnniversary"}
PLUS_YEAR = {"mode": "untilAnniversaryPlusYear"}


def period(count: int, unit: str) -> dict[str, Any]:
    return {"mode": "period", "count": count, "unit": unit}


def test_without_expiry_a_membership_never_lapses() -> None:
    assert lapse({"mode": "none"}, "2026-03-14") is None
    assert lapse({}, "2026-03-14") is None


def test_a_date_is_the_same_for_everybody() -> None:
    expiry = {"mode": "date", "date": "2027-01-01T08:30:00.123Z"}
    assert lapse(expiry, "2026-03-14") == "2027-01-01"
    assert lapse(expiry, "2026-12-31", "1999-12-31") == "2027-01-01"


class TestUntilAnniversary:
    @pytest.mark.parametrize(
        ("customer_created_at", "joined_at", "expected"),
        [
            ("2020-05-31", "2020-12-23", "2021-05-31"),
            ("2020-05-31", "2021-05-30", "2021-05-31"),
            ("2020-05-31", "2021-06-01", "2022-05-31"),
            ("2020-12-31", "2026-01-01", "2026-12-31"),
            ("2020-01-01", "2026-12-31", "2027-01-01"),
        ],
    )
    def test_is_the_first_one_after_joining(self, customer_created_at: str, joined_at: str, expected: str) -> None:
        assert lapse(UNTIL_ANNIVERSARY, joined_at, customer_created_at) == expected

    def test_who_joins_on_registering_has_a_whole_year(self) -> None:
        assert lapse(UNTIL_ANNIVERSARY, "2020-05-31") == "2021-05-31"

    @pytest.mark.parametrize(
        ("joined_at", "expected"),
        [
            ("2024-05-31T08:30:00.122Z", "2024-05-31"),
            ("2024-05-31T08:30:00.123Z", "2025-05-31"),
            ("2024-05-31T08:30:00.124Z", "2025-05-31"),
        ],
    )
    def test_who_joins_exactly_on_the_anniversary_has_until_the_next(self, joined_at: str, expected: str) -> None:
        assert lapse(UNTIL_ANNIVERSARY, joined_at) == expected

    @pytest.mark.parametrize(
        ("joined_at", "expected"),
        [
            ("2024-02-29", "2025-02-28"),
            ("2025-02-27", "2025-02-28"),
            ("2025-02-28", "2026-02-28"),
            ("2027-02-28", "2028-02-29"),
            ("2028-02-28", "2028-02-29"),
            ("2028-02-29", "2029-02-28"),
            ("2096-02-29", "2097-02-28"),
            ("2099-03-01", "2100-02-28"),
            ("2100-02-28", "2101-02-28"),
            ("2103-02-28", "2104-02-29"),
        ],
    )
    def test_a_customer_of_29_february_has_it_on_28_february_but_in_leap_years(
        self, joined_at: str, expected: str
    ) -> None:
        assert lapse(UNTIL_ANNIVERSARY, joined_at, "2024-02-29") == expected

    def test_the_day_is_the_one_in_utc(self) -> None:
        assert lapse(UNTIL_ANNIVERSARY, "2026-01-01", "2020-06-01T10:30:00.123+02:00") == "2026-06-01"
        created_at = at("2020-05-31T23:30:00-02:00")
        assert next_anniversary(created_at, at("2026-01-01")) == (6, at("2026-06-01T01:30:00Z"))


class TestUntilAnniversaryPlusYear:
    def test_is_the_anniversary_after_the_next(self) -> None:
        """Joined 31 May 2020, added 23 December 2020: the example that the mode is known by."""
        assert lapse(PLUS_YEAR, "2020-12-23", "2020-05-31") == "2022-05-31"

    @pytest.mark.parametrize(
        ("joined_at", "expected"),
        [("2024-05-30", "2025-05-31"), ("2024-05-31", "2026-05-31"), ("2024-06-01", "2026-05-31")],
    )
    def test_counts_from_the_first_one_after_joining(self, joined_at: str, expected: str) -> None:
        assert lapse(PLUS_YEAR, joined_at) == expected

    @pytest.mark.parametrize(
        ("joined_at", "expected"),
        [("2024-02-29", "2026-02-28"), ("2026-05-01", "2028-02-29"), ("2027-02-28", "2029-02-28")],
    )
    def test_a_customer_of_29_february_is_back_on_it_in_leap_years(self, joined_at: str, expected: str) -> None:
        assert lapse(PLUS_YEAR, joined_at, "2024-02-29") == expected


class TestPeriod:
    @pytest.mark.parametrize(
        ("count", "unit", "joined_at", "expected"),
        [
            (1, "days", "2026-02-28", "2026-03-01"),
            (1, "days", "2024-02-28", "2024-02-29"),
            (365, "days", "2023-06-01", "2024-05-31"),
            (1, "months", "2026-01-15", "2026-02-15"),
            (1, "months", "2026-01-31", "2026-02-28"),
            (1, "months", "2024-01-31", "2024-02-29"),
            (1, "months", "2026-03-31", "2026-04-30"),
            (2, "months", "2025-12-31", "2026-02-28"),
            (13, "months", "2026-01-31", "2027-02-28"),
            (1, "years", "2024-02-29", "2025-02-28"),
            (4, "years", "2024-02-29", "2028-02-29"),
            (5, "years", "2026-12-31", "2031-12-31"),
        ],
    )
    def test_keeps_the_day_or_takes_the_last_of_the_month(
        self, count: int, unit: str, joined_at: str, expected: str
    ) -> None:
        assert lapse(period(count, unit), joined_at) == expected

    @generated
    @given(instants, st.integers(1, 60))
    def test_months_are_counted_on_the_calendar(self, joined_at: datetime, count: int) -> None:
        expiry = Expiry.model_validate(period(count, "months"))
        lapsed = lapses_at(expiry, joined_at=joined_at, customer_created_at=START)
        assert lapsed is not None
        assert (lapsed.year * 12 + lapsed.month) - (joined_at.year * 12 + joined_at.month) == count
        assert lapsed.day == min(joined_at.day, monthrange(lapsed.year, lapsed.month)[1])
        assert lapsed.timetz() == joined_at.timetz()

    @generated
    @given(instants, st.integers(1, 5))
    def test_a_year_is_twelve_months(self, joined_at: datetime, count: int) -> None:
        years, months = (Expiry.model_validate(one) for one in (period(count, "years"), period(count * 12, "months")))
        both = {lapses_at(one, joined_at=joined_at, customer_created_at=START) for one in (years, months)}
        assert len(both) == 1


class TestNextAnniversary:
    @generated
    @given(instants, instants)
    def test_is_later_and_the_first_that_is(self, created_at: datetime, after: datetime) -> None:
        assume(created_at <= after)
        years, found = next_anniversary(created_at, after)
        assert found == anniversary(created_at, years)
        assert years >= 1
        assert found > after
        assert anniversary(created_at, years - 1) <= after
        assert found - after <= timedelta(days=366)

    @generated
    @given(instants, instants)
    def test_keeps_day_and_time_of_day(self, created_at: datetime, after: datetime) -> None:
        _, found = next_anniversary(created_at, after)
        assert found.timetz() == created_at.timetz()
        is_moved = (created_at.month, created_at.day) == (2, 29) and monthrange(found.year, 2)[1] == 28
        assert (found.month, found.day) == ((2, 28) if is_moved else (created_at.month, created_at.day))

    def test_who_registers_later_than_that_has_the_first_one(self) -> None:
        """Times can be given for what happened long ago."""
        assert next_anniversary(at("2026-03-14"), at("2019-01-01")) == (1, at("2027-03-14"))


class TestLater:
    lapses = st.none() | instants

    @generated
    @given(lapses, lapses)
    def test_never_moves_a_lapse_back(self, one: datetime | None, other: datetime | None) -> None:
        result = later(one, other)
        assert result == later(other, one)
        assert result in {one, other}
        for given_one in (one, other):
            assert result is None or (given_one is not None and result >= given_one)

    def test_never_is_the_latest(self) -> None:
        assert later(None, START) is None
        assert later(START, None) is None
        assert later(None, None) is None
        assert later(START, START + timedelta(days=1)) == START + timedelta(days=1)


class TestExpiry:
    @pytest.mark.parametrize(
        "expiry",
        [
            {"mode": "none"},
            {"mode": "untilAnniversary"},
            {"mode": "untilAnniversaryPlusYear"},
            {"mode": "period", "count": 1_827, "unit": "days"},
            {"mode": "period", "count": 60, "unit": "months"},
            {"mode": "period", "count": 5, "unit": "years"},
            {"mode": "date", "date": "2027-01-01T00:00:00.000Z"},
        ],
        ids=str,
    )
    def test_knows_five_modes_with_what_belongs_to_them(self, expiry: dict[str, Any]) -> None:
        read = Expiry.model_validate(expiry)
        assert read.model_dump(mode="json", exclude_none=True) == expiry

    @pytest.mark.parametrize(
        "bad",
        [
            {"mode": "forever"},
            {"mode": "period"},
            {"mode": "period", "count": 1},
            {"mode": "period", "unit": "days"},
            {"mode": "period", "count": 0, "unit": "days"},
            {"mode": "period", "count": -1, "unit": "days"},
            {"mode": "period", "count": "1", "unit": "days"},
            {"mode": "period", "count": 1, "unit": "weeks"},
            {"mode": "period", "count": 1_828, "unit": "days"},
            {"mode": "period", "count": 61, "unit": "months"},
            {"mode": "period", "count": 6, "unit": "years"},
            {"mode": "period", "count": 1, "unit": "days", "date": "2027-01-01T00:00:00Z"},
            {"mode": "date"},
            {"mode": "date", "date": None},
            {"mode": "date", "date": "2027-01-01"},
            {"mode": "date", "date": "2027-01-01T00:00:00Z", "count": 1},
            {"mode": "none", "count": 1},
            {"mode": "none", "unit": "days"},
            {"mode": "none", "date": "2027-01-01T00:00:00Z"},
            {"mode": "untilAnniversary", "count": 1, "unit": "years"},
            {"mode": "untilAnniversaryPlusYear", "date": "2027-01-01T00:00:00Z"},
            {"mode": None},
            {"mode": "none", "more": 1},
        ],
        ids=str,
    )
    def test_refuses_every_other_combination(self, bad: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Expiry.model_validate(bad)


class TestRequireNear:
    @staticmethod
    def dated(date: str) -> Expiry:
        return Expiry.model_validate({"mode": "date", "date": date})

    def test_a_date_is_at_most_5_years_ahead(self) -> None:
        now = at("2024-02-29")
        require_near(self.dated("2029-02-28T08:30:00.123Z"), now)
        with pytest.raises(InvalidRequest) as refusal:
            require_near(self.dated("2029-02-28T08:30:00.124Z"), now)
        (error,) = refusal.value.errors
        assert (error.param, error.value) == ("expiry.date", "2029-02-28T08:30:00.124Z")

    def test_one_that_has_passed_is_near_and_so_is_none(self) -> None:
        require_near(self.dated("1999-01-01T00:00:00Z"), START)
        require_near(Expiry(), START)


class TestSegment:
    def test_needs_a_name_only(self) -> None:
        new = NewSegment.model_validate({"name": "VIP"})
        assert new.status is Status.ACTIVE
        assert new.expiry == Expiry()
        with pytest.raises(ValidationError):
            NewSegment.model_validate({"name": ""})

    @pytest.mark.parametrize("status", Status)
    def test_only_an_active_one_takes_members(self, status: Status) -> None:
        assert segment(status=status).takes_members(START) is (status is Status.ACTIVE)

    def test_one_with_a_date_takes_members_before_it(self) -> None:
        dated = segment(expiry={"mode": "date", "date": format_instant(START)})
        assert dated.takes_members(START - timedelta(milliseconds=1))
        assert not dated.takes_members(START)
        assert not dated.takes_members(datetime(2100, 1, 1, tzinfo=UTC))
