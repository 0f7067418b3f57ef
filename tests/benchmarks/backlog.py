"""Queues that are filled while no assessor runs, and emptied by one: what an assessor does when it never waits."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import asyncpg
import psutil

from tallymarks import ledger, tenants
from tallymarks.database import Database
from tallymarks.limits import BATCH_EVENTS_MAX
from tallymarks.service import new_id, utc_now
from tallymarks.values import format_instant
from tests.acceptance.installation import API, ASSESSOR, Installation, ServiceProcess
from tests.benchmarks.ground import Ground, new_topology, settle
from tests.benchmarks.load import Order, Orders, bodies
from tests.benchmarks.profiles import top_ten
from tests.benchmarks.rules import ONE
from tests.parts import ApiClient

WARM_UP = 5
"""One part in so many of a round's events comes before what is measured: it meets cold caches."""
POLL_SECONDS = 0.25
"""How often the assessor is asked whether all are assessed; the rate does not depend on it."""
OK = 200

BATCHES = """
-- When each batch was begun, and how many orders it had. $2 is the instant of a round's events.
SELECT recorded_at, count(*) AS orders
FROM events
WHERE tenant_id = ANY($1) AND created_at = $2 AND event_type = 'order'
GROUP BY recorded_at
ORDER BY recorded_at
"""
WRITTEN = """
SELECT count(*) AS transactions, count(DISTINCT event_id) AS events, coalesce(sum(amount), 0)::bigint AS points
FROM transactions
WHERE tenant_id = ANY($1) AND created_at = $2
"""
BALANCES = "SELECT coalesce(sum(balance), 0)::bigint FROM accounts WHERE tenant_id = ANY($1)"


@dataclass(frozen=True)
class OfTenant:
    """A tenant with a rule, and who orders there."""

    tenant_id: UUID
    client: ApiClient
    rule_id: UUID
    orders: Orders


@dataclass(frozen=True)
class Request:
    """Orders that are posted together."""

    of_tenant: OfTenant
    orders: Sequence[Order]
    points: int
    """What they are worth."""


class Backlog:
    """Tenants, and an api that fills the queue with their orders; an assessor runs only while it is measured."""

    def __init__(
        self,
        installation: Installation,
        api: ServiceProcess,
        database: Database,
        owner: asyncpg.Connection,
        database_url: str,
        of_tenants: Sequence[OfTenant],
        request_size: int,
    ) -> None:
        self.installation = installation
        self.api = api
        self._database = database
        self._request_size = request_size
        self._random = Random(1)
        self.of_tenants = of_tenants
        self.database_url = database_url
        self.owner = owner
        """A superuser's connection, which sees the rows of all tenants."""
        self.round_at = utc_now().replace(microsecond=0)
        """The instant of the last round's events, which no other events have."""
        self._balances = 0
        self._known_ids: set[UUID] = set()
        self.cpu_microseconds: list[float] = []
        """What the assessor spent on an event, of each round."""
        self.profile: str | None = None
        """Where the time went, of the last round that was profiled."""

    @classmethod
    @asynccontextmanager
    async def on(
        cls,
        ground: Ground,
        *,
        customers: int,
        tenant_count: int = 1,
        request_size: int = BATCH_EVENTS_MAX,
        explained: bool = False,
    ) -> AsyncIterator["Backlog"]:
        """Make a database, tenants with so many customers each, and their rules; all is taken away at the end."""
        async with AsyncExitStack() as exit_stack:
            database_url = await exit_stack.enter_async_context(ground.database())
            installation = await exit_stack.enter_async_context(
                ground.installation(database_url, new_topology(), EXPLANATIONS=str(explained))
            )
            database = Database(database_url, pool_size=2, application_name="benchmark")
            await database.open()
            exit_stack.push_async_callback(database.close)
            owner = await asyncpg.connect(database_url)
            exit_stack.push_async_callback(owner.close)
            api = installation.start(API)
            await api.ready("broker", "database")
            of_tenants = [
                await _made_tenant(installation, database, api, Orders(customers, seed=number))
                for number in range(1, tenant_count + 1)
            ]
            yield cls(installation, api, database, owner, database_url, of_tenants, request_size)

    @property
    def tenant_ids(self) -> list[UUID]:
        """The tenants."""
        return [tenant.tenant_id for tenant in self.of_tenants]

    async def measure(self, events: int, *, settled: bool = True, profiled: bool = False) -> float:
        """Fill the queue with orders, let an assessor empty it; gives the events a second that it assessed.

        Args:
            events: how many orders.
            settled: whether PostgreSQL analyzes its tables and writes a checkpoint before.
            profiled: whether to note where the assessor's time goes, at the cost of its speed.

        Raises:
            RuntimeError: the ledger does not hold each event once.
        """
        self.round_at += timedelta(seconds=1)
        self._balances = await self.owner.fetchval(BALANCES, self.tenant_ids)
        count = points = 0
        while count < events:
            request = self.make(events - count)
            await self.post(request)
            count += len(request.orders)
            points += request.points
        if settled:
            await settle(self.database_url)
        with tempfile.TemporaryDirectory(prefix="tallymarks-bench-") as directory:
            profile = Path(directory) / "profile" if profiled else None
            assessor = self.installation.start(ASSESSOR, profile)
            await assessor.ready()
            before = cpu_seconds(assessor)
            while await assessor.metric("tallymarks_events_assessed") < count:
                await asyncio.sleep(POLL_SECONDS)
            self.cpu_microseconds.append((cpu_seconds(assessor) - before) / count * 1e6)
            await assessor.stop()
            self.profile = None if profile is None else top_ten(ASSESSOR, profile)
        await self.check(count, points)
        batches = await self.owner.fetch(BATCHES, self.tenant_ids, self.round_at)
        return rate_of([(batch["recorded_at"], batch["orders"]) for batch in batches], count)

    def make(self, count_max: int = BATCH_EVENTS_MAX) -> Request:
        """Make the orders of one request, of a tenant taken at random."""
        of_tenant = self._random.choice(self.of_tenants)
        before = of_tenant.orders.points
        orders = of_tenant.orders.of_any(min(self._request_size, count_max))
        for order in orders:
            order["createdAt"] = format_instant(self.round_at)
        return Request(of_tenant, orders, of_tenant.orders.points - before)

    async def post(self, request: Request) -> None:
        """Post one request; its customers exist then.

        Raises:
            RuntimeError: not all of them were taken in.
        """
        tenant_id = request.of_tenant.tenant_id
        customer_ids = {UUID(str(order["customerId"])) for order in request.orders} - self._known_ids
        if customer_ids:
            async with self._database.transaction(tenant_id) as connection:
                await ledger.create_missing_customers(connection, tenant_id, customer_ids, utc_now())
            self._known_ids |= customer_ids
        (body,) = bodies(request.orders, len(request.orders))
        answered = await request.of_tenant.client.call("POST", "/api/v1/events", raw=body)
        if answered.status != OK or {result["status"] for result in answered.body["results"]} != {OK}:
            raise RuntimeError(f"the orders were refused: {answered.body}")

    async def check(self, count: int, points: int) -> None:
        """Hold what was written of the round's orders against what was posted.

        Raises:
            RuntimeError: the ledger does not hold each of them once.
        """
        written = await self.owner.fetchrow(WRITTEN, self.tenant_ids, self.round_at)
        moved = await self.owner.fetchval(BALANCES, self.tenant_ids) - self._balances
        if written is None or (*written, moved) != (count, count, points, points):
            raise RuntimeError(f"{count} events of {points} points were posted; written: {written}, moved: {moved}")


async def _made_tenant(installation: Installation, database: Database, api: ServiceProcess, orders: Orders) -> OfTenant:
    key = await tenants.create_tenant(database, "Benchmark", now=utc_now(), new_id=new_id)
    client = installation.client(api, key)
    answered = await client.post("/api/v1/admin/rules", ONE[0])
    if answered.status != OK:
        raise RuntimeError(f"the rule was refused: {answered.body}")
    return OfTenant(key.tenant_id, client, UUID(answered.body["ruleId"]), orders)


def cpu_seconds(service: ServiceProcess) -> float:
    """Give the processor time that a service has had so far."""
    return sum(psutil.Process(service.pid).cpu_times()[:2])


def rate_of(batches: Sequence[tuple[datetime, int]], count: int) -> float:
    """Give the events a second from when the first batch after the warming up was begun until when the last one was.

    A batch's rows tell the instant at which it was begun, so nothing has to watch; the last one's own events, of which
    no end is known, are left out. Of each batch are given that instant, and how many events it had.

    Raises:
        RuntimeError: there are too few batches to tell.
    """
    seen = first = 0
    while seen < count / WARM_UP and first < len(batches) - 2:
        seen += batches[first][1]
        first += 1
    measured = batches[first:-1]
    if not measured:
        raise RuntimeError(f"{count} events are too few to tell a rate: {len(batches)} batches")
    seconds = (batches[-1][0] - batches[first][0]).total_seconds()
    return sum(orders for _, orders in measured) / seconds
