"""Looking up whether events were taken in before: a courtesy to the caller, which the assessor does not rely on."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import structlog

from tallymarks import limits
from tallymarks.database import TIMED_LOOKUP_ERRORS, Database
from tallymarks.logs import reason_of
from tallymarks.sql import events as sql

log = structlog.get_logger(__name__)

LOOKUP_ERRORS: tuple[type[BaseException], ...] = (*TIMED_LOOKUP_ERRORS, asyncpg.InsufficientPrivilegeError)
"""The last where the database is not migrated yet."""


class Duplicates:
    """Asks PostgreSQL while it is there; without it nothing is known to be a duplicate, and ingestion goes on."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """Take the database as the doorkeeper sees it, and a monotonic clock in seconds."""
        self._database = database
        self._clock = clock
        self._paused_until = 0.0

    async def recorded(self, tenant_id: UUID, event_ids: Sequence[UUID]) -> Mapping[UUID, datetime]:
        """Give those of the events that are recorded, with the createdAt of each."""
        if not event_ids or self._clock() < self._paused_until:
            return {}
        try:
            async with asyncio.timeout(limits.LOOKUP_TIMEOUT_SECONDS), self._database.connection() as connection:
                rows = await connection.fetch(sql.SELECT_RECORDED, tenant_id, event_ids)
        except LOOKUP_ERRORS as error:
            self._paused_until = self._clock() + limits.DUPLICATES_PAUSE_SECONDS
            log.warning("duplicates are not looked up", reason=reason_of(error))
            return {}
        return {row["event_id"]: row["created_at"] for row in rows}
