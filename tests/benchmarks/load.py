"""What is posted: orders of three items, by customers taken at random, the same in every run."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from random import Random
from uuid import UUID

import orjson

Order = dict[str, object]


class Orders:
    """Makes orders of three items, worth a point for each whole unit of their total."""

    def __init__(self, customer_count: int, seed: int = 1) -> None:
        """Take how many customers order; another seed gives other customers and other events."""
        self.random = Random(seed)
        self.customer_ids = [UUID(int=self.random.getrandbits(128), version=4) for _ in range(customer_count)]
        self.made = 0
        """How many orders were made so far."""
        self.points = 0
        """What all of them are worth."""

    def of_any(self, count: int) -> list[Order]:
        """Make orders of customers taken at random."""
        return [self.of(customer_id) for customer_id in self.random.choices(self.customer_ids, k=count)]

    def of_all(self) -> list[Order]:
        """Make one order of each customer."""
        return [self.of(customer_id) for customer_id in self.customer_ids]

    def of(self, customer_id: UUID) -> Order:
        """Make one order, as it is posted in a batch."""
        prices = [Decimal(self.random.randint(100, 9_999)) / 100 for _ in range(3)]
        total = sum(prices, Decimal(0))
        self.made += 1
        self.points += int(total)
        return {
            "eventType": "order",
            "eventId": str(UUID(int=self.random.getrandbits(128), version=4)),
            "customerId": str(customer_id),
            "nameSpace": "Shop.Order",
            "reference": str(self.random.randint(10**6, 10**7)),
            "order": {
                "total": str(total),
                "currency": "EUR",
                "items": [
                    {"sku": f"SKU-{number}", "name": f"Item {number}", "quantity": 1, "price": str(price)}
                    for number, price in enumerate(prices)
                ],
            },
        }


def lots(orders: Sequence[Order], size: int) -> Iterator[list[Order]]:
    """Cut orders into lots of a size; the last may be smaller."""
    waiting = iter(orders)
    while lot := list(islice(waiting, size)):
        yield lot


def bodies(orders: Sequence[Order], size: int) -> list[bytes]:
    """Give the bodies of batch requests of so many orders."""
    return [orjson.dumps({"events": lot}) for lot in lots(orders, size)]
