"""Invariant 6: the same events in the same order give the same ledger, however they are cut into batches."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallymarks.events import AnyEvent
from tallymarks_assessor.assess import Assessor
from tallymarks_segment_expiry.sweep import Sweeper
from tests.integration.pipeline.parts import (
    action,
    add_to,
    balances_of,
    give,
    in_name_space,
    lapses_of,
    ledger_of,
    make_rule,
    make_segment,
    memberships_of,
    order,
    per_unit,
    points,
    remove_from,
    seeded_ids,
)
from tests.parts import START, ApiClient, Clock, Tenant, credentials

CUSTOMERS = 3
NAME_SPACES = ("Join.Days", "Join.Date", "Leave", "Swap", "Visit")


@dataclass(frozen=True)
class Step:
    """One event, by what makes it; `repeats` is how many events before it the same event was sent, 0 for a new one."""

    customer: int
    kind: str
    amount: int
    repeats: int


STEPS = st.builds(
    Step,
    customer=st.integers(0, CUSTOMERS - 1),
    kind=st.sampled_from(("order", "points", *NAME_SPACES)),
    amount=st.integers(1, 60),
    repeats=st.sampled_from((0, 0, 0, 0, 1, 3)),
)
DAYS = st.lists(st.lists(STEPS, max_size=14), min_size=1, max_size=3)
"""Lists of events, with a day and a half between them: some memberships lapse in between."""


@dataclass
class World:
    """Two tenants with the same rules and segments, and customers that grow by each example."""

    tenants: Sequence[Tenant]
    ids: Callable[[], UUID]


@pytest.fixture
async def world(api_url: str, tenant: Tenant, other_tenant: Tenant, clock: Clock) -> World:
    ids = seeded_ids(20)
    rule_ids, segment_ids = [ids() for _ in range(9)], [ids() for _ in range(2)]
    async with aiohttp.ClientSession() as session:
        for one in (tenant, other_tenant):
            await make_rules(ApiClient(session, api_url, credentials(one.admin)), clock, iter(rule_ids), segment_ids)
    return World((tenant, other_tenant), ids)


async def make_rules(api: ApiClient, clock: Clock, rule_ids: Any, segment_ids: Sequence[UUID]) -> None:
    """Rules whose effects decide what the next event meets: points in a segment, joining, leaving, both at once."""
    days, date = segment_ids
    until = (clock() + timedelta(days=1)).isoformat()
    await make_segment(api, "days", {"mode": "period", "count": 1, "unit": "days"}, segmentId=str(days))
    await make_segment(api, "date", {"mode": "date", "date": until}, segmentId=str(date))

    async def rule(event_type: str, *fulfilments: dict[str, Any], criteria: Sequence[dict[str, Any]] = ()) -> None:
        await make_rule(api, event_type, *fulfilments, criteria=criteria, ruleId=str(next(rule_ids)))

    await rule("action", add_to(days), give(1), criteria=[in_name_space("Join.Days")])
    await rule("action", add_to(date), give(2), criteria=[in_name_space("Join.Date")])
    await rule("action", remove_from(days), remove_from(date), criteria=[in_name_space("Leave")])
    await rule("action", add_to(date), remove_from(days), criteria=[in_name_space("Swap")])
    await rule("action", add_to(days), criteria=[in_name_space("Swap"), member_of(date)])
    await rule("action", give(7), criteria=[in_name_space("Visit"), member_of(days)])
    await rule("order", per_unit("2"), criteria=[member_of(days), no_member_of(date)])
    await rule("order", per_unit("0.5"))
    await rule("points", give(1), criteria=[member_of(date)])


def member_of(segment_id: UUID) -> dict[str, Any]:
    return {"type": "inSegment", "segmentId": str(segment_id)}


def no_member_of(segment_id: UUID) -> dict[str, Any]:
    return {"type": "notInSegment", "segmentId": str(segment_id)}


def events_of(steps: Sequence[Step], customer_ids: Sequence[UUID], ids: Callable[[], UUID]) -> list[AnyEvent]:
    events: list[AnyEvent] = []
    for step in steps:
        if step.repeats and step.repeats <= len(events):
            events.append(events[-step.repeats])
            continue
        customer_id = customer_ids[step.customer]
        match step.kind:
            case "order":
                events.append(order(ids(), customer_id, str(step.amount)))
            case "points":
                events.append(points(ids(), customer_id, step.amount - 30 or 1))
            case name_space:
                events.append(action(ids(), customer_id, name_space))
    return events


def cut(events: Sequence[AnyEvent], places: Sequence[int]) -> list[Sequence[AnyEvent]]:
    inside = sorted({place for place in places if place < len(events)})
    return [events[start:end] for start, end in zip([0, *inside], [*inside, len(events)], strict=True)]


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(days=DAYS, places=st.lists(st.integers(1, 13), max_size=6), one_by_one=st.booleans())
async def test_the_same_events_in_other_batches_give_the_same_ledger_balances_and_memberships(
    assessor: Assessor,
    sweeper: Sweeper,
    owner: asyncpg.Connection,
    clock: Clock,
    world: World,
    days: list[list[Step]],
    places: list[int],
    one_by_one: bool,
) -> None:
    customer_ids = [world.ids() for _ in range(CUSTOMERS)]
    whole, in_parts = world.tenants
    clock.now = START
    for steps in days:
        events = events_of(steps, customer_ids, world.ids)
        if events:
            await assessor.assess(whole.tenant_id, events)
        for part in cut(events, range(1, len(events)) if one_by_one else places):
            if part:
                await assessor.assess(in_parts.tenant_id, part)
        clock.advance(hours=36)
    # What lapsed is removed either by a batch that meets it or by the sweep.
    await sweeper.sweep(asyncio.Event())
    assert await state_of(owner, whole, customer_ids) == await state_of(owner, in_parts, customer_ids)


async def state_of(owner: asyncpg.Connection, tenant: Tenant, customer_ids: Sequence[UUID]) -> list[Any]:
    """All that the events have led to, of the customers of one example."""
    balances = await balances_of(owner, tenant.tenant_id)
    by_customer = [await look(owner, tenant.tenant_id) for look in (ledger_of, memberships_of, lapses_of)]
    return [
        {customer_id: balances.get(customer_id) for customer_id in customer_ids},
        *({row: found[row] for row in found if row[0] in customer_ids} for found in by_customer),
    ]
