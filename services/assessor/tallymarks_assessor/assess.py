"""Assessing a batch: one tenant's events, one SQL transaction, all or nothing."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from tallymarks import ledger, limits, memberships
from tallymarks.broker import Topology
from tallymarks.database import Connection, Database
from tallymarks.errors import Refusal
from tallymarks.events import AnyEvent, created_at_of
from tallymarks.messages import event_json, is_decided
from tallymarks.rule_sets import RuleSets
from tallymarks.rules.evaluate import RuleSet, apply, evaluate
from tallymarks.rules.facts import CustomerState
from tallymarks.sql import events as sql


class UnknownTenant(Refusal):
    """A message names a tenant that does not exist: it came from elsewhere, or from another installation."""

    code, status, message = "UnknownTenant", 400, "There is no such tenant."


@dataclass(frozen=True, slots=True)
class Assessed:
    """What became of a batch."""

    events: int
    duplicates: int
    transactions: int


@dataclass(slots=True)
class Effects:
    """What the events of a batch change, gathered to be written with one statement a table."""

    transactions: list[ledger.Transaction] = field(default_factory=list)
    balances: dict[UUID, int] = field(default_factory=dict)
    changes: memberships.Changes = field(default_factory=memberships.Changes)


class Assessor:
    """Turns events into their effects, each exactly once however often it is handed over."""

    def __init__(
        self, database: Database, topology: Topology, *, now: Callable[[], datetime], new_id: Callable[[], UUID]
    ) -> None:
        """Take the parts; time and ids come from outside."""
        self._database = database
        self._topology = topology
        self._rule_sets = RuleSets()
        self._now = now
        self._new_id = new_id

    async def assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
        """Assess the events of one tenant, in the order given, in one SQL transaction.

        Raises:
            UnknownTenant: nothing of the batch was kept.
            BalanceOutOfRange: one of the events cannot be assessed; nothing of the batch was kept.
            asyncpg.PostgresError: likewise, or the database is away.
        """
        now = self._now()
        async with self._database.transaction(tenant_id) as connection:
            rule_set = await self._rule_sets.current(connection, tenant_id)
            if rule_set is None:
                raise UnknownTenant.of("tenantId", str(tenant_id))
            fresh = await claim(connection, tenant_id, events, now)
            if fresh:
                customers = await load_customers(connection, tenant_id, fresh, rule_set, now)
                effects = await self._evaluate(tenant_id, fresh, customers, rule_set, now)
                await ledger.write(connection, tenant_id, effects.transactions, effects.balances, now)
                await memberships.write(
                    connection, self._topology, tenant_id, effects.changes, now=now, new_id=self._new_id
                )
                return Assessed(len(fresh), len(events) - len(fresh), len(effects.transactions))
        return Assessed(0, len(events), 0)

    async def _evaluate(
        self,
        tenant_id: UUID,
        events: Sequence[AnyEvent],
        customers: Mapping[UUID, CustomerState],
        rule_set: RuleSet,
        now: datetime,
    ) -> Effects:
        """Evaluate one event after the other: each meets the state that those before it have left."""
        effects = Effects()
        states = dict(customers)
        for index, event in enumerate(events):
            if index % limits.EVALUATED_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)
            outcome = evaluate(event, states[event.customer_id], rule_set, now)
            if not outcome.effects:
                continue
            states[event.customer_id] = state = apply(states[event.customer_id], outcome.effects)
            transactions = ledger.transactions_of(tenant_id, event, outcome.effects, self._new_id)
            if transactions:
                effects.transactions.extend(transactions)
                effects.balances[event.customer_id] = state.balance
            effects.changes.add(event.customer_id, event.event_id, outcome.effects)
        return effects


async def claim(connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], now: datetime) -> list[AnyEvent]:
    """Record the events and give those that take effect now, in the order given: the others did before.

    A redemption was recorded when it was debited, and takes effect (is assessed) once after that.
    """
    first_of_id: dict[UUID, AnyEvent] = {}
    for event in events:
        first_of_id.setdefault(event.event_id, event)
    claimed: set[UUID] = set()
    arriving = sorted(
        (event for event in first_of_id.values() if not is_decided(event)), key=lambda event: event.event_id
    )
    if arriving:
        rows = await connection.fetch(
            sql.INSERT_EVENTS,
            tenant_id,
            [event.event_id for event in arriving],
            [event.customer_id for event in arriving],
            [event.event_type for event in arriving],
            [event.name_space for event in arriving],
            [event.reference for event in arriving],
            [created_at_of(event) for event in arriving],
            [event_json(event).decode() for event in arriving],
            now,
        )
        claimed.update(row["event_id"] for row in rows)
    decided = [event.event_id for event in first_of_id.values() if is_decided(event)]
    if decided:
        rows = await connection.fetch(sql.LOCK_REDEMPTIONS, tenant_id, decided)
        waiting = [row["event_id"] for row in rows]
        await connection.execute(sql.MARK_ASSESSED, tenant_id, waiting, now)
        claimed.update(waiting)
    return [event for event in first_of_id.values() if event.event_id in claimed]


async def load_customers(
    connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], rule_set: RuleSet, now: datetime
) -> dict[UUID, CustomerState]:
    """Create unknown customers, lock the accounts, and read what the rules need."""
    customer_ids = {event.customer_id for event in events}
    await ledger.create_missing_customers(connection, tenant_id, customer_ids, now)
    accounts = await ledger.lock_accounts(connection, tenant_id, customer_ids)
    states = {
        account.customer_id: CustomerState(account.customer_id, account.customer_created_at, account.balance, {})
        for account in accounts.values()
    }
    if rule_set.names_segments:
        for customer_id, current in (await memberships.load(connection, tenant_id, customer_ids, now)).items():
            states[customer_id] = replace(states[customer_id], memberships=current)
    return states
