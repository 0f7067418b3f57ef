"""Criteria with memory, each at its edge."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.events import AnyEvent, EventType
from tallymarks.rules.criteria import Check
from tallymarks.rules.facts import CustomerState, Window, counted_in
from tests.parts import START
from tests.unit.builders import (
    action,
    anniversary,
    basket,
    customer,
    facts,
    generated,
    order,
    points,
    redemption,
    transaction,
)
from tests.unit.criteria import check, criterion, is_refused, matches, with_past

MILLISECOND, DAY = timedelta(milliseconds=1), timedelta(days=1)
RECORDED = [action(), order(), transaction(), points(), redemption(), anniversary()]
THIRTY_DAYS = {"count": 30, "unit": "days"}


def after(state: CustomerState, *events: AnyEvent) -> CustomerState:
    """The customer once these events were assessed."""
    for event in events:
        state = counted_in(state, facts(event, state=state), is_looked_back_at=True)
    return state


class TestNth:
    @pytest.mark.parametrize(("before", "matched"), [(8, False), (9, True), (10, False)])
    @pytest.mark.parametrize("event", RECORDED, ids=lambda event: event.event_type)
    def test_the_tenth_matches_and_neither_the_ninth_nor_the_eleventh(
        self, event: AnyEvent, before: int, matched: bool
    ) -> None:
        state = with_past({event.event_type: before})
        assert check(event, state, type="nthEvent", n=10) == Check(matched, saw=str(before + 1))

    @pytest.mark.parametrize(
        ("before", "matched"), [(0, False), (8, False), (9, True), (10, False), (18, False), (19, True), (20, False)]
    )
    def test_every_tenth_matches_and_no_other(self, before: int, matched: bool) -> None:
        seen = check(order(), with_past({"order": before}), type="everyNthEvent", n=10)
        assert seen == Check(matched, saw=str(before + 1))

    def test_the_first_event_of_all_is_the_first(self) -> None:
        assert matches(order(), type="nthEvent", n=1)
        assert matches(order(), type="everyNthEvent", n=1)
        assert not matches(order(), type="nthEvent", n=2)

    @pytest.mark.parametrize("kind", ["nthEvent", "everyNthEvent"])
    def test_events_of_other_types_do_not_count(self, kind: str) -> None:
        state = with_past({"order": 1, "action": 7, "points": 3})
        assert matches(order(), state, type=kind, n=2)

    @pytest.mark.parametrize("kind", ["nthEvent", "everyNthEvent"])
    def test_of_a_run_of_events_just_the_nth_match(self, kind: str) -> None:
        state, matched = customer(), []
        for number in range(1, 13):
            event = order(name_space=f"Shop.{number}")
            if matches(event, state, type=kind, n=5):
                matched.append(number)
            state = after(state, event)
        assert matched == ([5] if kind == "nthEvent" else [5, 10])

    @pytest.mark.parametrize("kind", ["nthEvent", "everyNthEvent"])
    def test_n_is_a_whole_number_within_its_bounds(self, kind: str) -> None:
        for n in (1, limits.NTH_MAX):
            criterion(type=kind, n=n)
        for wrong in (0, -1, limits.NTH_MAX + 1, 1.5, "10", True, None):
            assert is_refused(type=kind, n=wrong)


class TestCountInPeriod:
    criterion = criterion(type="countInPeriod", count=3, period=THIRTY_DAYS)

    def check(self, before: int, recent: tuple[tuple[str, str | None, datetime], ...] = ()) -> Check:
        event = order(name_space="Shop")
        (window,) = self.criterion.windows(event, event.event_type)
        state = with_past(recent=recent)
        return self.criterion.check(replace(facts(event, state=state), windows={window: before}))

    @pytest.mark.parametrize(
        ("before", "seen"),
        [
            (0, Check(matched=False, saw="1")),
            (1, Check(matched=False, saw="2")),
            (2, Check(matched=True, saw="3")),
            (3, Check(matched=False, saw="more than 3")),
        ],
    )
    def test_just_the_xth_matches(self, before: int, seen: Check) -> None:
        assert self.check(before) == seen

    def test_asks_for_the_events_of_its_type_and_name_space_up_to_this_one(self) -> None:
        event = order(name_space="Shop", created_at=START)
        assert list(self.criterion.windows(event, event.event_type)) == [
            Window("order", "Shop", after=START - 30 * DAY, until=START, count_max=3)
        ]
        bare = action(created_at=START)
        assert list(self.criterion.windows(bare, bare.event_type)) == [
            Window("action", None, after=START - 30 * DAY, until=START, count_max=3)
        ]

    @pytest.mark.parametrize(
        ("of", "is_counted"),
        [
            (("order", "Shop", START - 30 * DAY), False),
            (("order", "Shop", START - 30 * DAY + MILLISECOND), True),
            (("order", "Shop", START - MILLISECOND), True),
            (("order", "Shop", START), True),
            (("order", "Shop", START + MILLISECOND), False),
            (("order", "Shop.A", START), False),
            (("order", None, START), False),
            (("action", "Shop", START), False),
        ],
        ids=[
            "30 days before",
            "a millisecond later than that",
            "a millisecond before",
            "at the same instant",
            "a millisecond after",
            "of another nameSpace",
            "of none",
            "of another type",
        ],
    )
    def test_what_was_assessed_in_this_transaction_counts_to_the_millisecond(
        self, of: tuple[str, str | None, datetime], is_counted: bool
    ) -> None:
        assert self.check(1, recent=(of,)).saw == ("3" if is_counted else "2")

    def test_what_was_read_and_what_came_since_count_together_whatever_the_cut(self) -> None:
        one = ("order", "Shop", START)
        for before in range(5):
            cuts = {self.check(before - recent, recent=(one,) * recent) for recent in range(before + 1)}
            assert len(cuts) == 1

    def test_a_backdated_event_counts_those_before_it_only(self) -> None:
        state = after(customer(), *(order(created_at=START - days * DAY) for days in (1, 2, 20)))
        fields: dict[str, Any] = {"type": "countInPeriod", "count": 2, "period": {"count": 3, "unit": "days"}}
        assert check(order(created_at=START), state, **fields).saw == "more than 2"
        assert check(order(created_at=START - 2 * DAY + MILLISECOND), state, **fields) == Check(matched=True, saw="2")
        assert check(order(created_at=START - 10 * DAY), state, **fields) == Check(matched=False, saw="1")

    @pytest.mark.parametrize(
        ("at", "months", "after"),
        [
            ((2026, 3, 31), 1, (2026, 2, 28)),
            ((2026, 3, 30), 1, (2026, 2, 28)),
            ((2026, 3, 28), 1, (2026, 2, 28)),
            ((2024, 3, 31), 1, (2024, 2, 29)),
            ((2026, 2, 28), 1, (2026, 1, 28)),
            ((2026, 5, 31), 1, (2026, 4, 30)),
            ((2024, 2, 29), 12, (2023, 2, 28)),
            ((2024, 2, 29), 48, (2020, 2, 29)),
            ((2026, 1, 15), 2, (2025, 11, 15)),
            ((2026, 1, 15), 60, (2021, 1, 15)),
        ],
    )
    def test_months_keep_the_day_or_take_the_months_last(
        self, at: tuple[int, int, int], months: int, after: tuple[int, int, int]
    ) -> None:
        event = order(created_at=datetime(*at, 9, 26, 53, 589_000, tzinfo=UTC))
        asks = criterion(type="countInPeriod", count=2, period={"count": months, "unit": "months"})
        (window,) = asks.windows(event, event.event_type)
        assert window.after == datetime(*after, 9, 26, 53, 589_000, tzinfo=UTC)
        assert window.until == event.created_at

    @pytest.mark.parametrize(("of", "matched"), [(-1, False), (0, False), (1, True)])
    def test_a_month_ends_to_the_millisecond(self, of: int, matched: bool) -> None:
        a_month_before = datetime(2026, 2, 28, 12, tzinfo=UTC)
        state = after(customer(), order(created_at=a_month_before + of * MILLISECOND))
        event = order(created_at=datetime(2026, 3, 31, 12, tzinfo=UTC))
        month = {"count": 1, "unit": "months"}
        assert matches(event, state, type="countInPeriod", count=2, period=month) is matched

    @pytest.mark.parametrize("created_at", [limits.INSTANT_MIN, limits.INSTANT_MAX])
    def test_the_longest_period_fits_before_every_instant(self, created_at: datetime) -> None:
        for unit, count in limits.WINDOW_PERIOD_MAX.items():
            event = order(created_at=created_at)
            assert matches(event, type="countInPeriod", count=1, period={"count": count, "unit": unit})

    def test_count_and_period_are_within_their_bounds(self) -> None:
        for count in (1, limits.WINDOW_EVENTS_MAX):
            criterion(type="countInPeriod", count=count, period=THIRTY_DAYS)
        for wrong in (0, -1, limits.WINDOW_EVENTS_MAX + 1, 1.5, "3", None):
            assert is_refused(type="countInPeriod", count=wrong, period=THIRTY_DAYS)
        for unit, most in (("days", 1_827), ("months", 60)):
            criterion(type="countInPeriod", count=1, period={"count": most, "unit": unit})
            assert is_refused(type="countInPeriod", count=1, period={"count": most + 1, "unit": unit})
            assert is_refused(type="countInPeriod", count=1, period={"count": 0, "unit": unit})
        assert is_refused(type="countInPeriod", count=1, period={"count": 1, "unit": "weeks"})
        assert is_refused(type="countInPeriod", count=1)


class TestCountSince:
    @pytest.mark.parametrize(
        ("before", "seen"),
        [
            (0, Check(matched=False, saw="1")),
            (1, Check(matched=True, saw="2")),
            (2, Check(matched=False, saw="more than 2")),
        ],
    )
    def test_just_the_xth_matches(self, before: int, seen: Check) -> None:
        asks, event = criterion(type="countSince", count=2, since=START - DAY), order()
        (window,) = asks.windows(event, event.event_type)
        assert asks.check(replace(facts(event), windows={window: before})) == seen

    @pytest.mark.parametrize(("of", "is_counted"), [(-1, False), (0, True), (1, True)])
    def test_begins_with_its_instant_to_the_millisecond(self, of: int, is_counted: bool) -> None:
        state = after(customer(), order(created_at=START - DAY + of * MILLISECOND))
        assert matches(order(), state, type="countSince", count=2, since=START - DAY) is is_counted

    @pytest.mark.parametrize(
        ("since", "seen"),
        [
            (START, Check(matched=True, saw="1")),
            (START + MILLISECOND, Check(matched=False, saw="0")),
        ],
    )
    def test_an_event_from_before_then_is_none_and_reads_nothing(self, since: datetime, seen: Check) -> None:
        asks, event = criterion(type="countSince", count=1, since=since), order()
        assert asks.check(facts(event)) == seen
        assert len(list(asks.windows(event, event.event_type))) == (1 if seen.matched else 0)

    def test_needs_an_instant_and_a_count(self) -> None:
        for instant in ("1900-01-01T00:00:00Z", "2200-01-01T00:00:00Z"):
            criterion(type="countSince", count=1, since=instant)
        for wrong in ("2026-01-01", "1899-12-31T23:59:59Z", "2200-01-01T00:00:01Z", None):
            assert is_refused(type="countSince", count=1, since=wrong)
        assert is_refused(type="countSince", count=0, since=START)
        assert is_refused(type="countSince", count=limits.WINDOW_EVENTS_MAX + 1, since=START)


class TestLifetimeEventValue:
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
    def test_compares_the_sum_with_this_event_in_it(self, operator: str, matched: tuple[bool, ...]) -> None:
        state = with_past(values={"order": "90.0001"})
        totals = ("9.9998", "9.9999", "10")
        assert matched == tuple(
            matches(order(total), state, type="lifetimeEventValue", operator=operator, value="100") for total in totals
        )

    @pytest.mark.parametrize(
        ("event", "saw"),
        [
            (action(action={"amount": "2.50"}), "102.50"),
            (action(), "100"),
            (order("2"), "102"),
            (transaction("-0.5"), "99.5"),
            (points(-3), "97"),
        ],
        ids=lambda value: getattr(value, "event_type", None),
    )
    def test_adds_up_what_events_of_the_type_are_worth(self, event: AnyEvent, saw: str) -> None:
        state = with_past(values={event.event_type: "100", "redemption": "7"})
        assert check(event, state, type="lifetimeEventValue", operator="atLeast", value=0).saw == saw

    def test_is_exact_where_floats_are_not(self) -> None:
        state = with_past(values={"order": "0.1"})
        assert matches(order("0.2"), state, type="lifetimeEventValue", operator="equals", value="0.3")


class TestLifetimeEventThreshold:
    def test_matches_the_event_that_carries_the_sum_past_it_and_not_the_one_after(self) -> None:
        state, matched = customer(), []
        for total in ("60", "39.9999", "0.0001", "5"):
            matched.append(matches(order(total), state, type="lifetimeEventThreshold", value="100"))
            state = after(state, order(total))
        assert matched == [False, False, True, False]

    @pytest.mark.parametrize(
        ("before", "total", "matched"),
        [
            ("0", "100", True),
            ("0", "250", True),
            ("99.9999", "0.0001", True),
            ("99.9999", "0", False),
            ("100", "0", False),
            ("100", "1", False),
            ("0", "99.9999", False),
            ("150", "-60", False),
        ],
    )
    def test_was_below_and_is_not(self, before: str, total: str, matched: bool) -> None:
        seen = check(order(total), with_past(values={"order": before}), type="lifetimeEventThreshold", value="100")
        assert seen.matched is matched
        assert seen.saw is not None
        assert seen.saw.startswith(f"{before} before, ")

    def test_is_reached_again_where_something_was_taken_back(self) -> None:
        state = after(customer(), order("120"), order("-30"))
        assert matches(order("10"), state, type="lifetimeEventThreshold", value="100")

    def test_other_types_have_thresholds_of_their_own(self) -> None:
        state = with_past(values={"order": "99"})
        assert not matches(transaction("50"), state, type="lifetimeEventThreshold", value="100")
        assert matches(points(100), state, type="lifetimeEventThreshold", value="100")
        assert matches(action(action={"amount": 100}), state, type="lifetimeEventThreshold", value="100")
        assert not matches(action(), state, type="lifetimeEventThreshold", value="100")

    def test_lies_above_zero(self) -> None:
        criterion(type="lifetimeEventThreshold", value="0.0001")
        for wrong in ("0", "-1", "0.00001", None):
            assert is_refused(type="lifetimeEventThreshold", value=wrong)


class TestLifetimeSpend:
    @pytest.mark.parametrize(
        ("event", "saw"),
        [
            (order("10"), "110.5"),
            (transaction("10"), "110.5"),
            (action(action={"amount": 10}), "100.5"),
            (points(10), "100.5"),
            (redemption(10), "100.5"),
            (anniversary(), "100.5"),
            (basket("10"), "100.5"),
        ],
        ids=lambda value: getattr(value, "event_type", None),
    )
    def test_orders_and_transactions_together_this_one_in_it(self, event: AnyEvent, saw: str) -> None:
        state = with_past(values={"order": "60", "transaction": "40.5", "action": "7", "points": "8"})
        seen = check(event, state, type="lifetimeSpend", operator="moreThan", value="100.5")
        assert seen == Check(saw != "100.5", saw)


class TestTheEventsThatTheyGoWith:
    @pytest.mark.parametrize(
        "fields",
        [
            {"type": "nthEvent", "n": 1},
            {"type": "everyNthEvent", "n": 1},
            {"type": "countInPeriod", "count": 1, "period": THIRTY_DAYS},
            {"type": "countSince", "count": 1, "since": START},
        ],
        ids=lambda fields: str(fields["type"]),
    )
    def test_what_is_recorded_can_be_counted(self, fields: dict[str, Any]) -> None:
        assert criterion(**fields).event_types() == {
            EventType.ACTION,
            EventType.ORDER,
            EventType.TRANSACTION,
            EventType.POINTS,
            EventType.REDEMPTION,
            EventType.ANNIVERSARY,
        }

    def test_what_has_a_value_can_be_added_up(self) -> None:
        valued = {EventType.ACTION, EventType.ORDER, EventType.TRANSACTION, EventType.POINTS}
        assert criterion(type="lifetimeEventValue", operator="equals", value=1).event_types() == valued
        assert criterion(type="lifetimeEventThreshold", value=1).event_types() == valued

    def test_spend_can_be_asked_for_with_a_basket_too(self) -> None:
        types = criterion(type="lifetimeSpend", operator="equals", value=1).event_types()
        assert EventType.BASKET in types
        assert not {EventType.ERROR, EventType.REVERSAL} & types


@generated
@given(st.lists(st.integers(-50, 50).filter(bool), max_size=30), st.integers(1, 100))
def test_a_threshold_is_passed_just_when_the_lifetime_value_reaches_it(quantities: list[int], threshold: int) -> None:
    state, reached = customer(), False
    for quantity in quantities:
        event = points(quantity)
        passes = matches(event, state, type="lifetimeEventThreshold", value=threshold)
        reaches = matches(event, state, type="lifetimeEventValue", operator="atLeast", value=threshold)
        assert passes is (reaches and not reached)
        state, reached = after(state, event), reaches


@generated
@given(st.lists(st.integers(0, 90), max_size=12), st.integers(1, 5), st.integers(1, 40))
def test_the_xth_in_a_period_is_found_as_counting_by_hand_finds_it(days: list[int], count: int, period: int) -> None:
    state = customer()
    for place, day in enumerate(days):
        event = order(created_at=START + day * DAY)
        by_hand = 1 + sum(day - period < other <= day for other in days[:place])
        fields = {"type": "countInPeriod", "count": count, "period": {"count": period, "unit": "days"}}
        assert matches(event, state, **fields) is (by_hand == count)
        state = after(state, event)
