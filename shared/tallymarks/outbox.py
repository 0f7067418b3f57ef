"""The outbox: what a transaction tells the broker is written with it, and relayed once it is committed.

A message is deleted in the transaction that published it, after the broker's confirm: a crash in between sends it
again, and never loses it.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import orjson
import structlog

from tallymarks import limits
from tallymarks.broker import Broker, OutgoingMessage
from tallymarks.database import TRANSIENT_ERRORS, Connection, Database, Record
from tallymarks.errors import Unavailable
from tallymarks.logs import reason_of
from tallymarks.sql import outbox as sql

log = structlog.get_logger(__name__)

WAITED_FOR: tuple[type[BaseException], ...] = (Unavailable, *TRANSIENT_ERRORS)


async def put(
    connection: Connection, tenant_id: UUID | None, messages: Sequence[OutgoingMessage], now: datetime
) -> None:
    """Write messages into the outbox, in the transaction of what they tell of."""
    await connection.executemany(
        sql.INSERT,
        [
            (
                message.message_id,
                tenant_id,
                message.exchange,
                message.routing_key,
                orjson.dumps(message.headers).decode(),
                message.body,
                now,
            )
            for message in messages
        ],
    )


async def relay(database: Database, broker: Broker, committed: asyncio.Event) -> None:
    """Publish what is in the outbox, for ever: at once when `committed` is set, else at every poll.

    Any number of relays share the work. While the broker or the database is away it waits.
    """
    while True:
        committed.clear()
        try:
            sent = await relay_once(database, broker)
        except WAITED_FOR as error:
            log.warning("the outbox waits", reason=reason_of(error))
            await asyncio.sleep(limits.RECONNECT_INTERVAL_SECONDS)
            continue
        if sent < limits.OUTBOX_MESSAGES_MAX:
            await _wait(committed, limits.OUTBOX_POLL_SECONDS)


async def relay_once(database: Database, broker: Broker) -> int:
    """Publish one bounded lot, oldest first; give the number sent.

    Raises:
        Unavailable: some were not confirmed, and stay; the others are gone from the outbox.
    """
    async with database.connection() as connection, connection.transaction():
        rows = await connection.fetch(sql.TAKE, limits.OUTBOX_MESSAGES_MAX)
        if not rows:
            return 0
        outcomes = await asyncio.gather(
            *(broker.publish(_message(broker, row)) for row in rows), return_exceptions=True
        )
        sent = [row["outbox_id"] for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
        await connection.execute(sql.DELETE, sent)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    return len(sent)


def _message(broker: Broker, row: Record) -> OutgoingMessage:
    exchange = str(row["exchange"])
    return OutgoingMessage(
        exchange=exchange,
        routing_key=str(row["routing_key"]),
        body=row["body"],
        headers=orjson.loads(row["headers"]),
        message_id=row["outbox_id"],
        # Nobody has to listen to notifications.
        is_mandatory=exchange != broker.topology.notifications_exchange,
    )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
