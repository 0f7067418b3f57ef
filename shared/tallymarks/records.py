"""Recording events: the row that claims an event, and keeps what it was."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from tallymarks.database import Connection
from tallymarks.events import AnyEvent, ReversalEvent, created_at_of
from tallymarks.sql import events as sql

Recording = tuple[AnyEvent | ReversalEvent, bytes]
"""An event, and the JSON that is kept of it."""


async def record(
    connection: Connection, tenant_id: UUID, recordings: Iterable[Recording], now: datetime
) -> Sequence[UUID]:
    """Record events, of several with one id the first; give the ids of those that were not recorded before."""
    in_order = sorted(recordings, key=lambda recording: recording[0].event_id.int)
    if not in_order:
        return []
    rows = [
        (
            event.event_id,
            event.customer_id,
            event.event_type,
            event.name_space,
            event.reference,
            created_at_of(event),
            body.decode(),
        )
        for event, body in in_order
    ]
    recorded = await connection.fetch(sql.INSERT_EVENTS, tenant_id, rows, now)
    return [row["event_id"] for row in recorded]
