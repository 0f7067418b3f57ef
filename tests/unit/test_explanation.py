"""What is kept of an assessment, told in full, is what happened."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.errors import BalanceOutOfRange
from tallymarks.events import AnyEvent, EventType
from tallymarks.ledger import transactions_of
from tallymarks.rules.assessment import Situation, Step, assess, points_event_id
from tallymarks.rules.explanation import (
    Explanation,
    RuleExplanation,
    VersionKey,
    compact,
    expand,
    versions_named,
)
from tallymarks.rules.facts import CustomerState, UseKey
from tallymarks.rules.rule import Rule
from tallymarks.rules.triggers import trigger_id_of
from tallymarks.rules.uses import LIFE, Limited
from tests.parts import START
from tests.unit.builders import (
    EVENT,
    OTHER_SEGMENT,
    SEGMENT,
    TENANT,
    action,
    customer,
    facts,
    generated,
    id_of,
    ids,
    order,
    points,
    rule,
    rule_set,
    segment,
)
from tests.unit.criteria import FORM, criteria_fields, recorded_events, states

SEGMENTS = [segment(), segment(OTHER_SEGMENT, expiry={"mode": "period", "count": 1, "unit": "days"})]
FULFILMENTS: list[dict[str, Any]] = [
    {"type": "points", "amount": 5},
    {"type": "points", "amount": -1},
    {"type": "addToSegment", "segment_id": SEGMENT},
    {"type": "addToSegment", "segment_id": OTHER_SEGMENT},
    {"type": "removeFromSegment", "segment_id": SEGMENT},
    {"type": "trigger", "after": {"count": 1, "unit": "months"}, "name_space": "Later"},
]


def explained(step: Step, rules: list[Rule]) -> Explanation:
    """The explanation of a step, from what is kept of it with the transactions that were made."""
    effects = step.outcome.effects if step.outcome else ()
    rows = transactions_of(TENANT, step.event, effects, ids())
    kept = compact(step, [row.transaction_id for row in rows])
    by_version = {VersionKey(one.rule_id, one.version): one for one in rules}
    named = versions_named(kept)
    return expand(step.event.event_id, kept, {key: by_version[key] for key in named})


def explanations(*rules: Rule, event: AnyEvent | None = None, state: CustomerState | None = None) -> list[Explanation]:
    """How an event, and what followed from it, is explained."""
    known = rule_set(rules, SEGMENTS)
    steps = assess(event or action(), Situation(state or customer(), {}, {}), known, START).steps
    return [explained(step, list(rules)) for step in steps]


def of_one(one: Rule, **given: Any) -> RuleExplanation:
    (explanation,) = explanations(one, **given)[0].rules
    return explanation


class TestCriteria:
    asked = rule(1, criteria=[{"type": "nameSpace", "operator": "beginsWith", "value": "Shop"},
                              {"type": "reference", "value": "R"}, {"type": "nthEvent", "n": 1}])  # fmt: skip

    def test_each_tells_what_it_wanted_and_saw(self) -> None:
        told = of_one(self.asked, event=action(name_space="Shop.Web", reference="R"))
        assert (told.rule_id, told.version, told.name, told.matched) == (id_of(1), 1, "Rule 1", True)
        assert tuple(one.wanted for one in told.criteria) == self.asked.criteria
        assert [(one.matched, one.saw) for one in told.criteria] == [(True, "Shop.Web"), (True, "R"), (True, "1")]

    def test_what_comes_after_one_that_does_not_match_was_not_asked(self) -> None:
        late = rule(1, criteria=[{"type": "everyEvent"}, {"type": "actionCount", "operator": "equals", "value": 2},
                                 {"type": "nthEvent", "n": 1}])  # fmt: skip
        told = of_one(late, event=action(action={"count": 3}))
        assert not told.matched
        assert [(one.matched, one.saw) for one in told.criteria] == [(True, str(EVENT)), (False, "3"), (None, None)]
        assert tuple(one.wanted for one in told.criteria) == late.criteria

    def test_what_saw_nothing_did_not_match(self) -> None:
        told = of_one(rule(1, criteria=[{"type": "actionCount", "operator": "equals", "value": 2}]))
        assert [(one.matched, one.saw) for one in told.criteria] == [(False, None)]

    def test_a_rule_without_criteria_matches(self) -> None:
        told = of_one(rule(1))
        assert (told.matched, told.criteria) == (True, ())


class TestFulfilments:
    def test_points_name_their_transaction_and_the_event_that_it_is(self) -> None:
        two = rule(3, event_type="order", fulfilments=[{"type": "pointsPerUnit", "rate": "0.1"},
                                                       {"type": "points", "amount": 7}])  # fmt: skip
        whole, rounded_away = (of_one(two, event=order(total)).fulfilments for total in ("50", "5"))
        for told, amounts in ((whole, [5, 7]), (rounded_away, [None, 7])):
            assert [one.amount for one in told] == amounts
            assert [one.has_effect for one in told] == [amount is not None for amount in amounts]
            assert tuple(one.wanted for one in told) == two.fulfilments
        made = ids()
        assert [one.transaction_id for one in whole] == [made(), made()]
        assert [one.points_event_id for one in whole] == [points_event_id(EVENT, id_of(3), place) for place in (0, 1)]
        assert (rounded_away[0].transaction_id, rounded_away[0].points_event_id) == (None, None)

    def test_memberships_tell_when_they_lapse(self) -> None:
        joining = rule(1, fulfilments=FULFILMENTS[2:5])
        for_good, for_a_day, left = of_one(joining, state=customer(memberships={SEGMENT: None})).fulfilments
        assert (for_good.has_effect, for_good.expiry_date_time) == (True, None)
        assert (for_a_day.has_effect, for_a_day.expiry_date_time) == (True, START + timedelta(days=1))
        assert left.has_effect
        assert not of_one(joining).fulfilments[2].has_effect  # who is no member leaves nothing

    def test_a_trigger_tells_its_event_and_when_it_comes(self) -> None:
        (told,) = of_one(rule(4, fulfilments=[FULFILMENTS[5]])).fulfilments
        assert (told.trigger_id, told.due_at) == (trigger_id_of(EVENT, id_of(4), 0), START.replace(month=4))

    def test_of_a_rule_that_did_not_match_none_has_an_effect(self) -> None:
        strict = rule(1, criteria=[{"type": "nthEvent", "n": 2}], fulfilments=FULFILMENTS)
        assert [one.has_effect for one in of_one(strict).fulfilments] == [False] * len(FULFILMENTS)

    def test_of_a_rule_that_was_limited_none_has_an_effect_and_the_limit_is_told(self) -> None:
        once = rule(1, fulfilments=FULFILMENTS, limits={"per_customer": 1})
        after = assess(action(), Situation(customer(), {}, {}), rule_set([once], SEGMENTS), START)
        told = of_one(once, state=after.customer)
        assert (told.matched, told.limited_by) == (True, Limited.PER_CUSTOMER)
        assert [one.has_effect for one in told.fulfilments] == [False] * len(FULFILMENTS)
        assert of_one(once).limited_by is None


class TestSteps:
    def test_a_points_event_tells_what_it_follows_from_and_how_deep_it_lies(self) -> None:
        echo = rule(9, event_type="points")
        told = explanations(rule(1), echo)
        assert [one.depth for one in told] == [0, 1, 2, 3, 4]
        assert told[0].source_event_id is None
        assert told[1].source_event_id == EVENT
        assert [one.is_assessed for one in told] == [True, True, True, True, False]
        assert told[4].rules == ()
        followed = [one.rules[0].fulfilments[0].points_event_id for one in told[:4]]
        assert [one.source_event_id for one in told[2:]] == followed[:3]

    def test_what_the_event_itself_does_is_no_rules(self) -> None:
        (told,) = explanations(event=points(5))
        assert told.rules == ()

    def test_rules_stand_in_the_order_of_their_effects(self) -> None:
        rules = [rule(number) for number in (5, 3, 4)]
        assert [one.rule_id for one in explanations(*rules)[0].rules] == [id_of(3), id_of(4), id_of(5)]

    def test_the_version_that_looked_is_the_one_that_is_told(self) -> None:
        later = START + timedelta(days=1)
        versions = [rule(1, effective_to=later, name="Old"), rule(1, version=2, effective_from=later, name="New")]
        for at, name in ((START, "Old"), (later, "New")):
            (told,) = explanations(*versions, event=action(created_at=at))[0].rules
            assert (told.name, told.version) == (name, 1 if name == "Old" else 2)


NOTED = {"depth": 0, "source": None, "assessed": True}
FIRST, SECOND = (str(id_of(number)) for number in (1_000, 1_001))
FORMS: list[dict[str, Any]] = [
    {
        **NOTED,
        "rules": [
            [str(id_of(1)), 1, True, None, ["Shop.Web"], [[0, FIRST, 5], [1, SECOND, -1]]],
            [str(id_of(2)), 1, False, None, ["Shop.Web", "1"], []],
            [str(id_of(3)), 1, False, None, [None], []],
            [str(id_of(4)), 1, True, "perCustomer", [], []],
        ],
    },
    {
        **NOTED,
        "rules": [
            [id_of(1).hex, 1, [0], None],
            [id_of(2).hex, 1, [0, 1]],
            [id_of(3).hex, 1, [3]],
            [id_of(4).hex, 1, [], "perCustomer"],
        ],
        "criteria": [0, 1, 3],
        "saw": ["Shop.Web", "1", None],
        "made": [[0, 0, FIRST, 5], [0, 1, SECOND, -1]],
    },
]


@pytest.mark.parametrize("kept", FORMS)
def test_what_was_kept_in_a_form_stays_readable(kept: dict[str, Any]) -> None:
    shop = {"type": "nameSpace", "operator": "beginsWith", "value": "Shop"}
    rules = [
        rule(1, criteria=[shop], fulfilments=FULFILMENTS[:2]),
        rule(2, criteria=[shop, {"type": "nthEvent", "n": 2}, {"type": "everyEvent"}]),
        rule(3, criteria=[{"type": "actionCount", "operator": "equals", "value": 2}]),
        rule(4, limits={"per_customer": 1}),
    ]
    used = replace(customer(), uses={UseKey(id_of(4), LIFE, limits.INSTANT_MIN): 1})
    by_version = {VersionKey(one.rule_id, 1): one for one in rules}
    written = orjson.dumps(kept)
    assert versions_named(written) == set(by_version)
    told = explanations(*rules, event=action(name_space="Shop.Web"), state=used)[0]
    assert expand(EVENT, written, by_version) == told


def _rule(number: int, event_type: str, fields: list[dict[str, Any]], fulfilments: list[dict[str, Any]]) -> Rule:
    criteria = [FORM.validate_python(one) for one in fields]
    fitting = [one for one in criteria if EventType(event_type) in one.event_types()]
    return rule(number, event_type=event_type, criteria=fitting, fulfilments=fulfilments)


RULES = st.lists(
    st.tuples(
        st.sampled_from(["action", "order", "transaction", "points", "redemption", "anniversary"]),
        st.lists(criteria_fields(), max_size=3),
        st.lists(st.sampled_from(FULFILMENTS), min_size=1, max_size=3),
    ),
    max_size=8,
).map(lambda contents: [_rule(number, *content) for number, content in enumerate(contents)])


@generated
@given(rules=RULES, event=recorded_events(), state=states())
def test_whatever_happened_is_told(rules: list[Rule], event: AnyEvent, state: CustomerState) -> None:
    try:
        after = assess(event, Situation(state, {}, {}), rule_set(rules, SEGMENTS), START)
    except BalanceOutOfRange:
        reject()
    for step in after.steps:
        told = explained(step, rules)
        assert (told.depth, told.source_event_id) == (step.depth, step.source_event_id)
        assert told.is_assessed is (step.outcome is not None)
        considered = step.outcome.considered if step.outcome else ()
        assert [(one.rule_id, one.version, one.matched) for one in told.rules] == [
            (one.rule.rule_id, one.rule.version, one.matched) for one in considered
        ]
        for explanation, looked in zip(told.rules, considered, strict=True):
            asked, rest = explanation.criteria[: len(looked.asked)], explanation.criteria[len(looked.asked) :]
            if step.depth == 0:
                met = facts(step.event, state=state, segments=SEGMENTS)
                assert [(one.matched, one.saw) for one in asked] == [one.wanted.check(met) for one in asked]
            assert all(one.matched is None and one.saw is None for one in rest)
        had_effect = {
            (one.rule_id, place)
            for one in told.rules
            for place, fulfilment in enumerate(one.fulfilments)
            if fulfilment.has_effect
        }
        effects = step.outcome.effects if step.outcome else ()
        assert had_effect == {(one.rule.rule_id, one.fulfilment_index) for one in effects if one.rule}
        assert Explanation.model_validate_json(told.model_dump_json(by_alias=True)) == told


@pytest.mark.parametrize("text", ["\x7f", "é" * 300, '"\\', "\u2028"])
def test_what_was_seen_is_told_as_it_was(text: str) -> None:
    told = of_one(rule(1, criteria=[{"type": "nameSpace", "operator": "beginsWith", "value": text[:200]}]),
                  event=action(name_space=text[:256]))  # fmt: skip
    assert told.criteria[0].saw == text[:256]
