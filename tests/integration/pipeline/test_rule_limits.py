"""Limits of rules hold exactly, whoever assesses at the same time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tallymarks.broker import Topology
from tallymarks.database import Database
from tallymarks.events import AnyEvent
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.parts import (
    RULES,
    action,
    differing_balances,
    give,
    make_rule,
    order,
    per_unit,
    seeded_ids,
)
from tests.parts import START, ApiClient, Clock, Tenant

CUSTOMERS, ASSESSORS = 30, 4
MILLISECOND = timedelta(milliseconds=1)

Race = Callable[[Sequence[AnyEvent]], Awaitable[None]]


@pytest.fixture
def race(database: Database, topology: Topology, tenant: Tenant, clock: Clock) -> Race:
    """Has assessors at once assess all the events, each in an order and in batches of its own."""

    async def assess(events: Sequence[AnyEvent], random: Random) -> None:
        assessor = Assessor(database, topology, now=clock, new_id=new_id)
        shuffled = random.sample(events, len(events))
        while shuffled:
            size = random.randint(1, 12)
            batch, shuffled = shuffled[:size], shuffled[size:]
            await assessor.assess(tenant.tenant_id, batch)

    async def run(events: Sequence[AnyEvent]) -> None:
        await asyncio.gather(*(assess(events, Random(seed)) for seed in range(ASSESSORS)))
        assert await differing_balances(database, tenant.tenant_id) == []

    return run


@pytest.fixture
def customer_ids() -> list[UUID]:
    ids = seeded_ids(1)
    return [ids() for _ in range(CUSTOMERS)]


async def given(owner: asyncpg.Connection, tenant: Tenant) -> list[asyncpg.Record]:
    """The transactions that rules made."""
    return list(
        await owner.fetch(
            "SELECT customer_id, created_at, amount FROM transactions"
            " WHERE tenant_id = $1 AND assessment_rule_id IS NOT NULL",
            tenant.tenant_id,
        )
    )


async def test_per_customer(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, race: Race, customer_ids: list[UUID]
) -> None:
    await make_rule(api, "action", give(5), limits={"perCustomer": 2})
    ids = seeded_ids(2)
    await race([action(ids(), customer_id) for customer_id in customer_ids for _ in range(6)])
    of_customer = Counter(row["customer_id"] for row in await given(owner, tenant))
    assert of_customer == Counter(dict.fromkeys(customer_ids, 2))
    rows = await owner.fetch("SELECT uses FROM customer_rule_uses WHERE tenant_id = $1", tenant.tenant_id)
    assert [row["uses"] for row in rows] == [2] * CUSTOMERS


@pytest.mark.parametrize(
    ("unit", "begins"),
    [
        ("day", datetime(2024, 2, 29, tzinfo=UTC)),
        ("week", datetime(2024, 12, 30, tzinfo=UTC)),
        ("month", datetime(2024, 3, 1, tzinfo=UTC)),
        ("year", datetime(2025, 1, 1, tzinfo=UTC)),
    ],
)
async def test_per_period_by_the_calendar(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, race: Race, customer_ids: list[UUID], unit: str,
    begins: datetime,
) -> None:  # fmt: skip
    """Events just before a period, at its first instant, and later in it: twice a period at the most."""
    await make_rule(api, "action", give(1), limits={"perPeriod": {"count": 2, "unit": unit}})
    ids = seeded_ids(3)
    times = [begins - MILLISECOND, begins, begins + timedelta(hours=23)]
    await race([action(ids(), one, at=at) for one in customer_ids for at in times for _ in range(3)])
    counted = Counter((row["customer_id"], row["created_at"] < begins) for row in await given(owner, tenant))
    assert counted == Counter({(one, is_before): 2 for one in customer_ids for is_before in (True, False)})


async def test_of_all_customers_together(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, race: Race, customer_ids: list[UUID]
) -> None:
    rule_id = await make_rule(api, "action", give(5), give(1), limits={"total": 47})
    ids = seeded_ids(4)
    await race([action(ids(), customer_id) for customer_id in customer_ids for _ in range(5)])
    assert Counter(row["amount"] for row in await given(owner, tenant)) == {5: 47, 1: 47}
    (used,) = await owner.fetch("SELECT * FROM rule_uses")
    assert (used["tenant_id"], used["rule_id"], used["uses"], used["points"]) == (tenant.tenant_id, rule_id, 47, 282)


async def test_a_rule_that_cannot_match_is_not_waited_for(
    api: ApiClient,
    owner: asyncpg.Connection,
    tenant: Tenant,
    assessor: Assessor,
    customer_ids: list[UUID],
) -> None:
    await make_rule(api, "action", give(5), limits={"total": 47}, criteria=[{"type": "nameSpace", "value": "Spring"}])
    ids = seeded_ids(14)
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_ids[0], name_space="Spring")])
    async with owner.transaction():
        await owner.execute("SELECT FROM rule_uses FOR UPDATE")
        others = [action(ids(), customer_ids[0], name_space="Summer"), action(ids(), customer_ids[1])]
        async with asyncio.timeout(5):
            await assessor.assess(tenant.tenant_id, others)


async def test_what_is_used_up_is_not_written_again(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, assessor: Assessor, customer_ids: list[UUID]
) -> None:
    await make_rule(api, "action", give(5), limits={"total": 1})
    ids = seeded_ids(15)
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_ids[0])])
    written_by = await owner.fetchval("SELECT xmin::text FROM rule_uses")
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_ids[1])])
    assert await owner.fetchval("SELECT xmin::text FROM rule_uses") == written_by


async def test_of_all_points_together(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, race: Race, customer_ids: list[UUID]
) -> None:
    """Orders of 1 to 9: what is given comes to the limit exactly, since there is an order for each rest."""
    await make_rule(api, "order", per_unit("1"), limits={"pointsTotal": 333})
    ids, random = seeded_ids(5), Random(5)
    orders: list[AnyEvent] = [order(ids(), random.choice(customer_ids), str(random.randint(1, 9))) for _ in range(150)]
    assert sum(event.spend or 0 for event in orders) > 333
    await race(orders)
    assert sum(row["amount"] for row in await given(owner, tenant)) == 333


async def test_of_all_points_together_where_they_do_not_come_out_even(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, race: Race, customer_ids: list[UUID]
) -> None:
    await make_rule(api, "action", give(7), limits={"pointsTotal": 100})
    ids = seeded_ids(6)
    await race([action(ids(), customer_id) for customer_id in customer_ids])
    assert [row["amount"] for row in await given(owner, tenant)] == [7] * 14


async def test_of_points_rules_and_of_others_in_one_race(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant, race: Race, customer_ids: list[UUID]
) -> None:
    await make_rule(api, "action", give(2), limits={"total": 40})
    await make_rule(api, "points", give(100), limits={"total": 10, "perCustomer": 1})
    ids = seeded_ids(7)
    await race([action(ids(), customer_id) for customer_id in customer_ids for _ in range(3)])
    rows = await given(owner, tenant)
    assert Counter(row["amount"] for row in rows) == {2: 40, 100: 10}
    assert max(Counter(row["customer_id"] for row in rows if row["amount"] == 100).values()) == 1


async def test_a_batch_that_fails_has_used_nothing(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_rule(api, "action", give(5), limits={"total": 1, "perCustomer": 1})
    ids = seeded_ids(8)
    events = [action(ids(), ids())]

    def fail(*_: object, **__: object) -> None:
        raise ValueError("after all that was written")

    with monkeypatch.context() as patched:
        patched.setattr("tallymarks_assessor.assess.triggers.write", fail)
        with pytest.raises(ValueError, match="after all that was written"):
            await assessor.assess(tenant.tenant_id, events)
    assert await owner.fetchval("SELECT count(*) FROM rule_uses") == 0
    await assessor.assess(tenant.tenant_id, events)
    assert len(await given(owner, tenant)) == 1


async def test_another_version_goes_on_with_what_was_used(
    api: ApiClient, assessor: Assessor, clock: Clock, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    content: dict[str, Any] = {"name": "Once", "eventType": "action", "fulfilments": [give(5)], "limits": {"total": 2}}
    rule_id = await make_rule(api, "action", give(5), name="Once", limits={"total": 2})
    ids = seeded_ids(9)

    async def happens(number: int) -> None:
        await assessor.assess(tenant.tenant_id, [action(ids(), ids(), at=clock()) for _ in range(number)])

    await happens(3)
    assert len(await given(owner, tenant)) == 2
    clock.advance(minutes=1)
    changed = await api.put(f"{RULES}/{rule_id}", {**content, "status": "active", "limits": {"total": 5}})
    assert changed.status == 200, changed.body
    clock.advance(minutes=1)
    await happens(9)
    assert len(await given(owner, tenant)) == 5


async def test_tenants_do_not_share_what_is_used(
    api: ApiClient, other_tenant: Tenant, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    ids = seeded_ids(10)
    rule_id, customer_id = ids(), ids()
    other = ApiClient(api.session, api.base_url, {
        "x-tenant-id": str(other_tenant.tenant_id), "x-api-key": other_tenant.admin.api_key,
        "x-api-secret": other_tenant.admin.api_secret,
    })  # fmt: skip
    for client, one in ((api, tenant), (other, other_tenant)):
        await make_rule(client, "action", give(5), ruleId=str(rule_id), limits={"total": 1, "perCustomer": 1})
        await assessor.assess(one.tenant_id, [action(ids(), customer_id, at=START) for _ in range(3)])
        assert len(await given(owner, one)) == 1
