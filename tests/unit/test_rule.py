"""The rule: what makes one, and when it looks at events."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tallymarks import limits
from tallymarks.rules.rule import NewRule
from tallymarks.rules.rule_limits import PeriodUnit, period_from
from tallymarks.segments import Status
from tests.parts import START
from tests.unit.builders import OTHER_SEGMENT, SEGMENT, generated, instants, rule

FIVE_POINTS = {"type": "points", "amount": 5}
WHOLE: dict[str, Any] = {
    "ruleId": "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "name": "Registration bonus",
    "description": "Once",
    "eventType": "order",
    "status": "active",
    "fromAt": "2026-01-01T00:00:00.000Z",
    "toAt": "2027-01-01T00:00:00.000Z",
    "criteria": [
        {"type": "everyEvent"},
        {"type": "nameSpace", "operator": "beginsWith", "value": "Customer."},
        {"type": "reference", "value": "R-1"},
        {"type": "campaign", "value": "Spring"},
        {"type": "attribute", "key": "colour", "value": "blue"},
        {"type": "inSegment", "segmentId": str(SEGMENT)},
        {"type": "notInSegment", "segmentId": str(OTHER_SEGMENT)},
    ],
    "fulfilments": [
        FIVE_POINTS,
        {"type": "pointsPerUnit", "rate": "1.5"},
        {"type": "addToSegment", "segmentId": str(OTHER_SEGMENT)},
        {"type": "removeFromSegment", "segmentId": str(SEGMENT)},
    ],
    "limits": {"perCustomer": 3, "perPeriod": {"count": 1, "unit": "week"}, "total": 1_000, "pointsTotal": 5_000},
}


def new(**changed: Any) -> NewRule:
    return NewRule.model_validate({"name": "Rule", "eventType": "action", "fulfilments": [FIVE_POINTS], **changed})


def test_keeps_every_field() -> None:
    assert NewRule.model_validate(WHOLE).model_dump(mode="json") == WHOLE


def test_needs_a_name_a_type_and_a_fulfilment_and_is_not_active_by_itself() -> None:
    made = new()
    assert (made.status, made.description, made.criteria) == (Status.CONFIGURE, "", ())
    assert (made.rule_id, made.from_at, made.to_at, made.limits) == (None, None, None, None)
    for name in ("name", "eventType", "fulfilments"):
        with pytest.raises(ValidationError, match=name):
            new(**{name: None})


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"description": "d" * 2_001},
        {"description": None},
        {"eventType": "error"},
        {"eventType": "purchase"},
        {"status": "running"},
        {"fromAt": "2026-01-01"},
        {"fromAt": "2026-01-01T00:00:00Z", "toAt": "2026-01-01T00:00:00Z"},
        {"fromAt": "2026-01-02T00:00:00Z", "toAt": "2026-01-01T00:00:00Z"},
        {"criteria": [{"type": "everyEvent"}] * (limits.RULE_CRITERIA_MAX + 1)},
        {"fulfilments": []},
        {"fulfilments": [FIVE_POINTS] * (limits.RULE_FULFILMENTS_MAX + 1)},
        {"fulfilments": [FIVE_POINTS, {"type": "pointsPerUnit", "rate": 1}]},
        {"eventType": "points", "fulfilments": [{"type": "pointsPerUnit", "rate": 1}]},
        {"eventType": "redemption", "fulfilments": [{"type": "pointsPerUnit", "rate": 1}]},
        {"eventType": "anniversary", "fulfilments": [{"type": "pointsPerUnit", "rate": 1}]},
        {"limits": {}},
        {"limits": {"perDay": 1}},
        {"eventType": "basket", "limits": {"total": 1}},
        {"fulfilments": [{"type": "points", "amount": -5}], "limits": {"pointsTotal": 5}},
        {"more": 1},
        {"tenantId": "f47ac10b-58cc-4372-a567-0e02b2c3d479"},
    ],
    ids=str,
)
def test_refuses_what_is_no_rule(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        new(**changed)


@pytest.mark.parametrize("event_type", ["order", "transaction"])
def test_points_per_unit_follow_spend(event_type: str) -> None:
    new(eventType=event_type, fulfilments=[{"type": "pointsPerUnit", "rate": 1}])


def test_holds_as_many_criteria_and_fulfilments_as_it_may() -> None:
    new(
        criteria=[{"type": "everyEvent"}] * limits.RULE_CRITERIA_MAX,
        fulfilments=[FIVE_POINTS] * limits.RULE_FULFILMENTS_MAX,
    )


def test_names_its_segments_by_their_places() -> None:
    assert list(NewRule.model_validate(WHOLE).segments_named()) == [
        ("criteria.5.segmentId", SEGMENT),
        ("criteria.6.segmentId", OTHER_SEGMENT),
        ("fulfilments.2.segmentId", OTHER_SEGMENT),
        ("fulfilments.3.segmentId", SEGMENT),
    ]
    assert list(new().segments_named()) == []


@pytest.mark.parametrize(
    ("from_days", "to_days", "applies"),
    [
        (None, None, True),
        (0, None, True),
        (1, None, False),
        (-1, None, True),
        (None, 0, False),
        (None, 1, True),
        (None, -1, False),
        (0, 1, True),
        (-1, 0, False),
    ],
)
def test_its_range_has_its_beginning_and_not_its_end(from_days: int | None, to_days: int | None, applies: bool) -> None:
    ranged = rule(
        from_at=None if from_days is None else START + timedelta(days=from_days),
        to_at=None if to_days is None else START + timedelta(days=to_days),
    )
    assert ranged.applies_at(START) is applies


def test_its_range_is_exact_to_the_millisecond() -> None:
    ranged = rule(from_at=START, to_at=START + timedelta(seconds=1))
    millisecond = timedelta(milliseconds=1)
    assert not ranged.applies_at(START - millisecond)
    assert ranged.applies_at(START)
    assert ranged.applies_at(START + timedelta(seconds=1) - millisecond)
    assert not ranged.applies_at(START + timedelta(seconds=1))


def test_a_version_looks_at_events_from_its_instant_on_until_the_next_one_does() -> None:
    second, millisecond = timedelta(seconds=1), timedelta(milliseconds=1)
    first, last = rule(effective_to=START), rule(effective_from=START + second)
    middle = rule(effective_from=START, effective_to=START + second)
    for at, expected in (
        (limits.INSTANT_MIN, [first]),
        (START - millisecond, [first]),
        (START, [middle]),
        (START + second - millisecond, [middle]),
        (START + second, [last]),
        (limits.INSTANT_MAX, [last]),
    ):
        assert [one for one in (first, middle, last) if one.applies_at(at)] == expected


def test_a_version_that_was_replaced_before_it_began_looks_at_nothing() -> None:
    replaced = rule(effective_from=START, effective_to=START)
    assert not any(replaced.applies_at(START + timedelta(milliseconds=offset)) for offset in (-1, 0, 1))


def test_the_ranges_of_a_rule_and_of_its_version_hold_both() -> None:
    ranged = rule(from_at=START + timedelta(days=1), to_at=START + timedelta(days=3))
    versioned = ranged.model_copy(update={"effective_from": START, "effective_to": START + timedelta(days=2)})
    assert [versioned.applies_at(START + timedelta(days=day)) for day in range(4)] == [False, True, False, False]


def test_two_rules_say_the_same_whatever_their_status_and_version() -> None:
    one = new(fulfilments=[{"type": "pointsPerUnit", "rate": "1.5"}], eventType="order")
    assert one.says_the_same(new(fulfilments=[{"type": "pointsPerUnit", "rate": "1.50"}], eventType="order"))
    assert rule(2, version=5, status="archived", name="Rule 1").says_the_same(rule(1))
    for name, value in {
        "name": "Other",
        "description": "Other",
        "event_type": "order",
        "from_at": START,
        "to_at": START,
        "criteria": [{"type": "everyEvent"}],
        "fulfilments": [FIVE_POINTS],
        "limits": {"total": 1},
    }.items():
        assert not rule(1).says_the_same(rule(1, **{name: value})), name


class TestLimits:
    def test_each_is_enough(self) -> None:
        for one in ({"perCustomer": 1}, {"perPeriod": {"count": 1, "unit": "day"}}, {"total": 1}, {"pointsTotal": 1}):
            limited = new(limits=one).limits
            assert limited is not None
            assert limited.model_dump(mode="json", exclude_none=True) == one

    @pytest.mark.parametrize(
        ("wrong", "place"),
        [
            ({}, "limits"),
            ({"total": None}, "limits"),
            ({"perCustomer": 0}, "limits.perCustomer"),
            ({"perCustomer": 1.5}, "limits.perCustomer"),
            ({"perCustomer": "1"}, "limits.perCustomer"),
            ({"perCustomer": True}, "limits.perCustomer"),
            ({"perCustomer": limits.RULE_USES_MAX + 1}, "limits.perCustomer"),
            ({"total": 0}, "limits.total"),
            ({"total": limits.RULE_USES_MAX + 1}, "limits.total"),
            ({"pointsTotal": 0}, "limits.pointsTotal"),
            ({"pointsTotal": limits.POINTS_MAX + 1}, "limits.pointsTotal"),
            ({"perPeriod": {"count": 1}}, "limits.perPeriod.unit"),
            ({"perPeriod": {"unit": "day"}}, "limits.perPeriod.count"),
            ({"perPeriod": {"count": 0, "unit": "day"}}, "limits.perPeriod.count"),
            ({"perPeriod": {"count": 1, "unit": "days"}}, "limits.perPeriod.unit"),
        ],
        ids=str,
    )
    def test_are_refused_by_their_place(self, wrong: dict[str, Any], place: str) -> None:
        with pytest.raises(ValidationError) as refusal:
            new(limits=wrong)
        assert {".".join(map(str, error["loc"])) for error in refusal.value.errors()} == {place}

    def test_are_refused_by_their_place_where_the_rule_leaves_nothing_to_limit(self) -> None:
        basket = {"eventType": "basket", "limits": {"total": 1}}
        taking = {"fulfilments": [{"type": "points", "amount": -5}], "limits": {"pointsTotal": 1}}
        for changed in (basket, taking):
            with pytest.raises(ValidationError) as refusal:
                new(**changed)
            assert [error["loc"] for error in refusal.value.errors()] == [("limits",)]

    @pytest.mark.parametrize(
        "fulfilments",
        [
            [{"type": "points", "amount": -5}, FIVE_POINTS],
            [{"type": "addToSegment", "segmentId": str(SEGMENT)}, {"type": "pointsPerUnit", "rate": 1}],
        ],
    )
    def test_of_points_need_a_fulfilment_that_gives_some(self, fulfilments: list[dict[str, Any]]) -> None:
        new(eventType="order", fulfilments=fulfilments, limits={"pointsTotal": 1})


@pytest.mark.parametrize(
    ("unit", "at", "expected"),
    [
        ("day", "2026-03-14T09:26:53.589Z", "2026-03-14"),
        ("day", "2026-03-14T00:00:00.000Z", "2026-03-14"),
        ("day", "2026-03-14T23:59:59.999Z", "2026-03-14"),
        ("week", "2026-03-16T00:00:00.000Z", "2026-03-16"),
        ("week", "2026-03-15T23:59:59.999Z", "2026-03-09"),
        ("week", "2027-01-01T12:00:00.000Z", "2026-12-28"),
        ("week", "2028-03-01T12:00:00.000Z", "2028-02-28"),
        ("month", "2026-03-01T00:00:00.000Z", "2026-03-01"),
        ("month", "2026-02-28T23:59:59.999Z", "2026-02-01"),
        ("month", "2028-02-29T12:00:00.000Z", "2028-02-01"),
        ("month", "2026-12-31T23:59:59.999Z", "2026-12-01"),
        ("year", "2026-01-01T00:00:00.000Z", "2026-01-01"),
        ("year", "2026-12-31T23:59:59.999Z", "2026-01-01"),
        ("year", "2028-02-29T12:00:00.000Z", "2028-01-01"),
    ],
)
def test_periods_are_of_the_calendar_in_utc_and_weeks_begin_on_monday(unit: str, at: str, expected: str) -> None:
    begins = period_from(datetime.fromisoformat(at), PeriodUnit(unit))
    assert begins == datetime.fromisoformat(f"{expected}T00:00:00Z")


@generated
@given(instants, st.sampled_from(PeriodUnit))
def test_a_period_has_the_instant_and_one_beginning_for_all_its_instants(at: datetime, unit: PeriodUnit) -> None:
    begins = period_from(at, unit)
    assert begins <= at
    assert period_from(begins, unit) == begins
    assert period_from(begins - timedelta(milliseconds=1), unit) < begins
