"""A tenant who has something of everything: what must be kept from all others."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from tallymarks.database import Database
from tallymarks.events import OrderEvent
from tallymarks.values import format_instant
from tallymarks_assessor.assess import Assessor
from tallymarks_calendar.simulations import Simulations
from tests.integration.api.given import (
    ALL_FIELDS,
    CUSTOMERS,
    REDEMPTIONS,
    REVERSALS,
    RULES,
    Json,
    a_customer,
    a_rule,
    a_segment,
    bare_customers,
    earned,
    made,
    order,
    redemption,
    reversal,
)
from tests.parts import ApiClient, Clock, Tenant

SELECT_TENANT_TABLES = """
SELECT c.relname::text AS name, c.relrowsecurity AS is_secured
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
ORDER BY 1
"""
SHARED_TABLES = {"outbox"}
"""What all tenants share: no row of it is kept from anybody."""


async def rows_of(owner: asyncpg.Connection, tenant: Tenant) -> dict[str, list[str]]:
    """Every row of a tenant, as text."""
    return {
        row["name"]: [
            found["row"]
            for found in await owner.fetch(
                f'SELECT t::text AS row FROM "{row["name"]}" t WHERE tenant_id = $1 ORDER BY 1', tenant.tenant_id
            )
        ]
        for row in await owner.fetch(SELECT_TENANT_TABLES)
    }


async def tenant_tables(owner: asyncpg.Connection) -> list[str]:
    return [row["name"] for row in await owner.fetch(SELECT_TENANT_TABLES) if row["name"] not in SHARED_TABLES]


@dataclass(frozen=True)
class Possessions:
    """What the first tenant has: one of each kind."""

    customer_id: str
    segment_id: str
    rule_id: str
    api_key: str
    event_id: str
    order_id: str
    simulation_id: str


async def simulated(api: ApiClient, database: Database, clock: Clock, rule_id: str) -> str:
    """A simulation that has looked at events, and has not come to its end."""
    days = {"fromAt": "2026-03-14T00:00:00.000Z", "toAt": format_instant(clock())}
    simulation_id: str = (await made(api, f"{RULES}/simulate", {"ruleId": rule_id, **days}))["simulationId"]
    assert await Simulations(database, now=clock).go_on(asyncio.Event()) == 1
    return simulation_id


async def possess(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock, owner: asyncpg.Connection, database: Database
) -> Possessions:
    """Make rows of a tenant in every table of tenant data."""
    customer_id = (await a_customer(api, **ALL_FIELDS))["customerId"]
    await earned(assessor, tenant, customer_id, 100)
    lapsing: Json = {"mode": "period", "count": 1, "unit": "days"}
    segment_id = (await a_segment(api, name="VIP", expiry=lapsing))["segmentId"]
    rule_id = (await a_rule(api, "order", {"type": "points", "amount": 1}))["ruleId"]
    follow_up: Json = {"type": "trigger", "after": {"count": 7, "unit": "days"}, "nameSpace": "Customer.FollowUp"}
    of_actions = await a_rule(api, "action", follow_up, limits={"perCustomer": 1, "total": 100})
    await bare_customers(assessor, tenant, [UUID(customer_id)])
    event = redemption(customer_id, 10)
    assert (await api.post(REDEMPTIONS, event)).status == 200
    bought = OrderEvent.model_validate({**order(customer_id), "createdAt": clock()})
    await assessor.assess(tenant.tenant_id, [bought])
    assert (await api.post(REVERSALS, reversal(customer_id, bought.event_id))).status == 200
    # The second time the first membership has lapsed, which is recorded.
    for _ in range(2):
        assert (await api.put(f"{CUSTOMERS}/{customer_id}/segments", {"segmentId": segment_id})).status == 200
        clock.advance(days=1)
    simulation_id = await simulated(api, database, clock, of_actions["ruleId"])
    rows = await rows_of(owner, tenant)
    assert all(rows.values()), {name: len(found) for name, found in rows.items()}
    return Possessions(
        customer_id,
        segment_id,
        rule_id,
        tenant.integration.api_key,
        event["eventId"],
        str(bought.event_id),
        simulation_id,
    )


async def mirror(owner: asyncpg.Connection, tenant: Tenant, other: Tenant) -> None:
    """Give another tenant the same rows, with the same ids, behind the services' back."""
    async with owner.transaction():
        # No foreign key is looked at: the tables come in the order of their names.
        await owner.execute("SET LOCAL session_replication_role = replica")
        for table in await tenant_tables(owner):
            await owner.execute(
                f"INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object('tenant_id', $2::uuid))).*"
                f" FROM {table} t WHERE tenant_id = $1 ON CONFLICT DO NOTHING",
                tenant.tenant_id,
                other.tenant_id,
            )
