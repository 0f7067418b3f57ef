"""Evaluating one event: against 1,000 active rules of its type, of which 10 match by nameSpace, beside those 10 alone.

Pure evaluation in one process, no servers; README.md beside this file says how it is measured.
"""

import time
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from uuid import UUID

from tallymarks.events import Order, OrderEvent, OrderItem
from tallymarks.rules.assessment import Situation, assess
from tallymarks.rules.facts import CustomerState
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_set import RuleSet
from tests.benchmarks.frame import Plan, Report, Row, in_turn
from tests.benchmarks.ground import Ground

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT_ID, CUSTOMER_ID, EVENT_ID = (UUID(int=number, version=4) for number in (1, 2, 3))
MATCHING = 10
BELOW = {"type": "orderTotal", "operator": "moreThan", "value": "1000"}


EVENTS = 2_000
RULES = 1_000


async def measure(_: Ground, plan: Plan) -> Report:
    """Measure an event against many rules and against few."""
    events = plan.of(EVENTS)
    many, few = rule_set(RULES), rule_set(MATCHING)
    if [len(list(one.matching(order(), "order"))) for one in (many, few)] != [MATCHING, MATCHING]:
        raise RuntimeError("not ten rules were found")
    of_many, of_few = await in_turn(
        plan,
        "µs/event",
        {
            f"evaluation, {RULES:,} rules": partial(microseconds, many, events),
            f"evaluation, {MATCHING} rules": partial(microseconds, few, events),
        },
    )
    return Report([Row(f"evaluated beside {RULES:,} rules", of_many, of_few, at_most=3)])


async def microseconds(rules: RuleSet, events: int) -> float:
    """Give what assessing an event takes, nothing else going on."""
    started = time.perf_counter()
    evaluate(rules, events)
    return (time.perf_counter() - started) / events * 1e6


def rule_set(number: int) -> RuleSet:
    """So many rules, of which ten have the order's nameSpace."""
    return RuleSet.of(
        1, [rule(place, "Shop.Order" if place < MATCHING else f"Shop.{place}") for place in range(number)], []
    )


def rule(place: int, name_space: str) -> Rule:
    """A rule with a criterion besides its nameSpace, and that no order of ours satisfies."""
    return Rule.model_validate(
        {
            "rule_id": UUID(int=place + 1, version=4),
            "tenant_id": TENANT_ID,
            "name": f"Rule {place}",
            "event_type": "order",
            "status": "active",
            "version": 1,
            "effective_from": None,
            "effective_to": None,
            "criteria": [{"type": "nameSpace", "value": name_space}, BELOW],
            "fulfilments": [{"type": "points", "amount": 1}],
            "created_at": NOW,
            "changed_at": NOW,
        }
    )


def order() -> OrderEvent:
    """An order of three items."""
    items = tuple(OrderItem(sku=f"SKU-{number}", quantity=1, price=Decimal("9.99")) for number in range(3))
    return OrderEvent(
        event_id=EVENT_ID,
        customer_id=CUSTOMER_ID,
        name_space="Shop.Order",
        created_at=NOW,
        order=Order(total=Decimal("29.97"), items=items),
    )


def evaluate(rules: RuleSet, events: int) -> None:
    """Assess the same order again and again."""
    event, situation = order(), Situation(CustomerState(CUSTOMER_ID, NOW, 0, {}), {}, {})
    for _ in range(events):
        assess(event, situation, rules, NOW)
