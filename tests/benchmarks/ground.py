"""What benchmarks stand on: one PostgreSQL and one RabbitMQ, a database for each that needs one, and services."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aio_pika
import aiohttp
import asyncpg

from tallymarks.broker import Topology
from tests.acceptance.installation import Installation
from tests.servers import ServersOfRun, copy_database, drop_database


@dataclass(frozen=True)
class Ground:
    """The servers, which all benchmarks share."""

    server_url: str
    """A superuser's address of PostgreSQL."""
    amqp_url: str
    template: str
    """A migrated database to be copied."""

    @classmethod
    async def of(cls, servers: ServersOfRun) -> "Ground":
        """Start the servers of the run, or take those that the environment names."""
        return cls(
            await asyncio.to_thread(servers.postgres_url),
            await asyncio.to_thread(servers.amqp_url),
            await asyncio.to_thread(servers.template_database),
        )

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Make a migrated database that is dropped at the end; gives its address."""
        name = f"bench_{uuid4().hex[:12]}"
        try:
            yield await copy_database(self.server_url, self.template, name)
        finally:
            await drop_database(self.server_url, name)

    @asynccontextmanager
    async def installation(self, database_url: str, topology: Topology, **settings: str) -> AsyncIterator[Installation]:
        """Give an installation to start services in, with such settings; they are stopped, and their queues deleted.

        Raises:
            RuntimeError: a service ended with another exit code than 0; its log is printed.
        """
        own = {
            "DATABASE_URL": database_url,
            "AMQP_URL": self.amqp_url,
            "TOPOLOGY_PREFIX": topology.prefix,
            "PARTITIONS": str(topology.partitions),
        }
        async with AsyncExitStack() as exit_stack:
            logs = Path(exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="tallymarks-bench-")))
            session = await exit_stack.enter_async_context(aiohttp.ClientSession())
            exit_stack.push_async_callback(delete_queues, self.amqp_url, topology)
            installation = Installation({**own, **settings}, logs, session)
            try:
                yield installation
            finally:
                failed = {name: code for name, code in (await installation.stop()).items() if code}
                if failed:
                    for service in installation.services:
                        print(f"--- {service.log.name}\n{service.log.read_text()}", file=sys.stderr)
            if failed:
                raise RuntimeError(f"services failed: {failed}")


def new_topology(partitions: int = 1) -> Topology:
    """Name queues that nobody else has."""
    return Topology(f"bench-{uuid4().hex[:12]}", partitions)


async def settle(database_url: str) -> None:
    """Have PostgreSQL look at its tables and write what is waiting, so that no measurement pays for another."""
    database = await asyncpg.connect(database_url)
    try:
        await database.execute("ANALYZE")
        await database.execute("CHECKPOINT")
    finally:
        await database.close()


async def delete_queues(amqp_url: str, topology: Topology) -> None:
    """Leave nothing behind on a broker that may be somebody's."""
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        queues = [topology.events_queue(partition) for partition in range(topology.partitions)]
        for queue in (*queues, topology.dead_letters):
            await channel.queue_delete(queue)
        for exchange in (topology.events_exchange, topology.notifications_exchange, topology.dead_letters):
            await channel.exchange_delete(exchange)
