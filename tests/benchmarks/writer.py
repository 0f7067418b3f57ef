"""A program that only writes: the rows that an assessor has written, in one transaction per 500 events."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from tallymarks.segments import anniversary
from tallymarks.service import utc_now
from tallymarks.sql import customers as customers_sql
from tallymarks.sql import tenancy
from tests.benchmarks.backlog import WARM_UP, Backlog
from tests.benchmarks.ground import Ground, settle

BATCH_EVENTS = 500

SELECT_EVENTS = """
SELECT event_id, customer_id, event_type, name_space, reference, created_at, body::text, recorded_at
FROM events
WHERE tenant_id = $1 AND created_at = $2
ORDER BY recorded_at, event_id
"""
SELECT_TRANSACTIONS = """
SELECT
    transaction_id, customer_id, event_id, event_type, assessment_rule_id, created_at, check_sum, name_space,
    description, amount, external_reference, assessment_rule_version, fulfilment_index
FROM transactions
WHERE tenant_id = $1 AND created_at = $2
"""
INSERT_EVENTS = """
INSERT INTO events (
    tenant_id, recorded_at, assessed_at, event_id, customer_id, event_type, name_space, reference, created_at, body
)
SELECT $1, $2, $2, new.* FROM {source} AS new
"""
INSERT_TRANSACTIONS = """
INSERT INTO transactions (
    tenant_id, recorded_at, transaction_id, customer_id, event_id, event_type, assessment_rule_id, created_at,
    check_sum, name_space, description, amount, external_reference, assessment_rule_version, fulfilment_index
)
SELECT $1, $2, new.* FROM {source} AS new
"""
UPDATE_ACCOUNTS = """
UPDATE accounts a
SET
    balance = a.balance + new.points, balance_changed_at = $2, order_count = a.order_count + new.orders,
    order_value = a.order_value + new.spent::numeric, points_count = a.points_count + new.orders,
    points_value = a.points_value + new.points, points_earned = a.points_earned + new.points
FROM {source} AS new (customer_id, points, orders, spent)
WHERE a.tenant_id = $1 AND a.customer_id = new.customer_id
"""
COUNTED = """
SELECT
    (SELECT count(*) FROM events WHERE tenant_id = $1 AND created_at = $2) AS events,
    (SELECT count(*) FROM transactions WHERE tenant_id = $1 AND created_at = $2) AS transactions
"""

CREATE_TYPE = """
CREATE TYPE benchmark_account AS (customer_id uuid, points bigint, orders bigint, spent text)
"""

Rows = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Form:
    """How rows are given to PostgreSQL: what they are in a statement, and as its parameters from the third on."""

    events: str
    transactions: str
    accounts: str
    parameters: Callable[[Rows], Sequence[Any]]


ARRAYS = Form(
    "unnest($3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::jsonb[])",
    "unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::uuid[], $8::timestamptz[], $9::bytea[], $10::text[], "
    "$11::text[], $12::bigint[], $13::text[], $14::bigint[], $15::bigint[])",
    "unnest($3::uuid[], $4::bigint[], $5::bigint[], $6::text[])",
    lambda rows: [list(column) for column in zip(*rows, strict=True)],
)
"""An array for each column, as is usual."""

ROWS = Form(
    "unnest($3::new_event[])",
    "unnest($3::new_transaction[])",
    "unnest($3::benchmark_account[])",
    lambda rows: [rows],
)
"""One array of rows, as the assessor has it."""


@dataclass(frozen=True)
class Batch:
    """What one transaction writes."""

    orders: int
    events: Sequence[Any]
    """Parameters, as all three."""
    transactions: Sequence[Any]
    accounts: Sequence[Any]
    recorded_at: Any


class Writer:
    """A database with the tenant and customers of a backlog, and a connection that writes what was assessed there."""

    def __init__(self, backlog: Backlog, form: Form, database_url: str, connection: asyncpg.Connection) -> None:
        self._backlog = backlog
        self._form = form
        self._insert_events = INSERT_EVENTS.format(source=form.events)
        self._insert_transactions = INSERT_TRANSACTIONS.format(source=form.transactions)
        self._update_accounts = UPDATE_ACCOUNTS.format(source=form.accounts)
        self._database_url = database_url
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def on(cls, ground: Ground, backlog: Backlog, form: Form) -> AsyncIterator["Writer"]:
        """Make the database; it is dropped at the end."""
        (of_tenant,) = backlog.of_tenants
        now, customer_ids = utc_now(), sorted(of_tenant.orders.customer_ids)
        async with ground.database() as database_url:
            connection = await asyncpg.connect(database_url)
            try:
                await connection.execute(tenancy.INSERT_TENANT, of_tenant.tenant_id, "Benchmark", b"", now)
                await connection.execute(
                    customers_sql.INSERT_MISSING, of_tenant.tenant_id, customer_ids, now, anniversary(now, 1)
                )
                await connection.execute(customers_sql.INSERT_ACCOUNTS, of_tenant.tenant_id, customer_ids, now)
                await connection.execute(CREATE_TYPE)
                yield cls(backlog, form, database_url, connection)
            finally:
                await connection.close()

    async def measure(self) -> float:
        """Write the rows of the backlog's last round; gives the events a second.

        Raises:
            RuntimeError: there are not as many rows afterwards as there.
        """
        (tenant_id,), round_at = self._backlog.tenant_ids, self._backlog.round_at
        events = await self._backlog.owner.fetch(SELECT_EVENTS, tenant_id, round_at)
        transactions = await self._backlog.owner.fetch(SELECT_TRANSACTIONS, tenant_id, round_at)
        batches = list(batches_of(events, transactions, self._form.parameters))
        await settle(self._database_url)
        warming_up = max(1, len(batches) // WARM_UP)
        for batch in batches[:warming_up]:
            await self._write(tenant_id, batch)
        started = time.perf_counter()
        for batch in batches[warming_up:]:
            await self._write(tenant_id, batch)
        seconds = time.perf_counter() - started
        counted = await self._connection.fetchrow(COUNTED, tenant_id, round_at)
        if counted is None or tuple(counted) != (len(events), len(transactions)):
            raise RuntimeError(f"{len(events)} events and {len(transactions)} transactions became {counted}")
        return sum(batch.orders for batch in batches[warming_up:]) / seconds

    async def _write(self, tenant_id: UUID, batch: Batch) -> None:
        async with self._connection.transaction():
            await self._connection.execute(self._insert_events, tenant_id, batch.recorded_at, *batch.events)
            await self._connection.execute(self._insert_transactions, tenant_id, batch.recorded_at, *batch.transactions)
            await self._connection.execute(self._update_accounts, tenant_id, batch.recorded_at, *batch.accounts)


def batches_of(
    events: Sequence[asyncpg.Record],
    transactions: Sequence[asyncpg.Record],
    parameters: Callable[[Rows], Sequence[Any]],
) -> Iterable[Batch]:
    """Cut what was written into batches of orders, with the events that followed from them and their transactions."""
    bodies = {event["event_id"]: orjson.loads(event["body"]) for event in events}
    followed: defaultdict[UUID, list[asyncpg.Record]] = defaultdict(list)
    moved: defaultdict[UUID, list[asyncpg.Record]] = defaultdict(list)
    for event in events:
        if (source := bodies[event["event_id"]].get("sourceEventId")) is not None:
            followed[UUID(source)].append(event)
    for transaction in transactions:
        moved[transaction["event_id"]].append(transaction)
    orders = [event for event in events if event["event_type"] == "order"]
    for start in range(0, len(orders), BATCH_EVENTS):
        of_batch = orders[start : start + BATCH_EVENTS]
        events_of_batch = [one for order in of_batch for one in (order, *followed[order["event_id"]])]
        transactions_of_batch = [one for order in of_batch for one in moved[order["event_id"]]]
        totals: dict[UUID, tuple[int, int, Decimal]] = {}
        for order in of_batch:
            points, number, spent = totals.get(order["customer_id"], (0, 0, Decimal(0)))
            totals[order["customer_id"]] = (
                points + sum(one["amount"] for one in moved[order["event_id"]]),
                number + 1,
                spent + Decimal(bodies[order["event_id"]]["order"]["total"]),
            )
        yield Batch(
            len(of_batch),
            parameters([tuple(event)[:-1] for event in events_of_batch]),
            parameters([tuple(transaction) for transaction in transactions_of_batch]),
            parameters(
                [(customer_id, points, number, str(spent)) for customer_id, (points, number, spent) in totals.items()]
            ),
            of_batch[0]["recorded_at"],
        )
