"""Explanations are removed when they are older than the operator keeps them, of every tenant, and no others."""

import asyncio

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.database import Database
from tallymarks_assessor.assess import Assessor
from tallymarks_segment_expiry.retention import Retention
from tests.integration.pipeline.parts import action, seeded_ids
from tests.parts import Clock, Tenant

DAYS = 90


async def test_explanations_are_removed_after_their_time_and_their_events_stay(
    database: Database, assessor: Assessor, clock: Clock, owner: asyncpg.Connection, tenant: Tenant,
    other_tenant: Tenant,
) -> None:  # fmt: skip
    ids, old, new = seeded_ids(1), {}, {}
    retention = Retention(database, now=clock, days=DAYS)
    for one in (tenant, other_tenant):
        old[one.tenant_id] = [action(ids(), ids()) for _ in range(3)]
        await assessor.assess(one.tenant_id, old[one.tenant_id])
    clock.advance(days=1)
    for one in (tenant, other_tenant):
        new[one.tenant_id] = [action(ids(), ids()) for _ in range(2)]
        await assessor.assess(one.tenant_id, new[one.tenant_id])

    clock.advance(days=DAYS - 1)
    assert await retention.remove(asyncio.Event()) == 0
    clock.advance(microseconds=1)
    assert await retention.remove(asyncio.Event()) == 6
    assert await retention.remove(asyncio.Event()) == 0
    left = await owner.fetch("SELECT tenant_id, event_id FROM assessments")
    kept = {(tenant_id, event.event_id) for tenant_id, events in new.items() for event in events}
    assert {tuple(row) for row in left} == kept
    assert await owner.fetchval("SELECT count(*) FROM events") == 10


async def test_no_more_than_a_lot_is_removed_in_one_transaction(
    database: Database, assessor: Assessor, clock: Clock, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETENTION_EXPLANATIONS_MAX", 2)
    ids = seeded_ids(2)
    retention = Retention(database, now=clock, days=DAYS)
    await assessor.assess(tenant.tenant_id, [action(ids(), ids()) for _ in range(3)])
    clock.advance(days=DAYS + 1)
    assert [await retention.remove_of_tenant(tenant.tenant_id) for _ in range(3)] == [2, 1, 0]
