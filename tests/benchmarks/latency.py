"""How long it takes from the post of an order until its points are in the balance, at a quarter of the rate that api
and assessor can do; beside one confirm of the broker plus one commit of the database, which every way needs.

README.md beside this file says how it is measured.
"""

import asyncio
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import cycle, islice
from uuid import UUID

import orjson

from tests.benchmarks import bare
from tests.benchmarks.frame import Figures, Plan, Report, Row, in_turn
from tests.benchmarks.ground import Ground, settle
from tests.benchmarks.shop import CONNECTIONS, Shop

ORDERS_AT_FULL_RATE = 6_000
PART_OF_FULL_RATE = 4
SECONDS_AT_A_PART = 6
PAIRS = 5_000
"""Of a confirm and a commit: they take about as long as the orders do, and meet as many of the servers' pauses."""
COUNTS = "SELECT customer_id, order_count FROM accounts WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[])"
LOOK_SECONDS = 0.002
"""From one look at the accounts to the next: so exact is what is measured, and the looks take a tenth of a core."""
Milliseconds = Sequence[float]


async def measure(ground: Ground, plan: Plan) -> Report:
    """Measure the way of an order, and the confirm and the commit alone."""
    async with Shop.on(ground) as shop:
        latency = Latency(shop, ground.amqp_url, plan)
        late_ours, late_alone = await in_turn(
            plan,
            "ms, p99",
            {"post until in the balance": latency.of_orders, "one confirm plus one commit": latency.of_pairs},
        )
    return Report(
        rows=[
            Row(
                f"post until in the balance, 1/{PART_OF_FULL_RATE} of full rate, p50",
                Figures(late_ours.name, "ms, p50", latency.medians["orders"]),
                Figures(late_alone.name, "ms, p50", latency.medians["pairs"]),
            ),
            Row(
                f"post until in the balance, 1/{PART_OF_FULL_RATE} of full rate, p99", late_ours, late_alone, at_most=10
            ),
        ],
        besides=[
            Figures("full rate, single orders until assessed", "orders/s", latency.full_rates),
            Figures("post until answered", "ms, p50", latency.medians["answers"]),
            Figures("post until answered", "ms, p99", latency.answers_late),
        ],
    )


class Latency:
    """Orders that are posted at a steady pace, and watched."""

    def __init__(self, shop: Shop, amqp_url: str, plan: Plan) -> None:
        self._shop = shop
        self._amqp_url = amqp_url
        self._plan = plan
        self._customers = cycle(shop.orders.customer_ids)
        self._posted: defaultdict[UUID, int] = defaultdict(int)
        self.full_rates: list[float] = []
        self.medians: defaultdict[str, list[float]] = defaultdict(list)
        self.answers_late: list[float] = []

    async def of_orders(self) -> float:
        """Find the full rate, and post at a part of it; gives the 99th percentile in milliseconds."""
        self.full_rates.append(await self._full_rate(self._plan.of(ORDERS_AT_FULL_RATE)))
        rate = self.full_rates[-1] / PART_OF_FULL_RATE
        customer_ids = list(islice(self._customers, self._plan.of(round(rate * SECONDS_AT_A_PART))))
        requests = [self._shop.single(self._shop.orders.of(customer_id)) for customer_id in customer_ids]
        load = await self._shop.load(self._shop.api, requests, CONNECTIONS, rate)
        watch = await Watch.of(self._shop, customer_ids)
        started = load.begin()
        seen_at = await watch.until_seen(started, rate)
        answers = await load.finished()
        self._note("answers", latencies(answers.answered_at, started, rate), self.answers_late)
        return self._note("orders", latencies(seen_at, started, rate))

    async def of_pairs(self) -> float:
        """Publish and insert, one pair after the other; gives the 99th percentile in milliseconds."""
        await settle(self._shop.database_url)
        stack, times = self._shop.stack, self._plan.of(PAIRS)
        output = await bare.ran("commit", self._shop.database_url, self._amqp_url, stack.tenant_id, times)
        return self._note("pairs", [seconds * 1_000 for seconds in orjson.loads(output)])

    async def _full_rate(self, count: int) -> float:
        """Post orders as fast as they are taken; gives how many a second were assessed, from the first to the last."""
        requests = [self._shop.single(order) for order in self._shop.orders.of_any(count)]
        load = await self._shop.load(self._shop.api, requests, CONNECTIONS)
        started = load.begin()
        await load.finished()
        await self._shop.assessed()
        return count / (time.monotonic() - started)

    def _note(self, name: str, measured: Milliseconds, late: list[float] | None = None) -> float:
        """Keep the median, and give the 99th percentile."""
        percentiles = statistics.quantiles(measured, n=100, method="inclusive")
        self.medians[name].append(percentiles[49])
        if late is not None:
            late.append(percentiles[98])
        return percentiles[98]


def latencies(at: Sequence[float], started: float, rate: float) -> Milliseconds:
    """From the instant that each was to be posted at, also where the post itself was late."""
    return [(instant - started - place / rate) * 1_000 for place, instant in enumerate(at)]


class Watch:
    """Looks at the accounts of customers whose orders are under way, until each order is in its customer's totals."""

    def __init__(self, shop: Shop, customer_ids: Sequence[UUID], counts: dict[UUID, int]) -> None:
        self._shop = shop
        self._customer_ids = customer_ids
        self._counts = counts
        """How many orders each customer has when all that are under way are there."""

    @classmethod
    async def of(cls, shop: Shop, customer_ids: Sequence[UUID]) -> "Watch":
        """Take whose orders are to come, in the order of their posts; nothing is under way yet."""
        rows = await shop.database.fetch(COUNTS, shop.stack.tenant_id, list(set(customer_ids)))
        return cls(shop, customer_ids, {row["customer_id"]: row["order_count"] for row in rows})

    async def until_seen(self, started: float, rate: float) -> list[float]:
        """Give the instant at which each order was seen, by `time.monotonic`."""
        seen_at = [0.0] * len(self._customer_ids)
        under_way: defaultdict[UUID, deque[tuple[int, int]]] = defaultdict(deque)
        """Customer → the orders: the place of each, and the count that tells that it is there."""
        begun = seen = 0
        while seen < len(seen_at):
            due = min(len(seen_at), int((time.monotonic() - started) * rate) + 1)
            for place in range(begun, due):
                customer_id = self._customer_ids[place]
                self._counts[customer_id] += 1
                under_way[customer_id].append((place, self._counts[customer_id]))
            begun = max(begun, due)
            if under_way:
                rows = await self._shop.database.fetch(COUNTS, self._shop.stack.tenant_id, list(under_way))
                now = time.monotonic()
                for customer_id, count in rows:
                    waiting = under_way[customer_id]
                    while waiting and waiting[0][1] <= count:
                        seen_at[waiting.popleft()[0]] = now
                        seen += 1
                    if not waiting:
                        del under_way[customer_id]
            await asyncio.sleep(LOOK_SECONDS)
        return seen_at
