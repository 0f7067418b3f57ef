"""Limits of rules: what a match counts under, whether there is room for it, and that a limited one has no effect."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.events import AnyEvent
from tallymarks.rules.assessment import Assessment, Situation, assess
from tallymarks.rules.facts import CustomerState, UseKey
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_limits import PeriodUnit, period_from
from tallymarks.rules.uses import LIFE, NEVER_USED, Limited, RuleUses, counts_together, use_keys
from tests.parts import START
from tests.unit.builders import SEGMENT, action, customer, generated, id_of, instants, order, rule, rule_set, segment

MILLISECOND = timedelta(milliseconds=1)
RULE = id_of(1)


def limited(event_type: str = "action", amount: int = 3, **fields: Any) -> Rule:
    """A rule with these limits."""
    return rule(1, event_type=event_type, fulfilments=[{"type": "points", "amount": amount}], limits=fields)


def followed(one: Rule, events: list[AnyEvent], *, together: RuleUses = NEVER_USED) -> tuple[list[Limited | None], Any]:
    """Assess the events one after the other: by which limit each was kept from its effect, and the last assessment."""
    state, uses = customer(), {RULE: together}
    met, last = [], None
    for event in events:
        last = assess(event, Situation(state, uses, {}), rule_set([one], [segment()]), START)
        assert last.steps[0].outcome is not None
        (considered,) = last.steps[0].outcome.considered
        met.append(considered.limited)
        state, uses = last.customer, dict(last.rule_uses)
    return met, last


def actions(number: int, at: datetime = START) -> list[AnyEvent]:
    return [action(created_at=at) for _ in range(number)]


class TestLimits:
    def test_of_a_customers_life(self) -> None:
        met, last = followed(limited(per_customer=2), [*actions(2), action(created_at=START - timedelta(days=900))])
        assert met == [None, None, Limited.PER_CUSTOMER]
        assert last.customer.balance == 6

    def test_of_all_customers_together(self) -> None:
        met, last = followed(limited(total=10), actions(3), together=RuleUses(8, 0))
        assert met == [None, None, Limited.TOTAL]
        assert last.rule_uses == {RULE: RuleUses(10, 6)}

    def test_of_all_points_together(self) -> None:
        """What does not fit in what is left gives nothing; what does fits still."""
        per_unit = rule(1, event_type="order", fulfilments=[{"type": "pointsPerUnit", "rate": "1"}],
                        limits={"points_total": 100})  # fmt: skip
        met, last = followed(per_unit, [order("60"), order("41"), order("40"), order("0.5"), order("1")])
        assert met == [None, Limited.POINTS_TOTAL, None, None, Limited.POINTS_TOTAL]
        assert last.customer.balance == 100

    def test_of_points_counts_all_fulfilments_of_a_match(self) -> None:
        both = rule(1, fulfilments=[{"type": "points", "amount": 6}] * 2, limits={"points_total": 20})
        assert followed(both, actions(2))[0] == [None, Limited.POINTS_TOTAL]

    def test_each_of_several_must_leave_room(self) -> None:
        met, _ = followed(
            limited(per_customer=3, per_period={"count": 1, "unit": "day"}, total=100),
            [*actions(2), *actions(1, START + timedelta(days=1)), *actions(2, START + timedelta(days=2))],
        )
        assert met == [None, Limited.PER_PERIOD, None, None, Limited.PER_CUSTOMER]

    def test_what_is_limited_does_nothing_and_is_told(self) -> None:
        joining = rule(
            1,
            fulfilments=[{"type": "points", "amount": 1}, {"type": "addToSegment", "segment_id": SEGMENT}],
            limits={"total": 5},
        )
        met, last = followed(joining, actions(1), together=RuleUses(5, 5))
        assert met == [Limited.TOTAL]
        (step,) = last.steps
        assert step.outcome.effects == step.outcome.uses == ()
        assert step.outcome.considered[0].matched
        assert not step.outcome.considered[0].takes_effect
        assert (last.customer.balance, last.customer.memberships) == (0, {})

    def test_only_matches_count(self) -> None:
        other = action(name_space="Other")
        first = rule(1, criteria=[{"type": "expression", "expression": "event.nameSpace == 'A'"}],
                     limits={"per_customer": 1})  # fmt: skip
        assert followed(first, [other, action(name_space="A"), other, action(name_space="A")])[0] == [
            *(None, None, None, Limited.PER_CUSTOMER)
        ]

    def test_a_match_without_an_effect_counts_too(self) -> None:
        """It is a match that is limited, not what comes of it."""
        per_unit = rule(1, event_type="order", fulfilments=[{"type": "pointsPerUnit", "rate": "1"}],
                        limits={"per_customer": 1})  # fmt: skip
        assert followed(per_unit, [order("0.5"), order("1")])[0] == [None, Limited.PER_CUSTOMER]

    def test_it_holds_among_the_points_events_that_follow_from_one_event(self) -> None:
        giving = rule(2, fulfilments=[{"type": "points", "amount": 1}] * 5)
        bonus = rule(1, event_type="points", fulfilments=[{"type": "points", "amount": 100}], limits={"total": 2})
        after: Assessment = assess(
            action(), Situation(customer(), {RULE: RuleUses()}, {}), rule_set([giving, bonus]), START
        )
        assert after.customer.balance == 205
        assert after.rule_uses == {RULE: RuleUses(2, 200)}

    def test_versions_of_a_rule_share_its_limits(self) -> None:
        later = START + timedelta(days=1)
        versions = [
            rule(1, limits={"per_customer": 1}, effective_to=later),
            rule(1, limits={"per_customer": 2}, effective_from=later, version=2),
        ]
        state: CustomerState = customer()
        met = []
        for at in (START, later, later):
            after = assess(action(created_at=at), Situation(state, {}, {}), rule_set(versions), later)
            assert after.steps[0].outcome is not None
            (considered,) = after.steps[0].outcome.considered
            met.append((considered.rule.version, considered.limited))
            state = after.customer
        assert met == [(1, None), (2, None), (2, Limited.PER_CUSTOMER)]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestPeriods:
    @pytest.mark.parametrize(
        ("unit", "first", "end"),
        [
            ("day", "2024-02-29T00:00", "2024-03-01T00:00"),
            ("week", "2024-12-30T00:00", "2025-01-06T00:00"),
            ("month", "2024-02-01T00:00", "2024-03-01T00:00"),
            ("month", "2025-12-01T00:00", "2026-01-01T00:00"),
            ("year", "2024-01-01T00:00", "2025-01-01T00:00"),
        ],
    )
    def test_it_goes_from_its_first_instant_to_the_last_before_the_next(self, unit: str, first: str, end: str) -> None:
        begins, ends = at(first), at(end)
        for inside in (begins, begins + MILLISECOND, ends - MILLISECOND):
            assert period_from(inside, PeriodUnit(unit)) == begins
        assert period_from(ends, PeriodUnit(unit)) == ends
        assert period_from(begins - MILLISECOND, PeriodUnit(unit)) < begins
        met, _ = followed(
            limited(per_period={"count": 2, "unit": unit}),
            [
                *actions(1, begins),
                *actions(2, ends - MILLISECOND),
                *actions(1, begins - MILLISECOND),
                *actions(1, ends),
            ],
        )
        assert met == [None, None, Limited.PER_PERIOD, None, None]

    @generated
    @given(instant=instants, unit=st.sampled_from(PeriodUnit))
    def test_every_instant_lies_in_one(self, instant: datetime, unit: PeriodUnit) -> None:
        begins = period_from(instant, unit)
        assert begins <= instant
        assert period_from(begins, unit) == begins
        longest = {"day": 1, "week": 7, "month": 31, "year": 366}[unit]
        assert instant - begins < timedelta(days=longest)


class TestWhatIsCounted:
    @pytest.mark.parametrize(
        ("fields", "keys", "together"),
        [
            (None, (), False),
            ({"total": 1}, (), True),
            ({"points_total": 1}, (), True),
            ({"per_customer": 1}, (UseKey(RULE, LIFE, limits.INSTANT_MIN),), False),
            (
                {"per_period": {"count": 1, "unit": "month"}},
                (UseKey(RULE, "month", START.replace(day=1, hour=0, minute=0, second=0, microsecond=0)),),
                False,
            ),
        ],
        ids=str,
    )
    def test_nothing_that_no_limit_asks_for(self, fields: Any, keys: tuple[UseKey, ...], together: bool) -> None:
        one = rule(1, limits=fields)
        assert use_keys(one, START) == keys
        assert counts_together(one) is together

    def test_a_rule_without_limits_is_never_limited(self) -> None:
        assert set(followed(rule(1), actions(5))[0]) == {None}
