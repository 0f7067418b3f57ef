"""Create, get and update a customer; a customer's balance."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, listed, refused
from tests.integration.api.given import (
    ALL_FIELDS,
    CUSTOMERS,
    POINTS,
    REDEMPTIONS,
    TRANSACTION_SEARCH,
    a_customer,
    a_rule,
    a_segment,
    earned,
    fresh_id,
    points,
)
from tests.parts import ApiClient, Clock, Tenant, until

BOTH_PATHS = pytest.mark.parametrize("path", [CUSTOMERS, REDEMPTIONS])
SAME_ADDRESS = [
    ("ada@example.org", "ADA@Example.ORG"),
    ("jürgen@bücher.example", "JÜRGEN@BÜCHER.example"),
    ("straße@example.org", "STRASSE@example.org"),
    ("οδυσσεύς@example.org", "ΟΔΥΣΣΕΎΣ@example.org"),
]
NOW = "2026-03-14T09:26:53.589Z"
ANSWERED_FIELDS: dict[str, Any] = {
    **ALL_FIELDS,
    "isAccountLocked": False,
    "attributes": [
        {"key": "tier", "name": "tier", "value": "gold"},
        {"key": "shoe", "name": "shoe", "value": ""},
    ],
    "createdAt": NOW,
    "changedAt": NOW,
}
EMPTY: dict[str, Any] = {
    "firstName": None,
    "lastName": None,
    "displayName": None,
    "emailAddress": None,
    "isAccountLocked": False,
    "mobileNumber": None,
    "optinSms": False,
    "optinEmail": False,
    "acceptTerms": False,
    "attributes": [],
    "dateOfBirth": None,
    "contactPhone": None,
    "externalReference": None,
    "externalStatus": None,
}
CHANGES: dict[str, Any] = {
    "firstName": "Grace",
    "lastName": "Hopper",
    "displayName": "Admiral",
    "emailAddress": "grace@example.org",
    "isAccountLocked": True,
    "mobileNumber": "1",
    "optinSms": False,
    "optinEmail": False,
    "acceptTerms": False,
    "attributes": [{"key": "rank", "name": "rank", "value": "1"}],
    "dateOfBirth": "1906-12-09T00:00:00.000Z",
    "contactPhone": "2",
    "externalReference": "crm-2",
    "externalStatus": "delinquent",
}


def of(customer_id: object) -> str:
    return f"{CUSTOMERS}/{customer_id}"


@BOTH_PATHS
async def test_a_created_customer_has_every_field_under_both_paths(
    integration: ApiClient, tenant: Tenant, path: str
) -> None:
    customer_id = fresh_id()
    expected = {**ANSWERED_FIELDS, "customerId": customer_id, "tenantId": str(tenant.tenant_id)}
    created = await integration.post(path, {**ALL_FIELDS, "customerId": customer_id})
    assert (created.status, created.body) == (200, expected)
    assert (await integration.get(of(customer_id))).body == expected


async def test_a_customer_created_with_nothing_given_has_an_id_and_empty_fields(api: ApiClient, tenant: Tenant) -> None:
    created = await a_customer(api)
    assert UUID(created["customerId"]).version == 7
    own = {"customerId": created["customerId"], "tenantId": str(tenant.tenant_id), "createdAt": NOW, "changedAt": NOW}
    assert created == {**EMPTY, **own}


async def test_null_is_as_good_as_absent_on_creation(api: ApiClient) -> None:
    created = await a_customer(api, **dict.fromkeys(ALL_FIELDS))
    assert {name: created[name] for name in EMPTY} == EMPTY


async def test_an_attribute_is_spelled_by_key_or_by_name(api: ApiClient) -> None:
    for spelled in ({"key": "a"}, {"name": "a"}, {"key": "a", "name": "a"}):
        created = await a_customer(api, attributes=[{**spelled, "value": "b"}])
        assert created["attributes"] == [{"key": "a", "name": "a", "value": "b"}]


async def test_an_attribute_without_one_clear_name_is_refused(api: ApiClient) -> None:
    for wrong in ({"value": "b"}, {"key": "a", "name": "c", "value": "b"}, {"key": "", "value": "b"}):
        answered = await api.post(CUSTOMERS, {"attributes": [wrong]})
        refused(answered, 400, "InvalidRequest")
        assert all(error["param"].startswith("attributes.0") for error in answered.body["errors"])


async def test_an_instant_is_answered_in_utc_with_milliseconds(api: ApiClient) -> None:
    created = await a_customer(api, dateOfBirth="1990-01-01T02:00:00.1239+02:00")
    assert created["dateOfBirth"] == "1990-01-01T00:00:00.123Z"


async def test_an_unknown_customer_is_not_found(api: ApiClient) -> None:
    unknown = fresh_id()
    refused(await api.get(of(unknown)), 404, "CustomerNotFound", "customerId", unknown)
    refused(await api.get(f"{of(unknown)}/balance"), 404, "CustomerNotFound", "customerId", unknown)


async def test_an_update_changes_the_given_field_and_no_other(integration: ApiClient, clock: Clock) -> None:
    expected = await a_customer(integration, **ALL_FIELDS)
    for hours, (field, value) in enumerate(CHANGES.items()):
        clock.advance(hours=1)
        updated = await integration.patch(of(expected["customerId"]), {field: value})
        expected |= {field: value, "changedAt": f"2026-03-14T{10 + hours}:26:53.589Z"}
        assert (updated.status, updated.body) == (200, expected)
        assert (await integration.get(of(expected["customerId"]))).body == expected


async def test_null_clears_every_field_on_update(api: ApiClient) -> None:
    before = await a_customer(api, **ALL_FIELDS)
    await api.patch(of(before["customerId"]), {"isAccountLocked": True})
    cleared = await api.patch(of(before["customerId"]), dict.fromkeys(CHANGES))
    assert (cleared.status, cleared.body) == (200, {**before, **EMPTY})
    assert (await api.get(of(before["customerId"]))).body == cleared.body


async def test_an_update_takes_the_ids_of_the_route_and_the_caller(api: ApiClient, tenant: Tenant) -> None:
    customer_id = (await a_customer(api))["customerId"]
    body = {"customerId": customer_id.upper(), "tenantId": str(tenant.tenant_id), "firstName": "Ada"}
    assert (await api.patch(of(customer_id), body)).body["firstName"] == "Ada"


async def test_an_update_with_another_id_is_refused_and_changes_nothing(
    api: ApiClient, owner: asyncpg.Connection
) -> None:
    customer_id = (await a_customer(api))["customerId"]
    before, other_id = await contents(owner), fresh_id()
    for name in ("customerId", "tenantId"):
        answered = await api.patch(of(customer_id), {name: other_id, "firstName": "Ada"})
        refused(answered, 400, "InvalidRequest", name, other_id)
    assert await contents(owner) == before


async def test_an_update_of_an_unknown_customer_is_a_400(api: ApiClient, owner: asyncpg.Connection) -> None:
    before, unknown = await contents(owner), fresh_id()
    answered = await api.patch(of(unknown), {"firstName": "Ada"})
    refused(answered, 400, "CustomerNotFound", "customerId", unknown)
    assert await contents(owner) == before


@BOTH_PATHS
async def test_a_taken_address_is_refused_in_any_case_and_leaves_nothing(
    api: ApiClient, owner: asyncpg.Connection, path: str
) -> None:
    for taken, wanted in SAME_ADDRESS:
        await a_customer(api, emailAddress=taken)
        before = await contents(owner)
        answered = await api.post(path, {"emailAddress": wanted})
        refused(answered, 400, "EmailAlreadyExists", "emailAddress", wanted)
        assert await contents(owner) == before


async def test_an_update_to_a_taken_address_is_refused_in_any_case(api: ApiClient, owner: asyncpg.Connection) -> None:
    customer_id = (await a_customer(api, emailAddress="other@example.org"))["customerId"]
    for taken, wanted in SAME_ADDRESS:
        await a_customer(api, emailAddress=taken)
        before = await contents(owner)
        answered = await api.patch(of(customer_id), {"emailAddress": wanted, "firstName": "Ada"})
        refused(answered, 400, "EmailAlreadyExists", "emailAddress", wanted)
        assert await contents(owner) == before


async def test_a_customer_may_spell_the_own_address_anew(api: ApiClient) -> None:
    customer_id = (await a_customer(api, emailAddress="ada@example.org"))["customerId"]
    updated = await api.patch(of(customer_id), {"emailAddress": "ADA@example.org"})
    assert updated.body["emailAddress"] == "ADA@example.org"


async def test_an_address_that_was_given_up_is_free_and_so_is_another_tenants(api: ApiClient, other: ApiClient) -> None:
    customer_id = (await a_customer(api, emailAddress="ada@example.org"))["customerId"]
    await a_customer(other, emailAddress="ada@example.org")
    await api.patch(of(customer_id), {"emailAddress": None})
    await a_customer(api, emailAddress="ada@example.org")


async def test_of_creations_at_once_with_one_address_exactly_one_succeeds(api: ApiClient) -> None:
    spellings = ["ada@example.org", "ADA@example.org", "Ada@Example.org"] * 5
    answers = await all_at_once(*(api.post(CUSTOMERS, {"emailAddress": spelling}) for spelling in spellings))
    assert sorted(answered.status for answered in answers) == [200] + [400] * 14
    assert {answered.body.get("code") for answered in answers} == {None, "EmailAlreadyExists"}
    assert len(await listed(api, CUSTOMERS, "customers")) == 1


async def test_of_updates_at_once_to_one_address_exactly_one_succeeds(api: ApiClient) -> None:
    customers = [await a_customer(api) for _ in range(8)]
    change = {"emailAddress": "ada@example.org"}
    answers = await all_at_once(*(api.patch(of(customer["customerId"]), change) for customer in customers))
    assert sorted(answered.status for answered in answers) == [200] + [400] * 7


async def test_updates_at_once_of_different_fields_are_all_kept(api: ApiClient) -> None:
    customer_id = (await a_customer(api, **ALL_FIELDS))["customerId"]
    answers = await all_at_once(*(api.patch(of(customer_id), {name: value}) for name, value in CHANGES.items()))
    assert {answered.status for answered in answers} == {200}
    read = (await api.get(of(customer_id))).body
    assert {name: read[name] for name in CHANGES} == CHANGES


@BOTH_PATHS
async def test_a_customer_is_registered_once(api: ApiClient, owner: asyncpg.Connection, path: str) -> None:
    customer_id = (await a_customer(api, **ALL_FIELDS))["customerId"]
    before = await contents(owner)
    again = await api.post(path, {"customerId": customer_id, "emailAddress": "other@example.org"})
    refused(again, 409, "CustomerAlreadyExists", "customerId", customer_id)
    assert await contents(owner) == before


async def test_of_registrations_at_once_of_one_customer_exactly_one_succeeds(api: ApiClient) -> None:
    customer_id = fresh_id()
    bodies = [{"customerId": customer_id, "firstName": f"Ada {number}"} for number in range(10)]
    answers = await all_at_once(*(api.post(CUSTOMERS, body) for body in bodies))
    (created,) = [answered.body for answered in answers if answered.status == 200]
    assert sorted(answered.status for answered in answers) == [200] + [409] * 9
    assert (await api.get(of(customer_id))).body == created


@pytest.mark.usefixtures("assessing")
async def test_registering_a_customer_that_an_event_made_keeps_points_segments_and_anniversary(
    api: ApiClient, clock: Clock
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    await a_rule(api, "points", {"type": "addToSegment", "segmentId": segment_id})
    customer_id = fresh_id()
    event = points(customer_id, 70)
    assert (await api.post(POINTS, event)).status == 200

    async def is_assessed() -> bool:
        return (await api.get(of(customer_id))).status == 200

    await until(is_assessed)
    bare = (await api.get(of(customer_id))).body
    assert {name: bare[name] for name in EMPTY} == EMPTY
    clock.advance(days=1)
    registered = await a_customer(api, customerId=customer_id, **ALL_FIELDS)
    assert (registered["createdAt"], registered["changedAt"]) == (NOW, "2026-03-15T09:26:53.589Z")
    assert (await api.get(f"{of(customer_id)}/balance")).body["amount"] == 70
    assert [row["amount"] for row in await listed(api, TRANSACTION_SEARCH, "customerTransactions")] == [70]
    (membership,) = await listed(api, f"{of(customer_id)}/segments", "segments")
    assert (membership["segmentId"], membership["sourceEventId"]) == (segment_id, event["eventId"])


async def test_a_bare_customer_can_be_updated_and_is_registered_by_it(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    customer_id = new_id()
    await earned(assessor, tenant, customer_id, 1)
    updated = await api.patch(of(customer_id), {"emailAddress": "ada@example.org"})
    assert (updated.status, updated.body["emailAddress"]) == (200, "ada@example.org")
    again = await api.post(CUSTOMERS, {"customerId": str(customer_id)})
    refused(again, 409, "CustomerAlreadyExists", "customerId", str(customer_id))


async def test_the_balance_without_transactions_is_zero_since_the_customer_exists(
    integration: ApiClient, tenant: Tenant, clock: Clock
) -> None:
    customer_id = (await a_customer(integration))["customerId"]
    clock.advance(days=3)
    await integration.patch(of(customer_id), {"firstName": "Ada"})
    assert (await integration.get(f"{of(customer_id)}/balance")).body == {
        "tenantId": str(tenant.tenant_id),
        "customerId": customer_id,
        "pointsSegment": "base",
        "amount": 0,
        "changedAt": NOW,
    }


async def test_the_balance_tells_the_sum_of_points_and_when_it_changed(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    customer_id = (await a_customer(api))["customerId"]
    await earned(assessor, tenant, customer_id, 30)
    clock.advance(minutes=1)
    await earned(assessor, tenant, customer_id, -40)
    balance = (await api.get(f"{of(customer_id)}/balance")).body
    assert (balance["amount"], balance["changedAt"]) == (-10, "2026-03-14T09:27:53.589Z")


async def test_balances_that_are_asked_for_at_once_are_each_their_own_customers(
    api: ApiClient, other: ApiClient, assessor: Assessor, tenant: Tenant, other_tenant: Tenant
) -> None:
    """Tenants may give their customers the same ids, and one may have a customer that another has not."""
    customer_ids = [fresh_id() for _ in range(20)]
    for amount, customer_id in enumerate(customer_ids, start=1):
        await earned(assessor, tenant, customer_id, amount)
        if amount % 2:
            await earned(assessor, other_tenant, customer_id, amount * 100)
    asked = [(caller, customer_id) for customer_id in customer_ids for caller in (api, other)]
    answers = await all_at_once(*(caller.get(f"{of(customer_id)}/balance") for caller, customer_id in asked))
    for (caller, customer_id), answered in zip(asked, answers, strict=True):
        amount = customer_ids.index(customer_id) + 1
        if caller is other and amount % 2 == 0:
            refused(answered, 404, "CustomerNotFound", "customerId", customer_id)
            continue
        told = (answered.body["tenantId"], answered.body["customerId"], answered.body["amount"])
        assert told == (caller.headers["x-tenant-id"], customer_id, amount if caller is api else amount * 100)
