"""The index over rules never leaves out one that would match, and gives them in the order of their effects."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.facts import CustomerState, Facts
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_index import PREFIX, TEXTS, RuleIndex
from tests.unit.builders import (
    SEGMENT,
    action,
    basket,
    baskets,
    facts,
    generated,
    id_of,
    order,
    rule,
    rule_set,
    segment,
    transaction,
)
from tests.unit.criteria import FORM, criteria_fields, recorded_events, states

SHORT = st.sampled_from(["", "A", "A.", "A.B", "b"])
"""Few texts, so that events have what rules ask for."""
TEXT_KINDS = (
    *("nameSpace", "reference", "campaign", "attribute", "sku", "vendor", "category", "productType", "tag", "scheme"),
    *("bank", "bin"),
)


def wanted(kind: str, value: str) -> dict[str, Any]:
    """A criterion that wants a whole text."""
    return {"type": kind, "value": value, **({"key": "A"} if kind == "attribute" else {})}


OF_TEXTS = st.builds(wanted, st.sampled_from(TEXT_KINDS), SHORT.filter(bool)) | st.builds(
    lambda value: {"type": "nameSpace", "operator": "beginsWith", "value": value}, SHORT.filter(bool)
)


def matches(one: Rule, asked: Facts) -> bool:
    """Whether all criteria of the rule do, each asked by itself."""
    return all(criterion.check(asked).matched for criterion in one.criteria)


def rules_of(contents: list[tuple[str, list[dict[str, Any]]]]) -> list[Rule]:
    """Rules of these types and criteria; a criterion that the type does not have is left out."""
    made = []
    for number, (event_type, fields) in enumerate(contents):
        criteria = [FORM.validate_python(one) for one in fields]
        fitting = [one for one in criteria if EventType(event_type) in one.event_types()]
        made.append(rule(number, event_type=event_type, criteria=fitting))
    return made


def rules(
    event_types: list[str], criteria: st.SearchStrategy[dict[str, Any]], most: int
) -> st.SearchStrategy[list[Rule]]:
    """Rules of these types; each has criteria up to a number."""
    return st.lists(st.tuples(st.sampled_from(event_types), st.lists(criteria, max_size=most)), max_size=12).map(
        rules_of
    )


def with_texts(event: AnyEvent | BasketEvent, texts: list[str]) -> AnyEvent | BasketEvent:
    """The event with these texts in the places that a rule may look at, also in more than one item and payment."""
    each = iter(texts)
    body = event.model_dump(by_alias=True)
    body |= {"nameSpace": next(each) or None, "reference": next(each) or None, "campaign": next(each) or None}
    body["attributes"] = [{"key": "A", "value": next(each)}, {"key": "A", "value": next(each)}]
    for purchase in (body.get("order"), body.get("basket")):
        if purchase:
            purchase["items"] = [
                {"sku": next(each), "vendor": next(each), "category": next(each), "type": next(each),
                 "tags": [next(each), next(each)]}
                for _ in range(2)
            ]  # fmt: skip
            purchase["payments"] = [{"scheme": next(each), "bank": next(each), "bin": next(each)} for _ in range(2)]
    return type(event).model_validate(body)


OF_EVERY_TYPE = ["action", "order", "transaction", "points", "redemption", "anniversary", "basket"]
ANY = st.tuples(rules(OF_EVERY_TYPE, criteria_fields() | OF_TEXTS, 3), recorded_events() | baskets())
NEAR = st.tuples(
    rules(["action", "order", "basket"], OF_TEXTS, 2),
    st.builds(
        with_texts, st.sampled_from([action(), order(), order(), basket()]), st.lists(SHORT, min_size=23, max_size=23)
    ),
)
"""Rules and events that have much to do with each other."""


@generated
@given(looked_at=ANY | NEAR, state=states())
def test_asking_the_rules_that_it_finds_is_asking_all_of_them(
    looked_at: tuple[list[Rule], AnyEvent | BasketEvent], state: CustomerState
) -> None:
    all_rules, event = looked_at
    known = rule_set(all_rules, [segment()])
    found = list(known.matching(event, event.event_type))
    asked = facts(event, state=state, segments=[segment()])
    would_match = [one for one in known.rules if one.event_type == event.event_type and matches(one, asked)]
    assert [one for one in found if matches(one, asked)] == would_match
    places = [known.rules.index(one) for one in found]
    assert places == sorted(set(places))  # in order, each once
    assert {one.event_type for one in found} <= {event.event_type}


@pytest.mark.parametrize("place", range(23))
def test_a_rule_is_found_by_the_text_wherever_the_event_has_it(place: int) -> None:
    texts = ["A" if at == place else "" for at in range(23)]
    event = with_texts(order(), texts)
    asked = facts(event)
    of_kinds = [rule(number, event_type="order", criteria=[FORM.validate_python(wanted(kind, "A"))])
                for number, kind in enumerate(TEXT_KINDS)]  # fmt: skip
    begins = {"type": "nameSpace", "operator": "beginsWith", "value": "A"}
    known = rule_set([*of_kinds, rule(99, event_type="order", criteria=[FORM.validate_python(begins)])])
    matching = [one for one in known.rules if matches(one, asked)]
    assert matching
    assert list(known.matching(event, "order")) == matching


def test_each_criterion_says_what_finds_it_in_words_that_the_index_knows() -> None:
    """A word that the index does not read would be an error on each event, or a rule that is never found."""
    found_by = {kind: FORM.validate_python(wanted(kind, "x")).found_by() for kind in TEXT_KINDS}
    assert {key.field for key in found_by.values() if key is not None} == set(TEXT_KINDS) == set(TEXTS)
    prefix = FORM.validate_python({"type": "nameSpace", "operator": "beginsWith", "value": "x"}).found_by()
    assert prefix == (PREFIX, "x")


@pytest.mark.parametrize("operator", ["beginsWith", "notEquals"])
def test_a_text_that_is_not_wanted_whole_finds_nothing(operator: str) -> None:
    other = rule(1, event_type="order", criteria=[{"type": "sku", "operator": operator, "value": "x"}])
    assert RuleIndex.of([(0, other)]).always == (0,)


def test_few_rules_are_asked_of_many() -> None:
    many = [rule(number, criteria=[{"type": "nameSpace", "value": f"Shop.{number}"}]) for number in range(1000)]
    known = rule_set([*many, rule(2000)])
    assert [one.rule_id for one in known.matching(action(name_space="Shop.7"), "action")] == [id_of(7), id_of(2000)]
    assert [one.rule_id for one in known.matching(action(), "action")] == [id_of(2000)]
    assert list(known.matching(transaction(name_space="Shop.7"), "transaction")) == []


def test_a_rule_is_found_by_what_it_shares_with_the_fewest() -> None:
    shop = {"type": "nameSpace", "value": "Shop"}
    many = [
        rule(number, event_type="order", criteria=[shop, {"type": "sku", "value": f"S-{number}"}])
        for number in range(50)
    ]
    order_of_one = order(name_space="Shop", order={"total": "1", "items": [{"sku": "S-3"}, {"sku": "S-3"}]})
    assert [one.rule_id for one in rule_set(many).matching(order_of_one, "order")] == [id_of(3)]
    begins = {"type": "nameSpace", "operator": "beginsWith", "value": "Shop"}
    alone = rule(1, event_type="order", criteria=[begins, shop])
    assert RuleIndex.of([(0, alone)]).by_prefix == {}


def test_a_basket_is_found_as_an_order_is() -> None:
    on_sale = rule(1, event_type="basket", criteria=[{"type": "tag", "value": "sale"}])
    bought = {"total": "1", "items": [{"tags": ["new", "sale"]}]}
    assert list(rule_set([on_sale]).matching(basket(basket=bought), "basket")) == [on_sale]
    assert list(rule_set([on_sale]).matching(basket(), "basket")) == []


def test_every_version_of_a_rule_is_found() -> None:
    """Which one looks at an event is decided by the event's createdAt, when it is evaluated."""
    versions = [
        rule(1, version=number, criteria=[{"type": "campaign", "value": "A"}], fulfilments=[
            {"type": "addToSegment", "segment_id": SEGMENT}])
        for number in (1, 2, 3)
    ]  # fmt: skip
    found = rule_set(versions[::-1]).matching(action(campaign="A"), "action")
    assert [one.version for one in found] == [1, 2, 3]
