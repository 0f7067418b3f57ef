"""Taking a batch of mixed events in: each by itself accepted, known already, or refused."""

import json

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.events import ActionEvent
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import contents, listed, queued, refused, refused_body
from tests.integration.api.given import (
    CUSTOMERS,
    EVENT_SEARCH,
    EVENTS,
    Json,
    a_rule,
    action,
    batch,
    fresh_id,
    order,
    points,
    redemption,
    transaction,
)
from tests.integration.api.wire import post
from tests.parts import START, ApiClient, Clock, Tenant, until


async def posted(api: ApiClient, body: Json) -> list[Json]:
    answered = await api.post(EVENTS, body)
    assert (answered.status, set(answered.body)) == (200, {"results"}), answered.body
    results: list[Json] = answered.body["results"]
    assert len(results) == len(body["events"])
    return results


async def until_recorded(api: ApiClient, *event_ids: str) -> None:
    async def are_recorded() -> bool:
        found = await listed(api, EVENT_SEARCH, "events", limit=100)
        return {row["eventId"] for row in found} >= set(event_ids)

    await until(are_recorded)


@pytest.mark.usefixtures("assessing")
async def test_a_batch_of_every_kind_is_accepted_in_order_and_takes_effect(
    api: ApiClient, tenant: Tenant, clock: Clock
) -> None:
    for kind in ("action", "order", "transaction"):
        await a_rule(api, kind, {"type": "points", "amount": 1})
    customer_id = fresh_id()
    events = [action(customer_id), order(customer_id), transaction(customer_id), points(customer_id, 100)]
    assert await posted(api, batch(*events)) == [
        {
            "eventId": event["eventId"],
            "customerId": customer_id,
            "tenantId": str(tenant.tenant_id),
            "isExisting": False,
            "status": 200,
            "error": None,
        }
        for event in events
    ]
    await until_recorded(api, *(event["eventId"] for event in events))
    assert (await api.get(f"{CUSTOMERS}/{customer_id}/balance")).body["amount"] == 103
    clock.advance(milliseconds=1)
    again = await posted(api, batch(*events))
    assert [(result["status"], result["isExisting"]) for result in again] == [(208, True)] * 4


@pytest.mark.usefixtures("assessing")
async def test_refused_events_have_their_own_error_and_place_and_leave_nothing(api: ApiClient, tenant: Tenant) -> None:
    good, last = action(fresh_id()), action(fresh_id())
    wrong: list[tuple[Json, str, object]] = [
        ({**order(fresh_id()), "order": {"total": "1.23456"}}, "order.total", "1.23456"),
        ({**order(fresh_id()), "order": {}}, "order.total", None),
        ({**action(fresh_id()), "eventId": "x"}, "eventId", "x"),
        ({**action(fresh_id()), "surprise": 1}, "surprise", "1"),
        (points(fresh_id(), 0), "points.quantity", "0"),
        ({**action(fresh_id()), "eventType": "redemption"}, "eventType", "redemption"),
        ({**action(fresh_id()), "eventType": "basket"}, "eventType", "basket"),
        ({**redemption(fresh_id()), "eventType": "redemption"}, "eventType", "redemption"),
        ({**action(fresh_id()), "eventType": None}, "eventType", None),
        ({**order(fresh_id()), "attributes": [{"key": "a\x00", "value": ""}]}, "attributes.0.key", "a\x00"),
    ]
    results = await posted(api, batch(good, *(event for event, _, _ in wrong), last))
    for place, ((event, param, value), result) in enumerate(zip(wrong, results[1:-1], strict=True), start=1):
        assert (result["status"], result["isExisting"]) == (400, False)
        assert result["error"]["code"] == "InvalidRequest"
        refused_body(result["error"], f"events.{place}.{param}", value)
        assert result["eventId"] == (None if event["eventId"] == "x" else event["eventId"])
        assert (result["customerId"], result["tenantId"]) == (event["customerId"], str(tenant.tenant_id))
    assert [results[0]["status"], results[-1]["status"]] == [200, 200]
    await until_recorded(api, good["eventId"], last["eventId"])
    assert {row["eventId"] for row in await listed(api, EVENT_SEARCH, "events")} == {good["eventId"], last["eventId"]}
    customers = {row["customerId"] for row in await listed(api, CUSTOMERS, "customers")}
    assert customers == {good["customerId"], last["customerId"]}


async def test_what_is_no_event_at_all_is_refused_by_its_place(api: ApiClient, broker: Broker) -> None:
    strange: list[object] = [None, 1, "text", [], {}, {"eventType": {}}, {"eventType": "Action"}]
    answered = await api.post(EVENTS, {"events": strange})
    assert answered.status == 200
    for place, result in enumerate(answered.body["results"]):
        assert (result["status"], result["eventId"], result["customerId"]) == (400, None, None)
        refused_body(result["error"], f"events.{place}.eventType")
    assert await queued(broker) == 0


@pytest.mark.usefixtures("assessing")
async def test_an_event_twice_in_a_batch_counts_once(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    known = ActionEvent.model_validate({**action(fresh_id()), "createdAt": START})
    await assessor.assess(tenant.tenant_id, [known])
    clock.advance(milliseconds=1)
    await a_rule(api, "order", {"type": "pointsPerUnit", "rate": "1"})
    event, marker = order(fresh_id(), 7), action(fresh_id())
    before = {**action(known.customer_id), "eventId": str(known.event_id)}
    results = await posted(api, batch(event, before, event, {**event, "reference": "another"}, marker))
    assert [result["status"] for result in results] == [200, 208, 208, 208, 200]
    assert [result["isExisting"] for result in results] == [False, True, True, True, False]
    await until_recorded(api, event["eventId"], marker["eventId"])
    assert (await api.get(f"{CUSTOMERS}/{event['customerId']}/balance")).body["amount"] == 7


@pytest.mark.usefixtures("assessing")
async def test_points_in_a_batch_need_an_admin_key_and_the_others_do_not(
    api: ApiClient, integration: ApiClient
) -> None:
    first, second, third = action(fresh_id()), points(fresh_id()), action(fresh_id())
    results = await posted(integration, batch(first, second, third))
    assert [result["status"] for result in results] == [200, 403, 200]
    assert results[1]["error"]["code"] == "Forbidden"
    await until_recorded(api, first["eventId"], third["eventId"])
    assert await listed(api, EVENT_SEARCH, "events", eventId=second["eventId"]) == []
    assert (await api.get(f"{CUSTOMERS}/{second['customerId']}")).status == 404


@pytest.mark.usefixtures("assessing")
async def test_a_thousand_events_are_one_batch(api: ApiClient, owner: asyncpg.Connection) -> None:
    customers = [fresh_id() for _ in range(40)]
    events = [action(customers[number % 40]) for number in range(1000)]
    results = await posted(api, batch(*events))
    assert [result["eventId"] for result in results] == [event["eventId"] for event in events]
    assert {result["status"] for result in results} == {200}

    async def are_recorded() -> bool:
        return bool(await owner.fetchval("SELECT count(*) = 1000 FROM events"))

    await until(are_recorded)


async def test_too_many_events_or_none_are_refused_as_a_whole(
    api: ApiClient, broker: Broker, owner: asyncpg.Connection
) -> None:
    before = await contents(owner)
    too_many = batch(*(action(fresh_id()) for _ in range(1001)))
    refused(await api.post(EVENTS, too_many), 400, "InvalidRequest", "events")
    refused(await api.post(EVENTS, {"events": []}), 400, "InvalidRequest", "events", "[]")
    refused(await api.post(EVENTS, {}), 400, "InvalidRequest", "events", None)
    refused(await api.post(EVENTS, {**batch(action(fresh_id())), "more": 1}), 400, "InvalidRequest", "more", "1")
    assert (await contents(owner), await queued(broker)) == (before, 0)


async def test_a_batch_may_have_4_mebibytes_and_no_more(api: ApiClient, broker: Broker) -> None:
    attributes = [{"key": f"key {number}", "value": "v" * 250} for number in range(10)]
    whole = json.dumps(batch(*(action(fresh_id(), attributes=attributes) for _ in range(1000)))).encode()
    assert len(whole) > 2 * 1024 * 1024
    padding = b" " * (4 * 1024 * 1024 - len(whole))
    for is_chunked in (False, True):
        too_large = await post(api, EVENTS, whole + padding + b" ", is_chunked=is_chunked)
        refused(too_large, 413, "BodyTooLarge")
        assert await queued(broker) == 0
    accepted = await post(api, EVENTS, whole + padding)
    assert accepted.status == 200
    assert {result["status"] for result in accepted.body["results"]} == {200}

    async def are_queued() -> bool:
        return await queued(broker) > 1

    await until(are_queued)
