"""Taking single events in: their answers, and their effect in the ledger."""

import json
from typing import Any

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.events import OrderEvent
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, listed, queued, refused
from tests.integration.api.given import (
    ACTIONS,
    CUSTOMERS,
    EVENT_SEARCH,
    ORDERS,
    POINTS,
    RULES,
    TRANSACTION_SEARCH,
    TRANSACTIONS,
    Json,
    a_rule,
    action,
    fresh_id,
    order,
    points,
    transaction,
)
from tests.parts import START, ApiClient, Clock, Tenant, until

NOW = "2026-03-14T09:26:53.589Z"
FULL_ORDER: Json = {
    "total": "19.99",
    "taxTotal": "3.19",
    "shippingTotal": 4,
    "discountTotal": 0.5,
    "currency": "EUR",
    "items": [
        {
            "sku": "SKU-1",
            "name": "Mug",
            "vendor": "Pottery",
            "category": "Kitchen",
            "type": "mug",
            "quantity": 2,
            "price": "9.995",
            "tags": ["blue", "large"],
        },
        {},
    ],
    "payments": [{"amount": "19.99", "method": "card", "scheme": "visa", "bank": "B", "bin": "411111"}],
}
COMMON: Json = {
    "nameSpace": "Shop.Web",
    "reference": "PO-1",
    "campaign": "spring",
    "attributes": [{"key": "a", "value": "b"}],
    "createdAt": "2026-01-01T00:00:00.123456+01:00",
}


def full_events(customer_id: str) -> dict[str, Json]:
    """An event of each endpoint, with every field that it takes."""
    return {
        ACTIONS: {**action(customer_id, **COMMON), "action": {"amount": "12.5", "count": 3}, "eventType": "action"},
        ORDERS: {**order(customer_id, **COMMON), "order": FULL_ORDER, "eventType": "order"},
        TRANSACTIONS: {
            **transaction(customer_id, **COMMON),
            "transaction": {"amount": -7, "currency": "EUR"},
            "eventType": "transaction",
        },
        POINTS: {**points(customer_id, -5, **COMMON), "eventType": "points"},
    }


async def recorded(api: ApiClient, event_id: str) -> list[Json]:
    return await listed(api, EVENT_SEARCH, "events", eventId=event_id)


async def until_assessed(api: ApiClient, *event_ids: str) -> None:
    async def are_assessed() -> bool:
        return all([await recorded(api, event_id) for event_id in event_ids])

    await until(are_assessed)


@pytest.mark.usefixtures("assessing")
async def test_each_kind_of_event_is_taken_in_recorded_whole_and_not_taken_twice(
    api: ApiClient, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    customer_id = fresh_id()
    for path, event in full_events(customer_id).items():
        answer = {"eventId": event["eventId"], "customerId": customer_id, "tenantId": str(tenant.tenant_id)}
        accepted = await api.post(path, event)
        assert (accepted.status, accepted.body) == (200, {**answer, "isExisting": False}), path
        await until_assessed(api, event["eventId"])
        again = await api.post(path, event)
        assert (again.status, again.body) == (208, {**answer, "isExisting": True}), path
        (found,) = await recorded(api, event["eventId"])
        assert found == {
            **answer,
            "createdAt": "2025-12-31T23:00:00.123Z",
            "eventType": event["eventType"],
            "nameSpace": "Shop.Web",
            "reference": "PO-1",
        }
    body: dict[str, Any] = await owner.fetchval("SELECT body::text FROM events WHERE event_type = 'order'")
    stored = OrderEvent.model_validate_json(str(body))
    assert (stored.order.model_dump(mode="json", exclude_none=True), stored.campaign) == (
        {
            **FULL_ORDER,
            "shippingTotal": "4",
            "discountTotal": "0.5",
            "items": [FULL_ORDER["items"][0], {"tags": []}],
        },
        "spring",
    )


@pytest.mark.usefixtures("assessing")
async def test_an_event_is_stamped_on_acceptance_unless_it_says_when_it_happened(api: ApiClient, clock: Clock) -> None:
    given, stamped = action(fresh_id(), createdAt="1999-12-31T23:59:59.999Z"), action(fresh_id())
    for event in (given, stamped):
        assert (await api.post(ACTIONS, event)).status == 200
    clock.advance(days=1)
    await until_assessed(api, given["eventId"], stamped["eventId"])
    assert [(await recorded(api, event["eventId"]))[0]["createdAt"] for event in (given, stamped)] == [
        "1999-12-31T23:59:59.999Z",
        NOW,
    ]


@pytest.mark.usefixtures("assessing")
async def test_an_event_of_an_unknown_customer_creates_the_customer(integration: ApiClient) -> None:
    event = action(fresh_id())
    assert (await integration.post(ACTIONS, event)).status == 200
    await until_assessed(integration, event["eventId"])
    customer = (await integration.get(f"{CUSTOMERS}/{event['customerId']}")).body
    assert (customer["createdAt"], customer["emailAddress"], customer["isAccountLocked"]) == (NOW, None, False)


@pytest.mark.usefixtures("assessing")
async def test_the_same_event_sent_many_times_at_once_counts_once(api: ApiClient, tenant: Tenant) -> None:
    await a_rule(api, "order", {"type": "pointsPerUnit", "rate": 1})
    event, last = order(fresh_id(), 7), fresh_id()
    answers = await all_at_once(*(api.post(ORDERS, event) for _ in range(20)))
    assert {answered.status for answered in answers} <= {200, 208}
    # Of the same customer, so behind the others.
    await api.post(ACTIONS, {**action(event["customerId"]), "eventId": last})
    await until_assessed(api, last)
    assert (await api.get(f"{CUSTOMERS}/{event['customerId']}/balance")).body["amount"] == 7
    assert len(await recorded(api, event["eventId"])) == 1


async def test_an_accepted_event_waits_in_the_broker_and_nothing_is_in_the_database(
    integration: ApiClient, broker: Broker, owner: asyncpg.Connection
) -> None:
    await integration.get(CUSTOMERS)
    before = await contents(owner)
    for path, event in full_events(fresh_id()).items():
        assert (await integration.post(path, event)).status == (403 if path == POINTS else 200)

    async def are_queued() -> bool:
        return await queued(broker) == 3

    await until(are_queued)
    assert await contents(owner) == before


@pytest.mark.parametrize("spelling", ['"{}"', "{}"], ids=["text", "number"])
@pytest.mark.usefixtures("assessing")
async def test_decimals_are_exact_from_the_request_to_the_ledger(api: ApiClient, spelling: str) -> None:
    earned = {
        "1000": 999_999_999_999_999,
        "0.0001": 99_999_999,
        "1.0001": 1_000_099_999_999,
        "7.7777": 7_777_699_999_999,
    }
    for rate, amount in earned.items():
        rule = await a_rule(api, "order", {"type": "pointsPerUnit", "rate": rate})
        event = action(fresh_id())
        raw = json.dumps({**event, "order": {"total": "TOTAL"}}).replace(
            '"TOTAL"', spelling.format("999999999999.9999")
        )
        assert (await api.call("POST", ORDERS, raw=raw.encode())).status == 200
        await until_assessed(api, event["eventId"])
        (found,) = await listed(api, TRANSACTION_SEARCH, "customerTransactions", eventId=event["eventId"])
        assert found["amount"] == amount, rate
        assert (await api.get(f"{CUSTOMERS}/{event['customerId']}/balance")).body["amount"] == amount
        ended = {name: rule[name] for name in ("name", "eventType", "fulfilments")}
        assert (await api.put(f"{RULES}/{rule['ruleId']}", {**ended, "status": "inactive"})).status == 200


@pytest.mark.usefixtures("assessing")
async def test_points_are_rounded_down_and_a_refund_is_rounded_away_from_zero(api: ApiClient) -> None:
    await a_rule(api, "transaction", {"type": "pointsPerUnit", "rate": "1"})
    amounts = {"0.9999": [], "1.9999": [1], "-0.0001": [-1], "-1.5": [-2], "0": [], "1e2": [100]}
    for amount, expected in amounts.items():
        event = transaction(fresh_id(), "AMOUNT")
        raw = json.dumps(event).replace('"AMOUNT"', amount)
        assert (await api.call("POST", TRANSACTIONS, raw=raw.encode())).status == 200
        await until_assessed(api, event["eventId"])
        found = await listed(api, TRANSACTION_SEARCH, "customerTransactions", eventId=event["eventId"])
        assert [row["amount"] for row in found] == expected, amount


@pytest.mark.usefixtures("assessing")
async def test_points_are_adjusted_by_hand_also_below_zero(api: ApiClient) -> None:
    customer_id = fresh_id()
    for quantity, balance in ((10**15, 10**15), (-(10**15), 0), (-3, -3)):
        event = points(customer_id, quantity, reference="by hand")
        assert (await api.post(POINTS, event)).status == 200
        await until_assessed(api, event["eventId"])
        assert (await api.get(f"{CUSTOMERS}/{customer_id}/balance")).body["amount"] == balance
    found = await listed(api, TRANSACTION_SEARCH, "customerTransactions", eventType="points")
    assert [row["amount"] for row in reversed(found)] == [10**15, -(10**15), -3]
    assert {(row["assessmentRuleId"], row["externalReference"]) for row in found} == {(None, "by hand")}


async def test_adjusting_points_needs_an_admin_key(
    integration: ApiClient, broker: Broker, owner: asyncpg.Connection
) -> None:
    await integration.get(CUSTOMERS)
    before = await contents(owner)
    refused(await integration.post(POINTS, points(fresh_id())), 403, "Forbidden")
    assert (await contents(owner), await queued(broker)) == (before, 0)


async def test_an_event_id_taken_by_a_stranger_is_a_duplicate_whatever_it_says(
    api: ApiClient, assessor: Assessor, tenant: Tenant, broker: Broker, clock: Clock
) -> None:
    first = OrderEvent.model_validate({**order(fresh_id()), "createdAt": START})
    await assessor.assess(tenant.tenant_id, [first])
    another = {**action(fresh_id()), "eventId": str(first.event_id), "createdAt": NOW}
    answered = await api.post(ACTIONS, another)
    assert (answered.status, answered.body["isExisting"]) == (208, True)
    assert await queued(broker) == 0
    # One that is created now is published beside being looked up, and left out by the assessor.
    clock.advance(milliseconds=1)
    again = await api.post(ACTIONS, {**another, "createdAt": None})
    assert (again.status, again.body["isExisting"]) == (208, True)


async def test_another_tenants_event_with_the_same_id_is_no_duplicate(
    api: ApiClient, other: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    first = OrderEvent.model_validate({**order(fresh_id()), "createdAt": START})
    await assessor.assess(tenant.tenant_id, [first])
    answered = await other.post(ACTIONS, {**action(first.customer_id), "eventId": str(first.event_id)})
    assert (answered.status, answered.body["isExisting"]) == (200, False)


async def test_the_event_type_may_be_said_and_must_fit_the_path(api: ApiClient) -> None:
    assert (await api.post(ORDERS, {**order(fresh_id()), "eventType": "order"})).status == 200
    answered = await api.post(ORDERS, {**order(fresh_id()), "eventType": "action"})
    refused(answered, 400, "InvalidRequest", "eventType", "action")
