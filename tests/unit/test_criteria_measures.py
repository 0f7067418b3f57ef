"""Criteria on numbers of actions, transactions, points events and anniversaries, each at its edge."""

from typing import Any

import pytest

from tallymarks import limits
from tallymarks.events import AnyEvent, BasketEvent, EventType
from tallymarks.rules.criteria import Check
from tallymarks.rules.facts import CustomerState
from tests.unit.builders import action, anniversary, basket, order, points, redemption, transaction
from tests.unit.criteria import check, criterion, is_refused, matches, with_past

OPERATORS = {
    "equals": (False, True, False),
    "notEquals": (True, False, True),
    "lessThan": (True, False, False),
    "atMost": (True, True, False),
    "atLeast": (False, True, True),
    "moreThan": (False, False, True),
}
"""Operator → whether it matches just below the value, at it, and just above it."""

AMOUNTS = ("19.9899", "19.99", "19.9901")
WHOLES = (9, 10, 11)
EVENTS = [action(), order(), transaction(), points(), redemption(), anniversary(), basket()]


def of_action_amount(amount: str) -> tuple[AnyEvent, CustomerState]:
    return action(action={"amount": amount}), with_past()


def of_action_count(count: int) -> tuple[AnyEvent, CustomerState]:
    return action(action={"count": count}), with_past()


def of_transaction_amount(amount: str) -> tuple[AnyEvent, CustomerState]:
    return transaction(amount), with_past()


def of_points_quantity(quantity: int) -> tuple[AnyEvent, CustomerState]:
    return points(quantity), with_past(balance=5)


def of_previous_balance(balance: int) -> tuple[AnyEvent, CustomerState]:
    return points(-5), with_past(balance=balance)


def of_balance(balance: int) -> tuple[AnyEvent, CustomerState]:
    return points(-5), with_past(balance=balance + 5)


def of_lifetime_points(earned: int) -> tuple[AnyEvent, CustomerState]:
    return points(4), with_past(points_earned=earned - 4, balance=1)


def of_lifetime_points_when_taken(earned: int) -> tuple[AnyEvent, CustomerState]:
    return points(-4), with_past(points_earned=earned, balance=1)


def of_years(years: int) -> tuple[AnyEvent, CustomerState]:
    return anniversary(years), with_past()


@pytest.mark.parametrize(
    ("kind", "made_of", "numbers", "fits"),
    [
        ("actionAmount", of_action_amount, AMOUNTS, EventType.ACTION),
        ("actionCount", of_action_count, WHOLES, EventType.ACTION),
        ("transactionAmount", of_transaction_amount, AMOUNTS, EventType.TRANSACTION),
        ("pointsQuantity", of_points_quantity, WHOLES, EventType.POINTS),
        ("pointsQuantity", of_points_quantity, (-11, -10, -9), EventType.POINTS),
        ("previousBalance", of_previous_balance, WHOLES, EventType.POINTS),
        ("balance", of_balance, (-1, 0, 1), EventType.POINTS),
        ("lifetimePoints", of_lifetime_points, WHOLES, EventType.POINTS),
        ("lifetimePoints", of_lifetime_points_when_taken, WHOLES, EventType.POINTS),
        ("yearsSinceJoining", of_years, WHOLES, EventType.ANNIVERSARY),
    ],
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_compares_at_the_edge(
    kind: str, made_of: Any, numbers: tuple[Any, ...], fits: EventType, operator: str
) -> None:
    fields = {"type": kind, "operator": operator, "value": numbers[1]}
    for number, matched in zip(numbers, OPERATORS[operator], strict=True):
        assert check(*made_of(number), **fields) == Check(matched, saw=str(number))
    assert criterion(**fields).event_types() == {fits}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["actionAmount", "actionCount"])
def test_what_an_action_does_not_tell_matches_nothing(kind: str, operator: str) -> None:
    assert check(action(), type=kind, operator=operator, value=0) == Check(matched=False, saw=None)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event_type)
@pytest.mark.parametrize(
    "kind", ["actionAmount", "actionCount", "transactionAmount", "pointsQuantity", "yearsSinceJoining"]
)
def test_other_events_match_nothing(kind: str, event: AnyEvent | BasketEvent) -> None:
    one = criterion(type=kind, operator="notEquals", value=7)
    if event.event_type not in one.event_types():
        assert not matches(event, type=kind, operator="notEquals", value=7)


@pytest.mark.parametrize("kind", ["actionAmount", "transactionAmount"])
def test_amounts_are_exact_and_bounded(kind: str) -> None:
    assert criterion(type=kind, operator="equals", value="1.10").model_dump(mode="json")["value"] == "1.10"
    for wrong in ("1.00001", 10**12, "1e3", 1.5, None, "many"):
        assert is_refused(type=kind, operator="equals", value=wrong)


@pytest.mark.parametrize(
    "kind",
    ["actionCount", "pointsQuantity", "previousBalance", "balance", "lifetimePoints", "yearsSinceJoining"],
)
def test_what_is_counted_has_no_fractions(kind: str) -> None:
    for wrong in (1.5, "1", True, limits.POINTS_MAX + 1, None):
        assert is_refused(type=kind, operator="equals", value=wrong)
    for wrong in ("above", "", None, "EQUALS"):
        assert is_refused(type=kind, operator=wrong, value=1)
    assert is_refused(type=kind, value=1)
