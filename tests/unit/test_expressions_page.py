"""docs/expressions.md: each of its examples is run as it is printed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tallymarks.rules.criteria_expression import Expression
from tallymarks.rules.rule import NewRule
from tests.unit.test_rules_page import event_type_of, facts_of, rule_with

PAGE = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text()
GIFT: dict[str, Any] = {"type": "points", "amount": 1}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below the heading: each is code, as the page prints it."""
    (part,) = (part for part in PAGE.split("\n## ") if part.startswith(heading))
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def fields(expression: str) -> dict[str, Any]:
    return {"type": "expression", "expression": expression}


@pytest.mark.parametrize(("expression", "one", "other"), rows("Examples"))
def test_matches_the_one_event_and_not_the_other(expression: str, one: str, other: str) -> None:
    for shown, expected in ((json.loads(one), True), (json.loads(other), False)):
        (criterion,) = rule_with(event_type_of(shown), [fields(expression)], [GIFT]).criteria
        assert criterion.check(facts_of(shown)).matched is expected


@pytest.mark.parametrize(("expression", "message"), rows("What is refused"))
def test_refuses_with_the_message(expression: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        rule_with("order", [fields(expression)], [GIFT])
    assert [(one["loc"], one["msg"]) for one in refused.value.errors()] == [(("criteria", 0, "expression"), message)]


def test_the_example_of_a_rule_is_one() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    rule = NewRule.model_validate(json.loads(block), by_alias=True, by_name=False)
    assert isinstance(rule.criteria[1], Expression)
