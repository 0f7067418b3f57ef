"""What a reversal takes back: in whole points, all of it in the end, never more in between."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.errors import AlreadyReversed, AmountExceedsRest, LimitReached
from tallymarks.rules.facts import Totals
from tallymarks.rules.reversal import Given, Share, TakenBack, share_of, take_back, totals_after
from tests.unit.builders import EVENT, amounts, generated, id_of, quantities

STEP = Decimal("0.0001")
positive_amounts = st.decimals(min_value=STEP, max_value=10**12 - 1, places=4)


def given_by(amount: int, rule_number: int = 1, place: int = 0, version: int | None = 1) -> Given:
    """What a fulfilment of a rule gave."""
    return Given(id_of(rule_number), version, place, f"Rule {rule_number}", amount)


def whole(value: str = "10") -> Share:
    return Share(Decimal(value), Decimal(0), Decimal(value))


def taken(given_: Sequence[Given], share: Share, balance: int = 0, *, below_zero: bool = True) -> list[int]:
    taking = take_back(given_, share, balance, may_go_below_zero=below_zero)
    return [one.amount for one in taking.taken_back]


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Decimal, list[Decimal]]:
    """A value, and amounts that it is cut into."""
    value = draw(positive_amounts)
    units = int(value / STEP)
    places = sorted(draw(st.sets(st.integers(1, units - 1), max_size=20))) if units > 1 else []
    bounds = [0, *places, units]
    return value, [(end - start) * STEP for start, end in pairwise(bounds)]


class TestShare:
    def test_is_all_that_is_left_unless_an_amount_is_given(self) -> None:
        assert share_of(EVENT, Decimal(10), [], None) == Share(Decimal(10), Decimal(0), Decimal(10))
        assert share_of(EVENT, Decimal(10), [Decimal(3), Decimal(4)], None) == Share(
            Decimal(10), Decimal(7), Decimal(3)
        )
        assert share_of(EVENT, Decimal(10), [Decimal(3)], Decimal(2)) == Share(Decimal(10), Decimal(3), Decimal(2))

    def test_is_the_last_where_nothing_is_left_after_it(self) -> None:
        assert share_of(EVENT, Decimal(10), [], None).is_last
        assert share_of(EVENT, Decimal("10.00"), [Decimal(4)], Decimal("6.0")).is_last
        assert not share_of(EVENT, Decimal(10), [Decimal(4)], Decimal("5.9999")).is_last

    @pytest.mark.parametrize(
        ("value", "earlier", "amount"),
        [("10", [], "10.0001"), ("10", ["4"], "6.0001"), ("0", [], "0.0001"), ("-10", [], "10"), ("-10", [], "0.0001")],
    )
    def test_more_than_is_left_is_refused(self, value: str, earlier: list[str], amount: str) -> None:
        with pytest.raises(AmountExceedsRest) as refused:
            share_of(EVENT, Decimal(value), list(map(Decimal, earlier)), Decimal(amount))
        assert [(error.param, error.value) for error in refused.value.errors] == [("amount", amount)]

    @pytest.mark.parametrize(
        ("value", "earlier"), [("10", ["10"]), ("10", ["3", "7.00"]), ("0", ["0"]), ("-5", ["-5"])]
    )
    @pytest.mark.parametrize("amount", [None, Decimal(1)])
    def test_what_was_reversed_as_a_whole_is_refused(
        self, value: str, earlier: list[str], amount: Decimal | None
    ) -> None:
        with pytest.raises(AlreadyReversed):
            share_of(EVENT, Decimal(value), list(map(Decimal, earlier)), amount)

    @pytest.mark.parametrize("value", ["0", "-10"])
    def test_what_has_no_positive_value_is_reversed_as_a_whole(self, value: str) -> None:
        share = share_of(EVENT, Decimal(value), [], None)
        assert (share.amount, share.is_last, share.of(7)) == (Decimal(value), True, 7)

    def test_the_last_reversal_that_there_may_be_takes_all_that_is_left(self) -> None:
        earlier = [STEP] * (limits.REVERSALS_PER_EVENT_MAX - 2)
        value = Decimal(10)
        assert not share_of(EVENT, value, earlier, STEP).is_last
        with pytest.raises(LimitReached):
            share_of(EVENT, value, [*earlier, STEP], STEP)
        assert share_of(EVENT, value, [*earlier, STEP], None).is_last

    @pytest.mark.parametrize(
        ("points", "value", "before", "amount", "expected"),
        [
            (100, "10", "0", "10", 100),
            (100, "3", "0", "1", 33),
            (100, "3", "1", "1", 33),
            (100, "3", "2", "1", 34),
            (-100, "3", "0", "1", -33),
            (-100, "3", "2", "1", -34),
            (1, "10", "0", "9.9999", 0),
            (1, "10", "9.9999", "0.0001", 1),
            (0, "10", "0", "5", 0),
            (10**15, "999999999999.9999", "0", "999999999999.9998", 10**15 - 1),
        ],
    )
    def test_is_rounded_down_of_the_sum_so_far(
        self, points: int, value: str, before: str, amount: str, expected: int
    ) -> None:
        assert Share(Decimal(value), Decimal(before), Decimal(amount)).of(points) == expected

    @generated
    @given(cuts(), quantities(limits.POINTS_MAX))
    def test_any_cut_takes_back_exactly_the_whole_and_never_more_in_between(
        self, cut: tuple[Decimal, list[Decimal]], points: int
    ) -> None:
        value, parts = cut
        so_far, earlier = 0, list[Decimal]()
        for part in parts:
            share = share_of(EVENT, value, earlier, part)
            assert share.is_last is (sum(earlier, part) == value)
            took = share.of(points)
            assert took * points >= 0
            so_far += took
            earlier.append(part)
            # No more than the proportion that has been reversed, and less than a point below it.
            proportion = Fraction(sum(earlier)) / Fraction(value)
            assert 0 <= abs(points) * proportion - abs(so_far) < 1
        assert so_far == points
        with pytest.raises(AlreadyReversed):
            share_of(EVENT, value, earlier, None)

    @generated
    @given(amounts, quantities(limits.POINTS_MAX))
    def test_a_whole_reversal_takes_back_everything(self, value: Decimal, points: int) -> None:
        assert share_of(EVENT, value, [], None).of(points) == points


class TestTaking:
    def test_gives_each_fulfilment_a_row_of_the_opposite_sign(self) -> None:
        first, second, third = given_by(7), given_by(-3, place=1), given_by(5, rule_number=2, version=4)
        taking = take_back([first, second, third], whole(), 0, may_go_below_zero=True)
        assert taking.taken_back == (TakenBack(first, -7), TakenBack(second, 3), TakenBack(third, -5))
        assert (taking.points, taking.points_not_taken) == (-9, 0)

    def test_adds_up_what_a_fulfilment_gave_for_several_points_events(self) -> None:
        one, other = given_by(7), given_by(7, rule_number=2)
        (first, second) = take_back([one, other, one, one], whole(), 0, may_go_below_zero=True).taken_back
        assert (first, second) == (TakenBack(given_by(21), -21), TakenBack(other, -7))

    def test_has_no_row_where_a_share_is_less_than_a_point(self) -> None:
        share = Share(Decimal(10), Decimal(0), Decimal(1))
        assert taken([given_by(9), given_by(10, place=1)], share) == [-1]
        assert taken([], whole()) == []

    @pytest.mark.parametrize(
        ("balance", "expected", "not_taken"),
        [
            (100, [-7, -5], 0),
            (12, [-7, -5], 0),
            (11, [-7, -4], 1),
            (7, [-7], 5),
            (6, [-6], 6),
            (0, [], 12),
            (-1, [], 12),
        ],
    )
    def test_stops_at_a_balance_of_zero_where_the_tenant_says_so(
        self, balance: int, expected: list[int], not_taken: int
    ) -> None:
        rows = [given_by(7), given_by(5, place=1)]
        assert taken(rows, whole(), balance, below_zero=False) == expected
        assert take_back(rows, whole(), balance, may_go_below_zero=False).points_not_taken == not_taken
        assert taken(rows, whole(), balance) == [-7, -5]

    def test_gives_back_first_and_takes_of_that(self) -> None:
        rows = [given_by(7), given_by(-4, place=1)]
        assert taken(rows, whole(), 0, below_zero=False) == [-4, 4]
        assert taken(rows, whole(), -6, below_zero=False) == [4]

    @generated
    @given(
        cuts(), st.lists(st.tuples(quantities(1000), st.integers(1, 3), st.integers(0, 1)), max_size=6),
        st.integers(-1000, 3000), st.booleans(),
    )  # fmt: skip
    def test_any_cut_moves_the_balance_by_what_was_given_or_stops_at_zero(
        self, cut: tuple[Decimal, list[Decimal]], fulfilled: list[tuple[int, int, int]], balance: int, below_zero: bool
    ) -> None:
        value, parts = cut
        # One fulfilment gives the same each time.
        of_fulfilment = {(number, place): amount for amount, number, place in fulfilled}
        rows = [given_by(of_fulfilment[number, place], number, place) for _, number, place in fulfilled]
        now, not_taken, earlier = balance, 0, list[Decimal]()
        for part in parts:
            taking = take_back(rows, share_of(EVENT, value, earlier, part), now, may_go_below_zero=below_zero)
            assert below_zero or now + taking.points >= min(now, 0)
            assert taking.points_not_taken >= 0
            now += taking.points
            not_taken += taking.points_not_taken
            earlier.append(part)
        assert now - not_taken == balance - sum(one.amount for one in rows)
        assert not_taken == 0 or not below_zero


class TestTotals:
    BEFORE = Totals({"order": 3, "points": 4}, {"order": Decimal(100), "points": Decimal(40)}, 50)

    def test_the_value_falls_with_each_share_and_the_count_with_the_last(self) -> None:
        part = Share(Decimal(30), Decimal(0), Decimal(20))
        after = totals_after(self.BEFORE, "order", part, [])
        assert (after.count("order"), after.value("order")) == (3, Decimal(80))
        after = totals_after(after, "order", Share(Decimal(30), Decimal(20), Decimal(10)), [])
        assert (after.count("order"), after.value("order")) == (2, Decimal(70))
        assert (after.count("transaction"), after.spend) == (0, Decimal(70))

    def test_its_transactions_are_counted_as_points_events(self) -> None:
        rows = [TakenBack(given_by(10), -10), TakenBack(given_by(-4, place=1), 4)]
        after = totals_after(self.BEFORE, "order", whole(), rows)
        assert (after.count("points"), after.value("points")) == (6, Decimal(34))

    def test_what_is_taken_back_is_no_longer_earned_and_what_is_given_back_is_not_earned(self) -> None:
        rows = [TakenBack(given_by(10), -10), TakenBack(given_by(-4, place=1), 4)]
        assert totals_after(self.BEFORE, "order", whole(), rows).points_earned == 40

    def test_what_was_given_before_it_was_counted_as_earned_lessens_nothing(self) -> None:
        rows = [TakenBack(given_by(10, version=None), -10)]
        assert totals_after(self.BEFORE, "order", whole(), rows).points_earned == 50
