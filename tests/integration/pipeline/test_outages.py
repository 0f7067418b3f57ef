"""Whatever goes away in the middle of a batch: nothing is lost, nothing is put aside, and each event counts once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aio_pika.abc import AbstractIncomingMessage
from structlog.testing import capture_logs

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.database import TRANSIENT_ERRORS, Database
from tallymarks.events import AnyEvent
from tallymarks.messages import read_events
from tallymarks.service import new_id
from tallymarks_assessor.arrivals import deliveries_before, together_max
from tallymarks_assessor.assess import Assessed, Assessor
from tallymarks_assessor.batches import Batches
from tests.integration.pipeline.parts import (
    RecordingAssessor,
    Work,
    balances_of,
    count,
    differing_balances,
    end_sessions,
    messages_ready,
    points,
    publish,
    seeded_ids,
    waiting_letters,
    working,
)
from tests.parts import PATIENCE_SECONDS, Clock, Tenant, until
from tests.proxy import proxy_to

Logs = list[Any]
CUSTOMERS = 6


def some_points(seed: int, number: int) -> list[AnyEvent]:
    """Adjustments of one point, for a few customers."""
    ids = seeded_ids(seed)
    customer_ids = [ids() for _ in range(CUSTOMERS)]
    return [points(ids(), customer_ids[place % CUSTOMERS], 1) for place in range(number)]


async def assert_each_counted_once(
    owner: asyncpg.Connection, database: Database, broker: Broker, tenant: Tenant, events: Sequence[AnyEvent]
) -> None:
    """Look at all that the events have left."""
    assert sum((await balances_of(owner, tenant.tenant_id)).values()) == len(events)
    assert await count(owner, "events", tenant.tenant_id) == len(events)
    assert await count(owner, "transactions", tenant.tenant_id) == len(events)
    assert await differing_balances(database, tenant.tenant_id) == []
    assert await waiting_letters(broker) == []
    assert await owner.fetchval("SELECT count(*) FROM outbox") == 0


async def until_all_count(owner: asyncpg.Connection, tenant: Tenant, events: Sequence[AnyEvent]) -> None:
    async def all_count() -> bool:
        return await count(owner, "transactions", tenant.tenant_id) == len(events)

    await until(all_count)


async def until_waiting(logs: Logs, times: int = 1) -> None:
    """Wait until a batch has found so often that it must wait."""

    async def waits() -> bool:
        return len([entry for entry in logs if entry["event"] == "a batch waits"]) >= times

    await until(waits)


# --- between the commit and the acknowledgement ----------------------------------------------------------------------


async def test_a_crash_between_commit_and_acknowledgement_has_no_second_effect(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, assessor: Assessor
) -> None:
    events = some_points(1, 30)
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    crashing = await broker.consume(arrived.put)
    await publish(broker, tenant.tenant_id, events)
    assessed = 0
    while assessed < len(events):
        message = await arrived.get()
        assessed += (await assessor.assess(tenant.tenant_id, read_events(message.body).events)).events
    await crashing.close()  # nothing of it is acknowledged
    next_one = RecordingAssessor(database, broker, clock)
    async with working(database, broker, next_one, clock) as work:

        async def came_again() -> bool:
            return next_one.duplicates == len(events)

        await until(came_again)
    assert next_one.took_effect == 0
    assert work.redelivered
    assert all(work.redelivered)
    await assert_each_counted_once(owner, database, broker, tenant, events)


async def test_a_connection_that_is_cut_before_the_acknowledgement_has_no_second_effect(
    database: Database, broker: Broker, amqp_url: str, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    events = some_points(2, 40)
    async with proxy_to(amqp_url) as proxy:

        class Cutting(RecordingAssessor):
            async def assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
                assessed = await super().assess(tenant_id, events)
                if len(self.done) <= 2:
                    proxy.cut()
                return assessed

        far = Broker(proxy.url, broker.topology, confirm_timeout_seconds=PATIENCE_SECONDS, name="test")
        await far.open()
        assessor = Cutting(database, far, clock)
        async with working(database, far, assessor, clock) as work:
            for event in events:  # some are taken and not looked at yet when the connection is cut
                await publish(broker, tenant.tenant_id, [event])

            async def all_came_again() -> bool:
                queues = [broker.topology.events_queue(partition) for partition in range(2)]
                is_empty = sum([await messages_ready(broker, queue) for queue in queues]) == 0
                return is_empty and assessor.duplicates > 0 and assessor.took_effect == len(events)

            await until(all_came_again)
            assert any(work.redelivered)
        await far.close()
    await assert_each_counted_once(owner, database, broker, tenant, events)


# --- the database away -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def refusing_connections(owner: asyncpg.Connection, server_url: str) -> AsyncIterator[None]:
    """Take the database away from the services: it ends their sessions and takes no new ones."""
    name = await owner.fetchval("SELECT current_database()")
    server = await asyncpg.connect(server_url)
    try:
        await server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await end_sessions(owner)
        yield
    finally:
        await server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await server.close()


@pytest.mark.usefixtures("assessing")
async def test_a_batch_waits_while_the_database_refuses_connections(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, postgres_url: str
) -> None:
    events = some_points(3, 50)
    with capture_logs() as logs:
        async with refusing_connections(owner, postgres_url):
            await publish(broker, tenant.tenant_id, events)
            await until_waiting(logs, times=3)
            assert await waiting_letters(broker) == []
        await until_all_count(owner, tenant, events)
    assert not [entry for entry in logs if entry["event"] == "a batch failed and is halved"]
    await assert_each_counted_once(owner, database, broker, tenant, events)


async def test_sessions_that_end_again_and_again_lose_and_repeat_nothing(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    events = some_points(4, 600)
    assessor = RecordingAssessor(database, broker, clock)
    with capture_logs() as logs:
        async with working(database, broker, assessor, clock):
            for start in range(0, len(events), 30):
                await publish(broker, tenant.tenant_id, events[start : start + 30])
                while not await end_sessions(owner, in_transaction=True):
                    pass
                await until_all_count(owner, tenant, events[: start + 30])
    assert not [entry for entry in logs if entry["event"] == "a batch failed and is halved"]
    await until_waiting(logs)
    await assert_each_counted_once(owner, database, broker, tenant, events)


async def test_a_session_that_ends_at_any_statement_of_a_batch_leaves_nothing_half_done(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, assessor: Assessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The batch is ended before each of its statements in turn, the commit too, until it gets through."""
    events = some_points(5, 10)
    number = left = 0
    execute = asyncpg.Connection._do_execute  # type: ignore[attr-defined]

    async def ending(connection: Any, query: str, *arguments: Any, **named: Any) -> Any:
        nonlocal left
        if connection is not owner:
            left -= 1
            if left == 0:
                await end_sessions(owner)
        return await execute(connection, query, *arguments, **named)

    monkeypatch.setattr(asyncpg.Connection, "_do_execute", ending)
    assessed = None
    while assessed is None:
        number += 1
        left = number
        try:
            assessed = await assessor.assess(tenant.tenant_id, events)
        except TRANSIENT_ERRORS:
            assert await count(owner, "transactions", tenant.tenant_id) == 0
    monkeypatch.undo()
    assert assessed.events == len(events)
    assert number > 8
    await assert_each_counted_once(owner, database, broker, tenant, events)


async def test_stopping_while_a_batch_waits_returns_its_messages(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, postgres_url: str
) -> None:
    events = some_points(6, 50)
    with capture_logs() as logs:
        async with refusing_connections(owner, postgres_url):
            async with working(database, broker, RecordingAssessor(database, broker, clock), clock):
                await publish(broker, tenant.tenant_id, events)
                await until_waiting(logs)
            # Stopped: what it held is in its queues again.
            queues = [broker.topology.events_queue(partition) for partition in range(2)]

            async def are_back() -> bool:
                return all([await messages_ready(broker, queue) == 1 for queue in queues])

            await until(are_back)
    async with working(database, broker, RecordingAssessor(database, broker, clock), clock) as work:
        await until_all_count(owner, tenant, events)
        assert any(work.redelivered)
    await assert_each_counted_once(owner, database, broker, tenant, events)


async def test_stopping_finishes_the_batch_under_way(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    events = some_points(7, 50)
    begun, works = asyncio.Event(), list[Work]()

    class Stopped(RecordingAssessor):
        async def assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
            works[0].stop.set()
            begun.set()
            return await super().assess(tenant_id, events)

    assessor = Stopped(database, broker, clock)
    async with working(database, broker, assessor, clock) as work:
        works.append(work)
        await publish(broker, tenant.tenant_id, events)
        await begun.wait()
    assert assessor.took_effect > 0
    counted = await count(owner, "transactions", tenant.tenant_id)
    assert counted == assessor.took_effect
    again = RecordingAssessor(database, broker, clock)
    async with working(database, broker, again, clock):
        await until_all_count(owner, tenant, events)
    assert again.duplicates == 0  # the finished batch was acknowledged
    await assert_each_counted_once(owner, database, broker, tenant, events)


# --- another transaction in the way ----------------------------------------------------------------------------------


async def test_a_deadlock_with_another_program_is_tried_again(
    database: Database, database_url: str, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(8)
    in_one_queue = [one for one in (ids() for _ in range(50)) if broker.topology.partition(tenant.tenant_id, one) == 0]
    first, last = min(in_one_queue), max(in_one_queue)
    events, more = ([points(ids(), customer_id, 1) for customer_id in in_one_queue] for _ in range(2))
    lock = "SELECT FROM accounts WHERE tenant_id = $1 AND customer_id = $2 FOR UPDATE"
    competitor = await asyncpg.connect(database_url)
    # The assessor's session is the one that finds the deadlock, so it is the one that gives way.
    await competitor.execute("SET deadlock_timeout = '60s'")
    with capture_logs() as logs:
        async with working(database, broker, RecordingAssessor(database, broker, clock), clock):
            await publish(broker, tenant.tenant_id, events)
            await until_all_count(owner, tenant, events)
            async with competitor.transaction():
                await competitor.execute(lock, tenant.tenant_id, last)
                await publish(broker, tenant.tenant_id, more)
                await until_blocked_by(owner, competitor)
                await competitor.execute(lock, tenant.tenant_id, first)
                await until_waiting(logs)
            await until_all_count(owner, tenant, [*events, *more])
    await competitor.close()
    assert any("deadlock" in entry.get("reason", "") for entry in logs)
    await assert_each_counted_once(owner, database, broker, tenant, [*events, *more])


async def until_blocked_by(owner: asyncpg.Connection, blocking: asyncpg.Connection) -> None:
    """Wait until some session waits for a lock of this one."""

    async def is_blocked() -> bool:
        return bool(
            await owner.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))",
                blocking.get_server_pid(),
            )
        )

    await until(is_blocked)


async def test_a_serialization_failure_is_tried_again(
    database: Database, database_url: str, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    """Where the database's transactions are serializable by default, whoever comes second fails, and tries again."""
    name = await owner.fetchval("SELECT current_database()")
    await owner.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
    strict = Database(database_url, pool_size=20, application_name="strict")
    await strict.open()
    ids = seeded_ids(10)
    customer_id = ids()
    events: list[AnyEvent] = []
    with capture_logs() as logs:
        first, second = (RecordingAssessor(strict, broker, clock) for _ in range(2))
        async with working(strict, broker, first, clock), working(strict, broker, second, clock):
            while not any(entry["event"] == "a batch waits" for entry in logs):
                events += (more := [points(ids(), customer_id, 1) for _ in range(4)])
                for event in more:
                    await publish(broker, tenant.tenant_id, [event])
            await until_all_count(owner, tenant, events)
    await strict.close()
    await assert_each_counted_once(owner, database, broker, tenant, events)


async def test_a_lock_that_is_held_for_longer_than_a_statement_may_take_is_waited_for(
    database: Database, database_url: str, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "STATEMENT_TIMEOUT_SECONDS", 0.5)
    hurried = Database(database_url, pool_size=5, application_name="hurried")
    await hurried.open()
    events = some_points(11, CUSTOMERS)
    with capture_logs() as logs:
        assessor = RecordingAssessor(hurried, broker, clock)
        async with working(hurried, broker, assessor, clock):
            await publish(broker, tenant.tenant_id, events)
            await until_all_count(owner, tenant, events)
            ids = seeded_ids(12)
            more: list[AnyEvent] = [points(ids(), event.customer_id, 1) for event in events]
            async with owner.transaction():
                await owner.execute("SELECT FROM accounts FOR UPDATE")
                await publish(broker, tenant.tenant_id, more)
                await until_waiting(logs, times=2)
            await until_all_count(owner, tenant, [*events, *more])
    await hurried.close()
    await assert_each_counted_once(owner, database, broker, tenant, [*events, *more])


@pytest.mark.parametrize(("kind", "name"), [("TABLE", "tenants"), ("TYPE", "new_event"), ("TYPE", "assessed_account")])
async def test_a_database_without_our_tables_or_types_is_waited_for(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, kind: str, name: str
) -> None:
    """As when the assessor is there before the migration is."""
    events = some_points(13, 10)
    await owner.execute(f"ALTER {kind} {name} RENAME TO not_there_yet")
    with capture_logs() as logs:
        async with working(database, broker, RecordingAssessor(database, broker, clock), clock):
            await publish(broker, tenant.tenant_id, events)
            await until_waiting(logs)
            await owner.execute(f"ALTER {kind} not_there_yet RENAME TO {name}")
            await until_all_count(owner, tenant, events)
    await assert_each_counted_once(owner, database, broker, tenant, events)


async def test_what_a_broken_connection_had_brought_comes_again_and_the_assessor_goes_on(
    database: Database, owner: asyncpg.Connection, broker: Broker, tenant: Tenant, clock: Clock
) -> None:
    events = some_points(seed=7, number=20)
    for event in events:
        await publish(broker, tenant.tenant_id, [event])
    assessor = RecordingAssessor(database, broker, clock)
    batches = Batches(database, broker.topology, assessor, now=clock, new_id=new_id, committed=asyncio.Event())
    arrived: list[AbstractIncomingMessage] = []

    async def take(message: AbstractIncomingMessage) -> None:
        arrived.append(message)
        await batches.take(message)

    async def have_arrived() -> bool:
        return len(arrived) == len(events)

    consuming = await broker.consume(take)
    await until(have_arrived)
    await consuming.close()
    stop = asyncio.Event()
    running = asyncio.create_task(batches.run(stop))

    consuming = await broker.consume(batches.take)
    await until_all_count(owner, tenant, events)
    assert not running.done()
    stop.set()
    await running
    await consuming.close()
    await assert_each_counted_once(owner, database, broker, tenant, events)


@pytest.mark.parametrize(
    ("deliveries", "attempts"),
    [
        (limits.DELIVERIES_SUSPECT, [20]),
        (limits.DELIVERIES_SUSPECT + 3, [8, 8, 4]),
        (limits.DELIVERIES_SUSPECT + 6, [1] * 20),
    ],
)
async def test_the_more_often_messages_came_again_the_fewer_are_assessed_together(
    database: Database,
    owner: asyncpg.Connection,
    broker: Broker,
    tenant: Tenant,
    clock: Clock,
    deliveries: int,
    attempts: list[int],
) -> None:
    events = some_points(seed=8, number=20)
    for event in events:
        await publish(broker, tenant.tenant_id, [event])
    returned = 0

    async def give_back(message: AbstractIncomingMessage) -> None:
        nonlocal returned
        # The last time, the channel gives it back when it closes.
        if deliveries_before(message) < deliveries - 1:
            returned += 1
            await message.nack(requeue=True)

    async def are_all_returned() -> bool:
        return returned == len(events) * (deliveries - 1)

    consuming = await broker.consume(give_back)
    await until(are_all_returned)
    await consuming.close()
    assessor = RecordingAssessor(database, broker, clock)
    async with working(database, broker, assessor, clock):
        await until_all_count(owner, tenant, events)
    assert assessor.attempts == attempts
    await assert_each_counted_once(owner, database, broker, tenant, events)


def test_what_is_delivered_once_more_is_lost_is_alone_long_before() -> None:
    assert together_max(limits.DELIVERIES_MAX // 2) == 1
