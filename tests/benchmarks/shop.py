"""A shop that calls the api: services on a database of their own, a tenant with one rule, customers who have ordered,
and requests whose answers are checked.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import orjson
import psutil

from tallymarks.broker import Topology
from tests.acceptance.installation import Stack, start_stack
from tests.benchmarks.client import Answers, Load, request_bytes
from tests.benchmarks.frame import Figures, say
from tests.benchmarks.ground import Ground, new_topology, settle
from tests.benchmarks.load import Order, Orders
from tests.benchmarks.rules import ONE

CUSTOMERS = 500
CONNECTIONS = 64
ASSESSED = "SELECT coalesce(sum(order_count), 0)::bigint FROM accounts WHERE tenant_id = $1"
POLL_SECONDS = 0.02
DUPLICATES_UNKNOWN = b"duplicates are not looked up"
"""What the api logs when it leaves out a part of its work for a while: what is measured then is not the api."""


@dataclass(frozen=True)
class Server:
    """A process that answers."""

    name: str
    pid: int
    port: int


class Shop:
    """What calls the api, and what it knows of it."""

    def __init__(
        self, stack: Stack, topology: Topology, database_url: str, database: asyncpg.Connection, directory: Path
    ) -> None:
        self.stack = stack
        self.topology = topology
        self.database_url = database_url
        self.database = database
        """A superuser's connection."""
        self.directory = directory
        """For files of one round."""
        self.orders = Orders(CUSTOMERS)
        self.api = Server("api", stack.api.pid, stack.api.port)
        self._cpu: dict[tuple[str, str], list[float]] = {}

    @classmethod
    @asynccontextmanager
    async def on(cls, ground: Ground) -> AsyncIterator["Shop"]:
        """Start the services, and have every customer order once: points are there, and everything is warm."""
        topology = new_topology()
        async with AsyncExitStack() as exit_stack:
            database_url = await exit_stack.enter_async_context(ground.database())
            installation = await exit_stack.enter_async_context(ground.installation(database_url, topology))
            say("  starting the services")
            stack = await start_stack(installation, await installation.create_tenant("Benchmark"))
            database = await asyncpg.connect(database_url)
            exit_stack.push_async_callback(database.close)
            directory = exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="tallymarks-bench-"))
            shop = cls(stack, topology, database_url, database, Path(directory))
            for rule in ONE:
                if (answered := await stack.client.post("/api/v1/admin/rules", rule)).status != 200:
                    raise RuntimeError(f"the rule was refused: {answered.body}")
            await shop.put("", shop.api, [shop.single(order) for order in shop.orders.of_all()], CONNECTIONS)
            await shop.assessed()
            yield shop

    def single(self, order: Order) -> bytes:
        """Give the request that posts an order alone."""
        return self.post("/api/v1/events/orders", orjson.dumps(order))

    def post(self, path: str, body: bytes) -> bytes:
        """Give a request that posts."""
        return request_bytes("POST", path, self.stack.client.headers, body)

    def get(self, path: str) -> bytes:
        """Give a request that asks."""
        return request_bytes("GET", path, self.stack.client.headers)

    async def load(
        self, server: Server, requests: Sequence[bytes], connections: int, rate: float | None = None
    ) -> Load:
        """Have a client ready, and the database quiet."""
        await settle(self.database_url)
        return await Load.prepared(self.directory, server.port, requests, connections, rate)

    async def put(self, name: str, server: Server, requests: Sequence[bytes], connections: int) -> Answers:
        """Put all requests, each connection busy, and wait for the answers, all of which are 200.

        Processor time is noted under the name, where there is one.
        """
        load = await self.load(server, requests, connections)
        before = cpu_seconds(server.pid)
        load.begin()
        answers = await load.finished()
        if name:
            self.note(name, server.name, (cpu_seconds(server.pid) - before) / len(requests))
            self.note(name, f"client of {server.name}", answers.cpu_seconds / len(requests))
        if server is self.api and DUPLICATES_UNKNOWN in await asyncio.to_thread(self.stack.api.log.read_bytes):
            raise RuntimeError("the api stopped looking up duplicates")
        return answers

    async def assessed(self) -> None:
        """Wait until all orders so far are in the totals, which the transaction that writes the ledger writes too."""
        while await self.database.fetchval(ASSESSED, self.stack.tenant_id) != self.orders.made:
            await asyncio.sleep(POLL_SECONDS)

    def note(self, name: str, process: str, seconds: float) -> None:
        """Note what a process has spent on one request."""
        self._cpu.setdefault((name, process), []).append(seconds * 1e6)

    @property
    def processor_time(self) -> list[Figures]:
        """What was noted."""
        return [
            Figures(f"{name}: {process}", "µs processor/request", rounds)
            for (name, process), rounds in self._cpu.items()
        ]


def cpu_seconds(pid: int) -> float:
    """What a process has spent of the processor so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
