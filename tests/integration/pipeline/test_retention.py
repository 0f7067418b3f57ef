"""Explanations are removed after their time: in bounded lots, by any number of replicas, and nothing else is."""

import asyncio
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.database import Database
from tallymarks_assessor.assess import Assessor
from tallymarks_segment_expiry.retention import Retention
from tests.integration.pipeline.parts import action, count, give, make_rule, seeded_ids
from tests.parts import ApiClient, Clock, Tenant, until

DAYS = 90
MILLISECOND = timedelta(milliseconds=1)


@pytest.fixture
def retention(database: Database, clock: Clock) -> Retention:
    """The worker, not running by itself."""
    return Retention(database, now=clock, days=DAYS)


async def happened(assessor: Assessor, tenant: Tenant, number: int, seed: int) -> list[UUID]:
    """Have so many events assessed now; gives their ids."""
    ids = seeded_ids(seed)
    events = [action(ids(), ids()) for _ in range(number)]
    await assessor.assess(tenant.tenant_id, events)
    return [event.event_id for event in events]


async def explained(owner: asyncpg.Connection) -> set[UUID]:
    """The events with an explanation."""
    return {row["event_id"] for row in await owner.fetch("SELECT event_id FROM assessments")}


async def test_what_is_older_than_its_time_is_removed_to_the_millisecond(
    retention: Retention, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, clock: Clock
) -> None:
    old = await happened(assessor, tenant, 3, seed=1)
    clock.now += MILLISECOND
    young = await happened(assessor, tenant, 2, seed=2)
    clock.advance(days=DAYS)
    clock.now -= MILLISECOND
    assert await retention.remove(asyncio.Event()) == 0
    clock.now += MILLISECOND
    assert await retention.remove(asyncio.Event()) == 3
    assert await explained(owner) == set(young)
    clock.now += MILLISECOND
    assert await retention.remove(asyncio.Event()) == 2
    assert await count(owner, "events", tenant.tenant_id) == len(old) + len(young)


async def test_the_age_is_that_of_the_assessment_and_not_of_the_event(
    retention: Retention, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, clock: Clock
) -> None:
    ids = seeded_ids(3)
    await assessor.assess(tenant.tenant_id, [action(ids(), ids(), at=clock() - timedelta(days=1000))])
    assert await retention.remove(asyncio.Event()) == 0
    assert await count(owner, "assessments") == 1


async def test_an_event_without_its_explanation_is_there_all_the_same(
    api: ApiClient, retention: Retention, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, clock: Clock
) -> None:
    await make_rule(api, "action", give(5))
    await happened(assessor, tenant, 1, seed=4)
    events = [row["event_id"] for row in await owner.fetch("SELECT event_id FROM events")]
    paths = [f"/api/v1/events/{event_id}/assessment" for event_id in events]
    assert len(paths) == 2  # its points event too
    assert None not in [(await api.get(path)).body["explanation"] for path in paths]
    clock.advance(days=DAYS + 1)
    assert await retention.remove(asyncio.Event()) == 1
    told = [(await api.get(path)).body for path in paths]
    assert [(one["explanation"], one["assessedAt"]) for one in told] == [(None, "2026-03-14T09:26:53.589Z")] * 2
    assert await count(owner, "transactions") == 1


async def test_a_turn_is_a_bounded_lot_and_each_tenant_has_its_own(
    retention: Retention, assessor: Assessor, tenant: Tenant, other_tenant: Tenant, owner: asyncpg.Connection,
    clock: Clock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "RETENTION_EXPLANATIONS_MAX", 4)
    await happened(assessor, tenant, 9, seed=5)
    await happened(assessor, other_tenant, 2, seed=6)
    clock.advance(days=DAYS + 1)
    removed = [await retention.remove(asyncio.Event()) for _ in range(4)]
    assert removed == [6, 4, 1, 0]
    assert await count(owner, "assessments") == 0


async def test_the_oldest_go_first(
    retention: Retention, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "RETENTION_EXPLANATIONS_MAX", 3)
    lots = []
    for seed in (8, 7, 9):
        lots.append(await happened(assessor, tenant, 3, seed=seed))
        clock.advance(hours=1)
    clock.advance(days=DAYS)
    await retention.remove(asyncio.Event())
    assert await explained(owner) == {*lots[1], *lots[2]}


async def test_replicas_remove_each_once_and_wait_for_nobody(
    database: Database, assessor: Assessor, tenant: Tenant, other_tenant: Tenant, owner: asyncpg.Connection,
    clock: Clock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "RETENTION_EXPLANATIONS_MAX", 7)
    await happened(assessor, tenant, 60, seed=10)
    await happened(assessor, other_tenant, 40, seed=11)
    clock.advance(days=DAYS + 1)
    await happened(assessor, tenant, 5, seed=12)

    async def until_nothing_is_left() -> int:
        replica, removed = Retention(database, now=clock, days=DAYS), 0
        while lot := await replica.remove(asyncio.Event()):
            removed += lot
        return removed

    # One that somebody else holds for good is passed over.
    async with owner.transaction():
        held = await owner.fetchval("SELECT event_id FROM assessments ORDER BY recorded_at LIMIT 1 FOR UPDATE")
        removed = await asyncio.gather(*(until_nothing_is_left() for _ in range(4)))
        assert sum(removed) == 99
        assert held in await explained(owner)
    assert await until_nothing_is_left() == 1
    assert await count(owner, "assessments") == 5


async def test_a_running_worker_goes_on_until_it_is_stopped(
    retention: Retention, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "RETENTION_POLL_SECONDS", 0.01)
    monkeypatch.setattr(limits, "RETENTION_EXPLANATIONS_MAX", 2)
    await happened(assessor, tenant, 7, seed=13)
    stop = asyncio.Event()
    running = asyncio.create_task(retention.run(stop))
    clock.advance(days=DAYS + 1)

    async def is_empty() -> bool:
        return await count(owner, "assessments") == 0

    await until(is_empty)
    stop.set()
    await running
