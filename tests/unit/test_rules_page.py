"""docs/rules.md: each of its examples is run as it is printed, and none is missing."""

import json
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, get_args
from uuid import UUID

import pytest
from pydantic import TypeAdapter

from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.criterion import RULE_TYPES
from tallymarks.rules.facts import CustomerState, Facts, Totals
from tallymarks.rules.fulfilments import (
    Effect,
    Fulfilment,
    GivePoints,
    GrantDiscount,
    GrantVoucher,
    JoinSegment,
    LeaveSegment,
    ScheduleTrigger,
)
from tallymarks.rules.rule import NewRule
from tallymarks.values import Instant, format_instant
from tallymarks_api.rule_trials import Trial
from tests.parts import START
from tests.unit.builders import CUSTOMER, EVENT, SEGMENT, customer, facts, segment
from tests.unit.criteria import TYPES

Json = dict[str, Any]

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
CRITERIA_PART, FULFILMENTS_PART = PAGE.split("\n## Fulfilments\n")
FULFILMENT_TYPES = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(Fulfilment)[0])}
EVERY = {"every": RULE_TYPES, "every but basket": RULE_TYPES - {EventType.BASKET}}
EVENT_FORM: TypeAdapter[AnyEvent | BasketEvent] = TypeAdapter(AnyEvent | BasketEvent)
INSTANTS: TypeAdapter[list[Any]] = TypeAdapter(list[Instant])


class Row(NamedTuple):
    """One row of a table."""

    example: Json
    event_types: frozenset[EventType]
    one: Json
    other: Json | None
    """None where the page prints none."""


def rows(part: str) -> list[Row]:
    """Read the rows whose first cell is an example."""
    read = []
    for line in part.splitlines():
        if line.startswith("| `{"):
            example, named, _, one, other = (cell.strip() for cell in line.strip("|").split(" | ", 4))
            event_types = EVERY.get(named) or frozenset(map(EventType, named.split(", ")))
            read.append(Row(printed(example), event_types, printed(one), printed(other) if other else None))
    return read


def printed(cell: str) -> Json:
    code = re.fullmatch(r"`(\{.*\})`", cell)
    assert code, cell
    content: Json = json.loads(code[1])
    return content


CRITERIA, FULFILMENTS = rows(CRITERIA_PART), rows(FULFILMENTS_PART)


def kind_of(row: object) -> str:
    return str(row.example["type"]) if isinstance(row, Row) else ""


def event_type_of(shown: Json) -> str:
    return next((str(kind) for kind in RULE_TYPES if kind in shown), EventType.ACTION)


def facts_of(shown: Json) -> Facts:
    """The event as the page prints it, and the customer before it."""
    event_type = event_type_of(shown)
    content = {name: value for name, value in shown.items() if name != "before"}
    filled = {"eventType": event_type, "eventId": EVENT, "customerId": CUSTOMER, "createdAt": START, **content}
    event = EVENT_FORM.validate_python(filled)
    return facts(event, state=state_of(event, shown.get("before", {})), segments=[segment()])


def state_of(event: AnyEvent | BasketEvent, before: Json) -> CustomerState:
    """The customer of whom the page says so."""
    read = {"events", "values", "pointsEarned", "balance", "segments", "at"}
    assert set(before) <= read
    totals = Totals(
        {event.event_type: before.get("events", 0)},
        {kind: Decimal(value) for kind, value in before.get("values", {}).items()},
        before.get("pointsEarned", 0),
    )
    recent = ((event.event_type, event.name_space, at) for at in INSTANTS.validate_python(before.get("at", [])))
    memberships = dict.fromkeys(map(UUID, before.get("segments", [])))
    state = customer(balance=before.get("balance", 0), memberships=memberships)
    return replace(state, totals=totals, recent=tuple(recent))


def rule_with(event_type: str, criteria: list[Json], fulfilments: list[Json]) -> NewRule:
    return NewRule.model_validate(
        {"name": "Rule", "eventType": event_type, "criteria": criteria, "fulfilments": fulfilments},
        by_alias=True,
        by_name=False,
    )


def test_has_every_criterion_and_every_fulfilment_once() -> None:
    assert sorted(map(kind_of, CRITERIA)) == sorted(TYPES)
    assert sorted(map(kind_of, FULFILMENTS)) == sorted(FULFILMENT_TYPES)


@pytest.mark.parametrize("row", CRITERIA, ids=kind_of)
class TestCriterion:
    def test_is_taken_in_rules_of_just_the_types_named(self, row: Row) -> None:
        for event_type in row.event_types:
            (criterion,) = rule_with(event_type, [row.example], [{"type": "points", "amount": 1}]).criteria
            assert criterion.event_types() == row.event_types
            assert row.example.items() <= criterion.model_dump(mode="json").items()

    def test_matches_the_one_event_and_not_the_other(self, row: Row) -> None:
        for shown, expected in ((row.one, True), (row.other, False)):
            if shown is not None:
                event_type = event_type_of(shown)
                (criterion,) = rule_with(event_type, [row.example], [{"type": "points", "amount": 1}]).criteria
                assert criterion.check(facts_of(shown)).matched is expected

    def test_only_what_always_matches_goes_without_the_other(self, row: Row) -> None:
        assert (row.other is None) is (row.example["type"] == "everyEvent")


@pytest.mark.parametrize("row", FULFILMENTS, ids=kind_of)
class TestFulfilment:
    def test_is_taken_in_rules_of_just_the_types_named(self, row: Row) -> None:
        for event_type in row.event_types:
            (fulfilment,) = rule_with(event_type, [], [row.example]).fulfilments
            assert fulfilment.event_types() & RULE_TYPES == row.event_types

    def test_gives_what_is_printed(self, row: Row) -> None:
        (fulfilment,) = rule_with(event_type_of(row.one), [], [row.example]).fulfilments
        assert effect_json(fulfilment.fulfil(facts_of(row.one))) == row.other


def effect_json(effect: Effect | None) -> Json:
    """An effect as the page prints it."""
    match effect:
        case GivePoints(amount):
            return {"points": amount}
        case JoinSegment(segment_id):
            return {"joins": str(segment_id)}
        case LeaveSegment(segment_id):
            return {"leaves": str(segment_id)}
        case ScheduleTrigger(due_at, name_space, reference):
            return {"dueAt": format_instant(due_at), "nameSpace": name_space, "reference": reference}
        case GrantDiscount(amount=amount):
            return {"discount": str(amount)}
        case GrantVoucher(code, description):
            return {"code": code, "description": description}
        case _:
            raise AssertionError(effect)


def test_the_example_of_a_rule_is_one() -> None:
    block, _ = BLOCKS
    NewRule.model_validate(json.loads(block), by_alias=True, by_name=False)
    assert str(SEGMENT) in block


def test_the_example_of_a_trial_is_one() -> None:
    _, block = BLOCKS
    trial = Trial.model_validate(json.loads(block), by_alias=True, by_name=False)
    assert trial.rule is not None
    assert trial.customer is not None
