"""The operator's command."""

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from importlib.resources import as_file, files
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import cyclopts
import orjson
import structlog
from pydantic import ValidationError

from tallymarks import dead_letters, limits, tenants, verification
from tallymarks.broker import Broker, Topology
from tallymarks.credentials import Role
from tallymarks.database import UNAVAILABLE_ERRORS, Database
from tallymarks.errors import Refusal, Unavailable
from tallymarks.service import load_settings, new_id, utc_now
from tallymarks.settings import Settings
from tallymarks.sql import tenancy

MIGRATION_LOCK = 7_419_061_852_003
"""Any number that nobody else takes: one migration at a time, however many are started."""
CONNECTING_ERRORS: tuple[type[BaseException], ...] = (OSError, TimeoutError, *UNAVAILABLE_ERRORS)

T = TypeVar("T")

app = cyclopts.App(name="tallymarks", help="Operate a Tallymarks loyalty engine. Settings are TALLYMARKS_* variables.")
tenant_app = app.command(cyclopts.App(name="tenant", help="Tenants."))
api_key_app = app.command(cyclopts.App(name="api-key", help="API keys."))
ledger_app = app.command(cyclopts.App(name="ledger", help="The points ledger."))
dead_letters_app = app.command(cyclopts.App(name="dead-letters", help="Events that could not be assessed."))


def main() -> None:
    """Run the command; exits with 1 and a sentence where it fails, with 2 where the settings are wrong."""
    # What a command prints on stdout is read by programs.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        app()
    except Refusal as refusal:
        _stop(f"{refusal.code}: {refusal.detail or refusal.message}")
    except CONNECTING_ERRORS as error:
        _stop(f"the database is away: {str(error) or type(error).__name__}")


@app.command
def migrate() -> None:
    """Bring the database's schema up to date; any number at once is safe."""
    asyncio.run(_migrate(load_settings().database_url))


@tenant_app.command(name="create")
def create_tenant(name: str) -> None:
    """Create a tenant with an admin key; prints JSON, with the secret that is shown this once.

    Parameters
    ----------
    name
        What people call the tenant.
    """
    created = _run(lambda database: tenants.create_tenant(database, name, now=utc_now(), new_id=new_id))
    _print({**created.model_dump(mode="json"), "name": name})


@api_key_app.command(name="create")
def create_api_key(tenant_id: UUID, name: str, *, role: Role = Role.INTEGRATION) -> None:
    """Create an API key; prints JSON, with the secret that is shown this once.

    Parameters
    ----------
    tenant_id
        The tenant that the key is for.
    name
        The integration that will use it.
    role
        integration posts events and reads; admin also manages and adjusts points.
    """
    created = _run(lambda database: tenants.create_api_key(database, tenant_id, name, role, utc_now()))
    _print(created.model_dump(mode="json"))


@ledger_app.command(name="verify")
def verify_ledger(tenant_id: UUID | None = None) -> None:
    """Prove that balances are the sums of their transactions, and these as they were written; else exits with 1.

    Prints each customer whose balance differs, and each transaction that does not agree with its check sum.

    Parameters
    ----------
    tenant_id
        One tenant only; else all.
    """
    if not _run(lambda database: _verify_ledger(database, tenant_id)):
        sys.exit(1)


@dead_letters_app.command(name="list")
def list_dead_letters(*, limit: int = 100) -> None:
    """Print the dead letters, oldest first, a JSON line each; they stay where they are.

    Parameters
    ----------
    limit
        How many at the most.
    """
    asyncio.run(_with_broker(load_settings(), lambda broker: _list_dead_letters(broker, limit)))


@dead_letters_app.command(name="replay")
def replay_dead_letters(*, limit: int = limits.DEAD_LETTERS_LISTED_MAX, event_id: UUID | None = None) -> None:
    """Send dead letters back to be assessed, oldest first; what has taken effect meanwhile does not count twice.

    Parameters
    ----------
    limit
        How many to look at, at the most.
    event_id
        Only the letter of this event.
    """
    asyncio.run(_with_broker(load_settings(), lambda broker: _replay_dead_letters(broker, limit, event_id)))


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"tallymarks: {message}\n")
    sys.exit(1)


def _print(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")
    sys.stdout.flush()


def _run(work: Callable[[Database], Awaitable[T]]) -> T:
    """Do some work with the database."""

    async def run() -> T:
        database = Database(load_settings().database_url, pool_size=2, application_name="tallymarks")
        await database.open()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


async def _with_broker(settings: Settings, work: Callable[[Broker], Awaitable[None]]) -> None:
    """Do some work with the broker."""
    if not settings.amqp_url:
        raise Unavailable("TALLYMARKS_AMQP_URL is not set")
    broker = Broker(
        settings.amqp_url,
        Topology(settings.topology_prefix, settings.partitions),
        confirm_timeout_seconds=settings.confirm_timeout_seconds,
        name="tallymarks",
    )
    try:
        async with asyncio.timeout(limits.CONNECT_TIMEOUT_SECONDS):
            await broker.open()
        await work(broker)
    except TimeoutError:
        raise Unavailable("The broker is away.") from None
    finally:
        await broker.close()


async def _verify_ledger(database: Database, only: UUID | None) -> bool:
    """Print what differs and what was altered; give whether nothing was."""
    verified = customers = transactions = 0
    async for tenant_id in _tenants(database, only):
        verified += 1
        rows = await verification.differing_balances(database, tenant_id, limits.DIFFERENCES_SHOWN_MAX)
        customers += len(rows)
        for row in rows:
            _print(
                {
                    "tenantId": tenant_id,
                    "customerId": row["customer_id"],
                    "balance": row["balance"],
                    "transactions": int(row["amount"]),
                }
            )
        async for row in verification.altered_transactions(database, tenant_id):
            transactions += 1
            _print({"tenantId": tenant_id, "customerId": row["customer_id"], "transactionId": row["transaction_id"]})
    _print({"tenants": verified, "differingCustomers": customers, "alteredTransactions": transactions})
    return customers == transactions == 0


async def _tenants(database: Database, only: UUID | None) -> AsyncIterator[UUID]:
    if only is not None:
        yield only
        return
    last = UUID(int=0)
    while True:
        async with database.connection() as connection, connection.transaction(readonly=True):
            await connection.execute(tenancy.ACT_AS_HOUSEKEEPER)
            rows = await connection.fetch(tenancy.SELECT_TENANTS, last, limits.PAGE_LIMIT_MAX)
        for row in rows:
            yield row["tenant_id"]
        if len(rows) < limits.PAGE_LIMIT_MAX:
            return
        last = rows[-1]["tenant_id"]


async def _list_dead_letters(broker: Broker, limit: int) -> None:
    async with aclosing(dead_letters.look(broker, limit)) as letters:
        async for letter in letters:
            _print(letter.described())


async def _replay_dead_letters(broker: Broker, limit: int, event_id: UUID | None) -> None:
    replayed = left = 0
    async with aclosing(dead_letters.look(broker, limit)) as letters:
        async for letter in letters:
            if event_id is not None and not letter.carries(event_id):
                continue
            try:
                await dead_letters.replay(broker, letter)
            except ValidationError:
                left += 1
            else:
                replayed += 1
    _print({"replayed": replayed, "unreadable": left})


async def _migrate(url: str) -> None:
    """Run the migrations while holding a lock that every other migration waits for."""
    connection = await asyncpg.connect(url, timeout=limits.CONNECT_TIMEOUT_SECONDS)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK, timeout=limits.MIGRATION_WAIT_SECONDS)
        encrypted = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        await asyncio.to_thread(_run_dbmate, dbmate_url(url, encrypted=bool(encrypted)))
    finally:
        await connection.close()


def _run_dbmate(url: str) -> None:
    dbmate = Path(sysconfig.get_path("scripts")) / "dbmate"
    with as_file(files("tallymarks") / "migrations") as migrations:
        command = [str(dbmate), "--no-dump-schema", "--migrations-dir", str(migrations), "migrate"]
        done = subprocess.run(command, env={**os.environ, "DATABASE_URL": url}, check=False)  # noqa: S603 - our own
    if done.returncode:
        _stop("the migration failed")


def dbmate_url(url: str, *, encrypted: bool) -> str:
    """Say in dbmate's way what the URL says in libpq's: the socket's directory, and whether to encrypt."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    host = query.pop("host", "")
    if host.startswith("/"):
        query["socket"] = host
    elif host:
        raise ValueError("a host in the query is understood for a socket's directory only")
    query.setdefault("sslmode", "require" if encrypted else "disable")
    return urlunsplit(("postgres", parts.netloc, parts.path, urlencode(query), ""))
