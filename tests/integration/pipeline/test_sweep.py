"""The worker that removes lapsed memberships: each once, in bounded lots, and it tells of each."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from aio_pika.abc import AbstractRobustQueue

from tallymarks import limits
from tallymarks.broker import Broker, Topology
from tallymarks.database import Database
from tallymarks.memberships import LAPSED_ROUTING_KEY, LapsedMembership, LapseNotification
from tallymarks.messages import TENANT_HEADER
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tallymarks_segment_expiry.sweep import Sweeper
from tests.integration.pipeline.parts import (
    action,
    add_to,
    count,
    insert_lapsed,
    lapses_of,
    make_rule,
    make_segment,
    memberships_of,
    seeded_ids,
)
from tests.parts import PATIENCE_SECONDS, ApiClient, Clock, Tenant, sessions_waiting_for_locks, until

TICK = timedelta(milliseconds=1)


@pytest.fixture
async def listener(broker: Broker) -> AsyncIterator[AbstractRobustQueue]:
    """A queue of somebody who wants to know of lapses."""
    channel = await broker.channel()
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(broker.topology.notifications_exchange, routing_key="segment.membership.*")
    yield queue
    await channel.close()


async def next_notification(queue: AbstractRobustQueue) -> LapseNotification:
    """Wait for the next one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (message := await queue.get(no_ack=True, fail=False)) is None:
            await asyncio.sleep(0.01)
    assert message.routing_key == LAPSED_ROUTING_KEY
    notification = LapseNotification.model_validate_json(message.body)
    assert message.headers[TENANT_HEADER] == str(notification.tenant_id)
    return notification


@pytest.mark.usefixtures("assessing")  # for its relay
async def test_a_running_worker_removes_what_lapses_and_tells_of_it(
    database: Database, topology: Topology, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant,
    api: ApiClient, clock: Clock, listener: AbstractRobustQueue,
) -> None:  # fmt: skip
    ids = seeded_ids(6)
    customer_ids = sorted(ids() for _ in range(3))
    segment_id = await make_segment(api, "day", {"mode": "period", "count": 1, "unit": "days"})
    await make_rule(api, "action", add_to(segment_id))
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id) for customer_id in customer_ids])
    joined_at, stop = clock(), asyncio.Event()
    sweeper = Sweeper(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())
    running = asyncio.create_task(sweeper.run(stop))
    clock.advance(days=1)

    async def are_removed() -> bool:
        return await count(owner, "segment_memberships") == 0

    await until(are_removed)
    stop.set()
    await running
    lapsed_at = joined_at + timedelta(days=1)
    notification = await next_notification(listener)
    assert notification.tenant_id == tenant.tenant_id
    expected = {
        LapsedMembership(customer_id=one, segment_id=segment_id, joined_at=joined_at, lapsed_at=lapsed_at)
        for one in customer_ids
    }
    assert set(notification.memberships) == expected
    assert set((await lapses_of(owner, tenant.tenant_id)).values()) == {1}


@pytest.mark.usefixtures("assessing")
async def test_a_lapse_that_a_batch_comes_upon_is_told_of_too(
    assessor: Assessor, tenant: Tenant, api: ApiClient, clock: Clock, listener: AbstractRobustQueue
) -> None:
    ids = seeded_ids(7)
    customer_id = ids()
    segment_id = await make_segment(api, "day", {"mode": "period", "count": 1, "unit": "days"})
    await make_rule(api, "action", add_to(segment_id))
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
    clock.advance(days=1)
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
    (lapsed,) = (await next_notification(listener)).memberships
    assert (lapsed.customer_id, lapsed.segment_id) == (customer_id, segment_id)


async def test_a_worker_waits_for_a_database_that_is_away(
    database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(limits, "RECONNECT_INTERVAL_SECONDS", 0.01)
    await insert_lapsed(owner, tenant.tenant_id, clock(), 5)
    await owner.execute("ALTER TABLE tenants RENAME TO away")
    stop = asyncio.Event()
    sweeper = Sweeper(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())
    attempts = 0
    sweep = sweeper.sweep

    async def counted(stop: asyncio.Event) -> int:
        nonlocal attempts
        attempts += 1
        return await sweep(stop)

    monkeypatch.setattr(sweeper, "sweep", counted)
    running = asyncio.create_task(sweeper.run(stop))

    async def has_tried() -> bool:
        return attempts > 3

    await until(has_tried)
    await owner.execute("ALTER TABLE away RENAME TO tenants")

    async def are_removed() -> bool:
        return await count(owner, "segment_memberships") == 0

    await until(are_removed)
    stop.set()
    await running


# --- many rows, many workers, many tenants ---------------------------------------------------------------------------


async def notified(owner: asyncpg.Connection) -> list[LapseNotification]:
    """What waits to be told."""
    return [LapseNotification.model_validate_json(row["body"]) for row in await owner.fetch("SELECT body FROM outbox")]


@pytest.mark.parametrize("workers", [1, 3])
async def test_each_lapsed_membership_is_removed_recorded_and_told_of_once_in_bounded_lots(
    database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, workers: int
) -> None:
    await insert_lapsed(owner, tenant.tenant_id, clock(), 20_000)
    sweepers = [
        Sweeper(database, topology, now=clock, new_id=new_id, committed=asyncio.Event()) for _ in range(workers)
    ]

    async def sweep_all(sweeper: Sweeper) -> list[int]:
        removed = []
        while number := await sweeper.sweep(asyncio.Event()):
            removed.append(number)
        return removed

    async with owner.transaction():
        # Each has locked a lot and is about to record it: they meet for certain.
        await owner.execute("LOCK TABLE segment_lapses IN SHARE MODE")
        sweeping = [asyncio.create_task(sweep_all(sweeper)) for sweeper in sweepers]

        async def are_waiting() -> bool:
            return await sessions_waiting_for_locks(owner, "test") == workers

        await until(are_waiting)
    shares = await asyncio.gather(*sweeping)
    assert sum(map(sum, shares)) == 20_000
    assert max(map(max, shares)) <= limits.SWEEP_MEMBERSHIPS_MAX
    assert sum(any(share) for share in shares) == workers
    lapses = await lapses_of(owner, tenant.tenant_id)
    assert len(lapses) == 20_000
    notifications = await notified(owner)
    assert max(len(one.memberships) for one in notifications) <= limits.SWEEP_MEMBERSHIPS_MAX
    told = [
        (one.customer_id, one.segment_id, one.joined_at, one.lapsed_at)
        for notification in notifications
        for one in notification.memberships
    ]
    assert len(told) == 20_000
    assert set(told) == set(lapses)


async def test_the_oldest_lapses_are_removed_first(
    sweeper: Sweeper, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    await insert_lapsed(owner, tenant.tenant_id, clock(), limits.SWEEP_MEMBERSHIPS_MAX + 10)
    assert await sweeper.sweep(asyncio.Event()) == limits.SWEEP_MEMBERSHIPS_MAX
    left = await owner.fetch("SELECT expiry_date_time FROM segment_memberships")
    assert min(row[0] for row in left) == clock() - 9 * TICK


async def test_no_backlog_holds_up_another_tenant(
    sweeper: Sweeper, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, clock: Clock
) -> None:
    await insert_lapsed(owner, tenant.tenant_id, clock(), limits.SWEEP_MEMBERSHIPS_MAX * 2)
    await insert_lapsed(owner, other_tenant.tenant_id, clock(), 3)
    assert await sweeper.sweep(asyncio.Event()) == limits.SWEEP_MEMBERSHIPS_MAX + 3
    assert await count(owner, "segment_lapses", other_tenant.tenant_id) == 3
    assert await count(owner, "segment_lapses", tenant.tenant_id) == limits.SWEEP_MEMBERSHIPS_MAX


async def test_every_tenant_gets_a_turn_however_many_there_are(
    sweeper: Sweeper, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    await insert_lapsed(owner, tenant.tenant_id, clock(), 2)
    for _ in range(250):
        other_id = new_id()
        await owner.execute("INSERT INTO tenants VALUES ($1, 'one of many', '', 0, $2, true)", other_id, clock())
        await insert_lapsed(owner, other_id, clock(), 2)
    assert await sweeper.sweep(asyncio.Event()) == 251 * 2
    assert await count(owner, "segment_memberships") == 0


async def test_a_sweep_is_left_in_the_middle_when_it_is_to_stop(
    sweeper: Sweeper, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    await insert_lapsed(owner, tenant.tenant_id, clock(), 5)
    stop = asyncio.Event()
    stop.set()
    assert await sweeper.sweep(stop) == 0


async def test_a_membership_that_is_joined_again_at_this_moment_is_neither_waited_for_nor_removed(
    sweeper: Sweeper, owner: asyncpg.Connection, database: Database, tenant: Tenant, clock: Clock
) -> None:
    await insert_lapsed(owner, tenant.tenant_id, clock(), 3)
    (held,) = await owner.fetch("SELECT customer_id FROM segment_memberships LIMIT 1")
    async with database.transaction(tenant.tenant_id) as joining:
        await joining.execute(
            "UPDATE segment_memberships SET expiry_date_time = $3 WHERE tenant_id = $1 AND customer_id = $2",
            tenant.tenant_id,
            held["customer_id"],
            clock() + timedelta(days=1),
        )
        assert await sweeper.sweep(asyncio.Event()) == 2  # past the one that is held
        assert await sweeper.sweep(asyncio.Event()) == 0
    assert await sweeper.sweep(asyncio.Event()) == 0
    (left,) = await memberships_of(owner, tenant.tenant_id)
    assert left[0] == held["customer_id"]


async def test_a_sweep_and_a_batch_that_meet_on_the_same_memberships_record_each_lapse_once(
    assessor: Assessor, database: Database, topology: Topology, owner: asyncpg.Connection, tenant: Tenant,
    api: ApiClient, clock: Clock,
) -> None:  # fmt: skip
    ids = seeded_ids(8)
    customer_ids = [ids() for _ in range(100)]
    segment_id = await make_segment(api, "day", {"mode": "period", "count": 1, "unit": "days"})
    await make_rule(api, "action", add_to(segment_id))
    sweepers = [Sweeper(database, topology, now=clock, new_id=new_id, committed=asyncio.Event()) for _ in range(2)]
    rounds = 10
    for _ in range(rounds):
        events = [action(ids(), customer_id) for customer_id in customer_ids]
        await asyncio.gather(
            assessor.assess(tenant.tenant_id, events[:50]),
            *(sweeper.sweep(asyncio.Event()) for sweeper in sweepers),
            assessor.assess(tenant.tenant_id, events[50:]),
        )
        assert len(await memberships_of(owner, tenant.tenant_id)) == 100
        clock.advance(days=1)
    lapses = await lapses_of(owner, tenant.tenant_id)
    assert len(lapses) == 100 * (rounds - 1)
    assert sum(len(one.memberships) for one in await notified(owner)) == 100 * (rounds - 1)


# --- what the worker may see -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "is_allowed"),
    [
        ("SELECT tenant_id FROM tenants", True),
        ("SELECT tenant_id, expiry_date_time FROM segment_memberships", True),
        ("SELECT customer_id FROM segment_memberships", False),
        ("SELECT name FROM tenants", False),
        ("SELECT paging_secret FROM tenants", False),
        ("SELECT tenant_id, next_anniversary_at FROM customers", True),
        ("SELECT customer_id FROM customers", False),
        ("UPDATE customers SET next_anniversary_at = NULL", False),
        ("SELECT tenant_id, due_at FROM triggers", True),
        ("SELECT customer_id FROM triggers", False),
        ("SELECT name_space FROM triggers", False),
        ("DELETE FROM triggers", False),
        ("SELECT tenant_id FROM transactions", False),
        ("SELECT tenant_id FROM events", False),
        ("SELECT tenant_id FROM api_keys", False),
        ("DELETE FROM segment_memberships", False),
        ("UPDATE segment_memberships SET expiry_date_time = NULL", False),
        ("INSERT INTO segment_lapses SELECT", False),
    ],
)
async def test_the_housekeeper_sees_which_tenants_have_something_due_and_nothing_else(
    owner: asyncpg.Connection, statement: str, is_allowed: bool
) -> None:
    await owner.execute("SET ROLE tallymarks_housekeeper")
    if is_allowed:
        await owner.execute(statement)
    else:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(statement)


async def test_the_service_itself_does_not_see_what_the_housekeeper_sees(
    database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    await insert_lapsed(owner, tenant.tenant_id, clock(), 1)
    async with database.connection() as connection:
        assert await connection.fetch("SELECT tenant_id FROM segment_memberships") == []
        async with connection.transaction():
            await connection.execute("SET LOCAL ROLE tallymarks_housekeeper")
            assert len(await connection.fetch("SELECT tenant_id FROM segment_memberships")) == 1
        assert await connection.fetch("SELECT tenant_id FROM segment_memberships") == []
