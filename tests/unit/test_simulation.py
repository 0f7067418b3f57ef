"""Looking at recorded events again with one rule: what it meets, and what it leaves for the customer's next event."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.events import AnyEvent
from tallymarks.messages import event_json
from tallymarks.rules.assessment import Situation, assess
from tallymarks.rules.facts import Totals, Window
from tallymarks.rules.rule_set import RuleSet
from tallymarks.rules.simulation import (
    Look,
    OwnMembership,
    Past,
    Recorded,
    SimulatedCustomer,
    SimulatedRule,
    Stay,
    kept_customer,
    look_again,
    read_customer,
    read_recorded,
)
from tallymarks.rules.uses import NEVER_USED, RuleUses
from tests.parts import START
from tests.unit.builders import (
    OTHER_SEGMENT,
    SEGMENT,
    TENANT,
    action,
    customer,
    events,
    generated,
    id_of,
    order,
    points,
    redemption,
    rule,
    rule_set,
    segment,
)

DAY = timedelta(days=1)
MEMBER = {"type": "inSegment", "segment_id": SEGMENT}


def past(**fields: Any) -> Past:
    """Nothing was recorded but for `fields`."""
    return Past(**{"customer_created_at": START, "totals": Totals(), "moved": 0, **fields})


def without_points() -> st.SearchStrategy[AnyEvent]:
    """Events that move no points themselves."""
    return events().filter(lambda event: event.event_type not in {"points", "redemption"})


def rules(**fields: Any) -> RuleSet:
    """A rule set of one rule, and two segments."""
    return rule_set([rule(**fields)], [segment(), segment(OTHER_SEGMENT)])


def look(
    event: AnyEvent, asked: RuleSet, before: SimulatedCustomer | None = None, *, depth: int = 0,
    together: RuleUses = NEVER_USED, **recorded: Any,
) -> Look:  # fmt: skip
    """Look at an event again."""
    return look_again(Recorded(event, depth, None), before, past(**recorded), asked, together)


# --- what was recorded ------------------------------------------------------------------------------------------------


@generated
@given(event=events(), more=st.booleans())
def test_an_event_is_read_as_it_was_whatever_was_recorded_with_it(event: AnyEvent, more: bool) -> None:
    whole = json.loads(event_json(event))
    if more:
        whole |= {"balance": 5, "pendingBalance": 4}
    assert read_recorded(json.dumps(whole)) == Recorded(event, 0, None)


@pytest.mark.parametrize(
    ("beside", "depth", "rule_id"),
    [
        ({"sourceEventId": str(id_of(1))}, 1, None),
        ({"sourceEventId": str(id_of(1)), "assessmentRuleId": None, "depth": 1}, 1, None),
        ({"sourceEventId": str(id_of(1)), "assessmentRuleId": str(id_of(2)), "depth": 3}, 3, id_of(2)),
    ],
)
def test_a_points_event_tells_where_it_came_from(beside: dict[str, Any], depth: int, rule_id: UUID | None) -> None:
    event = points(5)
    assert read_recorded(json.dumps(json.loads(event_json(event)) | beside)) == Recorded(event, depth, rule_id)


def test_a_simulated_rule_is_active_and_always_was() -> None:
    saved = rule(
        name="Saved", status="configure", version=7, effective_from=START, effective_to=START + DAY,
        limits={"total": 5}, from_at=START - DAY,
    )  # fmt: skip
    kept = SimulatedRule(**{name: getattr(saved, name) for name in SimulatedRule.model_fields if hasattr(saved, name)})
    again = SimulatedRule.model_validate_json(kept.model_dump_json()).as_active(TENANT, START)
    assert again.says_the_same(saved)
    assert (again.status, again.version, again.effective_from, again.effective_to) == ("active", 7, None, None)
    assert again.applies_at(START - DAY)
    assert not again.applies_at(START - 2 * DAY)


def test_a_customer_is_kept_whole() -> None:
    state = SimulatedCustomer(
        id_of(1), START, Totals({"order": 2}, {"order": Decimal("0.0001")}, 7), 5, -3, 2, 9, 10,
        (("Shop", START), (None, START)), {SEGMENT: OwnMembership(True, START, None)}, 3, 2, START,
    )  # fmt: skip
    assert read_customer(kept_customer(state)) == state


# --- what the rule meets ----------------------------------------------------------------------------------------------


def test_counts_and_sums_are_those_recorded_piece_by_piece() -> None:
    asked = rules(event_type="order", criteria=[{"type": "lifetimeSpend", "operator": "equals", "value": "60.5"}])
    first = look(order("10"), asked, totals=Totals({"order": 1}, {"order": Decimal(20)}))
    assert first.matches == 0
    second = look(
        order("10.5", event_id=id_of(2), created_at=START + DAY), asked, first.customer,
        totals=Totals({"order": 1, "transaction": 1}, {"order": Decimal(10), "transaction": Decimal(20)}),
    )  # fmt: skip
    assert second.matches == 1
    assert second.customer.totals.counts == {"order": 2, "transaction": 1}


def test_what_a_points_rule_gives_is_earned_and_on_the_balance_of_the_next_event() -> None:
    criterion = {"type": "previousBalance", "operator": "equals", "value": 107}
    asked = rules(event_type="points", criteria=[], fulfilments=[{"type": "points", "amount": 7}])
    first = look(points(50), asked, moved=50)
    # Its own points events are looked at too, as deep as rules feed each other.
    assert (first.matches, first.points) == (limits.POINTS_DEPTH_MAX + 1, 28)
    assert (first.customer.points_events, first.customer.points_earned) == (4, 28)
    gave_seven = replace(first.customer, points=7, points_events=1, points_earned=7)
    then = points(1, event_id=id_of(2), created_at=START + DAY)
    found = look(then, rules(event_type="points", criteria=[criterion]), gave_seven, moved=50)
    assert found.matches == 1
    earned = {"type": "lifetimePoints", "operator": "equals", "value": 58}
    totals = Totals({"points": 1}, {"points": Decimal(50)}, 50)
    assert look(then, rules(event_type="points", criteria=[earned]), gave_seven, totals=totals).matches == 1


@pytest.mark.parametrize("depth", [0, 1])
def test_the_balance_before_a_points_event_has_those_of_its_instant_before_it(depth: int) -> None:
    asked = rules(event_type="points", criteria=[{"type": "previousBalance", "operator": "equals", "value": 130}])
    first = look(points(10), asked, depth=depth, moved=100)
    second = look(points(20, event_id=id_of(2)), asked, first.customer, depth=depth)
    third = look(points(5, event_id=id_of(3)), asked, second.customer, depth=depth)
    assert [one.matches for one in (first, second, third)][:2] == [0, 0]
    assert third.matches > 0
    later = points(5, event_id=id_of(4), created_at=START + DAY)
    assert look(later, asked, third.customer, depth=depth, moved=35).matches == 0


def test_a_redemption_meets_the_balance_after_it() -> None:
    asked = rules(event_type="redemption", criteria=[{"type": "expression", "expression": "customer.balance == 60"}])
    found = look(redemption(40), asked, moved=100)
    assert (found.matches, found.customer.points_events) == (1, 1)  # its own debit was recorded


def test_a_points_event_that_lies_too_deep_is_not_looked_at() -> None:
    asked = rules(event_type="points")
    assert look(points(5), asked, depth=limits.POINTS_DEPTH_MAX).matches == 1
    assert look(points(5), asked, depth=limits.POINTS_DEPTH_MAX + 1).matches == 0


def test_windows_count_what_was_recorded_and_what_the_rule_has_made() -> None:
    criterion = {"type": "countInPeriod", "count": 3, "period": {"count": 2, "unit": "days"}}
    asked = rules(event_type="points", criteria=[criterion], fulfilments=[{"type": "points", "amount": 1}])
    event = points(5, name_space="Shop")
    window = Window("points", "Shop", START - 2 * DAY, START, 3)
    found = look(event, asked, windows={window: 2})
    assert (found.matches, found.customer.points_event_places) == (1, (("Shop", START),))
    then = points(5, name_space="Shop", event_id=id_of(2), created_at=START + DAY)
    asks = Window("points", "Shop", START - DAY, START + DAY, 3)
    assert look(then, asked, found.customer, windows={asks: 1}).matches == 1
    assert look(then, asked, found.customer, windows={asks: 2}).matches == 0


@pytest.mark.parametrize(
    ("joined_at", "lapses_at", "is_member"),
    [
        (START - DAY, None, True),
        (START, None, False),
        (START + DAY, None, False),
        (START - DAY, START, False),
        (START - DAY, START + timedelta(milliseconds=1), True),
    ],
)
def test_a_membership_counts_after_joining_until_it_lapses(
    joined_at: datetime, lapses_at: datetime | None, is_member: bool
) -> None:
    found = look(action(), rules(criteria=[MEMBER]), stays=[Stay(SEGMENT, joined_at, lapses_at)])
    assert found.matches == is_member


def test_what_the_rule_does_to_memberships_comes_on_top() -> None:
    joining = rules(fulfilments=[{"type": "addToSegment", "segment_id": SEGMENT}])
    leaving = rules(fulfilments=[{"type": "removeFromSegment", "segment_id": SEGMENT}])
    member = rules(criteria=[MEMBER])
    then = action(event_id=id_of(2), created_at=START + DAY)
    stayed = [Stay(SEGMENT, START - DAY, None)]
    joined, left = look(action(), joining).customer, look(action(), leaving, stays=stayed).customer
    assert look(then, member, joined).matches == 1
    assert look(then, member, left, stays=stayed).matches == 0
    assert look(then, member, left, stays=[Stay(SEGMENT, START + timedelta(hours=1), None)]).matches == 1
    again = look(then, joining, left, stays=stayed).customer
    assert look(action(event_id=id_of(3), created_at=START + 2 * DAY), member, again, stays=stayed).matches == 1


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "days", "expected"),
    [
        ({"per_customer": 2}, [0, 0, 1, 40], [(1, 0), (1, 0), (1, 1), (1, 1)]),
        ({"per_period": {"count": 1, "unit": "day"}}, [0, 0, 1, 1], [(1, 0), (1, 1), (1, 0), (1, 1)]),
        ({"per_period": {"count": 1, "unit": "month"}}, [0, 1, 20, 21], [(1, 0), (1, 1), (1, 0), (1, 1)]),
        ({"total": 3}, [0, 1, 2, 3], [(1, 0), (1, 0), (1, 0), (1, 1)]),
        ({"points_total": 5}, [0, 1, 2, 3], [(1, 0), (1, 0), (1, 1), (1, 1)]),
    ],
)
def test_limits_hold_from_event_to_event(
    fields: dict[str, Any], days: list[int], expected: list[tuple[int, int]]
) -> None:
    asked = rules(limits=fields, fulfilments=[{"type": "points", "amount": 2}])
    state, together, found = None, NEVER_USED, []
    for number, day in enumerate(days):
        event = action(event_id=id_of(number), created_at=START + day * DAY)
        one = look(event, asked, state, together=together)
        state = read_customer(kept_customer(one.customer))
        together = RuleUses(together.uses + one.matches - one.limited, together.points + one.points)
        found.append((one.matches, one.limited))
        assert one.points == 2 * (one.matches - one.limited)
    assert found == expected


def test_a_customer_is_counted_once_and_once_a_day() -> None:
    asked, state, seen = rules(criteria=[{"type": "reference", "value": "R"}]), None, []
    for number, (day, reference) in enumerate([(0, "no"), (0, "R"), (0, "R"), (1, "R"), (1, "no"), (2, "R")]):
        event = action(event_id=id_of(number), created_at=START + day * DAY, reference=reference)
        one = look(event, asked, state)
        state = one.customer
        seen.append((one.is_first_match, one.is_first_match_of_day))
    assert seen == [(False, False), (True, True), (False, False), (False, True), (False, False), (False, True)]


def test_an_event_that_would_have_been_put_aside_has_no_effect() -> None:
    asked = rules(fulfilments=[{"type": "points", "amount": 1}, {"type": "addToSegment", "segment_id": SEGMENT}])
    found = look(action(), asked, moved=limits.POINTS_MAX)
    assert not found.is_assessable
    assert (found.matches, found.points, found.customer.points, found.customer.memberships) == (0, 0, 0, {})
    assert found.customer.balance == limits.POINTS_MAX


@generated
@given(event=without_points(), quantity=st.integers(1, 100), depth=st.integers(1, limits.POINTS_DEPTH_MAX + 1))
def test_a_followed_points_event_is_assessed_again_as_it_was(event: AnyEvent, quantity: int, depth: int) -> None:
    """What follows from a points rule is the same, whether a points event is met on the way or looked at again."""
    feeding = rule(2, event_type="points", fulfilments=[{"type": "points", "amount": 3}])
    giving = rule(1, event_type=event.event_type, fulfilments=[{"type": "points", "amount": quantity}])
    whole = assess(event, Situation(customer(), {}, {}), rule_set([giving, feeding]), START)
    (step,) = [one for one in whole.steps if one.depth == depth]
    moved = customer(balance=quantity + 3 * (depth - 1))
    again = assess(step.event, Situation(moved, {}, {}), rule_set([feeding]), START, first_depth=depth)
    expected = [(one.event, one.depth, one.rule_id) for one in whole.steps if one.depth >= depth]
    assert [(one.event, one.depth, one.rule_id or step.rule_id) for one in again.steps] == expected
    assert again.customer.balance == whole.customer.balance
