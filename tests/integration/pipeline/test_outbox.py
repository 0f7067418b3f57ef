"""The outbox: what a transaction tells the broker reaches it, at least once, whatever goes away in between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from structlog.testing import capture_logs

from tallymarks import limits, outbox
from tallymarks.broker import Broker, OutgoingMessage, Topology
from tallymarks.database import TRANSIENT_ERRORS, Database
from tallymarks.errors import Unavailable
from tallymarks.service import new_id
from tests.integration.pipeline.parts import drain, end_sessions, messages_ready
from tests.parts import PATIENCE_SECONDS, START, until
from tests.proxy import Proxy, proxy_to


def messages(topology: Topology, number: int, routing_key: str = "0") -> list[OutgoingMessage]:
    return [
        OutgoingMessage(topology.events_exchange, routing_key, b"%d" % place, {"place": place}, new_id())
        for place in range(number)
    ]


async def put(database: Database, written: list[OutgoingMessage]) -> None:
    async with database.connection() as connection, connection.transaction():
        await outbox.put(connection, None, written, START)


async def left(owner: asyncpg.Connection) -> int:
    waiting: int = await owner.fetchval("SELECT count(*) FROM outbox")
    return waiting


async def arrived(broker: Broker) -> Counter[str]:
    """The messages that have come to the first queue, by their ids; takes them."""
    return Counter(str(message.message_id) for message in await drain(broker, broker.topology.events_queue(0)))


def ids_of(written: list[OutgoingMessage]) -> Counter[str]:
    return Counter(str(message.message_id) for message in written)


@pytest.fixture
async def far_broker(amqp_url: str, broker: Broker, topology: Topology) -> AsyncIterator[tuple[Broker, Proxy]]:
    """A broker behind a proxy that can break the way to it."""
    async with proxy_to(amqp_url) as proxy:
        far = Broker(proxy.url, topology, confirm_timeout_seconds=PATIENCE_SECONDS, name="test")
        await far.open()
        yield far, proxy
        await far.close()


async def test_what_is_relayed_arrives_whole_and_in_order_and_is_gone(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection
) -> None:
    written = messages(topology, 5)
    await put(database, written)
    assert await outbox.relay_once(database, broker) == 5
    assert await left(owner) == 0
    taken = await drain(broker, topology.events_queue(0))
    assert [message.body for message in taken] == [message.body for message in written]
    assert [message.message_id for message in taken] == [str(message.message_id) for message in written]
    assert [message.headers["place"] for message in taken] == list(range(5))
    assert await outbox.relay_once(database, broker) == 0


async def test_a_lot_is_bounded_and_takes_the_oldest(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection
) -> None:
    written = messages(topology, limits.OUTBOX_MESSAGES_MAX + 1)
    await put(database, written[::-1])
    assert await outbox.relay_once(database, broker) == limits.OUTBOX_MESSAGES_MAX
    assert await owner.fetchval("SELECT outbox_id FROM outbox") == written[-1].message_id


async def test_what_is_rolled_back_is_never_sent(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection
) -> None:
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await outbox.put(connection, None, messages(topology, 1), START)
        await transaction.rollback()
    assert await outbox.relay_once(database, broker) == 0


async def test_a_crash_between_publishing_and_deleting_sends_again(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = messages(topology, 3)
    await put(database, written)
    publish = broker.publish

    async def crashing(message: OutgoingMessage) -> None:
        await publish(message)
        if message == written[-1]:
            await end_sessions(owner)

    with monkeypatch.context() as patched:
        patched.setattr(broker, "publish", crashing)
        with pytest.raises(TRANSIENT_ERRORS):
            await outbox.relay_once(database, broker)
    assert await left(owner) == 3
    assert await outbox.relay_once(database, broker) == 3
    assert await left(owner) == 0
    assert await arrived(broker) == ids_of(written) + ids_of(written)


async def test_relays_share_the_work(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = messages(topology, 450)
    await put(database, written)
    publish, second_lot = broker.publish, asyncio.Event()

    async def publish_together(message: OutgoingMessage) -> None:
        # Whoever has the first lot keeps it until another relay has the second: they meet for certain.
        if message.message_id == written[limits.OUTBOX_MESSAGES_MAX].message_id:
            second_lot.set()
        await second_lot.wait()
        await publish(message)

    monkeypatch.setattr(broker, "publish", publish_together)

    async def relay_all() -> list[int]:
        sent = []
        while await left_for(database):
            sent.append(await outbox.relay_once(database, broker))
        return sent

    shares = await asyncio.gather(*(relay_all() for _ in range(3)))
    assert sum(map(sum, shares)) == 450
    assert sum(any(share) for share in shares) > 1
    assert await arrived(broker) == ids_of(written)


async def left_for(database: Database) -> bool:
    async with database.connection() as connection:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"))


async def test_a_relay_wakes_up_when_something_was_committed_and_looks_by_itself_too(
    database: Database, broker: Broker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_there() -> bool:
        return await messages_ready(broker, topology.events_queue(0)) > 0

    committed = asyncio.Event()
    for poll_seconds, tells in ((3600.0, True), (0.01, False)):
        monkeypatch.setattr(limits, "OUTBOX_POLL_SECONDS", poll_seconds)
        relaying = asyncio.create_task(outbox.relay(database, broker, committed))
        await put(database, messages(topology, 1))
        if tells:
            committed.set()
        await until(is_there)
        await drain(broker, topology.events_queue(0))
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)


async def test_while_the_broker_is_away_the_outbox_waits_and_then_all_is_sent(
    database: Database, broker: Broker, far_broker: tuple[Broker, Proxy], topology: Topology, owner: asyncpg.Connection,
    amqp_url: str,
) -> None:  # fmt: skip
    far, proxy = far_broker
    proxy.lead_to("amqp://127.0.0.1:1/")
    proxy.cut()
    written = messages(topology, 150)
    committed = asyncio.Event()
    with capture_logs() as logs:
        relaying = asyncio.create_task(outbox.relay(database, far, committed))
        await put(database, written)
        committed.set()

        async def waits() -> bool:
            return any(entry["event"] == "the outbox waits" for entry in logs)

        await until(waits)
        assert await left(owner) == 150
        proxy.lead_to(amqp_url)

        async def is_empty() -> bool:
            return await left(owner) == 0

        await until(is_empty)
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)
    assert set(await arrived(broker)) == set(ids_of(written))


async def test_while_the_database_is_away_the_relay_waits(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection
) -> None:
    written = messages(topology, 1)
    await put(database, written)
    await owner.execute("ALTER TABLE outbox RENAME TO away")
    with capture_logs() as logs:
        relaying = asyncio.create_task(outbox.relay(database, broker, asyncio.Event()))

        async def waits() -> bool:
            return any(entry["event"] == "the outbox waits" for entry in logs)

        await until(waits)
        await owner.execute("ALTER TABLE away RENAME TO outbox")

        async def is_empty() -> bool:
            return await left(owner) == 0

        await until(is_empty)
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)
    assert await arrived(broker) == ids_of(written)


async def test_what_no_queue_takes_stays_and_the_others_are_sent_once(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection
) -> None:
    written = messages(topology, 4)
    (unroutable,) = messages(topology, 1, routing_key="no such partition")
    await put(database, [*written[:2], unroutable, *written[2:]])
    for _ in range(3):
        with pytest.raises(Unavailable, match="No queue"):
            await outbox.relay_once(database, broker)
    assert [row[0] for row in await owner.fetch("SELECT outbox_id FROM outbox")] == [unroutable.message_id]
    assert await arrived(broker) == ids_of(written)


async def test_a_notification_that_nobody_listens_to_does_not_stay(
    database: Database, broker: Broker, topology: Topology, owner: asyncpg.Connection
) -> None:
    (message,) = messages(topology, 1)
    await put(database, [replace(message, exchange=topology.notifications_exchange)])
    assert await outbox.relay_once(database, broker) == 1
    assert await left(owner) == 0
