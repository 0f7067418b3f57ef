"""Telling how an event was assessed: which rules looked at it, what each criterion saw, and what came of it."""

from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tallymarks.broker import Topology
from tallymarks.database import Database
from tallymarks.events import ActionEvent, OrderEvent
from tallymarks.rules.assessment import points_event_id
from tallymarks.rules.triggers import trigger_id_of
from tallymarks.service import new_id
from tallymarks.tenants import create_tenant
from tallymarks.values import format_instant
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import listed, refused
from tests.integration.api.given import (
    CUSTOMERS,
    EVENTS,
    REDEMPTIONS,
    RULES,
    TRANSACTION_SEARCH,
    Json,
    a_rule,
    a_segment,
    action,
    earned,
    fresh_id,
    order,
    redemption,
)
from tests.integration.pipeline.generated import HAPPENINGS, Happening, debited, events_of, make, rules
from tests.integration.pipeline.parts import seeded_ids
from tests.parts import START, ApiClient, Clock, Tenant, credentials

NOW = format_instant(START)
SHOP: Json = {"type": "nameSpace", "operator": "beginsWith", "value": "Shop"}


async def explained(api: ApiClient, event_id: object) -> Json:
    """The assessment of an event, with an explanation."""
    answered = await api.get(f"{EVENTS}/{event_id}/assessment")
    assert answered.status == 200, answered.body
    body: Json = answered.body
    return body


async def assessed(assessor: Assessor, tenant: Tenant, event: Json) -> str:
    """Have an event assessed; gives its id."""
    kind = OrderEvent if "order" in event else ActionEvent
    await assessor.assess(tenant.tenant_id, [kind.model_validate({"createdAt": START, **event})])
    return str(event["eventId"])


async def test_it_tells_what_each_rule_wanted_saw_and_made(api: ApiClient, assessor: Assessor, tenant: Tenant) -> None:
    segment_id = (await a_segment(api, expiry={"mode": "period", "count": 2, "unit": "days"}))["segmentId"]
    fulfilments: list[Json] = [
        {"type": "pointsPerUnit", "rate": "2"},
        {"type": "addToSegment", "segmentId": segment_id},
        {"type": "trigger", "after": {"count": 7, "unit": "days"}, "nameSpace": "Customer.FollowUp"},
        {"type": "removeFromSegment", "segmentId": segment_id},
    ]
    criteria: list[Json] = [SHOP, {"type": "orderTotal", "operator": "atLeast", "value": "10"}]
    rule = await a_rule(api, "order", *fulfilments[:3], name="Shop", criteria=criteria)
    other = await a_rule(api, "order", *fulfilments[3:], name="First", criteria=[
        {"type": "nthEvent", "n": 2}, {"type": "everyEvent"}])  # fmt: skip
    await a_rule(api, "order", {"type": "points", "amount": 1}, criteria=[{"type": "campaign", "value": "spring"}])
    await a_rule(api, "action", {"type": "points", "amount": 1})
    customer_id = fresh_id()
    event_id = await assessed(assessor, tenant, order(customer_id, "12.5", nameSpace="Shop.Web"))
    told = await explained(api, event_id)
    (transaction,) = await listed(api, TRANSACTION_SEARCH, "customerTransactions")
    (membership,) = await listed(api, f"{CUSTOMERS}/{customer_id}/segments", "segments")
    explanation = told.pop("explanation")
    assert told == {
        "eventId": event_id, "tenantId": str(tenant.tenant_id), "customerId": customer_id, "eventType": "order",
        "createdAt": NOW, "assessedAt": NOW,
    }  # fmt: skip
    nothing: Json = dict.fromkeys(
        ("amount", "transactionId", "pointsEventId", "expiryDateTime", "triggerId", "dueAt", "discount"), None
    )
    first, second = explanation.pop("rules")
    assert explanation == {"depth": 0, "sourceEventId": None, "isAssessed": True}
    assert first == {
        "ruleId": rule["ruleId"], "version": 1, "name": "Shop", "matched": True, "limitedBy": None,
        "criteria": [
            {"wanted": rule["criteria"][0], "matched": True, "saw": "Shop.Web"},
            {"wanted": rule["criteria"][1], "matched": True, "saw": "12.5"},
        ],
        "fulfilments": [
            {**nothing, "wanted": rule["fulfilments"][0], "hasEffect": True, "amount": 25,
             "transactionId": transaction["transactionId"],
             "pointsEventId": str(points_event_id(UUID(event_id), UUID(rule["ruleId"]), 0))},
            {**nothing, "wanted": rule["fulfilments"][1], "hasEffect": True,
             "expiryDateTime": membership["expiryDateTime"]},
            {**nothing, "wanted": rule["fulfilments"][2], "hasEffect": True,
             "triggerId": str(trigger_id_of(UUID(event_id), UUID(rule["ruleId"]), 2)),
             "dueAt": format_instant(START + timedelta(days=7))},
        ],
    }  # fmt: skip
    assert second == {
        "ruleId": other["ruleId"], "version": 1, "name": "First", "matched": False, "limitedBy": None,
        "criteria": [
            {"wanted": other["criteria"][0], "matched": False, "saw": "1"},
            {"wanted": other["criteria"][1], "matched": None, "saw": None},
        ],
        "fulfilments": [{**nothing, "wanted": other["fulfilments"][0], "hasEffect": False}],
    }  # fmt: skip


async def test_one_can_follow_the_points(api: ApiClient, assessor: Assessor, tenant: Tenant) -> None:
    await a_rule(api, "order", {"type": "points", "amount": 5})
    just_5: Json = {"type": "pointsQuantity", "operator": "equals", "value": 5}
    bonus = await a_rule(api, "points", {"type": "points", "amount": 1}, criteria=[just_5])
    event_id = await assessed(assessor, tenant, order(fresh_id()))
    (rule,) = (await explained(api, event_id))["explanation"]["rules"]
    follows = await explained(api, rule["fulfilments"][0]["pointsEventId"])
    assert (follows["eventType"], follows["explanation"]["depth"]) == ("points", 1)
    assert follows["explanation"]["sourceEventId"] == event_id
    (looked,) = follows["explanation"]["rules"]
    assert (looked["ruleId"], looked["matched"], looked["criteria"][0]["saw"]) == (bonus["ruleId"], True, "5")


@pytest.mark.parametrize("event_type", ["points", "action"])
async def test_of_points_that_no_rule_was_asked_about_is_told_what_they_followed_from(
    api: ApiClient, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, event_type: str
) -> None:
    """Where none of the points of an event met a rule, no more is kept than one row."""
    await a_rule(api, "order", {"type": "points", "amount": 5}, {"type": "points", "amount": 7})
    spring: Json = {"type": "campaign", "value": "Spring"}
    await a_rule(api, event_type, {"type": "points", "amount": 1}, criteria=[spring])
    event_id = await assessed(assessor, tenant, order(fresh_id()))
    (rule,) = (await explained(api, event_id))["explanation"]["rules"]
    for one in rule["fulfilments"]:
        told = (await explained(api, one["pointsEventId"]))["explanation"]
        assert told == {"depth": 1, "sourceEventId": event_id, "isAssessed": True, "rules": []}
    assert await owner.fetchval("SELECT count(*) FROM assessments") == 1
    await owner.execute("DELETE FROM assessments")
    assert (await explained(api, rule["fulfilments"][0]["pointsEventId"]))["explanation"] is None


async def test_what_is_kept_of_points_is_not_made_up_when_it_is_gone(
    api: ApiClient, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    await a_rule(api, "order", {"type": "points", "amount": 5})
    await a_rule(api, "points", {"type": "points", "amount": 1}, criteria=[{"type": "nthEvent", "n": 9}])
    event_id = await assessed(assessor, tenant, order(fresh_id()))
    (rule,) = (await explained(api, event_id))["explanation"]["rules"]
    follows = rule["fulfilments"][0]["pointsEventId"]
    assert len((await explained(api, follows))["explanation"]["rules"]) == 1
    await owner.execute("DELETE FROM assessments WHERE event_id = $1", UUID(follows))
    assert (await explained(api, follows))["explanation"] is None


async def test_a_match_that_was_limited_says_by_what(api: ApiClient, assessor: Assessor, tenant: Tenant) -> None:
    await a_rule(api, "action", {"type": "points", "amount": 5}, limits={"perCustomer": 1})
    customer_id = fresh_id()
    told = [await explained(api, await assessed(assessor, tenant, action(customer_id))) for _ in range(2)]
    rules_told = [one["explanation"]["rules"][0] for one in told]
    assert [(one["matched"], one["limitedBy"]) for one in rules_told] == [(True, None), (True, "perCustomer")]
    assert [one["fulfilments"][0]["hasEffect"] for one in rules_told] == [True, False]


async def test_it_tells_of_the_version_that_looked_at_the_event(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    rule = await a_rule(api, "action", {"type": "points", "amount": 5}, name="Old", criteria=[SHOP])
    event = action(fresh_id(), nameSpace="Shop.Old")
    event_id = await assessed(assessor, tenant, event)
    clock.advance(days=1)
    changed = {"name": "New", "eventType": "action", "status": "active",
               "fulfilments": [{"type": "points", "amount": 7}]}  # fmt: skip
    assert (await api.put(f"{RULES}/{rule['ruleId']}", changed)).status == 200
    clock.advance(days=1)
    later = await assessed(assessor, tenant, action(fresh_id(), createdAt=clock()))
    for one, version, name, amount in ((event_id, 1, "Old", 5), (later, 2, "New", 7)):
        (told,) = (await explained(api, one))["explanation"]["rules"]
        assert (told["version"], told["name"], told["fulfilments"][0]["amount"]) == (version, name, amount)
        assert len(told["criteria"]) == (1 if version == 1 else 0)
    assert (await api.put(f"{RULES}/{rule['ruleId']}", {**changed, "status": "archived"})).status in {200, 409}
    assert (await explained(api, event_id))["explanation"]["rules"][0]["name"] == "Old"


async def test_a_redemption_is_not_explained_before_it_is_assessed(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    customer_id = fresh_id()
    await earned(assessor, tenant, customer_id, 10)
    event = redemption(customer_id, 4)
    assert (await api.post(REDEMPTIONS, event)).status == 200
    told = await explained(api, event["eventId"])
    assert (told["eventType"], told["assessedAt"], told["explanation"]) == ("redemption", None, None)


async def test_without_explanations_nothing_is_kept_and_all_else_is_as_ever(
    api: ApiClient, database: Database, topology: Topology, clock: Clock, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    await a_rule(api, "action", {"type": "points", "amount": 5})
    silent = Assessor(database, topology, now=clock, new_id=new_id, explains=False)
    event_id = await assessed(silent, tenant, action(fresh_id()))
    assert await owner.fetchval("SELECT count(*) FROM assessments") == 0
    told = await explained(api, event_id)
    assert (told["assessedAt"], told["explanation"]) == (NOW, None)
    assert len(await listed(api, TRANSACTION_SEARCH, "customerTransactions")) == 1


async def test_it_is_kept_with_the_effect_or_not_at_all(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_rule(api, "action", {"type": "points", "amount": 5})
    event = action(fresh_id())

    async def fail(*_: object, **__: object) -> None:
        raise ValueError("the explanation cannot be written")

    with monkeypatch.context() as patched:
        patched.setattr("tallymarks_assessor.assess.insert_explanations", fail)
        with pytest.raises(ValueError, match="cannot be written"):
            await assessed(assessor, tenant, event)
    assert await owner.fetchval("SELECT count(*) FROM transactions") == 0
    refused(await api.get(f"{EVENTS}/{event['eventId']}/assessment"), 404, "EventNotFound")
    for _ in range(2):
        await assessed(assessor, tenant, event)
    assert await owner.fetchval("SELECT count(*) FROM assessments WHERE event_id = $1", UUID(event["eventId"])) == 1


async def test_only_admins_of_the_tenant_learn_of_it(
    api: ApiClient, integration: ApiClient, other: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    event_id = await assessed(assessor, tenant, action(fresh_id()))
    path = f"{EVENTS}/{event_id}/assessment"
    assert (await api.get(path)).status == 200
    refused(await integration.get(path), 403, "Forbidden")
    refused(await other.get(path), 404, "EventNotFound", "eventId", event_id)
    unknown = fresh_id()
    refused(await api.get(f"{EVENTS}/{unknown}/assessment"), 404, "EventNotFound", "eventId", unknown)


def effects_told(told: Sequence[Json], kind: str) -> set[tuple[Any, ...]]:
    """The effects of a kind of which explanations tell, with the event and the rule."""
    return {
        (one["eventId"], rule["ruleId"], rule["version"], place, *(fulfilment[name] for name in NAMES[kind]))
        for one in told
        for rule in one["explanation"]["rules"]
        for place, fulfilment in enumerate(rule["fulfilments"])
        if fulfilment[NAMES[kind][0]] is not None
    }


NAMES = {"transaction": ("transactionId", "amount", "pointsEventId"), "trigger": ("triggerId", "dueAt")}


@settings(
    max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(contents=rules(), happenings=HAPPENINGS)
async def test_it_agrees_with_what_was_written(
    api: ApiClient, database: Database, assessor: Assessor, owner: asyncpg.Connection, clock: Clock, *,
    contents: list[Json], happenings: list[Happening],
) -> None:  # fmt: skip
    key, ids = await create_tenant(database, "Generated", now=clock(), new_id=new_id), seeded_ids(3)
    client = ApiClient(api.session, api.base_url, credentials(key))
    await make(client, contents, seeded_ids(1))
    events = await debited(client, events_of(happenings, [ids() for _ in range(3)], ids, clock()))
    await assessor.assess(key.tenant_id, Random(1).sample(events, len(events)))
    rows = await owner.fetch("SELECT event_id FROM events WHERE tenant_id = $1", key.tenant_id)
    told = [await explained(client, row["event_id"]) for row in rows]
    assert all(one["explanation"] is not None for one in told)
    transactions = await owner.fetch(
        "SELECT * FROM transactions WHERE tenant_id = $1 AND assessment_rule_id IS NOT NULL", key.tenant_id
    )
    assert effects_told(told, "transaction") == {
        (str(row["event_id"]), str(row["assessment_rule_id"]), row["assessment_rule_version"], row["fulfilment_index"],
         str(row["transaction_id"]), row["amount"],
         str(points_event_id(row["event_id"], row["assessment_rule_id"], row["fulfilment_index"])))
        for row in transactions
    }  # fmt: skip
    triggers = await owner.fetch("SELECT * FROM triggers WHERE tenant_id = $1", key.tenant_id)
    assert {(one[0], *one[4:]) for one in effects_told(told, "trigger")} == {
        (str(row["source_event_id"]), str(row["trigger_id"]), format_instant(row["due_at"])) for row in triggers
    }
    uses = await owner.fetchval("SELECT coalesce(sum(uses), 0) FROM rule_uses WHERE tenant_id = $1", key.tenant_id)
    shared = {
        row["rule_id"] for row in await owner.fetch("SELECT rule_id FROM rule_uses WHERE tenant_id = $1", key.tenant_id)
    }
    assert uses == sum(
        rule["matched"] and rule["limitedBy"] is None and UUID(rule["ruleId"]) in shared
        for one in told
        for rule in one["explanation"]["rules"]
    )
