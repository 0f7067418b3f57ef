"""Assessing one event to its end: the points events that follow, how deep they go, and what each of them meets."""

from collections import Counter
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given

from tallymarks import limits
from tallymarks.errors import BalanceOutOfRange, TooManyEffects
from tallymarks.events import AnyEvent, PointsEvent
from tallymarks.messages import event_json
from tallymarks.rules.assessment import Assessment, Situation, Step, assess, points_event_id
from tallymarks.rules.facts import CustomerState
from tallymarks.rules.fulfilments import GivePoints
from tallymarks.rules.rule import Rule
from tests.parts import START
from tests.unit.builders import (
    EVENT,
    SEGMENT,
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
from tests.unit.criteria import with_past


def give(amount: int) -> dict[str, Any]:
    return {"type": "points", "amount": amount}


def assessed(*rules: Rule, event: AnyEvent | None = None, state: CustomerState | None = None) -> Assessment:
    return assess(event or action(), Situation(state or customer(), {}, {}), rule_set(rules, [segment()]), START)


def quantity(step: Step) -> int:
    assert isinstance(step.event, PointsEvent)
    return step.event.points.quantity


def matched(step: Step) -> list[UUID]:
    """The rules that matched the event of the step."""
    assert step.outcome is not None
    return [considered.rule.rule_id for considered in step.outcome.considered if considered.matched]


ECHO = rule(9, event_type="points", fulfilments=[give(1)])
"""Each points event is followed by another, without end."""


class TestPointsEvents:
    def test_each_points_transaction_is_one(self) -> None:
        steps = assessed(rule(1, fulfilments=[give(5), give(-2)]), rule(2, fulfilments=[give(7)])).steps
        assert [step.depth for step in steps] == [0, 1, 1, 1]
        assert [quantity(step) for step in steps[1:]] == [5, -2, 7]
        assert {step.source_event_id for step in steps[1:]} == {EVENT}
        assert steps[0].source_event_id is None
        ids = [
            points_event_id(EVENT, id_of(1), 0),
            points_event_id(EVENT, id_of(1), 1),
            points_event_id(EVENT, id_of(2), 0),
        ]
        assert [step.event.event_id for step in steps[1:]] == ids
        assert len({*ids, EVENT}) == 4

    def test_it_is_what_a_read_one_would_be(self) -> None:
        event = order(attributes=[{"key": "a", "value": "b"}], name_space="Shop")
        _, follows = assessed(rule(1, event_type="order", fulfilments=[give(5)]), event=event).steps
        read = PointsEvent.model_validate_json(event_json(follows.event))
        assert (follows.event, follows.event.model_fields_set) == (
            read,
            read.model_fields_set | {"campaign", "reference"},
        )
        assert event_json(follows.event) == event_json(read)

    def test_it_has_all_else_of_the_event_that_it_follows_from(self) -> None:
        fields = {
            "name_space": "Shop.Web",
            "reference": "PO-1",
            "campaign": "spring",
            "attributes": [{"key": "a", "value": "b"}],
        }
        (source, follows) = assessed(rule(1, event_type="order"), event=order("10", **fields)).steps
        wanted = ("customer_id", "name_space", "reference", "campaign", "attributes", "created_at")
        assert {name: getattr(follows.event, name) for name in wanted} == {
            name: getattr(source.event, name) for name in wanted
        }
        assert follows.event.event_type == "points"
        # What was put together without being validated is what a validated one would be.
        assert PointsEvent.model_validate(follows.event.model_dump(by_alias=True)) == follows.event

    def test_what_is_no_points_transaction_is_none(self) -> None:
        joining = {"type": "addToSegment", "segment_id": SEGMENT}
        trigger = {"type": "trigger", "after": {"count": 1, "unit": "days"}, "name_space": "Later"}
        assert len(assessed(rule(1, fulfilments=[joining, trigger])).steps) == 1
        nothing = rule(1, event_type="order", fulfilments=[{"type": "pointsPerUnit", "rate": "0.01"}])
        assert len(assessed(nothing, event=order("1")).steps) == 1

    def test_the_transaction_of_a_points_event_itself_is_no_other(self) -> None:
        (step,) = assessed(event=points(5)).steps
        assert step.event.event_id == EVENT
        just_5 = {"type": "pointsQuantity", "operator": "equals", "value": 5}
        (own, follows) = assessed(rule(1, event_type="points", criteria=[just_5]), event=points(5)).steps
        assert (own.depth, follows.depth) == (0, 1)

    def test_points_rules_look_at_it_with_the_balance_before_and_after_its_own_points(self) -> None:
        giving = rule(1, fulfilments=[give(5), give(-2), give(7)])
        looks = [
            rule(number, event_type="points", criteria=[{"type": kind, "operator": "equals", "value": value}],
                 fulfilments=[{"type": "addToSegment", "segment_id": SEGMENT}])
            for number, kind, value in (
                (2, "previousBalance", 100), (3, "balance", 105), (4, "balance", 103), (5, "previousBalance", 103),
                (6, "balance", 110),
            )
        ]  # fmt: skip
        steps = assessed(giving, *looks, state=customer(balance=100)).steps
        assert [matched(step) for step in steps[1:]] == [[id_of(2), id_of(3)], [id_of(4)], [id_of(5), id_of(6)]]

    def test_all_that_follows_meets_the_customer_as_what_was_before_it_has_left_it(self) -> None:
        joining = rule(1, fulfilments=[give(5), {"type": "addToSegment", "segment_id": SEGMENT}])
        first_as_member = [{"type": "inSegment", "segment_id": SEGMENT}, {"type": "nthEvent", "n": 1}]
        bonus = rule(2, event_type="points", criteria=first_as_member, fulfilments=[give(50)])
        after = assessed(joining, bonus)
        assert after.customer.balance == 55
        assert after.customer.memberships == {SEGMENT: None}

    def test_broad_before_deep(self) -> None:
        at_most_2 = {"type": "pointsQuantity", "operator": "atMost", "value": 2}
        small = rule(2, event_type="points", criteria=[at_most_2], fulfilments=[give(10), give(20)])
        steps = assessed(rule(1, fulfilments=[give(1), give(2)]), small).steps
        assert [quantity(step) for step in steps[1:]] == [1, 2, 10, 20, 10, 20]
        assert [step.depth for step in steps] == [0, 1, 1, 2, 2, 2, 2]

    def test_all_of_them_count(self) -> None:
        before = with_past({"action": 3, "points": 7}, {"points": "50"}, points_earned=60, balance=40)
        totals = assessed(rule(1, fulfilments=[give(5), give(-2)]), state=before).customer.totals
        assert (totals.count("action"), totals.count("points")) == (4, 9)
        assert (int(totals.value("points")), totals.points_earned) == (53, 65)


class TestRedemption:
    def test_its_debit_is_a_points_event_too(self) -> None:
        steps = assessed(event=redemption(40), state=customer(balance=60)).steps
        assert [(step.depth, step.event.event_type) for step in steps] == [(0, "redemption"), (1, "points")]
        assert quantity(steps[1]) == -40
        assert steps[1].event.event_id == points_event_id(EVENT, None, 0) != EVENT
        assert steps[1].source_event_id == EVENT

    def test_it_is_not_debited_again(self) -> None:
        after = assessed(event=redemption(40), state=customer(balance=60))
        assert after.customer.balance == 60
        assert all(step.outcome is not None and step.outcome.effects == () for step in after.steps)
        assert (after.customer.totals.count("redemption"), after.customer.totals.count("points")) == (1, 1)
        assert (int(after.customer.totals.value("points")), after.customer.totals.points_earned) == (-40, 0)

    def test_it_was_debited_before_rules_had_an_effect(self) -> None:
        """100 points, 40 redeemed, 3 given back: first 100 to 60, then 60 to 63."""
        thanks = rule(1, event_type="redemption", fulfilments=[give(3)])
        looks = [
            rule(number, event_type="points", fulfilments=[{"type": "addToSegment", "segment_id": SEGMENT}], criteria=[
                {"type": "previousBalance", "operator": "equals", "value": before},
                {"type": "balance", "operator": "equals", "value": after}])
            for number, before, after in ((2, 100, 60), (3, 60, 63))
        ]  # fmt: skip
        steps = assessed(thanks, *looks, event=redemption(40), state=customer(balance=60)).steps
        assert [quantity(step) for step in steps[1:]] == [-40, 3]
        assert [matched(step) for step in steps[1:]] == [[id_of(2)], [id_of(3)]]


class TestDepth:
    @pytest.mark.parametrize("event", [action(), points(5), redemption(5)], ids=lambda event: event.event_type)
    def test_rules_feed_each_other_three_deep_and_what_is_deeper_is_recorded(self, event: AnyEvent) -> None:
        after = assessed(rule(1), ECHO, event=event)
        assert [step.depth for step in after.steps] == [0, 1, 2, 3, 4]
        assert [step.outcome is not None for step in after.steps] == [True] * 4 + [False]
        effects = [effected.effect for step in after.steps if step.outcome for effected in step.outcome.effects]
        assert after.customer.balance == sum(effect.amount for effect in effects if isinstance(effect, GivePoints))
        # It counts all the same.
        is_points = Counter(step.event.event_type for step in after.steps)["points"]
        assert after.customer.totals.count("points") == is_points

    def test_each_follows_from_the_one_before(self) -> None:
        steps = assessed(rule(1), ECHO).steps
        assert [step.source_event_id for step in steps[1:]] == [step.event.event_id for step in steps[:-1]]

    def test_rules_that_multiply_each_other_come_to_an_end(self) -> None:
        twice = rule(9, event_type="points", fulfilments=[give(1)] * 9)
        with pytest.raises(TooManyEffects) as refused:
            assessed(rule(1, fulfilments=[give(1)] * 2), twice)
        assert refused.value.errors[0].value == str(EVENT)

    @pytest.mark.parametrize(("number", "fails"), [(20, False), (21, True)])
    def test_so_many_effects_are_one_events_and_no_more(self, number: int, fails: bool) -> None:
        rules = [rule(place, fulfilments=[give(1)] * 50) for place in range(number)]
        assert limits.EFFECTS_PER_EVENT_MAX == 20 * 50
        if fails:
            with pytest.raises(TooManyEffects):
                assessed(*rules)
        else:
            assert assessed(*rules).customer.balance == limits.EFFECTS_PER_EVENT_MAX

    def test_a_balance_beyond_its_bound_fails_the_whole(self) -> None:
        with pytest.raises(BalanceOutOfRange):
            assessed(rule(1), ECHO, state=customer(balance=limits.POINTS_MAX - 3))


@generated
@given(event=events())
def test_without_points_an_event_is_one_step(event: AnyEvent) -> None:
    state = customer(event.customer_id, balance=0)
    steps = assess(event, Situation(state, {}, {}), rule_set([]), START).steps
    assert len(steps) == (2 if event.event_type == "redemption" else 1)


def test_the_id_of_a_points_event_never_changes() -> None:
    """It is derived, so that the event counts once; another derivation would count it again after an update."""
    assert points_event_id(EVENT, id_of(1), 2) == uuid5(EVENT, f"points:{id_of(1)}:2")
    assert points_event_id(EVENT, None, 0) == uuid5(EVENT, "points")
