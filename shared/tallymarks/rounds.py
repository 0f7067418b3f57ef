"""Housekeeping goes round: each tenant that has something due gets a turn, and a turn is one bounded lot.

So no backlog holds up another tenant. Any number of replicas go round at once: what a turn takes it locks, past what
another holds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from uuid import UUID

import structlog

from tallymarks import limits
from tallymarks.broker import Topology
from tallymarks.database import CONTENTION_ERRORS, TIMEOUT_ERRORS, TRANSIENT_ERRORS, Database
from tallymarks.logs import reason_of
from tallymarks.sql import tenancy

log = structlog.get_logger(__name__)

TENANTS_PAGE = 100

Turn = Callable[[UUID], Awaitable[int]]
"""Does one lot of a tenant; gives the number of what it did."""


@dataclass
class Housekeeper:
    """What housekeeping that leaves something in the outbox is done with."""

    database: Database
    topology: Topology
    _: KW_ONLY
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    committed: asyncio.Event
    """Set when something waits in the outbox."""


async def keep_going(
    go_round: Callable[[asyncio.Event], Awaitable[int]], stop: asyncio.Event, *, poll_seconds: float, done: str
) -> None:
    """Go round until stopped: on and on while there is something to do, else at every poll; `done` is what is logged.

    The lot under way is finished first.
    """
    while not stop.is_set():
        wait_seconds = poll_seconds
        try:
            number = await go_round(stop)
        except TRANSIENT_ERRORS as error:
            log.warning("a round waits", work=done, reason=reason_of(error))
            wait_seconds = limits.RECONNECT_INTERVAL_SECONDS
        else:
            if number:
                log.info(done, number=number)
                continue
        try:
            async with asyncio.timeout(wait_seconds):
                await stop.wait()
        except TimeoutError:
            continue


async def one_round(
    database: Database, tenants_with_due: str, turn: Turn, *, now: Callable[[], datetime], stop: asyncio.Event
) -> int:
    """Give each tenant that `tenants_with_due` (a statement of the housekeeper's) lists one turn; give what was done.

    A tenant whose turn takes too long, or is in somebody's way, is passed over: the others do not wait for it.
    """
    number = 0
    async for tenant_id in _tenants(database, tenants_with_due, now):
        if stop.is_set():
            break
        try:
            number += await turn(tenant_id)
        except CONTENTION_ERRORS + TIMEOUT_ERRORS as error:
            log.warning("a tenant is passed over", tenant_id=str(tenant_id), reason=reason_of(error))
    return number


async def _tenants(database: Database, tenants_with_due: str, now: Callable[[], datetime]) -> AsyncIterator[UUID]:
    last = UUID(int=0)
    while True:
        async with database.connection() as connection, connection.transaction(readonly=True):
            await connection.execute(tenancy.ACT_AS_HOUSEKEEPER)
            rows = await connection.fetch(tenants_with_due, last, now(), TENANTS_PAGE)
        for row in rows:
            yield row["tenant_id"]
        if len(rows) < TENANTS_PAGE:
            return
        last = rows[-1]["tenant_id"]
