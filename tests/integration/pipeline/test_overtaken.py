"""Two transactions that meet: what one has written meanwhile, the other finds when it begins again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import asyncpg
import pytest

from tallymarks import ledger, limits
from tallymarks.broker import Broker
from tallymarks.events import AnyEvent, created_at_of
from tallymarks.messages import event_json
from tallymarks.segments import anniversary
from tallymarks.sql import customers as customers_sql
from tallymarks.sql import events as sql
from tallymarks_assessor.assess import Assessed, Assessor
from tests.integration.pipeline.parts import balances_of, messages_ready, points, publish, seeded_ids
from tests.parts import Clock, Tenant, sessions_waiting_for_locks, until


@pytest.fixture
async def another(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Who is in the middle of a transaction."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("BEGIN")
    yield connection
    await connection.close()


async def record(connection: asyncpg.Connection, tenant_id: UUID, event: AnyEvent) -> None:
    """Record an event, as whoever assesses it does."""
    at = created_at_of(event)
    columns = (event.event_id, event.customer_id, event.event_type, event.name_space, event.reference, at)
    await connection.execute(sql.INSERT_EVENTS, tenant_id, [(*columns, event_json(event).decode())], at)


async def until_waited_for(owner: asyncpg.Connection) -> None:
    """Wait until somebody waits for the other transaction."""

    async def is_waited_for() -> bool:
        return await sessions_waiting_for_locks(owner, "test") == 1

    await until(is_waited_for)


async def assess_into(
    another: asyncpg.Connection, end: str, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant,
    events: Sequence[AnyEvent],
) -> Assessed:  # fmt: skip
    """Assess while the other transaction is open, and end that once it is waited for."""
    assessing = asyncio.create_task(assessor.assess(tenant.tenant_id, events))
    await until_waited_for(owner)
    await another.execute(end)
    return await assessing


@pytest.mark.parametrize(("end", "counted"), [("COMMIT", 1), ("ROLLBACK", 2)])
async def test_an_event_that_another_records_meanwhile_counts_there_if_that_one_commits(
    assessor: Assessor, another: asyncpg.Connection, owner: asyncpg.Connection, tenant: Tenant, end: str, counted: int
) -> None:
    ids = seeded_ids(1)
    events: list[AnyEvent] = [points(ids(), ids(), 3), points(ids(), ids(), 4)]
    await record(another, tenant.tenant_id, events[0])
    assessed = await assess_into(another, end, assessor, owner, tenant, events)
    assert (assessed.events, assessed.duplicates) == (counted, 2 - counted)
    expected = {event.customer_id: amount for event, amount in zip(events, (3, 4), strict=True)}
    if end == "COMMIT":
        # Whoever recorded it gives the points; nothing is left of what was begun here.
        del expected[events[0].customer_id]
    assert await balances_of(owner, tenant.tenant_id) == expected


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_customer_whom_another_creates_meanwhile_is_taken_as_created_or_created_here(
    assessor: Assessor, another: asyncpg.Connection, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, end: str
) -> None:
    ids = seeded_ids(2)
    customer_id, joined_at = ids(), clock()
    clock.advance(days=1)
    await another.execute(
        customers_sql.INSERT_MISSING, tenant.tenant_id, [customer_id], joined_at, anniversary(joined_at, 1)
    )
    await another.execute(customers_sql.INSERT_ACCOUNTS, tenant.tenant_id, [customer_id], joined_at)
    events: list[AnyEvent] = [points(ids(), customer_id, 5), points(ids(), ids(), 6)]
    assessed = await assess_into(another, end, assessor, owner, tenant, events)
    assert assessed.events == 2
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 5, events[1].customer_id: 6}
    created_at = await owner.fetchval("SELECT created_at FROM customers WHERE customer_id = $1", customer_id)
    assert created_at == (joined_at if end == "COMMIT" else clock())


@pytest.mark.usefixtures("assessing")
async def test_an_event_that_took_effect_elsewhere_is_not_put_aside_though_evaluating_it_again_fails(
    assessor: Assessor, another: asyncpg.Connection, owner: asyncpg.Connection, broker: Broker, tenant: Tenant
) -> None:
    """Its account is read after the other's commit, and whether it is recorded was asked before."""
    ids = seeded_ids(3)
    customer_id, most = ids(), limits.POINTS_MAX
    event = points(ids(), customer_id, most)
    await assessor.assess(tenant.tenant_id, [points(ids(), customer_id, 1)])
    await another.execute("UPDATE accounts SET balance = $2 WHERE customer_id = $1", customer_id, most)
    await record(another, tenant.tenant_id, event)
    await publish(broker, tenant.tenant_id, [event])
    await until_waited_for(owner)
    await another.execute("COMMIT")
    marker = points(ids(), ids(), 7)
    await publish(broker, tenant.tenant_id, [marker])

    async def is_counted() -> bool:
        return (await balances_of(owner, tenant.tenant_id)).get(marker.customer_id) == 7

    await until(is_counted)
    assert await owner.fetchval("SELECT count(*) FROM events WHERE event_type = 'error'") == 0
    assert await owner.fetchval("SELECT count(*) FROM outbox") == 0
    assert await messages_ready(broker, broker.topology.dead_letters) == 0
    assert (await balances_of(owner, tenant.tenant_id))[customer_id] == most


async def test_a_customer_without_an_account_does_not_keep_an_assessor_for_ever(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    """Nothing of ours makes one; a repair by hand might."""
    ids = seeded_ids(4)
    event = points(ids(), ids(), 1)
    await owner.execute(
        customers_sql.INSERT_MISSING, tenant.tenant_id, [event.customer_id], clock(), anniversary(clock(), 1)
    )
    with pytest.raises(ledger.Overtaken):
        await assessor.assess(tenant.tenant_id, [event])
