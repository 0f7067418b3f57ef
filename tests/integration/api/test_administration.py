"""Rules, segments and API keys over HTTP."""

from typing import Any

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.events import OrderEvent
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, listed, pages, refused
from tests.integration.api.given import (
    API_KEYS,
    CUSTOMERS,
    RULES,
    SEGMENTS,
    Json,
    a_customer,
    a_rule,
    a_segment,
    fresh_id,
    made,
    order,
)
from tests.parts import START, ApiClient, Clock, Tenant

NOW = "2026-03-14T09:26:53.589Z"
LATER = "2026-03-14T10:26:53.589Z"
POINTS: Json = {"type": "points", "amount": 5}
NOWHERE = "b0a6f1d2-3c4e-4f5a-8b6c-7d8e9f0a1b2c"
"""A segment that no tenant has."""


def a_full_rule(segment_id: str, other_segment_id: str) -> Json:
    """A rule that asks for and changes all that any event has, and gives points in every way."""
    return {
        "ruleId": fresh_id(),
        "name": "Everything",
        "description": "All there is",
        "eventType": "order",
        "status": "active",
        "fromAt": "2026-01-01T00:00:00.000Z",
        "toAt": "2027-01-01T00:00:00.000Z",
        "criteria": [
            {"type": "everyEvent"},
            {"type": "nameSpace", "operator": "beginsWith", "value": "Shop."},
            {"type": "nameSpace", "operator": "equals", "value": "Shop.Web"},
            {"type": "reference", "value": "PO-1"},
            {"type": "campaign", "value": "spring"},
            {"type": "attribute", "key": "a", "value": ""},
            {"type": "inSegment", "segmentId": segment_id},
            {"type": "notInSegment", "segmentId": other_segment_id},
            {"type": "expression", "expression": "event.order.total > 0.0\n  && totals.counts.order >= 0"},
        ],
        "fulfilments": [
            {"type": "points", "amount": -5},
            {"type": "pointsPerUnit", "rate": "1.5"},
            {"type": "addToSegment", "segmentId": other_segment_id},
            {"type": "removeFromSegment", "segmentId": segment_id},
        ],
        "limits": {"perCustomer": 3, "perPeriod": {"count": 1, "unit": "week"}, "total": 1_000, "pointsTotal": 5_000},
    }


def a_plain_rule(**fields: object) -> Json:
    return {"name": "Plain", "eventType": "order", "fulfilments": [POINTS], **fields}


async def test_a_rule_is_answered_and_read_as_it_was_created(api: ApiClient, tenant: Tenant) -> None:
    body = a_full_rule((await a_segment(api))["segmentId"], (await a_segment(api))["segmentId"])
    created = await made(api, RULES, body)
    version = {"version": 1, "effectiveFrom": None, "effectiveTo": None}
    assert created == {**body, **version, "tenantId": str(tenant.tenant_id), "createdAt": NOW, "changedAt": NOW}
    assert (await api.get(f"{RULES}/{body['ruleId']}")).body == created
    assert await listed(api, RULES, "rules") == [created]


async def test_a_rule_says_little_unless_told(api: ApiClient) -> None:
    created = await made(api, RULES, a_plain_rule())
    absent = ("status", "description", "fromAt", "toAt", "criteria", "limits")
    assert [created[name] for name in absent] == ["configure", "", None, None, [], None]


async def test_replacing_a_rule_leaves_nothing_of_it_but_its_beginning(api: ApiClient, clock: Clock) -> None:
    rule = a_full_rule((await a_segment(api))["segmentId"], (await a_segment(api))["segmentId"])
    body = {**rule, "status": "configure"}
    await made(api, RULES, body)
    clock.advance(hours=1)
    replaced = await api.put(f"{RULES}/{body['ruleId']}", a_plain_rule(status="archived", ruleId=body["ruleId"]))
    assert (replaced.status, replaced.body["status"], replaced.body["criteria"]) == (200, "archived", [])
    assert (replaced.body["createdAt"], replaced.body["changedAt"]) == (NOW, LATER)
    assert (await api.get(f"{RULES}/{body['ruleId']}")).body == replaced.body


async def test_the_status_of_a_rule_counts_from_the_next_event_on(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    customer_id, expected = fresh_id(), 0
    rule_id = (await made(api, RULES, a_plain_rule()))["ruleId"]
    for status in ("configure", "test", "active", "inactive", "archived"):
        assert (await api.put(f"{RULES}/{rule_id}", a_plain_rule(status=status))).status == 200
        event = OrderEvent.model_validate({**order(customer_id), "createdAt": START})
        await assessor.assess(tenant.tenant_id, [event])
        expected += 5 if status == "active" else 0
        assert (await api.get(f"{CUSTOMERS}/{customer_id}/balance")).body["amount"] == expected, status


async def test_an_expression_sees_the_customer_as_before_the_event(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    customer_id, segment_id = (await a_customer(api))["customerId"], (await a_segment(api))["segmentId"]
    criteria = [{"type": "expression", "expression": f"'{segment_id}' in segments && totals.counts.order == 1"}]
    await made(api, RULES, a_plain_rule(status="active", criteria=criteria))
    assert (await api.put(f"{CUSTOMERS}/{customer_id}/segments", {"segmentId": segment_id})).status == 200
    for expected in (0, 5, 5):
        event = OrderEvent.model_validate({**order(customer_id), "createdAt": START})
        await assessor.assess(tenant.tenant_id, [event])
        assert (await api.get(f"{CUSTOMERS}/{customer_id}/balance")).body["amount"] == expected


async def test_an_unknown_segment_of_a_rule_is_named_with_its_place(api: ApiClient, owner: asyncpg.Connection) -> None:
    known, other, unknown = (await a_segment(api))["segmentId"], (await a_segment(api))["segmentId"], fresh_id()
    rule_id = (await made(api, RULES, a_plain_rule()))["ruleId"]
    before = await contents(owner)
    for place in ("criteria.6", "criteria.7", "fulfilments.2", "fulfilments.3"):
        body = a_full_rule(known, other)
        kind, index = place.split(".")
        body[kind][int(index)]["segmentId"] = unknown
        refused(await api.post(RULES, body), 400, "SegmentNotFound", f"{place}.segmentId", unknown)
        answered = await api.put(f"{RULES}/{rule_id}", {**body, "ruleId": rule_id})
        refused(answered, 400, "SegmentNotFound", f"{place}.segmentId", unknown)
    assert await contents(owner) == before


WRONG_RULES: list[tuple[Json, str, object]] = [
    ({"name": ""}, "name", ""),
    ({"name": "x" * 257}, "name", "x" * 199 + "…"),
    ({"name": "a\x00"}, "name", "a\x00"),
    ({"description": 5}, "description", "5"),
    ({"eventType": "error"}, "eventType", "error"),
    ({"eventType": "purchase"}, "eventType", "purchase"),
    ({"eventType": "reversal"}, "eventType", "reversal"),
    ({"status": "deleted"}, "status", "deleted"),
    ({"fromAt": "soon"}, "fromAt", "soon"),
    ({"toAt": "2026-02-30T00:00:00Z"}, "toAt", "2026-02-30T00:00:00Z"),
    ({"ruleId": "x"}, "ruleId", "x"),
    ({"surprise": 1}, "surprise", "1"),
    ({"criteria": [{"type": "nope"}]}, "criteria.0", '{"type": "nope"}'),
    ({"criteria": [{}]}, "criteria.0", "{}"),
    ({"criteria": [{"type": "everyEvent"}, {"type": "nameSpace"}]}, "criteria.1.value", None),
    ({"criteria": [{"type": "nameSpace", "value": "a", "operator": "like"}]}, "criteria.0.operator", "like"),
    ({"criteria": [{"type": "reference", "value": ""}]}, "criteria.0.value", ""),
    ({"criteria": [{"type": "attribute", "key": "a", "value": None}]}, "criteria.0.value", None),
    ({"criteria": [{"type": "inSegment", "segmentId": "x"}]}, "criteria.0.segmentId", "x"),
    ({"criteria": [{"type": "everyEvent", "value": "x"}]}, "criteria.0.value", "x"),
    ({"criteria": [{"type": "everyEvent"}] * 51}, "criteria", None),
    ({"fulfilments": []}, "fulfilments", "[]"),
    ({"fulfilments": [POINTS] * 51}, "fulfilments", None),
    ({"fulfilments": [{"type": "points", "amount": 0}]}, "fulfilments.0.amount", "0"),
    ({"fulfilments": [{"type": "points", "amount": 1.5}]}, "fulfilments.0.amount", "1.5"),
    ({"fulfilments": [{"type": "points", "amount": 10**15 + 1}]}, "fulfilments.0.amount", str(10**15 + 1)),
    ({"fulfilments": [{"type": "pointsPerUnit", "rate": "0"}]}, "fulfilments.0.rate", "0"),
    ({"fulfilments": [{"type": "pointsPerUnit", "rate": "-1"}]}, "fulfilments.0.rate", "-1"),
    ({"fulfilments": [{"type": "pointsPerUnit", "rate": "1000.0001"}]}, "fulfilments.0.rate", "1000.0001"),
    ({"fulfilments": [{"type": "pointsPerUnit", "rate": "0.00001"}]}, "fulfilments.0.rate", "0.00001"),
    ({"fulfilments": [{"type": "addToSegment"}]}, "fulfilments.0.segmentId", None),
    ({"fulfilments": [{"type": "addToSegment", "segmentId": None}]}, "fulfilments.0.segmentId", None),
    ({"limits": {}}, "limits", "{}"),
    ({"limits": {"perDay": 1}}, "limits.perDay", "1"),
    ({"limits": {"perCustomer": 0}}, "limits.perCustomer", "0"),
    ({"limits": {"perPeriod": {"count": 1, "unit": "hour"}}}, "limits.perPeriod.unit", "hour"),
    ({"limits": {"total": 10**9 + 1}}, "limits.total", str(10**9 + 1)),
    ({"limits": {"pointsTotal": 10**15 + 1}}, "limits.pointsTotal", str(10**15 + 1)),
    ({"limits": {"pointsTotal": 5}, "fulfilments": [{"type": "points", "amount": -5}]}, "limits", '{"pointsTotal": 5}'),
    ({"limits": {"total": 5}, "eventType": "basket"}, "limits", '{"total": 5}'),
    ({"fromAt": "2026-01-01T00:00:00Z", "toAt": "2026-01-01T00:00:00Z"}, "body", None),
    (
        {"eventType": "action", "fulfilments": [POINTS, {"type": "pointsPerUnit", "rate": 1}]},
        "fulfilments.1.type",
        "pointsPerUnit",
    ),
    ({"criteria": [{"type": "expression", "expression": "event.gone"}]}, "criteria.0.expression", "event.gone"),
    ({"criteria": [{"type": "expression"}]}, "criteria.0.expression", None),
    ({"criteria": [{"type": "yearsSinceJoining", "operator": "equals", "value": 1}]}, "criteria.0.type", None),
    (
        {"criteria": [{"type": "campaign", "value": "A"}, {"type": "campaign", "value": "B"}]},
        "criteria.1.value",
        "B",
    ),
    (
        {"fulfilments": [{"type": kind, "segmentId": NOWHERE} for kind in ("addToSegment", "removeFromSegment")]},
        "fulfilments.1.segmentId",
        NOWHERE,
    ),
]


async def test_a_rule_that_means_nothing_is_refused_and_leaves_nothing(
    api: ApiClient, owner: asyncpg.Connection
) -> None:
    rule_id = (await made(api, RULES, a_plain_rule()))["ruleId"]
    before = await contents(owner)
    for wrong, param, value in WRONG_RULES:
        for method, path in (("POST", RULES), ("PUT", f"{RULES}/{rule_id}")):
            answered = await api.call(method, path, a_plain_rule(**wrong))
            refused(answered, 400, "InvalidRequest", param)
            shown = {error["param"]: error["value"] for error in answered.body["errors"]}[param]
            assert value is None or shown == value, (wrong, answered.body)
    for name in ("name", "eventType", "fulfilments"):
        body = {key: value for key, value in a_plain_rule().items() if key != name}
        refused(await api.post(RULES, body), 400, "InvalidRequest", name, None)
    assert await contents(owner) == before


async def test_ids_that_are_taken_unknown_or_not_the_routes_are_refused(
    api: ApiClient, owner: asyncpg.Connection
) -> None:
    rule_id = (await made(api, RULES, a_plain_rule()))["ruleId"]
    segment_id = (await a_segment(api, name="A"))["segmentId"]
    before, unknown = await contents(owner), fresh_id()
    a_plain_segment = {"name": "B"}
    for path, taken, param, body in (
        (RULES, rule_id, "ruleId", a_plain_rule()),
        (SEGMENTS, segment_id, "segmentId", a_plain_segment),
    ):
        refused(await api.post(path, {**body, param: taken}), 409, "AlreadyExists", param, taken)
        refused(await api.put(f"{path}/{taken}", {**body, param: unknown}), 400, "InvalidRequest", param, unknown)
        refused(await api.put(f"{path}/{unknown}", body), 404, "NotFound", param, unknown)
        refused(await api.get(f"{path}/{unknown}"), 404, "NotFound", param, unknown)
    refused(await api.put(f"{API_KEYS}/unknown", {"name": "x"}), 404, "NotFound", "apiKey", "unknown")
    refused(await api.get(f"{API_KEYS}/unknown"), 404, "NotFound", "apiKey", "unknown")
    refused(await api.get(f"{API_KEYS}/a%00b"), 400, "InvalidRequest", "apiKey", "a\x00b")
    assert await contents(owner) == before


async def test_a_tenant_has_a_bounded_number_of_rules_also_when_they_come_at_once(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RULES_PER_TENANT_MAX", 3)
    answers = await all_at_once(*(api.post(RULES, a_plain_rule()) for _ in range(12)))
    assert sorted(answered.status for answered in answers) == [200] * 3 + [409] * 9
    assert {answered.body.get("code") for answered in answers} == {None, "LimitReached"}
    assert len(await listed(api, RULES, "rules")) == 3


EXPIRIES: list[Json] = [
    {"mode": "none"},
    {"mode": "untilAnniversary"},
    {"mode": "untilAnniversaryPlusYear"},
    {"mode": "period", "count": 1827, "unit": "days"},
    {"mode": "period", "count": 60, "unit": "months"},
    {"mode": "period", "count": 5, "unit": "years"},
    {"mode": "date", "date": "2031-03-14T09:26:53.589Z"},
]
WRONG_EXPIRIES: list[tuple[object, str]] = [
    (None, "expiry"),
    ("none", "expiry"),
    ({"mode": "never"}, "expiry.mode"),
    ({"mode": "none", "surprise": 1}, "expiry.surprise"),
    ({"mode": "none", "count": 1}, "expiry"),
    ({"mode": "none", "date": "2027-01-01T00:00:00Z"}, "expiry"),
    ({"mode": "period"}, "expiry"),
    ({"mode": "period", "count": 1}, "expiry"),
    ({"mode": "period", "unit": "days"}, "expiry"),
    ({"mode": "period", "count": 0, "unit": "days"}, "expiry.count"),
    ({"mode": "period", "count": 1.5, "unit": "days"}, "expiry.count"),
    ({"mode": "period", "count": "1", "unit": "days"}, "expiry.count"),
    ({"mode": "period", "count": 1828, "unit": "days"}, "expiry.count"),
    ({"mode": "period", "count": 61, "unit": "months"}, "expiry"),
    ({"mode": "period", "count": 6, "unit": "years"}, "expiry"),
    ({"mode": "period", "count": 1, "unit": "weeks"}, "expiry.unit"),
    ({"mode": "date"}, "expiry"),
    ({"mode": "date", "date": "2027-01-01"}, "expiry.date"),
    ({"mode": "date", "date": "2031-03-14T09:26:53.590Z"}, "expiry.date"),
]


async def test_a_segment_is_answered_and_read_as_it_was_created(api: ApiClient, tenant: Tenant) -> None:
    for number, expiry in enumerate(EXPIRIES):
        body = {
            "segmentId": fresh_id(),
            "name": f"VIP {number}",
            "displayName": "Very important",
            "description": "Few",
            "status": "configure",
            "expiry": expiry,
        }
        created = await made(api, SEGMENTS, body)
        whole = {"count": None, "unit": None, "date": None, **expiry}
        own = {"tenantId": str(tenant.tenant_id), "createdAt": NOW, "changedAt": NOW}
        assert created == {**body, **own, "expiry": whole}
        assert (await api.get(f"{SEGMENTS}/{body['segmentId']}")).body == created
    assert len(await listed(api, SEGMENTS, "segments")) == len(EXPIRIES)


async def test_a_segment_says_little_unless_told(api: ApiClient) -> None:
    created = await a_segment(api)
    absent = ("status", "displayName", "description")
    assert [created[name] for name in absent] == ["active", None, None]
    assert created["expiry"] == {"mode": "none", "count": None, "unit": None, "date": None}


async def test_replacing_a_segment_keeps_its_members_and_their_lapse(api: ApiClient, clock: Clock) -> None:
    segment_id = (await a_segment(api, name="A", description="Few", expiry=EXPIRIES[5]))["segmentId"]
    path = f"{CUSTOMERS}/{(await a_customer(api))['customerId']}/segments"
    membership = (await api.put(path, {"segmentId": segment_id})).body
    clock.advance(hours=1)
    replaced = await api.put(f"{SEGMENTS}/{segment_id}", {"name": "B"})
    assert (replaced.status, replaced.body["name"], replaced.body["description"]) == (200, "B", None)
    assert (replaced.body["createdAt"], replaced.body["changedAt"]) == (NOW, LATER)
    assert await listed(api, path, "segments") == [{**membership, "name": "B", "description": None}]


async def test_an_expiry_that_means_nothing_is_refused_and_leaves_nothing(
    api: ApiClient, owner: asyncpg.Connection
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    before = await contents(owner)
    for expiry, param in WRONG_EXPIRIES:
        for method, path in (("POST", SEGMENTS), ("PUT", f"{SEGMENTS}/{segment_id}")):
            answered = await api.call(method, path, {"name": "A", "expiry": expiry})
            refused(answered, 400, "InvalidRequest", param)
    for body, param in (({}, "name"), ({"name": ""}, "name"), ({"name": "A", "status": "open"}, "status")):
        refused(await api.post(SEGMENTS, body), 400, "InvalidRequest", param)
    assert await contents(owner) == before


async def test_the_name_of_a_segment_is_taken_once(api: ApiClient, other: ApiClient, owner: asyncpg.Connection) -> None:
    await a_segment(api, name="A")
    segment_id = (await a_segment(api, name="B"))["segmentId"]
    before = await contents(owner)
    refused(await api.post(SEGMENTS, {"name": "A"}), 409, "AlreadyExists", "name", "A")
    refused(await api.put(f"{SEGMENTS}/{segment_id}", {"name": "A"}), 409, "AlreadyExists", "name", "A")
    assert await contents(owner) == before
    assert (await api.put(f"{SEGMENTS}/{segment_id}", {"name": "B", "status": "inactive"})).status == 200
    await a_segment(other, name="A")
    answers = await all_at_once(*(api.post(SEGMENTS, {"name": "C"}) for _ in range(10)))
    assert sorted(answered.status for answered in answers) == [200] + [409] * 9


async def test_a_key_is_created_read_and_changed(api: ApiClient, tenant: Tenant, clock: Clock) -> None:
    clock.advance(hours=1)
    created = await made(api, API_KEYS, {"name": "shop", "role": "admin"})
    assert created.pop("apiSecret").startswith("secret_")
    assert created.pop("tenantId") == str(tenant.tenant_id)
    expected = {"name": "shop", "role": "admin", "isEnabled": True, "createdAt": LATER, "changedAt": LATER}
    assert created == {"apiKey": created["apiKey"], **expected}
    assert (await api.get(f"{API_KEYS}/{created['apiKey']}")).body == created
    clock.advance(hours=1)
    change = {"name": "shop 2", "role": "integration", "isEnabled": False}
    changed = await api.put(f"{API_KEYS}/{created['apiKey']}", change)
    assert (changed.status, changed.body) == (200, {**created, **change, "changedAt": "2026-03-14T11:26:53.589Z"})
    assert changed.body in await listed(api, API_KEYS, "apiKeys")
    assert (await made(api, API_KEYS, {"name": "plain"}))["role"] == "integration"


async def test_what_is_said_of_a_key_is_checked(api: ApiClient, tenant: Tenant, owner: asyncpg.Connection) -> None:
    before = await contents(owner)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"name": "x", "role": "owner"}, "role"),
        ({"name": "x", "role": None}, "role"),
        ({"name": "x", "secret": "mine"}, "secret"),
        ({"name": "x", "apiKey": "mine"}, "apiKey"),
    ]
    for body, param in wrong:
        refused(await api.post(API_KEYS, body), 400, "InvalidRequest", param)
        refused(await api.put(f"{API_KEYS}/{tenant.integration.api_key}", body), 400, "InvalidRequest", param)
    for flag in ("true", 1, None):
        answered = await api.put(f"{API_KEYS}/{tenant.integration.api_key}", {"name": "x", "isEnabled": flag})
        refused(answered, 400, "InvalidRequest", "isEnabled")
    assert await contents(owner) == before


async def test_a_key_neither_disables_nor_demotes_itself(
    api: ApiClient, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    own = f"{API_KEYS}/{tenant.admin.api_key}"
    before = await contents(owner)
    for change in ({"role": "admin", "isEnabled": False}, {"role": "integration"}, {}):
        refused(await api.put(own, {"name": "x", **change}), 409, "OwnKey", "apiKey", tenant.admin.api_key)
    assert await contents(owner) == before
    assert (await api.put(own, {"name": "renamed", "role": "admin"})).body["name"] == "renamed"


async def test_the_pages_of_every_list_together_hold_each_once_in_order(api: ApiClient, tenant: Tenant) -> None:
    rules = sorted([(await a_rule(api, "order", POINTS))["ruleId"] for _ in range(5)])
    segments = sorted([(await a_segment(api))["segmentId"] for _ in range(5)])
    keys = [(await made(api, API_KEYS, {"name": "x"}))["apiKey"] for _ in range(3)]
    keys = sorted([*keys, tenant.admin.api_key, tenant.integration.api_key])
    for path, name, row_id, expected in (
        (RULES, "rules", "ruleId", rules),
        (SEGMENTS, "segments", "segmentId", segments),
        (API_KEYS, "apiKeys", "apiKey", keys),
    ):
        for limit in (1, 2, 4, 5, 100):
            read = [page async for page in pages(api, path, name, limit=limit)]
            assert [row[row_id] for page in read for row in page] == expected
            assert [len(page) for page in read[:-1]] == [limit] * (len(read) - 1)


async def test_an_offset_key_of_a_list_is_good_for_it_alone(api: ApiClient, other: ApiClient) -> None:
    for client in (api, other):
        for _ in range(2):
            await a_rule(client, "order", POINTS)
            await a_segment(client)
    lists = (RULES, SEGMENTS, API_KEYS)
    keys = {path: (await api.get(path, limit=1)).body["offsetKey"] for path in lists}
    for path in lists:
        for elsewhere in set(lists) - {path}:
            refused(await api.get(elsewhere, offsetKey=keys[path]), 400, "InvalidRequest", "offsetKey", keys[path])
        refused(await other.get(path, offsetKey=keys[path]), 400, "InvalidRequest", "offsetKey", keys[path])
        forged = ("A" if keys[path][0] != "A" else "B") + keys[path][1:]
        refused(await api.get(path, offsetKey=forged), 400, "InvalidRequest", "offsetKey", forged)
        assert (await api.get(path, offsetKey=keys[path])).status == 200
