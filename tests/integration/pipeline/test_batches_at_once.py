"""An assessor has several transactions open at once; a customer's events still count in the order they came."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.database import Database
from tallymarks.events import AnyEvent
from tallymarks_assessor.assess import Assessed
from tests.integration.pipeline.parts import RecordingAssessor, count, points, publish, seeded_ids, working
from tests.parts import Clock, Tenant, until


class HeldAssessor(RecordingAssessor):
    """An assessor that begins with what it is handed when it is let."""

    def __init__(self, database: Database, broker: Broker, clock: Clock) -> None:
        super().__init__(database, broker, clock)
        self.let = asyncio.Event()
        self.held: list[list[AnyEvent]] = []
        self.begun_at_once_max = 0
        self._begun = 0

    async def assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
        self.held.append(list(events))
        self._begun += 1
        self.begun_at_once_max = max(self.begun_at_once_max, self._begun)
        await self.let.wait()
        try:
            return await super().assess(tenant_id, events)
        finally:
            self._begun -= 1


@asynccontextmanager
async def holding(database: Database, broker: Broker, clock: Clock) -> AsyncIterator[HeldAssessor]:
    """An assessor at work, which is let go at the end at the latest."""
    assessor = HeldAssessor(database, broker, clock)
    async with working(database, broker, assessor, clock):
        try:
            yield assessor
        finally:
            assessor.let.set()


async def test_a_batch_is_assessed_in_parts_at_once(
    database: Database, owner: asyncpg.Connection, broker: Broker, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(1)
    events = [points(ids(), ids(), 1) for _ in range(limits.SHARE_EVENTS_MIN * 2 * broker.topology.partitions)]
    async with holding(database, broker, clock) as assessor:
        await publish(broker, tenant.tenant_id, events)
        await until(lambda: _has_begun(assessor, limits.SHARES_OF_TENANT))
        assessor.let.set()
        await until(lambda: _are_recorded(owner, tenant, len(events)))
    handed_over = [event.event_id for part in assessor.held for event in part]
    assert sorted(handed_over) == sorted(event.event_id for event in events)


async def test_what_another_tenant_posted_next_does_not_wait_for_a_batch_under_way(
    database: Database,
    owner: asyncpg.Connection,
    broker: Broker,
    tenant: Tenant,
    other_tenant: Tenant,
    clock: Clock,
) -> None:
    ids = seeded_ids(2)
    async with holding(database, broker, clock) as assessor:
        await publish(broker, tenant.tenant_id, [points(ids(), ids(), 1)])
        await until(lambda: _has_begun(assessor, 1))
        await publish(broker, other_tenant.tenant_id, [points(ids(), ids(), 1)])
        await until(lambda: _has_begun(assessor, 2))
        assessor.let.set()
        await until(lambda: _are_recorded(owner, other_tenant, 1))
    assert assessor.begun_at_once_max == 2


async def test_a_customers_later_batch_waits_for_the_one_under_way(
    database: Database, owner: asyncpg.Connection, broker: Broker, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(3)
    customer_id = ids()
    events = [points(ids(), customer_id, quantity) for quantity in range(1, 11)]
    async with holding(database, broker, clock) as assessor:
        await publish(broker, tenant.tenant_id, events[:1])
        await until(lambda: _has_begun(assessor, 1))
        for event in events[1:]:
            await publish(broker, tenant.tenant_id, [event])
        assessor.let.set()
        await until(lambda: _are_recorded(owner, tenant, len(events)))
    assert assessor.begun_at_once_max == 1
    assert [event.event_id for part in assessor.held for event in part] == [event.event_id for event in events]


async def _has_begun(assessor: HeldAssessor, number: int) -> bool:
    return len(assessor.held) >= number


async def _are_recorded(owner: asyncpg.Connection, tenant: Tenant, number: int) -> bool:
    return await count(owner, "events", tenant.tenant_id) >= number
