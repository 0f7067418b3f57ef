"""The story of the README, told by the services as processes: from a new tenant to a proven ledger."""

from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from aio_pika.abc import AbstractQueue

from tallymarks.broker import Broker
from tallymarks.memberships import LapseNotification
from tallymarks.segments import anniversary
from tallymarks.service import new_id, utc_now
from tallymarks.values import format_instant
from tests.acceptance.counting import action, order, points, post, post_batch, redemption
from tests.acceptance.installation import Installation, Json, Stack, start_stack
from tests.parts import ApiClient, until


@pytest.fixture
def customer_id() -> UUID:
    return new_id()


async def until_balance_is(client: ApiClient, customer_id: UUID, amount: int) -> None:
    async def is_so() -> bool:
        balance = await client.get(f"/api/v1/customers/{customer_id}/balance")
        return balance.status == 200 and bool(balance.body["amount"] == amount)

    await until(is_so)


async def until_reported_already(client: ApiClient, event: Json) -> None:
    """Send an event again until it is answered as one: an api that is busy may leave the look-up out."""

    async def is_reported() -> bool:
        answered = await post(client, event)
        assert answered.status in {200, 208}
        return answered.status == 208

    await until(is_reported)


async def make_programme(client: ApiClient) -> str:
    """Members are who registered, with 5 points; orders are worth one and a half points a unit."""
    segment = await client.post("/api/v1/admin/segments", {"name": "members", "displayName": "Members"})
    assert segment.status == 200
    segment_id: str = segment.body["segmentId"]
    registration: Json = {
        "name": "Registration bonus",
        "eventType": "action",
        "status": "active",
        "criteria": [{"type": "nameSpace", "operator": "equals", "value": "Customer.Registration"}],
        "fulfilments": [{"type": "points", "amount": 5}, {"type": "addToSegment", "segmentId": segment_id}],
    }
    spend: Json = {
        "name": "Points per unit",
        "eventType": "order",
        "status": "active",
        "fulfilments": [{"type": "pointsPerUnit", "rate": "1.5"}],
    }
    for rule in (registration, spend):
        assert (await client.post("/api/v1/admin/rules", rule)).status == 200
    return segment_id


async def test_a_newcomer_gets_from_a_tenant_to_a_proven_ledger(installation: Installation, customer_id: UUID) -> None:
    stack = await start_stack(installation, await installation.create_tenant())
    client = stack.client
    segment_id = await make_programme(client)
    customer = {"customerId": str(customer_id), "firstName": "Ada", "emailAddress": "ada@example.com"}
    assert (await client.post("/api/v1/customers", customer)).status == 200

    registration = action(customer_id, "Customer.Registration")
    assert (await post(client, registration)).status == 200
    await until_balance_is(client, customer_id, 5)
    await until_reported_already(client, registration)
    mixed = [order(customer_id, "19.99"), points(customer_id, -4), action(customer_id, "Visit")]
    assert (await post_batch(client, mixed)).status == 200
    await until_balance_is(client, customer_id, 5 + 29 - 4)

    redeemed = await post(client, redemption(customer_id, 10))
    assert (redeemed.status, redeemed.body["balance"], redeemed.body["pendingBalance"]) == (200, 30, 20)
    await until_balance_is(client, customer_id, 20)
    too_much = await post(client, redemption(customer_id, 21))
    assert (too_much.status, too_much.body["code"]) == (400, "InsufficientPoints")

    found = await client.get("/api/v1/customers/transactions", customerId=customer_id)
    assert sorted(row["amount"] for row in found.body["customerTransactions"]) == [-10, -4, 5, 29]
    found = await client.get("/api/v1/customers/events", customerId=customer_id)
    kinds = sorted(row["eventType"] for row in found.body["events"])
    # Each transaction is a points event too; the adjustment by hand was one already.
    assert kinds == ["action", "action", "order", "points", "points", "points", "points", "redemption"]
    segments = (await client.get(f"/api/v1/customers/{customer_id}/segments")).body["segments"]
    assert [row["segmentId"] for row in segments] == [segment_id]
    assert segments[0]["sourceEventId"] == registration["eventId"]

    verified = await installation.command("ledger", "verify")
    assert (verified.exit_code, verified.lines) == (
        0,
        [{"tenants": 1, "differingCustomers": 0, "alteredTransactions": 0}],
    )


async def test_a_membership_that_lapses_is_invisible_then_removed_recorded_and_published(
    stack: Stack, owner: asyncpg.Connection, broker: Broker, customer_id: UUID
) -> None:
    client = stack.client
    channel = await broker.channel()
    listening = await channel.declare_queue(exclusive=True)
    await listening.bind(broker.topology.notifications_exchange, "segment.membership.lapsed")
    assert (await client.post("/api/v1/customers", {"customerId": str(customer_id)})).status == 200
    assert await stack.segment_expiry.stop() == 0
    date = format_instant(utc_now() + timedelta(days=1))
    segment = {"name": "early birds", "expiry": {"mode": "date", "date": date}}
    segment_id = (await client.post("/api/v1/admin/segments", segment)).body["segmentId"]
    path = f"/api/v1/customers/{customer_id}/segments"
    assert (await client.put(path, {"segmentId": segment_id})).status == 200
    assert [row["expiryDateTime"] for row in (await client.get(path)).body["segments"]] == [date]
    # Brought forward only now, so that no wait of this test can outlast the membership.
    lapses_at = (utc_now() + timedelta(seconds=1)).replace(microsecond=0)
    await owner.execute("UPDATE segment_memberships SET expiry_date_time = $1", lapses_at)

    async def is_invisible() -> bool:
        return not (await client.get(path)).body["segments"]

    async def is_removed() -> bool:
        return not await owner.fetchval("SELECT count(*) FROM segment_memberships")

    await until(is_invisible)
    assert utc_now() >= lapses_at
    assert not await is_removed()
    stack.segment_expiry.start_again()
    await until(is_removed)
    assert await owner.fetchval("SELECT count(*) FROM segment_lapses WHERE customer_id = $1", customer_id) == 1
    notification = await received(listening)
    assert notification.tenant_id == stack.tenant_id
    assert [(one.customer_id, one.lapsed_at) for one in notification.memberships] == [(customer_id, lapses_at)]


async def received(queue: AbstractQueue) -> LapseNotification:
    async with queue.iterator(no_ack=True) as messages:
        return LapseNotification.model_validate_json((await anext(messages)).body)


async def test_an_anniversary_and_a_trigger_become_events_and_count_once_each(
    stack: Stack, owner: asyncpg.Connection, customer_id: UUID
) -> None:
    client = stack.client
    trigger: Json = {"type": "trigger", "after": {"count": 1, "unit": "minutes"}, "nameSpace": "Customer.FollowUp"}
    rules: list[Json] = [
        {"eventType": "order", "fulfilments": [trigger]},
        {"eventType": "action", "fulfilments": [{"type": "points", "amount": 4}]},
        {"eventType": "anniversary", "fulfilments": [{"type": "points", "amount": 30}]},
    ]
    for rule in rules:
        assert (await client.post("/api/v1/admin/rules", {"name": "One", "status": "active", **rule})).status == 200
    # Both have come already, and are made up for.
    joined_at = utc_now() - timedelta(days=400)
    bought: Json = {**order(customer_id, "10"), "createdAt": format_instant(joined_at)}
    assert (await client.post("/api/v1/customers", {"customerId": str(customer_id)})).status == 200
    assert (await post(client, bought)).status == 200
    await owner.execute(
        "UPDATE customers SET created_at = $1, next_anniversary_at = $2", joined_at, anniversary(joined_at, 1)
    )
    await until_balance_is(client, customer_id, 34)
    for event_type, name_space, at in (
        ("action", "Customer.FollowUp", joined_at + timedelta(minutes=1)),
        ("anniversary", "Customer.Anniversary", anniversary(joined_at, 1)),
    ):
        found = await client.get("/api/v1/customers/events", customerId=customer_id, eventType=event_type)
        (event,) = found.body["events"]
        assert (event["nameSpace"], event["createdAt"]) == (name_space, format_instant(at))
    assert await owner.fetchval("SELECT next_anniversary_at FROM customers") == anniversary(joined_at, 2)
    assert await owner.fetchval("SELECT count(*) FROM triggers") == 0


async def test_an_event_that_cannot_be_assessed_is_put_aside_visibly_and_counts_when_replayed(
    stack: Stack, customer_id: UUID
) -> None:
    client, installation = stack.client, stack.installation
    full, too_many = points(customer_id, 10**15), points(customer_id, 7)
    assert (await post(client, full)).status == 200
    await until_balance_is(client, customer_id, 10**15)
    assert (await post(client, too_many)).status == 200

    async def errors() -> list[Json]:
        found = await client.get("/api/v1/customers/events", customerId=customer_id, eventType="error")
        rows: list[Json] = found.body["events"]
        return rows

    async def is_put_aside() -> bool:
        return len(await errors()) == 1 and bool((await installation.command("dead-letters", "list")).lines)

    await until(is_put_aside)
    (error,) = await errors()
    assert (error["nameSpace"], error["reference"]) == ("Error.BalanceOutOfRange", too_many["eventId"])
    (letter,) = (await installation.command("dead-letters", "list")).lines
    assert (letter["eventId"], letter["reasonCode"]) == (too_many["eventId"], "BalanceOutOfRange")

    assert (await post(client, points(customer_id, -(10**15)))).status == 200
    await until_balance_is(client, customer_id, 0)
    replayed = await installation.command("dead-letters", "replay")
    assert (replayed.exit_code, replayed.lines) == (0, [{"replayed": 1, "unreadable": 0}])
    await until_balance_is(client, customer_id, 7)
    assert (await installation.command("dead-letters", "list")).lines == []
    assert (await installation.command("ledger", "verify")).exit_code == 0


async def test_a_ledger_that_was_tampered_with_does_not_verify(
    stack: Stack, owner: asyncpg.Connection, customer_id: UUID
) -> None:
    assert (await post(stack.client, points(customer_id, 7))).status == 200
    await until_balance_is(stack.client, customer_id, 7)
    await owner.execute("UPDATE accounts SET balance = 8")
    verified = await stack.installation.command("ledger", "verify")
    assert verified.exit_code == 1
    assert verified.lines == [
        {"tenantId": str(stack.tenant_id), "customerId": str(customer_id), "balance": 8, "transactions": 7},
        {"tenants": 1, "differingCustomers": 1, "alteredTransactions": 0},
    ]
