"""The life of a rule: which changes are allowed, and which of them make a version."""

from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.errors import InvalidRequest, LimitReached, Refusal, RuleNotEditable, StatusChangeNotAllowed
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_life import Change, RuleChange, change_of, require_first_status
from tallymarks.segments import Status
from tests.parts import START
from tests.unit.builders import generated, rule

MILLISECOND, DAY = timedelta(milliseconds=1), timedelta(days=1)
NOW = START + DAY
ALLOWED = {
    "configure test", "configure active", "configure archived", "test configure", "test active", "test archived",
    "active inactive", "active archived", "inactive archived",
}  # fmt: skip
"""Written out once more, so that no slip in the table can change both."""


def put(current: Rule, **fields: Any) -> RuleChange:
    """The body that says what the rule says, but for these fields."""
    said = {name: getattr(current, name) for name in RuleChange.model_fields if hasattr(current, name)}
    return RuleChange(**{**said, "rule_id": None, "effective_from": None, **fields})


def refusal(current: Rule, wanted: RuleChange) -> Refusal:
    with pytest.raises(Refusal) as refused:
        change_of(current, wanted, NOW)
    return refused.value


@pytest.mark.parametrize(("status", "wanted"), list(product(Status, Status)))
class TestStatus:
    def test_changes_as_allowed_where_the_rest_stays(self, status: Status, wanted: Status) -> None:
        current = rule(status=status)
        if status is wanted:
            assert change_of(current, put(current), NOW) is None
        elif f"{status} {wanted}" in ALLOWED:
            change = change_of(current, put(current, status=wanted), NOW)
            assert change is not None
            assert (change.version, change.makes_version) == (1, wanted is Status.ACTIVE)
            ends = status is Status.ACTIVE
            assert (change.ends_versions_at, change.effective_to) == ((NOW, NOW) if ends else (None, None))
        else:
            refused = refusal(current, put(current, status=wanted))
            assert isinstance(refused, StatusChangeNotAllowed)
            assert [(error.param, error.value) for error in refused.errors] == [("status", wanted)]

    def test_leaves_the_content_free_only_before_a_rule_is_active(self, status: Status, wanted: Status) -> None:
        current = rule(status=status)
        body = put(current, status=wanted, name="Other")
        if status is not wanted and f"{status} {wanted}" not in ALLOWED:
            assert isinstance(refusal(current, body), StatusChangeNotAllowed)
        elif status in {Status.CONFIGURE, Status.TEST}:
            assert change_of(current, body, NOW) == Change(1, None, None, makes_version=wanted is Status.ACTIVE)
        elif status is wanted is Status.ACTIVE:
            assert change_of(current, body, NOW) == Change(2, NOW, None, makes_version=True, ends_versions_at=NOW)
        else:
            assert isinstance(refusal(current, body), RuleNotEditable)

    def test_has_an_instant_only_where_a_version_is_made(self, status: Status, wanted: Status) -> None:
        current = rule(status=status)
        body = put(current, status=wanted, name="Other", effective_from=NOW)
        if status is wanted is Status.ACTIVE:
            assert change_of(current, body, NOW) is not None
        elif status is wanted or f"{status} {wanted}" in ALLOWED:
            assert isinstance(refusal(current, body), InvalidRequest)


@pytest.mark.parametrize("status", Status)
def test_a_new_rule_begins_as_what_one_that_is_configured_may_become(status: Status) -> None:
    if status is Status.INACTIVE:
        with pytest.raises(StatusChangeNotAllowed):
            require_first_status(status)
    else:
        require_first_status(status)


class TestNextVersion:
    def test_begins_when_it_is_asked_to_now_or_later(self) -> None:
        current = rule()
        for begins in (NOW, NOW + MILLISECOND, NOW + 1_000 * DAY):
            change = change_of(current, put(current, name="Other", effective_from=begins), NOW)
            assert change == Change(2, begins, None, makes_version=True, ends_versions_at=begins)

    @pytest.mark.parametrize(
        ("fields", "begins"),
        [
            ({}, NOW - MILLISECOND),
            ({"to_at": NOW + DAY}, NOW + DAY),
            ({"to_at": NOW + DAY}, NOW + DAY + MILLISECOND),
            ({"to_at": NOW}, None),
            ({"to_at": NOW - MILLISECOND}, None),
        ],
        ids=str,
    )
    def test_begins_neither_in_the_past_nor_beyond_the_rules_end(self, fields: dict[str, Any], begins: Any) -> None:
        current = rule()
        refused = refusal(current, put(current, name="Other", effective_from=begins, **fields))
        assert isinstance(refused, InvalidRequest)
        assert [error.param for error in refused.errors] == ["effectiveFrom"]

    def test_may_begin_just_before_the_rules_end(self) -> None:
        current = rule()
        body = put(current, name="Other", to_at=NOW + DAY, effective_from=NOW + DAY - MILLISECOND)
        assert change_of(current, body, NOW) is not None

    def test_looks_at_the_same_type_of_events(self) -> None:
        current = rule()
        refused = refusal(current, put(current, event_type="order"))
        assert isinstance(refused, RuleNotEditable)
        assert [(error.param, error.value) for error in refused.errors] == [("eventType", "order")]

    def test_is_not_made_for_what_holds_from_then_on_already(self) -> None:
        current = rule(version=2, effective_from=START)
        for begins in (None, START, NOW, NOW + DAY):
            assert change_of(current, put(current, effective_from=begins), NOW) is None

    def test_is_made_where_the_same_shall_hold_earlier(self) -> None:
        pending = rule(version=2, effective_from=NOW + DAY)
        for begins in (None, NOW):
            change = change_of(pending, put(pending, effective_from=begins), NOW)
            assert change == Change(3, NOW, None, makes_version=True, ends_versions_at=NOW)

    def test_is_one_of_a_bounded_number(self) -> None:
        last = rule(version=limits.RULE_VERSIONS_MAX)
        assert isinstance(refusal(last, put(last, name="Other")), LimitReached)
        assert change_of(last, put(last), NOW) is None
        one_before = rule(version=limits.RULE_VERSIONS_MAX - 1)
        assert change_of(one_before, put(one_before, name="Other"), NOW) is not None


def test_a_version_that_has_not_begun_ends_with_its_rule_as_it_would_have_begun() -> None:
    pending = rule(version=2, effective_from=NOW + DAY)
    change = change_of(pending, put(pending, status="inactive"), NOW)
    assert change == Change(2, NOW + DAY, NOW + DAY, makes_version=False, ends_versions_at=NOW)


def test_an_ended_rule_keeps_its_end_when_it_is_archived() -> None:
    ended = rule(status="inactive", version=2, effective_from=START, effective_to=NOW - MILLISECOND)
    change = change_of(ended, put(ended, status="archived"), NOW)
    assert change == Change(2, START, NOW - MILLISECOND, makes_version=False)


@generated
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10)), max_size=12))
def test_at_each_instant_one_version_looks_and_it_is_the_newest_that_was_to_hold_then(
    changes: list[tuple[int, int]],
) -> None:
    """Hours that pass before each change, and hours until it shall hold."""
    now, versions, begins_of = START, [rule(name="0")], {"0": limits.INSTANT_MIN}
    for number, (passed, ahead) in enumerate(changes, start=1):
        now += timedelta(hours=passed)
        begins = now + timedelta(hours=ahead)
        current = versions[-1]
        change = change_of(current, put(current, name=str(number), effective_from=begins), now)
        assert change is not None
        versions = [_ended(version, change.ends_versions_at) for version in versions]
        versions.append(
            current.model_copy(
                update={"name": str(number), "version": change.version, "effective_from": change.effective_from}
            )
        )
        begins_of[str(number)] = begins
    for hour in range(-1, 80):
        at = START + timedelta(hours=hour)
        expected = [name for name, begins in begins_of.items() if begins <= at][-1]
        assert [version.name for version in versions if version.applies_at(at)] == [expected]


def _ended(version: Rule, at: Any) -> Rule:
    """What the statement that ends versions does."""
    if version.effective_to is not None and version.effective_to <= at:
        return version
    return version.model_copy(update={"effective_to": max(version.effective_from or at, at)})
