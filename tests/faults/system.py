"""What the faults happen to: the services as processes, with a proxy between each of them and each server."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aio_pika
import aiohttp
import asyncpg

from tallymarks.broker import Topology
from tallymarks.database import Database
from tallymarks.service import new_id, utc_now
from tallymarks.tenants import CreatedApiKey, create_tenant
from tallymarks_local.postgres import PostgresServer
from tallymarks_local.rabbitmq import RabbitmqNode, find_server_script, rabbitmq_server
from tallymarks_local.servers import LocalServerError, running, wait_until_ready
from tests.acceptance.installation import API, SERVICES, Installation, ServiceProcess
from tests.faults.check import Findings, findings, stored
from tests.faults.record import Outcome, Record
from tests.faults.workload import Workload
from tests.parts import ApiClient, credentials, until
from tests.proxy import Proxy, proxy_to

CLIENT = "client"
BROKER, DATABASE = "broker", "database"
DATABASE_NAME = "tallymarks"
# As an operator has it: a test's installation waits longer for its confirms.
CONFIRM_TIMEOUT_SECONDS = "5"
PARTITIONS = 2
INSIDE = Path(__file__).with_name("inside")
RECOVERY_SECONDS = 90.0
"""How long it may take after a fault until more is assessed and every service is ready, by themselves."""
LOOK_SECONDS = 0.25


class FaultyInstallation(Installation):
    """An installation whose services find a clock that can be stepped, and faults of their own (`inside`)."""

    def __init__(self, settings: dict[str, str], logs: Path, session: aiohttp.ClientSession) -> None:
        super().__init__(settings, logs, session)
        self.clock_file = logs / "clock"

    def environment(self, **settings: str | None) -> dict[str, str]:
        """The environment of a process, in which `inside` is loaded before the service."""
        inside = {"PYTHONPATH": str(INSIDE), "TALLYMARKS_TEST_CLOCK_FILE": str(self.clock_file)}
        return super().environment(**settings) | inside


@dataclass
class System:
    """Services, proxies and, where they are this run's own, the servers."""

    installation: FaultyInstallation
    database: Database
    owner_url: str
    topology: Topology
    proxies: Mapping[tuple[str, str], Proxy]
    directory: Path
    """For the logs, and for whatever else a case starts."""
    postgres: PostgresServer | None = None
    rabbitmq: RabbitmqNode | None = None
    services: dict[str, ServiceProcess] = field(default_factory=dict)

    def start(self, name: str) -> ServiceProcess:
        """Start another process of a service, through its proxies."""
        return self.installation.start(
            name, DATABASE_URL=self.proxies[name, DATABASE].url, AMQP_URL=self.proxies[name, BROKER].url
        )

    async def tenant(self) -> tuple[CreatedApiKey, ApiClient]:
        """Make a tenant; gives its key and a client that comes to the api through its proxy."""
        key = await create_tenant(self.database, "Faults", now=utc_now(), new_id=new_id)
        client = self.installation.client(self.services[API], key)
        return key, ApiClient(client.session, self.proxies[CLIENT, API].url, credentials(key))

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
        """A channel of the tests' own, for looking at the broker and for breaking it."""
        async with (
            await aio_pika.connect(self.proxies[CLIENT, BROKER].url) as connection,
            connection.channel() as channel,
        ):
            yield channel

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection."""
        connection = await asyncpg.connect(self.owner_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def dead_letters(self) -> int:
        """How many letters the dead-letter queue holds that nobody looks at."""
        async with self.channel() as channel:
            queue = await channel.declare_queue(self.topology.dead_letters, passive=True)
            return queue.declaration_result.message_count or 0

    async def ready(self) -> None:
        """Wait until every service says that it is ready, with nobody's help."""
        api, *workers = (self.services[name] for name in SERVICES)
        await asyncio.gather(api.ready(BROKER, DATABASE), *(worker.ready() for worker in workers))

    async def start_again(self, server: PostgresServer | RabbitmqNode) -> None:
        """Start a server that was stopped, and wait until it is there."""
        server.start()
        await asyncio.to_thread(wait_until_ready, server)
        if isinstance(server, RabbitmqNode):
            # It has another port each time.
            self.lead_to_broker(server.url)

    def lead_to_broker(self, *urls: str) -> None:
        """Lead everyone's new connections to this broker; of several nodes, to the first that is there."""
        for (_, part), proxy in self.proxies.items():
            if part == BROKER:
                proxy.lead_to(*urls)

    async def mended(self) -> None:
        """Start again what a trial has left broken, so that the next one has a system to begin with."""
        for proxy in self.proxies.values():
            proxy.release()
            proxy.delay_seconds = 0
        self.installation.clock_file.unlink(missing_ok=True)
        for server in (self.postgres, self.rabbitmq):
            if server is not None and server.exit_reason() is not None:
                await self.start_again(server)
        for service in self.services.values():
            if not service.is_running:
                service.start_again()

    async def settle(self, workload: Workload, key: CreatedApiKey, random: Random) -> Findings:
        """Wait until what the clients know to be accepted is assessed; then compare."""
        await self.ready()
        await workload.mark(random)
        return await self.compared(workload.record, key)

    async def compared(self, record: Record, key: CreatedApiKey) -> Findings:
        """Wait until all that was accepted is assessed, or until for long nothing more was; then compare."""
        async with self.owner() as owner:
            most, since = -1, time.monotonic()
            # What has not come by then is found to be lost.
            while time.monotonic() - since < RECOVERY_SECONDS:
                assessed, is_all = await count_assessed(owner, key, record)
                if is_all:
                    break
                if assessed > most:
                    most, since = assessed, time.monotonic()
                await asyncio.sleep(LOOK_SECONDS)
            return findings(record, await stored(owner, key.tenant_id))

    async def drained(self) -> bool:
        """Wait until nothing is left in the events queues, or for long; tells whether nothing is."""

        async def is_empty() -> bool:
            async with self.channel() as channel:
                names = [self.topology.events_queue(partition) for partition in range(self.topology.partitions)]
                queues = [await channel.declare_queue(name, passive=True) for name in names]
            return not any(queue.declaration_result.message_count for queue in queues)

        try:
            await until(is_empty, RECOVERY_SECONDS)
        except TimeoutError:
            return False
        return True

    async def verified(self, key: CreatedApiKey) -> bool:
        """Whether `tallymarks ledger verify` finds nothing."""
        ran = await self.installation.command("ledger", "verify", "--tenant-id", str(key.tenant_id))
        return ran.exit_code == 0


async def count_assessed(owner: asyncpg.Connection, key: CreatedApiKey, record: Record) -> tuple[int, bool]:
    """Count the accepted events that are assessed; tell whether all are, and nothing waits in the outbox."""
    accepted = [sent.event_id for sent in record.of(Outcome.ACCEPTED)]
    assessed: int = await owner.fetchval(
        "SELECT count(*) FROM events WHERE tenant_id = $1 AND event_id = ANY($2::uuid[]) AND assessed_at IS NOT NULL",
        key.tenant_id,
        accepted,
    )
    is_all = assessed == len(accepted) and not await owner.fetchval("SELECT count(*) FROM outbox")
    return assessed, is_all


@asynccontextmanager
async def system_on(
    database_url: str, amqp_url: str, topology_prefix: str, logs: Path, *, shows_logs: bool = False
) -> AsyncIterator[System]:
    """One process of each service, ready, on servers that run; each must stop gracefully at the end."""
    async with AsyncExitStack() as stack:
        # The tests' own: the broker has another port after each start.
        to_broker = await stack.enter_async_context(proxy_to(amqp_url))
        settings = {
            "DATABASE_URL": database_url,
            "AMQP_URL": to_broker.url,
            "TOPOLOGY_PREFIX": topology_prefix,
            "PARTITIONS": str(PARTITIONS),
            "CONFIRM_TIMEOUT_SECONDS": CONFIRM_TIMEOUT_SECONDS,
        }
        session = await stack.enter_async_context(aiohttp.ClientSession())
        installation = FaultyInstallation(settings, logs, session)
        database = Database(database_url, pool_size=2, application_name="faults")
        await database.open()
        stack.push_async_callback(database.close)
        proxies = {
            (name, part): await stack.enter_async_context(proxy_to(url))
            for name in SERVICES
            for part, url in ((BROKER, amqp_url), (DATABASE, database_url))
        }
        topology = Topology(topology_prefix, PARTITIONS)
        system = System(installation, database, database_url, topology, proxies, logs)
        try:
            for name in SERVICES:
                system.services[name] = system.start(name)
            to_api = await stack.enter_async_context(proxy_to(system.services[API].url))
            system.proxies = {**proxies, (CLIENT, API): to_api, (CLIENT, BROKER): to_broker}
            await system.ready()
            yield system
        finally:
            codes = await installation.stop()
            if shows_logs:
                installation.show_logs()
        if set(codes.values()) - {0}:
            raise RuntimeError(f"services did not stop gracefully: {codes}")


@asynccontextmanager
async def private_system(directory: Path) -> AsyncIterator[System]:
    """A system on servers of its own, which may be stopped.

    Raises:
        LocalServerError: RabbitMQ is neither installed here nor can it be.
    """
    if find_server_script() is None and not isinstance(rabbitmq_server(directory / "rabbitmq", print), RabbitmqNode):
        raise LocalServerError("The faults need an installed rabbitmq-server: a container takes no orders.")
    script = find_server_script()
    if script is None:
        raise LocalServerError("The faults need an installed rabbitmq-server.")
    postgres = PostgresServer(directory / "postgres", {"max_connections": "200"})
    logs = new_directory(directory / "logs")
    with running(postgres), running(RabbitmqNode(directory / "rabbitmq", script)) as rabbitmq:
        url = await migrated_database(postgres, DATABASE_NAME, logs)
        async with system_on(url, rabbitmq.url, f"faults-{os.getpid()}", logs) as system:
            system.postgres, system.rabbitmq = postgres, rabbitmq
            yield system


def new_directory(directory: Path) -> Path:
    """Make a directory for logs."""
    directory.mkdir(mode=0o755)
    return directory


async def migrated_database(postgres: PostgresServer, name: str, logs: Path) -> str:
    """Make a database with the schema; gives its address.

    Raises:
        LocalServerError: it cannot be migrated.
    """
    postgres.create_database(name)
    url = postgres.url(name)
    async with aiohttp.ClientSession() as session:
        ran = await Installation({"DATABASE_URL": url}, logs, session).command("migrate")
    if ran.exit_code != 0:
        raise LocalServerError(f"The database cannot be migrated: {ran.errors}")
    return url
