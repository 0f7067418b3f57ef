"""Fixtures that every layer shares: real servers, a fresh database and fresh queue names per test."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest

from tallymarks.broker import Broker, Topology
from tallymarks.credentials import Role
from tallymarks.database import DOORKEEPER_ROLE, Database
from tallymarks.outbox import relay
from tallymarks.service import listening, new_id
from tallymarks.settings import Settings
from tallymarks.tenants import create_api_key, create_tenant
from tallymarks_api.admission import Admission
from tallymarks_api.auth import Authenticator
from tallymarks_api.balances import Balances
from tallymarks_api.calls import Parts
from tallymarks_api.duplicates import Duplicates
from tallymarks_api.intake import Intake
from tallymarks_api.main import application
from tallymarks_assessor.assess import Assessor
from tallymarks_assessor.batches import Batches
from tests.parts import PATIENCE_SECONDS, ApiClient, Clock, Tenant, credentials
from tests.servers import ServersOfRun, copy_database, drop_database

SERVERS = pytest.StashKey[ServersOfRun]()


def pytest_configure(config: pytest.Config) -> None:
    """Name the directory that this run's processes share; no server is started yet."""
    config.stash[SERVERS] = ServersOfRun.open()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's servers when the run is over; a worker of pytest-xdist leaves that to the controller."""
    if not hasattr(config, "workerinput"):
        config.stash[SERVERS].stop()


@pytest.fixture(scope="session")
def postgres_url(pytestconfig: pytest.Config) -> str:
    """A superuser's address of the run's PostgreSQL server."""
    return pytestconfig.stash[SERVERS].postgres_url()


@pytest.fixture(scope="session")
def amqp_url(pytestconfig: pytest.Config) -> str:
    """The address of the run's RabbitMQ."""
    return pytestconfig.stash[SERVERS].amqp_url()


@pytest.fixture(scope="session")
def template_database(pytestconfig: pytest.Config) -> str:
    """The name of a migrated, empty database to copy."""
    return pytestconfig.stash[SERVERS].template_database()


@pytest.fixture
async def database_url(postgres_url: str, template_database: str) -> AsyncIterator[str]:
    """The address of a fresh, migrated database, dropped after the test."""
    name = f"test_{os.urandom(6).hex()}"
    yield await copy_database(postgres_url, template_database, name)
    await drop_database(postgres_url, name)


@pytest.fixture
def topology_prefix() -> str:
    """A fresh start for the names of exchanges and queues (the services take it from TALLYMARKS_TOPOLOGY_PREFIX)."""
    return f"test-{os.urandom(6).hex()}"


@pytest.fixture
def clock() -> Clock:
    """The time, which the test turns."""
    return Clock()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The database as the services see it."""
    database = Database(database_url, pool_size=20, application_name="test")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Database]:
    """The database as who looks for events that were taken in before sees it."""
    database = Database(database_url, pool_size=20, application_name="test door", role=DOORKEEPER_ROLE)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sees every row and may do anything: for looking behind the services' back."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def topology(topology_prefix: str) -> Topology:
    """The names of this test's exchanges and queues."""
    return Topology(topology_prefix, partitions=2)


@pytest.fixture
async def broker(amqp_url: str, topology: Topology) -> AsyncIterator[Broker]:
    """The broker, with this test's own exchanges and queues, which are deleted after it."""
    broker = Broker(amqp_url, topology, confirm_timeout_seconds=PATIENCE_SECONDS, name="test")
    await broker.open()
    yield broker
    channel = await broker.channel()
    for partition in range(topology.partitions):
        await channel.queue_delete(topology.events_queue(partition))
    await channel.queue_delete(topology.dead_letters)
    for exchange in (topology.events_exchange, topology.notifications_exchange, topology.dead_letters):
        await channel.exchange_delete(exchange)
    await broker.close()


@pytest.fixture
async def tenant(database: Database, clock: Clock) -> Tenant:
    """A tenant with a key of each role."""
    admin = await create_tenant(database, "Test", now=clock(), new_id=new_id)
    integration = await create_api_key(database, admin.tenant_id, "integration", Role.INTEGRATION, clock())
    return Tenant(admin, integration)


@pytest.fixture
async def other_tenant(database: Database, clock: Clock) -> Tenant:
    """Another tenant, from whom everything must be kept."""
    admin = await create_tenant(database, "Other", now=clock(), new_id=new_id)
    integration = await create_api_key(database, admin.tenant_id, "integration", Role.INTEGRATION, clock())
    return Tenant(admin, integration)


@pytest.fixture
def assessor(database: Database, topology: Topology, clock: Clock) -> Assessor:
    """The assessor's core: hand it events, and their effect is in the database."""
    return Assessor(database, topology, now=clock, new_id=new_id)


@pytest.fixture
async def assessing(database: Database, broker: Broker, assessor: Assessor, clock: Clock) -> AsyncIterator[None]:
    """An assessor and an outbox relay at work in this process."""
    stop, committed = asyncio.Event(), asyncio.Event()
    batches = Batches(database, broker.topology, assessor, now=clock, new_id=new_id, committed=committed)
    consuming = await broker.consume(batches.take)
    relaying = asyncio.create_task(relay(database, broker, committed))
    running = asyncio.create_task(batches.run(stop))
    yield
    stop.set()
    await running
    await consuming.close()
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)


@pytest.fixture
def admission() -> Admission:
    """What the api takes on: no rate is limited."""
    return Admission(None, time.monotonic)


@pytest.fixture
async def api_url(
    database: Database, door: Database, broker: Broker, clock: Clock, database_url: str, admission: Admission
) -> AsyncIterator[str]:
    """The address of an api in this process, on the test's servers and clock; no assessor runs."""
    intake = Intake(broker, Duplicates(door, time.monotonic), now=clock, new_id=new_id)
    parts = Parts(database, broker, intake, Balances(database), asyncio.Event(), now=clock, new_id=new_id)
    app = application(parts, Authenticator(database, time.monotonic), admission, database)
    async with listening(app, Settings(database_url=database_url), 0) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def api(api_url: str, tenant: Tenant) -> AsyncIterator[ApiClient]:
    """A client of the api with the tenant's admin key."""
    async with aiohttp.ClientSession() as session:
        yield ApiClient(session, api_url, credentials(tenant.admin))
