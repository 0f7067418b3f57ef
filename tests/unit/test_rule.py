"""The rule: what makes one, and when it looks at events."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from tallymarks import limits
from tallymarks.rules.rule import NewRule
from tallymarks.segments import Status
from tests.parts import START
from tests.unit.builders import OTHER_SEGMENT, SEGMENT, rule

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
}


def new(**changed: Any) -> NewRule:
    return NewRule.model_validate({"name": "Rule", "eventType": "action", "fulfilments": [FIVE_POINTS], **changed})


def test_keeps_every_field() -> None:
    assert NewRule.model_validate(WHOLE).model_dump(mode="json") == WHOLE


def test_needs_a_name_a_type_and_a_fulfilment_and_is_not_active_by_itself() -> None:
    made = new()
    assert (made.status, made.description, made.criteria) == (Status.CONFIGURE, "", ())
    assert (made.rule_id, made.from_at, made.to_at) == (None, None, None)
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
