"""A customer's segments: list, join, leave, lapse."""

from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from tallymarks.events import ActionEvent
from tallymarks.service import new_id
from tallymarks.values import format_instant
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, listed, pages, refused
from tests.integration.api.given import CUSTOMERS, SEGMENTS, Json, a_customer, a_rule, a_segment, earned, fresh_id
from tests.parts import START, Answered, ApiClient, Clock, Tenant

A_DAY: Json = {"mode": "period", "count": 1, "unit": "days"}
TWO_DAYS: Json = {"mode": "period", "count": 2, "unit": "days"}
NOW = format_instant(START)


def of(customer_id: object) -> str:
    return f"{CUSTOMERS}/{customer_id}/segments"


async def join(api: ApiClient, customer_id: object, segment_id: object) -> Answered:
    return await api.put(of(customer_id), {"segmentId": segment_id})


async def joined(api: ApiClient, customer_id: object, segment_id: object) -> Json:
    answered = await join(api, customer_id, segment_id)
    assert answered.status == 200, answered.body
    membership: Json = answered.body
    return membership


async def current(api: ApiClient, customer_id: object) -> list[Json]:
    return await listed(api, of(customer_id), "segments")


@pytest.fixture
async def customer_id(api: ApiClient) -> str:
    created: str = (await a_customer(api))["customerId"]
    return created


async def test_a_membership_has_the_fields_of_the_page(
    api: ApiClient, integration: ApiClient, tenant: Tenant, customer_id: str
) -> None:
    segment = await a_segment(api, name="VIP", displayName="Very important", description="Few", expiry=A_DAY)
    membership = await joined(integration, customer_id, segment["segmentId"])
    assert membership == {
        "segmentId": segment["segmentId"],
        "tenantId": str(tenant.tenant_id),
        "name": "VIP",
        "displayName": "Very important",
        "description": "Few",
        "createdAt": NOW,
        "changedAt": NOW,
        "sourceEventId": None,
        "expiryDateTime": "2026-03-15T09:26:53.589Z",
    }
    assert await current(integration, customer_id) == [membership]


async def test_a_membership_tells_the_event_that_made_it(
    api: ApiClient, assessor: Assessor, tenant: Tenant, customer_id: str
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    await a_rule(api, "action", {"type": "addToSegment", "segmentId": segment_id})
    event = ActionEvent(event_id=new_id(), customer_id=UUID(customer_id), created_at=START - timedelta(days=9))
    await assessor.assess(tenant.tenant_id, [event])
    (membership,) = await current(api, customer_id)
    assert (membership["sourceEventId"], membership["createdAt"]) == (str(event.event_id), NOW)


async def test_leaving_ends_the_membership_and_answers_an_empty_object(
    api: ApiClient, integration: ApiClient, customer_id: str
) -> None:
    kept, left = [(await a_segment(api))["segmentId"] for _ in range(2)]
    for segment_id in (kept, left):
        await joined(integration, customer_id, segment_id)
    answered = await integration.delete(f"{of(customer_id)}/{left}")
    assert (answered.status, answered.body) == (200, {})
    assert [membership["segmentId"] for membership in await current(api, customer_id)] == [kept]
    refused(await api.delete(f"{of(customer_id)}/{left}"), 404, "MembershipNotFound", "segmentId", left)


async def test_a_membership_is_invisible_at_the_millisecond_of_its_lapse(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock, customer_id: str
) -> None:
    segment_id = (await a_segment(api, expiry=A_DAY))["segmentId"]
    lasting = (await a_segment(api))["segmentId"]
    await joined(api, customer_id, segment_id)
    await joined(api, customer_id, lasting)
    clock.advance(days=1, milliseconds=-1)
    assert len(await current(api, customer_id)) == 2
    clock.advance(milliseconds=1)
    assert [membership["segmentId"] for membership in await current(api, customer_id)] == [lasting]
    assert await owner.fetchval("SELECT count(*) FROM segment_memberships") == 2, "nobody has removed it"
    refused(await api.delete(f"{of(customer_id)}/{segment_id}"), 404, "MembershipNotFound", "segmentId", segment_id)


async def test_joining_again_moves_the_lapse_forward_and_keeps_the_beginning(
    api: ApiClient, clock: Clock, customer_id: str
) -> None:
    segment_id = (await a_segment(api, expiry=A_DAY))["segmentId"]
    first = await joined(api, customer_id, segment_id)
    clock.advance(hours=1)
    again = await joined(api, customer_id, segment_id)
    assert again == {
        **first,
        "changedAt": "2026-03-14T10:26:53.589Z",
        "expiryDateTime": "2026-03-15T10:26:53.589Z",
    }
    assert await current(api, customer_id) == [again]


async def test_joining_again_never_moves_the_lapse_back(api: ApiClient, clock: Clock, customer_id: str) -> None:
    segment = await a_segment(api, expiry=TWO_DAYS)
    path, body = f"{SEGMENTS}/{segment['segmentId']}", {"name": segment["name"]}
    first = await joined(api, customer_id, segment["segmentId"])
    clock.advance(hours=1)
    assert (await api.put(path, {**body, "expiry": A_DAY})).status == 200
    assert (await joined(api, customer_id, segment["segmentId"]))["expiryDateTime"] == first["expiryDateTime"]
    assert (await api.put(path, body)).status == 200
    assert (await joined(api, customer_id, segment["segmentId"]))["expiryDateTime"] is None
    assert (await api.put(path, {**body, "expiry": TWO_DAYS})).status == 200
    last = await joined(api, customer_id, segment["segmentId"])
    assert (last["expiryDateTime"], last["createdAt"]) == (None, NOW)


async def test_joining_after_the_lapse_starts_anew_and_records_the_lapse(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock, customer_id: str
) -> None:
    segment_id = (await a_segment(api, expiry=A_DAY))["segmentId"]
    await joined(api, customer_id, segment_id)
    clock.advance(days=1)
    again = await joined(api, customer_id, segment_id)
    assert (again["createdAt"], again["expiryDateTime"]) == ("2026-03-15T09:26:53.589Z", "2026-03-16T09:26:53.589Z")
    (lapse,) = await owner.fetch("SELECT * FROM segment_lapses")
    assert (str(lapse["customer_id"]), str(lapse["segment_id"])) == (customer_id, segment_id)
    assert (lapse["joined_at"], lapse["lapsed_at"]) == (START, START + timedelta(days=1))
    assert await owner.fetchval("SELECT count(*) FROM segment_memberships") == 1


async def test_leaving_and_joining_again_starts_anew_without_a_lapse(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock, customer_id: str
) -> None:
    segment_id = (await a_segment(api, expiry=A_DAY))["segmentId"]
    await joined(api, customer_id, segment_id)
    clock.advance(hours=1)
    await api.delete(f"{of(customer_id)}/{segment_id}")
    assert (await joined(api, customer_id, segment_id))["createdAt"] == "2026-03-14T10:26:53.589Z"
    assert await owner.fetchval("SELECT count(*) FROM segment_lapses") == 0


async def test_a_segment_that_takes_no_members_is_refused(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock, customer_id: str
) -> None:
    soon = {"mode": "date", "date": format_instant(START + timedelta(milliseconds=1))}
    dated = (await a_segment(api, expiry=soon))["segmentId"]
    closed = [(await a_segment(api, status=status))["segmentId"] for status in ("configure", "test", "inactive")]
    closed.append((await a_segment(api, status="archived"))["segmentId"])
    assert (await joined(api, customer_id, dated))["expiryDateTime"] == soon["date"]
    clock.advance(milliseconds=1)
    before = await contents(owner)
    for segment_id in (*closed, dated):
        refused(await join(api, customer_id, segment_id), 400, "SegmentNotActive", "segmentId", segment_id)
    assert await contents(owner) == before


async def test_a_member_of_a_segment_made_inactive_stays_one(api: ApiClient, customer_id: str) -> None:
    segment = await a_segment(api)
    membership = await joined(api, customer_id, segment["segmentId"])
    await api.put(f"{SEGMENTS}/{segment['segmentId']}", {"name": segment["name"], "status": "inactive"})
    assert await current(api, customer_id) == [membership]
    assert (await api.delete(f"{of(customer_id)}/{segment['segmentId']}")).status == 200


async def test_what_is_unknown_is_refused_and_leaves_nothing(
    api: ApiClient, owner: asyncpg.Connection, customer_id: str
) -> None:
    segment_id, unknown = (await a_segment(api))["segmentId"], fresh_id()
    before = await contents(owner)
    refused(await join(api, customer_id, unknown), 400, "SegmentNotFound", "segmentId", unknown)
    refused(await join(api, unknown, segment_id), 404, "CustomerNotFound", "customerId", unknown)
    refused(await api.get(of(unknown)), 404, "CustomerNotFound", "customerId", unknown)
    refused(await api.delete(f"{of(unknown)}/{segment_id}"), 404, "CustomerNotFound", "customerId", unknown)
    refused(await api.delete(f"{of(customer_id)}/{unknown}"), 404, "MembershipNotFound", "segmentId", unknown)
    assert await contents(owner) == before


async def test_a_customer_without_memberships_has_an_empty_list(api: ApiClient, customer_id: str) -> None:
    assert (await api.get(of(customer_id))).body == {"segments": [], "offsetKey": None}


async def test_the_anniversary_of_the_customer_decides_the_lapse(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    customer_id = new_id()
    await earned(assessor, tenant, customer_id, 1)
    clock.advance(days=40)
    until_anniversary = (await a_segment(api, expiry={"mode": "untilAnniversary"}))["segmentId"]
    plus_year = (await a_segment(api, expiry={"mode": "untilAnniversaryPlusYear"}))["segmentId"]
    first = await joined(api, customer_id, until_anniversary)
    second = await joined(api, customer_id, plus_year)
    assert first["expiryDateTime"] == "2027-03-14T09:26:53.589Z"
    assert second["expiryDateTime"] == "2028-03-14T09:26:53.589Z"


async def test_the_pages_together_hold_each_membership_once_without_the_lapsed(
    api: ApiClient, clock: Clock, customer_id: str
) -> None:
    lapsing = [(await a_segment(api, expiry=A_DAY))["segmentId"] for _ in range(3)]
    lasting = [(await a_segment(api))["segmentId"] for _ in range(7)]
    for segment_id in lapsing + lasting:
        await joined(api, customer_id, segment_id)
    clock.advance(days=1)
    for limit in (1, 2, 3, 6, 7, 100):
        read = [page async for page in pages(api, of(customer_id), "segments", limit=limit)]
        assert [membership["segmentId"] for page in read for membership in page] == sorted(lasting)
        assert [len(page) for page in read[:-1]] == [limit] * (len(read) - 1)


async def test_an_offset_key_is_good_for_its_own_customer_only(api: ApiClient, customer_id: str) -> None:
    stranger = (await a_customer(api))["customerId"]
    for _ in range(2):
        segment_id = (await a_segment(api))["segmentId"]
        for member in (customer_id, stranger):
            await joined(api, member, segment_id)
    offset_key = (await api.get(of(customer_id), limit=1)).body["offsetKey"]
    refused(await api.get(of(stranger), offsetKey=offset_key), 400, "InvalidRequest", "offsetKey", offset_key)
    refused(await api.get(SEGMENTS, offsetKey=offset_key), 400, "InvalidRequest", "offsetKey", offset_key)


async def test_joining_and_leaving_at_once_never_fails_for_being_at_once(api: ApiClient, customer_id: str) -> None:
    segment_id = (await a_segment(api, expiry=A_DAY))["segmentId"]
    joining = [join(api, customer_id, segment_id) for _ in range(10)]
    leaving = [api.delete(f"{of(customer_id)}/{segment_id}") for _ in range(10)]
    answers = await all_at_once(*joining, *leaving)
    assert {answered.status for answered in answers[:10]} == {200}
    assert {answered.status for answered in answers[10:]} <= {200, 404}
    await joined(api, customer_id, segment_id)
    assert len(await current(api, customer_id)) == 1
