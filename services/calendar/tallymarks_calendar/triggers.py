"""Triggers that are due become action events, each once."""

import asyncio
from uuid import UUID

from prometheus_client import Counter

from tallymarks import limits, outbox, rounds, triggers
from tallymarks.messages import event_messages
from tallymarks.sql import triggers as sql

TRIGGERS_PUBLISHED = Counter("tallymarks_triggers_published", "Triggers that became events")


class Triggers(rounds.Housekeeper):
    """Publishes triggers that are due. Replicas take different rows, and wait for nobody."""

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until stopped."""
        await rounds.keep_going(
            self.publish_due, stop, poll_seconds=limits.CALENDAR_POLL_SECONDS, done="published triggers"
        )

    async def publish_due(self, stop: asyncio.Event) -> int:
        """Give each tenant with due triggers a turn; give the number published."""
        return await rounds.one_round(
            self.database, sql.SELECT_TENANTS_WITH_DUE, self.publish_due_of, now=self.now, stop=stop
        )

    async def publish_due_of(self, tenant_id: UUID) -> int:
        """Publish one bounded lot of a tenant's triggers, oldest first, and delete them; give their number."""
        async with self.database.transaction(tenant_id) as connection:
            now = self.now()
            due = await triggers.take_due(connection, tenant_id, now=now, limit=limits.CALENDAR_EVENTS_MAX)
            if not due:
                return 0
            events = [triggers.event_of(trigger) for trigger in due]
            messages = list(event_messages(self.topology, tenant_id, events, self.new_id))
            await outbox.put(connection, tenant_id, messages, now)
        self.committed.set()
        TRIGGERS_PUBLISHED.inc(len(events))
        return len(events)
