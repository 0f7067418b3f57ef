"""A real worker meets a large backlog, of lapsed memberships or of anniversaries, and stays small."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import aiohttp
import asyncpg
import psutil
import pytest

from tallymarks import limits
from tallymarks.broker import Broker, Topology
from tallymarks.database import Database
from tallymarks.messages import read_events
from tallymarks.service import utc_now
from tallymarks_local.servers import free_ports
from tests.integration.pipeline.parts import SCRIPTS, count, drain, insert_lapsed, join
from tests.parts import PATIENCE_SECONDS, Tenant

BACKLOG = int(os.environ.get("TALLYMARKS_TEST_BACKLOG", "200000"))
ANNIVERSARIES = BACKLOG // 5
GROWTH_BYTES_MAX = 100 * 1024 * 1024


@asynccontextmanager
async def running_worker(
    name: str, database_url: str, amqp_url: str, topology: Topology
) -> AsyncIterator[psutil.Process]:
    """The worker as a process, ready; it must end well when it is told to."""
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        SCRIPTS / f"tallymarks-{name}",
        env={
            **os.environ,
            "TALLYMARKS_DATABASE_URL": database_url,
            "TALLYMARKS_AMQP_URL": amqp_url,
            "TALLYMARKS_TOPOLOGY_PREFIX": topology.prefix,
            "TALLYMARKS_PARTITIONS": str(topology.partitions),
            "TALLYMARKS_PORT": str(port),
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_SECONDS):
            while not await is_ready(session, port):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield psutil.Process(process.pid)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def is_ready(session: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with session.get(f"http://127.0.0.1:{port}/health/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_large_backlog_is_removed_at_a_bounded_memory_and_transaction_size(
    database_url: str, amqp_url: str, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, topology: Topology
) -> None:
    async with running_worker("segment-expiry", database_url, amqp_url, topology) as worker:
        at_start = worker.memory_info().rss
        await insert_lapsed(owner, tenant.tenant_id, datetime.now(UTC), BACKLOG)
        largest = at_start
        while await owner.fetchval(
            "SELECT EXISTS (SELECT FROM segment_memberships) OR EXISTS (SELECT FROM outbox)", timeout=60
        ):
            largest = max(largest, worker.memory_info().rss)
            await asyncio.sleep(0.05)
    print(f"{BACKLOG} lapsed memberships: grew by {(largest - at_start) / 1024**2:.0f} MiB")
    assert largest - at_start < GROWTH_BYTES_MAX
    assert await count(owner, "segment_lapses", tenant.tenant_id) == BACKLOG
    # xmin is the transaction that wrote a row.
    lots = await owner.fetch("SELECT count(*) FROM segment_lapses GROUP BY xmin")
    assert max(lot["count"] for lot in lots) <= limits.SWEEP_MEMBERSHIPS_MAX


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_one_day_of_many_anniversaries_is_published_at_a_bounded_memory_and_transaction_size(
    database_url: str, amqp_url: str, broker: Broker, database: Database, owner: asyncpg.Connection, tenant: Tenant,
    topology: Topology,
) -> None:  # fmt: skip
    joined_at = utc_now() - timedelta(days=400)
    for start in range(0, ANNIVERSARIES, 5_000):
        ids = [UUID(int=number, version=4) for number in range(start + 1, start + 5_001)]
        await join(database, tenant.tenant_id, ids, joined_at)
    async with running_worker("calendar", database_url, amqp_url, topology) as worker:
        largest = at_start = worker.memory_info().rss
        while await owner.fetchval(
            "SELECT EXISTS (SELECT FROM customers WHERE next_anniversary_at < $1) OR EXISTS (SELECT FROM outbox)",
            joined_at + timedelta(days=400),
            timeout=60,
        ):
            largest = max(largest, worker.memory_info().rss)
            await asyncio.sleep(0.05)
    print(f"{ANNIVERSARIES} anniversaries: grew by {(largest - at_start) / 1024**2:.0f} MiB")
    assert largest - at_start < GROWTH_BYTES_MAX
    lots = await owner.fetch("SELECT count(*) FROM customers GROUP BY xmin")
    assert max(lot["count"] for lot in lots) <= limits.CALENDAR_EVENTS_MAX
    messages = [
        read_events(message.body)
        for partition in range(topology.partitions)
        for message in await drain(broker, topology.events_queue(partition))
    ]
    published = [event.customer_id for message in messages for event in message.events]
    assert len(set(published)) == len(published) == ANNIVERSARIES
