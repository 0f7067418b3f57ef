"""What the tests of the pipeline share: events, rules made through the api, and looks behind the services' back."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from tallymarks import dead_letters, ledger, limits, outbox, triggers
from tallymarks.broker import Broker, OutgoingMessage
from tallymarks.database import Database
from tallymarks.events import (
    ActionEvent,
    AnyEvent,
    EventBase,
    EventMessage,
    Order,
    OrderEvent,
    PointsEvent,
    PointsQuantity,
)
from tallymarks.messages import event_messages, read_events
from tallymarks.service import new_id
from tallymarks.sql import ledger as ledger_sql
from tallymarks_assessor.assess import Assessed, Assessor
from tallymarks_assessor.batches import Batches
from tests.parts import START, ApiClient, Clock

SCRIPTS = Path(sys.executable).parent
FOLLOW_UP = "Customer.FollowUp"
RULES, SEGMENTS = "/api/v1/admin/rules", "/api/v1/admin/segments"


def seeded_ids(seed: int) -> Callable[[], UUID]:
    """Ids that are the same in every run."""
    random = Random(seed)
    return lambda: UUID(int=random.getrandbits(128), version=4)


# --- events ----------------------------------------------------------------------------------------------------------


def action(event_id: UUID, customer_id: UUID, name_space: str | None = None, at: datetime = START) -> ActionEvent:
    """An accepted action."""
    return ActionEvent(event_id=event_id, customer_id=customer_id, name_space=name_space, created_at=at)


def order(event_id: UUID, customer_id: UUID, total: str, at: datetime = START) -> OrderEvent:
    """An accepted order."""
    return OrderEvent(event_id=event_id, customer_id=customer_id, order=Order(total=Decimal(total)), created_at=at)


def points(event_id: UUID, customer_id: UUID, quantity: int, at: datetime = START) -> PointsEvent:
    """An accepted adjustment by hand."""
    return PointsEvent(
        event_id=event_id, customer_id=customer_id, points=PointsQuantity(quantity=quantity), created_at=at
    )


async def publish(broker: Broker, tenant_id: UUID, events: Iterable[EventBase]) -> None:
    """Send events the way the api does."""
    for message in event_messages(broker.topology, tenant_id, events, new_id):
        await broker.publish(message)


def raw_message(broker: Broker, body: bytes) -> OutgoingMessage:
    """A message to the assessor that the api would not have sent."""
    return OutgoingMessage(broker.topology.events_exchange, "0", body, {}, new_id())


# --- rules and segments ----------------------------------------------------------------------------------------------


def give(amount: int) -> dict[str, Any]:
    """A fulfilment: points for each event."""
    return {"type": "points", "amount": amount}


def per_unit(rate: str) -> dict[str, Any]:
    """A fulfilment: points for each unit of spend."""
    return {"type": "pointsPerUnit", "rate": rate}


def add_to(segment_id: UUID) -> dict[str, Any]:
    """A fulfilment: join."""
    return {"type": "addToSegment", "segmentId": str(segment_id)}


def remove_from(segment_id: UUID) -> dict[str, Any]:
    """A fulfilment: leave."""
    return {"type": "removeFromSegment", "segmentId": str(segment_id)}


def in_name_space(value: str) -> dict[str, Any]:
    """A criterion: the whole nameSpace."""
    return {"type": "nameSpace", "operator": "equals", "value": value}


async def make_rule(
    api: ApiClient,
    event_type: str,
    *fulfilments: Mapping[str, Any],
    criteria: Sequence[Mapping[str, Any]] = (),
    **fields: Any,
) -> UUID:
    """Make a rule, an active one unless `fields` say otherwise; gives its id."""
    rule = {"name": event_type, "status": "active", "eventType": event_type, **fields}
    answered = await api.post(RULES, {**rule, "criteria": list(criteria), "fulfilments": list(fulfilments)})
    assert answered.status == 200, answered.body
    return UUID(answered.body["ruleId"])


async def make_segment(api: ApiClient, name: str, expiry: Mapping[str, Any] | None = None, **fields: Any) -> UUID:
    """Make an active segment, whose memberships do not lapse unless `expiry` says so; gives its id."""
    answered = await api.post(SEGMENTS, {"name": name, "expiry": expiry or {"mode": "none"}, **fields})
    assert answered.status == 200, answered.body
    return UUID(answered.body["segmentId"])


async def insert_lapsed(owner: asyncpg.Connection, tenant_id: UUID, now: datetime, number: int) -> None:
    """Insert memberships that have lapsed by `now`, a millisecond apart, of as many customers, in a new segment."""
    segment_id = new_id()
    await owner.execute(
        "INSERT INTO segments VALUES ($1, $2::uuid, $2::uuid::text, NULL, NULL, 'active', '{}', $3, $3)",
        tenant_id,
        segment_id,
        now,
    )
    await owner.execute(
        "INSERT INTO segment_memberships"
        " (tenant_id, customer_id, segment_id, created_at, changed_at, expiry_date_time)"
        " SELECT $1, md5(n::text)::uuid, $2, $3::timestamptz - interval '1 year', $3, $3 - n * interval '1 millisecond'"
        " FROM generate_series(0, $4 - 1) n",
        tenant_id,
        segment_id,
        now,
        number,
        timeout=300,
    )


# --- what falls due ---------------------------------------------------------------------------------------------------


async def join(database: Database, tenant_id: UUID, customer_ids: Iterable[UUID], at: datetime) -> None:
    """Make customers who joined at this instant."""
    async with database.transaction(tenant_id) as connection:
        await ledger.create_missing_customers(connection, tenant_id, customer_ids, at)


def trigger(ids: Callable[[], UUID], due_at: datetime = START, **fields: Any) -> triggers.Trigger:
    """A trigger, of a customer of its own unless `fields` say whose."""
    filled = {"name_space": FOLLOW_UP, "reference": None, "source_event_id": ids(), "depth": 1, **fields}
    return triggers.Trigger(**{"trigger_id": ids(), "customer_id": ids(), "due_at": due_at, **filled})


async def schedule(database: Database, tenant_id: UUID, due: Iterable[triggers.Trigger], at: datetime = START) -> None:
    """Write triggers as an assessor does."""
    async with database.transaction(tenant_id) as connection:
        await triggers.write(connection, tenant_id, list(due), at)


async def messages_in_outbox(owner: asyncpg.Connection) -> list[EventMessage]:
    """The messages with events that wait to be relayed, oldest first; each must be bounded and of one partition."""
    rows = await owner.fetch("SELECT * FROM outbox ORDER BY outbox_id")
    messages = [read_events(row["body"]) for row in rows]
    assert all(len(message.events) <= limits.MESSAGE_EVENTS_MAX for message in messages)
    assert all(row["tenant_id"] == message.tenant_id for row, message in zip(rows, messages, strict=True))
    return messages


async def events_in_outbox(owner: asyncpg.Connection, tenant_id: UUID) -> list[AnyEvent]:
    """The tenant's events that wait to be relayed."""
    messages = await messages_in_outbox(owner)
    return [event for message in messages if message.tenant_id == tenant_id for event in message.events]


# --- what became of it -----------------------------------------------------------------------------------------------

LedgerRow = tuple[UUID, UUID, UUID | None, int]
"""Customer, event, rule and amount."""


async def ledger_of(owner: asyncpg.Connection, tenant_id: UUID) -> Counter[LedgerRow]:
    """The tenant's transactions without what differs from run to run."""
    rows = await owner.fetch(
        "SELECT customer_id, event_id, assessment_rule_id, amount FROM transactions WHERE tenant_id = $1", tenant_id
    )
    return Counter((row[0], row[1], row[2], row[3]) for row in rows)


async def balances_of(owner: asyncpg.Connection, tenant_id: UUID) -> dict[UUID, int]:
    """Customer → balance."""
    rows = await owner.fetch("SELECT customer_id, balance FROM accounts WHERE tenant_id = $1", tenant_id)
    return {row["customer_id"]: row["balance"] for row in rows}


async def memberships_of(owner: asyncpg.Connection, tenant_id: UUID) -> dict[tuple[UUID, UUID], tuple[Any, ...]]:
    """Customer and segment → when joined, by which event, until when."""
    rows = await owner.fetch(
        "SELECT customer_id, segment_id, created_at, source_event_id, expiry_date_time"
        " FROM segment_memberships WHERE tenant_id = $1",
        tenant_id,
    )
    return {(row[0], row[1]): tuple(row[2:]) for row in rows}


async def lapses_of(owner: asyncpg.Connection, tenant_id: UUID) -> Counter[tuple[Any, ...]]:
    """Customer, segment, joined, lapsed: of each removal that was recorded."""
    rows = await owner.fetch(
        "SELECT customer_id, segment_id, joined_at, lapsed_at FROM segment_lapses WHERE tenant_id = $1", tenant_id
    )
    return Counter(tuple(row) for row in rows)


async def differing_balances(database: Database, tenant_id: UUID) -> list[asyncpg.Record]:
    """What `ledger verify` finds: nothing, where invariant 2 holds."""
    async with database.transaction(tenant_id) as connection:
        return list(await connection.fetch(ledger_sql.SELECT_DIFFERING_BALANCES, tenant_id, 100))


async def count(owner: asyncpg.Connection, table: str, tenant_id: UUID | None = None) -> int:
    """The number of rows of a table, of one tenant where given."""
    where = "" if tenant_id is None else " WHERE tenant_id = $1"
    arguments = () if tenant_id is None else (tenant_id,)
    counted: int = await owner.fetchval(f"SELECT count(*) FROM {table}{where}", *arguments)
    return counted


async def end_sessions(owner: asyncpg.Connection, *, in_transaction: bool = False) -> int:
    """End the services' sessions, as a restarting server does; gives their number."""
    ended = await owner.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'test' AND (xact_start IS NOT NULL OR NOT $1)",
        in_transaction,
    )
    return len(ended)


async def waiting_letters(broker: Broker) -> list[dict[str, object]]:
    """The dead letters as an operator sees them; they stay where they are."""
    async with aclosing(dead_letters.look(broker, limits.DEAD_LETTERS_LISTED_MAX)) as letters:
        return [letter.described() async for letter in letters]


async def messages_ready(broker: Broker, queue: str) -> int:
    """The number of messages that a queue holds and nobody has taken."""
    channel = await broker.channel()
    try:
        declared = await (await channel.get_queue(queue, ensure=False)).declare()
        return declared.message_count or 0
    finally:
        await channel.close()


async def drain(broker: Broker, queue: str) -> list[AbstractIncomingMessage]:
    """Take all messages of a queue."""
    channel = await broker.channel()
    try:
        taken = []
        source = await channel.get_queue(queue, ensure=False)
        while (message := await source.get(fail=False)) is not None:
            await message.ack()
            taken.append(message)
        return taken
    finally:
        await channel.close()


# --- parts at work ---------------------------------------------------------------------------------------------------


class RecordingAssessor(Assessor):
    """An assessor that notes what it was handed and what became of it."""

    def __init__(self, database: Database, broker: Broker, clock: Clock) -> None:
        super().__init__(database, broker.topology, now=clock, new_id=new_id)
        self.attempts: list[int] = []
        self.done: list[Assessed] = []

    async def assess(self, tenant_id: UUID, events: Sequence[AnyEvent]) -> Assessed:
        self.attempts.append(len(events))
        assessed = await super().assess(tenant_id, events)
        self.done.append(assessed)
        return assessed

    @property
    def took_effect(self) -> int:
        """The number of events that did."""
        return sum(one.events for one in self.done)

    @property
    def duplicates(self) -> int:
        """The number of events that came again."""
        return sum(one.duplicates for one in self.done)


@dataclass
class Work:
    """An assessor's loop at work, which the test can stop."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    redelivered: list[bool] = field(default_factory=list)
    """Of each message that arrived, whether it had been delivered before."""


@asynccontextmanager
async def working(database: Database, broker: Broker, assessor: Assessor, clock: Clock) -> AsyncIterator[Work]:
    """Run an assessor of the test's own choice, with a relay; what it has not acknowledged goes back at the end."""
    work, committed = Work(), asyncio.Event()
    batches = Batches(database, broker.topology, assessor, now=clock, new_id=new_id, committed=committed)

    async def take(message: AbstractIncomingMessage) -> None:
        work.redelivered.append(bool(message.redelivered))
        await batches.take(message)

    consuming = await broker.consume(take)
    relaying = asyncio.create_task(outbox.relay(database, broker, committed))
    running = asyncio.create_task(batches.run(work.stop))
    try:
        yield work
    finally:
        work.stop.set()
        await running
        await consuming.close()
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    output: str
    errors: str


async def run_command(program: str, *arguments: str, **environment: str) -> Ran:
    """Run a program of this installation to its end."""
    process = await asyncio.create_subprocess_exec(
        SCRIPTS / program,
        *arguments,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return Ran(process.returncode or 0, output.decode(), errors.decode())
