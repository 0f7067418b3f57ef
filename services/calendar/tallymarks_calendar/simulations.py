"""Simulations of rules on history: lot by lot, each with what was found and how far it has got in one transaction.

So a restart, or another replica, goes on where it stopped. History itself is only read.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import structlog
from prometheus_client import Counter

from tallymarks import limits, rounds
from tallymarks.database import TIMEOUT_ERRORS, TRANSIENT_ERRORS, Connection, Database, Record
from tallymarks.sql import simulations as sql
from tallymarks_calendar.replay import Simulation, replay

log = structlog.get_logger(__name__)

EVENTS_SIMULATED = Counter("tallymarks_events_simulated", "Recorded events that simulations looked at")

UNFINISHED = ("waiting", "running")
TOOK_TOO_LONG = "The past of one customer took too long to read."
FAULT = "A fault of the service, which its log tells of."


class Simulations:
    """Brings simulations forward. Replicas take different ones, and wait for nobody."""

    def __init__(
        self, database: Database, *, now: Callable[[], datetime], events_max: int = limits.SIMULATION_EVENTS_MAX
    ) -> None:
        """Take the parts; `events_max` is the number of events of a lot."""
        self._database = database
        self._now = now
        self._events_max = events_max
        self._events_of_next_lot = events_max

    async def run(self, stop: asyncio.Event) -> None:
        """Simulate until stopped."""
        await rounds.keep_going(
            self.go_on, stop, poll_seconds=limits.SIMULATION_POLL_SECONDS, done="went on with simulations"
        )

    async def go_on(self, stop: asyncio.Event) -> int:
        """Give each tenant with simulations a turn; give the number of those that had one."""
        return await rounds.one_round(
            self._database, sql.SELECT_TENANTS_WITH_UNSETTLED, self.go_on_of, now=self._now, stop=stop
        )

    async def go_on_of(self, tenant_id: UUID) -> int:
        """Do one bounded lot of a tenant's oldest simulation; give 1, or 0 where there is nothing to do.

        What takes too long is done again in a smaller lot.
        """
        simulation_id: UUID | None = None
        try:
            async with self._database.transaction(tenant_id) as connection:
                row = await connection.fetchrow(sql.LOCK_NEXT, tenant_id)
                if row is None:
                    return 0
                if row["status"] in UNFINISHED:
                    simulation_id = row["simulation_id"]
                    await self._replay(connection, tenant_id, row)
                else:
                    await _clear(connection, tenant_id, row)
        except TIMEOUT_ERRORS:
            if simulation_id is None:
                raise
            if self._events_of_next_lot == 1:
                await self._fail(tenant_id, simulation_id, TOOK_TOO_LONG)
            self._events_of_next_lot = max(self._events_of_next_lot // 2, 1)
        except TRANSIENT_ERRORS:
            raise
        except Exception:
            if simulation_id is None:
                raise
            # It would fail again, and take the service with it.
            log.exception("a simulation failed", tenant_id=str(tenant_id), simulation_id=str(simulation_id))
            await self._fail(tenant_id, simulation_id, FAULT)
        else:
            self._events_of_next_lot = min(self._events_of_next_lot * 2, self._events_max)
        return 1

    async def _replay(self, connection: Connection, tenant_id: UUID, row: Record) -> None:
        now = self._now()
        simulation = Simulation.of(tenant_id, row)
        number = await replay(connection, tenant_id, simulation, events_max=self._events_of_next_lot, now=now)
        if number is None:
            await connection.execute(sql.FINISH, tenant_id, simulation.simulation_id, "done", None, now)
        else:
            EVENTS_SIMULATED.inc(number)

    async def _fail(self, tenant_id: UUID, simulation_id: UUID, failure: str) -> None:
        async with self._database.transaction(tenant_id) as connection:
            await connection.execute(sql.FINISH, tenant_id, simulation_id, "failed", failure, self._now())


async def _clear(connection: Connection, tenant_id: UUID, row: Record) -> None:
    """Clear away a lot of what a finished simulation needs no more; at last the whole of one that was removed."""
    simulation_id = row["simulation_id"]
    limit = limits.SIMULATION_CLEARED_MAX
    rows = await connection.fetch(sql.SELECT_CUSTOMERS_TO_CLEAR, tenant_id, simulation_id, limit)
    if rows:
        customer_ids = [found["customer_id"] for found in rows]
        await connection.execute(sql.DELETE_CUSTOMERS, tenant_id, simulation_id, customer_ids)
    if len(rows) == limit:
        return
    if row["removed_at"] is None:
        await connection.execute(sql.SETTLE, tenant_id, simulation_id)
    else:
        await connection.execute(sql.DELETE_DAYS, tenant_id, simulation_id)
        await connection.execute(sql.DELETE, tenant_id, simulation_id)
