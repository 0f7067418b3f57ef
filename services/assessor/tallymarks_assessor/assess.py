"""Assessing a batch: one tenant's events, one SQL transaction, all or nothing."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tallymarks import ledger, limits, memberships, rule_uses, triggers
from tallymarks import situations as situations_
from tallymarks.broker import Topology
from tallymarks.database import Connection, Database
from tallymarks.errors import Refusal
from tallymarks.events import AnyEvent
from tallymarks.messages import event_json, is_decided
from tallymarks.rule_sets import RuleSets
from tallymarks.rules.assessment import assess
from tallymarks.rules.rule_set import RuleSet
from tallymarks.situations import Situations
from tallymarks.sql import events as sql
from tallymarks.sql import rules as rules_sql
from tallymarks_assessor.effects import Effects, insert_events, insert_explanations, insert_points_events


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

    async def assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
        """Assess the events of one tenant, in the order given, in one SQL transaction.

        Raises:
            UnknownTenant: nothing of the batch was kept.
            BalanceOutOfRange: one of the events cannot be assessed; nothing of the batch was kept.
            asyncpg.PostgresError: likewise, or the database is away.
        """
        now = self._now()
        async with self._database.transaction(tenant_id) as connection:
            row = await connection.fetchrow(
                rules_sql.SELECT_REVISION_AND_UNKNOWN_CUSTOMERS,
                tenant_id,
                list({event.customer_id for event in events}),
            )
            if row is None:
                raise UnknownTenant.of("tenantId", str(tenant_id))
            rule_set = await self._rule_sets.of_revision(connection, tenant_id, row["rules_revision"])
            fresh = await claim(connection, tenant_id, events, now)
            if not fresh:
                return Assessed(0, len(events), 0)
            situations = await situations_.load(
                connection, tenant_id, fresh, rule_set, now, unknown=row["unknown_customer_ids"]
            )
            effects = await self._evaluate(tenant_id, fresh, situations, rule_set, now)
            await self._write(connection, tenant_id, situations, effects, now)
            return Assessed(len(fresh), len(events) - len(fresh), len(effects.transactions))

    async def _evaluate(
        self, tenant_id: UUID, events: Sequence[AnyEvent], situations: Situations, rule_set: RuleSet, now: datetime
    ) -> Effects:
        """Evaluate one event after the other: each meets the state that those before it have left."""
        effects = Effects()
        for index, event in enumerate(events):
            if index % limits.EVALUATED_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)
            assessment = assess(event, situations.of(event), rule_set, now)
            situations.customers[event.customer_id] = assessment.customer
            situations.rule_uses = assessment.rule_uses
            effects.add(tenant_id, assessment.steps, self._new_id, explained=self._explains)
        return effects

    async def _write(
        self, connection: Connection, tenant_id: UUID, situations: Situations, effects: Effects, now: datetime
    ) -> None:
        """Write everything, in the order in which everyone takes locks."""
        await insert_points_events(connection, tenant_id, effects.points_events, now)
        customers = list(situations.customers.values())
        await ledger.write_assessed(connection, tenant_id, effects.transactions, customers, now)
        await rule_uses.write_of_customers(connection, tenant_id, situations.changed_uses())
        await rule_uses.write_together(connection, tenant_id, situations.changed_rule_uses())
        await memberships.write(connection, self._topology, tenant_id, effects.changes, now=now, new_id=self._new_id)
        await triggers.write(connection, tenant_id, effects.triggers, now)
        await insert_explanations(connection, tenant_id, effects.explanations, now)


async def claim(connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], now: datetime) -> list[AnyEvent]:
    """Record the events and give those that take effect now, in the order given: the others did before.

    A redemption was recorded when it was debited, and takes effect (is assessed) once after that.
    """
    first_of_id: dict[UUID, AnyEvent] = {}
    for event in events:
        first_of_id.setdefault(event.event_id, event)
    claimed: set[UUID] = set()
    arriving = sorted(
        (event for event in first_of_id.values() if not is_decided(event)), key=lambda event: event.event_id.int
    )
    if arriving:
        bodies = [event_json(event).decode() for event in arriving]
        claimed.update(await insert_events(connection, tenant_id, arriving, bodies, now))
    decided = [event.event_id for event in first_of_id.values() if is_decided(event)]
    if decided:
        rows = await connection.fetch(sql.LOCK_REDEMPTIONS, tenant_id, decided)
        waiting = [row["event_id"] for row in rows]
        await connection.execute(sql.MARK_ASSESSED, tenant_id, waiting, now)
        claimed.update(waiting)
    return [event for event in first_of_id.values() if event.event_id in claimed]
