"""Criteria: what each matches, and what it says that it saw."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from tallymarks import limits
from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.criteria import Check, FoundBy
from tallymarks.rules.facts import CustomerState
from tests.parts import START
from tests.unit.builders import (
    EVENT,
    OTHER_SEGMENT,
    SEGMENT,
    action,
    baskets,
    customer,
    facts,
    generated,
    order,
    points,
    redemption,
    transaction,
)
from tests.unit.criteria import (
    FORM,
    GENERATED,
    TYPES,
    check,
    criteria_fields,
    criterion,
    is_refused,
    recorded_events,
    states,
)

EARLIER, LATER = START - timedelta(milliseconds=1), START + timedelta(milliseconds=1)


class TestEveryEvent:
    @pytest.mark.parametrize(
        "event", [action(), order(), transaction(), points(), redemption()], ids=lambda event: event.event_type
    )
    def test_matches_and_saw_the_event(self, event: AnyEvent) -> None:
        assert check(event, type="everyEvent") == Check(matched=True, saw=str(EVENT))

    def test_asks_nothing_more(self) -> None:
        assert is_refused(type="everyEvent", value="x")
        assert list(criterion(type="everyEvent").segment_ids()) == []


class TestNameSpace:
    @pytest.mark.parametrize(
        ("operator", "value", "name_space", "matched"),
        [
            ("equals", "Customer.Registration", "Customer.Registration", True),
            ("equals", "Customer", "Customer.Registration", False),
            ("equals", "Customer.Registration", "Customer", False),
            ("equals", "customer.registration", "Customer.Registration", False),
            ("equals", "Customer", "Customer ", False),
            ("beginsWith", "Customer", "Customer.Registration", True),
            ("beginsWith", "Customer.", "Customer.Registration", True),
            ("beginsWith", "Customer.Registration", "Customer.Registration", True),
            ("beginsWith", "Customer.Registration.", "Customer.Registration", False),
            ("beginsWith", "Registration", "Customer.Registration", False),
            ("beginsWith", "customer", "Customer.Registration", False),
            ("beginsWith", "%", "Customer.Registration", False),
            ("equals", "A", "", False),
            ("beginsWith", "A", "", False),
        ],
    )
    def test_compares_the_whole_or_the_beginning(
        self, operator: str, value: str, name_space: str, matched: bool
    ) -> None:
        seen = check(action(name_space=name_space), type="nameSpace", operator=operator, value=value)
        assert seen == Check(matched, saw=name_space)

    @pytest.mark.parametrize("operator", ["equals", "beginsWith"])
    def test_an_event_without_one_does_not_match(self, operator: str) -> None:
        assert check(action(), type="nameSpace", operator=operator, value="A") == Check(matched=False, saw=None)

    def test_compares_the_whole_unless_told_otherwise(self) -> None:
        assert not check(action(name_space="A.B"), type="nameSpace", value="A").matched

    def test_refuses_other_operators_and_an_empty_value(self) -> None:
        assert is_refused(type="nameSpace", operator="contains", value="A")
        assert is_refused(type="nameSpace", value="")
        assert is_refused(type="nameSpace")


@pytest.mark.parametrize("name", ["reference", "campaign"])
class TestReferenceAndCampaign:
    @pytest.mark.parametrize(("value", "matched"), [("R-1", True), ("r-1", False), ("R-", False), ("R-12", False)])
    def test_compares_the_whole(self, name: str, value: str, matched: bool) -> None:
        assert check(action(**{name: "R-1"}), type=name, value=value) == Check(matched, saw="R-1")

    def test_an_event_without_one_does_not_match(self, name: str) -> None:
        other = {"reference": "campaign", "campaign": "reference"}[name]
        assert check(action(**{other: "R-1"}), type=name, value="R-1") == Check(matched=False, saw=None)

    def test_refuses_an_empty_value(self, name: str) -> None:
        assert is_refused(type=name, value="")
        assert is_refused(type=name)


class TestAttribute:
    event = action(
        attributes=[
            {"key": "colour", "value": "blue"},
            {"key": "size", "value": ""},
            {"key": "colour", "value": "red"},
        ]
    )

    @pytest.mark.parametrize(
        ("key", "value", "matched", "saw"),
        [
            ("colour", "blue", True, "blue, red"),
            ("colour", "red", True, "blue, red"),
            ("colour", "green", False, "blue, red"),
            ("colour", "", False, "blue, red"),
            ("colour", "Blue", False, "blue, red"),
            ("size", "", True, ""),
            ("size", "blue", False, ""),
            ("Colour", "blue", False, None),
            ("shape", "round", False, None),
        ],
    )
    def test_matches_a_key_with_a_value(self, key: str, value: str, matched: bool, saw: str | None) -> None:
        assert check(self.event, type="attribute", key=key, value=value) == Check(matched, saw)

    def test_an_event_without_attributes_does_not_match(self) -> None:
        assert check(action(), type="attribute", key="colour", value="") == Check(matched=False, saw=None)

    def test_refuses_an_empty_key(self) -> None:
        assert is_refused(type="attribute", key="", value="blue")
        assert is_refused(type="attribute", key="colour")


@pytest.mark.parametrize(("kind", "wants_member"), [("inSegment", True), ("notInSegment", False)])
class TestSegment:
    @pytest.mark.parametrize(
        ("state", "is_member"),
        [
            (customer(memberships={SEGMENT: None}), True),
            (customer(memberships={SEGMENT: LATER}), True),
            (customer(memberships={SEGMENT: START}), False),
            (customer(memberships={SEGMENT: EARLIER}), False),
            (customer(memberships={OTHER_SEGMENT: None}), False),
            (customer(), False),
        ],
        ids=["for good", "not lapsed yet", "lapses now", "lapsed", "of another", "of none"],
    )
    def test_looks_at_current_memberships(
        self, kind: str, wants_member: bool, state: CustomerState, is_member: bool
    ) -> None:
        seen = criterion(type=kind, segment_id=SEGMENT).check(facts(state=state))
        assert seen == Check(is_member is wants_member, saw="member" if is_member else "not a member")

    def test_names_its_segment_and_needs_it(self, kind: str, wants_member: bool) -> None:  # noqa: ARG002
        assert list(criterion(type=kind, segment_id=SEGMENT).segment_ids()) == [SEGMENT]
        assert is_refused(type=kind)
        assert is_refused(type=kind, segment_id="VIP")


@pytest.mark.parametrize("kind", ["", "every", "EveryEvent", None, 1])
def test_refuses_an_unknown_criterion(kind: object) -> None:
    assert is_refused(type=kind, value="x")


class TestFoundBy:
    @pytest.mark.parametrize(
        ("fields", "found_by"),
        [
            ({"type": "nameSpace", "value": "A.B"}, FoundBy("nameSpace", "A.B")),
            ({"type": "nameSpace", "operator": "beginsWith", "value": "A."}, FoundBy("nameSpacePrefix", "A.")),
            ({"type": "reference", "value": "R"}, FoundBy("reference", "R")),
            ({"type": "campaign", "value": "C"}, FoundBy("campaign", "C")),
        ],
        ids=str,
    )
    def test_tells_what_an_event_must_have(self, fields: dict[str, Any], found_by: FoundBy) -> None:
        assert criterion(**fields).found_by() == found_by

    @generated
    @given(recorded_events(), criteria_fields())
    def test_nothing_matches_that_is_not_found(self, event: AnyEvent, fields: dict[str, Any]) -> None:
        one = criterion(**fields)
        found_by = one.found_by()
        if found_by is not None and one.check(facts(event)).matched:
            name_space = event.name_space or ""
            assert {
                "nameSpace": name_space == found_by.value,
                "nameSpacePrefix": name_space.startswith(found_by.value),
                "reference": event.reference == found_by.value,
                "campaign": event.campaign == found_by.value,
            }[found_by.field]


class TestEveryCriterion:
    def test_is_among_the_generated(self) -> None:
        assert set(GENERATED) == TYPES

    @generated
    @given(recorded_events() | baskets(), criteria_fields(), states())
    def test_never_raises_and_tells_no_more_than_is_kept(
        self, event: AnyEvent | BasketEvent, fields: dict[str, Any], state: CustomerState
    ) -> None:
        one = criterion(**fields)
        windows = dict.fromkeys(one.windows(event, event.event_type), 1)
        seen = one.check(replace(facts(event, state=state), windows=windows))
        assert seen.saw is None or len(seen.saw) <= limits.SAW_LENGTH_MAX

    @generated
    @given(criteria_fields())
    def test_is_written_as_it_was_read(self, fields: dict[str, Any]) -> None:
        one = criterion(**fields)
        written = one.model_dump(mode="json")
        assert FORM.validate_python(written) == one
        assert next(iter(written)) == "type"

    @generated
    @given(criteria_fields())
    def test_goes_with_what_rules_assess(self, fields: dict[str, Any]) -> None:
        types = criterion(**fields).event_types()
        assert types
        assert not types & {EventType.ERROR, EventType.REVERSAL}

    @generated
    @given(recorded_events() | baskets(), criteria_fields(), states())
    def test_claims_nothing_that_keeps_it_from_matching(
        self, event: AnyEvent | BasketEvent, fields: dict[str, Any], state: CustomerState
    ) -> None:
        one, event_type = criterion(**fields), EventType(event.event_type)
        if event_type in one.event_types() and one.check(facts(event, state=state)).matched:
            assert not any(claim.allowed.is_empty for claim in one.claims(event_type))
