"""Memberships that lapse by themselves, by all five modes, through rules; a lapsed one is no membership."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tallymarks_assessor.assess import Assessor
from tallymarks_segment_expiry.sweep import Sweeper
from tests.integration.pipeline.parts import (
    action,
    add_to,
    count,
    give,
    in_name_space,
    lapses_of,
    make_rule,
    make_segment,
    memberships_of,
    points,
    remove_from,
    seeded_ids,
)
from tests.parts import ApiClient, Clock, Tenant

TICK = timedelta(milliseconds=1)
BORN = datetime(2024, 2, 29, 12, tzinfo=UTC)
JOINED = datetime(2026, 1, 31, 18, 30, tzinfo=UTC)

EXPIRIES: dict[str, tuple[dict[str, Any], datetime | None]] = {
    "none": ({"mode": "none"}, None),
    "untilAnniversary": ({"mode": "untilAnniversary"}, datetime(2026, 2, 28, 12, tzinfo=UTC)),
    "untilAnniversaryPlusYear": ({"mode": "untilAnniversaryPlusYear"}, datetime(2027, 2, 28, 12, tzinfo=UTC)),
    "90 days": ({"mode": "period", "count": 90, "unit": "days"}, datetime(2026, 5, 1, 18, 30, tzinfo=UTC)),
    "a month": ({"mode": "period", "count": 1, "unit": "months"}, datetime(2026, 2, 28, 18, 30, tzinfo=UTC)),
    "25 months": ({"mode": "period", "count": 25, "unit": "months"}, datetime(2028, 2, 29, 18, 30, tzinfo=UTC)),
    "5 years": ({"mode": "period", "count": 5, "unit": "years"}, datetime(2031, 1, 31, 18, 30, tzinfo=UTC)),
    "date": ({"mode": "date", "date": "2026-06-30T22:00:00.000Z"}, datetime(2026, 6, 30, 22, tzinfo=UTC)),
}


async def segments_of(api: ApiClient, customer_id: UUID) -> list[str]:
    """The ids of the segments that the api says the customer is in."""
    answered = await api.get(f"/api/v1/customers/{customer_id}/segments")
    assert answered.status == 200
    return [segment["segmentId"] for segment in answered.body["segments"]]


@pytest.mark.parametrize("mode", EXPIRIES)
async def test_a_membership_lapses_as_its_segment_says(
    assessor: Assessor, sweeper: Sweeper, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock,
    mode: str,
) -> None:  # fmt: skip
    ids = seeded_ids(1)
    customer_id, joining = ids(), ids()
    expiry, lapses_at = EXPIRIES[mode]
    clock.now = BORN
    await assessor.assess(tenant.tenant_id, [points(ids(), customer_id, 1)])
    clock.now = JOINED
    segment_id = await make_segment(api, "club", expiry)
    await make_rule(api, "action", add_to(segment_id))
    await assessor.assess(tenant.tenant_id, [action(joining, customer_id)])
    joined = {(customer_id, segment_id): (JOINED, joining, lapses_at)}
    assert await memberships_of(owner, tenant.tenant_id) == joined

    clock.now = (lapses_at or JOINED + timedelta(days=36_500)) - TICK
    assert await segments_of(api, customer_id) == [str(segment_id)]
    assert await sweeper.sweep(asyncio.Event()) == 0
    assert await memberships_of(owner, tenant.tenant_id) == joined
    clock.now += TICK
    if lapses_at is None:
        return
    assert await segments_of(api, customer_id) == []  # lapsed at that very instant, removed or not
    assert await sweeper.sweep(asyncio.Event()) == 1
    assert await memberships_of(owner, tenant.tenant_id) == {}
    assert await lapses_of(owner, tenant.tenant_id) == {(customer_id, segment_id, JOINED, lapses_at): 1}


async def test_rules_see_a_lapsed_member_as_no_member(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock
) -> None:
    ids = seeded_ids(2)
    customer_id = ids()
    segment_id = await make_segment(api, "day", {"mode": "period", "count": 1, "unit": "days"})
    member = {"type": "inSegment", "segmentId": str(segment_id)}
    await make_rule(api, "action", add_to(segment_id), criteria=[in_name_space("Join")])
    await make_rule(api, "action", give(10), criteria=[in_name_space("Visit"), member])
    await make_rule(api, "action", give(1), criteria=[in_name_space("Visit"), {**member, "type": "notInSegment"}])
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id, "Join")])
    for advance, amount in ((timedelta(days=1) - TICK, 10), (TICK, 1)):
        clock.now += advance
        visit = action(ids(), customer_id, "Visit")
        await assessor.assess(tenant.tenant_id, [visit])
        assert await owner.fetchval("SELECT amount FROM transactions WHERE event_id = $1", visit.event_id) == amount


async def test_joining_again_moves_the_lapse_forward_and_never_back(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock
) -> None:
    ids = seeded_ids(3)
    customer_id, first_event = ids(), ids()
    segment_id = await make_segment(api, "ten", {"mode": "period", "count": 10, "unit": "days"})
    await make_rule(api, "action", add_to(segment_id))
    joined_at = clock()
    await assessor.assess(tenant.tenant_id, [action(first_event, customer_id)])
    clock.advance(days=4)
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
    (membership,) = (await memberships_of(owner, tenant.tenant_id)).values()
    assert membership == (joined_at, first_event, joined_at + timedelta(days=14))
    shorter = {"name": "ten", "expiry": {"mode": "period", "count": 1, "unit": "days"}}
    assert (await api.put(f"/api/v1/admin/segments/{segment_id}", shorter)).status == 200
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
    assert list((await memberships_of(owner, tenant.tenant_id)).values()) == [membership]


async def test_joining_after_a_lapse_that_nobody_has_removed_yet_starts_anew_and_records_the_lapse(
    assessor: Assessor, sweeper: Sweeper, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock
) -> None:
    ids = seeded_ids(4)
    customer_id = ids()
    segment_id = await make_segment(api, "day", {"mode": "period", "count": 1, "unit": "days"})
    await make_rule(api, "action", add_to(segment_id))
    for _ in range(3):
        joined_at, event_id = clock(), ids()
        await assessor.assess(tenant.tenant_id, [action(event_id, customer_id)])
        (membership,) = (await memberships_of(owner, tenant.tenant_id)).values()
        assert membership == (joined_at, event_id, joined_at + timedelta(days=1))
        clock.advance(days=2)
    assert await count(owner, "segment_lapses") == 2
    assert await sweeper.sweep(asyncio.Event()) == 1
    assert set((await lapses_of(owner, tenant.tenant_id)).values()) == {1}
    assert await count(owner, "segment_lapses") == 3


async def test_leaving_is_no_lapse(
    assessor: Assessor, sweeper: Sweeper, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock
) -> None:
    ids = seeded_ids(5)
    customer_id = ids()
    segment_id = await make_segment(api, "day", {"mode": "period", "count": 1, "unit": "days"})
    await make_rule(api, "action", add_to(segment_id), criteria=[in_name_space("Join")])
    await make_rule(api, "action", remove_from(segment_id), criteria=[in_name_space("Leave")])
    for name_space in ("Join", "Leave"):
        await assessor.assess(tenant.tenant_id, [action(ids(), customer_id, name_space)])
    assert await memberships_of(owner, tenant.tenant_id) == {}
    clock.advance(days=2)
    assert await sweeper.sweep(asyncio.Event()) == 0
    assert await count(owner, "segment_lapses") == 0
