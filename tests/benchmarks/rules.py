"""The rules that benchmarks assess orders by: one, or a hundred of all kinds."""

from typing import Any

Rule = dict[str, Any]

ONE: tuple[Rule, ...] = (
    {
        "name": "Points per unit",
        "eventType": "order",
        "status": "active",
        "fulfilments": [{"type": "pointsPerUnit", "rate": "1"}],
    },
)
"""A point for each whole unit of an order's total."""

SHOP = {"type": "nameSpace", "operator": "beginsWith", "value": "Shop."}
KINDS: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]], ...] = (
    ([SHOP, {"type": "orderTotal", "operator": "atLeast", "value": "250"}], [{"type": "points", "amount": 5}]),
    (
        [SHOP, {"type": "sku", "operator": "equals", "value": "SKU-2"}, {"type": "everyNthEvent", "n": 10}],
        [{"type": "points", "amount": 3}],
    ),
    ([SHOP, {"type": "nthEvent", "n": 10}], [{"type": "points", "amount": 100}]),
    ([SHOP, {"type": "lifetimeEventThreshold", "value": "5000"}], [{"type": "points", "amount": 50}]),
    ([SHOP, {"type": "lifetimeSpend", "operator": "atLeast", "value": "10000000"}], [{"type": "points", "amount": 7}]),
    ([SHOP, {"type": "attribute", "key": "channel", "value": "app"}], [{"type": "points", "amount": 2}]),
    ([SHOP, {"type": "productQuantity", "operator": "atLeast", "value": 5}], [{"type": "points", "amount": 4}]),
    ([SHOP, {"type": "expression", "expression": "event.order.total > 299.0"}], [{"type": "points", "amount": 6}]),
    ([{"type": "campaign", "value": "Spring"}], [{"type": "points", "amount": 8}]),
    ([{"type": "nameSpace", "value": "Market.Order"}], [{"type": "points", "amount": 9}]),
)
"""Criteria and fulfilments: eight kinds look at each order of the shop, two at none."""


def mixed(number: int) -> tuple[Rule, ...]:
    """So many rules: the one, and the kinds in turn, each of which few orders match."""
    others = tuple(
        {
            "name": f"Rule {place}",
            "eventType": "order",
            "status": "active",
            "criteria": criteria if place < 2 * len(KINDS) else [*criteria[:1], *narrow(place), *criteria[1:]],
            "fulfilments": fulfilments,
        }
        for place in range(number - 1)
        for criteria, fulfilments in [KINDS[place % len(KINDS)]]
    )
    return (*ONE, *others)


def narrow(place: int) -> list[dict[str, Any]]:
    """Most rules of a shop are about one product, one campaign or one brand: few orders are of theirs."""
    return [{"type": "sku", "operator": "equals", "value": f"SKU-{place}"}] if place % len(KINDS) < 8 else []
