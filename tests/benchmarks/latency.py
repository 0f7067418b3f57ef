"""How long it takes from the post of an order until its points are in the balance, at a quarter of the rate that api
and assessor can do; beside one confirm of the broker plus one commit of the database, which every way needs.

README.md beside this file says how it is measured.
"""

import asyncio
import statistics
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, islice
from typing import NamedTuple
from uuid import UUID

import asyncpg
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
MAKE_WATCH = """
CREATE PROCEDURE pg_temp.watch(seconds float8, INOUT noted text[]) LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => seconds);
BEGIN
    WHILE clock_timestamp() < until LOOP
        noted := noted || (pg_current_snapshot()::text || ':' || extract(epoch FROM clock_timestamp()));
        COMMIT;
        PERFORM pg_sleep(0.001);
    END LOOP;
END
$$
"""
WATCH = "CALL pg_temp.watch($1, '{}')"
TRANSACTIONS = """
SELECT event_id, xmin::text::bigint AS transaction FROM events WHERE tenant_id = $1 AND event_id = ANY($2::uuid[])
"""
CLOCK_SET_SECONDS = 0.001
WATCHED_AFTER_SECONDS = 1.5
"""From when the last order is due: until it has been seen."""
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
        self.full_rates: list[float] = []
        self.medians: defaultdict[str, list[float]] = defaultdict(list)
        self.answers_late: list[float] = []

    async def of_orders(self) -> float:
        """Find the full rate, and post at a part of it; gives the 99th percentile in milliseconds."""
        self.full_rates.append(await self._full_rate(self._plan.of(ORDERS_AT_FULL_RATE)))
        rate = self.full_rates[-1] / PART_OF_FULL_RATE
        customer_ids = islice(self._customers, self._plan.of(round(rate * SECONDS_AT_A_PART)))
        orders = [self._shop.orders.of(customer_id) for customer_id in customer_ids]
        load = await self._shop.load(self._shop.api, list(map(self._shop.single, orders)), CONNECTIONS, rate)
        watch = Watch(self._shop)
        async with watch.watching(len(orders) / rate + WATCHED_AFTER_SECONDS):
            started = load.begin()
            answers = await load.finished()
        seen_at = await watch.seen_at([UUID(str(order["eventId"])) for order in orders])
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


class Look(NamedTuple):
    """What a statement would have seen at an instant: the transactions before `beyond`, but not those under way."""

    at: float
    """By the clock of the machine, just after."""
    beyond: int
    under_way: frozenset[int]

    @classmethod
    def of(cls, noted: str) -> "Look":
        """Read what `watch` notes: a snapshot as PostgreSQL writes it, and the instant."""
        _, beyond, under_way, at = noted.split(":")
        return cls(float(at), int(beyond), frozenset(map(int, filter(None, under_way.split(",")))))

    def sees(self, transaction: int) -> bool:
        """Tell whether what the transaction has written was there to be read."""
        return transaction < self.beyond and transaction not in self.under_way


class Watch:
    """Looks again and again which transactions are committed; when each order's was is found out afterwards.

    It looks from within the server: so a look costs next to nothing, however many orders are under way.
    """

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._looks: Sequence[Look] = ()
        self._ahead = 0.0
        """Of the machine's clock, by which looks are noted, before the one that never steps: seconds."""

    @asynccontextmanager
    async def watching(self, seconds: float) -> AsyncIterator[None]:
        """Look for so long; what comes back is left no sooner."""
        connection = await asyncpg.connect(self._shop.database_url)
        try:
            await connection.execute(MAKE_WATCH)
            self._ahead = time.time() - time.monotonic()
            watching = asyncio.create_task(connection.fetchval(WATCH, seconds))
            try:
                yield
                self._looks = [Look.of(noted) for noted in await watching]
            finally:
                watching.cancel()
        finally:
            connection.terminate()

    async def seen_at(self, event_ids: Sequence[UUID]) -> list[float]:
        """Give when each event's points were in the balance, which its transaction writes too: by `time.monotonic`.

        Raises:
            RuntimeError: the events were not all assessed before the last look, or the clock was set meanwhile.
        """
        rows = await self._shop.database.fetch(TRANSACTIONS, self._shop.stack.tenant_id, event_ids)
        transactions = {row["event_id"]: row["transaction"] for row in rows}
        if abs(time.time() - time.monotonic() - self._ahead) > CLOCK_SET_SECONDS:
            raise RuntimeError("the machine's clock was set while orders were under way")
        at: dict[int, float] = {}
        waiting = sorted(set(transactions.values()))
        for look in self._looks:
            seen = set(filter(look.sees, waiting[: bisect_left(waiting, look.beyond)]))
            at.update(dict.fromkeys(seen, look.at - self._ahead))
            waiting = [transaction for transaction in waiting if transaction not in seen]
        if waiting or len(transactions) < len(event_ids):
            raise RuntimeError("not all orders were seen")
        return [at[transactions[event_id]] for event_id in event_ids]
