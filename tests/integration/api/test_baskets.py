"""Baskets: what the rules would give, told at once; nothing of it is kept, and the order then gives the same."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.events import Order, OrderEvent
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import contents, queued, refused
from tests.integration.api.given import (
    BASKETS,
    CUSTOMERS,
    RULES,
    Json,
    a_rule,
    a_segment,
    basket,
    earned,
    fresh_id,
    give,
)
from tests.parts import START, ApiClient, Clock, Tenant


async def offered(api: ApiClient, body: Json) -> Json:
    """What a basket is answered."""
    answered = await api.post(BASKETS, body)
    assert answered.status == 200, answered.body
    offer: Json = answered.body
    return offer


async def ordered(assessor: Assessor, tenant: Tenant, customer_id: str, total: str, **fields: Any) -> None:
    """An order, assessed already."""
    event = OrderEvent(
        event_id=new_id(),
        customer_id=UUID(customer_id),
        created_at=fields.pop("created_at", START),
        order=Order(total=Decimal(total)),
        **fields,
    )
    await assessor.assess(tenant.tenant_id, [event])


async def balance_of(api: ApiClient, customer_id: str) -> int:
    amount: int = (await api.get(f"{CUSTOMERS}/{customer_id}/balance")).body["amount"]
    return amount


def named(rule: Json) -> Json:
    """How an answer names a rule."""
    return {"ruleId": rule["ruleId"], "ruleVersion": 1, "ruleName": rule["name"]}


async def test_is_answered_with_points_discounts_and_vouchers(
    api: ApiClient, integration: ApiClient, tenant: Tenant
) -> None:
    per_unit = await a_rule(api, "order", {"type": "pointsPerUnit", "rate": "2"}, name="Spend")
    follows = await a_rule(api, "points", give(3), name="More", criteria=[{"type": "nthEvent", "n": 1}])
    shoes = [{"type": "discount", "target": "product", "kind": "percentage", "value": "15", "category": "Shoes"}]
    offer = await a_rule(
        api,
        "basket",
        {"type": "discount", "target": "basket", "kind": "absolute", "value": "5"},
        {"type": "discount", "target": "delivery", "kind": "percentage", "value": "100"},
        *shoes,
        {"type": "voucher", "code": "THANKS", "description": "5 off"},
        give(7),
        name="Offer",
        criteria=[{"type": "productQuantity", "operator": "atLeast", "value": 2}],
    )
    await a_rule(api, "basket", give(1000), criteria=[{"type": "campaign", "value": "Other"}])
    await a_rule(api, "basket", give(1000), status="test")
    body = basket(fresh_id())
    items = [{"sku": "A", "category": "Shoes", "price": "9.99", "quantity": 2}, {"sku": "B", "price": "0.01"}]
    body["basket"] = {"total": "19.99", "shippingTotal": "4.90", "items": items}
    no_product = {"sku": None, "category": None}
    assert await offered(integration, body) == {
        "customerId": body["customerId"],
        "tenantId": str(tenant.tenant_id),
        "pointsIfOrdered": 49,
        "points": [
            {**named(per_unit), "amount": 39},
            {**named(follows), "amount": 3},
            {**named(offer), "amount": 7},
        ],
        "discounts": [
            {**named(offer), "target": "basket", "kind": "absolute", "value": "5", "amount": "5.0000", **no_product},
            {
                **named(offer),
                "target": "delivery",
                "kind": "percentage",
                "value": "100",
                "amount": "4.9000",
                **no_product,
            },
            {
                **named(offer),
                "target": "product",
                "kind": "percentage",
                "value": "15",
                "amount": "2.9970",
                "sku": None,
                "category": "Shoes",
            },
        ],
        "vouchers": [{**named(offer), "code": "THANKS", "description": "5 off"}],
    }


async def test_records_nothing_however_often_it_is_asked(
    api: ApiClient, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, broker: Broker
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    await a_rule(api, "basket", give(5), {"type": "voucher", "code": "A"})
    after = {"count": 1, "unit": "days"}
    order_fulfilments = [
        give(5),
        {"type": "addToSegment", "segmentId": segment_id},
        {"type": "trigger", "after": after, "nameSpace": "Later"},
    ]
    await a_rule(api, "order", *order_fulfilments, limits={"perCustomer": 1, "total": 1})
    known = fresh_id()
    await earned(assessor, tenant, known, 100)
    before = await contents(owner)
    for customer_id in (known, fresh_id()):
        body = basket(customer_id)
        answers = [await offered(api, body) for _ in range(3)]
        assert [answer["pointsIfOrdered"] for answer in answers] == [10] * 3
    assert (await contents(owner), await queued(broker)) == (before, 0)
    refused(await api.get(f"{CUSTOMERS}/{fresh_id()}"), 404, "CustomerNotFound")


async def test_an_unknown_customer_is_one_who_joins_now(api: ApiClient) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    for criterion in (
        {"type": "notInSegment", "segmentId": segment_id},
        {"type": "lifetimeSpend", "operator": "equals", "value": "0"},
    ):
        await a_rule(api, "basket", give(1), criteria=[criterion])
    await a_rule(api, "basket", give(100), criteria=[{"type": "inSegment", "segmentId": segment_id}])
    await a_rule(api, "order", give(10), criteria=[{"type": "nthEvent", "n": 1}])
    assert (await offered(api, basket(fresh_id())))["pointsIfOrdered"] == 12


async def test_sees_the_customer_as_he_is_and_the_order_then_gives_as_much(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    segment_id = (await a_segment(api))["segmentId"]
    await a_rule(api, "order", give(1), criteria=[{"type": "nthEvent", "n": 3}])
    in_a_day = {"type": "countInPeriod", "count": 2, "period": {"count": 1, "unit": "days"}}
    await a_rule(api, "order", give(10), criteria=[in_a_day])
    await a_rule(api, "order", give(100), criteria=[{"type": "inSegment", "segmentId": segment_id}])
    await a_rule(api, "order", give(1000), limits={"perPeriod": {"count": 1, "unit": "day"}})
    await a_rule(api, "order", give(10_000), limits={"total": 3})
    follows = [
        {"type": "pointsQuantity", "operator": "equals", "value": 10_000},
        {"type": "balance", "operator": "moreThan", "value": 22_000},
    ]
    await a_rule(api, "points", give(100_000), criteria=follows)
    customer_id = fresh_id()
    joins: Json = {"type": "addToSegment", "segmentId": segment_id}
    await a_rule(api, "order", joins, criteria=[{"type": "nthEvent", "n": 2}])
    expected = [11_000, 10_010, 111_101, 110]
    for hours, points in zip((0, 1, 30, 0), expected, strict=True):
        clock.advance(hours=hours)
        assert (await offered(api, basket(customer_id)))["pointsIfOrdered"] == points
        before = await balance_of(api, customer_id) if points != expected[0] else 0
        await ordered(assessor, tenant, customer_id, "10", created_at=clock())
        assert await balance_of(api, customer_id) - before == points


async def test_the_instant_that_it_says_decides_which_version_of_a_rule_looks_at_it(
    api: ApiClient, clock: Clock
) -> None:
    rule = await a_rule(api, "basket", {"type": "voucher", "code": "OLD"})
    clock.advance(days=1)
    body = {"name": "Rule", "eventType": "basket", "status": "active"}
    newer = {**body, "fulfilments": [{"type": "voucher", "code": "NEW"}]}
    assert (await api.put(f"{RULES}/{rule['ruleId']}", newer)).status == 200
    for created_at, code in ((None, "NEW"), (START.isoformat(), "OLD")):
        (voucher,) = (await offered(api, basket(fresh_id(), createdAt=created_at)))["vouchers"]
        assert (voucher["code"], voucher["ruleVersion"]) == (code, 2 if code == "NEW" else 1)


async def test_a_change_of_rules_counts_at_once(api: ApiClient) -> None:
    body = basket(fresh_id())
    for number in range(1, 4):
        await a_rule(api, "basket", give(1))
        assert (await offered(api, body))["pointsIfOrdered"] == number


async def test_points_beyond_the_bound_of_a_balance_are_refused(
    api: ApiClient, assessor: Assessor, tenant: Tenant
) -> None:
    customer_id = fresh_id()
    await earned(assessor, tenant, customer_id, 10**15)
    await a_rule(api, "order", give(1))
    refused(await api.post(BASKETS, basket(customer_id)), 400, "BalanceOutOfRange", "balance")


@pytest.mark.parametrize(
    ("fulfilment", "param"),
    [
        (
            {"type": "discount", "target": "basket", "kind": "percentage", "value": "100.0001"},
            "fulfilments.0.value",
        ),
        ({"type": "discount", "target": "product", "kind": "absolute", "value": "1"}, "fulfilments.0"),
        ({"type": "trigger", "after": {"count": 1, "unit": "days"}, "nameSpace": "A"}, "fulfilments.0.type"),
    ],
)
async def test_a_rule_for_baskets_is_refused_where_it_would_make_no_sense(
    api: ApiClient, fulfilment: Json, param: str
) -> None:
    body = {"name": "Rule", "eventType": "basket", "fulfilments": [fulfilment]}
    refused(await api.post(RULES, body), 400, "InvalidRequest", param)
