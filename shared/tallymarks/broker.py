"""RabbitMQ: the topology, publishing with confirms, and messages taken from the queues."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID
from zlib import crc32

import aio_pika
import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel, AbstractRobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, AMQPChannelError, DeliveryError, PublishError

from tallymarks import limits
from tallymarks.errors import Unavailable
from tallymarks.logs import reason_of

log = structlog.get_logger(__name__)

Headers = Mapping[str, str | int]

QUORUM_ARGUMENTS: dict[str, str | int] = {"x-queue-type": "quorum"}
UNAVAILABLE_ERRORS: tuple[type[BaseException], ...] = (*CONNECTION_EXCEPTIONS, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Topology:
    """The names of the exchanges and queues."""

    prefix: str
    partitions: int

    @property
    def events_exchange(self) -> str:
        """Routes accepted events by partition."""
        return f"{self.prefix}.events"

    @property
    def notifications_exchange(self) -> str:
        """A topic exchange of what happened inside, for whoever binds a queue to it."""
        return f"{self.prefix}.notifications"

    @property
    def dead_letters(self) -> str:
        """The exchange and the queue of what could not be assessed."""
        return f"{self.prefix}.dead-letters"

    def events_queue(self, partition: int) -> str:
        """The queue of one partition."""
        return f"{self.prefix}.events.{partition}"

    def partition(self, tenant_id: UUID, customer_id: UUID) -> int:
        """Give the partition of a customer's events: the same on every machine."""
        return crc32(tenant_id.bytes + customer_id.bytes) % self.partitions


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message as it goes out: `is_mandatory` when a queue must take it."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Headers
    message_id: UUID
    is_mandatory: bool = True


@contextmanager
def loss_as_error() -> Iterator[None]:
    """Raise an `OSError` where the driver cancels what is under way, because a connection that hung was given up.

    Nobody has cancelled the task then, and whoever awaits it must not take it for that.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionAbortedError("the connection hung and was given up") from None


class Broker:
    """One connection to RabbitMQ that comes back by itself, with a channel that publishes."""

    def __init__(self, url: str, topology: Topology, *, confirm_timeout_seconds: float, name: str) -> None:
        """Prepare the connection; `open` starts it."""
        self.topology = topology
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._url = url
        self._name = name
        self._connection: AbstractRobustConnection | None = None
        self._publishing: AbstractRobustChannel | None = None
        self._replacing = asyncio.Lock()

    async def open(self) -> None:
        """Connect, however long the broker is away, and declare what is published to and taken from."""
        while self._connection is None:
            try:
                connection = await aio_pika.connect_robust(
                    self._url,
                    timeout=limits.CONNECT_TIMEOUT_SECONDS,
                    reconnect_interval=limits.RECONNECT_INTERVAL_SECONDS,
                    heartbeat=limits.HEARTBEAT_SECONDS,
                    client_properties={"connection_name": self._name},
                )
            except UNAVAILABLE_ERRORS as error:
                log.warning("the broker is away", reason=reason_of(error))
                await asyncio.sleep(limits.RECONNECT_INTERVAL_SECONDS)
            else:
                self._connection = connection
        while self._publishing is None:
            try:
                publishing = await self.channel()
                await self._declare(publishing)
            except AMQPChannelError:
                raise  # the broker refuses what is declared, and always will
            except UNAVAILABLE_ERRORS as error:
                log.warning("the broker went away", reason=reason_of(error))
                await asyncio.sleep(limits.RECONNECT_INTERVAL_SECONDS)
            else:
                self._publishing = publishing

    async def channel(self) -> AbstractRobustChannel:
        """Open another channel on the connection; it comes back with it."""
        if self._connection is None:
            raise Unavailable("The broker is away.")
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        if not isinstance(channel, AbstractRobustChannel):
            raise TypeError("the robust connection gave a channel that does not come back")
        return channel

    async def close(self) -> None:
        """Close the connection; messages taken and not acknowledged go back to their queue."""
        if self._connection is not None:
            with suppress(*UNAVAILABLE_ERRORS):
                async with asyncio.timeout(limits.CLOSE_TIMEOUT_SECONDS):
                    await self._connection.close()

    @property
    def is_connected(self) -> bool:
        """Whether a publish has a chance now."""
        return (
            self._connection is not None
            and self._connection.connected.is_set()
            and self._publishing is not None
            and not self._publishing.is_closed
        )

    async def publish(self, message: OutgoingMessage) -> None:
        """Publish one persistent message and wait until the broker has confirmed it.

        A nack (a leader change) is published again within the time; after a failure the message may or may not have
        reached its queue, so what it carries must be safe to send again.

        Raises:
            Unavailable: no connection, no queue for it, or no confirm in time.
        """
        try:
            async with asyncio.timeout(self._confirm_timeout_seconds):
                with loss_as_error():
                    await self._publish_until_confirmed(message)
        except TimeoutError:
            raise Unavailable("The broker did not confirm in time.") from None
        except PublishError:
            raise Unavailable("No queue of the broker takes the message.") from None
        except UNAVAILABLE_ERRORS:
            raise Unavailable("The broker is away.") from None

    async def _publish_until_confirmed(self, message: OutgoingMessage) -> None:
        if self._publishing is None or not self.is_connected:
            raise Unavailable("The broker is away.")
        nacks = 0
        while True:
            publishing = self._publishing
            exchange = await publishing.get_exchange(message.exchange, ensure=False)
            try:
                await exchange.publish(
                    aio_pika.Message(
                        message.body,
                        headers=dict(message.headers),
                        content_type="application/json",
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                        message_id=str(message.message_id),
                    ),
                    message.routing_key,
                    mandatory=message.is_mandatory,
                )
            except PublishError:
                raise
            except DeliveryError:
                nacks += 1
                if nacks % limits.NACKS_PER_CHANNEL_MAX == 0:
                    await self._replace(publishing)
                await asyncio.sleep(limits.NACKED_WAIT_SECONDS)
            else:
                return

    async def _replace(self, publishing: AbstractRobustChannel) -> None:
        """Publish on another channel from now on, unless somebody has seen to that.

        A channel whose first message for a quorum queue met a dead leader goes on asking that one, and refuses all
        messages until it is back (RabbitMQ 3.10); a new channel asks the leader that there is.
        """
        async with self._replacing:
            if publishing is self._publishing:
                log.warning("the broker refuses messages: another channel is tried")
                another = await self.channel()
                await self._declare(another)
                self._publishing = another
                await publishing.close()

    async def consume(self, take: Callable[[AbstractIncomingMessage], Awaitable[None]]) -> AbstractRobustChannel:
        """Hand messages of every partition to `take`, in all never more than the prefetch unacknowledged.

        Closing the channel that comes back stops it, and returns what was not acknowledged.
        """
        channel = await self.channel()
        await channel.set_qos(prefetch_count=max(1, limits.PREFETCH_MESSAGES // self.topology.partitions))
        for partition in range(self.topology.partitions):
            # Asked for, not assumed: the channel brings back the consumers of queues that it was told of, no others.
            queue = await channel.get_queue(self.topology.events_queue(partition))
            await queue.consume(take)
        return channel

    async def _declare(self, channel: AbstractRobustChannel) -> None:
        """Declare the same on every start of every service: whoever comes first makes it."""
        names = self.topology
        events = await channel.declare_exchange(names.events_exchange, aio_pika.ExchangeType.DIRECT, durable=True)
        await channel.declare_exchange(names.notifications_exchange, aio_pika.ExchangeType.TOPIC, durable=True)
        dead_letters = await channel.declare_exchange(names.dead_letters, aio_pika.ExchangeType.FANOUT, durable=True)
        dead_letters_queue = await channel.declare_queue(
            names.dead_letters,
            durable=True,
            # Looking at them returns them, which counts as a delivery: they must outlast any number of looks.
            arguments={**QUORUM_ARGUMENTS, "x-delivery-limit": 2**31 - 1},
        )
        await dead_letters_queue.bind(dead_letters)
        for partition in range(names.partitions):
            queue = await channel.declare_queue(
                names.events_queue(partition),
                durable=True,
                arguments={
                    **QUORUM_ARGUMENTS,
                    "x-delivery-limit": limits.DELIVERIES_MAX,
                    "x-dead-letter-exchange": names.dead_letters,
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                },
            )
            await queue.bind(events, routing_key=str(partition))
