"""Invariants 1, 2 and 6: events count once and balances are the sum of the ledger, however events are handed over."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from uuid import UUID

import asyncpg
import pytest

from tallymarks.broker import Topology
from tallymarks.database import Database
from tallymarks.events import AnyEvent
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.parts import (
    action,
    balances_of,
    count,
    differing_balances,
    give,
    ledger_of,
    make_rule,
    order,
    per_unit,
    points,
    seeded_ids,
)
from tests.parts import ApiClient, Clock, Tenant

POINTS_OF_ACTION = 5


@pytest.fixture
async def rule_ids(api: ApiClient) -> tuple[UUID, UUID]:
    """The rules that the events here meet: for each action, and for each unit of an order."""
    return await make_rule(api, "action", give(POINTS_OF_ACTION)), await make_rule(api, "order", per_unit("1.5"))


def some_events(random: Random, customer_ids: Sequence[UUID], number: int) -> list[AnyEvent]:
    """Actions, orders of 1 to 99, and adjustments both ways."""
    ids = seeded_ids(random.getrandbits(64))
    kinds: list[Callable[[UUID], AnyEvent]] = [
        lambda customer_id: action(ids(), customer_id),
        lambda customer_id: order(ids(), customer_id, str(random.randint(1, 99))),
        lambda customer_id: points(ids(), customer_id, random.choice((-7, 3))),
    ]
    return [random.choice(kinds)(random.choice(customer_ids)) for _ in range(number)]


def points_of(event: AnyEvent) -> int:
    """What the event comes to under the rules above."""
    match event.event_type:
        case "action":
            return POINTS_OF_ACTION
        case "order":
            return int(event.order.total) * 3 // 2
        case "points":
            return event.points.quantity
        case _:
            return 0


def balances_after(events: Sequence[AnyEvent]) -> Counter[UUID]:
    """What the customers' balances must be."""
    balances: Counter[UUID] = Counter()
    for event in events:
        balances[event.customer_id] += points_of(event)
    return balances


async def test_a_batch_that_comes_again_changes_nothing(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, rule_ids: tuple[UUID, UUID]
) -> None:
    ids = seeded_ids(1)
    events = some_events(Random(1), [ids() for _ in range(5)], 40)
    first = await assessor.assess(tenant.tenant_id, events)
    assert (first.events, first.duplicates, first.transactions) == (40, 0, 40)
    ledger, balances = await ledger_of(owner, tenant.tenant_id), await balances_of(owner, tenant.tenant_id)
    clock.advance(days=400)
    again = await assessor.assess(tenant.tenant_id, events)
    assert (again.events, again.duplicates, again.transactions) == (0, 40, 0)
    assert await ledger_of(owner, tenant.tenant_id) == ledger
    assert await balances_of(owner, tenant.tenant_id) == balances == balances_after(events)


async def test_an_event_that_stands_twice_in_a_batch_counts_once_as_it_came_first(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, rule_ids: tuple[UUID, UUID]
) -> None:
    ids = seeded_ids(2)
    event_id, customer_id = ids(), ids()
    events: list[AnyEvent] = [points(event_id, customer_id, 3), points(event_id, customer_id, 4), action(ids(), ids())]
    assessed = await assessor.assess(tenant.tenant_id, [*events, events[0]])
    assert (assessed.events, assessed.duplicates) == (2, 2)
    assert (await balances_of(owner, tenant.tenant_id))[customer_id] == 3


async def test_the_same_event_id_of_two_tenants_counts_for_each(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant
) -> None:
    ids = seeded_ids(3)
    event = points(ids(), ids(), 8)
    for one in (tenant, other_tenant):
        assert (await assessor.assess(one.tenant_id, [event])).events == 1
        assert await balances_of(owner, one.tenant_id) == {event.customer_id: 8}


async def test_an_unknown_customer_is_made_once_with_an_account(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(4)
    customer_id = ids()
    await assessor.assess(tenant.tenant_id, [points(ids(), customer_id, 1), points(ids(), customer_id, 1)])
    made_at = clock()
    clock.advance(days=1)
    await assessor.assess(tenant.tenant_id, [points(ids(), customer_id, 1)])
    (customer,) = await owner.fetch("SELECT * FROM customers WHERE tenant_id = $1", tenant.tenant_id)
    assert customer["customer_id"] == customer_id
    assert customer["created_at"] == made_at
    assert customer["registered_at"] is None
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 3}


async def test_unknown_customers_are_made_once_when_all_come_at_once(
    database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(5)
    customer_ids = [ids() for _ in range(50)]
    batches = [[points(ids(), customer_id, 1) for customer_id in customer_ids] for _ in range(8)]
    assessors = [Assessor(database, topology, now=clock, new_id=new_id) for _ in batches]
    await asyncio.gather(
        *(assessor.assess(tenant.tenant_id, batch) for assessor, batch in zip(assessors, batches, strict=True))
    )
    assert await balances_of(owner, tenant.tenant_id) == dict.fromkeys(customer_ids, 8)
    assert await count(owner, "customers", tenant.tenant_id) == 50


async def assess_in_batches(assessor: Assessor, tenant_id: UUID, events: Sequence[AnyEvent], random: Random) -> None:
    """Hand events over in an order and in cuts of this assessor's own."""
    shuffled = random.sample(events, len(events))
    while shuffled:
        size = random.randint(1, 30)
        batch, shuffled = shuffled[:size], shuffled[size:]
        await assessor.assess(tenant_id, batch)


@pytest.mark.parametrize("assessors_number", [2, 4])
async def test_assessors_with_overlapping_shuffled_batches_count_each_event_once_and_never_deadlock(
    database: Database,
    topology: Topology,
    owner: asyncpg.Connection,
    tenant: Tenant,
    clock: Clock,
    rule_ids: tuple[UUID, UUID],
    assessors_number: int,
) -> None:
    random, ids = Random(6), seeded_ids(6)
    assessors = [Assessor(database, topology, now=clock, new_id=new_id) for _ in range(assessors_number)]
    everything: list[AnyEvent] = []
    customer_ids = [ids() for _ in range(4)]
    for _ in range(50):
        customer_ids[random.randrange(4)] = ids()  # some of them new in each round
        events = some_events(random, customer_ids, 40)
        everything += events
        # An error of any of them, also a deadlock, fails the test.
        await asyncio.gather(
            *(
                assess_in_batches(assessor, tenant.tenant_id, events, Random(random.getrandbits(64)))
                for assessor in assessors
            )
        )
    assert await balances_of(owner, tenant.tenant_id) == balances_after(everything)
    assert await differing_balances(database, tenant.tenant_id) == []
    rule_of = {"action": rule_ids[0], "order": rule_ids[1], "points": None}
    expected = Counter(
        (event.customer_id, event.event_id, rule_of[event.event_type], points_of(event))
        for event in everything
        if points_of(event)
    )
    assert await ledger_of(owner, tenant.tenant_id) == expected
    # What a rule gives is a points event too.
    given = sum(rule_id is not None for _, _, rule_id, _ in expected)
    assert await count(owner, "events", tenant.tenant_id) == len(everything) + given


async def test_a_batch_that_fails_leaves_nothing(
    assessor: Assessor,
    owner: asyncpg.Connection,
    tenant: Tenant,
    rule_ids: tuple[UUID, UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = seeded_ids(7)
    events = some_events(Random(7), [ids() for _ in range(5)], 20)

    def fail(*_: object, **__: object) -> None:
        raise ValueError("after all that was written")

    with monkeypatch.context() as patched:
        patched.setattr("tallymarks_assessor.assess.memberships.write", fail)
        with pytest.raises(ValueError, match="after all that was written"):
            await assessor.assess(tenant.tenant_id, events)
    for table in ("events", "transactions", "customers", "accounts"):
        assert await count(owner, table, tenant.tenant_id) == 0
    assert (await assessor.assess(tenant.tenant_id, events)).events == 20


async def test_an_effect_cannot_be_written_twice_even_where_the_record_of_its_event_is_lost(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    ids = seeded_ids(8)
    event = points(ids(), ids(), 9)
    await assessor.assess(tenant.tenant_id, [event])
    await owner.execute("DELETE FROM events")
    with pytest.raises(asyncpg.UniqueViolationError, match="transactions_check_sum_key"):
        await assessor.assess(tenant.tenant_id, [event])
    assert await balances_of(owner, tenant.tenant_id) == {event.customer_id: 9}
