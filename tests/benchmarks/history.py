"""What a tenant of years has stored: orders of very many customers, with all that followed from them, loaded by COPY.

The rows are those that the services write, to the check sum, so the ledger is sound. As in a restore, keys and indexes
are taken away first and made again afterwards.
"""

import asyncio
import os
import time
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing import get_context
from typing import Any
from uuid import UUID

import asyncpg

from tallymarks.events import OrderEvent
from tallymarks.ledger import check_sum_of
from tallymarks.messages import event_json, followed_event_json
from tallymarks.rules.assessment import points_event
from tallymarks.segments import next_anniversary
from tallymarks.sql import ledger as ledger_sql
from tallymarks.values import format_instant
from tests.benchmarks.frame import say
from tests.benchmarks.load import Orders
from tests.benchmarks.rules import ONE

LOT_ORDERS = 10_000
PROGRESS_LOTS = 25
STORED_FROM = datetime(2024, 1, 1, tzinfo=UTC)
STORED_FOR = timedelta(days=690)
TABLES = ("customers", "accounts", "events", "transactions")
CUSTOMER_COLUMNS = (
    "tenant_id", "customer_id", "optin_sms", "optin_email", "accept_terms", "attributes", "search_text", "created_at",
    "changed_at", "next_anniversary_at",
)  # fmt: skip
ACCOUNT_COLUMNS = (
    "tenant_id", "customer_id", "customer_created_at", "is_locked", "action_count", "action_value",
    "transaction_count", "transaction_value", "redemption_count", "anniversary_count", "balance", "balance_changed_at",
    "order_count", "order_value", "points_count", "points_value", "points_earned",
)  # fmt: skip
EVENT_COLUMNS = (
    "tenant_id", "event_id", "customer_id", "event_type", "name_space", "reference", "created_at", "recorded_at",
    "assessed_at", "body",
)  # fmt: skip
TRANSACTION_COLUMNS = (
    "tenant_id", "transaction_id", "customer_id", "event_id", "event_type", "assessment_rule_id", "created_at",
    "recorded_at", "check_sum", "name_space", "description", "amount", "external_reference",
    "assessment_rule_version", "fulfilment_index",
)  # fmt: skip

DEFINITIONS = """
-- The keys and indexes of a table, and how each is made again; what refers to other tables first.
SELECT
    contype = 'f' AS refers, conname AS name, true AS is_constraint,
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS definition
FROM pg_constraint
WHERE conrelid = $1::regclass AND contype IN ('p', 'u', 'f')
UNION ALL
SELECT false, c.relname, false, pg_get_indexdef(i.indexrelid)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1::regclass AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
ORDER BY 1 DESC, 2
"""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class History:
    """What is to be stored."""

    database_url: str
    """A superuser's."""
    tenant_id: UUID
    rule_id: UUID
    customers: int
    """The first customers of `Orders`, with its usual seed."""
    orders: int
    """From each follows a points event, so there are twice as many rows of events."""


@dataclass(frozen=True)
class Definition:
    """A key or an index of a table."""

    table: str
    refers: bool
    drop: str
    make: str


async def store(history: History) -> None:
    """Load it, make the keys and indexes, and see that balances are the sums of their transactions.

    Raises:
        RuntimeError: they are not.
    """
    owner = await asyncpg.connect(history.database_url)
    try:
        definitions = [one for table in TABLES for one in await _definitions(owner, table)]
        for definition in sorted(definitions, key=lambda one: not one.refers):
            await owner.execute(definition.drop)
        started = time.monotonic()
        totals = await _store_orders(history)
        await _store_customers(owner, history, totals)
        say(f"  {time.monotonic() - started:.0f} s: {history.orders:,} orders are stored")
        for table in TABLES:
            await owner.execute(f"VACUUM (FREEZE) {table}")
        say(f"  {time.monotonic() - started:.0f} s: vacuumed")
        await asyncio.gather(
            *(_make_indexes(history.database_url, [one for one in definitions if one.table == table and not one.refers])
              for table in TABLES)
        )  # fmt: skip
        for definition in definitions:
            if definition.refers:
                await owner.execute(definition.make)
        say(f"  {time.monotonic() - started:.0f} s: indexes are made")
        await owner.execute("SET work_mem = '256MB'")
        if differing := await owner.fetch(ledger_sql.SELECT_DIFFERING_BALANCES, history.tenant_id, 10):
            raise RuntimeError(f"the ledger is not sound: {differing}")
        size = await owner.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
        say(f"  {time.monotonic() - started:.0f} s: the ledger is sound; the database has {size}")
    finally:
        await owner.close()


async def _definitions(owner: asyncpg.Connection, table: str) -> list[Definition]:
    rows = await owner.fetch(DEFINITIONS, table)
    return [
        Definition(
            table,
            row["refers"],
            f"ALTER TABLE {table} DROP CONSTRAINT {row['name']}"
            if row["is_constraint"]
            else f"DROP INDEX {row['name']}",
            row["definition"],
        )
        for row in rows
    ]


async def _make_indexes(database_url: str, definitions: Sequence[Definition]) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("SET maintenance_work_mem = '1GB'")
        for definition in definitions:
            await connection.execute(definition.make)
    finally:
        await connection.close()


# --- the orders -------------------------------------------------------------------------------------------------------


class Totals:
    """What each customer's orders come to."""

    def __init__(self, customers: int) -> None:
        self.orders = array("q", bytes(8 * customers))
        self.points = array("q", bytes(8 * customers))
        self.cents = array("q", bytes(8 * customers))

    def add(self, made: Iterable[tuple[int, int, int]]) -> None:
        """Count orders in: of each the place of its customer, its points and its cents."""
        for place, points, cents in made:
            self.orders[place] += 1
            self.points[place] += points
            self.cents[place] += cents


async def _store_orders(history: History) -> Totals:
    """Have a process on each core make and write lots."""
    totals = Totals(history.customers)
    waiting = list(range(0, history.orders, LOT_ORDERS))
    started = time.monotonic()

    async def store_lots(processes: ProcessPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while waiting:
            first = waiting.pop(0)
            count = min(LOT_ORDERS, history.orders - first)
            totals.add(await loop.run_in_executor(processes, _store_lot, first, count))
            if first // LOT_ORDERS % PROGRESS_LOTS == 0:
                say(f"  {time.monotonic() - started:.0f} s: {first + count:,} of {history.orders:,} orders")

    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, get_context("spawn"), _begin, (history,)) as processes:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(cores):
                tasks.create_task(store_lots(processes))
    return totals


class _Process:
    """What a process that makes lots holds in its hands."""

    history: History
    customer_ids: Sequence[UUID]


def _begin(history: History) -> None:
    _Process.history = history
    _Process.customer_ids = Orders(history.customers).customer_ids


def _store_lot(first: int, count: int) -> list[tuple[int, int, int]]:
    """Write orders, whose numbers begin with `first`; gives each one's customer, by its place, points and cents."""
    lot = Lot(_Process.history, _Process.customer_ids, first)
    made = [lot.add(first + number) for number in range(count)]
    asyncio.run(_copy(_Process.history.database_url, lot))
    return made


async def _copy(database_url: str, lot: "Lot") -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("SET synchronous_commit = off")
        await connection.copy_records_to_table("events", records=lot.events, columns=EVENT_COLUMNS)
        await connection.copy_records_to_table("transactions", records=lot.transactions, columns=TRANSACTION_COLUMNS)
    finally:
        await connection.close()


class Lot:
    """Rows of orders that follow each other, and of what followed from them."""

    def __init__(self, history: History, customer_ids: Sequence[UUID], seed: int) -> None:
        self._history = history
        self._customer_ids = customer_ids
        self._orders = Orders(0, seed=seed + 2)
        self.events: list[Row] = []
        self.transactions: list[Row] = []

    def add(self, number: int) -> tuple[int, int, int]:
        """Make the rows of an order; gives the place of its customer, its points and its cents."""
        history = self._history
        place = self._orders.random.randrange(history.customers)
        at = STORED_FROM + STORED_FOR * (number / history.orders)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        order = self._orders.of(self._customer_ids[place])
        event = OrderEvent.model_validate({**order, "createdAt": format_instant(at)})
        points = int(event.order.total)
        follows = points_event(event, points, history.rule_id, 0)
        body = followed_event_json(follows, event.event_id, rule_id=history.rule_id, depth=1)
        name = str(ONE[0]["name"])
        for one, text in ((event, event_json(event)), (follows, body)):
            self.events.append(
                (history.tenant_id, one.event_id, one.customer_id, one.event_type, one.name_space, one.reference,
                 at, at, at, text.decode())
            )  # fmt: skip
        check_sum = check_sum_of(
            history.tenant_id, customer_id=event.customer_id, event_id=event.event_id, rule_id=history.rule_id,
            fulfilment_index=0, event_type=event.event_type, created_at=at, name_space=event.name_space,
            description=name, amount=points, external_reference=event.reference,
        )  # fmt: skip
        transaction_id = self._transaction_id(at)
        self.transactions.append(
            (history.tenant_id, transaction_id, event.customer_id, event.event_id, event.event_type, history.rule_id,
             at, at, check_sum, event.name_space, name, points, event.reference, 1, 0)
        )  # fmt: skip
        return place, points, int(event.order.total * 100)

    def _transaction_id(self, at: datetime) -> UUID:
        """Make an id of version 7, which sorts by time, of a time gone by."""
        milliseconds = int(at.timestamp() * 1000)
        return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | self._orders.random.getrandbits(62))


# --- the customers ----------------------------------------------------------------------------------------------------


async def _store_customers(owner: asyncpg.Connection, history: History, totals: Totals) -> None:
    """Write every customer, and its account with what its orders come to."""
    tenant_id, customer_ids = history.tenant_id, Orders(history.customers).customer_ids
    _, anniversary = next_anniversary(STORED_FROM, datetime.now(UTC))
    customers: Iterable[Row] = (
        (tenant_id, customer_id, False, False, False, "[]", "", STORED_FROM, STORED_FROM, anniversary)
        for customer_id in customer_ids
    )
    accounts: Iterable[Row] = (
        (tenant_id, customer_id, STORED_FROM, False, 0, 0, 0, 0, 0, 0, points, STORED_FROM + STORED_FOR, orders,
         Decimal(cents).scaleb(-2), orders, points, points)
        for customer_id, orders, points, cents in zip(
            customer_ids, totals.orders, totals.points, totals.cents, strict=True
        )
    )  # fmt: skip
    await owner.copy_records_to_table("customers", records=customers, columns=CUSTOMER_COLUMNS)
    await owner.copy_records_to_table("accounts", records=accounts, columns=ACCOUNT_COLUMNS)
