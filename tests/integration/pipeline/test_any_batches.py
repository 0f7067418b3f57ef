"""Invariant 6 with memory: rules of every criterion, however events are cut into batches and whoever assesses them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tallymarks.broker import Topology
from tallymarks.database import Connection, Database
from tallymarks.events import AnyEvent
from tallymarks.service import new_id
from tallymarks.tenants import create_tenant
from tallymarks_assessor.assess import Assessor, claim
from tallymarks_segment_expiry.sweep import Sweeper
from tests.integration.pipeline.generated import (
    CUSTOMERS,
    HAPPENINGS,
    Happening,
    Json,
    debited,
    events_of,
    make,
    rules,
    rules_without_memory,
    state_of,
)
from tests.integration.pipeline.parts import differing_balances, points, seeded_ids
from tests.integration.pipeline.test_batch_cuts import cut
from tests.parts import START, ApiClient, Clock, credentials

# One that fails is shown as it is: making it smaller takes minutes, and what differs tells what to look for.
examples = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

DAYS = st.lists(HAPPENINGS, min_size=2, max_size=3)
"""What happens on some days, with a day and a half between them: periods end and memberships lapse in between."""


@dataclass(frozen=True)
class World:
    """Two new tenants with the same rules, segments and customers, who have 100 points each."""

    whole: UUID
    other: UUID
    apis: Sequence[ApiClient]
    customer_ids: Sequence[UUID]
    ids: Callable[[], UUID]

    async def happens(self, happenings: Sequence[Happening], clock: Clock) -> list[AnyEvent]:
        """Give the events, after their redemptions were debited in both tenants."""
        events = events_of(happenings, self.customer_ids, self.ids, clock())
        first, other = [await debited(api, events) for api in self.apis]
        assert first == other
        return first


MakeWorld = Callable[[Sequence[Json]], Any]


@pytest.fixture
async def make_world(database: Database, api_url: str, assessor: Assessor, clock: Clock) -> AsyncIterator[MakeWorld]:
    async with aiohttp.ClientSession() as session:

        async def make_one(contents: Sequence[Json]) -> World:
            clock.now = START
            keys = [await create_tenant(database, "Generated", now=clock(), new_id=new_id) for _ in range(2)]
            apis = [ApiClient(session, api_url, credentials(key)) for key in keys]
            ids = seeded_ids(2)
            customer_ids, first_ids = [ids() for _ in range(CUSTOMERS)], [ids() for _ in range(CUSTOMERS)]
            for key, api in zip(keys, apis, strict=True):
                await make(api, contents, seeded_ids(1))
                first = [points(*pair, 100) for pair in zip(first_ids, customer_ids, strict=True)]
                await assessor.assess(key.tenant_id, first)
            return World(keys[0].tenant_id, keys[1].tenant_id, apis, customer_ids, ids)

        yield make_one


@examples
@given(contents=rules(), days=DAYS, places=st.lists(st.integers(1, 13), max_size=6), one_by_one=st.booleans())
async def test_in_any_batches_events_come_to_the_same_with_rules_of_every_criterion(
    make_world: MakeWorld, assessor: Assessor, sweeper: Sweeper, owner: asyncpg.Connection, clock: Clock, *,
    contents: list[Json], days: list[list[Happening]], places: list[int], one_by_one: bool,
) -> None:  # fmt: skip
    world = await make_world(contents)
    for happenings in days:
        events = await world.happens(happenings, clock)
        if events:
            await assessor.assess(world.whole, events)
        for part in cut(events, range(1, len(events)) if one_by_one else places):
            if part:
                await assessor.assess(world.other, part)
        clock.advance(hours=36)
    # What lapsed is removed either by a batch that meets it or by the sweep.
    await sweeper.sweep(asyncio.Event())
    assert await state_of(owner, world.whole) == await state_of(owner, world.other)


@pytest.fixture
def order_of_assessment(monkeypatch: pytest.MonkeyPatch) -> list[AnyEvent]:
    """Notes events in the order in which they were assessed, once they are claimed: under the account locks still."""
    order: list[AnyEvent] = []

    async def noted(connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], *others: Any) -> None:
        await claim(connection, tenant_id, events, *others)
        order.extend(events)

    monkeypatch.setattr("tallymarks_assessor.assess.claim", noted)
    return order


async def assess_in_batches(
    assessor: Assessor, tenant_id: UUID, events: Sequence[AnyEvent], random: Random, size_max: int
) -> None:
    """Hand events over in an order and in cuts of this assessor's own."""
    shuffled = random.sample(events, len(events))
    while shuffled:
        size = random.randint(1, size_max)
        batch, shuffled = shuffled[:size], shuffled[size:]
        await assessor.assess(tenant_id, batch)


@examples
@given(contents=rules(), days=DAYS, seed=st.integers(0, 2**32), assessors_number=st.sampled_from([2, 3]))
async def test_assessors_at_once_give_what_some_order_of_one_at_a_time_gives(
    make_world: MakeWorld, database: Database, topology: Topology, sweeper: Sweeper, owner: asyncpg.Connection,
    clock: Clock, order_of_assessment: list[AnyEvent], *, contents: list[Json], days: list[list[Happening]], seed: int,
    assessors_number: int,
) -> None:  # fmt: skip
    world, random = await make_world(contents), Random(seed)
    assessors = [Assessor(database, topology, now=clock, new_id=new_id) for _ in range(assessors_number)]
    for happenings in days:
        events = await world.happens(happenings, clock)
        order_of_assessment.clear()
        # An error of any of them, also a deadlock, fails the test.
        await asyncio.gather(
            *(
                assess_in_batches(assessor, world.whole, events, Random(random.getrandbits(64)), 6)
                for assessor in assessors
            )
        )
        for event in order_of_assessment:
            await assessors[0].assess(world.other, [event])
        clock.advance(hours=36)
    await sweeper.sweep(asyncio.Event())
    assert await state_of(owner, world.whole) == await state_of(owner, world.other)


@examples
@given(contents=rules_without_memory(), happenings=HAPPENINGS, seed=st.integers(0, 2**32))
async def test_rules_without_memory_give_the_same_in_every_order(
    make_world: MakeWorld, assessor: Assessor, owner: asyncpg.Connection, clock: Clock, contents: list[Json],
    happenings: list[Happening], seed: int,
) -> None:  # fmt: skip
    world = await make_world(contents)
    events = await world.happens(happenings, clock)
    if events:
        await assessor.assess(world.whole, events)
        await assess_in_batches(assessor, world.other, events, Random(seed), 5)
    assert await state_of(owner, world.whole) == await state_of(owner, world.other)


async def test_sixty_four_small_batches_at_once_never_deadlock(
    make_world: MakeWorld, database: Database, topology: Topology, owner: asyncpg.Connection, clock: Clock
) -> None:
    """Overlapping ones, of few customers, with rules that all customers share a limit of and points rules."""
    shared = {"limits": {"total": 10_000, "pointsTotal": 1_000_000, "perCustomer": 5_000}, "status": "active"}
    contents = [
        {"name": f"{event_type} {amount}", "eventType": event_type,
         "fulfilments": [{"type": "points", "amount": amount}], **(shared if amount % 2 else {"status": "active"})}
        for event_type in ("order", "action", "transaction", "points") for amount in (1, 2, 3)
    ]  # fmt: skip
    world, random = await make_world(contents[:9]), Random(3)
    ids = seeded_ids(5)
    kinds = ["order", "action", "transaction"]
    happenings = [Happening(random.randrange(CUSTOMERS), random.choice(kinds), 9, None, 0, 0) for _ in range(200)]
    events = events_of(happenings, [ids() for _ in range(CUSTOMERS)], ids, clock() + timedelta(hours=1))
    batches = [random.sample(events, random.randint(1, 8)) for _ in range(64)]
    assessors = [Assessor(database, topology, now=clock, new_id=new_id) for _ in range(8)]
    # A deadlock is an error of assess, which only the loop around it would try again.
    done = await asyncio.gather(
        *(assessors[number % 8].assess(world.whole, batch) for number, batch in enumerate(batches))
    )
    sent = {event.event_id for batch in batches for event in batch}
    assert sum(one.events for one in done) == len(sent)
    assert await differing_balances(database, world.whole) == []
    given = {row["name"]: row["uses"] for row in await owner.fetch(
        "SELECT r.definition ->> 'name' AS name, u.uses FROM rule_uses u JOIN rules r USING (tenant_id, rule_id)"
        " WHERE tenant_id = $1", world.whole)}  # fmt: skip
    of_type = {kind: sum(event.event_type == kind and event.event_id in sent for event in events) for kind in kinds}
    assert given == {f"{kind} {amount}": of_type[kind] for kind in kinds for amount in (1, 3)}
