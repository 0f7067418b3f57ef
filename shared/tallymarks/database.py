"""PostgreSQL: the pool, and transactions that see one tenant."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias
from uuid import UUID

import asyncpg

from tallymarks import limits
from tallymarks.sql import tenancy

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Record: TypeAlias = asyncpg.Record

SERVICE_ROLE = "tallymarks_service"
DOORKEEPER_ROLE = "tallymarks_doorkeeper"
"""Sees which ids of events are taken, of any tenant, by what was created when, and nothing else."""


class DatabaseAway(Exception):  # noqa: N818 - named as the state it tells of
    """There is no connection to the database, or it broke, or did not answer in time."""


UNAVAILABLE_ERRORS: tuple[type[BaseException], ...] = (
    DatabaseAway,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedObjectError,
)
"""The database is away, or not itself (a standby, or not migrated yet): nothing is wrong with what was asked of it."""

CONTENTION_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)
"""Another transaction was in the way: the same again can succeed."""

TIMEOUT_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.QueryCanceledError,
)
"""It took too long: the same again may succeed, less of it at a time more surely."""


TRANSIENT_ERRORS = UNAVAILABLE_ERRORS + CONTENTION_ERRORS + TIMEOUT_ERRORS

TIMED_LOOKUP_ERRORS: tuple[type[BaseException], ...] = (TimeoutError, *TRANSIENT_ERRORS)
"""What a look-up under a time limit of its own may fail with."""


async def _nothing_to_reset(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Save the round trip in which the driver would reset a connection's session when it is given back.

    Whatever is set here is set for a transaction alone (the tenant, a role, a timeout), and one that was left open the
    driver has rolled back before it asks for this.
    """


@asynccontextmanager
async def _of_tenant(connection: Connection, begin: str, tenant_id: UUID) -> AsyncIterator[None]:
    """Begin a transaction of a tenant, and end it: in one round trip less than by the driver's own transactions."""
    await connection.execute(f"{begin};{tenancy.BIND_TENANT.format(tenant_id=tenant_id)}")
    try:
        yield
    except BaseException:
        # Where the connection is gone the transaction is, too.
        with suppress(OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, *UNAVAILABLE_ERRORS):
            await connection.execute(tenancy.ROLLBACK)
        raise
    await connection.execute(tenancy.COMMIT)


class Database:
    """A bounded pool of connections that act as the services' role, or another that is granted to it.

    Connecting waits until the database is first needed, so a service starts and serves what it can while it is away.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        application_name: str,
        lock_timeout_seconds: float = 0,
        role: str = SERVICE_ROLE,
    ) -> None:
        """Prepare the pool; `open` makes it. A lock is waited for as long as a statement may take, or less."""
        self._pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=pool_size,
            timeout=limits.CONNECT_TIMEOUT_SECONDS,
            # The server gives up first, and says so.
            command_timeout=limits.STATEMENT_TIMEOUT_SECONDS + 5,
            max_inactive_connection_lifetime=300,
            reset=_nothing_to_reset,
            server_settings={
                "role": role,
                "application_name": application_name,
                "timezone": "UTC",
                "statement_timeout": str(int(limits.STATEMENT_TIMEOUT_SECONDS * 1000)),
                "lock_timeout": str(int(lock_timeout_seconds * 1000)),
                "idle_in_transaction_session_timeout": str(int(limits.TRANSACTION_IDLE_TIMEOUT_SECONDS * 1000)),
            },
        )

    async def open(self) -> None:
        """Make the pool; no connection yet."""
        await self._pool

    async def close(self) -> None:
        """Give the connections up, those in use once they are free."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection that is bound to no tenant: the services' role sees the tables that tenants share only."""
        try:
            connection = await self._pool.acquire(timeout=limits.CONNECT_TIMEOUT_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # It cannot be reached, or refuses: it starts, stops, is full, or was not set up for us yet.
            raise DatabaseAway(str(error) or type(error).__name__) from error
        try:
            try:
                yield connection
            finally:
                await self._pool.release(connection, timeout=limits.RELEASE_TIMEOUT_SECONDS)
        except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # The driver uses one class for a closed connection and for an argument that it cannot encode; only the
            # second is a ValueError, and a fault of ours. The other class is what giving back a connection raises
            # whose session ended while it prepared a statement.
            if isinstance(error, ValueError):
                raise
            raise DatabaseAway(str(error) or type(error).__name__) from error

    @asynccontextmanager
    async def transaction(self, tenant_id: UUID) -> AsyncIterator[Connection]:
        """Open a transaction that sees the rows of this tenant only; commits on leaving, rolls back on an exception."""
        async with self.connection() as connection, _of_tenant(connection, tenancy.BEGIN, tenant_id):
            yield connection

    @asynccontextmanager
    async def reading(self, tenant_id: UUID) -> AsyncIterator[Connection]:
        """Open a transaction that sees the rows of this tenant as they are at one instant, and can write none."""
        async with self.connection() as connection, _of_tenant(connection, tenancy.BEGIN_READING, tenant_id):
            yield connection

    async def is_reachable(self) -> bool:
        """Ask whether the database answers."""
        try:
            async with asyncio.timeout(limits.HEALTH_TIMEOUT_SECONDS), self.connection() as connection:
                await connection.fetchval("SELECT 1")
        except TIMED_LOOKUP_ERRORS:
            return False
        return True
