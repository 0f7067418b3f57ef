"""A part is away, or does not answer: what goes on, what is refused, and that everything counts once afterwards."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.service import new_id
from tallymarks_local.postgres import PostgresServer
from tallymarks_local.rabbitmq import RabbitmqContainer, RabbitmqNode, rabbitmq_server
from tallymarks_local.servers import running, wait_until_ready
from tests.acceptance.counting import (
    action,
    actions_of,
    assert_each_counted_once,
    connected,
    make_rules,
    order,
    points,
    post,
    post_batch,
    redemption,
    until_consumed,
    until_counted,
    until_met,
    until_taken,
    until_waiting_for_a_lock,
)
from tests.acceptance.installation import (
    API,
    ASSESSOR,
    SERVICES,
    Installation,
    Json,
    ServiceProcess,
    installed,
    start_stack,
)
from tests.parts import Answered, Tenant, until
from tests.proxy import Direction, Proxy, proxy_to

DATABASE = "tallymarks"
POINT: Json = {"type": "points", "amount": 1}
POINTS_PER_UNIT: Json = {"type": "pointsPerUnit", "rate": "1"}


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """A directory that the servers' own user can reach, which pytest's is not."""
    directory = Path(tempfile.mkdtemp(prefix="tallymarks-test-outage-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def postgres(server_directory: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server that this test alone uses, with an empty database: it may be stopped and started."""
    with running(PostgresServer(server_directory / "postgres")) as server:
        server.create_database(DATABASE)
        yield server


@pytest.fixture
def rabbitmq(server_directory: Path) -> Iterator[RabbitmqNode | RabbitmqContainer]:
    """A RabbitMQ node that this test alone uses."""
    with running(rabbitmq_server(server_directory / "rabbitmq", print)) as node:
        yield node


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    """A proxy to the run's broker."""
    async with proxy_to(amqp_url) as proxy:
        yield proxy


@pytest.fixture
async def private_installation(
    postgres: PostgresServer, amqp_url: str, topology_prefix: str, broker: Broker, tmp_path: Path
) -> AsyncIterator[Installation]:
    """An installation on the test's own PostgreSQL, migrated."""
    async with installed(postgres.url(DATABASE), amqp_url, topology_prefix, tmp_path) as installation:
        assert (await installation.command("migrate")).exit_code == 0
        yield installation


async def start_again(server: PostgresServer | RabbitmqNode | RabbitmqContainer) -> None:
    """Start a server that was stopped, and wait until it is there, while the test's own tasks go on."""
    server.start()
    await asyncio.to_thread(wait_until_ready, server)


def is_refused_for_now(answered: Answered) -> bool:
    return (
        answered.status == 503 and answered.body["code"] == "Unavailable" and int(answered.headers["Retry-After"]) > 0
    )


async def is_down(service: ServiceProcess, part: str) -> bool:
    return bool((await service.health()).body["parts"][part] == "down")


async def test_ingestion_goes_on_while_postgresql_is_away_and_all_events_count_once_afterwards(
    private_installation: Installation, postgres: PostgresServer
) -> None:
    stack = await start_stack(private_installation, await private_installation.create_tenant())
    client, customer_id = stack.client, new_id()
    await make_rules(client, action=POINT, order=POINTS_PER_UNIT)

    await asyncio.to_thread(postgres.stop)
    single = [action(customer_id), order(customer_id, "10"), points(customer_id, 100)]
    assert [(await post(client, event)).status for event in single] == [200, 200, 200]

    async def is_trusted_all_the_same() -> bool:
        assert [(await post(client, event)).status for event in single] == [200, 200, 200]
        return "a cached key is trusted while the database is away" in stack.api.log.read_text()

    # Until here the key was fresh.
    await until(is_trusted_all_the_same)
    batch = actions_of(customer_count=5, event_count=100)
    assert (await post_batch(client, batch)).status == 200
    assert is_refused_for_now(await post(client, redemption(customer_id, 1)))
    assert is_refused_for_now(await client.get(f"/api/v1/customers/{customer_id}/balance"))
    assert is_refused_for_now(await client.get("/api/v1/customers/events"))
    assert (await stack.api.health()).status == 200
    assert [(await worker.health()).status for worker in stack.workers] == [503, 503, 503]

    await start_again(postgres)
    async with connected(postgres.url(DATABASE)) as owner:
        await assert_each_counted_once(private_installation, client, owner, single + batch)
    assert (await post(client, redemption(customer_id, 1))).body["balance"] == 1 + 10 + 100
    await stack.ready()


async def test_services_stop_with_zero_while_postgresql_is_away_and_lose_nothing(
    private_installation: Installation, postgres: PostgresServer
) -> None:
    stack = await start_stack(private_installation, await private_installation.create_tenant())
    await make_rules(stack.client)
    await asyncio.to_thread(postgres.stop)
    events = actions_of(customer_count=5, event_count=300)
    assert (await post_batch(stack.client, events)).status == 200
    assert await asyncio.gather(*(service.stop() for service in stack.services)) == [0, 0, 0, 0]

    for service in stack.services:
        service.start_again()
    await start_again(postgres)
    await stack.api.ready("broker", "database")
    async with connected(postgres.url(DATABASE)) as owner:
        await assert_each_counted_once(private_installation, stack.client, owner, events)


async def test_services_that_were_started_before_their_servers_become_ready_when_these_are(
    private_installation: Installation, postgres: PostgresServer, proxy: Proxy, amqp_url: str
) -> None:
    key = await private_installation.create_tenant()
    await asyncio.to_thread(postgres.stop)
    proxy.lead_to("amqp://127.0.0.1:1/")
    api, *workers = services = [private_installation.start(name, AMQP_URL=proxy.url) for name in SERVICES]

    async def are_live() -> bool:
        return all([await service.answers() for service in services])

    await until(are_live)
    assert [(await service.health()).status for service in services] == [503, 503, 503, 503]
    assert is_refused_for_now(await private_installation.client(api, key).get("/api/v1/customers/events"))

    await start_again(postgres)
    proxy.lead_to(amqp_url)
    await asyncio.gather(api.ready("broker", "database"), *(worker.ready() for worker in workers))
    client = private_installation.client(api, key)
    await make_rules(client)
    events = actions_of(customer_count=2, event_count=10)
    assert (await post_batch(client, events)).status == 200
    async with connected(postgres.url(DATABASE)) as owner:
        await assert_each_counted_once(private_installation, client, owner, events)


async def test_reads_and_redemptions_go_on_while_the_broker_is_away_and_events_count_once_when_sent_again(
    rabbitmq: RabbitmqNode | RabbitmqContainer,
    database_url: str,
    tenant: Tenant,
    owner: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as exit_stack:
        # The node has another port each time it is started.
        proxy = await exit_stack.enter_async_context(proxy_to(rabbitmq.url))
        installation = await exit_stack.enter_async_context(installed(database_url, proxy.url, "private", tmp_path))
        stack = await start_stack(installation, tenant.admin)
        client, customer_id = stack.client, new_id()
        await make_rules(client, action=POINT, order=POINTS_PER_UNIT, redemption=POINT)
        earned = points(customer_id, 100)
        assert (await post(client, earned)).status == 200
        await until_counted(owner, stack.tenant_id, 1)

        await asyncio.to_thread(rabbitmq.stop)
        await until(partial(is_down, stack.api, "broker"))
        events = [action(customer_id), order(customer_id, "10"), points(customer_id, 5)]
        assert all([is_refused_for_now(await post(client, event)) for event in events])
        assert is_refused_for_now(await post_batch(client, events))
        assert (await client.get(f"/api/v1/customers/{customer_id}/balance")).body["amount"] == 100
        redeemed = redemption(customer_id, 60)
        assert (await post(client, redeemed)).body["pendingBalance"] == 40
        assert (await post(client, redemption(customer_id, 41))).body["code"] == "InsufficientPoints"
        assert (await stack.api.health()).status == 200
        assert (await stack.assessor.health()).status == 503

        await start_again(rabbitmq)
        proxy.lead_to(rabbitmq.url)
        await asyncio.gather(stack.api.ready("broker", "database"), stack.assessor.ready())
        for event in (*events, *events):
            assert (await post(client, event)).status in {200, 208}
        # The redemption's own transaction, and that of the rule that it was assessed by.
        await until_counted(owner, stack.tenant_id, 1 + len(events) + 2)
        counted = [earned["eventId"], *(event["eventId"] for event in events), *[redeemed["eventId"]] * 2]
        rows = await owner.fetch("SELECT event_id FROM transactions")
        assert sorted(str(row["event_id"]) for row in rows) == sorted(map(str, counted))
        assert (await installation.command("ledger", "verify")).exit_code == 0


@pytest.mark.parametrize("held", Direction)
async def test_an_event_whose_confirm_does_not_come_in_time_is_refused_and_counts_once_when_sent_again(
    installation: Installation, tenant: Tenant, owner: asyncpg.Connection, proxy: Proxy, held: Direction
) -> None:
    api = installation.start(API, AMQP_URL=proxy.url, CONFIRM_TIMEOUT_SECONDS="0.5")
    assessor = installation.start(ASSESSOR)
    await asyncio.gather(api.ready("broker", "database"), assessor.ready())
    client, customer_id = installation.client(api, tenant.admin), new_id()
    await make_rules(client)
    batch = actions_of(customer_count=5, event_count=100)
    single = action(customer_id)

    proxy.hold(held)
    assert is_refused_for_now(await post(client, single))
    assert is_refused_for_now(await post_batch(client, batch))
    proxy.release()

    await until_taken(client, [single, *batch])
    await assert_each_counted_once(installation, client, owner, [single, *batch])


async def test_a_connection_to_the_broker_that_breaks_during_a_batch_comes_back_and_each_event_counts_once(
    installation: Installation, tenant: Tenant, owner: asyncpg.Connection, broker: Broker, proxy: Proxy
) -> None:
    api, assessor = installation.start(API, AMQP_URL=proxy.url), installation.start(ASSESSOR, AMQP_URL=proxy.url)
    await asyncio.gather(api.ready("broker", "database"), assessor.ready(), until_consumed(broker))
    client = installation.client(api, tenant.admin)
    await make_rules(client)
    events = actions_of(customer_count=5, event_count=100)
    async with owner.transaction():
        await owner.execute("LOCK TABLE transactions IN SHARE MODE")
        assert (await post_batch(client, events)).status == 200
        await until_waiting_for_a_lock(owner, 1, ASSESSOR)
        proxy.cut()
        await until_consumed(broker)
    await until_met(assessor, len(events))
    await api.ready("broker")
    more = actions_of(customer_count=5, event_count=100)
    assert (await post_batch(client, more)).status == 200
    await assert_each_counted_once(installation, client, owner, events + more)
