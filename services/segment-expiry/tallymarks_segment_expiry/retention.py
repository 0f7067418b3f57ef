"""Removing explanations of assessments after their time: tenant by tenant, a bounded number in a transaction."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from prometheus_client import Counter

from tallymarks import limits, rounds
from tallymarks.database import Database
from tallymarks.sql import assessments as sql

EXPLANATIONS_REMOVED = Counter("tallymarks_explanations_removed", "Explanations removed after their time")


class Retention:
    """Removes what is older than it is to be kept. Replicas take different rows, and wait for nobody."""

    def __init__(self, database: Database, *, now: Callable[[], datetime], days: int) -> None:
        """Take the parts; `days` is how long an explanation is kept."""
        self._database = database
        self._now = now
        self._kept = timedelta(days=days)

    async def run(self, stop: asyncio.Event) -> None:
        """Remove until stopped."""
        await rounds.keep_going(
            self.remove, stop, poll_seconds=limits.RETENTION_POLL_SECONDS, done="removed old explanations"
        )

    async def remove(self, stop: asyncio.Event) -> int:
        """Give each tenant with old explanations a turn; give the number removed."""
        return await rounds.one_round(
            self._database, sql.SELECT_TENANTS_WITH_OLD, self.remove_of_tenant, now=self._before, stop=stop
        )

    async def remove_of_tenant(self, tenant_id: UUID) -> int:
        """Remove one bounded lot of a tenant's old explanations in one transaction; give their number."""
        async with self._database.transaction(tenant_id) as connection:
            rows = await connection.fetch(sql.LOCK_OLD, tenant_id, self._before(), limits.RETENTION_EXPLANATIONS_MAX)
            await connection.execute(sql.DELETE, tenant_id, [row["event_id"] for row in rows])
        EXPLANATIONS_REMOVED.inc(len(rows))
        return len(rows)

    def _before(self) -> datetime:
        return self._now() - self._kept
