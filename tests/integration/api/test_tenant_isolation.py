"""Nothing crosses tenants: neither through the api, nor in the database where a statement forgot the tenant."""

import asyncpg

from tallymarks.database import Connection, Database
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import listed, refused
from tests.integration.api.given import (
    ALL_FIELDS,
    API_KEYS,
    BASKETS,
    CUSTOMERS,
    EVENT_SEARCH,
    EVENTS,
    REDEMPTIONS,
    REVERSALS,
    RULE_TRIALS,
    RULES,
    SEGMENTS,
    SIMULATIONS,
    TRANSACTION_SEARCH,
    Json,
    a_customer,
    a_rule,
    a_segment,
    basket,
    earned,
    fresh_id,
    redemption,
    reversal,
)
from tests.integration.possessions import SELECT_TENANT_TABLES, SHARED_TABLES, Possessions, rows_of, tenant_tables
from tests.parts import ApiClient, Tenant

LISTINGS = {
    CUSTOMERS: "customers",
    EVENT_SEARCH: "events",
    TRANSACTION_SEARCH: "customerTransactions",
    RULES: "rules",
    SEGMENTS: "segments",
    SIMULATIONS: "simulations",
}
SELECT_GRANTS = """
SELECT grantee::text, privilege_type::text, table_name::text, column_name::text
FROM information_schema.column_privileges
WHERE grantee = ANY($1::text[])
"""


async def test_another_tenant_reads_nothing(other: ApiClient, other_tenant: Tenant, possessions: Possessions) -> None:
    for path, name in LISTINGS.items():
        assert await listed(other, path, name) == []
    assert await listed(other, CUSTOMERS, "customers", keyword="ada") == []
    for path in (EVENT_SEARCH, TRANSACTION_SEARCH):
        for query in ({"customerId": possessions.customer_id}, {"eventId": possessions.event_id}):
            assert await listed(other, path, LISTINGS[path], **query) == []
    keys = {key["apiKey"] for key in await listed(other, API_KEYS, "apiKeys")}
    assert keys == {other_tenant.admin.api_key, other_tenant.integration.api_key}
    customer = f"{CUSTOMERS}/{possessions.customer_id}"
    for path in (customer, f"{customer}/balance", f"{customer}/segments"):
        refused(await other.get(path), 404, "CustomerNotFound", "customerId", possessions.customer_id)
    why = f"{EVENTS}/{possessions.event_id}/assessment"
    refused(await other.get(why), 404, "EventNotFound", "eventId", possessions.event_id)
    for path in (f"{RULES}/{possessions.rule_id}", f"{RULES}/{possessions.rule_id}/versions"):
        refused(await other.get(path), 404, "NotFound", "ruleId", possessions.rule_id)
    refused(await other.get(f"{SEGMENTS}/{possessions.segment_id}"), 404, "NotFound")
    refused(await other.get(f"{SIMULATIONS}/{possessions.simulation_id}"), 404, "NotFound")
    refused(await other.get(f"{API_KEYS}/{possessions.api_key}"), 404, "NotFound")
    event: Json = {"eventType": "action"}
    named: Json = {"customerId": possessions.customer_id}
    refused(await other.post(RULE_TRIALS, {"event": event, "customer": named}), 404, "CustomerNotFound")
    tried = (await other.post(RULE_TRIALS, {"event": {**event, **named}})).body
    assert tried["wouldWrite"]["balance"] == {"before": 0, "after": 0}
    assert tried["explanation"][0]["rules"] == []
    assert (await other.post(BASKETS, basket(possessions.customer_id))).body["points"] == []


async def test_another_tenant_changes_nothing(
    other: ApiClient, tenant: Tenant, owner: asyncpg.Connection, possessions: Possessions
) -> None:
    before = await rows_of(owner, tenant)
    customer_id, segment_id = possessions.customer_id, possessions.segment_id
    customer = f"{CUSTOMERS}/{customer_id}"
    rule: Json = {"name": "x", "eventType": "order", "fulfilments": [{"type": "points", "amount": 9}]}
    naming = {**rule, "fulfilments": [{"type": "addToSegment", "segmentId": segment_id}]}
    refused(await other.patch(customer, {"firstName": "Eve"}), 400, "CustomerNotFound")
    refused(await other.put(f"{customer}/segments", {"segmentId": segment_id}), 404, "CustomerNotFound")
    refused(await other.delete(f"{customer}/segments/{segment_id}"), 404, "CustomerNotFound")
    refused(await other.post(REDEMPTIONS, redemption(customer_id, 1)), 400, "InsufficientPoints")
    refused(await other.post(REVERSALS, reversal(customer_id, possessions.order_id)), 400, "ReversedEventNotFound")
    refused(await other.put(f"{RULES}/{possessions.rule_id}", rule), 404, "NotFound")
    refused(await other.post(RULES, naming), 400, "SegmentNotFound", "fulfilments.0.segmentId", segment_id)
    trial = {"event": {"eventType": "order", "order": {"total": 1}}, "rule": naming}
    refused(await other.post(RULE_TRIALS, trial), 400, "SegmentNotFound", "rule.fulfilments.0.segmentId", segment_id)
    refused(await other.put(f"{SEGMENTS}/{segment_id}", {"name": "x"}), 404, "NotFound")
    refused(await other.delete(f"{SIMULATIONS}/{possessions.simulation_id}"), 404, "NotFound")
    simulation: Json = {"ruleId": possessions.rule_id, "fromAt": "2026-03-13T00:00:00Z", "toAt": "2026-03-14T00:00:00Z"}
    refused(await other.post(f"{RULES}/simulate", simulation), 404, "NotFound", "ruleId", possessions.rule_id)
    refused(await other.put(f"{API_KEYS}/{possessions.api_key}", {"name": "x"}), 404, "NotFound")
    own = (await a_customer(other))["customerId"]
    refused(await other.put(f"{CUSTOMERS}/{own}/segments", {"segmentId": segment_id}), 400, "SegmentNotFound")
    assert await rows_of(owner, tenant) == before


async def test_two_tenants_may_use_the_same_ids_names_and_addresses(
    api: ApiClient,
    other: ApiClient,
    assessor: Assessor,
    tenant: Tenant,
    other_tenant: Tenant,
    owner: asyncpg.Connection,
    possessions: Possessions,
) -> None:
    before = await rows_of(owner, tenant)
    await a_customer(other, customerId=possessions.customer_id, **ALL_FIELDS)
    await a_segment(other, segmentId=possessions.segment_id, name="VIP")
    await a_rule(other, "order", {"type": "points", "amount": 1}, ruleId=possessions.rule_id)
    await earned(assessor, other_tenant, possessions.customer_id, 50)
    event = {**redemption(possessions.customer_id, 10), "eventId": possessions.event_id}
    answered = await other.post(REDEMPTIONS, event)
    assert (answered.status, answered.body["pendingBalance"]) == (200, 40)
    assert await rows_of(owner, tenant) == before
    assert (await api.get(f"{CUSTOMERS}/{possessions.customer_id}/balance")).body["amount"] == 90


async def test_every_table_of_tenant_data_is_secured_by_row(owner: asyncpg.Connection) -> None:
    tables = {row["name"]: row["is_secured"] for row in await owner.fetch(SELECT_TENANT_TABLES)}
    assert {name for name, is_secured in tables.items() if not is_secured} == SHARED_TABLES
    assert len(tables) > len(SHARED_TABLES)


async def attempt(connection: Connection, statement: str, *arguments: object) -> str:
    """Run a statement for itself; gives what the server says of it, or that it forbids it."""
    await connection.execute("SAVEPOINT attempt")
    try:
        return await connection.execute(statement, *arguments)
    except asyncpg.InsufficientPrivilegeError as error:
        await connection.execute("ROLLBACK TO attempt")
        return str(error)


async def assert_walled_off(connection: Connection, owner: asyncpg.Connection, tenant: Tenant) -> None:
    """Check that raw statements neither see nor change nor add a row of this tenant."""
    for table in await tenant_tables(owner):
        assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant.tenant_id) == 0
        for statement, harmless in (
            (f"UPDATE {table} SET tenant_id = tenant_id WHERE tenant_id = $1", "UPDATE 0"),
            (f"DELETE FROM {table} WHERE tenant_id = $1", "DELETE 0"),
        ):
            said = await attempt(connection, statement, tenant.tenant_id)
            assert said == harmless or said.startswith("permission denied"), (table, said)
        row = await owner.fetchval(f"SELECT to_jsonb(t)::text FROM {table} t WHERE tenant_id = $1", tenant.tenant_id)
        copied = f"INSERT INTO {table} SELECT (jsonb_populate_record(NULL::{table}, $1::text::jsonb)).*"
        assert "row-level security" in await attempt(connection, copied, row), table


async def test_a_statement_bound_to_another_tenant_meets_no_row(
    database: Database, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, possessions: Possessions
) -> None:
    before = await rows_of(owner, tenant)
    async with database.transaction(other_tenant.tenant_id) as connection:
        await assert_walled_off(connection, owner, tenant)
        for table in await tenant_tables(owner):
            seen = await connection.fetch(f"SELECT DISTINCT tenant_id FROM {table}")
            assert {row["tenant_id"] for row in seen} <= {other_tenant.tenant_id}
    assert await rows_of(owner, tenant) == before


async def test_a_statement_bound_to_no_tenant_meets_no_row(
    database: Database, owner: asyncpg.Connection, tenant: Tenant, possessions: Possessions
) -> None:
    before = await rows_of(owner, tenant)
    async with database.connection() as connection, connection.transaction():
        await assert_walled_off(connection, owner, tenant)
        for table in await tenant_tables(owner):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert await rows_of(owner, tenant) == before


async def test_the_binding_ends_with_its_transaction(database: Database, tenant: Tenant) -> None:
    async with database.transaction(tenant.tenant_id) as connection:
        assert await connection.fetchval("SELECT count(*) FROM api_keys") == 2
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM api_keys") == 0


async def test_the_ledger_is_never_changed_by_the_services(
    database: Database, owner: asyncpg.Connection, tenant: Tenant, possessions: Possessions
) -> None:
    before = await rows_of(owner, tenant)
    forbidden = [
        "UPDATE transactions SET amount = amount + 1",
        "UPDATE transactions SET description = 'x'",
        "DELETE FROM transactions",
        "TRUNCATE transactions",
        "UPDATE events SET body = '{}'",
        "UPDATE events SET customer_id = event_id",
        "DELETE FROM events",
        "UPDATE reversals SET amount = 0",
        "DELETE FROM reversals",
        "UPDATE segment_lapses SET lapsed_at = joined_at",
        "DELETE FROM segment_lapses",
        "UPDATE rule_versions SET definition = '{}'",
        "UPDATE rule_versions SET effective_from = effective_to",
        "DELETE FROM rule_versions",
        "UPDATE assessments SET explanation = ''",
        "DELETE FROM rule_uses",
        "DELETE FROM customer_rule_uses",
        "DELETE FROM accounts",
        "DELETE FROM customers",
        "DELETE FROM api_keys",
        "ALTER TABLE transactions DISABLE ROW LEVEL SECURITY",
        "DROP TABLE transactions",
    ]
    async with database.transaction(tenant.tenant_id) as connection:
        for statement in forbidden:
            said = await attempt(connection, statement)
            assert said.startswith(("permission denied", "must be owner")), (statement, said)
    assert await rows_of(owner, tenant) == before


async def test_the_roles_that_look_across_tenants_see_what_they_must_and_change_nothing(
    owner: asyncpg.Connection,
) -> None:
    granted = await owner.fetch(
        SELECT_GRANTS, ["tallymarks_searcher", "tallymarks_housekeeper", "tallymarks_doorkeeper"]
    )
    assert {(row["grantee"], row["privilege_type"], row["table_name"], row["column_name"]) for row in granted} == {
        ("tallymarks_searcher", "SELECT", "customers", "tenant_id"),
        ("tallymarks_searcher", "SELECT", "customers", "customer_id"),
        ("tallymarks_searcher", "SELECT", "customers", "search_text"),
        ("tallymarks_doorkeeper", "SELECT", "events", "tenant_id"),
        ("tallymarks_doorkeeper", "SELECT", "events", "event_id"),
        ("tallymarks_doorkeeper", "SELECT", "events", "created_at"),
        ("tallymarks_housekeeper", "SELECT", "tenants", "tenant_id"),
        ("tallymarks_housekeeper", "SELECT", "segment_memberships", "tenant_id"),
        ("tallymarks_housekeeper", "SELECT", "segment_memberships", "expiry_date_time"),
        ("tallymarks_housekeeper", "SELECT", "customers", "tenant_id"),
        ("tallymarks_housekeeper", "SELECT", "customers", "next_anniversary_at"),
        ("tallymarks_housekeeper", "SELECT", "triggers", "tenant_id"),
        ("tallymarks_housekeeper", "SELECT", "triggers", "due_at"),
        ("tallymarks_housekeeper", "SELECT", "assessments", "tenant_id"),
        ("tallymarks_housekeeper", "SELECT", "assessments", "recorded_at"),
        ("tallymarks_housekeeper", "SELECT", "simulations", "tenant_id"),
        ("tallymarks_housekeeper", "SELECT", "simulations", "created_at"),
        ("tallymarks_housekeeper", "SELECT", "simulations", "is_settled"),
    }


async def test_a_row_cannot_be_given_to_another_tenant(
    database: Database, tenant: Tenant, other_tenant: Tenant, possessions: Possessions
) -> None:
    async with database.transaction(tenant.tenant_id) as connection:
        said = await attempt(connection, "UPDATE customers SET tenant_id = $1", other_tenant.tenant_id)
    assert "row-level security" in said


async def test_an_unknown_tenant_is_nobody(api: ApiClient, tenant: Tenant, database: Database) -> None:
    headers = {**api.headers, "x-tenant-id": fresh_id()}
    refused(await api.call("GET", CUSTOMERS, headers=headers), 401, "Unauthorized")
    async with database.transaction(new_id()) as connection:
        assert await connection.fetchval("SELECT count(*) FROM api_keys") == 0
