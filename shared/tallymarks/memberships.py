"""Memberships of segments: read, joined and left under the account lock, removed when they have lapsed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tallymarks import outbox
from tallymarks.broker import OutgoingMessage, Topology
from tallymarks.database import Connection, Record
from tallymarks.messages import SCHEMA_VERSION_HEADER, TENANT_HEADER
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.fulfilments import JoinSegment, LeaveSegment
from tallymarks.sql import memberships as sql
from tallymarks.values import Instant, Model

LAPSED_ROUTING_KEY = "segment.membership.lapsed"

Pair = tuple[UUID, UUID]
"""Customer and segment."""


class LapsedMembership(Model):
    """One membership that lapsed and was removed."""

    customer_id: UUID
    segment_id: UUID
    joined_at: Instant
    lapsed_at: Instant


class LapseNotification(Model):
    """The body of a notification: memberships of one tenant that were removed together."""

    schema_version: int = 1
    tenant_id: UUID
    memberships: tuple[LapsedMembership, ...]


@dataclass(slots=True)
class Changes:
    """What the events of a transaction change, folded so that each membership is written once.

    The fold gives what one event at a time would: leaving and joining again starts a membership anew.
    """

    left: set[Pair] = field(default_factory=set)
    joined: dict[Pair, tuple[UUID | None, datetime | None]] = field(default_factory=dict)
    """→ the event that added the customer, and when the membership lapses."""

    def add(self, customer_id: UUID, source_event_id: UUID | None, effects: Iterable[Effected]) -> None:
        """Fold in the effects of the next event of the customer."""
        for effected in effects:
            match effected.effect:
                case JoinSegment(segment_id, lapses_at):
                    source, _ = self.joined.get((customer_id, segment_id), (source_event_id, None))
                    self.joined[customer_id, segment_id] = (source, lapses_at)
                case LeaveSegment(segment_id):
                    self.left.add((customer_id, segment_id))
                    self.joined.pop((customer_id, segment_id), None)


async def load(
    connection: Connection, tenant_id: UUID, customer_ids: Iterable[UUID], now: datetime
) -> Mapping[UUID, Mapping[UUID, datetime | None]]:
    """Read the current memberships: customer → segment → when it lapses."""
    by_customer: defaultdict[UUID, dict[UUID, datetime | None]] = defaultdict(dict)
    for row in await connection.fetch(sql.SELECT_OF_CUSTOMERS, tenant_id, sorted(customer_ids), now):
        by_customer[row["customer_id"]][row["segment_id"]] = row["expiry_date_time"]
    return by_customer


async def write(
    connection: Connection,
    topology: Topology,
    tenant_id: UUID,
    changes: Changes,
    *,
    now: datetime,
    new_id: Callable[[], UUID],
) -> None:
    """Write the changes; the customers' accounts must be locked by this transaction."""
    if changes.joined:
        lapsed = await connection.fetch(
            sql.REMOVE_LAPSED_OF_CUSTOMERS, tenant_id, *_columns(sorted(changes.joined)), now
        )
        await record_lapses(connection, topology, tenant_id, lapsed, now=now, new_id=new_id)
    if changes.left:
        await leave(connection, tenant_id, changes.left, now)
    if changes.joined:
        pairs = sorted(changes.joined)
        await connection.execute(
            sql.UPSERT,
            tenant_id,
            *_columns(pairs),
            [changes.joined[pair][0] for pair in pairs],
            [changes.joined[pair][1] for pair in pairs],
            now,
        )


async def leave(connection: Connection, tenant_id: UUID, pairs: Iterable[Pair], now: datetime) -> int:
    """End memberships; give the number of those that were current."""
    rows = await connection.fetch(sql.DELETE, tenant_id, *_columns(sorted(pairs)), now)
    return len(rows)


async def remove_lapsed(
    connection: Connection,
    topology: Topology,
    tenant_id: UUID,
    *,
    now: datetime,
    limit: int,
    new_id: Callable[[], UUID],
) -> int:
    """Remove lapsed memberships of the tenant, oldest first, that nobody else is removing; give their number."""
    rows = await connection.fetch(sql.LOCK_LAPSED, tenant_id, now, limit)
    if rows:
        pairs = [(row["customer_id"], row["segment_id"]) for row in rows]
        await connection.execute(sql.DELETE_LOCKED, tenant_id, *_columns(pairs))
        await record_lapses(connection, topology, tenant_id, rows, now=now, new_id=new_id)
    return len(rows)


async def record_lapses(
    connection: Connection,
    topology: Topology,
    tenant_id: UUID,
    rows: Sequence[Record],
    *,
    now: datetime,
    new_id: Callable[[], UUID],
) -> None:
    """Record each removed membership, and publish them: in the transaction that removed them."""
    if not rows:
        return
    lapsed = [
        LapsedMembership.model_validate(
            {
                "customer_id": row["customer_id"],
                "segment_id": row["segment_id"],
                "joined_at": row["created_at"],
                "lapsed_at": row["expiry_date_time"],
            }
        )
        for row in rows
    ]
    await connection.execute(
        sql.INSERT_LAPSES,
        tenant_id,
        [one.customer_id for one in lapsed],
        [one.segment_id for one in lapsed],
        [one.joined_at for one in lapsed],
        [one.lapsed_at for one in lapsed],
        now,
    )
    notification = LapseNotification(tenant_id=tenant_id, memberships=tuple(lapsed))
    message = OutgoingMessage(
        exchange=topology.notifications_exchange,
        routing_key=LAPSED_ROUTING_KEY,
        body=notification.model_dump_json().encode(),
        headers={TENANT_HEADER: str(tenant_id), SCHEMA_VERSION_HEADER: notification.schema_version},
        message_id=new_id(),
        is_mandatory=False,
    )
    await outbox.put(connection, tenant_id, [message], now)


def _columns(pairs: Iterable[Pair]) -> tuple[list[UUID], list[UUID]]:
    pairs = list(pairs)
    return [customer_id for customer_id, _ in pairs], [segment_id for _, segment_id in pairs]
