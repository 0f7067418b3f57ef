"""Taking events in, those of requests that arrive together as one: one look-up, few messages, one wait for confirms."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.events import EventBase
from tallymarks.messages import packed_events
from tallymarks_api.batcher import Batcher, done_by_tenant
from tallymarks_api.duplicates import Duplicates


@dataclass(frozen=True, slots=True)
class Posted:
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
            beside_min=limits.INTAKE_LOT_BESIDE_MIN,
            size_max=limits.BATCH_EVENTS_MAX,
        )

    async def accept(self, posted: Posted) -> list[bool]:
        """Publish the events that are not known to have taken effect; give for each whether it is.

        Raises:
            Unavailable: not all were confirmed; sending all of them again is safe.
        """
        if not posted.events:
            return []
        return await self._batcher.add(posted, len(posted.events))

    async def _accept_together(self, lot: Sequence[Posted]) -> Sequence[list[bool] | Exception]:
        return await done_by_tenant(lot, lambda posted: posted.tenant_id, self._accept)

    async def _accept(self, tenant_id: UUID, lot: Sequence[Posted]) -> list[list[bool] | Exception]:
        """Publish the events of one tenant; a request fails when one of its messages does."""
        event_ids = [event.event_id for posted in lot for event in posted.events]
        known = await self._duplicates.existing(tenant_id, event_ids)
        now = self._now()
        fresh: list[EventBase] = []
        sent: dict[UUID, int] = {}
        """Event → its place among the fresh ones: sent twice at once, it travels once."""
        of_requests: list[tuple[list[bool], list[int]]] = []
        for posted in lot:
            is_existing: list[bool] = []
            places: list[int] = []
            of_request: set[UUID] = set()
            for event in posted.events:
                event_id = event.event_id
                is_existing.append(event_id in known or event_id in of_request)
                of_request.add(event_id)
                if event_id in known:
                    continue
                if event_id not in sent:
                    sent[event_id] = len(fresh)
                    fresh.append(event if event.created_at else event.model_copy(update={"created_at": now}))
                places.append(sent[event_id])
            of_requests.append((is_existing, places))
        failures = await self._publish(tenant_id, fresh, lot[0].trace_parent)
        if not failures:
            return [is_existing for is_existing, _ in of_requests]
        return [
            next((failures[place] for place in places if place in failures), is_existing)
            for is_existing, places in of_requests
        ]

    async def _publish(
        self, tenant_id: UUID, events: Sequence[EventBase], trace_parent: str | None
    ) -> dict[int, Exception]:
        """Publish; give what failed, by the place of the event."""
        packed = list(packed_events(self._broker.topology, tenant_id, events, self._new_id, trace_parent))
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
        failures: dict[int, Exception] = {}
        for one, outcome in zip(packed, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failures.update(dict.fromkeys(one.places, outcome))
            elif outcome is not None:
                raise outcome
        return failures
