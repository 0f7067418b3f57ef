"""Taking messages as batches: what has arrived, bounded, cut into shares that are assessed at once, then acknowledged.

A batch that fails for a reason of its own is tried again in halves until the event at fault stands alone; that one is
put aside, and all others count. While the database is away nothing is given back or put aside: the batch waits.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid5

import orjson
import structlog
from aio_pika.abc import AbstractIncomingMessage
from prometheus_client import Counter, Histogram
from pydantic import ValidationError

from tallymarks import limits, outbox
from tallymarks.broker import Topology
from tallymarks.database import TIMEOUT_ERRORS, TRANSIENT_ERRORS, Database
from tallymarks.errors import Refusal
from tallymarks.events import AnyEvent, EventMessage, EventType
from tallymarks.logs import reason_of
from tallymarks.messages import REASON_CODE_HEADER, dead_letter, event_json, is_decided, unreadable_letter
from tallymarks.sql import events as sql
from tallymarks_assessor.arrivals import Arrivals, Taken, acknowledge
from tallymarks_assessor.assess import Assessor, UnknownTenant
from tallymarks_assessor.shares import Turn, Turns, shares_of

log = structlog.get_logger(__name__)

EVENTS_ASSESSED = Counter("tallymarks_events_assessed", "Events that took effect")
EVENTS_DUPLICATE = Counter("tallymarks_events_duplicate", "Events that had taken effect before")
EVENTS_PUT_ASIDE = Counter("tallymarks_events_put_aside", "Events that could not be assessed", ["reason_code"])
TRANSACTIONS_WRITTEN = Counter("tallymarks_transactions_written", "Points transactions written")
BATCH_SECONDS = Histogram("tallymarks_batch_seconds", "Time from taking a batch to its acknowledgement")
BATCH_EVENTS = Histogram(
    "tallymarks_batch_events", "Events of a transaction", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)


Result = TypeVar("Result")


class AssessmentFailed(Refusal):
    """An event that a fault of ours keeps from being assessed: mended, it can be replayed."""

    code, status, message = "AssessmentFailed", 500, "The event could not be assessed."


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages that are acknowledged together: a tenant's once their shares are committed, or an unreadable one."""

    messages: Sequence[Taken]
    turns: Sequence[Turn]


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
        self._arrivals = Arrivals()
        self._turns = Turns()
        self._under_way = 0
        self._is_late = False
        """Whether one that is under way takes long."""
        self._changed = asyncio.Event()
        """What decides whether a batch may begin may have changed."""
        self._transactions = asyncio.Semaphore(limits.TRANSACTIONS_AT_ONCE)

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Keep a message that has arrived for the next batch."""
        self._arrivals.put(message)
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Assess batch after batch until `stop` is set; those under way are finished first.

        The next one is read and begun while the last is written. What keeps coming again is assessed without them.
        """
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._changed.set())
        try:
            async with asyncio.TaskGroup() as batches:
                while await self._until_one_may_begin(stop):
                    if self._arrivals.begin_with_a_suspect:
                        await self._see_through(self._planned(await self._arrivals.suspects()), stop)
                    else:
                        batch = self._planned(await self._arrivals.batch())
                        self._begun(batches.create_task(self._see_through(batch, stop)))
        finally:
            stopping.cancel()

    async def _until_one_may_begin(self, stop: asyncio.Event) -> bool:
        """Wait until a batch may begin; False once a stop is asked for."""
        while not stop.is_set() and not self._one_may_begin():
            self._changed.clear()
            await self._changed.wait()
        return not stop.is_set()

    def _one_may_begin(self) -> bool:
        """Tell whether anything has arrived that is to begin now.

        Beside another batch it is only when there is much of it, or the other takes long: a transaction has a price of
        its own, however little is written in it.
        """
        if self._arrivals.are_empty:
            return False
        if self._under_way == 0:
            return True
        if self._under_way == limits.BATCHES_AT_ONCE or self._arrivals.begin_with_a_suspect:
            return False
        return self._is_late or self._arrivals.size >= limits.BATCH_BESIDE_BYTES_MIN

    def _begun(self, batch: asyncio.Task[None]) -> None:
        def late() -> None:
            self._is_late = True
            self._changed.set()

        def ended(_: asyncio.Task[None]) -> None:
            becoming_late.cancel()
            self._under_way -= 1
            self._changed.set()

        self._under_way += 1
        self._is_late = False
        becoming_late = asyncio.get_running_loop().call_later(limits.BATCH_ALONE_SECONDS_MAX, late)
        batch.add_done_callback(ended)

    def _planned(self, batch: Sequence[Taken]) -> list[Delivery]:
        """Cut a batch into shares and give each its turn, before anything of it or of the next one begins."""
        by_tenant: defaultdict[UUID, list[Taken]] = defaultdict(list)
        deliveries = []
        for taken in batch:
            if isinstance(taken.content, EventMessage):
                by_tenant[taken.content.tenant_id].append(taken)
            else:
                deliveries.append(Delivery([taken], []))
        for tenant_id, messages in by_tenant.items():
            events = [event for taken in messages for event in taken.events]
            turns = [self._turns.give(share) for share in shares_of(tenant_id, events)]
            deliveries.append(Delivery(messages, turns))
        return deliveries

    async def _see_through(self, batch: Sequence[Delivery], stop: asyncio.Event) -> None:
        """Assess what the messages carry and acknowledge them; what is not acknowledged comes again."""
        with BATCH_SECONDS.time():
            await _at_once([self._deliver(delivery, stop) for delivery in batch])

    async def _deliver(self, delivery: Delivery, stop: asyncio.Event) -> None:
        """Assess the shares at the same time; what could not be read is put aside."""
        works = [self._assess(turn, stop) for turn in delivery.turns]
        works += [
            self._until_done(partial(self._put_unreadable_aside, taken.message.body, taken.content), stop)
            for taken in delivery.messages
            if isinstance(taken.content, ValidationError)
        ]
        if all(await _at_once(works)):
            await acknowledge(delivery.messages)

    async def _assess(self, turn: Turn, stop: asyncio.Event) -> bool:
        """Assess one share when its turn has come; False when stopped before that was possible."""
        async with self._turns.taking(turn) as share, self._transactions:
            BATCH_EVENTS.observe(len(share.events))
            return await self._until_done(partial(self._in_halves, share.tenant_id, share.events), stop)

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
        """Make the failure visible as an event of type error, and send it to the dead letters: both or neither.

        Not where the event has taken effect elsewhere meanwhile, so that it should not have been evaluated at all.
        """
        event = event.model_copy()  # written anew: it may be the JSON that it travelled in which cannot be recorded
        reason_code = error.code if isinstance(error, Refusal) else AssessmentFailed.code
        reason = f"{type(error).__name__}: {error}"
        now = self._now()
        letter = dead_letter(
            self._topology, tenant_id, event, reason_code=reason_code, reason=reason, new_id=self._new_id
        )
        async with self._database.transaction(tenant_id) as connection:
            if not is_decided(event) and await connection.fetch(sql.SELECT_RECORDED, tenant_id, [event.event_id]):
                EVENTS_DUPLICATE.inc()
                return
            if not isinstance(error, UnknownTenant):
                row = (
                    uuid5(event.event_id, reason_code),
                    event.customer_id,
                    EventType.ERROR,
                    f"Error.{reason_code}",
                    str(event.event_id),
                    now,
                    orjson.dumps({"reason": reason, "event": orjson.loads(event_json(event))}).decode(),
                )
                await connection.execute(sql.INSERT_EVENTS, tenant_id, [row], now)
            await outbox.put(connection, tenant_id, [letter], now)
        log.error("an event is put aside", event_id=str(event.event_id), reason_code=reason_code, exc_info=error)
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


async def _at_once(works: Sequence[Coroutine[None, None, Result]]) -> list[Result]:
    """Do all at the same time, the only one without a task of its own; gives what they give."""
    if len(works) == 1:
        return [await works[0]]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
