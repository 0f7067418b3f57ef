"""Events to post, and how often each of them has counted."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random
from uuid import UUID

import aiohttp
import asyncpg
from pamqp.commands import Queue

from tallymarks.broker import Broker
from tallymarks.service import new_id
from tests.acceptance.installation import Installation, Json, ServiceProcess
from tests.parts import Answered, ApiClient, sessions_waiting_for_locks, until

# The call of each type of event.
CALLS = {"action": "actions", "order": "orders", "points": "points", "redemption": "redemptions"}

# --- what is posted ---------------------------------------------------------------------------------------------------


def action(customer_id: UUID, name_space: str = "Visit") -> Json:
    """An action event."""
    return {"eventId": str(new_id()), "customerId": str(customer_id), "nameSpace": name_space}


def actions_of(customer_count: int, event_count: int) -> list[Json]:
    """Action events of new customers, in turn."""
    customer_ids = [new_id() for _ in range(customer_count)]
    return [action(customer_ids[number % customer_count]) for number in range(event_count)]


def order(customer_id: UUID, total: str) -> Json:
    """An order event."""
    return {"eventId": str(new_id()), "customerId": str(customer_id), "order": {"total": total}}


def points(customer_id: UUID, quantity: int) -> Json:
    """A points event."""
    return {"eventId": str(new_id()), "customerId": str(customer_id), "points": {"quantity": quantity}}


def redemption(customer_id: UUID, quantity: int) -> Json:
    """A redemption."""
    return {"eventId": str(new_id()), "customerId": str(customer_id), "redemption": {"points": quantity}}


def kind_of(event: Json) -> str:
    """The type of an event, which it has a part of; an action needs none."""
    return next((kind for kind in CALLS if kind in event), "action")


async def post(client: ApiClient, event: Json) -> Answered:
    """Post one event to the call of its type."""
    return await client.post(f"/api/v1/events/{CALLS[kind_of(event)]}", event)


async def post_batch(client: ApiClient, events: Iterable[Json]) -> Answered:
    """Post events as one batch; where it is taken in, so is each of them."""
    answered = await client.post("/api/v1/events", {"events": [{"eventType": kind_of(one)} | one for one in events]})
    if answered.status == 200:
        assert {result["status"] for result in answered.body["results"]} <= {200, 208}
    return answered


async def until_taken(client: ApiClient, events: Sequence[Json]) -> None:
    """Post the events as one batch, again and again, until they are taken in."""

    async def are_taken() -> bool:
        try:
            answered = await post_batch(client, events)
        except aiohttp.ClientError:
            return False
        assert answered.status in {200, 503}
        return answered.status == 200

    await until(are_taken)


async def make_rules(client: ApiClient, **fulfilments: Json) -> None:
    """Make a rule for each given type of event; by default every action is worth one point."""
    for event_type, fulfilment in (fulfilments or {"action": {"type": "points", "amount": 1}}).items():
        rule: Json = {"name": event_type, "eventType": event_type, "status": "active", "fulfilments": [fulfilment]}
        assert (await client.post("/api/v1/admin/rules", rule)).status == 200


class Load:
    """Posts batches, each again and again until it is answered 200, with some events that were posted before."""

    def __init__(self, client: ApiClient, customer_ids: Sequence[UUID], random: Random) -> None:
        self.events: list[Json] = []
        self._client = client
        self._customer_ids = customer_ids
        self._random = random

    async def post(self, event_count: int) -> None:
        """Post so many more events; when it returns, each was answered 2xx."""
        while event_count > 0:
            size = min(event_count, self._random.randint(1, 50))
            event_count -= size
            fresh = [action(self._random.choice(self._customer_ids)) for _ in range(size)]
            self.events += fresh
            again = self._random.sample(self.events, min(10, len(self.events)))
            await until_taken(self._client, fresh + again)


# --- what became of it ------------------------------------------------------------------------------------------------


async def times_counted(owner: asyncpg.Connection, tenant_id: UUID) -> Counter[str]:
    """How many transactions each event has, by event id."""
    rows = await owner.fetch("SELECT event_id FROM transactions WHERE tenant_id = $1", tenant_id)
    return Counter(str(row["event_id"]) for row in rows)


async def until_counted(owner: asyncpg.Connection, tenant_id: UUID, event_count: int) -> None:
    """Wait until there are so many transactions, of which each event of these tests has one."""
    statement = "SELECT count(*) FROM transactions WHERE tenant_id = $1"

    async def are_counted() -> bool:
        return bool(await owner.fetchval(statement, tenant_id) >= event_count)

    await until(are_counted)


async def assert_each_counted_once(
    installation: Installation, client: ApiClient, owner: asyncpg.Connection, events: Iterable[Json]
) -> None:
    """Wait until all of the events are counted; then each is counted once, no other is, and the ledger adds up."""
    tenant_id = UUID(client.headers["x-tenant-id"])
    # Queues keep their order, and so many customers reach every partition: whatever was sent before has been met by
    # an assessor once these are counted.
    last = actions_of(customer_count=20, event_count=20)
    await until_taken(client, last)
    expected = Counter({str(event["eventId"]) for event in (*events, *last)})
    await until_counted(owner, tenant_id, len(expected))
    assert await times_counted(owner, tenant_id) == expected
    assert (await installation.command("ledger", "verify")).exit_code == 0


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sees every row, to a database that is not the fixtures'."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def until_met(assessor: ServiceProcess, event_count: int) -> None:
    """Wait until this run of the assessor has met so many events, whether they took effect or had done so before."""

    async def are_met() -> bool:
        names = ("tallymarks_events_assessed", "tallymarks_events_duplicate")
        return sum([await assessor.metric(name) for name in names]) >= event_count

    await until(are_met)


async def until_consumed(broker: Broker) -> None:
    """Wait until an assessor takes messages from every partition."""

    async def is_consumed() -> bool:
        queues = await _queues(broker)
        return all(queue.consumer_count for queue in queues)

    await until(is_consumed)


async def messages_waiting(broker: Broker) -> int:
    """How many messages wait to be taken."""
    queues = await _queues(broker)
    return sum(queue.message_count or 0 for queue in queues)


async def _queues(broker: Broker) -> list[Queue.DeclareOk]:
    channel = await broker.channel()
    try:
        return [
            # Asked anew each time, which a robust queue is not.
            (await channel.declare_queue(name, passive=True, robust=False)).declaration_result
            for name in map(broker.topology.events_queue, range(broker.topology.partitions))
        ]
    finally:
        await channel.close()


async def until_waiting_for_a_lock(owner: asyncpg.Connection, session_count: int, application_name: str) -> None:
    """Wait until so many of a service's database sessions wait for a lock."""

    async def are_waiting() -> bool:
        return await sessions_waiting_for_locks(owner, application_name) >= session_count

    await until(are_waiting)
