"""Evaluating one event: against 1,000 active rules of its type, of which 10 match by nameSpace, beside those 10 alone.

Pure evaluation in one process, no servers; README.md beside this file says how it is measured.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from tallymarks.events import Order, OrderEvent, OrderItem
from tallymarks.rules.assessment import Situation, assess
from tallymarks.rules.facts import CustomerState
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_set import RuleSet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT_ID, CUSTOMER_ID, EVENT_ID = (UUID(int=number, version=4) for number in (1, 2, 3))
MATCHING = 10
BELOW = {"type": "orderTotal", "operator": "moreThan", "value": "1000"}


def main() -> int:
    """Run the benchmark; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.evaluation",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rules", type=int, default=1_000, help="active rules of the event's type")
    parser.add_argument("--events", type=int, default=2_000, help="events of a round")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each, in turn")
    options = parser.parse_args()
    many, few = rule_set(options.rules), rule_set(MATCHING)
    if [len(list(one.matching(order(), "order"))) for one in (many, few)] != [MATCHING, MATCHING]:
        raise RuntimeError("not ten rules were found")
    of_many, of_few = [], []
    for _ in range(options.rounds):
        of_many.append(seconds(lambda: evaluate(many, options.events)) / options.events * 1e6)
        of_few.append(seconds(lambda: evaluate(few, options.events)) / options.events * 1e6)
    print(table(options.rules, of_many, of_few))
    return 0


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


def seconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(rules: int, of_many: Sequence[float], of_few: Sequence[float]) -> str:
    """The medians, and their ratio."""
    many, few = statistics.median(of_many), statistics.median(of_few)
    return "\n".join(
        (
            f"{'evaluation, µs/event':<28}{'median':>10}",
            f"{f'{rules:,} rules':<28}{many:>10,.1f}",
            f"{f'{MATCHING} rules':<28}{few:>10,.1f}",
            f"{'ratio':<28}{many / few:>10.2f}",
            "",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
