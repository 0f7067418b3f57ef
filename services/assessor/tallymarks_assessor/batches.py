"""Taking messages as batches: what has arrived, bounded, assessed tenant by tenant, then acknowledged.

A batch that fails for a reason of its own is tried again in halves until the event at fault stands alone; that one is
put aside, and all others count. While the database is away nothing is given back or put aside: the batch waits.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID, uuid5

import orjson
import structlog
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import ChannelInvalidStateError
from prometheus_client import Counter, Histogram
from pydantic import ValidationError

from tallymarks import limits, outbox
from tallymarks.broker import UNAVAILABLE_ERRORS as BROKER_UNAVAILABLE_ERRORS
from tallymarks.broker import Topology
from tallymarks.database import TIMEOUT_ERRORS, TRANSIENT_ERRORS, Database
from tallymarks.errors import Refusal
from tallymarks.events import AnyEvent, EventMessage, EventType
from tallymarks.logs import reason_of
from tallymarks.messages import REASON_CODE_HEADER, dead_letter, event_json, read_events, unreadable_letter
from tallymarks.sql import events as sql
from tallymarks_assessor.assess import Assessor, UnknownTenant

log = structlog.get_logger(__name__)

EVENTS_ASSESSED = Counter("tallymarks_events_assessed", "Events that took effect")
EVENTS_DUPLICATE = Counter("tallymarks_events_duplicate", "Events that had taken effect before")
EVENTS_PUT_ASIDE = Counter("tallymarks_events_put_aside", "Events that could not be assessed", ["reason_code"])
TRANSACTIONS_WRITTEN = Counter("tallymarks_transactions_written", "Points transactions written")
BATCH_SECONDS = Histogram("tallymarks_batch_seconds", "Time from taking a batch to its acknowledgement")
BATCH_EVENTS = Histogram(
    "tallymarks_batch_events", "Events of a batch", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)


class AssessmentFailed(Refusal):
    """An event that a fault of ours keeps from being assessed: mended, it can be replayed."""

    code, status, message = "AssessmentFailed", 500, "The event could not be assessed."


@dataclass(frozen=True, slots=True)
class Taken:
    """A message with what was read from it, or why nothing could be."""

    message: AbstractIncomingMessage
    content: EventMessage | ValidationError

    @property
    def events(self) -> Sequence[AnyEvent]:
        """The events that it carries."""
        return self.content.events if isinstance(self.content, EventMessage) else ()


class Batches:
    """The loop between the broker's queues and the assessor."""

    def __init__(
        self,
        database: Database,
        topology: Topology,
        assessor: Assessor,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        committed: asyncio.Event,
    ) -> None:
        """Take the parts; `committed` is set when something may have been written to the outbox."""
        self._database = database
        self._topology = topology
        self._assessor = assessor
        self._now = now
        self._new_id = new_id
        self._committed = committed
        # The prefetch bounds it; unread, since events take many times the memory of their bytes.
        self._arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Keep a message that has arrived for the next batch."""
        self._arrived.put_nowait(message)

    async def run(self, stop: asyncio.Event) -> None:
        """Assess batch after batch until `stop` is set; the batch under way is finished first."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                arriving = asyncio.create_task(self._arrived.get())
                await asyncio.wait({arriving, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not arriving.done():
                    arriving.cancel()
                    return
                with BATCH_SECONDS.time():
                    await self._see_through(await self._batch(arriving.result()), stop)
        finally:
            stopping.cancel()

    async def _batch(self, first: AbstractIncomingMessage) -> list[Taken]:
        """Read the first message and what else has arrived, until they carry as many events as a batch holds.

        What comes again and again may be what ends assessors, or only near it in the queue: such messages are taken one
        at a time, in any order. So each end leaves fewer around the one at fault, before they have been delivered as
        often as the broker lets it.
        """
        if deliveries_before(first) >= limits.DELIVERIES_SUSPECT:
            await asyncio.sleep(limits.SUSPECTS_GATHER_SECONDS)
            return [read(self._any_of([first, *self._all_arrived()]))]
        batch = [read(first)]
        events, size = len(batch[0].events), len(first.body)
        while events < limits.ASSESS_EVENTS_MAX and size < limits.ASSESS_BYTES_MAX and not self._arrived.empty():
            message = self._arrived.get_nowait()
            if is_gone(message):
                continue  # it comes again, on the channel that took its place
            if deliveries_before(message) >= limits.DELIVERIES_SUSPECT:
                self._arrived.put_nowait(message)
                break
            batch.append(read(message))
            events += len(batch[-1].events)
            size += len(message.body)
        return batch

    def _all_arrived(self) -> list[AbstractIncomingMessage]:
        arrived = [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]
        return [message for message in arrived if not is_gone(message)]

    def _any_of(self, messages: Sequence[AbstractIncomingMessage]) -> AbstractIncomingMessage:
        """Choose one, and keep the others for later."""
        chosen = random.choice(messages)  # noqa: S311 - it keeps no secret
        for message in messages:
            if message is not chosen:
                self._arrived.put_nowait(message)
        return chosen

    async def _see_through(self, batch: Sequence[Taken], stop: asyncio.Event) -> None:
        """Assess each tenant's share and acknowledge its messages; what is not acknowledged comes again."""
        by_tenant: defaultdict[UUID, list[Taken]] = defaultdict(list)
        for taken in batch:
            if isinstance(taken.content, EventMessage):
                by_tenant[taken.content.tenant_id].append(taken)
            elif await self._until_done(partial(self._put_unreadable_aside, taken.message.body, taken.content), stop):
                await acknowledge([taken])
        for tenant_id, share in by_tenant.items():
            events = [event for taken in share for event in taken.events]
            BATCH_EVENTS.observe(len(events))
            if await self._until_done(partial(self._in_halves, tenant_id, events), stop):
                await acknowledge(share)

    async def _until_done(self, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
        """Do it, again and again while the database is away or contended; False when stopped while waiting."""
        wait_seconds = 0.05
        while True:
            try:
                await work()
            except TRANSIENT_ERRORS as error:
                log.warning("a batch waits", reason=reason_of(error), wait_seconds=wait_seconds)
            else:
                return True
            if await _is_set_within(stop, wait_seconds):
                return False
            wait_seconds = min(wait_seconds * 2, limits.RETRY_WAIT_SECONDS_MAX)

    async def _in_halves(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> None:
        """Assess the events; where they fail for a reason of their own, find the one at fault and put it aside."""
        try:
            assessed = await self._assessor.assess(tenant_id, events)
        except TRANSIENT_ERRORS as error:
            if len(events) == 1 or not isinstance(error, TIMEOUT_ERRORS):
                raise
            log.warning("a batch took too long and is halved", events=len(events), reason=reason_of(error))
        except Exception as error:
            if len(events) == 1:
                await self._put_aside(tenant_id, events[0], error)
                return
            log.warning("a batch failed and is halved", events=len(events), reason=reason_of(error))
        else:
            EVENTS_ASSESSED.inc(assessed.events)
            EVENTS_DUPLICATE.inc(assessed.duplicates)
            TRANSACTIONS_WRITTEN.inc(assessed.transactions)
            return
        middle = len(events) // 2
        await self._in_halves(tenant_id, events[:middle])
        await self._in_halves(tenant_id, events[middle:])

    async def _put_aside(self, tenant_id: UUID, event: AnyEvent, error: Exception) -> None:
        """Make the failure visible as an event of type error, and send it to the dead letters: both or neither."""
        reason_code = error.code if isinstance(error, Refusal) else AssessmentFailed.code
        reason = f"{type(error).__name__}: {error}"
        log.error("an event is put aside", event_id=str(event.event_id), reason_code=reason_code, exc_info=error)
        now = self._now()
        letter = dead_letter(
            self._topology, tenant_id, event, reason_code=reason_code, reason=reason, new_id=self._new_id
        )
        async with self._database.transaction(tenant_id) as connection:
            if not isinstance(error, UnknownTenant):
                await connection.execute(
                    sql.INSERT_EVENTS,
                    tenant_id,
                    [uuid5(event.event_id, reason_code)],
                    [event.customer_id],
                    [EventType.ERROR],
                    [f"Error.{reason_code}"],
                    [str(event.event_id)],
                    [now],
                    [orjson.dumps({"reason": reason, "event": orjson.loads(event_json(event))}).decode()],
                    now,
                )
            await outbox.put(connection, tenant_id, [letter], now)
        self._committed.set()
        EVENTS_PUT_ASIDE.labels(reason_code).inc()

    async def _put_unreadable_aside(self, body: bytes, error: ValidationError) -> None:
        """Send a message that is no events of ours to the dead letters."""
        log.error("an unreadable message is put aside", reason=reason_of(error))
        letter = unreadable_letter(self._topology, body, str(error), self._new_id)
        async with self._database.connection() as connection, connection.transaction():
            await outbox.put(connection, None, [letter], self._now())
        self._committed.set()
        EVENTS_PUT_ASIDE.labels(letter.headers[REASON_CODE_HEADER]).inc()


def read(message: AbstractIncomingMessage) -> Taken:
    """Read a message, or note why it cannot be."""
    try:
        return Taken(message, read_events(message.body))
    except ValidationError as error:
        return Taken(message, error)


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
        for taken in batch:
            await taken.message.ack()
    except BROKER_UNAVAILABLE_ERRORS as error:
        log.warning("messages could not be acknowledged and come again", messages=len(batch), reason=reason_of(error))


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
