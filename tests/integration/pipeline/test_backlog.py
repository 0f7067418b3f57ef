"""A real worker meets a large backlog of lapsed memberships, and stays small."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import asyncpg
import psutil
import pytest

from tallymarks import limits
from tallymarks.broker import Broker, Topology
from tallymarks_local.servers import free_ports
from tests.integration.pipeline.parts import SCRIPTS, count, insert_lapsed
from tests.parts import Tenant

BACKLOG = int(os.environ.get("TALLYMARKS_TEST_BACKLOG", "200000"))
GROWTH_BYTES_MAX = 100 * 1024 * 1024


@asynccontextmanager
async def running_worker(database_url: str, amqp_url: str, topology: Topology) -> AsyncIterator[psutil.Process]:
    """The worker as a process, ready; it must end well when it is told to."""
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        SCRIPTS / "tallymarks-segment-expiry",
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
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
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
    async with running_worker(database_url, amqp_url, topology) as worker:
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
