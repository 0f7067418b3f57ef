"""Trying rules: why they do what they do, what would be written, and that nothing is."""

from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.values import format_instant
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import contents, queued, refused
from tests.integration.api.given import (
    BASKETS,
    CUSTOMERS,
    RULE_TRIALS,
    RULES,
    Json,
    a_customer,
    a_rule,
    a_rule_for,
    a_segment,
    earned,
    fresh_id,
    give,
    tried,
)
from tests.parts import START, ApiClient, Tenant

CONTENTS: dict[str, Json] = {
    "action": {"action": {"amount": "5"}},
    "order": {"order": {"total": "50", "items": [{"sku": "A", "price": "25", "quantity": 2}]}},
    "transaction": {"transaction": {"amount": "50"}},
    "points": {"points": {"quantity": 5}},
    "redemption": {"redemption": {"points": 5}},
    "anniversary": {"anniversary": {"years": 2}},
    "basket": {"basket": {"total": "50", "items": [{"sku": "A", "price": "25", "quantity": 2}]}},
}
NOTHING: Json = {"transactions": [], "joined": [], "left": [], "triggers": []}


def made_up(event_type: str, **fields: object) -> Json:
    """A made-up event with nothing but its content."""
    return {"eventType": event_type, **CONTENTS[event_type], **fields}


# --- nothing is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_type", CONTENTS)
async def test_writes_nothing(
    api: ApiClient,
    assessor: Assessor,
    tenant: Tenant,
    owner: asyncpg.Connection,
    broker: Broker,
    event_type: str,
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    fulfilments = [give(7)]
    if event_type != "basket":  # of which nothing is kept
        after = {"count": 1, "unit": "days"}
        fulfilments += [
            {"type": "addToSegment", "segmentId": segment_id},
            {"type": "trigger", "after": after, "nameSpace": "Later"},
        ]
        await a_rule(api, event_type, *fulfilments, limits={"perCustomer": 5, "total": 5})
    await a_rule(api, event_type, *fulfilments, status="test")
    known, unknown = fresh_id(), fresh_id()
    await earned(assessor, tenant, known, 100)
    before = await contents(owner)
    customers: list[Json | None] = [{"customerId": known}, {"balance": 10}]
    if event_type != "redemption":
        customers.append(None)
        await tried(api, made_up(event_type, customerId=unknown))
    for customer in customers:
        outcome = await tried(api, made_up(event_type), customer=customer)
        assert outcome["explanation"][0]["rules"]
    assert (await contents(owner), await queued(broker)) == (before, 0)


# --- what is answered -------------------------------------------------------------------------------------------------


async def test_a_rule_of_the_body_is_tried_alone_on_a_customer_who_is_made_up(api: ApiClient, tenant: Tenant) -> None:
    segment_id = (await a_segment(api, expiry={"mode": "period", "count": 1, "unit": "days"}))["segmentId"]
    other_id = (await a_segment(api))["segmentId"]
    await a_rule(api, "order", give(1_000))
    rule_id, event_id, customer_id = fresh_id(), fresh_id(), fresh_id()
    criteria = [
        {"type": "nthEvent", "n": 10},
        {"type": "lifetimeEventThreshold", "value": "1000"},
        {"type": "inSegment", "segmentId": other_id},
    ]
    fulfilments = [
        give(100),
        {"type": "addToSegment", "segmentId": segment_id},
        {"type": "removeFromSegment", "segmentId": other_id},
        {"type": "trigger", "after": {"count": 7, "unit": "days"}, "nameSpace": "Order.Review", "reference": "ask"},
    ]
    rule = a_rule_for("order", *fulfilments, criteria=criteria, ruleId=rule_id, status="archived", name="Tenth")
    customer = {
        "createdAt": "2020-01-01T00:00:00.000Z",
        "balance": 5,
        "memberships": [{"segmentId": other_id, "expiryDateTime": "2026-03-15T00:00:00.000Z"}],
        "totals": {"counts": {"order": 9}, "values": {"order": "960"}, "pointsEarned": 7},
    }
    event = made_up("order", eventId=event_id, customerId=customer_id, nameSpace="Shop", reference="R")
    outcome = await tried(api, event, customer=customer, rule=rule)
    (step,) = [one for one in outcome["explanation"] if one["eventType"] == "order"]
    (explained,) = step.pop("rules")
    assert step == {
        "eventId": event_id, "eventType": "order", "depth": 0, "sourceEventId": None, "isAssessed": True
    }  # fmt: skip
    assert (explained["ruleId"], explained["matched"], explained["limitedBy"]) == (rule_id, True, None)
    assert [one["saw"] for one in explained["criteria"]] == ["10", "960 before, 1010 after", "member"]
    assert [(one["hasEffect"], one["transactionId"]) for one in explained["fulfilments"]] == [(True, None)] * 4
    trigger_id = explained["fulfilments"][3]["triggerId"]
    assert (outcome["tenantId"], outcome["customerId"]) == (str(tenant.tenant_id), customer_id)
    assert outcome["offer"] is None
    assert outcome["wouldWrite"] == {
        "transactions": [
            {
                "eventId": event_id,
                "eventType": "order",
                "assessmentRuleId": rule_id,
                "assessmentRuleVersion": 1,
                "createdAt": format_instant(START),
                "nameSpace": "Shop",
                "description": "Tenth",
                "amount": 100,
                "externalReference": "R",
            }
        ],
        "balance": {"before": 5, "after": 105},
        "joined": [{"segmentId": segment_id, "expiryDateTime": format_instant(START + timedelta(days=1))}],
        "left": [{"segmentId": other_id}],
        "triggers": [
            {
                "eventId": trigger_id,
                "dueAt": format_instant(START + timedelta(days=7)),
                "nameSpace": "Order.Review",
                "reference": "ask",
            }
        ],
    }


async def test_saved_rules_are_tried_that_are_active_or_in_test(api: ApiClient) -> None:
    active = await a_rule(api, "action", give(1), name="active")
    in_test = await a_rule(api, "action", give(10), name="test", status="test")
    await a_rule(api, "action", give(100), status="configure")
    ended = await a_rule(api, "action", give(1_000))
    body = {name: ended[name] for name in ("name", "eventType", "criteria", "fulfilments")}
    assert (await api.put(f"{RULES}/{ended['ruleId']}", {**body, "status": "inactive"})).status == 200
    outcome = await tried(api, made_up("action"))
    considered = [one["ruleId"] for one in outcome["explanation"][0]["rules"]]
    assert considered == [active["ruleId"], in_test["ruleId"]]
    assert outcome["wouldWrite"]["balance"] == {"before": 0, "after": 11}


async def test_a_rule_in_test_finds_the_segments_that_it_names(api: ApiClient) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    await a_rule(api, "action", {"type": "addToSegment", "segmentId": segment_id}, status="test")
    outcome = await tried(api, made_up("action"))
    assert outcome["wouldWrite"]["joined"] == [{"segmentId": segment_id, "expiryDateTime": None}]


async def test_points_events_that_follow_are_explained_too(api: ApiClient) -> None:
    await a_rule(api, "action", give(1))
    await a_rule(api, "points", give(2), criteria=[{"type": "balance", "operator": "atMost", "value": 1}])
    outcome = await tried(api, made_up("action"))
    first, second, third = outcome["explanation"]
    assert [one["depth"] for one in (first, second, third)] == [0, 1, 2]
    assert [one["eventType"] for one in (first, second, third)] == ["action", "points", "points"]
    assert [one["sourceEventId"] for one in (second, third)] == [first["eventId"], second["eventId"]]
    assert first["rules"][0]["fulfilments"][0]["pointsEventId"] == second["eventId"]
    assert [one["rules"][0]["matched"] for one in (second, third)] == [True, False]


async def test_a_limit_that_is_used_up_is_told(api: ApiClient, assessor: Assessor, tenant: Tenant) -> None:
    await a_rule(api, "points", give(1), limits={"total": 1})
    await earned(assessor, tenant, fresh_id(), 5)
    for customer in (None, {"balance": 1}):
        outcome = await tried(api, made_up("points"), customer=customer)
        (explained,) = outcome["explanation"][0]["rules"]
        assert (explained["matched"], explained["limitedBy"]) == (True, "total")
        assert outcome["wouldWrite"]["balance"]["after"] - outcome["wouldWrite"]["balance"]["before"] == 5


async def test_a_basket_is_answered_as_it_would_be_and_writes_nothing(api: ApiClient) -> None:
    await a_rule(api, "order", {"type": "pointsPerUnit", "rate": "1"})
    discount = {"type": "discount", "target": "product", "kind": "percentage", "value": "10", "sku": "A"}
    await a_rule(api, "basket", discount, {"type": "voucher", "code": "THANKS"}, give(3))
    customer_id = (await a_customer(api))["customerId"]
    event = made_up("basket", customerId=customer_id)
    outcome = await tried(api, event)
    assert outcome["wouldWrite"] == {**NOTHING, "balance": {"before": 0, "after": 0}}
    assert [one["eventType"] for one in outcome["explanation"]] == ["basket", "order", "points"]
    told = outcome["explanation"][0]["rules"][0]["fulfilments"]
    assert [(one["hasEffect"], one["discount"], one["amount"], one["pointsEventId"]) for one in told] == [
        (True, "5.0000", None, None), (True, None, None, None), (True, None, 3, None)
    ]  # fmt: skip
    body = {name: value for name, value in event.items() if name != "eventType"}
    assert outcome["offer"] == (await api.post(BASKETS, {**body, "eventId": fresh_id()})).body
    assert outcome["offer"]["pointsIfOrdered"] == 53


async def test_a_made_up_membership_that_has_lapsed_is_none(api: ApiClient) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    rule = a_rule_for("action", {"type": "removeFromSegment", "segmentId": segment_id})
    for expiry, left in ((format_instant(START), []), (None, [{"segmentId": segment_id}])):
        customer = {"memberships": [{"segmentId": segment_id, "expiryDateTime": expiry}]}
        outcome = await tried(api, made_up("action"), customer=customer, rule=rule)
        assert outcome["wouldWrite"]["left"] == left


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_what_is_wrong_is_refused_with_its_place(
    api: ApiClient, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    known, unknown = (await a_customer(api))["customerId"], fresh_id()
    rich = fresh_id()
    await earned(assessor, tenant, rich, 10**15)
    before = await contents(owner)
    sku = {"type": "sku", "value": "A"}
    join = {"type": "addToSegment", "segmentId": unknown}
    member = {"segmentId": unknown}
    cases: list[tuple[Json, int, str, str]] = [
        ({"event": made_up("action"), "customer": {"customerId": unknown}}, 404, "CustomerNotFound",
         "customer.customerId"),
        ({"event": made_up("action", customerId=unknown), "customer": {"customerId": known}}, 400, "InvalidRequest",
         "event.customerId"),
        ({"event": made_up("action"), "customer": {"customerId": known, "balance": 1}}, 400, "InvalidRequest",
         "customer"),
        ({"event": made_up("action"), "customer": {"memberships": [member, member]}}, 400, "InvalidRequest",
         "customer.memberships"),
        ({"event": made_up("action"), "customer": {"totals": {"counts": {"basket": 1}}}}, 400, "InvalidRequest",
         "customer.totals.counts.basket"),
        ({"event": made_up("action"), "rule": a_rule_for("action", give(1), criteria=[sku])}, 400, "InvalidRequest",
         "rule.criteria.0.type"),
        ({"event": made_up("action"), "rule": a_rule_for("action", join)}, 400, "SegmentNotFound",
         "rule.fulfilments.0.segmentId"),
        ({"event": made_up("action", eventType="error")}, 400, "InvalidRequest", "event.eventType"),
        ({"event": {"action": {}}}, 400, "InvalidRequest", "event.eventType"),
        ({"event": 5}, 400, "InvalidRequest", "event.eventType"),
        ({"rule": None}, 400, "InvalidRequest", "event"),
        ({"event": made_up("action"), "surprise": 1}, 400, "InvalidRequest", "surprise"),
        ({"event": {"eventType": "order"}}, 400, "InvalidRequest", "event.order"),
        ({"event": made_up("action", eventId=str(UUID(int=0)))}, 400, "InvalidRequest", "event.eventId"),
        ({"event": made_up("action", eventId=None)}, 400, "InvalidRequest", "event.eventId"),
        ({"event": made_up("redemption")}, 400, "InsufficientPoints", "redemption.points"),
        ({"event": made_up("redemption"), "customer": {"balance": 4}}, 400, "InsufficientPoints", "redemption.points"),
        ({"event": made_up("points", customerId=rich)}, 400, "BalanceOutOfRange", "balance"),
    ]  # fmt: skip
    for body, status, code, param in cases:
        refused(await api.post(RULE_TRIALS, body), status, code, param)
    assert await contents(owner) == before


async def test_a_redemption_of_a_locked_account_is_refused(api: ApiClient, assessor: Assessor, tenant: Tenant) -> None:
    customer_id = fresh_id()
    await earned(assessor, tenant, customer_id, 100)
    event = made_up("redemption", customerId=customer_id)
    assert (await tried(api, event))["wouldWrite"]["balance"] == {"before": 100, "after": 95}
    assert (await api.patch(f"{CUSTOMERS}/{customer_id}", {"isAccountLocked": True})).status == 200
    refused(await api.post(RULE_TRIALS, {"event": event}), 400, "AccountLocked", "customerId", customer_id)
