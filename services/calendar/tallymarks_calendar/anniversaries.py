"""Anniversaries become events: each customer's, each year, once."""

import asyncio
from datetime import datetime
from uuid import UUID, uuid5

from prometheus_client import Counter

from tallymarks import limits, outbox, rounds
from tallymarks.events import Anniversary, AnniversaryEvent
from tallymarks.messages import event_messages
from tallymarks.segments import anniversary
from tallymarks.sql import anniversaries as sql

ANNIVERSARIES_PUBLISHED = Counter("tallymarks_anniversaries_published", "Anniversaries that became events")

NAME_SPACE = "Customer.Anniversary"
ID_NAMESPACE = UUID("b3b1d70a-6f5c-4c93-8a7e-5d0f2c9e4b16")
"""What the ids of anniversaries are derived in; another would make every anniversary count again."""


class Anniversaries(rounds.Housekeeper):
    """Publishes anniversaries that have come. Replicas take different customers, and wait for nobody."""

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until stopped."""
        await rounds.keep_going(
            self.publish_due, stop, poll_seconds=limits.CALENDAR_POLL_SECONDS, done="published anniversaries"
        )

    async def publish_due(self, stop: asyncio.Event) -> int:
        """Give each tenant with anniversaries that have come a turn; give the number published."""
        return await rounds.one_round(
            self.database, sql.SELECT_TENANTS_WITH_DUE, self.publish_due_of, now=self.now, stop=stop
        )

    async def publish_due_of(self, tenant_id: UUID) -> int:
        """Publish one bounded lot of a tenant's anniversaries, oldest first, in one transaction; give their number.

        Each moves its customer on by one year. Where years were missed the customer is due again, and has the event of
        each of them, in their order, lot by lot.
        """
        async with self.database.transaction(tenant_id) as connection:
            now = self.now()
            rows = await connection.fetch(sql.LOCK_DUE, tenant_id, now, limits.CALENDAR_EVENTS_MAX)
            if not rows:
                return 0
            events = [
                anniversary_event(tenant_id, row["customer_id"], row["created_at"], row["next_anniversary_at"])
                for row in rows
            ]
            await connection.execute(
                sql.MOVE_ON,
                tenant_id,
                [row["customer_id"] for row in rows],
                [
                    anniversary(row["created_at"], event.anniversary.years + 1)
                    for row, event in zip(rows, events, strict=True)
                ],
            )
            messages = list(event_messages(self.topology, tenant_id, events, self.new_id))
            await outbox.put(connection, tenant_id, messages, now)
        self.committed.set()
        ANNIVERSARIES_PUBLISHED.inc(len(events))
        return len(events)


def anniversary_event(
    tenant_id: UUID, customer_id: UUID, customer_created_at: datetime, at: datetime
) -> AnniversaryEvent:
    """Make the event of the anniversary at this instant: it happened then, whenever it is published."""
    # An anniversary lies in the year that many years after that of joining, also from a 29 February.
    years = at.year - customer_created_at.year
    return AnniversaryEvent(
        event_id=anniversary_id_of(tenant_id, customer_id, years),
        customer_id=customer_id,
        name_space=NAME_SPACE,
        created_at=at,
        anniversary=Anniversary(years=years),
    )


def anniversary_id_of(tenant_id: UUID, customer_id: UUID, years: int) -> UUID:
    """Give the id of the event of a customer's nth anniversary: the same on every replica, so that it counts once."""
    return uuid5(ID_NAMESPACE, f"{tenant_id}/{customer_id}/{years}")
