"""Messages that have arrived and wait for their batch: what comes next of them, bounded, and read."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

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


class Arrivals:
    """What the broker has handed over. The prefetch bounds it; unread, since events take many times their bytes."""

    def __init__(self) -> None:
        """Start empty."""
        self._arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    def put(self, message: AbstractIncomingMessage) -> None:
        """Keep a message for a later batch."""
        self._arrived.put_nowait(message)

    async def first(self) -> AbstractIncomingMessage:
        """Wait for the message that the next batch begins with."""
        return await self._arrived.get()

    async def batch(self, first: AbstractIncomingMessage) -> list[Taken]:
        """Read the first message and what else has arrived, until they carry as many events as a batch holds."""
        batch = [read(first)]
        events, size = len(batch[0].events), len(first.body)
        while events < limits.ASSESS_EVENTS_MAX and size < limits.ASSESS_BYTES_MAX and not self._arrived.empty():
            message = self._arrived.get_nowait()
            if is_gone(message):
                continue  # it comes again, on the channel that took its place
            if is_suspect(message):
                self._arrived.put_nowait(message)
                break
            batch.append(read(message))
            events += len(batch[-1].events)
            size += len(message.body)
            await asyncio.sleep(0)
        return batch

    async def one_suspect(self, first: AbstractIncomingMessage) -> list[Taken]:
        """Read one of the messages that have come again and again.

        One of them may be what ends assessors, and the others only near it in the queue: so they are taken one at a
        time, in any order, and each end leaves fewer around the one at fault, before they have been delivered as often
        as the broker lets it.
        """
        await asyncio.sleep(limits.SUSPECTS_GATHER_SECONDS)
        arrived = [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]
        suspects = [first, *(message for message in arrived if not is_gone(message))]
        chosen = random.choice(suspects)  # noqa: S311 - it keeps no secret
        for message in suspects:
            if message is not chosen:
                self._arrived.put_nowait(message)
        return [read(chosen)]


def read(message: AbstractIncomingMessage) -> Taken:
    """Read a message, or note why it cannot be."""
    try:
        return Taken(message, read_events(message.body))
    except ValidationError as error:
        return Taken(message, error)


def is_suspect(message: AbstractIncomingMessage) -> bool:
    """Tell whether a message came so often that it may be what ended its assessors."""
    return deliveries_before(message) >= limits.DELIVERIES_SUSPECT


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
