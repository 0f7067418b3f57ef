"""A redemption is debited by the api and assessed afterwards, each exactly once."""

import asyncio
from uuid import UUID

import asyncpg
import orjson
import pytest

from tallymarks.broker import Broker, Topology
from tallymarks.database import Database
from tallymarks.events import AnyEvent, Redemption, RedemptionEvent
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.parts import (
    RecordingAssessor,
    balances_of,
    count,
    differing_balances,
    give,
    ledger_of,
    make_rule,
    points,
    publish,
    seeded_ids,
    waiting_letters,
    working,
)
from tests.parts import START, Answered, ApiClient, Clock, Tenant, until

BONUS = 3


@pytest.fixture
async def rule_id(api: ApiClient) -> UUID:
    """A rule that gives points back for each redemption."""
    return await make_rule(api, "redemption", give(BONUS))


@pytest.fixture
async def customer_id(assessor: Assessor, tenant: Tenant) -> UUID:
    """A customer with 100 points."""
    ids = seeded_ids(100)
    customer_id = ids()
    await assessor.assess(tenant.tenant_id, [points(ids(), customer_id, 100)])
    return customer_id


async def redeem(api: ApiClient, event_id: UUID, customer_id: UUID, quantity: int) -> Answered:
    body = {"eventId": str(event_id), "customerId": str(customer_id), "redemption": {"points": quantity}}
    return await api.post("/api/v1/events/redemptions", body)


def redemption(event_id: UUID, customer_id: UUID, quantity: int) -> RedemptionEvent:
    return RedemptionEvent(
        event_id=event_id, customer_id=customer_id, redemption=Redemption(points=quantity), created_at=START
    )


async def is_assessed(owner: asyncpg.Connection, event_id: UUID) -> bool:
    return bool(await owner.fetchval("SELECT assessed_at IS NOT NULL FROM events WHERE event_id = $1", event_id))


@pytest.mark.usefixtures("assessing")
async def test_a_redemption_is_debited_at_once_and_assessed_once(
    api: ApiClient, database: Database, owner: asyncpg.Connection, tenant: Tenant, customer_id: UUID, rule_id: UUID
) -> None:
    event_id = seeded_ids(1)()
    answered = await redeem(api, event_id, customer_id, 40)
    assert (answered.status, answered.body["balance"], answered.body["pendingBalance"]) == (200, 100, 60)

    async def comes_to_be_assessed() -> bool:
        return await is_assessed(owner, event_id)

    await until(comes_to_be_assessed)
    rows = {(rule, amount) for _, event, rule, amount in await ledger_of(owner, tenant.tenant_id) if event == event_id}
    assert rows == {(None, -40), (rule_id, BONUS)}
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 60 + BONUS}
    assert await differing_balances(database, tenant.tenant_id) == []
    assert await owner.fetchval("SELECT count(*) FROM outbox") == 0


async def test_its_message_is_written_with_the_debit_or_not_at_all(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, customer_id: UUID, rule_id: UUID
) -> None:
    ids = seeded_ids(2)
    for quantity, status in ((40, 200), (61, 400), (60, 200)):
        assert (await redeem(api, ids(), customer_id, quantity)).status == status
    rows = await owner.fetch("SELECT tenant_id, body FROM outbox ORDER BY outbox_id")
    assert [orjson.loads(row["body"])["events"][0]["redemption"]["points"] for row in rows] == [40, 60]
    assert {row["tenant_id"] for row in rows} == {tenant.tenant_id}
    assert not any([await is_assessed(owner, row[0]) for row in await owner.fetch(
        "SELECT event_id FROM events WHERE event_type = 'redemption'")])  # fmt: skip


async def test_a_redemption_that_is_delivered_again_is_not_assessed_again(
    api: ApiClient, database: Database, broker: Broker, clock: Clock, owner: asyncpg.Connection, tenant: Tenant,
    customer_id: UUID, rule_id: UUID,
) -> None:  # fmt: skip
    event_id = seeded_ids(3)()
    assert (await redeem(api, event_id, customer_id, 40)).status == 200
    assessor = RecordingAssessor(database, broker, clock)
    async with working(database, broker, assessor, clock):
        for _ in range(3):
            await publish(broker, tenant.tenant_id, [redemption(event_id, customer_id, 40)])

        async def all_came() -> bool:
            return assessor.took_effect + assessor.duplicates == 4

        await until(all_came)
    assert assessor.took_effect == 1
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 60 + BONUS}


async def test_a_redemption_that_two_assessors_hold_is_assessed_once(
    api: ApiClient, database: Database, topology: Topology, clock: Clock, owner: asyncpg.Connection, tenant: Tenant,
    customer_id: UUID, rule_id: UUID,
) -> None:  # fmt: skip
    ids = seeded_ids(4)
    assessors = [Assessor(database, topology, now=clock, new_id=new_id) for _ in range(4)]
    assessed = []
    for _ in range(10):
        events = [redemption(ids(), customer_id, 1) for _ in range(5)]
        for event in events:
            assert (await redeem(api, event.event_id, customer_id, 1)).status == 200
        assessed += await asyncio.gather(
            *(
                assessor.assess(tenant.tenant_id, events[::-1] if place % 2 else events)
                for place, assessor in enumerate(assessors)
            )
        )
    assert sum(one.events for one in assessed) == 50
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 100 + 50 * (BONUS - 1)}


async def test_an_event_with_its_id_that_comes_before_it_does_not_hide_a_redemption(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, customer_id: UUID, rule_id: UUID
) -> None:
    """It is published beside being looked up, and may overtake the redemption's message."""
    event_id = new_id()
    await redeem(api, event_id, customer_id, 30)
    events: list[AnyEvent] = [points(event_id, customer_id, 5), redemption(event_id, customer_id, 30)]
    assessed = await assessor.assess(tenant.tenant_id, events)
    assert (assessed.events, assessed.duplicates) == (1, 1)
    assert await is_assessed(owner, event_id)
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 100 - 30 + BONUS}


async def test_a_redemption_that_was_never_debited_has_no_effect(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, customer_id: UUID, rule_id: UUID
) -> None:
    forged = redemption(seeded_ids(5)(), customer_id, 40)
    assert (await assessor.assess(tenant.tenant_id, [forged])).events == 0
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 100}
    assert await count(owner, "events", tenant.tenant_id) == 1


async def test_an_event_that_took_the_id_of_a_redemption_is_no_redemption(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, customer_id: UUID, rule_id: UUID
) -> None:
    event_id = seeded_ids(6)()
    await assessor.assess(tenant.tenant_id, [points(event_id, customer_id, 1)])
    assert (await assessor.assess(tenant.tenant_id, [redemption(event_id, customer_id, 40)])).events == 0
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 101}


@pytest.mark.usefixtures("assessing")
async def test_redemptions_race_with_events_and_the_balance_stays_the_sum_and_above_zero(
    api: ApiClient, broker: Broker, database: Database, owner: asyncpg.Connection, tenant: Tenant, customer_id: UUID,
    rule_id: UUID,
) -> None:  # fmt: skip
    ids = seeded_ids(7)
    for _ in range(10):
        await asyncio.gather(
            *(redeem(api, ids(), customer_id, 9) for _ in range(5)),
            publish(broker, tenant.tenant_id, [points(ids(), customer_id, 4) for _ in range(5)]),
        )

    async def all_are_assessed() -> bool:
        waiting = await owner.fetchval("SELECT count(*) FROM events WHERE assessed_at IS NULL")
        arrived = await owner.fetchval(
            "SELECT count(*) FROM events WHERE event_type = 'points' AND NOT body ? 'sourceEventId'"
        )
        return bool(waiting == 0 and arrived == 51)

    await until(all_are_assessed)
    redeemed = await owner.fetchval("SELECT count(*) FROM events WHERE event_type = 'redemption'")
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 100 + 50 * 4 + redeemed * (BONUS - 9)}
    assert await differing_balances(database, tenant.tenant_id) == []
    running = await owner.fetch(
        "SELECT sum(amount) OVER (ORDER BY recorded_at, transaction_id) AS balance FROM transactions"
        " WHERE tenant_id = $1",
        tenant.tenant_id,
    )
    assert min(row["balance"] for row in running) >= 0
    assert await waiting_letters(broker) == []
