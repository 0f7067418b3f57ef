"""Evaluating: one event, the customer before it, the rules; and what follows for the next event."""

from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from tallymarks import limits
from tallymarks.errors import BalanceOutOfRange
from tallymarks.events import AnyEvent, EventBase, EventType
from tallymarks.rules.criteria import Check
from tallymarks.rules.criteria_memory import NthEvent
from tallymarks.rules.evaluate import Effected, Outcome, apply
from tallymarks.rules.facts import CustomerState, Facts
from tallymarks.rules.fulfilments import Effect, GivePoints, JoinSegment, LeaveSegment
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_set import RuleSet
from tallymarks.segments import Segment, Status
from tests.parts import START
from tests.unit.builders import (
    EVENT,
    OTHER_SEGMENT,
    SEGMENT,
    action,
    customer,
    evaluate,
    id_of,
    order,
    points,
    redemption,
    rule,
    rule_set,
    segment,
    transaction,
)

DAY = timedelta(days=1)
ADD = {"type": "addToSegment", "segment_id": SEGMENT}
REMOVE = {"type": "removeFromSegment", "segment_id": SEGMENT}
IN = {"type": "inSegment", "segment_id": SEGMENT}
NOT_IN = {"type": "notInSegment", "segment_id": SEGMENT}


def give(amount: int) -> dict[str, Any]:
    return {"type": "points", "amount": amount}


def checks_of(looked: Outcome) -> list[list[Check]]:
    """How the criteria of each rule that was asked looked at the event."""
    return [[looked.checks[number] for number in one.asked] for one in looked.considered]


def welcome(number: int = 1) -> Rule:
    """A rule that gives points to members."""
    return rule(number, criteria=[IN], fulfilments=[give(10)])


def outcome(
    *rules: Rule,
    event: AnyEvent | None = None,
    state: CustomerState | None = None,
    segments: tuple[Segment, ...] = (segment(),),
) -> Outcome:
    return evaluate(event or action(), state or customer(), rule_set(rules, segments), START)


def effects(*rules: Rule, event: AnyEvent | None = None, state: CustomerState | None = None) -> list[Effect]:
    return [effected.effect for effected in outcome(*rules, event=event, state=state).effects]


class TestMatching:
    def test_all_criteria_must_match(self) -> None:
        both = [{"type": "nameSpace", "value": "A"}, {"type": "reference", "value": "R"}]
        strict = rule(criteria=both)
        assert effects(strict, event=action(name_space="A", reference="R")) == [GivePoints(1)]
        for fields in ({"name_space": "A"}, {"reference": "R"}, {}):
            assert effects(strict, event=action(**fields)) == []

    def test_a_rule_without_criteria_matches_every_event_of_its_type(self) -> None:
        assert effects(rule()) == [GivePoints(1)]
        for other in (order(), transaction(), redemption()):
            assert effects(rule(), event=other) == []

    @pytest.mark.parametrize("event", [order(), transaction(), redemption()], ids=lambda event: event.event_type)
    def test_a_rule_sees_the_events_of_its_type(self, event: AnyEvent) -> None:
        assert effects(rule(event_type=event.event_type), event=event) == [GivePoints(1)]

    @pytest.mark.parametrize("status", Status)
    def test_only_an_active_rule_looks_at_events(self, status: Status) -> None:
        looked = outcome(rule(status=status))
        is_active = status is Status.ACTIVE
        assert len(looked.effects) == len(looked.considered) == int(is_active)

    def test_the_reasons_go_as_far_as_the_first_criterion_that_does_not_match(self) -> None:
        asked = rule(
            criteria=[{"type": "nameSpace", "value": "A"}, {"type": "reference", "value": "R"}, {"type": "everyEvent"}]
        )
        looked = outcome(asked, event=action(name_space="A", reference="X"))
        (missed,) = looked.considered
        assert (missed.rule, missed.matched) == (asked, False)
        assert checks_of(looked) == [[Check(matched=True, saw="A"), Check(matched=False, saw="X")]]
        looked = outcome(asked, event=action(name_space="A", reference="R"))
        assert looked.considered[0].matched
        assert checks_of(looked)[0][-1] == Check(matched=True, saw=str(EVENT))
        assert len(checks_of(looked)[0]) == 3

    def test_what_many_rules_ask_is_asked_once_an_event(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[EventBase] = []

        def check(self: NthEvent, facts: Facts) -> Check:
            asked.append(facts.event)
            return Check(matched=self.n == 1, saw="1")

        monkeypatch.setattr(NthEvent, "check", check)
        first, second = ({"type": "nthEvent", "n": n} for n in (1, 2))
        many = rule_set([rule(1, criteria=[first]), rule(2, criteria=[{"type": "everyEvent"}, first]),
                         rule(3, criteria=[first, second]), rule(4, criteria=[second])])  # fmt: skip
        events = [action(event_id=id_of(number)) for number in (1, 2)]
        for event in events:
            looked = evaluate(event, customer(), many, START)
            assert [one.matched for one in looked.considered] == [True, True, False, False]
            assert [len(checks) for checks in checks_of(looked)] == [1, 2, 2, 1]
        assert asked == [one for event in events for one in (event, event)]

    def test_no_rules_have_no_effect(self) -> None:
        assert outcome() == Outcome((), ())


class TestDateRange:
    ranged = rule(from_at=START, to_at=START + DAY)

    @pytest.mark.parametrize(
        ("happened_after", "applies"),
        [
            (timedelta(milliseconds=-1), False),
            (timedelta(0), True),
            (DAY - timedelta(milliseconds=1), True),
            (DAY, False),
        ],
    )
    def test_counts_at_the_instant_of_the_event(self, happened_after: timedelta, applies: bool) -> None:
        event = action(created_at=START + happened_after)
        assert bool(effects(self.ranged, event=event)) is applies

    @pytest.mark.parametrize("assessed_at", [START - 100 * DAY, START, START + 100 * DAY])
    def test_it_matters_not_when_the_event_is_assessed(self, assessed_at: Any) -> None:
        looked = evaluate(action(), customer(), rule_set([self.ranged]), assessed_at)
        assert len(looked.effects) == 1

    def test_a_rule_out_of_its_range_did_not_look(self) -> None:
        assert outcome(self.ranged, event=action(created_at=START + DAY)).considered == ()


class TestStateBefore:
    """Every rule sees the customer as before the event, wherever it stands among the others."""

    @pytest.mark.parametrize(("joining", "welcoming"), [(1, 2), (2, 1)])
    def test_who_joins_by_an_event_is_a_member_from_the_next_one_on(self, joining: int, welcoming: int) -> None:
        rules = (rule(joining, fulfilments=[ADD]), welcome(welcoming))
        looked = outcome(*rules)
        assert [effected.effect for effected in looked.effects] == [JoinSegment(SEGMENT, None)]
        after = apply(customer(), looked.effects)
        assert GivePoints(10) in effects(*rules, state=after)

    def test_who_leaves_by_an_event_was_a_member_during_it(self) -> None:
        rules = (rule(1, fulfilments=[REMOVE]), welcome(2))
        member = customer(memberships={SEGMENT: None})
        assert effects(*rules, state=member) == [LeaveSegment(SEGMENT), GivePoints(10)]
        assert effects(*rules, state=apply(member, outcome(*rules, state=member).effects)) == []

    def test_membership_counts_at_the_time_of_assessing(self) -> None:
        """Not at that of the event, which may have happened long ago."""
        long_ago = action(created_at=START - 300 * DAY)
        lapsed = customer(memberships={SEGMENT: START - 200 * DAY})
        assert effects(welcome(), event=long_ago, state=lapsed) == []
        current = customer(memberships={SEGMENT: START + DAY})
        assert effects(welcome(), event=long_ago, state=current) == [GivePoints(10)]

    def test_leaving_what_another_rule_only_now_joins_has_no_effect(self) -> None:
        assert effects(rule(1, fulfilments=[ADD]), rule(2, fulfilments=[REMOVE])) == [JoinSegment(SEGMENT, None)]


class TestOrder:
    def test_effects_come_oldest_rule_first_then_as_the_rule_lists_them(self) -> None:
        rules = [
            rule(9, created_at=START - 2 * DAY, fulfilments=[give(1), give(2)]),
            rule(1, created_at=START, fulfilments=[give(3)]),
            rule(2, created_at=START, fulfilments=[give(4), give(5)]),
            rule(0, created_at=START + DAY, fulfilments=[give(6)]),
        ]
        for shuffled in permutations(rules):
            looked = outcome(*shuffled)
            assert [effected.effect for effected in looked.effects] == [GivePoints(n) for n in range(1, 7)]
            assert [effected.fulfilment_index for effected in looked.effects] == [0, 1, 0, 0, 1, 0]
            assert [effected.rule and effected.rule.rule_id for effected in looked.effects] == [
                *(id_of(9), id_of(9), id_of(1), id_of(2), id_of(2), id_of(0))
            ]

    def test_a_fulfilment_keeps_its_place_when_those_before_it_have_no_effect(self) -> None:
        quiet = rule(event_type="order", fulfilments=[{"type": "pointsPerUnit", "rate": "0.01"}, REMOVE, give(7)])
        (effected,) = outcome(quiet, event=order("1")).effects
        assert (effected.effect, effected.fulfilment_index, effected.rule) == (GivePoints(7), 2, quiet)

    @pytest.mark.parametrize(
        ("fulfilments", "memberships"),
        [([REMOVE, ADD], {SEGMENT: None}), ([ADD, REMOVE], {})],
        ids=["leaves and joins", "joins and leaves"],
    )
    def test_what_a_member_does_last_counts(
        self, fulfilments: list[dict[str, Any]], memberships: dict[Any, Any]
    ) -> None:
        member = customer(memberships={SEGMENT: START + DAY})
        looked = outcome(rule(fulfilments=fulfilments), state=member)
        assert apply(member, looked.effects).memberships == memberships


class TestPointsEvent:
    @pytest.mark.parametrize("quantity", [5, -5])
    def test_moves_points_by_itself_before_any_rule(self, quantity: int) -> None:
        bonus = rule(event_type="points", fulfilments=[give(1)])
        first, second = outcome(bonus, event=points(quantity)).effects
        assert first == Effected(GivePoints(quantity), None, 0)
        assert second == Effected(GivePoints(1), bonus, 0)

    def test_needs_no_rule(self) -> None:
        assert outcome(event=points(5)).effects == (Effected(GivePoints(5), None, 0),)

    def test_no_other_event_moves_points_by_itself(self) -> None:
        for event in (action(), order(), transaction(), redemption(100)):
            assert outcome(event=event).effects == ()


class TestApply:
    @staticmethod
    def after(state: CustomerState, *applied: Effect) -> CustomerState:
        return apply(state, [Effected(effect, None, 0) for effect in applied])

    def test_adds_points_and_changes_memberships(self) -> None:
        before = customer(balance=10, memberships={SEGMENT: None, OTHER_SEGMENT: START})
        after = self.after(
            before,
            GivePoints(5),
            LeaveSegment(SEGMENT),
            GivePoints(-20),
            JoinSegment(OTHER_SEGMENT, START + DAY),
        )
        assert (after.balance, after.memberships) == (-5, {OTHER_SEGMENT: START + DAY})
        assert (after.customer_id, after.created_at) == (before.customer_id, before.created_at)

    def test_leaves_the_state_that_it_was_given_alone(self) -> None:
        before = customer(memberships={SEGMENT: None})
        self.after(before, LeaveSegment(SEGMENT), JoinSegment(OTHER_SEGMENT, None), GivePoints(1))
        assert before == customer(memberships={SEGMENT: None})

    def test_leaving_where_one_is_not_changes_nothing(self) -> None:
        assert self.after(customer(), LeaveSegment(SEGMENT)) == customer()

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_balance_reaches_its_bound_and_not_beyond(self, sign: int) -> None:
        near = customer(balance=sign * (limits.POINTS_MAX - 1))
        assert self.after(near, GivePoints(sign)).balance == sign * limits.POINTS_MAX
        with pytest.raises(BalanceOutOfRange) as refused:
            self.after(near, GivePoints(sign), GivePoints(sign))
        assert [error.param for error in refused.value.errors] == ["balance"]
        assert refused.value.errors[0].value == str(sign * (limits.POINTS_MAX + 1))

    def test_what_counts_is_the_balance_after_all_effects(self) -> None:
        full = customer(balance=limits.POINTS_MAX)
        assert self.after(full, GivePoints(5), GivePoints(-5)).balance == limits.POINTS_MAX


class TestRuleSet:
    def test_keeps_active_rules_by_type(self) -> None:
        rules = [rule(1), rule(2, event_type="order"), rule(3, status="inactive"), rule(4)]
        made = RuleSet.of(7, rules, [segment()])
        assert made.revision == 7
        assert [one.rule_id for one in made.matching(action(), EventType.ACTION)] == [id_of(1), id_of(4)]
        assert [one.rule_id for one in made.matching(order(), EventType.ORDER)] == [id_of(2)]
        assert list(made.matching(transaction(), EventType.TRANSACTION)) == []
        assert made.segments == {SEGMENT: segment()}

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({}, False),
            ({"criteria": [{"type": "everyEvent"}]}, False),
            ({"criteria": [IN]}, True),
            ({"criteria": [NOT_IN]}, True),
            ({"fulfilments": [give(1), ADD]}, True),
            ({"fulfilments": [REMOVE]}, True),
            ({"fulfilments": [ADD], "status": "test"}, False),
            ({"fulfilments": [ADD], "event_type": "redemption"}, True),
        ],
        ids=str,
    )
    def test_knows_whether_memberships_matter(self, fields: dict[str, Any], names: bool) -> None:
        assert rule_set([rule(1), rule(2, **fields)]).names_segments is names
