"""When a batch begins: at once where none is under way, beside another only where it is worth a transaction."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast
from uuid import UUID

import pytest
from aio_pika.exceptions import ChannelInvalidStateError

from tallymarks import limits
from tallymarks.broker import Topology
from tallymarks.database import Database
from tallymarks.events import AnyEvent
from tallymarks.messages import event_messages
from tallymarks_assessor.assess import Assessed, Assessor
from tallymarks_assessor.batches import Batches
from tests.parts import Clock, until
from tests.unit.builders import action

TENANT = UUID(int=1)
TOPOLOGY = Topology("test", 1)
TURNS = 50
"""Of the event loop: many more than anything takes here that need not wait."""


class Held:
    """An assessor that ends with what it is handed when it is let."""

    def __init__(self) -> None:
        self.handed_over: list[Sequence[AnyEvent]] = []
        self.let = asyncio.Event()

    async def assess(self, _: UUID, events: Sequence[AnyEvent]) -> Assessed:
        self.handed_over.append(events)
        await self.let.wait()
        return Assessed(len(events), 0, 0)


class Message:
    """A message as the broker hands it over."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.headers: dict[str, Any] = {}
        self.is_closed = False
        self.is_acknowledged = False

    @property
    def channel(self) -> "Message":
        return self

    async def ack(self) -> None:
        if self.is_closed:
            raise ChannelInvalidStateError
        self.is_acknowledged = True


def message_of(number: int) -> Message:
    """A message with an event of a customer of its own."""
    event = action(event_id=UUID(int=number), customer_id=UUID(int=number))
    (message,) = event_messages(TOPOLOGY, TENANT, [event], lambda: UUID(int=1))
    return Message(message.body)


class Running:
    """Batches that run, on what the test hands over."""

    def __init__(self, assessor: Held, batches: Batches) -> None:
        self._assessor = assessor
        self._batches = batches

    async def arrived(self, *messages: Message) -> list[int]:
        """Hand over messages; gives how many events each transaction has that has begun by now."""
        for message in messages:
            await self._batches.take(cast(Any, message))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return [len(events) for events in self._assessor.handed_over]


@pytest.fixture
def assessor() -> Held:
    return Held()


@pytest.fixture
async def running(assessor: Held, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(limits, "TRANSACTIONS_AT_ONCE", 10)
    batches = Batches(
        cast(Database, None),  # nothing is put aside here
        TOPOLOGY,
        cast(Assessor, assessor),
        now=clock,
        new_id=lambda: UUID(int=1),
        committed=asyncio.Event(),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(batches.run(stop))
    yield Running(assessor, batches)
    assessor.let.set()
    stop.set()
    await task


async def test_what_comes_alone_begins_at_once_and_what_comes_meanwhile_together(
    running: Running, assessor: Held
) -> None:
    messages = [message_of(number) for number in range(1, 5)]
    assert await running.arrived(messages[0]) == [1]
    assert await running.arrived(*messages[1:]) == [1]
    assessor.let.set()
    assert await running.arrived() == [1, 3]
    assert all(message.is_acknowledged for message in messages)


async def test_much_begins_beside_the_batch_under_way(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    small = message_of(2)
    monkeypatch.setattr(limits, "BATCH_BESIDE_BYTES_MIN", 2 * len(small.body))
    assert await running.arrived(message_of(1)) == [1]
    assert await running.arrived(small) == [1]
    assert await running.arrived(message_of(3)) == [1, 2]


async def test_no_more_batches_are_under_way_than_may_be(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_BESIDE_BYTES_MIN", 0)
    begun = [await running.arrived(message_of(number)) for number in range(1, limits.BATCHES_AT_ONCE + 3)]
    assert begun[-1] == [1] * limits.BATCHES_AT_ONCE


async def test_little_does_not_wait_for_a_batch_that_takes_long(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BATCH_ALONE_SECONDS_MAX", 0.01)
    await running.arrived(message_of(1), message_of(2))
    await running.arrived(message_of(3))

    async def has_begun() -> bool:
        return await running.arrived() == [2, 1]

    await until(has_begun)


async def test_what_a_closed_channel_has_brought_keeps_no_other_from_being_acknowledged(
    running: Running, assessor: Held
) -> None:
    gone, there = message_of(1), message_of(2)
    gone.is_closed = True
    assessor.let.set()
    assert await running.arrived(gone, there) == [1]
    assert there.is_acknowledged
