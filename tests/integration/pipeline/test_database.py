"""The database as the services see it: its absence has one name, and a transaction sees one tenant."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.database import SERVICE_ROLE, TRANSIENT_ERRORS, Database, DatabaseAway
from tallymarks.sql import tenancy
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.parts import points, seeded_ids
from tests.integration.possessions import Possessions, mirror, tenant_tables
from tests.parts import Tenant


@pytest.mark.parametrize(
    "raised", [asyncpg.InterfaceError("connection is closed"), asyncpg.InternalClientError("cannot switch to state 15")]
)
async def test_a_connection_that_the_driver_finds_broken_is_the_database_being_away(
    database: Database, raised: Exception
) -> None:
    with pytest.raises(DatabaseAway):
        async with database.connection():
            raise raised
    assert issubclass(DatabaseAway, TRANSIENT_ERRORS)


async def test_what_ended_a_transaction_is_told_also_where_its_connection_is_gone(
    database: Database, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    async def fail_without_a_connection() -> None:
        async with database.transaction(tenant.tenant_id) as connection:
            process = await connection.fetchval("SELECT pg_backend_pid()")
            await owner.execute("SELECT pg_terminate_backend($1)", process)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_without_a_connection()


@pytest.mark.parametrize("broken", [asyncpg.InternalClientError("cannot switch to state 15"), ConnectionResetError()])
async def test_what_ended_a_transaction_is_told_also_where_the_driver_cannot_roll_back(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    """As when the session ends while the driver reads: it is in no state to send anything."""
    execute = asyncpg.Connection.execute

    async def execute_or_break(connection: Any, statement: str, *arguments: Any, **named: Any) -> str:
        if statement == tenancy.ROLLBACK:
            raise broken
        return await execute(connection, statement, *arguments, **named)

    async def fail() -> None:
        async with database.transaction(tenant.tenant_id):
            raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "execute", execute_or_break)
        with pytest.raises(ZeroDivisionError):
            await fail()


async def test_a_connection_that_cannot_even_be_given_back_is_the_database_being_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hides what went wrong before: the session ended while the driver prepared a statement."""
    release = asyncpg.Pool.release

    async def broken(pool: Any, *arguments: Any, **named: Any) -> None:
        await release(pool, *arguments, **named)
        raise asyncpg.InternalClientError("cannot switch to state 15")

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Pool, "release", broken)
        with pytest.raises(DatabaseAway):
            async with database.connection():
                raise asyncpg.AdminShutdownError("terminating connection")


async def test_an_argument_that_cannot_be_encoded_is_a_fault_of_ours(database: Database) -> None:
    with pytest.raises(asyncpg.DataError):
        async with database.connection() as connection:
            await connection.fetchval("SELECT $1::int", "no number")


async def test_a_server_that_nobody_reaches_is_the_database_being_away() -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing", pool_size=2, application_name="test")
    await nowhere.open()
    assert not await nowhere.is_reachable()
    with pytest.raises(TRANSIENT_ERRORS):
        async with nowhere.connection():
            pass
    await nowhere.close()


async def test_a_database_that_is_not_made_yet_is_the_database_being_away(database_url: str) -> None:
    missing = Database(database_url.replace("/test_", "/missing_"), pool_size=2, application_name="test")
    await missing.open()
    assert not await missing.is_reachable()
    await missing.close()


async def test_a_pool_that_is_all_in_use_is_waited_for_and_no_longer_than_connecting_may_take(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT_SECONDS", 0.2)
    small = Database(database_url, pool_size=1, application_name="test")
    await small.open()
    async with small.connection():
        with pytest.raises(DatabaseAway):
            async with small.connection():
                pass
    assert await small.is_reachable()
    await small.close()


async def test_statements_are_given_up_by_the_server_in_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STATEMENT_TIMEOUT_SECONDS", 0.1)
    hurried = Database(database_url, pool_size=1, application_name="test")
    await hurried.open()
    with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
        async with hurried.connection() as connection:
            await connection.execute("SELECT pg_sleep(60)")
    await hurried.close()


# --- the second wall between tenants ---------------------------------------------------------------------------------


@pytest.fixture
async def tables(
    owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, possessions: Possessions
) -> list[str]:
    """Every table of tenant data, with rows of two tenants who share their ids."""
    await mirror(owner, tenant, other_tenant)
    return await tenant_tables(owner)


async def test_a_statement_that_forgets_the_tenant_sees_its_own_rows_only(
    database: Database, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, tables: list[str]
) -> None:
    both = {tenant.tenant_id, other_tenant.tenant_id}
    for table in tables:
        assert {row["tenant_id"] for row in await owner.fetch(f"SELECT tenant_id FROM {table}")} == both, table
        for one in both:
            async with database.transaction(one) as connection:
                rows = await connection.fetch(f"SELECT tenant_id FROM {table}")
            assert {row["tenant_id"] for row in rows} == {one}, table


async def test_without_a_tenant_no_row_is_seen(database: Database, tenant: Tenant, tables: list[str]) -> None:
    for table in tables:
        async with database.connection() as connection:
            assert await connection.fetch(f"SELECT tenant_id FROM {table}") == []
        # The tenant is forgotten with its transaction.
        async with database.transaction(tenant.tenant_id) as connection:
            assert await connection.fetch(f"SELECT tenant_id FROM {table}") != []
        async with database.connection() as connection:
            assert await connection.fetch(f"SELECT tenant_id FROM {table}") == []


@pytest.mark.parametrize("ends", ["committed", "failed", "cancelled"])
async def test_a_connection_is_given_back_as_it_was_lent(
    database_url: str, tenant: Tenant, tables: list[str], ends: str
) -> None:
    """However its transaction ended, the next who has it must announce the tenant, and acts as the service."""
    one = Database(database_url, pool_size=1, application_name="test")
    await one.open()
    settings = "SELECT name, setting, source FROM pg_settings WHERE name <> 'transaction_isolation' ORDER BY name"
    async with one.connection() as connection:
        session, before = connection.get_server_pid(), await connection.fetch(settings)
    with suppress(asyncpg.DivisionByZeroError, DatabaseAway):
        async with one.transaction(tenant.tenant_id) as connection:
            await connection.execute(tenancy.ACT_AS_HOUSEKEEPER)
            if ends == "failed":
                await connection.execute("SELECT 1 / 0")
            if ends == "cancelled":
                async with asyncio.timeout(0.1):
                    await connection.execute("SELECT pg_sleep(60)")
    async with one.connection() as connection:
        assert connection.get_server_pid() == session
        assert await connection.fetchval("SELECT current_user") == SERVICE_ROLE
        assert not await connection.fetchval("SELECT current_setting('tallymarks.tenant_id', true)")
        assert await connection.fetch(settings) == before
        for table in tables:
            assert await connection.fetch(f"SELECT tenant_id FROM {table}") == [], table
    await one.close()


async def test_nothing_can_be_written_for_another_tenant(
    database: Database, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, assessor: Assessor
) -> None:
    ids = seeded_ids(1)
    for one in (tenant, other_tenant):
        await assessor.assess(one.tenant_id, [points(ids(), ids(), 1)])
    insert = "INSERT INTO segment_lapses VALUES ($1, $2, $2, now(), now(), now())"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with database.transaction(tenant.tenant_id) as connection:
            await connection.execute(insert, other_tenant.tenant_id, ids())
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with database.transaction(tenant.tenant_id) as connection:
            await connection.execute("UPDATE accounts SET tenant_id = $1", other_tenant.tenant_id)
    async with database.transaction(tenant.tenant_id) as connection:
        update = await connection.execute(
            "UPDATE accounts SET balance = 77 WHERE tenant_id = $1", other_tenant.tenant_id
        )
    assert update == "UPDATE 0"
    assert await owner.fetchval("SELECT balance FROM accounts WHERE tenant_id = $1", other_tenant.tenant_id) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transactions SET amount = 1",
        "DELETE FROM transactions",
        "TRUNCATE transactions",
        "DELETE FROM events",
        "UPDATE events SET body = '{}'",
        "UPDATE events SET created_at = now()",
        "DELETE FROM customers",
        "DELETE FROM accounts",
        "UPDATE segment_lapses SET recorded_at = now()",
        "DELETE FROM segment_lapses",
        "DELETE FROM tenants",
        "DROP TABLE transactions",
        "ALTER TABLE transactions DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine (id int)",
    ],
)
async def test_the_services_may_not(database: Database, tenant: Tenant, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.transaction(tenant.tenant_id) as connection:
            await connection.execute(statement)
