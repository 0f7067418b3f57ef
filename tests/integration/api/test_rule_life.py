"""The life of a rule over HTTP: its statuses, its versions, and which of them assesses an event."""

import asyncio
from datetime import datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.events import OrderEvent
from tallymarks.segments import Status
from tallymarks.values import format_instant
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, listed, pages, refused, waits_for_a_lock
from tests.integration.api.given import CUSTOMERS, RULES, Json, a_rule, a_segment, fresh_id, made, order
from tests.parts import START, ApiClient, Clock, Tenant, until

HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)
ALLOWED = {
    "configure test", "configure active", "configure archived", "test configure", "test active", "test archived",
    "active inactive", "active archived", "inactive archived",
}  # fmt: skip


def give(amount: int) -> Json:
    """A fulfilment: points for each event."""
    return {"type": "points", "amount": amount}


def saying(amount: int, status: str = "active", **fields: object) -> Json:
    """The body of a rule that gives this many points for an order."""
    return {"name": "Rule", "eventType": "order", "status": status, "fulfilments": [give(amount)], **fields}


async def a_rule_that_is(api: ApiClient, status: Status, amount: int = 1) -> str:
    """The path of a rule that has come to this status as one may."""
    first = Status.ACTIVE if status is Status.INACTIVE else status
    path = f"{RULES}/{(await made(api, RULES, saying(amount, first)))['ruleId']}"
    if status is not first:
        assert (await api.put(path, saying(amount, status))).status == 200
    return path


async def versions_of(api: ApiClient, path: str) -> list[Json]:
    return await listed(api, f"{path}/versions", "versions")


async def points_for(assessor: Assessor, api: ApiClient, tenant: Tenant, at: datetime) -> int:
    """What an order of this instant gives when it is assessed now."""
    event = OrderEvent.model_validate({**order(fresh_id()), "createdAt": at})
    await assessor.assess(tenant.tenant_id, [event])
    amount: int = (await api.get(f"{CUSTOMERS}/{event.customer_id}/balance")).body["amount"]
    return amount


@pytest.mark.parametrize(("status", "wanted"), list(product(Status, Status)))
async def test_a_status_follows_another_as_the_life_of_a_rule_has_it(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock, status: Status, wanted: Status
) -> None:
    path = await a_rule_that_is(api, status)
    rule, before = (await api.get(path)).body, await contents(owner)
    clock.advance(hours=1)
    answered = await api.put(path, saying(1, wanted))
    if status is wanted:
        assert (answered.status, answered.body) == (200, rule)
        assert await contents(owner) == before
    elif f"{status} {wanted}" in ALLOWED:
        ends = {"effectiveTo": format_instant(clock())} if status is Status.ACTIVE else {}
        expected = {**rule, "status": wanted, "changedAt": format_instant(clock()), **ends}
        assert (answered.status, answered.body) == (200, expected)
        assert (await api.get(path)).body == expected
    else:
        refused(answered, 409, "StatusChangeNotAllowed", "status", wanted)
        assert await contents(owner) == before


@pytest.mark.parametrize(("status", "wanted"), list(product(Status, Status)))
async def test_another_content_is_an_edit_or_a_version_or_refused(
    api: ApiClient, owner: asyncpg.Connection, status: Status, wanted: Status
) -> None:
    path = await a_rule_that_is(api, status)
    before = await contents(owner)
    answered = await api.put(path, saying(2, wanted))
    if status is not wanted and f"{status} {wanted}" not in ALLOWED:
        refused(answered, 409, "StatusChangeNotAllowed", "status", wanted)
    elif status in {Status.CONFIGURE, Status.TEST}:
        assert (answered.status, answered.body["version"], answered.body["fulfilments"]) == (200, 1, [give(2)])
        kept = [version["fulfilments"] for version in await versions_of(api, path)]
        assert kept == ([[give(2)]] if wanted is Status.ACTIVE else [])
        return
    elif status is wanted is Status.ACTIVE:
        assert (answered.status, answered.body["version"], answered.body["fulfilments"]) == (200, 2, [give(2)])
        assert [version["fulfilments"] for version in await versions_of(api, path)] == [[give(1)], [give(2)]]
        return
    else:
        refused(answered, 409, "RuleNotEditable", "status", status)
    assert await contents(owner) == before


@pytest.mark.parametrize("status", Status)
async def test_a_rule_begins_with_every_status_but_inactive(api: ApiClient, status: Status) -> None:
    answered = await api.post(RULES, saying(1, status))
    if status is Status.INACTIVE:
        refused(answered, 409, "StatusChangeNotAllowed", "status", "inactive")
        return
    assert answered.status == 200
    version = [answered.body[name] for name in ("version", "effectiveFrom", "effectiveTo")]
    assert version == [1, None, None]
    assert len(await versions_of(api, f"{RULES}/{answered.body['ruleId']}")) == (status is Status.ACTIVE)


async def test_a_version_is_answered_with_what_it_says_and_when_it_counts(
    api: ApiClient, tenant: Tenant, clock: Clock
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    first: Json = {
        "name": "First", "description": "One", "eventType": "order",
        "fromAt": "2026-01-01T00:00:00.000Z", "toAt": "2027-01-01T00:00:00.000Z",
        "criteria": [{"type": "inSegment", "segmentId": segment_id}], "fulfilments": [give(1)],
        "limits": {"perCustomer": 1, "perPeriod": {"count": 2, "unit": "week"}, "total": 3, "pointsTotal": 4},
    }  # fmt: skip
    second: Json = {
        **first, "name": "Second", "description": "", "fromAt": None, "toAt": None, "criteria": [],
        "fulfilments": [{"type": "pointsPerUnit", "rate": "1.5"}], "limits": None,
    }  # fmt: skip
    rule_id = (await made(api, RULES, {**first, "status": "active"}))["ruleId"]
    own = {"ruleId": rule_id, "tenantId": str(tenant.tenant_id)}
    clock.advance(hours=1)
    begins = format_instant(clock() + HOUR)
    answered = await api.put(f"{RULES}/{rule_id}", {**second, "status": "active", "effectiveFrom": begins})
    newest = {**own, "version": 2, "effectiveFrom": begins, "effectiveTo": None}
    made_at = {"createdAt": format_instant(START), "changedAt": format_instant(clock())}
    assert answered.body == {**second, **newest, **made_at, "status": "active"}
    assert (await api.get(f"{RULES}/{rule_id}")).body == answered.body
    assert await listed(api, RULES, "rules") == [answered.body]
    oldest = {**own, "version": 1, "effectiveFrom": None, "effectiveTo": begins}
    assert await versions_of(api, f"{RULES}/{rule_id}") == [
        {**first, **oldest, "createdAt": format_instant(START)},
        {**second, **newest, "createdAt": format_instant(clock())},
    ]


async def test_an_event_is_assessed_by_the_version_of_its_time_however_late_it_comes(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    for amount in (2, 3):
        clock.advance(hours=1)
        assert (await api.put(path, saying(amount))).status == 200
    assert (await api.put(path, saying(4, effectiveFrom=format_instant(START + 3 * HOUR)))).status == 200
    clock.advance(hours=5)
    for at, expected in (
        (limits.INSTANT_MIN, 1),
        (START, 1),
        (START + HOUR - MILLISECOND, 1),
        (START + HOUR, 2),
        (START + 2 * HOUR - MILLISECOND, 2),
        (START + 2 * HOUR, 3),
        (START + 3 * HOUR - MILLISECOND, 3),
        (START + 3 * HOUR, 4),
        (clock(), 4),
    ):
        assert await points_for(assessor, api, tenant, at) == expected, at


async def test_a_version_that_has_not_begun_gives_way_to_one_that_begins_before_it(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    later, sooner = format_instant(START + 2 * HOUR), format_instant(START + HOUR)
    assert (await api.put(path, saying(2, effectiveFrom=later))).status == 200
    assert (await api.put(path, saying(3, effectiveFrom=sooner))).status == 200
    spans = [(version["effectiveFrom"], version["effectiveTo"]) for version in await versions_of(api, path)]
    assert spans == [(None, sooner), (later, later), (sooner, None)]
    amounts = [await points_for(assessor, api, tenant, START + hours * HOUR) for hours in range(4)]
    assert amounts == [1, 3, 3, 3]


async def test_what_a_rule_says_in_test_moves_no_points_and_is_no_version(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    path = await a_rule_that_is(api, Status.CONFIGURE, 1)
    for amount, status in ((2, "test"), (3, "test"), (4, "configure"), (5, "test")):
        assert (await api.put(path, saying(amount, status))).status == 200
        assert await points_for(assessor, api, tenant, clock()) == 0
    assert await versions_of(api, path) == []
    assert (await api.put(path, saying(6))).status == 200
    assert await points_for(assessor, api, tenant, START - 1_000 * HOUR) == 6


@pytest.mark.parametrize("status", ["inactive", "archived"])
async def test_an_ended_rule_looks_at_no_event_however_old_and_tells_when_it_ended(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock, status: str
) -> None:
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    clock.advance(hours=1)
    ended = format_instant(clock())
    assert (await api.put(path, saying(1, status))).body["effectiveTo"] == ended
    assert [version["effectiveTo"] for version in await versions_of(api, path)] == [ended]
    assert await points_for(assessor, api, tenant, START) == 0


async def test_a_body_sent_again_makes_no_other_version(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock
) -> None:
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    for body in (saying(2), saying(3, effectiveFrom=format_instant(START + HOUR))):
        answered = await api.put(path, body)
        before = await contents(owner)
        clock.advance(hours=2)
        assert (await api.put(path, body)).body == answered.body
        assert await contents(owner) == before


async def test_a_version_that_cannot_begin_is_refused_and_leaves_nothing(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock
) -> None:
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    clock.advance(hours=1)
    past, at_the_end = format_instant(clock() - MILLISECOND), format_instant(clock() + HOUR)
    before = await contents(owner)
    wrong: list[tuple[Json, int, str, str, Any]] = [
        (saying(2, effectiveFrom=past), 400, "InvalidRequest", "effectiveFrom", past),
        (saying(2, effectiveFrom=at_the_end, toAt=at_the_end), 400, "InvalidRequest", "effectiveFrom", at_the_end),
        (saying(2, toAt=past), 400, "InvalidRequest", "effectiveFrom", format_instant(clock())),
        (saying(2, effectiveFrom="soon"), 400, "InvalidRequest", "effectiveFrom", "soon"),
        (saying(1, "inactive", effectiveFrom=at_the_end), 400, "InvalidRequest", "effectiveFrom", at_the_end),
        (saying(2, eventType="transaction"), 409, "RuleNotEditable", "eventType", "transaction"),
    ]
    for body, status, code, param, value in wrong:
        refused(await api.put(path, body), status, code, param, value)
    refused(await api.post(RULES, saying(1, effectiveFrom=at_the_end)), 400, "InvalidRequest", "effectiveFrom")
    assert await contents(owner) == before


async def test_versions_are_bounded_for_a_rule_and_for_a_tenant(
    api: ApiClient, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RULE_VERSIONS_MAX", 2)
    monkeypatch.setattr(limits, "RULE_VERSIONS_PER_TENANT_MAX", 3)
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    assert (await api.put(path, saying(2))).status == 200
    refused(await api.put(path, saying(3)), 409, "LimitReached", "ruleId")
    other = await a_rule_that_is(api, Status.ACTIVE, 1)
    waiting = await a_rule_that_is(api, Status.TEST, 1)
    before = await contents(owner)
    for answered in (
        await api.put(other, saying(2)),
        await api.put(waiting, saying(1)),
        await api.post(RULES, saying(1)),
    ):
        refused(answered, 409, "LimitReached", "ruleId")
    assert await contents(owner) == before
    # Those of a rule that has ended are not held in memory.
    assert (await api.put(path, saying(2, "archived"))).status == 200
    assert (await api.put(other, saying(2))).status == 200


async def test_versions_are_listed_by_pages_that_belong_to_one_rule(api: ApiClient) -> None:
    path, other = [await a_rule_that_is(api, Status.ACTIVE, 1) for _ in range(2)]
    for amount in range(2, 12):
        assert (await api.put(path, saying(amount))).status == 200
    for limit in (1, 4, 11, 100):
        read = [page async for page in pages(api, f"{path}/versions", "versions", limit=limit)]
        assert [version["version"] for page in read for version in page] == list(range(1, 12))
        assert [len(page) for page in read[:-1]] == [limit] * (len(read) - 1)
    key = (await api.get(f"{path}/versions", limit=1)).body["offsetKey"]
    for elsewhere in (f"{other}/versions", RULES):
        refused(await api.get(elsewhere, offsetKey=key), 400, "InvalidRequest", "offsetKey", key)
    unknown = fresh_id()
    refused(await api.get(f"{RULES}/{unknown}/versions"), 404, "NotFound", "ruleId", unknown)


async def test_changes_that_come_at_once_make_their_versions_one_after_the_other(api: ApiClient) -> None:
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    amounts = list(range(2, 12))
    answers = await all_at_once(*(api.put(path, saying(amount)) for amount in amounts))
    assert [answered.status for answered in answers] == [200] * len(amounts)
    assert sorted(answered.body["version"] for answered in answers) == list(range(2, 12))
    kept = {version["version"]: version["fulfilments"] for version in await versions_of(api, path)}
    assert kept == {1: [give(1)]} | {answered.body["version"]: answered.body["fulfilments"] for answered in answers}
    assert len([version for version in await versions_of(api, path) if version["effectiveTo"] is None]) == 1
    answers = await all_at_once(*(api.put(path, saying(99)) for _ in range(10)))
    assert [answered.body["version"] for answered in answers] == [12] * 10


async def test_a_change_waits_for_one_under_way_and_sees_what_it_left(
    api: ApiClient, owner: asyncpg.Connection, database_url: str, tenant: Tenant
) -> None:
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT 1 FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant.tenant_id)
    waiting = asyncio.create_task(api.put(path, saying(2)))
    await until(lambda: waits_for_a_lock(owner))
    await other.execute("UPDATE rules SET status = 'archived' WHERE rule_id = $1", UUID(path.rsplit("/", 1)[1]))
    await transaction.commit()
    await other.close()
    refused(await waiting, 409, "StatusChangeNotAllowed", "status", "active")


async def test_the_order_of_rules_is_that_of_their_making_whatever_their_versions(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    join, leave = ({"type": kind, "segmentId": segment_id} for kind in ("addToSegment", "removeFromSegment"))
    path = await a_rule_that_is(api, Status.ACTIVE, 1)
    clock.advance(hours=1)
    await a_rule(api, "order", join)
    first = OrderEvent.model_validate({**order(fresh_id()), "createdAt": clock()})
    await assessor.assess(tenant.tenant_id, [first])
    clock.advance(hours=1)
    assert (await api.put(path, {**saying(1), "fulfilments": [leave]})).status == 200
    second = OrderEvent.model_validate({**order(first.customer_id), "createdAt": clock()})
    await assessor.assess(tenant.tenant_id, [second])
    # Left by the older rule's newer version first, joined again by the younger rule then.
    (membership,) = await listed(api, f"{CUSTOMERS}/{first.customer_id}/segments", "segments")
    assert membership["sourceEventId"] == str(second.event_id)
