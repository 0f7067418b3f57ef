"""Expressions are handed no more of an event than they look at, and come to what they would if they were handed all."""

import re
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.criterion import Check
from tallymarks.rules.expression_view import VARIABLES, Path, View
from tallymarks.rules.expressions import Program, compiled
from tallymarks.rules.facts import CustomerState, Facts
from tests.parts import START
from tests.unit.builders import (
    SEGMENT,
    action,
    anniversary,
    basket,
    baskets,
    facts,
    generated,
    order,
    points,
    redemption,
    transaction,
)
from tests.unit.criteria import EXPRESSIONS, recorded_events, states, with_past
from tests.unit.test_expressions import conditions, program
from tests.unit.test_expressions_page import rows

ITEMS = "event.order.items"

NEEDS: dict[str, list[str]] = {
    "true": [],
    "event.order.total > 5.0": ["event.order.total"],
    ".event.order.total > 5.0": ["event.order.total"],
    "event.`order`.total > 5.0": ["event.order.total"],
    "has(event.order)": ["event.order"],
    "has(event.order.taxTotal)": ["event.order.taxTotal"],
    "has(event.order.items)": [ITEMS],
    "event.order.total > 1.0 && has(event.order) && event.order.taxTotal > 0.0": [
        "event.order.total",
        "event.order",
        "event.order.taxTotal",
    ],
    "event.createdAt < now && event.createdAt.getFullYear('UTC') > 1": ["event.createdAt", "now"],
    "customer.balance > totals.counts.order": ["customer.balance", "totals.counts.order"],
    "has(totals.values) || has(totals.counts.action)": ["totals.values", "totals.counts.action"],
    "segments.exists(s, s == event.reference)": ["segments", "event.reference"],
    "event.campaign in segments": ["event.campaign", "segments"],
    f"{ITEMS}.size() == 1": [ITEMS],
    f"{ITEMS}[0].tags[0] == 'new' || has({ITEMS}[0].price)": [ITEMS],
    f"{ITEMS}[totals.counts.order].sku == 'A'": [ITEMS, "totals.counts.order"],
    f"{ITEMS}.exists(i, i.sku == 'A' && has(i.price) && i.tags.all(t, t != event.campaign))": [ITEMS, "event.campaign"],
    f"{ITEMS}.exists_one(i, {ITEMS}.exists(j, i.price < j.price))": [ITEMS],
    "event.attributes.filter(a, a.key == event.reference).map(a, a.value).exists(v, v > 'a')": [
        "event.attributes",
        "event.reference",
    ],
    "event.order.payments.map(p, p.amount > totals.spend, p)[0].bin != ''": ["event.order.payments", "totals.spend"],
    f"[event.order.total, double({ITEMS}.size())].exists(t, t > 9.0)": ["event.order.total", ITEMS],
    "-event.order.total < 0.0 ? !has(event.campaign) : event.reference == ''": [
        "event.order.total",
        "event.campaign",
        "event.reference",
    ],
    # What is chosen is a whole, even if it is part of something named before.
    "event.order.total > 1.0 && (now > event.createdAt ? event.order : event.order).taxTotal > 0.0": [
        "event.order.total",
        "now",
        "event.createdAt",
        "event.order",
    ],
    "(customer.balance > 5 ? event : event).order.total > 5.0": ["customer.balance", "event"],
    "(true ? totals : totals).counts.order + (true ? customer : customer).balance > 1": ["totals", "customer"],
    f"(event.order.total > 3.0 ? {ITEMS} : {ITEMS})[0].sku == 'A'": ["event.order.total", ITEMS],
    f"(event.order.total > 3.0 ? {ITEMS} : [])[0].sku == 'A'": ["event.order.total", ITEMS],
    # A loop may name its elements as a variable is named; with a dot before it, it is the variable all the same.
    f"{ITEMS}.exists(event, event.sku == 'A')": [ITEMS],
    f"{ITEMS}.exists(event, event.sku == 'A' || .event.order.total > 5.0)": [ITEMS, "event.order.total"],
    "['a'].exists(segments, segments == 'a' && .segments.size() > 0)": ["segments"],
    "['a'].exists(now, now == 'a') || now > event.createdAt": ["now", "event.createdAt"],
    "[1].exists(customer, customer == .customer.balance)": ["customer.balance"],
}
"""Each construct → what is looked at by it."""


def written(source: str) -> list[str]:
    """The expressions that stand in the source of tests."""
    texts = re.findall(r'"([^"\n]+)"', source.replace("{ITEMS}", ITEMS))
    return [text for text in texts if isinstance(compiled(text), Program)]


TESTED = written((File(__file__).parent / "test_expressions.py").read_text())


TEXTS = sorted(
    {
        *NEEDS,
        *EXPRESSIONS,
        *(row[0] for row in rows("Examples")),
        *TESTED,
    }
)

ITEM = {
    "sku": "MUG-1",
    "name": "Mug",
    "vendor": "Acme",
    "category": "coffee",
    "type": "t",
    "price": "120",
    "quantity": 2,
    "tags": ["organic", "new"],
}
PAYMENT = {"amount": "60", "method": "card", "scheme": "Visa", "bank": "B", "bin": "4"}
PURCHASE: dict[str, Any] = {
    "total": "310",
    "tax_total": "10",
    "shipping_total": "5",
    "discount_total": "0",
    "currency": "EUR",
    "items": [{}, ITEM, {**ITEM, "price": "1"}],
    "payments": [PAYMENT, PAYMENT],
}
COMMON: dict[str, Any] = {
    "name_space": "A.B",
    "reference": "PO-1",
    "campaign": "Summer",
    "attributes": [{"key": "k", "value": "4"}, {"key": "weight", "value": "3"}],
}
PAST = replace(
    with_past({"order": 1, "action": 2}, {"order": "900", "points": "-3"}, points_earned=90, balance=70),
    memberships={SEGMENT: None},
)

FULL: list[AnyEvent | BasketEvent] = [
    action(action={"amount": "1.5", "count": 2}, **COMMON),
    order(order=PURCHASE, **COMMON),
    transaction("-5", **COMMON),
    points(-5, **COMMON),
    redemption(500, str(START), **COMMON),
    anniversary(2, **COMMON),
    basket(basket=PURCHASE, **COMMON),
]
"""One of each type, with all that it can have."""
BARE: list[AnyEvent | BasketEvent] = [action(), order(), basket()]

LOOKED_AT = [
    *(facts(event, state=PAST) for event in FULL),
    *(facts(event) for event in BARE),
    replace(facts(FULL[-1], state=PAST), event_type=EventType.ORDER),
    replace(facts(FULL[1], state=PAST), balance_before=-1),
]


def handed_all(text: str, looked_at: Facts) -> Check:
    """What the expression comes to when every variable is there with all that is in it."""
    everything = tuple(Path((name,)) for name in VARIABLES)
    return replace(program(text), needs=everything).evaluate(replace(looked_at))


@pytest.mark.parametrize("text", NEEDS)
def test_needs_what_it_looks_at(text: str) -> None:
    assert list(map(str, program(text).needs)) == NEEDS[text]


@pytest.mark.parametrize("text", TEXTS)
def test_comes_to_what_it_would_if_it_were_handed_all(text: str) -> None:
    for looked_at in LOOKED_AT:
        assert program(text).evaluate(replace(looked_at)) == handed_all(text, looked_at)


def is_cheap_enough(text: str) -> bool:
    """Tell whether a condition is not refused: one that is made at random may take too many steps."""
    return isinstance(compiled(text), Program)


@generated
@given(
    st.lists(st.sampled_from(TEXTS) | conditions.filter(is_cheap_enough), min_size=1, max_size=5),
    recorded_events() | baskets(),
    states(),
)
def test_and_so_on_any_event_whichever_were_evaluated_before(
    texts: list[str], event: AnyEvent | BasketEvent, state: CustomerState
) -> None:
    as_types = {event.event_type, EventType.ORDER} if isinstance(event, BasketEvent) else {event.event_type}
    for event_type in sorted(as_types):
        looked_at = replace(facts(event, state=state), event_type=event_type)
        seen = [program(text).evaluate(looked_at) for text in texts]
        assert seen == [handed_all(text, looked_at) for text in texts]


def test_the_texts_of_other_tests_are_found() -> None:
    assert {"event.order.total > 5.0", "1 / totals.counts.order > 0", f"{ITEMS}.exists(i, i.sku in segments)"} <= {
        *TESTED
    }


class TestWhatIsMade:
    def made(self, *texts: str) -> dict[str, Any]:
        looked_at = facts(FULL[1], state=PAST)
        for text in texts:
            assert program(text).evaluate(looked_at) == handed_all(text, looked_at)
        view: View = looked_at.memo[View]
        return view.variables

    def test_is_what_is_needed(self) -> None:
        made = self.made("event.order.total > 5.0", "totals.counts.order == 1")
        assert str(made["event"]) == "order {\n  total: 310\n}\n"
        assert str(made["totals"]) == "counts {\n  order: 1\n}\n"
        assert set(made) == {"event", "totals"}

    def test_is_made_once_though_it_is_needed_as_a_part_and_as_a_whole(self) -> None:
        made = self.made(f"{ITEMS}.size() == 3", "has(event.order)", f"{ITEMS}.size() > 3")
        assert [item.sku for item in made["event"].order.items] == ["", "MUG-1", "MUG-1"]
        assert list(made["event"].order.items[1].tags) == ["organic", "new"]

    def test_a_number_beyond_64_bits_fails_only_what_needs_it(self) -> None:
        looked_at = facts(anniversary(2**63))
        for text, matched in {"event.anniversary.years > 1": False, "event.nameSpace == ''": True}.items():
            seen = program(text).evaluate(looked_at)
            assert (seen.matched, str(seen.saw).startswith("failed: ")) == (matched, not matched)
