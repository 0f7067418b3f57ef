"""Removing lapsed memberships: tenant by tenant, a bounded number in a transaction, with any number of replicas."""

import asyncio
from uuid import UUID

from prometheus_client import Counter

from tallymarks import limits, memberships, rounds
from tallymarks.sql import memberships as sql

MEMBERSHIPS_LAPSED = Counter("tallymarks_memberships_lapsed", "Lapsed memberships removed")


class Sweeper(rounds.Housekeeper):
    """Removes what has lapsed. Replicas take different rows, and wait for nobody."""

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until stopped."""
        await rounds.keep_going(
            self.sweep, stop, poll_seconds=limits.SWEEP_POLL_SECONDS, done="removed lapsed memberships"
        )

    async def sweep(self, stop: asyncio.Event) -> int:
        """Give each tenant with lapsed memberships a turn; give the number removed."""
        return await rounds.one_round(
            self.database, sql.SELECT_TENANTS_WITH_LAPSED, self.sweep_tenant, now=self.now, stop=stop
        )

    async def sweep_tenant(self, tenant_id: UUID) -> int:
        """Remove one bounded lot of a tenant's lapsed memberships in one transaction; give their number."""
        async with self.database.transaction(tenant_id) as connection:
            removed = await memberships.remove_lapsed(
                connection,
                self.topology,
                tenant_id,
                now=self.now(),
                limit=limits.SWEEP_MEMBERSHIPS_MAX,
                new_id=self.new_id,
            )
        if removed:
            self.committed.set()
            MEMBERSHIPS_LAPSED.inc(removed)
        return removed
