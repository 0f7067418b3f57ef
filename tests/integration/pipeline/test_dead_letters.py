"""An operator lists what was put aside and sends it back: what was mended counts, once."""

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import asyncpg
import pytest

from tallymarks import dead_letters, limits
from tallymarks.broker import Broker, OutgoingMessage
from tallymarks.database import Database
from tallymarks.events import PointsEvent
from tallymarks.messages import dead_letter
from tallymarks.service import new_id
from tests.integration.pipeline.parts import (
    Ran,
    RecordingAssessor,
    balances_of,
    count,
    differing_balances,
    drain,
    messages_ready,
    points,
    publish,
    raw_message,
    run_command,
    seeded_ids,
    waiting_letters,
    working,
)
from tests.parts import Clock, Tenant, until

Command = Callable[..., Awaitable[Ran]]


def json_lines(ran: Ran) -> list[dict[str, object]]:
    assert ran.code == 0, ran.errors
    return [json.loads(line) for line in ran.output.splitlines()]


async def put_aside(broker: Broker, tenant: Tenant, events: Sequence[PointsEvent]) -> None:
    """Put dead letters where the assessor would have put them."""
    for event in events:
        letter = dead_letter(
            broker.topology, tenant.tenant_id, event, reason_code="Test", reason="of this test", new_id=new_id
        )
        await broker.publish(letter)


async def until_empty(broker: Broker) -> None:
    """Wait until the assessor has taken all that was sent to it."""

    async def is_empty() -> bool:
        queues = [broker.topology.events_queue(partition) for partition in range(broker.topology.partitions)]
        return sum([await messages_ready(broker, queue) for queue in queues]) == 0

    await until(is_empty)


@pytest.mark.usefixtures("assessing")
async def test_what_was_mended_counts_when_it_is_replayed(
    broker: Broker, database: Database, owner: asyncpg.Connection, tenant: Tenant, tallymarks: Command
) -> None:
    ids = seeded_ids(1)
    customer_id = ids()
    bad = points(ids(), customer_id, limits.POINTS_MAX)
    await publish(broker, tenant.tenant_id, [points(ids(), customer_id, 10), bad])

    async def is_put_aside() -> bool:
        return await messages_ready(broker, broker.topology.dead_letters) == 1

    await until(is_put_aside)
    await publish(broker, tenant.tenant_id, [points(ids(), customer_id, -10)])  # mends it

    async def is_mended() -> bool:
        return await balances_of(owner, tenant.tenant_id) == {customer_id: 0}

    await until(is_mended)
    assert json_lines(await tallymarks("dead-letters", "replay")) == [{"replayed": 1, "unreadable": 0}]

    async def counts() -> bool:
        return await balances_of(owner, tenant.tenant_id) == {customer_id: limits.POINTS_MAX}

    await until(counts)
    assert await waiting_letters(broker) == []
    assert json_lines(await tallymarks("dead-letters", "replay")) == [{"replayed": 0, "unreadable": 0}]
    assert await differing_balances(database, tenant.tenant_id) == []


async def test_a_letter_that_is_replayed_twice_counts_once(
    broker: Broker, database: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    ids = seeded_ids(2)
    event = points(ids(), ids(), 6)
    await put_aside(broker, tenant, [event])
    # As when the replay crashes after it has published and before it has removed the letter.
    async with aclosing(dead_letters.look(broker, 1)) as letters:
        async for letter in letters:
            await broker.publish(
                OutgoingMessage(broker.topology.events_exchange, "0", letter.message.body, {}, new_id())
            )
    assessor = RecordingAssessor(database, broker, clock)
    async with working(database, broker, assessor, clock):
        async with aclosing(dead_letters.look(broker, 10)) as letters:
            async for letter in letters:
                await dead_letters.replay(broker, letter)

        async def came_twice() -> bool:
            return assessor.took_effect + assessor.duplicates == 2

        await until(came_twice)
    assert await balances_of(owner, tenant.tenant_id) == {event.customer_id: 6}
    assert await count(owner, "transactions", tenant.tenant_id) == 1
    assert await waiting_letters(broker) == []


@pytest.mark.usefixtures("assessing")
async def test_what_is_still_bad_comes_back_and_is_not_lost(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant, tallymarks: Command
) -> None:
    ids = seeded_ids(3)
    customer_id = ids()
    bad = points(ids(), customer_id, limits.POINTS_MAX)
    await publish(broker, tenant.tenant_id, [points(ids(), customer_id, 10), bad])

    async def is_put_aside() -> bool:
        return await messages_ready(broker, broker.topology.dead_letters) == 1

    for _ in range(2):
        await until(is_put_aside)
        assert json_lines(await tallymarks("dead-letters", "replay", "--limit", "1"))[0]["replayed"] == 1
    await until(is_put_aside)
    errors = await owner.fetchval("SELECT count(*) FROM events WHERE event_type = 'error'")
    assert errors == 1  # one failing event is one error event, however often it is tried
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 10}


async def test_listing_shows_each_letter_and_leaves_it(broker: Broker, tenant: Tenant, tallymarks: Command) -> None:
    ids = seeded_ids(4)
    events = [points(ids(), ids(), 1) for _ in range(3)]
    await put_aside(broker, tenant, events)
    for _ in range(2):
        listed = json_lines(await tallymarks("dead-letters", "list"))
        assert [letter["eventId"] for letter in listed] == [str(event.event_id) for event in events]
        assert {letter["reasonCode"] for letter in listed} == {"Test"}
        assert {letter["tenantId"] for letter in listed} == {str(tenant.tenant_id)}
        assert {letter["reason"] for letter in listed} == {"of this test"}
        assert [json.loads(str(letter["body"]))["events"][0]["eventId"] for letter in listed] == [
            str(event.event_id) for event in events
        ]
    assert len(json_lines(await tallymarks("dead-letters", "list", "--limit", "2"))) == 2
    assert await messages_ready(broker, broker.topology.dead_letters) == 3


async def test_letters_outlast_any_number_of_looks(broker: Broker, tenant: Tenant) -> None:
    ids = seeded_ids(5)
    await put_aside(broker, tenant, [points(ids(), ids(), 1)])
    for _ in range(limits.DELIVERIES_MAX * 3):
        assert len(await waiting_letters(broker)) == 1


async def test_one_letter_can_be_picked_by_its_event(broker: Broker, tenant: Tenant, tallymarks: Command) -> None:
    ids = seeded_ids(6)
    events = [points(ids(), ids(), 1) for _ in range(3)]
    await put_aside(broker, tenant, events)
    picked = str(events[1].event_id)
    assert json_lines(await tallymarks("dead-letters", "replay", "--event-id", picked))[0]["replayed"] == 1
    left = await waiting_letters(broker)
    assert [letter["eventId"] for letter in left] == [str(events[0].event_id), str(events[2].event_id)]
    queues = [broker.topology.events_queue(partition) for partition in range(broker.topology.partitions)]
    (sent,) = [message for queue in queues for message in await drain(broker, queue)]
    assert picked in sent.body.decode()


async def test_what_can_never_be_read_stays_and_does_not_hold_up_the_others(
    broker: Broker, tenant: Tenant, tallymarks: Command
) -> None:
    ids = seeded_ids(7)
    unreadable = replace(raw_message(broker, b"no events"), exchange=broker.topology.dead_letters)
    await broker.publish(unreadable)
    await put_aside(broker, tenant, [points(ids(), ids(), 1)])
    assert json_lines(await tallymarks("dead-letters", "replay")) == [{"replayed": 1, "unreadable": 1}]
    (left,) = await waiting_letters(broker)
    assert left["body"] == "no events"


async def test_a_letter_goes_back_to_its_customers_partition(
    broker: Broker, tenant: Tenant, tallymarks: Command
) -> None:
    ids = seeded_ids(8)
    events = [points(ids(), ids(), 1) for _ in range(12)]
    await put_aside(broker, tenant, events)
    await tallymarks("dead-letters", "replay")
    topology = broker.topology
    arrived = {
        partition: {str(message.body) for message in await drain(broker, topology.events_queue(partition))}
        for partition in range(topology.partitions)
    }
    for event in events:
        bodies = arrived[topology.partition(tenant.tenant_id, event.customer_id)]
        assert any(str(event.event_id) in body for body in bodies)


async def test_the_brokers_own_dead_letter_of_many_events_can_be_replayed(
    broker: Broker, tenant: Tenant, owner: asyncpg.Connection, database: Database, clock: Clock, tallymarks: Command
) -> None:
    ids = seeded_ids(9)
    customer_id = ids()
    events = [points(ids(), customer_id, 1) for _ in range(5)]
    await publish(broker, tenant.tenant_id, events)
    queue = broker.topology.events_queue(broker.topology.partition(tenant.tenant_id, customer_id))

    async def was_put_aside_by_the_broker() -> bool:
        channel = await broker.channel()
        message = await (await channel.get_queue(queue)).get(fail=False)
        if message is not None:
            await message.reject(requeue=True)
        await channel.close()
        return await messages_ready(broker, broker.topology.dead_letters) == 1

    await until(was_put_aside_by_the_broker)
    (listed,) = json_lines(await tallymarks("dead-letters", "list"))
    assert listed["reasonCode"] == "DeliveryLimit"
    assert json_lines(await tallymarks("dead-letters", "replay"))[0]["replayed"] == 1
    assessor = RecordingAssessor(database, broker, clock)
    async with working(database, broker, assessor, clock):

        async def counts() -> bool:
            return assessor.took_effect == 5

        await until(counts)
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 5}


async def test_a_broker_that_is_away_is_told_in_a_sentence(database_url: str) -> None:
    ran = await run_command(
        "tallymarks", "dead-letters", "list",
        TALLYMARKS_DATABASE_URL=database_url, TALLYMARKS_AMQP_URL="amqp://guest:guest@127.0.0.1:1/",
    )  # fmt: skip
    assert (ran.code, ran.output) == (1, "")
    assert "Unavailable" in ran.errors
    assert "Traceback" not in ran.errors
