"""Asking for simulations: what may be asked, how many, and how they are listed and ended."""

from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from dateutil.relativedelta import relativedelta

from tallymarks import limits
from tallymarks.values import format_instant
from tests.integration.api.answers import contents, listed, pages, refused
from tests.integration.api.given import RULES, SIMULATIONS, Json, a_rule, a_segment, fresh_id, made
from tests.parts import START, ApiClient, Clock

SIMULATE = f"{RULES}/simulate"
POINT: Json = {"type": "points", "amount": 1}


@pytest.fixture
def clock() -> Clock:
    """Late enough for the longest range."""
    return Clock(START + timedelta(days=3_000))


def body(**fields: Any) -> Json:
    """What asks for a simulation of a rule of actions in the first days."""
    rule: Json = {"name": "Tried", "eventType": "action", "fulfilments": [POINT]}
    days = {"fromAt": format_instant(START), "toAt": format_instant(START + timedelta(days=2))}
    return {"rule": rule, **days, **fields}


async def test_a_simulation_is_answered_as_it_was_asked_for(api: ApiClient, clock: Clock) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    asked = body()
    asked["rule"] |= {
        "ruleId": fresh_id(), "status": "archived", "limits": {"total": 3},
        "criteria": [{"type": "inSegment", "segmentId": segment_id}],
    }  # fmt: skip
    answered = await made(api, SIMULATE, asked)
    simulation_id = answered["simulationId"]
    assert answered == {
        "simulationId": simulation_id, "tenantId": api.headers["x-tenant-id"], "ruleId": asked["rule"]["ruleId"],
        "ruleName": "Tried", "fromAt": asked["fromAt"], "toAt": asked["toAt"], "status": "waiting", "failure": None,
        "createdAt": format_instant(clock()), "startedAt": None, "finishedAt": None,
        "progress": {"events": 0, "lastCreatedAt": None, "fraction": 0},
        "results": {"matches": 0, "limited": 0, "customers": 0, "points": 0, "unassessable": 0},
    }  # fmt: skip
    found = (await api.get(f"{SIMULATIONS}/{simulation_id}")).body
    rule = found.pop("rule")
    assert found == {**answered, "days": []}
    assert (rule["ruleId"], rule["version"], rule["limits"]["total"]) == (asked["rule"]["ruleId"], None, 3)
    assert "status" not in rule
    assert await listed(api, SIMULATIONS, "simulations") == [answered]


async def test_a_saved_rule_of_any_status_is_simulated_as_its_newest_version_says(api: ApiClient) -> None:
    saved = await a_rule(api, "action", POINT, status="test", name="First")
    path = f"{RULES}/{saved['ruleId']}"
    rule: Json = {"name": "Second", "eventType": "action", "status": "active", "fulfilments": [POINT]}
    assert (await api.put(path, rule)).status == 200
    assert (await api.put(path, {**rule, "name": "Third"})).status == 200
    asked = {name: value for name, value in body(ruleId=saved["ruleId"]).items() if name != "rule"}
    answered = await made(api, SIMULATE, asked)
    assert (answered["ruleId"], answered["ruleName"]) == (saved["ruleId"], "Third")
    found = (await api.get(f"{SIMULATIONS}/{answered['simulationId']}")).body
    assert found["rule"]["version"] == 2


async def test_what_cannot_be_simulated_is_refused_and_nothing_is_kept(
    api: ApiClient, owner: asyncpg.Connection, clock: Clock
) -> None:
    baskets = await a_rule(api, "basket", POINT, status="configure")
    before = await contents(owner)
    future = format_instant(clock() + timedelta(milliseconds=1))
    too_early = format_instant(START + timedelta(days=2) - relativedelta(years=5) - timedelta(milliseconds=1))
    segment_id, rule_id = fresh_id(), fresh_id()
    naming = {**body()["rule"], "criteria": [{"type": "inSegment", "segmentId": segment_id}]}
    of_baskets = {**body()["rule"], "eventType": "basket"}
    unsound = {**body()["rule"], "fulfilments": [{"type": "pointsPerUnit", "rate": "1"}]}
    wrong: list[tuple[Json, int, str, str]] = [
        (body(toAt=future), 400, "InvalidRequest", "toAt"),
        (body(fromAt=body()["toAt"]), 400, "InvalidRequest", "fromAt"),
        (body(fromAt=too_early), 400, "InvalidRequest", "fromAt"),
        (body(fromAt=None), 400, "InvalidRequest", "fromAt"),
        (body(rule=None, ruleId=rule_id), 404, "NotFound", "ruleId"),
        (body(rule=None, ruleId=baskets["ruleId"]), 400, "InvalidRequest", "ruleId"),
        (body(rule=of_baskets), 400, "InvalidRequest", "rule.eventType"),
        (body(rule=naming), 400, "SegmentNotFound", "rule.criteria.0.segmentId"),
        (body(rule=unsound), 400, "InvalidRequest", "rule.fulfilments.0.type"),
        (body(surprise=1), 400, "InvalidRequest", "surprise"),
    ]
    for asked, status, code, param in wrong:
        refused(await api.post(SIMULATE, asked), status, code, param)
    for asked in (body(rule=None), body(ruleId=rule_id)):
        refused(await api.post(SIMULATE, asked), 400, "InvalidRequest")
    for answered in (await api.get(f"{SIMULATIONS}/{rule_id}"), await api.delete(f"{SIMULATIONS}/{rule_id}")):
        refused(answered, 404, "NotFound", "simulationId", rule_id)
    assert await contents(owner) == before
    edge = format_instant(START + timedelta(days=2) - relativedelta(years=5))
    assert (await api.post(SIMULATE, body(fromAt=edge))).status == 200
    until_now = body(fromAt=format_instant(clock() - timedelta(days=1)), toAt=format_instant(clock()))
    assert (await api.post(SIMULATE, until_now)).status == 200


async def test_so_many_are_unfinished_at_once(api: ApiClient) -> None:
    asked = [await made(api, SIMULATE, body()) for _ in range(limits.SIMULATIONS_UNFINISHED_MAX)]
    refused(await api.post(SIMULATE, body()), 409, "LimitReached")
    assert (await api.delete(f"{SIMULATIONS}/{asked[3]['simulationId']}")).body["status"] == "cancelled"
    await made(api, SIMULATE, body())
    refused(await api.post(SIMULATE, body()), 409, "LimitReached")


async def test_the_oldest_finished_one_makes_room_for_a_new_one(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SIMULATIONS_KEPT_MAX", 4)
    monkeypatch.setattr(limits, "SIMULATIONS_STORED_MAX", 6)
    asked = [(await made(api, SIMULATE, body()))["simulationId"] for _ in range(4)]
    refused(await api.post(SIMULATE, body()), 409, "LimitReached")  # none of them is finished
    for finished in asked[1:3]:
        await api.delete(f"{SIMULATIONS}/{finished}")
    asked.append((await made(api, SIMULATE, body()))["simulationId"])
    kept = [one["simulationId"] for one in await listed(api, SIMULATIONS, "simulations")]
    assert kept == [asked[0], *asked[2:]]
    await made(api, SIMULATE, body())
    # What was removed is still to be cleared away, and nobody does.
    assert (await api.delete(f"{SIMULATIONS}/{asked[3]}")).status == 200
    refused(await api.post(SIMULATE, body()), 409, "LimitReached")


async def test_simulations_are_listed_page_by_page_in_the_order_in_which_they_were_asked_for(api: ApiClient) -> None:
    asked = [(await made(api, SIMULATE, body()))["simulationId"] for _ in range(5)]
    found = [[one["simulationId"] for one in page] async for page in pages(api, SIMULATIONS, "simulations", limit=2)]
    assert found == [asked[:2], asked[2:4], asked[4:]]
