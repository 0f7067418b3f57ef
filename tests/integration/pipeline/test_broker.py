"""The broker as the services use it: its topology, confirms, refusals, and connections that come back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError
from aio_pika.robust_exchange import RobustExchange
from pamqp.commands import Basic

from tallymarks import limits
from tallymarks.broker import Broker, OutgoingMessage, Topology
from tallymarks.errors import Unavailable
from tallymarks.service import new_id
from tests.integration.pipeline.parts import drain, messages_ready
from tests.parts import PATIENCE_SECONDS, until
from tests.proxy import Direction, Proxy, proxy_to

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


def message_to(topology: Topology, routing_key: str = "0", body: bytes = b"{}") -> OutgoingMessage:
    return OutgoingMessage(topology.events_exchange, routing_key, body, {}, new_id())


@asynccontextmanager
async def broker_at(
    url: str, topology: Topology, confirm_timeout_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[Broker]:
    broker = Broker(url, topology, confirm_timeout_seconds=confirm_timeout_seconds, name="test")
    try:
        yield broker
    finally:
        await broker.close()


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(amqp_url) as proxy:
        yield proxy


# --- topology --------------------------------------------------------------------------------------------------------

EVENTS_QUEUE_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": "…",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


def events_queue_arguments(topology: Topology) -> dict[str, Any]:
    return {**EVENTS_QUEUE_ARGUMENTS, "x-dead-letter-exchange": topology.dead_letters}


async def test_queues_of_events_have_the_arguments_of_the_design(broker: Broker) -> None:
    channel = await broker.channel()
    for partition in range(broker.topology.partitions):
        name = broker.topology.events_queue(partition)
        await channel.declare_queue(name, durable=True, arguments=events_queue_arguments(broker.topology))


@pytest.mark.parametrize(
    ("argument", "other"),
    [
        ("x-queue-type", "classic"),
        ("x-dead-letter-exchange", "elsewhere"),
        ("x-dead-letter-strategy", "at-most-once"),
        ("x-overflow", "drop-head"),
    ],
)
async def test_a_queue_with_another_argument_is_refused(broker: Broker, argument: str, other: str) -> None:
    channel = await broker.channel()
    arguments = {**events_queue_arguments(broker.topology), argument: other}
    with pytest.raises(ChannelPreconditionFailed, match=argument):
        await channel.declare_queue(broker.topology.events_queue(0), durable=True, arguments=arguments)


async def test_another_program_with_other_arguments_does_not_start(broker: Broker, amqp_url: str) -> None:
    other = Topology(f"{broker.topology.prefix}-other", partitions=1)
    channel = await broker.channel()
    queue = await channel.declare_queue(other.events_queue(0), durable=True)
    try:
        async with broker_at(amqp_url, other) as late:
            with pytest.raises(ChannelPreconditionFailed):
                await late.open()
    finally:
        await queue.delete()
        for exchange in (other.events_exchange, other.notifications_exchange, other.dead_letters):
            await channel.exchange_delete(exchange)
        await channel.queue_delete(other.dead_letters)


async def test_a_message_that_is_refused_again_and_again_goes_to_the_dead_letters(broker: Broker) -> None:
    await broker.publish(message_to(broker.topology, body=b"refused"))
    deliveries = []

    async def refuse(message: AbstractIncomingMessage) -> None:
        deliveries.append(message.delivery_tag)
        await message.reject(requeue=True)

    consuming = await broker.consume(refuse)

    async def is_put_aside() -> bool:
        return await messages_ready(broker, broker.topology.dead_letters) == 1

    await until(is_put_aside)
    await consuming.close()
    assert len(deliveries) == limits.DELIVERIES_MAX + 1
    (letter,) = await drain(broker, broker.topology.dead_letters)
    assert letter.body == b"refused"


async def test_opening_twice_finds_the_topology(broker: Broker, amqp_url: str) -> None:
    async with broker_at(amqp_url, broker.topology) as other:
        await other.open()
        await other.publish(message_to(other.topology))
        assert await messages_ready(broker, broker.topology.events_queue(0)) == 1


# --- publishing ------------------------------------------------------------------------------------------------------


async def test_a_message_is_durable_and_says_what_it_is(broker: Broker) -> None:
    message = replace(message_to(broker.topology, "1", b"[]"), headers={"tallymarks-tenant-id": "t"})
    await broker.publish(message)
    (arrived,) = await drain(broker, broker.topology.events_queue(1))
    assert arrived.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert arrived.content_type == "application/json"
    assert arrived.message_id == str(message.message_id)
    assert arrived.headers["tallymarks-tenant-id"] == "t"
    assert arrived.body == b"[]"


async def test_a_message_that_no_queue_takes_is_refused(broker: Broker) -> None:
    with pytest.raises(Unavailable, match="No queue"):
        await broker.publish(message_to(broker.topology, routing_key="no such partition"))
    await broker.publish(message_to(broker.topology))


async def test_a_notification_that_nobody_listens_to_is_no_failure(broker: Broker) -> None:
    nobody = OutgoingMessage(broker.topology.notifications_exchange, "some.thing", b"{}", {}, new_id(), False)
    await broker.publish(nobody)


async def test_an_exchange_that_is_gone_is_a_refusal_and_the_channel_comes_back(broker: Broker) -> None:
    gone = replace(message_to(broker.topology), exchange="no-such-exchange")
    with pytest.raises(Unavailable):
        await broker.publish(gone)

    async def is_published() -> bool:
        return await publishes(broker)

    await until(is_published)


async def test_a_confirm_that_does_not_come_in_time_is_a_refusal(
    broker: Broker, proxy: Proxy, topology: Topology
) -> None:
    async with broker_at(proxy.url, topology, confirm_timeout_seconds=0.3) as slow:
        await slow.open()
        proxy.hold(Direction.TO_CLIENT)
        message = message_to(topology)
        with pytest.raises(Unavailable, match="did not confirm in time"):
            await slow.publish(message)
        proxy.release()

        async def is_published() -> bool:
            return await publishes(slow, message)

        await until(is_published)
    # The first reached the queue too: what a message carries must be safe to send again.
    arrived = await drain(broker, topology.events_queue(0))
    assert len(arrived) > 1
    assert {one.message_id for one in arrived} == {str(message.message_id)}


async def test_a_nack_is_published_again_until_it_is_taken(broker: Broker) -> None:
    channel = await broker.channel()
    full = await channel.declare_queue(exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    await full.bind(broker.topology.events_exchange, routing_key="full")
    await broker.publish(message_to(broker.topology, "full", b"first"))
    publishing = asyncio.create_task(broker.publish(message_to(broker.topology, "full", b"second")))

    # On one channel and in order: when this is confirmed, the queue has refused the second once.
    await broker.publish(message_to(broker.topology))
    assert not publishing.done()
    first = await full.get()
    assert first.body == b"first"
    await first.ack()
    await publishing
    second = await full.get()
    assert second.body == b"second"
    await second.ack()


async def test_a_broker_that_is_lost_without_a_word_is_left(
    proxy: Proxy, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine is gone, and nothing has broken the connection; whoever is led elsewhere is answered."""
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 1)
    arrived = asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        await message.ack()
        arrived.set()

    async with broker_at(proxy.url, topology, confirm_timeout_seconds=1) as broker:
        await broker.open()
        consuming = await broker.consume(take)
        proxy.strand()
        with pytest.raises(Unavailable):
            await broker.publish(message_to(topology))

        async def is_published() -> bool:
            try:
                await broker.publish(message_to(topology))
            except Unavailable:
                return False
            return True

        await until(is_published)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await arrived.wait()
        await consuming.close()


async def test_a_channel_that_refuses_again_and_again_is_replaced(
    broker: Broker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a channel does whose first message for a queue met a leader that was dead."""
    publish: Any = RobustExchange.publish
    refusing: set[object] = set()

    async def publish_unless_refusing(exchange: RobustExchange, *arguments: Any, **options: Any) -> Any:
        if not refusing:
            refusing.add(exchange.channel)
        if exchange.channel in refusing:
            raise DeliveryError(None, Basic.Nack())
        return await publish(exchange, *arguments, **options)

    monkeypatch.setattr(RobustExchange, "publish", publish_unless_refusing)
    await asyncio.gather(*(broker.publish(message_to(topology)) for _ in range(10)))
    assert await messages_ready(broker, topology.events_queue(0)) == 10
    assert len(refusing) == 1


async def test_a_queue_that_never_takes_a_message_is_a_refusal(
    broker: Broker, amqp_url: str, topology: Topology
) -> None:
    channel = await broker.channel()
    full = await channel.declare_queue(exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    await full.bind(topology.events_exchange, routing_key="full")
    async with broker_at(amqp_url, topology, confirm_timeout_seconds=0.3) as impatient:
        await impatient.open()
        with pytest.raises(Unavailable):
            await impatient.publish(message_to(topology, "full"))


# --- connections -----------------------------------------------------------------------------------------------------


async def publishes(broker: Broker, message: OutgoingMessage | None = None) -> bool:
    try:
        await broker.publish(message or message_to(broker.topology))
    except Unavailable:
        return False
    return True


async def test_publishing_before_there_is_a_connection_is_a_refusal(amqp_url: str, topology: Topology) -> None:
    async with broker_at(amqp_url, topology) as unopened:
        assert not unopened.is_connected
        with pytest.raises(Unavailable):
            await unopened.publish(message_to(topology))


async def test_a_lost_connection_refuses_and_comes_back(
    broker: Broker, amqp_url: str, proxy: Proxy, topology: Topology
) -> None:
    async with broker_at(proxy.url, topology) as far:
        await far.open()
        proxy.lead_to(NOWHERE)
        proxy.cut()

        async def is_away() -> bool:
            return not far.is_connected

        await until(is_away)
        with pytest.raises(Unavailable):
            await far.publish(message_to(topology))
        proxy.lead_to(amqp_url)

        async def is_back() -> bool:
            return await publishes(far)

        await until(is_back)
        assert await messages_ready(broker, topology.events_queue(0)) == 1


async def test_a_connection_lost_while_a_confirm_is_awaited_is_a_refusal(
    broker: Broker, proxy: Proxy, topology: Topology
) -> None:
    async with broker_at(proxy.url, topology) as far:
        await far.open()
        proxy.hold(Direction.TO_CLIENT)
        publishing = asyncio.create_task(far.publish(message_to(topology)))

        async def has_arrived() -> bool:
            return await messages_ready(broker, topology.events_queue(0)) == 1

        await until(has_arrived)
        proxy.cut()
        proxy.release()
        with pytest.raises(Unavailable):
            await publishing


async def test_consumers_are_back_after_a_reconnect(broker: Broker, proxy: Proxy, topology: Topology) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(message: AbstractIncomingMessage) -> None:
        arrived.put_nowait(message.body)
        await message.ack()

    async with broker_at(proxy.url, topology) as far:
        await far.open()
        consuming = await far.consume(take)
        for round_number in range(3):
            for partition in range(topology.partitions):
                body = f"{round_number} {partition}".encode()
                await broker.publish(message_to(topology, str(partition), body))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while await arrived.get() != body:
                        pass  # one whose acknowledgement was cut off came again
            proxy.cut()
        await consuming.close()


async def test_the_prefetch_holds_after_a_reconnect(broker: Broker, proxy: Proxy, topology: Topology) -> None:
    held: list[AbstractIncomingMessage] = []

    async def take(message: AbstractIncomingMessage) -> None:
        held.append(message)

    share = limits.PREFETCH_MESSAGES // topology.partitions
    for _ in range(share + 10):
        await broker.publish(message_to(topology))
    async with broker_at(proxy.url, topology) as far:
        await far.open()
        consuming = await far.consume(take)
        for _ in range(2):

            async def are_held() -> bool:
                return len(held) >= share and await messages_ready(broker, topology.events_queue(0)) == 10

            await until(are_held)
            assert len(held) == share
            held.clear()
            proxy.cut()
        await consuming.close()


async def test_opening_waits_for_a_broker_that_is_away(amqp_url: str, broker: Broker, topology: Topology) -> None:
    async with proxy_to(NOWHERE) as proxy, broker_at(proxy.url, topology) as early:
        opening = asyncio.create_task(early.open())
        proxy.lead_to(amqp_url)
        await opening
        assert await publishes(early)


async def test_opening_goes_on_where_the_connection_breaks_in_the_middle(
    broker: Broker, proxy: Proxy, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker_at(proxy.url, topology) as early:
        breaks_left = 2
        declare = early._declare

        async def breaking(channel: AbstractRobustChannel) -> None:
            nonlocal breaks_left
            if breaks_left:
                breaks_left -= 1
                proxy.cut()
            await declare(channel)

        monkeypatch.setattr(early, "_declare", breaking)
        await early.open()
        assert await publishes(early)
