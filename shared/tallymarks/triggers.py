"""Triggers, stored: made of what rules schedule, and written in the transaction of the event that made them.

Each is taken once it is due, in the transaction that publishes the action event that it becomes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tallymarks.database import Connection
from tallymarks.events import ActionEvent, EventBase
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.fulfilments import ScheduleTrigger
from tallymarks.rules.triggers import DEPTH_KEY, SOURCE_KEY, trigger_id_of
from tallymarks.sql import triggers as sql
from tallymarks.values import Attribute


@dataclass(frozen=True, slots=True)
class Trigger:
    """One row of the table: an action event to come."""

    trigger_id: UUID
    """Also the eventId of the event."""
    customer_id: UUID
    due_at: datetime
    name_space: str
    reference: str | None
    source_event_id: UUID
    depth: int


def triggers_of(event: EventBase, effects: Iterable[Effected]) -> list[Trigger]:
    """Make the triggers of an event's effects."""
    return [
        Trigger(
            trigger_id=trigger_id_of(event.event_id, effected.rule.rule_id, effected.fulfilment_index),
            customer_id=event.customer_id,
            due_at=effected.effect.due_at,
            name_space=effected.effect.name_space,
            reference=effected.effect.reference,
            source_event_id=event.event_id,
            depth=effected.effect.depth,
        )
        for effected in effects
        if effected.rule is not None and isinstance(effected.effect, ScheduleTrigger)
    ]


def event_of(trigger: Trigger) -> ActionEvent:
    """Make the event that the trigger becomes: it happened when it was due, whenever it is published."""
    attributes = {DEPTH_KEY: str(trigger.depth), SOURCE_KEY: str(trigger.source_event_id)}
    return ActionEvent(
        event_id=trigger.trigger_id,
        customer_id=trigger.customer_id,
        name_space=trigger.name_space,
        reference=trigger.reference,
        attributes=tuple(Attribute(key=key, name=key, value=value) for key, value in attributes.items()),
        created_at=trigger.due_at,
    )


async def write(connection: Connection, tenant_id: UUID, triggers: Sequence[Trigger], now: datetime) -> None:
    """Write triggers; one that is there already is left as it is."""
    if not triggers:
        return
    in_order = sorted(triggers, key=lambda trigger: trigger.trigger_id)
    await connection.execute(
        sql.INSERT,
        tenant_id,
        [trigger.trigger_id for trigger in in_order],
        [trigger.customer_id for trigger in in_order],
        [trigger.due_at for trigger in in_order],
        [trigger.name_space for trigger in in_order],
        [trigger.reference for trigger in in_order],
        [trigger.source_event_id for trigger in in_order],
        [trigger.depth for trigger in in_order],
        now,
    )


async def take_due(connection: Connection, tenant_id: UUID, *, now: datetime, limit: int) -> list[Trigger]:
    """Take due triggers of the tenant out of the table, oldest first, that nobody else is taking."""
    rows = await connection.fetch(sql.LOCK_DUE, tenant_id, now, limit)
    if rows:
        await connection.execute(sql.DELETE_LOCKED, tenant_id, [row["trigger_id"] for row in rows])
    return [Trigger(**row) for row in rows]
