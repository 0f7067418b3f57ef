"""How much one api process takes in and answers: batches of events, single orders, and balances, each beside the least
that a program with the same libraries can do with the same requests.

README.md beside this file says how it is measured.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from uuid import UUID

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

from tallymarks.limits import BATCH_EVENTS_MAX
from tallymarks.messages import read_events
from tallymarks.settings import Settings
from tests.acceptance.installation import API
from tests.benchmarks import bare
from tests.benchmarks.client import SEPARATOR
from tests.benchmarks.frame import Plan, Report, Row, in_turn, say
from tests.benchmarks.ground import Ground
from tests.benchmarks.load import Order, bodies
from tests.benchmarks.profiles import top_ten
from tests.benchmarks.shop import CONNECTIONS, Server, Shop

BATCHES = 40
BATCHES_AT_ONCE = 4
VALIDATION_PASSES = 5
"""Pydantic alone is so much faster that it reads the same bodies so often."""
SINGLES = 12_000
BALANCES = 12_000
WARM_UP = 10
"""This part of a round is sent before the first, and not measured."""
POOL_SIZE: int = Settings.model_fields["database_pool_size"].default
ACCOUNTS = "SELECT customer_id, balance FROM accounts WHERE tenant_id = $1"
ARRIVAL_TIMEOUT_SECONDS = 60.0


async def measure(ground: Ground, plan: Plan) -> Report:
    """Measure batches, single orders and balances."""
    async with counter_on(ground) as counter:
        await counter.warm_up(plan)
        batches, validated = await in_turn(
            plan,
            "events/s",
            {
                "api, batches": lambda: counter.batches(plan.of(BATCHES)),
                "pydantic": counter.validated,
            },
        )
        singles, same_singles = await in_turn(
            plan,
            "requests/s",
            {
                "api, single orders": lambda: counter.singles(plan.of(SINGLES)),
                "bare aiohttp, validating": counter.same_singles,
            },
        )
        balances, bare_balances = await in_turn(
            plan,
            "requests/s",
            {
                "api, balances": lambda: counter.balances(plan.of(BALANCES), counter.shop.api),
                "bare aiohttp, one fetch": lambda: counter.balances(plan.of(BALANCES), counter.bare),
            },
        )
        notes = [note async for note in counter.profiles(plan)] if plan.profile else []
        return Report(
            rows=[
                Row(f"accepted, {BATCH_EVENTS_MAX:,} events a request", batches, validated, at_least=0.3),
                Row(f"single orders accepted, {CONNECTIONS} connections", singles, same_singles, at_least=0.6),
                Row(f"balances answered, {CONNECTIONS} connections", balances, bare_balances, at_least=0.7),
            ],
            besides=counter.shop.processor_time,
            notes=notes,
        )


@asynccontextmanager
async def counter_on(ground: Ground) -> AsyncIterator["Counter"]:
    """Start an api, with nobody to assess what it takes in, and the bare server on the same database."""
    async with Shop.on(ground) as shop:
        await shop.stack.assessor.stop()
        async with bare.serving(shop.database_url, shop.stack.tenant_id, POOL_SIZE) as (pid, port):
            yield Counter(shop, Server("bare aiohttp", pid, port), ground.amqp_url)


class Counter:
    """Where orders are taken in, and balances answered; all that was taken in must be in the queue afterwards."""

    def __init__(self, shop: Shop, bare_server: Server, amqp_url: str) -> None:
        self.shop = shop
        self.bare = bare_server
        self._amqp_url = amqp_url
        self._random = Random(1)
        self._batches = shop.directory / "batches"
        self._batch_count = 0
        self._singles: Sequence[bytes] = ()

    async def warm_up(self, plan: Plan) -> None:
        """Send some of everything: connections, plans and caches are warm then."""
        say("  warming up")
        await self.batches(plan.of(BATCHES // WARM_UP), "")
        await self.singles(plan.of(SINGLES // WARM_UP), "")
        await self.same_singles("")
        for server in (self.shop.api, self.bare):
            await self.balances(plan.of(BALANCES // WARM_UP), server, "")

    async def batches(self, count: int, name: str = "batches") -> float:
        """Post new batches; gives the events a second."""
        orders = self.shop.orders.of_any(count * BATCH_EVENTS_MAX)
        requests = [self.shop.post("/api/v1/events", body) for body in bodies(orders, BATCH_EVENTS_MAX)]
        await asyncio.to_thread(self._batches.write_bytes, SEPARATOR.join(requests))
        self._batch_count = count
        answers = await self.shop.put(name, self.shop.api, requests, BATCHES_AT_ONCE)
        statuses = [result["status"] for body in answers.bodies for result in orjson.loads(body)["results"]]
        if statuses != [200] * len(orders):
            raise RuntimeError(f"{len(orders)} events were answered {set(statuses)}, {len(statuses)} in all")
        await self._arrived(orders)
        return len(orders) / answers.seconds

    async def validated(self) -> float:
        """Have pydantic read the bodies of the batches that were posted last; gives the events a second."""
        seconds, cpu_seconds = map(float, (await bare.ran("validate", self._batches, VALIDATION_PASSES)).split())
        read = self._batch_count * VALIDATION_PASSES
        self.shop.note("batches", "pydantic", cpu_seconds / read)
        return read * BATCH_EVENTS_MAX / seconds

    async def singles(self, count: int, name: str = "single orders") -> float:
        """Post new orders, each alone; gives the orders a second."""
        orders = self.shop.orders.of_any(count)
        self._singles = [self.shop.single(order) for order in orders]
        answers = await self.shop.put(name, self.shop.api, self._singles, CONNECTIONS)
        await self._arrived(orders)
        return count / answers.seconds

    async def same_singles(self, name: str = "single orders") -> float:
        """Post the orders that were posted last to the bare server; gives the orders a second."""
        answers = await self.shop.put(name, self.bare, self._singles, CONNECTIONS)
        return len(self._singles) / answers.seconds

    async def balances(self, count: int, server: Server, name: str = "balances") -> float:
        """Ask for balances of customers taken at random, all of which must be right; gives the answers a second."""
        rows = await self.shop.database.fetch(ACCOUNTS, self.shop.stack.tenant_id)
        asked = self._random.choices([(row["customer_id"], row["balance"]) for row in rows], k=count)
        requests = [self.shop.get(f"/api/v1/customers/{customer_id}/balance") for customer_id, _ in asked]
        answers = await self.shop.put(name, server, requests, CONNECTIONS)
        if [orjson.loads(body)["amount"] for body in answers.bodies] != [balance for _, balance in asked]:
            raise RuntimeError(f"{server.name} answered balances that are not those of the accounts")
        return count / answers.seconds

    async def profiles(self, plan: Plan) -> AsyncIterator[str]:
        """Tell where the time of an api goes with each kind of request alone, in a process of its own."""
        kinds: dict[str, Callable[[], Awaitable[float]]] = {
            "batches": lambda: self.batches(plan.of(BATCHES), ""),
            "single orders": lambda: self.singles(plan.of(SINGLES), ""),
            "balances": lambda: self.balances(plan.of(BALANCES), self.shop.api, ""),
        }
        for kind, send in kinds.items():
            say(f"  {kind} under the profiler")
            profile = self.shop.directory / "profile"
            api = self.shop.stack.installation.start(API, profile)
            await api.ready("broker", "database")
            self.shop.api = Server(API, api.pid, api.port)
            await send()
            await api.stop()
            yield top_ten(f"{API}, {kind}", profile)

    async def _arrived(self, orders: Sequence[Order]) -> None:
        """Take out of the queue what was posted, each once and nothing else: so it is as empty as before."""
        arrived: list[UUID] = []
        whole = asyncio.Event()

        async def take(message: AbstractIncomingMessage) -> None:
            arrived.extend(event.event_id for event in read_events(message.body).events)
            if len(arrived) >= len(orders):
                whole.set()

        async with await aio_pika.connect(self._amqp_url) as connection, connection.channel() as channel:
            queue = await channel.get_queue(self.shop.topology.events_queue(0))
            consumer = await queue.consume(take, no_ack=True)
            async with asyncio.timeout(ARRIVAL_TIMEOUT_SECONDS):
                await whole.wait()
            await queue.cancel(consumer)
            more = await queue.get(no_ack=True, fail=False)
        if more is not None or sorted(map(str, arrived)) != sorted(str(order["eventId"]) for order in orders):
            raise RuntimeError(f"{len(orders)} events were posted, and others are in the queue")
