"""Fulfilments: what each turns a matched event into."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tallymarks import limits
from tallymarks.events import AnyEvent, EventType
from tallymarks.rules.facts import COUNTED_TYPES, Facts
from tallymarks.rules.fulfilments import Effect, Fulfilment, GivePoints, JoinSegment, LeaveSegment, join
from tallymarks.segments import Segment
from tallymarks.values import format_amount, format_instant
from tests.parts import START
from tests.unit.builders import (
    OTHER_SEGMENT,
    SEGMENT,
    action,
    amounts,
    basket,
    customer,
    events,
    facts,
    generated,
    order,
    points,
    redemption,
    segment,
    transaction,
)

FORM: TypeAdapter[Fulfilment] = TypeAdapter(Fulfilment)
DAY = timedelta(days=1)
NOT_ACTIVE = ["configure", "test", "inactive", "archived"]


def fulfilment(**fields: Any) -> Fulfilment:
    read: Fulfilment = FORM.validate_python(fields)
    return read


def effect(given_facts: Facts, **fields: Any) -> Effect | None:
    return fulfilment(**fields).fulfil(given_facts)


def is_refused(**fields: Any) -> bool:
    try:
        fulfilment(**fields)
    except ValidationError:
        return True
    return False


class TestPoints:
    @pytest.mark.parametrize("amount", [1, -1, limits.POINTS_MAX, -limits.POINTS_MAX])
    @pytest.mark.parametrize(
        "event", [action(), order(), transaction(), points(), redemption()], ids=lambda event: event.event_type
    )
    def test_are_the_same_for_every_event(self, event: AnyEvent, amount: int) -> None:
        assert effect(facts(event), type="points", amount=amount) == GivePoints(amount)

    def test_follow_every_type_and_name_no_segment(self) -> None:
        five = fulfilment(type="points", amount=5)
        assert five.event_types() == set(EventType)
        assert list(five.segment_ids()) == []

    @pytest.mark.parametrize("amount", [0, "5", Decimal("1.5"), True, None, limits.POINTS_MAX + 1])
    def test_are_whole_bounded_and_never_none(self, amount: object) -> None:
        assert is_refused(type="points", amount=amount)


class TestPointsPerUnit:
    @pytest.mark.parametrize(
        ("rate", "spend", "expected"),
        [
            ("1", "10", 10),
            ("1", "10.9999", 10),
            ("1.5", "19.99", 29),
            ("0.1", "30", 3),
            ("0.3333", "3", None),
            ("0.1", "9.9999", None),
            ("0.1", "10", 1),
            ("1", "0", None),
            ("1", "0.9999", None),
            ("1000", "0.001", 1),
            ("1000", "999999999999.9999", 999_999_999_999_999),
            ("0.0001", "999999999999.9999", 99_999_999),
            ("1", "-10", -10),
            ("1", "-10.0001", -11),
            ("1.5", "-19.99", -30),
            ("0.0001", "-0.0001", -1),
            ("1000", "-999999999999.9999", -(10**15)),
        ],
    )
    def test_round_down_to_whole_points_so_a_refund_takes_more(
        self, rate: str, spend: str, expected: int | None
    ) -> None:
        wanted = None if expected is None else GivePoints(expected)
        for event in (order(spend), transaction(spend), basket(spend)):
            assert effect(facts(event), type="pointsPerUnit", rate=rate) == wanted

    @generated
    @given(st.decimals("0.0001", limits.RATE_MAX, places=4), amounts)
    def test_are_exact_whatever_the_rate_and_the_spend(self, rate: Decimal, spend: Decimal) -> None:
        exact = Fraction(rate) * Fraction(spend)
        expected = exact.numerator // exact.denominator
        given_effect = effect(facts(order(format_amount(spend))), type="pointsPerUnit", rate=rate)
        assert given_effect == (GivePoints(expected) if expected else None)
        assert abs(expected) <= limits.POINTS_MAX

    def test_follow_spend_only(self) -> None:
        per_unit = fulfilment(type="pointsPerUnit", rate="1")
        assert per_unit.event_types() == {EventType.ORDER, EventType.TRANSACTION, EventType.BASKET}
        assert list(per_unit.segment_ids()) == []
        assert effect(facts(action(action={"amount": 100})), type="pointsPerUnit", rate="1") is None

    @pytest.mark.parametrize("rate", ["0", "-1", "1000.0001", "0.00001", "x", None, 1.5])
    def test_have_a_positive_rate_of_at_most_1000(self, rate: object) -> None:
        assert is_refused(type="pointsPerUnit", rate=rate)


class TestJoin:
    """What both the rule and the caller of the api come to."""

    daily = segment(expiry={"mode": "period", "count": 1, "unit": "days"})

    def test_a_segment_without_expiry_is_for_good(self) -> None:
        assert join(segment(), customer(), START) == JoinSegment(SEGMENT, None)

    def test_the_lapse_is_computed_from_joining_and_from_the_anniversary(self) -> None:
        yearly = segment(expiry={"mode": "untilAnniversary"})
        created_at = START - 10 * DAY
        assert join(self.daily, customer(), START) == JoinSegment(SEGMENT, START + DAY)
        assert join(yearly, customer(created_at=created_at), START) == JoinSegment(
            SEGMENT, created_at.replace(year=2027)
        )

    @pytest.mark.parametrize("status", NOT_ACTIVE)
    def test_takes_nobody_unless_active(self, status: str) -> None:
        assert join(segment(status=status), customer(), START) is None
        assert join(segment(status=status), customer(memberships={SEGMENT: None}), START) is None

    def test_takes_nobody_once_its_date_has_come(self) -> None:
        dated = segment(expiry={"mode": "date", "date": format_instant(START)})
        assert join(dated, customer(), START) is None
        assert join(dated, customer(), START - DAY) == JoinSegment(SEGMENT, START)

    @pytest.mark.parametrize(
        ("lapses_at", "expected"),
        [
            (START + timedelta(hours=1), START + DAY),
            (START + DAY, START + DAY),
            (START + 9 * DAY, START + 9 * DAY),
            (None, None),
        ],
        ids=["sooner", "the same", "later", "never"],
    )
    def test_moves_the_lapse_of_a_member_forward_never_back(self, lapses_at: Any, expected: Any) -> None:
        assert join(self.daily, customer(memberships={SEGMENT: lapses_at}), START) == JoinSegment(SEGMENT, expected)

    @pytest.mark.parametrize("lapses_at", [START, START - 9 * DAY])
    def test_a_lapsed_membership_counts_for_nothing(self, lapses_at: Any) -> None:
        assert join(self.daily, customer(memberships={SEGMENT: lapses_at}), START) == JoinSegment(SEGMENT, START + DAY)

    def test_a_member_of_a_segment_that_lost_its_expiry_is_one_for_good(self) -> None:
        assert join(segment(), customer(memberships={SEGMENT: START + DAY}), START) == JoinSegment(SEGMENT, None)


class TestAddToSegment:
    @staticmethod
    def added(*segments: Segment) -> Effect | None:
        return effect(facts(segments=segments), type="addToSegment", segment_id=SEGMENT)

    def test_joins_the_segment_that_it_names(self) -> None:
        daily = segment(expiry={"mode": "period", "count": 1, "unit": "days"})
        assert self.added(segment(OTHER_SEGMENT), daily) == JoinSegment(SEGMENT, START + DAY)

    def test_has_no_effect_where_the_segment_is_unknown(self) -> None:
        assert self.added() is None
        assert self.added(segment(OTHER_SEGMENT)) is None

    @pytest.mark.parametrize("status", NOT_ACTIVE)
    def test_has_no_effect_where_the_segment_takes_nobody(self, status: str) -> None:
        assert self.added(segment(status=status)) is None
        assert self.added(segment(expiry={"mode": "date", "date": "2026-01-01T00:00:00Z"})) is None

    def test_names_its_segment_and_follows_every_type_that_is_kept(self) -> None:
        adding = fulfilment(type="addToSegment", segment_id=SEGMENT)
        assert list(adding.segment_ids()) == [SEGMENT]
        assert adding.event_types() == set(COUNTED_TYPES)
        assert is_refused(type="addToSegment")


class TestRemoveFromSegment:
    def test_leaves_what_the_customer_is_in(self) -> None:
        for lapses_at in (None, START + DAY):
            state = customer(memberships={SEGMENT: lapses_at, OTHER_SEGMENT: None})
            given_effect = effect(facts(state=state), type="removeFromSegment", segment_id=SEGMENT)
            assert given_effect == LeaveSegment(SEGMENT)

    def test_has_no_effect_on_others(self) -> None:
        state = customer(memberships={OTHER_SEGMENT: None})
        assert effect(facts(state=state), type="removeFromSegment", segment_id=SEGMENT) is None

    def test_names_its_segment_and_follows_every_type_that_is_kept(self) -> None:
        removing = fulfilment(type="removeFromSegment", segment_id=SEGMENT)
        assert list(removing.segment_ids()) == [SEGMENT]
        assert removing.event_types() == set(COUNTED_TYPES)
        assert is_refused(type="removeFromSegment")


@pytest.mark.parametrize("kind", ["", "point", "Points", None, 1])
def test_refuses_an_unknown_fulfilment(kind: object) -> None:
    assert is_refused(type=kind, amount=1)


@generated
@given(events())
def test_no_fulfilment_ever_raises(event: AnyEvent) -> None:
    for one in (
        {"type": "points", "amount": 1},
        {"type": "pointsPerUnit", "rate": 1},
        {"type": "addToSegment", "segment_id": SEGMENT},
        {"type": "removeFromSegment", "segment_id": SEGMENT},
    ):
        effect(facts(event, segments=[segment()]), **one)
