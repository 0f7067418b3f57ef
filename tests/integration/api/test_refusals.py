"""What is wrong with a request is told in the one format of errors, and nothing of it is kept."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from yarl import URL

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.credentials import Role
from tallymarks_api.main import ENDPOINTS
from tests.integration.api.answers import contents, queued, refused, refused_body
from tests.integration.api.given import (
    ACTIONS,
    BASKETS,
    CUSTOMERS,
    EVENT_SEARCH,
    EVENTS,
    ORDERS,
    POINTS,
    REDEMPTIONS,
    REVERSALS,
    RULE_TRIALS,
    RULES,
    TRANSACTIONS,
    Json,
    a_customer,
    action,
    basket,
    filled,
    fresh_id,
    order,
    points,
    redemption,
    reversal,
    transaction,
)
from tests.integration.api.wire import begun, post
from tests.parts import ApiClient

WITH_A_BODY = [endpoint for endpoint in ENDPOINTS if endpoint.body is not None]
MALFORMED = [
    b"",
    b" ",
    b"{",
    b"{}}",
    b"{} {}",
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a": 01}',
    b'{"a": .5}',
    b'{"a": 1e99999999999999999999}',
    b'{"a": ' + b"1" * 5000 + b"}",
    b'{"a": 1, "a": 1}',
    b'{"a": {"b": [{"c": 1, "c": 2}]}}',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b'{"a": "\x00"}',
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\x1f\x8b\x08\x00",
]
NO_NUMBERS = ["", "x", "1.5", "10.0", "1_0", " 10", "10 ", "+5", "0x10", "1e1", "１０", "NaN", "null", "1\x00"]
NO_OBJECT = [b"null", b"true", b"1", b'"text"', b"[]", b"[{}]"]
BAD_TEXTS: list[object] = [5, True, [], {}, "a\x00b", "x" * 257]
BAD_FLAGS: list[object] = ["true", 1, 0, "", []]
BAD_IDS: list[object] = ["", "x", 5, True, [], "6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f", str(UUID(int=0))]
BAD_INSTANTS: list[object] = [
    "",
    "yesterday",
    0,
    1767225600,
    True,
    "2026-02-28",
    "2026-02-28T00:00:00",
    "2026-02-28T00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-02-28T24:00:00Z",
    "2026-02-28T00:00:00+24:00",
    "20260228T000000Z",
    "1899-12-31T23:59:59.999Z",
    "2200-01-01T00:00:00.001Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
]
BAD_AMOUNTS: list[object] = [
    "",
    " 1",
    "1 ",
    "+1",
    "1,5",
    "1e2",
    ".5",
    "5.",
    "NaN",
    "Infinity",
    "0x10",
    "１",
    "1.00001",
    "1000000000000",
    "-1000000000000.0001",
    1.00001,
    10**12,
    -(10**12),
    1e300,
    1e-300,
    True,
    [],
    {},
]
BAD_COUNTS: list[object] = [-1, 1.5, "1", 10**9 + 1, True, []]
BAD_POINTS: list[object] = [0, 1.5, "5", 10**15 + 1, -(10**15) - 1, True, None, []]
BAD_REDEMPTIONS: list[object] = [0, -1, 1.5, "5", 10**15 + 1, True, None, []]
BAD_ATTRIBUTES: list[object] = [{}, "a", 1, [{"key": "a", "value": "b"}] * 101]


def with_value(body: Json, param: str, value: object) -> Json:
    """A copy of the body with another value at a dotted place."""
    changed: Json = json.loads(json.dumps(body))
    *outer, last = param.split(".")
    at: Any = changed
    for step in outer:
        at = at[int(step) if isinstance(at, list) else step]
    at[int(last) if isinstance(at, list) else last] = value
    return changed


def as_sent(value: object) -> str | None:
    """A value as an error shows it."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    # A number as it is written, read exactly.
    text = str(Decimal(text)) if isinstance(value, float) else text
    return text if len(text) <= 200 else text[:199] + "…"


def bad_customers() -> Iterator[tuple[str, Sequence[object]]]:
    for name in ("firstName", "lastName", "displayName", "mobileNumber", "contactPhone", "externalStatus"):
        yield name, BAD_TEXTS
    yield "externalReference", BAD_TEXTS
    yield "emailAddress", ["", "x", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\n", "a\x00@b", 5, "x" * 250 + "@b.de"]
    for name in ("optinSms", "optinEmail", "acceptTerms"):
        yield name, BAD_FLAGS
    yield "dateOfBirth", BAD_INSTANTS
    yield "attributes", BAD_ATTRIBUTES
    yield "customerId", BAD_IDS
    yield "isCustomer", [True]
    yield "first_name", ["Ada"]


def bad_commons() -> Iterator[tuple[str, Sequence[object]]]:
    yield "eventId", [*BAD_IDS, None]
    yield "customerId", [*BAD_IDS, None]
    for name in ("nameSpace", "reference", "campaign"):
        yield name, BAD_TEXTS
    yield "createdAt", BAD_INSTANTS
    yield "attributes", [*BAD_ATTRIBUTES, None]
    yield "attributes.0.value", [None, 5, "a\x00b", "x" * 257]
    yield "attributes.0.more", [1]
    yield "surprise", ["value", None, {}]
    yield "event_id", ["x"]
    yield "eventType", ["basket", 5, None]


def bad_events() -> Iterator[tuple[str, Json, str, Sequence[object]]]:
    """Path, a good body, the place to spoil, and what to put there."""
    common = {"attributes": [{"key": "a", "value": "b"}]}
    an_action = {**action(fresh_id(), **common), "action": {}}
    an_order = order(fresh_id(), **common)
    an_order["order"] |= {"items": [{}], "payments": [{}]}
    a_transaction, some_points = transaction(fresh_id(), **common), points(fresh_id(), **common)
    a_redemption = redemption(fresh_id(), **common)
    a_basket = basket(fresh_id(), **common)
    a_basket["basket"] |= {"items": [{}]}
    for param, values in bad_commons():
        yield ACTIONS, an_action, param, values
    yield ACTIONS, an_action, "action", [None, [], 5]
    yield ACTIONS, an_action, "action.amount", BAD_AMOUNTS
    yield ACTIONS, an_action, "action.count", BAD_COUNTS
    yield ORDERS, an_order, "order", [None, [], 5]
    yield ORDERS, an_order, "order.total", [*BAD_AMOUNTS, None]
    for name in ("taxTotal", "shippingTotal", "discountTotal", "items.0.price", "payments.0.amount"):
        yield ORDERS, an_order, f"order.{name}", BAD_AMOUNTS[:3]
    yield ORDERS, an_order, "order.currency", BAD_TEXTS
    yield ORDERS, an_order, "order.items", [{}, None, [{}] * 1001]
    yield ORDERS, an_order, "order.items.0.quantity", BAD_COUNTS
    yield ORDERS, an_order, "order.items.0.sku", BAD_TEXTS
    yield ORDERS, an_order, "order.items.0.tags", [None, "a", ["a"] * 51]
    yield ORDERS, an_order, "order.items.0.surprise", [1]
    yield ORDERS, an_order, "order.payments", [None, [{}] * 51]
    yield ORDERS, an_order, "order.payments.0.bin", BAD_TEXTS
    yield TRANSACTIONS, a_transaction, "transaction.amount", [*BAD_AMOUNTS, None]
    yield TRANSACTIONS, a_transaction, "transaction.currency", BAD_TEXTS
    yield POINTS, some_points, "points.quantity", BAD_POINTS
    yield BASKETS, a_basket, "basket", [None, [], 5]
    yield BASKETS, a_basket, "basket.total", [*BAD_AMOUNTS, None]
    yield BASKETS, a_basket, "basket.items.0.quantity", BAD_COUNTS
    yield BASKETS, a_basket, "eventId", [*BAD_IDS, None]
    yield BASKETS, a_basket, "createdAt", BAD_INSTANTS
    yield BASKETS, a_basket, "eventType", ["order", None]
    yield BASKETS, a_basket, "order", [{"total": 1}]
    yield REDEMPTIONS, a_redemption, "redemption.points", BAD_REDEMPTIONS
    yield REDEMPTIONS, a_redemption, "redemption.description", [5, "a\x00b", "x" * 2001]
    yield REDEMPTIONS, a_redemption, "emailAddress", ["ada@example.org"]
    a_reversal = reversal(fresh_id(), fresh_id(), "1", **common)
    yield REVERSALS, a_reversal, "reverses", [*BAD_IDS, None]
    yield REVERSALS, a_reversal, "amount", [*BAD_AMOUNTS, 0, "0", "-1", -1]
    yield REVERSALS, a_reversal, "order", [{"total": 1}]


@asynccontextmanager
async def nothing_left(owner: asyncpg.Connection, broker: Broker) -> AsyncIterator[None]:
    """Check that the database and the queues are afterwards as they were before."""
    before = await contents(owner)
    yield
    assert (await contents(owner), await queued(broker)) == (before, 0)


async def test_a_body_that_is_no_json_is_refused_by_every_call(
    api: ApiClient, owner: asyncpg.Connection, broker: Broker
) -> None:
    async with nothing_left(owner, broker):
        for endpoint in WITH_A_BODY:
            for raw in MALFORMED + NO_OBJECT:
                answered = await api.call(endpoint.method, filled(endpoint), raw=raw)
                refused(answered, 400, "InvalidRequest", "body")


async def test_a_body_full_of_fields_is_refused_before_each_is_looked_at(api: ApiClient, broker: Broker) -> None:
    full = {f"field {number}": number for number in range(limits.OBJECT_KEYS_MAX + 1)}
    bodies: list[tuple[str, Json]] = [
        (CUSTOMERS, full),
        (ORDERS, {**order(fresh_id()), "order": {"total": 1, "items": [full]}}),
        (EVENTS, {"events": [full]}),
    ]
    for path, body in bodies:
        answered = await api.post(path, body)
        refused(answered, 400, "InvalidRequest", "body")
        assert len(answered.body["errors"]) == 1
    assert await queued(broker) == 0


async def test_a_body_must_say_that_it_is_json(api: ApiClient, owner: asyncpg.Connection, broker: Broker) -> None:
    media_types = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/jsonx",
        "json",
        "*/*",
    ]
    async with nothing_left(owner, broker):
        for endpoint in WITH_A_BODY:
            for media_type in media_types:
                sent = {**api.headers, "content-type": media_type}
                answered = await api.call(endpoint.method, filled(endpoint), raw=b"{}", headers=sent)
                refused(answered, 415, "UnsupportedMediaType", "content-type", media_type)
    sent = {**api.headers, "content-type": "Application/JSON; charset=utf-8"}
    assert (await api.call("POST", CUSTOMERS, raw=b"{}", headers=sent)).status == 200


async def test_a_body_must_not_be_compressed(api: ApiClient, owner: asyncpg.Connection, broker: Broker) -> None:
    async with nothing_left(owner, broker):
        for endpoint in WITH_A_BODY:
            for encoding, body in (
                ("gzip", gzip.compress(b"{}")),
                ("deflate", zlib.compress(b"{}")),
                ("enigma", b"{}"),
            ):
                sent = {**api.headers, "content-encoding": encoding}
                answered = await api.call(endpoint.method, filled(endpoint), raw=body, headers=sent)
                refused(answered, 415, "UnsupportedMediaType", "content-encoding", encoding)
    assert (await post(api, CUSTOMERS, b"{}", headers={"content-encoding": "identity"})).status == 200


async def test_every_field_of_a_customer_is_checked(api: ApiClient, owner: asyncpg.Connection, broker: Broker) -> None:
    customer_id = (await a_customer(api))["customerId"]
    async with nothing_left(owner, broker):
        for param, values in bad_customers():
            for value in values:
                body = {"emailAddress": "ada@example.org", param: value}
                for method, path in (
                    ("POST", CUSTOMERS),
                    ("POST", REDEMPTIONS),
                    ("POST", REVERSALS),
                    ("PATCH", f"{CUSTOMERS}/{customer_id}"),
                ):
                    refused(await api.call(method, path, body), 400, "InvalidRequest", param, as_sent(value))
        for value in BAD_FLAGS:
            answered = await api.patch(f"{CUSTOMERS}/{customer_id}", {"isAccountLocked": value})
            refused(answered, 400, "InvalidRequest", "isAccountLocked", as_sent(value))
        refused(await api.post(CUSTOMERS, {"isAccountLocked": True}), 400, "InvalidRequest", "isAccountLocked", "true")


async def test_every_field_of_an_event_is_checked_alone_and_in_a_batch(
    api: ApiClient, owner: asyncpg.Connection, broker: Broker
) -> None:
    async with nothing_left(owner, broker):
        for path, body, param, values in bad_events():
            for value in values:
                wrong = with_value(body, param, value)
                refused(await api.post(path, wrong), 400, "InvalidRequest", param, as_sent(value))
                if path in (REDEMPTIONS, REVERSALS, BASKETS) or param == "eventType":
                    continue
                in_batch = {"eventType": path.rsplit("/", 1)[1].removesuffix("s"), **wrong}
                in_batch["eventType"] = "points" if path == POINTS else in_batch["eventType"]
                (result,) = (await api.post(EVENTS, {"events": [in_batch]})).body["results"]
                assert result["status"] == 400
                refused_body(result["error"], f"events.0.{param}", as_sent(value))


async def test_what_an_event_must_have_is_named_when_it_is_missing(api: ApiClient, broker: Broker) -> None:
    bodies = {
        ACTIONS: (action(fresh_id()), ["eventId", "customerId"]),
        ORDERS: (order(fresh_id()), ["eventId", "customerId", "order"]),
        TRANSACTIONS: (transaction(fresh_id()), ["eventId", "customerId", "transaction"]),
        POINTS: (points(fresh_id()), ["eventId", "customerId", "points"]),
        REDEMPTIONS: (redemption(fresh_id()), ["eventId", "customerId", "redemption"]),
        REVERSALS: (reversal(fresh_id(), fresh_id()), ["eventId", "customerId", "reverses"]),
        BASKETS: (basket(fresh_id()), ["eventId", "customerId", "basket"]),
    }
    for path, (body, names) in bodies.items():
        for name in names:
            without = {key: value for key, value in body.items() if key != name}
            refused(await api.post(path, without), 400, "InvalidRequest", name, None)
        answered = await api.post(path, {})
        assert [error["param"] for error in answered.body["errors"]] == names
    assert await queued(broker) == 0


async def test_a_bad_id_in_a_path_is_refused(api: ApiClient) -> None:
    for endpoint in ENDPOINTS:
        for name in endpoint.path_parameters.model_fields:
            camel = endpoint.path_parameters.model_fields[name].alias or name
            if camel == "apiKey":
                continue
            for bad in ("x", "%00", "6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f", "%F0%9F%A6%86"):
                good = filled(endpoint).split("/")
                place = endpoint.path.split("/").index(f"{{{camel}}}")
                url = URL(api.base_url + "/".join([*good[:place], bad, *good[place + 1 :]]), encoded=True)
                async with api.session.request(endpoint.method, url, headers=api.headers) as response:
                    assert response.status == 400, (endpoint.method, endpoint.path)
                    refused_body(await response.json(), camel)


async def test_a_limit_outside_of_1_to_100_is_refused_by_every_listing(api: ApiClient) -> None:
    listings = [endpoint for endpoint in ENDPOINTS if "limit" in endpoint.query.model_fields]
    assert len(listings) == 9
    for endpoint in listings:
        for limit in ("0", "-1", "101", "1000000000000000000000", *NO_NUMBERS):
            answered = await api.get(filled(endpoint), limit=limit)
            refused(answered, 400, "InvalidRequest", "limit", limit)


async def test_a_query_parameter_that_is_unknown_or_repeated_is_refused_by_every_call(
    api: ApiClient, owner: asyncpg.Connection, broker: Broker
) -> None:
    async with nothing_left(owner, broker):
        for endpoint in ENDPOINTS:
            body: Json | None = {} if endpoint.body is not None else None
            answered = await api.call(endpoint.method, filled(endpoint), body, query={"surprise": "1"})
            refused(answered, 400, "InvalidRequest", "surprise", "1")
            for field in endpoint.query.model_fields.values():
                url = URL(f"{api.base_url}{filled(endpoint)}?{field.alias}=1&{field.alias}=2")
                async with api.session.get(url, headers=api.headers) as response:
                    assert response.status == 400
                    refused_body(await response.json(), field.alias, "2")


async def test_every_parameter_of_a_search_is_checked(api: ApiClient) -> None:
    wrong: dict[str, list[object]] = {
        "customerId": ["", "x", "5"],
        "eventId": ["", "x", "5"],
        "eventType": ["", "Order", "basket", "order,action"],
        "keyword": ["a\x00b", "x" * 257],
        "fromAt": [value for value in BAD_INSTANTS if isinstance(value, str)],
        "toAt": [value for value in BAD_INSTANTS if isinstance(value, str)],
    }
    for path in (EVENT_SEARCH, f"{CUSTOMERS}/transactions"):
        for name, values in wrong.items():
            for value in values:
                refused(await api.get(path, **{name: value}), 400, "InvalidRequest", name, as_sent(value))
    for value in wrong["keyword"]:
        refused(await api.get(CUSTOMERS, keyword=value), 400, "InvalidRequest", "keyword", as_sent(value))


async def test_a_body_may_have_1_mebibyte_and_no_more(
    api: ApiClient, owner: asyncpg.Connection, broker: Broker
) -> None:
    paths = [endpoint.path for endpoint in WITH_A_BODY if endpoint.method == "POST" and endpoint.path != EVENTS]
    assert len(paths) == 13
    async with nothing_left(owner, broker):
        for path in paths:
            for is_chunked in (False, True):
                for size in (limits.BODY_BYTES_MAX + 1, limits.BATCH_BODY_BYTES_MAX * 2):
                    answered = await post(api, path, b"{}" + b" " * (size - 2), is_chunked=is_chunked)
                    refused(answered, 413, "BodyTooLarge")
    for is_chunked in (False, True):
        whole = await post(api, CUSTOMERS, b"{}" + b" " * (limits.BODY_BYTES_MAX - 2), is_chunked=is_chunked)
        assert whole.status == 200


async def test_a_body_is_not_waited_for_beyond_its_time(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_SECONDS", 0.05)
    head, body = await begun(api, CUSTOMERS, b'{"firstName":', length=100)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "RequestTimeout"


async def test_a_path_that_is_not_served_is_a_404(api: ApiClient) -> None:
    paths = [
        "/",
        "/api",
        "/api/v1",
        "/api/v2/customers",
        f"{CUSTOMERS}/",
        f"{EVENTS}/basket",
        "/swagger",
        "/metrics/x",
    ]
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE"):
            for headers in (api.headers, {}):
                refused(await api.call(method, path, headers=headers), 404, "NotFound", "path", path)


async def test_a_method_that_a_path_does_not_take_is_a_405_that_names_those_it_takes(api: ApiClient) -> None:
    methods_of: dict[str, set[str]] = {}
    for endpoint in ENDPOINTS:
        methods_of.setdefault(endpoint.path, set()).add(endpoint.method)
    # An id of a customer could stand where these words do, as far as the routes know.
    for path in (EVENT_SEARCH, f"{CUSTOMERS}/transactions"):
        methods_of[path] |= methods_of[f"{CUSTOMERS}/{{customerId}}"]
    methods_of[f"{RULES}/simulate"] |= methods_of[f"{RULES}/{{ruleId}}"]  # likewise an id of a rule
    methods_of[RULE_TRIALS] |= methods_of[f"{RULES}/{{ruleId}}"]
    for path, methods in methods_of.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - methods:
            answered = await api.call(method, path.replace("{", "").replace("}", ""), headers={})
            refused(answered, 405, "MethodNotAllowed", "method", method)
            assert set(answered.headers["Allow"].split(", ")) == methods


async def test_a_fault_of_ours_tells_a_request_id_and_nothing_else(
    api: ApiClient, owner: asyncpg.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    await owner.execute("REVOKE SELECT ON customers FROM tallymarks_service")
    answered = await api.get(CUSTOMERS)
    refused(answered, 500, "InternalError")
    assert answered.body["message"] == "The request failed."
    assert answered.body["errors"] == []
    before, request_id, after = answered.body["detail"].split(" ")
    assert (before, after) == ("Request", "failed.")
    assert request_id in capfd.readouterr().out
    assert "permission" not in json.dumps(answered.body)


def test_every_call_is_open_to_integrations_but_administration_points_and_why() -> None:
    admin_only = {endpoint.path for endpoint in ENDPOINTS if endpoint.role is Role.ADMIN}
    others = {path for path in admin_only if not path.startswith("/api/v1/admin/")}
    assert others == {POINTS, f"{EVENTS}/{{eventId}}/assessment"}
    assert admin_only >= {endpoint.path for endpoint in ENDPOINTS if endpoint.path.startswith("/api/v1/admin/")}
