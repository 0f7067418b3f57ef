"""The schema keeps the rules by which it can be distributed by tenant later, and grants the services what they do."""

from collections import defaultdict

import asyncpg
import pytest

SHARED = {"tenants", "outbox", "schema_migrations"}
"""Tables of no tenant: the list of tenants, what waits for the broker, and the migration tool's own."""

OPEN = SHARED - {"tenants"}
"""Tables whose rows every transaction sees."""

SERVICE_GRANTS = {
    "tenants": {"SELECT", "INSERT"},
    "api_keys": {"SELECT", "INSERT", "UPDATE"},
    "segments": {"SELECT", "INSERT", "UPDATE"},
    "rules": {"SELECT", "INSERT", "UPDATE"},
    "rule_versions": {"SELECT", "INSERT"},
    "customers": {"SELECT", "INSERT", "UPDATE"},
    "accounts": {"SELECT", "INSERT", "UPDATE"},
    "events": {"SELECT", "INSERT"},
    "transactions": {"SELECT", "INSERT"},
    "reversals": {"SELECT", "INSERT"},
    "segment_lapses": {"SELECT", "INSERT"},
    "rule_uses": {"SELECT", "INSERT", "UPDATE"},
    "customer_rule_uses": {"SELECT", "INSERT", "UPDATE"},
    "assessments": {"SELECT", "INSERT", "DELETE"},
    "segment_memberships": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "triggers": {"SELECT", "INSERT", "DELETE"},
    "simulations": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "simulation_days": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "simulation_customers": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "outbox": {"SELECT", "INSERT", "UPDATE", "DELETE"},
}
UPDATED_COLUMNS = {
    ("assessments", "recorded_at"),
    ("events", "assessed_at"),
    ("rule_versions", "effective_to"),
    ("tenants", "reversals_may_go_below_zero"),
    ("tenants", "rules_revision"),
    ("triggers", "due_at"),
}
"""Of the tables that are not to be updated as a whole."""


async def tables(owner: asyncpg.Connection) -> set[str]:
    rows = await owner.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    return {row["relname"] for row in rows}


async def test_every_table_is_tenant_data_or_known_to_be_shared(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attname = 'tenant_id' AND attnotnull"
    )
    assert await tables(owner) - {row["relname"] for row in rows} <= SHARED
    assert set(SERVICE_GRANTS) | SHARED == await tables(owner)


async def test_every_key_and_index_of_tenant_data_begins_with_the_tenant(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT t.relname AS table, i.relname AS index, a.attname AS first"
        " FROM pg_index x JOIN pg_class t ON t.oid = indrelid JOIN pg_class i ON i.oid = indexrelid"
        " LEFT JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]"
        " WHERE t.relnamespace = 'public'::regnamespace"
    )
    of_tenants = [row for row in rows if row["table"] not in SHARED]
    assert len(of_tenants) > 15
    assert [dict(row) for row in of_tenants if row["first"] != "tenant_id"] == []
    assert {row["table"] for row in of_tenants} == await tables(owner) - SHARED


async def test_every_reference_begins_with_the_tenant_on_both_sides(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT c.conname, f.attname AS from, t.attname AS to FROM pg_constraint c"
        " JOIN pg_attribute f ON f.attrelid = conrelid AND f.attnum = conkey[1]"
        " JOIN pg_attribute t ON t.attrelid = confrelid AND t.attnum = confkey[1]"
        " WHERE contype = 'f'"
    )
    assert len(rows) > 4
    assert [dict(row) for row in rows if (row["from"], row["to"]) != ("tenant_id", "tenant_id")] == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT rulename FROM pg_rules WHERE schemaname = 'public'",
        "SELECT conname FROM pg_constraint WHERE contype = 'x'",
        "SELECT evtname FROM pg_event_trigger",
        "SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace",
        "SELECT relname FROM pg_class WHERE relkind = 'p' AND relnamespace = 'public'::regnamespace",
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND provolatile <> 'i'"
        " AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')",
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND (column_default IS NOT NULL OR is_generated <> 'NEVER')",
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type IN ('timestamp without time zone', 'date', 'time')",
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND data_type IN ('real', 'double precision', 'money', 'character', 'json')",
    ],
)
async def test_there_is_none_of_what_cannot_be_distributed(owner: asyncpg.Connection, query: str) -> None:
    assert await owner.fetch(query) == []


async def test_every_time_has_its_zone(owner: asyncpg.Connection) -> None:
    types = await owner.fetch(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
        " AND (column_name LIKE '%\\_at' OR column_name LIKE '%date%')"
    )
    assert len(types) > 20
    assert {row["data_type"] for row in types} == {"timestamp with time zone"}


async def test_row_level_security_is_on_for_all_tenant_data(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relrowsecurity"
    )
    assert {row["relname"] for row in rows} == await tables(owner) - OPEN


async def test_the_services_policy_is_the_same_everywhere_and_says_the_tenant_of_the_transaction(
    owner: asyncpg.Connection,
) -> None:
    rows = await owner.fetch("SELECT * FROM pg_policies WHERE 'tallymarks_service' = ANY(roles)")
    assert {row["tablename"] for row in rows} == await tables(owner) - OPEN
    assert len(rows) == len({row["tablename"] for row in rows})  # a second one would widen what is seen
    (says,) = {row["qual"] for row in rows}
    assert says.startswith("(tenant_id = ")
    assert "tallymarks.tenant_id" in says
    assert {(row["permissive"], row["cmd"], row["with_check"]) for row in rows} == {("PERMISSIVE", "ALL", None)}


async def test_other_policies_let_their_roles_read_one_table_and_no_more(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch("SELECT * FROM pg_policies WHERE NOT 'tallymarks_service' = ANY(roles)")
    assert {(row["tablename"], *row["roles"], row["cmd"]) for row in rows} == {
        ("segment_memberships", "tallymarks_housekeeper", "SELECT"),
        ("customers", "tallymarks_housekeeper", "SELECT"),
        ("triggers", "tallymarks_housekeeper", "SELECT"),
        ("assessments", "tallymarks_housekeeper", "SELECT"),
        ("simulations", "tallymarks_housekeeper", "SELECT"),
        ("customers", "tallymarks_searcher", "SELECT"),
        ("events", "tallymarks_doorkeeper", "SELECT"),
        ("tenants", "tallymarks_housekeeper", "SELECT"),
    }


async def test_the_services_role_is_granted_what_the_design_says_and_no_more(owner: asyncpg.Connection) -> None:
    granted: defaultdict[str, set[str]] = defaultdict(set)
    for row in await owner.fetch(
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
        " WHERE table_schema = 'public' AND grantee IN ('tallymarks_service', 'PUBLIC')"
    ):
        granted[row["table_name"]].add(row["privilege_type"])
    assert dict(granted) == SERVICE_GRANTS
    columns = await owner.fetch(
        "SELECT table_name, column_name FROM information_schema.column_privileges"
        " WHERE table_schema = 'public' AND grantee = 'tallymarks_service' AND privilege_type = 'UPDATE'"
        " AND table_name = ANY($1)",
        [table for table, powers in SERVICE_GRANTS.items() if "UPDATE" not in powers],
    )
    assert {tuple(row) for row in columns} == UPDATED_COLUMNS


async def test_the_other_roles_are_granted_a_few_columns_to_read(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT grantee, table_name, column_name, privilege_type FROM information_schema.column_privileges"
        " WHERE table_schema = 'public' AND grantee = ANY($1)",
        ["tallymarks_housekeeper", "tallymarks_searcher", "tallymarks_doorkeeper"],
    )
    assert {tuple(row) for row in rows} == {
        ("tallymarks_housekeeper", "tenants", "tenant_id", "SELECT"),
        ("tallymarks_housekeeper", "segment_memberships", "tenant_id", "SELECT"),
        ("tallymarks_housekeeper", "segment_memberships", "expiry_date_time", "SELECT"),
        ("tallymarks_housekeeper", "customers", "tenant_id", "SELECT"),
        ("tallymarks_housekeeper", "customers", "next_anniversary_at", "SELECT"),
        ("tallymarks_housekeeper", "triggers", "tenant_id", "SELECT"),
        ("tallymarks_housekeeper", "triggers", "due_at", "SELECT"),
        ("tallymarks_housekeeper", "assessments", "tenant_id", "SELECT"),
        ("tallymarks_housekeeper", "assessments", "recorded_at", "SELECT"),
        ("tallymarks_housekeeper", "simulations", "tenant_id", "SELECT"),
        ("tallymarks_housekeeper", "simulations", "created_at", "SELECT"),
        ("tallymarks_housekeeper", "simulations", "is_settled", "SELECT"),
        ("tallymarks_searcher", "customers", "tenant_id", "SELECT"),
        ("tallymarks_searcher", "customers", "customer_id", "SELECT"),
        ("tallymarks_searcher", "customers", "search_text", "SELECT"),
        ("tallymarks_doorkeeper", "events", "tenant_id", "SELECT"),
        ("tallymarks_doorkeeper", "events", "event_id", "SELECT"),
        ("tallymarks_doorkeeper", "events", "created_at", "SELECT"),
    }


async def test_our_roles_are_no_more_than_they_need_to_be(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch("SELECT * FROM pg_roles WHERE rolname LIKE 'tallymarks\\_%' AND rolname NOT LIKE '%test%'")
    roles = {row["rolname"]: row for row in rows}
    ours = ("tallymarks_service", "tallymarks_housekeeper", "tallymarks_searcher", "tallymarks_doorkeeper")
    for name in ours:
        role = roles[name]
        for power in ("rolsuper", "rolcreaterole", "rolcreatedb", "rolcanlogin", "rolreplication", "rolbypassrls"):
            assert not role[power], (name, power)
    assert not roles["tallymarks_service"]["rolinherit"]
    inherited = await owner.fetch(
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = 'tallymarks_service'::regrole"
        " AND roleid::regrole::text <> ALL($1)",
        ours,
    )
    assert inherited == []


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("transactions", "ALTER TABLE transactions ADD UNIQUE (event_id, transaction_id)"),
        ("events", "CREATE INDEX ON events (customer_id, tenant_id)"),
        ("customers", "CREATE INDEX ON customers (lower(first_name))"),
    ],
)
async def test_the_rule_of_keys_would_be_seen_to_be_broken(owner: asyncpg.Connection, table: str, change: str) -> None:
    await owner.execute(change)
    with pytest.raises(AssertionError, match=table):
        await test_every_key_and_index_of_tenant_data_begins_with_the_tenant(owner)
