"""Migrations: any number at once on an empty database, down and up again, and a login that is no superuser."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import orjson
import pytest
from dateutil.relativedelta import relativedelta

from tallymarks.broker import Topology
from tallymarks.cli import dbmate_url
from tallymarks.credentials import Role
from tallymarks.database import Database
from tallymarks.rule_sets import rule_of, rule_version_of
from tallymarks.segments import Status, next_anniversary
from tallymarks.service import new_id, utc_now
from tallymarks.sql import rules as sql
from tallymarks.tenants import create_api_key, create_tenant
from tallymarks_assessor.assess import Assessor
from tallymarks_calendar.anniversaries import Anniversaries
from tallymarks_calendar.triggers import Triggers
from tallymarks_segment_expiry.sweep import Sweeper
from tests.integration.pipeline.parts import count, insert_lapsed, points, run_command, schedule, seeded_ids, trigger
from tests.parts import Clock
from tests.servers import database_url as database_url_of
from tests.servers import drop_database

MIGRATIONS = files("tallymarks") / "migrations"
ASSESSMENT = "20261125000001_assessment.sql"
CALENDAR = "20261125000002_calendar.sql"
RULE_VERSIONS = "20261125000003_rule_versions.sql"
REVERSALS = "20261125000004_reversals.sql"


@pytest.fixture
async def empty_url(postgres_url: str) -> AsyncIterator[str]:
    """The address of a database that nothing was migrated in."""
    name = f"test_{os.urandom(6).hex()}"
    server = await asyncpg.connect(postgres_url)
    await server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield database_url_of(postgres_url, name)
    await server.close()
    await drop_database(postgres_url, name)


async def schema_of(url: str) -> dict[str, list[Any]]:
    """All of a database that a migration makes, in a form that can be compared."""
    connection = await asyncpg.connect(url)
    queries = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
        "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
        "policies": "SELECT tablename, policyname, roles, cmd, qual FROM pg_policies ORDER BY 1, 2",
        "grants": "SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants"
        " WHERE table_schema = 'public' ORDER BY 1, 2, 3",
        "functions": "SELECT proname, provolatile, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e') ORDER BY 1",
        "secured": "SELECT relname FROM pg_class WHERE relrowsecurity ORDER BY 1",
    }
    found = {name: [tuple(row) for row in await connection.fetch(query)] for name, query in queries.items()}
    await connection.close()
    return found


async def dbmate(url: str, *arguments: str, migrations: object = MIGRATIONS) -> None:
    ran = await run_command(
        "dbmate", "--no-dump-schema", "--migrations-dir", str(migrations), *arguments,
        DATABASE_URL=dbmate_url(url, encrypted=False),
    )  # fmt: skip
    assert ran.code == 0, ran.errors


async def migrate_until(first_left_out: str, url: str, folder: Path) -> None:
    """Bring a database to what it was before this migration."""
    for path in MIGRATIONS.iterdir():
        if path.name.endswith(".sql") and path.name < first_left_out:
            (folder / path.name).write_text(path.read_text())
    await dbmate(url, "migrate", migrations=folder)


async def test_any_number_at_once_makes_the_schema_once(empty_url: str, database_url: str) -> None:
    ran = await asyncio.gather(
        *(run_command("tallymarks", "migrate", TALLYMARKS_DATABASE_URL=empty_url) for _ in range(4))
    )
    assert [one.code for one in ran] == [0, 0, 0, 0], [one.errors for one in ran]
    assert sum("Applied" in one.output + one.errors for one in ran) == 1
    connection = await asyncpg.connect(empty_url)
    versions = [row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")]
    await connection.close()
    assert sorted(versions) == sorted(path.name.split("_")[0] for path in MIGRATIONS.iterdir() if ".sql" in path.name)
    assert await schema_of(empty_url) == await schema_of(database_url)


async def test_what_goes_up_comes_down_and_goes_up_again(database_url: str) -> None:
    before = await schema_of(database_url)
    for path in MIGRATIONS.iterdir():
        if path.name.endswith(".sql"):
            await dbmate(database_url, "rollback")
    down = await schema_of(database_url)
    assert {row[0] for row in down["columns"]} == {"schema_migrations"}
    assert down["policies"] == down["functions"] == []
    await dbmate(database_url, "migrate")
    assert await schema_of(database_url) == before


async def test_events_of_before_there_were_totals_count(empty_url: str, tmp_path: Path) -> None:
    """Whoever has ordered nine times before the update orders for the tenth time after it."""
    await migrate_until(ASSESSMENT, empty_url, tmp_path)
    now, tenant_ids, customer_ids = utc_now(), [new_id(), new_id()], [new_id(), new_id()]
    connection = await asyncpg.connect(empty_url)
    bodies: dict[str, list[dict[str, Any]]] = {
        "action": [{"action": {"amount": "2.5"}}, {"action": {}}, {"action": {"amount": None}}],
        "order": [{"order": {"total": "10.0001"}}, {"order": {"total": "-0.5"}}],
        "transaction": [{"transaction": {"amount": "999999999999.9999"}}] * 3,
        "points": [{"points": {"quantity": 5}}, {"points": {"quantity": -7}}, {"points": {"quantity": 10**15}}],
        "redemption": [{"redemption": {"points": 3}}],
        "error": [{"reason": "x", "event": {"order": {"total": "5"}}}],
    }
    for tenant_id in tenant_ids:
        await connection.execute("INSERT INTO tenants VALUES ($1, 'Old', '', 0, $2)", tenant_id, now)
        await connection.execute(
            "INSERT INTO customers (tenant_id, customer_id, optin_sms, optin_email, accept_terms, attributes,"
            " search_text, created_at, changed_at) SELECT $1, id, false, false, false, '[]', '', $3, $3"
            " FROM unnest($2::uuid[]) id",
            tenant_id, customer_ids, now,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO accounts SELECT $1, id, 0, NULL, false FROM unnest($2::uuid[]) id", tenant_id, customer_ids
        )
    events = [(kind, body) for kind, all_of_kind in bodies.items() for body in all_of_kind]
    # One redemption is debited and not assessed yet: it counts when it is.
    assessed = [now] * len(events) + [None]
    await connection.executemany(
        "INSERT INTO events VALUES ($1, $2, $3, $4, NULL, NULL, $5, $5, $6, $7)",
        [
            (tenant_ids[0], new_id(), customer_ids[0], kind, now, at, orjson.dumps(body).decode())
            for (kind, body), at in zip([*events, ("redemption", {})], assessed, strict=True)
        ],
    )
    await dbmate(empty_url, "migrate")
    rows = await connection.fetch("SELECT * FROM accounts")
    await connection.close()
    assert {row["customer_created_at"] for row in rows} == {now}
    of_account = {(row["tenant_id"], row["customer_id"]): row for row in rows}
    totals = {name: value for name, value in of_account.pop((tenant_ids[0], customer_ids[0])).items() if "_" in name}
    assert {name: value for name, value in totals.items() if name.endswith(("_count", "_value", "_earned"))} == {
        "action_count": 3, "action_value": Decimal("2.5"),
        "order_count": 2, "order_value": Decimal("9.5001"),
        "transaction_count": 3, "transaction_value": Decimal("2999999999999.9997"),
        "points_count": 3, "points_value": 10**15 - 2, "points_earned": 10**15 + 5,
        "redemption_count": 1, "anniversary_count": 0,
    }  # fmt: skip
    for row in of_account.values():
        assert {value for name, value in row.items() if name.endswith(("_count", "_value", "_earned"))} == {0}


async def test_customers_of_before_there_was_a_calendar_have_their_next_anniversary_ahead(
    empty_url: str, tmp_path: Path
) -> None:
    await migrate_until(CALENDAR, empty_url, tmp_path)
    now, day = utc_now(), timedelta(days=1)
    joined = [
        now - day,
        now - relativedelta(years=1) - day,
        now - relativedelta(years=1) + day,
        now - relativedelta(years=9) - day,
        now - relativedelta(years=9) + day,
        datetime(2000, 2, 29, 23, 59, 59, 999_000, tzinfo=UTC),
        datetime(2001, 1, 1, tzinfo=UTC),
        datetime(2001, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    ]
    connection = await asyncpg.connect(empty_url)
    tenant_id = new_id()
    await connection.execute("INSERT INTO tenants VALUES ($1, 'Old', '', 0, $2)", tenant_id, now)
    await connection.execute(
        "INSERT INTO customers (tenant_id, customer_id, optin_sms, optin_email, accept_terms, attributes, search_text,"
        " created_at, changed_at) SELECT $1, gen_random_uuid(), false, false, false, '[]', '', at, at"
        " FROM unnest($2::timestamptz[]) at",
        tenant_id,
        joined,
    )
    await dbmate(empty_url, "migrate")
    rows = await connection.fetch("SELECT created_at, next_anniversary_at FROM customers")
    await connection.close()
    assert {row[0]: row[1] for row in rows} == {at: next_anniversary(at, now)[1] for at in joined}


async def test_rules_of_before_there_were_versions_have_their_first_unless_they_have_done_nothing(
    empty_url: str, tmp_path: Path
) -> None:
    await migrate_until(RULE_VERSIONS, empty_url, tmp_path)
    created, changed = utc_now() - timedelta(days=2), utc_now()
    connection = await asyncpg.connect(empty_url)
    tenant_id = new_id()
    await connection.execute("INSERT INTO tenants VALUES ($1, 'Old', '', 0, $2)", tenant_id, created)
    await connection.execute(
        "INSERT INTO rules SELECT $1, gen_random_uuid(), status, 'order',"
        " jsonb_build_object('name', status, 'status', status, 'eventType', 'order', 'fulfilments', $2::jsonb), $3, $4"
        " FROM unnest($5::text[]) status",
        tenant_id, '[{"type": "points", "amount": 5}]', created, changed, list(Status),
    )  # fmt: skip
    await dbmate(empty_url, "migrate")
    rows = await connection.fetch(sql.SELECT_RULES_PAGE, tenant_id, UUID(int=0), 10)
    rules = {row["status"]: rule_of(row) for row in rows}
    versions = {row["rule_id"]: rule_version_of(row) for row in await connection.fetch("SELECT * FROM rule_versions")}
    await connection.close()
    active, inactive, archived = (rules[status] for status in (Status.ACTIVE, Status.INACTIVE, Status.ARCHIVED))
    assert set(versions) == {active.rule_id, inactive.rule_id, archived.rule_id}
    assert {rule.version for rule in rules.values()} == {1}
    for rule, end in ((active, None), (inactive, changed), (archived, changed)):
        version = versions[rule.rule_id]
        assert version.says_the_same(rule)
        for kept in (rule, version):
            assert (kept.version, kept.effective_from, kept.effective_to) == (1, None, end)
            assert kept.created_at == created


async def test_tenants_of_before_there_were_reversals_let_them_go_below_zero(empty_url: str, tmp_path: Path) -> None:
    await migrate_until(REVERSALS, empty_url, tmp_path)
    connection = await asyncpg.connect(empty_url)
    await connection.execute("INSERT INTO tenants VALUES ($1, 'Old', '', 0, $2)", new_id(), utc_now())
    await dbmate(empty_url, "migrate")
    assert await connection.fetchval("SELECT reversals_may_go_below_zero FROM tenants")
    await connection.close()


async def test_a_database_that_is_away_is_told_in_a_sentence() -> None:
    ran = await run_command("tallymarks", "migrate", TALLYMARKS_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert ran.code == 1
    assert "Traceback" not in ran.errors


@pytest.fixture
async def login_url(database_url: str, owner: asyncpg.Connection) -> AsyncIterator[str]:
    """The address of the database for a login as in production: a member of the services' role and nothing more."""
    name = f"tallymarks_test_{os.urandom(6).hex()}"
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE tallymarks_service")
    parts = urlsplit(database_url)
    yield parts._replace(netloc=f"{name}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    await owner.execute(f"DROP ROLE {name}")


async def test_a_login_of_the_services_role_can_do_all_that_the_services_do(
    login_url: str, topology: Topology, clock: Clock, owner: asyncpg.Connection
) -> None:
    database = Database(login_url, pool_size=5, application_name="login")
    await database.open()
    tenant = await create_tenant(database, "Test", now=clock(), new_id=new_id)
    await create_api_key(database, tenant.tenant_id, "integration", Role.INTEGRATION, clock())
    ids = seeded_ids(1)
    assessor = Assessor(database, topology, now=clock, new_id=new_id)
    assert (await assessor.assess(tenant.tenant_id, [points(ids(), ids(), 5)])).transactions == 1
    await insert_lapsed(owner, tenant.tenant_id, clock(), 3)
    sweeper = Sweeper(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())
    assert await sweeper.sweep(asyncio.Event()) == 3
    assert await count(owner, "segment_lapses") == 3
    await schedule(database, tenant.tenant_id, [trigger(ids, clock())], clock())
    clock.advance(days=366)
    for calendar in (Anniversaries, Triggers):
        part = calendar(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())
        assert await part.publish_due(asyncio.Event()) == 1
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT current_user") == "tallymarks_service"
    await database.close()


async def test_the_login_itself_can_do_nothing_more_than_the_role(login_url: str) -> None:
    login = await asyncpg.connect(login_url)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await login.execute("DELETE FROM transactions")
    assert await login.fetch("SELECT * FROM transactions") == []
    await login.close()
