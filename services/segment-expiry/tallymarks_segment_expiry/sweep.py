"""Removing lapsed memberships: tenant by tenant, a bounded number in a transaction, with any number of replicas."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from uuid import UUID

import structlog
from prometheus_client import Counter

from tallymarks import limits, memberships
from tallymarks.broker import Topology
from tallymarks.database import TRANSIENT_ERRORS, Database
from tallymarks.sql import memberships as sql
from tallymarks.sql import tenancy

log = structlog.get_logger(__name__)

MEMBERSHIPS_LAPSED = Counter("tallymarks_memberships_lapsed", "Lapsed memberships removed")
TENANTS_PAGE = 100


class Sweeper:
    """Removes what has lapsed. Replicas take different rows, and wait for nobody."""

    def __init__(
        self,
        database: Database,
        topology: Topology,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        committed: asyncio.Event,
    ) -> None:
        """Take the parts; `committed` is set when notifications wait in the outbox."""
        self._database = database
        self._topology = topology
        self._now = now
        self._new_id = new_id
        self._committed = committed

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until stopped: on and on while there is something to remove, else at every poll."""
        while not stop.is_set():
            wait_seconds = limits.SWEEP_POLL_SECONDS
            try:
                removed = await self.sweep(stop)
            except TRANSIENT_ERRORS as error:
                log.warning("the sweep waits", reason=str(error) or type(error).__name__)
                wait_seconds = limits.RECONNECT_INTERVAL_SECONDS
            else:
                if removed:
                    log.info("removed lapsed memberships", memberships=removed)
                    continue
            try:
                async with asyncio.timeout(wait_seconds):
                    await stop.wait()
            except TimeoutError:
                continue

    async def sweep(self, stop: asyncio.Event) -> int:
        """Give each tenant with lapsed memberships a turn: no backlog holds up another; give the number removed."""
        removed = 0
        async for tenant_id in self._tenants_with_lapsed():
            if stop.is_set():
                break
            removed += await self.sweep_tenant(tenant_id)
        return removed

    async def sweep_tenant(self, tenant_id: UUID) -> int:
        """Remove one bounded lot of a tenant's lapsed memberships in one transaction; give their number."""
        async with self._database.transaction(tenant_id) as connection:
            removed = await memberships.remove_lapsed(
                connection,
                self._topology,
                tenant_id,
                now=self._now(),
                limit=limits.SWEEP_MEMBERSHIPS_MAX,
                new_id=self._new_id,
            )
        if removed:
            self._committed.set()
            MEMBERSHIPS_LAPSED.inc(removed)
        return removed

    async def _tenants_with_lapsed(self) -> AsyncIterator[UUID]:
        last = UUID(int=0)
        while True:
            async with self._database.connection() as connection, connection.transaction(readonly=True):
                await connection.execute(tenancy.ACT_AS_HOUSEKEEPER)
                rows = await connection.fetch(sql.SELECT_TENANTS_WITH_LAPSED, last, self._now(), TENANTS_PAGE)
            for row in rows:
                yield row["tenant_id"]
            if len(rows) < TENANTS_PAGE:
                return
            last = rows[-1]["tenant_id"]
