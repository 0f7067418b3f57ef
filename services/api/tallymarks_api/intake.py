"""Taking events in, those of requests that arrive together as one: one look-up, few messages, one wait for confirms."""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.events import EventBase
from tallymarks.messages import packed_events
from tallymarks_api.batcher import Batcher, done_by_tenant
from tallymarks_api.duplicates import Duplicates


class Posted(NamedTuple):
    """The events of one request."""

    tenant_id: UUID
    events: Sequence[EventBase]
    trace_parent: str | None


class Intake:
    """Publishes events, and answers when the broker has confirmed them."""

    def __init__(
        self, broker: Broker, duplicates: Duplicates, *, now: Callable[[], datetime], new_id: Callable[[], UUID]
    ) -> None:
        """Take the parts."""
        self._broker = broker
        self._duplicates = duplicates
        self._now = now
        self._new_id = new_id
        self._batcher: Batcher[Posted, list[bool]] = Batcher(
            self._accept_together,
            at_once=limits.INTAKE_LOTS_AT_ONCE,
            beside_min=limits.LOT_BESIDE_MIN,
            size_max=limits.BATCH_EVENTS_MAX,
            pace_seconds=limits.INTAKE_PACE_SECONDS,
        )

    async def accept(self, posted: Posted) -> list[bool]:
        """Publish the events, but for those that are known beforehand to be recorded; give for each whether it was.

        Raises:
            Unavailable: not all were confirmed; sending all of them again is safe.
        """
        if not posted.events:
            return []
        return await self._batcher.add(posted, len(posted.events))

    async def _accept_together(self, lot: Sequence[Posted]) -> Sequence[list[bool] | Exception]:
        return await done_by_tenant(lot, lambda posted: posted.tenant_id, self._accept)

    async def _accept(self, tenant_id: UUID, lot: Sequence[Posted]) -> list[list[bool] | Exception]:
        """Publish the events of one tenant; a request fails when one of its messages does.

        Events that are new get their createdAt here, and by it one is told from an event that was taken in before: so
        that is looked up while they are published. Whether events that bring their createdAt were is known before.
        """
        now = self._now()
        dated = {event.event_id for posted in lot for event in posted.events if event.created_at}
        known = set(await self._duplicates.recorded(tenant_id, list(dated)))
        travelling: dict[UUID, EventBase] = {}
        """Sent twice at once, an event travels once."""
        for posted in lot:
            for event in posted.events:
                if event.event_id not in known:
                    travelling.setdefault(event.event_id, event)
        async with asyncio.TaskGroup() as beside:
            looking = beside.create_task(self._recorded_meanwhile(tenant_id, list(travelling.keys() - dated)))
            failures = await self._publish(tenant_id, travelling, lot[0].trace_parent, now)
        known.update(event_id for event_id, created_at in looking.result().items() if created_at != now)
        return [_result_of(posted, known, failures) for posted in lot]

    async def _recorded_meanwhile(self, tenant_id: UUID, event_ids: Sequence[UUID]) -> Mapping[UUID, datetime]:
        """Look events up while they are published: their confirm takes longer, so they are sent first."""
        await asyncio.sleep(0)
        return await self._duplicates.recorded(tenant_id, event_ids)

    async def _publish(
        self, tenant_id: UUID, events: Mapping[UUID, EventBase], trace_parent: str | None, accepted_at: datetime
    ) -> dict[UUID, Exception]:
        """Publish; give the events that failed."""
        topology = self._broker.topology
        packed = list(
            packed_events(topology, tenant_id, events.values(), self._new_id, trace_parent, accepted_at=accepted_at)
        )
        if len(packed) == 1:
            outcomes: list[BaseException | None] = [None]
            try:
                await self._broker.publish(packed[0].message)
            except Exception as error:
                outcomes = [error]
        else:
            outcomes = await asyncio.gather(
                *(self._broker.publish(one.message) for one in packed), return_exceptions=True
            )
        event_ids = list(events)
        failures: dict[UUID, Exception] = {}
        for one, outcome in zip(packed, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failures.update((event_ids[place], outcome) for place in one.places)
            elif outcome is not None:
                raise outcome
        return failures


def _result_of(posted: Posted, known: Container[UUID], failures: Mapping[UUID, Exception]) -> list[bool] | Exception:
    """Give for each event of a request whether it was known, or came before in it; or what the request fails with."""
    is_existing: list[bool] = []
    before: set[UUID] = set()
    for event in posted.events:
        event_id = event.event_id
        if event_id in failures and event_id not in known:
            return failures[event_id]
        is_existing.append(event_id in known or event_id in before)
        before.add(event_id)
    return is_existing
