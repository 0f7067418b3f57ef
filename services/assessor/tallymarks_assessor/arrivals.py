"""Messages that have arrived and wait for their batch: what comes next of them, bounded, and read."""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import ChannelInvalidStateError
from pydantic import ValidationError

from tallymarks import limits
from tallymarks.broker import UNAVAILABLE_ERRORS, loss_as_error
from tallymarks.events import AnyEvent, EventMessage
from tallymarks.logs import reason_of
from tallymarks.messages import read_events

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """A message with what was read from it, or why nothing could be."""

    message: AbstractIncomingMessage
    content: EventMessage | ValidationError

    @property
    def events(self) -> Sequence[AnyEvent]:
        """The events that it carries."""
        return self.content.events if isinstance(self.content, EventMessage) else ()


@dataclass(slots=True)
class _Filling:
    """A batch as it fills."""

    taken: list[Taken] = field(default_factory=list)
    events: int = 0
    size: int = 0

    @property
    def has_room(self) -> bool:
        return self.events < limits.ASSESS_EVENTS_MAX and self.size < limits.ASSESS_BYTES_MAX

    def add(self, message: AbstractIncomingMessage) -> None:
        self.taken.append(read(message))
        self.events += len(self.taken[-1].events)
        self.size += len(message.body)


class Arrivals:
    """What the broker has handed over. The prefetch bounds it; unread, since events take many times their bytes."""

    def __init__(self) -> None:
        """Start empty."""
        self._arrived: deque[AbstractIncomingMessage] = deque()
        self.size = 0
        """Bytes."""

    def put(self, message: AbstractIncomingMessage) -> None:
        """Keep a message for a later batch."""
        self._arrived.append(message)
        self.size += len(message.body)

    @property
    def are_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._arrived

    @property
    def begin_with_a_suspect(self) -> bool:
        """Whether what waits longest is to be assessed apart from others."""
        return bool(self._arrived) and is_suspect(self._arrived[0])

    async def batch(self) -> list[Taken]:
        """Read what has arrived, until it carries as many events as a batch holds."""
        batch = _Filling()
        while batch.has_room and self._arrived:
            if is_suspect(self._arrived[0]):
                self._arrived.rotate(-1)
                break
            message = self._take()
            if not is_gone(message):  # else it comes again, on the channel that took its place
                batch.add(message)
                await asyncio.sleep(0)
        return batch.taken

    async def suspects(self) -> list[Taken]:
        """Read a few of the messages that have come again and again, the fewer the more often they have.

        One of them may be what ends assessors, and the others only near it in the queue; or nothing is wrong but the
        connection. They are taken in any order: each end leaves about half of them around the one at fault, which is
        alone long before they have been delivered as often as the broker lets it.
        """
        await asyncio.sleep(limits.SUSPECTS_GATHER_SECONDS)
        arrived = [self._take() for _ in range(len(self._arrived))]
        suspects = [message for message in arrived if not is_gone(message)]
        random.shuffle(suspects)
        most = together_max(max(map(deliveries_before, suspects), default=0))
        batch = _Filling()
        while suspects and batch.has_room and len(batch.taken) < most:
            batch.add(suspects.pop())
        for message in suspects:
            self.put(message)
        return batch.taken

    def _take(self) -> AbstractIncomingMessage:
        message = self._arrived.popleft()
        self.size -= len(message.body)
        return message


def read(message: AbstractIncomingMessage) -> Taken:
    """Read a message, or note why it cannot be."""
    try:
        return Taken(message, read_events(message.body))
    except ValidationError as error:
        return Taken(message, error)


def is_suspect(message: AbstractIncomingMessage) -> bool:
    """Tell whether a message came so often that it may be what ended its assessors."""
    return deliveries_before(message) >= limits.DELIVERIES_SUSPECT


def together_max(deliveries: int) -> int:
    """Give how many suspects are assessed together, of which one was delivered so often before: at last one."""
    return max(1, limits.SUSPECTS_TOGETHER_MAX >> max(0, deliveries - limits.DELIVERIES_SUSPECT))


def deliveries_before(message: AbstractIncomingMessage) -> int:
    """Give how often a message was delivered before and not acknowledged, as a quorum queue counts it."""
    count = message.headers.get("x-delivery-count", 0)
    return count if isinstance(count, int) else 0


def is_gone(message: AbstractIncomingMessage) -> bool:
    """Tell whether the channel that brought a message is closed: asked for it, the message then raises."""
    try:
        return message.channel.is_closed
    except ChannelInvalidStateError:
        return True


async def acknowledge(batch: Sequence[Taken]) -> None:
    """Acknowledge messages whose effect is committed; on a connection that is gone they come again, to no effect."""
    try:
        with loss_as_error():
            for taken in batch:
                await taken.message.ack()
    except UNAVAILABLE_ERRORS as error:
        log.warning("messages could not be acknowledged and come again", messages=len(batch), reason=reason_of(error))
