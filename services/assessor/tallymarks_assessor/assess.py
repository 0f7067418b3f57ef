"""Assessing a batch: one tenant's events, one SQL transaction, all or nothing."""

import asyncio
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from tallymarks import ledger, limits, memberships, rule_uses, triggers
from tallymarks import situations as situations_
from tallymarks.broker import Topology
from tallymarks.database import Connection, Database
from tallymarks.errors import Refusal
from tallymarks.events import AnyEvent
from tallymarks.ledger import Overtaken
from tallymarks.messages import is_decided
from tallymarks.rule_sets import RuleSets
from tallymarks.rules.assessment import Step, assess
from tallymarks.rules.rule_set import RuleSet
from tallymarks.situations import Situations
from tallymarks.sql import events as sql
from tallymarks_assessor.effects import Effects, insert_explanations, record_events

log = structlog.get_logger(__name__)


class UnknownTenant(Refusal):
    """A message names a tenant that does not exist: it came from elsewhere, or from another installation."""

    code, status, message = "UnknownTenant", 400, "There is no such tenant."


@dataclass(frozen=True, slots=True)
class Assessed:
    """What became of a batch."""

    events: int
    duplicates: int
    transactions: int


class Assessor:
    """Turns events into their effects, each exactly once however often it is handed over."""

    def __init__(
        self,
        database: Database,
        topology: Topology,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        explains: bool = True,
    ) -> None:
        """Take the parts; time and ids come from outside. `explains`: whether to keep how events were assessed."""
        self._database = database
        self._topology = topology
        self._rule_sets = RuleSets()
        self._now = now
        self._new_id = new_id
        self._explains = explains
        # One batch after the other: were two evaluated in turns, both would be late, and PostgreSQL idle till then.
        self._evaluating = asyncio.Lock()

    async def assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
        """Assess the events of one tenant, in the order given, in one SQL transaction.

        Raises:
            UnknownTenant: nothing of the batch was kept.
            BalanceOutOfRange: one of the events cannot be assessed; nothing of the batch was kept.
            asyncpg.PostgresError: likewise, or the database is away.
        """
        # What another has written this time is there the next time, so each event and each customer can be met once.
        for _ in range(2 * len(events)):
            try:
                return await self._assess(tenant_id, events)
            except Overtaken:
                log.info("a batch begins again, overtaken by another", tenant_id=str(tenant_id), events=len(events))
        return await self._assess(tenant_id, events)

    async def _assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
        now = self._now()
        async with self._database.transaction(tenant_id) as connection:
            locked = await ledger.lock_batch(
                connection,
                tenant_id,
                {event.customer_id for event in events},
                [event.event_id for event in events if not is_decided(event)],
            )
            if locked is None:
                raise UnknownTenant.of("tenantId", str(tenant_id))
            rule_set = await self._rule_sets.of_revision(connection, tenant_id, locked.rules_revision)
            fresh = await fresh_of(connection, tenant_id, events, locked.taken_event_ids)
            if not fresh:
                return Assessed(0, len(events), 0)
            situations = await situations_.load(connection, tenant_id, fresh, rule_set, now, locked.accounts)
            async with self._evaluating:
                effects = await self._evaluate(tenant_id, fresh, situations, rule_set, now)
            await claim(connection, tenant_id, fresh, effects.points_events, now)
            await self._write(connection, tenant_id, situations, effects, now)
            return Assessed(len(fresh), len(events) - len(fresh), len(effects.transactions))

    async def _evaluate(
        self, tenant_id: UUID, events: Sequence[AnyEvent], situations: Situations, rule_set: RuleSet, now: datetime
    ) -> Effects:
        """Evaluate one event after the other: each meets the state that those before it have left."""
        effects = Effects()
        for index, event in enumerate(events):
            if index and index % limits.EVALUATED_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)
            assessment = assess(event, situations.of(event), rule_set, now)
            situations.customers[event.customer_id] = assessment.customer
            situations.rule_uses = assessment.rule_uses
            effects.add(tenant_id, assessment.steps, self._new_id, explained=self._explains)
        return effects

    async def _write(
        self, connection: Connection, tenant_id: UUID, situations: Situations, effects: Effects, now: datetime
    ) -> None:
        """Write everything else, in the order in which everyone takes locks."""
        customers = list(situations.customers.values())
        await ledger.write_assessed(connection, tenant_id, effects.transactions, customers, now)
        await rule_uses.write_of_customers(connection, tenant_id, situations.changed_uses())
        await rule_uses.write_together(connection, tenant_id, situations.changed_rule_uses())
        await memberships.write(connection, self._topology, tenant_id, effects.changes, now=now, new_id=self._new_id)
        await triggers.write(connection, tenant_id, effects.triggers, now)
        await insert_explanations(connection, tenant_id, effects.explanations, now)


async def fresh_of(
    connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], taken: Container[UUID]
) -> list[AnyEvent]:
    """Give the events that have not taken effect, each once, in the order given.

    A redemption was recorded when it was debited, and takes effect (is assessed) once after that; those that have not
    yet stay locked.
    """
    first_of_id: dict[UUID, AnyEvent] = {}
    for event in events:
        # What is taken is left out first, or an event with the id of a redemption would hide that one.
        if is_decided(event) or event.event_id not in taken:
            first_of_id.setdefault(event.event_id, event)
    decided = [event.event_id for event in first_of_id.values() if is_decided(event)]
    rows = await connection.fetch(sql.LOCK_REDEMPTIONS, tenant_id, decided) if decided else []
    waiting = {row["event_id"] for row in rows}
    return [event for event_id, event in first_of_id.items() if not is_decided(event) or event_id in waiting]


async def claim(
    connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], followed: Sequence[Step], now: datetime
) -> None:
    """Record events, and the points events that followed from them: this decides that they take effect here.

    Raises:
        Overtaken: one of the events has taken effect elsewhere since this transaction asked, before it got its locks.
    """
    arriving = [event for event in events if not is_decided(event)]
    await record_events(connection, tenant_id, arriving, followed, now)
    decided = [event.event_id for event in events if is_decided(event)]
    if decided:
        await connection.execute(sql.MARK_ASSESSED, tenant_id, decided, now)
