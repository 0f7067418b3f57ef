"""What the events of a batch change, gathered, and written with one statement a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tallymarks import ledger, memberships
from tallymarks.database import Connection
from tallymarks.events import AnyEvent
from tallymarks.ledger import Overtaken
from tallymarks.messages import event_json, followed_event_json
from tallymarks.records import Recording, record
from tallymarks.rules.assessment import Step
from tallymarks.rules.explanation import are_unasked, compact
from tallymarks.sql import assessments as assessments_sql
from tallymarks.triggers import Trigger, triggers_of


@dataclass(slots=True)
class Effects:
    """Rows to be written."""

    transactions: list[ledger.Transaction] = field(default_factory=list)
    points_events: list[Step] = field(default_factory=list)
    """Points events that followed from others."""
    changes: memberships.Changes = field(default_factory=memberships.Changes)
    triggers: list[Trigger] = field(default_factory=list)
    explanations: list[tuple[UUID, bytes]] = field(default_factory=list)

    def add(self, tenant_id: UUID, steps: Sequence[Step], new_id: Callable[[], UUID], *, explained: bool) -> None:
        """Gather what one event did, and what followed from it."""
        event, *followed = steps
        unasked = explained and are_unasked(followed)
        made = self._add(tenant_id, event, new_id)
        if explained:
            self.explanations.append((event.event.event_id, compact(event, made, followed_unasked=unasked)))
        for step in followed:
            made = self._add(tenant_id, step, new_id)
            if explained and not unasked:
                self.explanations.append((step.event.event_id, compact(step, made)))

    def _add(self, tenant_id: UUID, step: Step, new_id: Callable[[], UUID]) -> list[UUID]:
        """Gather what one of these did; gives its points transactions."""
        if step.source_event_id is not None:
            self.points_events.append(step)
        if step.outcome is None or not step.outcome.effects:
            return []
        transactions = ledger.transactions_of(tenant_id, step.event, step.outcome.effects, new_id)
        self.transactions.extend(transactions)
        self.changes.add(step.event.customer_id, step.event.event_id, step.outcome.effects)
        self.triggers.extend(triggers_of(step.event, step.outcome.effects))
        return [row.transaction_id for row in transactions]


async def record_events(
    connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], followed: Sequence[Step], now: datetime
) -> None:
    """Record events, and the points events that followed: with what each followed from, by which rule, and how deep.

    Where a caller's event has taken the id of a points event, that one stays.

    Raises:
        Overtaken: one of the events is recorded already.
    """
    recordings: list[Recording] = [(event, event_json(event)) for event in events]
    recordings += [(step.event, _followed_json(step)) for step in followed]
    recorded = await record(connection, tenant_id, recordings, now)
    if len(recorded) < len(recordings) and not {event.event_id for event in events}.issubset(recorded):
        raise Overtaken


def _followed_json(step: Step) -> bytes:
    if step.source_event_id is None:
        raise ValueError(f"event {step.event.event_id} followed from none")
    return followed_event_json(step.event, step.source_event_id, rule_id=step.rule_id, depth=step.depth)


async def insert_explanations(
    connection: Connection, tenant_id: UUID, explanations: list[tuple[UUID, bytes]], now: datetime
) -> None:
    """Keep how events were assessed."""
    if explanations:
        await connection.execute(
            assessments_sql.INSERT,
            tenant_id,
            [event_id for event_id, _ in explanations],
            [explanation for _, explanation in explanations],
            now,
        )
