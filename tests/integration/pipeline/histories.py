"""Histories of some customers, and rules to simulate on them: generated from a seed, so that they often match."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from tallymarks.events import AnyEvent, EventMessage, ReversalEvent, created_at_of
from tests.integration.pipeline.parts import add_to, give, in_name_space, make_rule, make_segment, seeded_ids
from tests.parts import START, ApiClient

Json = dict[str, Any]

CUSTOMERS = 4
NAME_SPACES = ("Shop.Web", "Shop.Store", "Join", "Join.Days", None)
GOLD, DAYS, OWN = (UUID(int=(7 << 64) + number) for number in range(3))
"""Segments: one that the rules of the tenant add to for good, one for three days, one that a simulated rule uses."""


# --- events -----------------------------------------------------------------------------------------------------------


def history(seed: int, length: int) -> list[AnyEvent]:
    """Events of some customers in the order in which they happened, no two at once; each customer begins with points.

    Redemptions among them are small, so that nobody ever has too few points for one.
    """
    random, ids = Random(seed), seeded_ids(seed)
    customer_ids = [ids() for _ in range(CUSTOMERS)]
    events = [
        _event(ids, one, START + timedelta(seconds=number), "points", points={"quantity": 500})
        for number, one in enumerate(customer_ids)
    ]
    at = START + timedelta(hours=1)
    for _ in range(length):
        at += timedelta(milliseconds=random.choice((1, 3_000, 3_600_000, 5 * 3_600_000, 20 * 3_600_000)))
        events.append(_random_event(random, ids, random.choice(customer_ids), at))
    return events


def _random_event(random: Random, ids: Callable[[], UUID], customer_id: UUID, at: datetime) -> AnyEvent:
    kind = random.choice(("action", "action", "order", "order", "transaction", "points", "redemption", "anniversary"))
    body: Json = {
        "nameSpace": random.choice(NAME_SPACES),
        "reference": random.choice(("R-1", "R-2", None)),
        "campaign": random.choice(("Spring", None)),
        "attributes": [{"key": "channel", "value": random.choice(("app", "web"))}],
    }
    match kind:
        case "action":
            body["action"] = {"amount": random.randint(0, 60), "count": random.randint(0, 3)}
        case "order":
            body["order"] = _order(random)
        case "transaction":
            body["transaction"] = {"amount": f"{random.randint(1, 90)}.{random.randint(0, 99):02}"}
        case "points":
            body["points"] = {"quantity": random.choice((-7, 5, 20, 40))}
        case "redemption":
            body["redemption"] = {"points": random.randint(1, 3)}
        case _:
            body["anniversary"] = {"years": random.randint(1, 3)}
    return _event(ids, customer_id, at, kind, **body)


def _event(ids: Callable[[], UUID], customer_id: UUID, at: datetime, kind: str, **body: Any) -> AnyEvent:
    fields = {"eventType": kind, "eventId": str(ids()), "customerId": str(customer_id), "createdAt": at.isoformat()}
    return EventMessage.model_validate({"tenantId": str(customer_id), "events": [fields | body]}).events[0]


def _order(random: Random) -> Json:
    items = [
        {
            "sku": random.choice("AB"), "vendor": random.choice("VW"), "category": random.choice("CD"),
            "type": random.choice("TU"), "quantity": random.randint(1, 3), "tags": random.sample("xyz", 2),
        }
        for _ in range(random.randint(0, 2))
    ]  # fmt: skip
    payment = {
        "amount": random.randint(1, 90), "scheme": random.choice(("visa", "other")), "bank": random.choice("KL"),
        "bin": random.choice(("4000", "5000")),
    }  # fmt: skip
    totals = {name: random.randint(0, 20) for name in ("taxTotal", "shippingTotal", "discountTotal")}
    return {"total": random.randint(1, 100), "items": items, "payments": [payment], **totals}


def with_reversals(seed: int, events: Sequence[AnyEvent]) -> list[AnyEvent | ReversalEvent]:
    """A history in which some of the orders and transactions are taken back later, in part, whole, or part by part."""
    random, ids = Random(seed), seeded_ids(seed + 500)
    happening: list[AnyEvent | ReversalEvent] = list(events)
    for event in events:
        if event.spend is None or random.random() < 0.5:
            continue
        at = created_at_of(event)
        for amount in random.choice(([None], [event.spend / 2], [event.spend / 2, None])):
            at += timedelta(microseconds=500_000 * random.randint(1, 600_000))
            reversal = ReversalEvent(
                event_id=ids(), customer_id=event.customer_id, created_at=at, reverses=event.event_id, amount=amount
            )
            happening.append(reversal)
    return sorted(happening, key=created_at_of)


# --- rules ------------------------------------------------------------------------------------------------------------


async def make_setting(api: ApiClient) -> None:
    """The segments, and what a tenant's rules do anyhow: points for large orders, and two segments to join."""
    await make_segment(api, "gold", segmentId=str(GOLD))
    await make_segment(api, "days", {"mode": "period", "count": 3, "unit": "days"}, segmentId=str(DAYS))
    await make_segment(api, "own", {"mode": "period", "count": 4, "unit": "days"}, segmentId=str(OWN))
    await make_rule(api, "order", give(10), criteria=[{"type": "orderTotal", "operator": "atLeast", "value": "50"}])
    await make_rule(api, "action", add_to(GOLD), criteria=[in_name_space("Join")])
    await make_rule(api, "action", add_to(DAYS), criteria=[in_name_space("Join.Days")])


@dataclass(frozen=True)
class Kind:
    """A criterion to simulate, and the types of event that it is tried on."""

    criterion: Json
    types: Sequence[str]


ANY = ("action", "order", "transaction", "redemption", "anniversary")
SPENT = ("action", "order", "transaction")


def _compared(kind: str, operator: str, value: object, *types: str) -> Kind:
    return Kind({"type": kind, "operator": operator, "value": value}, types)


def _equal(kind: str, value: str, *types: str) -> Kind:
    return Kind({"type": kind, "value": value}, types)


BY_ITSELF: Mapping[str, Kind] = {
    "everyEvent": Kind({"type": "everyEvent"}, ANY),
    "nameSpace": Kind({"type": "nameSpace", "operator": "beginsWith", "value": "Shop."}, ANY),
    "reference": _equal("reference", "R-1", *ANY),
    "campaign": _equal("campaign", "Spring", *ANY),
    "attribute": Kind({"type": "attribute", "key": "channel", "value": "app"}, ANY),
    "nthEvent": Kind({"type": "nthEvent", "n": 2}, ANY),
    "everyNthEvent": Kind({"type": "everyNthEvent", "n": 2}, ANY),
    "countInPeriod": Kind({"type": "countInPeriod", "count": 2, "period": {"count": 5, "unit": "days"}}, ANY),
    "countSince": Kind({"type": "countSince", "count": 2, "since": (START + timedelta(days=2)).isoformat()}, ANY),
    "lifetimeEventValue": _compared("lifetimeEventValue", "atLeast", "90", *SPENT),
    "lifetimeEventThreshold": _equal("lifetimeEventThreshold", "70", *SPENT),
    "lifetimeSpend": _compared("lifetimeSpend", "moreThan", "150", *ANY),
    "orderTotal": _compared("orderTotal", "atLeast", "40", "order"),
    "taxTotal": _compared("taxTotal", "lessThan", "10", "order"),
    "shippingTotal": _compared("shippingTotal", "atMost", "10", "order"),
    "discountTotal": _compared("discountTotal", "notEquals", "7", "order"),
    "sku": _equal("sku", "A", "order"),
    "vendor": _equal("vendor", "V", "order"),
    "category": _equal("category", "C", "order"),
    "productType": _equal("productType", "T", "order"),
    "productQuantity": _compared("productQuantity", "atLeast", 2, "order"),
    "paymentAmount": _compared("paymentAmount", "atLeast", "30", "order"),
    "bin": _equal("bin", "4000", "order"),
    "bank": _equal("bank", "K", "order"),
    "scheme": _equal("scheme", "visa", "order"),
    "tag": _equal("tag", "x", "order"),
    "tagCount": _compared("tagCount", "atLeast", 2, "order"),
    "actionAmount": _compared("actionAmount", "atLeast", "20", "action"),
    "actionCount": _compared("actionCount", "moreThan", 0, "action"),
    "transactionAmount": _compared("transactionAmount", "moreThan", "20.5", "transaction"),
    "yearsSinceJoining": _compared("yearsSinceJoining", "atMost", 2, "anniversary"),
    "expression": Kind({"type": "expression", "expression": "totals.counts.order >= 2 || totals.spend > 80.0"}, ANY),
}
"""Criteria that no points and no memberships matter to: rules with these do not see each other."""

BY_WHAT_RULES_DO: Mapping[str, Kind] = {
    "inSegment": Kind({"type": "inSegment", "segmentId": str(DAYS)}, ANY),
    "notInSegment": Kind({"type": "notInSegment", "segmentId": str(OWN)}, ANY),
    "lifetimePoints": _compared("lifetimePoints", "atLeast", 540, "points"),
    "pointsQuantity": _compared("pointsQuantity", "moreThan", 4, "points"),
    "previousBalance": _compared("previousBalance", "atLeast", 530, "points"),
    "balance": _compared("balance", "lessThan", 560, "points"),
    "nthEvent": Kind({"type": "nthEvent", "n": 4}, ("points",)),
    "everyNthEvent": Kind({"type": "everyNthEvent", "n": 3}, ("points",)),
    "countInPeriod": Kind({"type": "countInPeriod", "count": 3, "period": {"count": 6, "unit": "days"}}, ("points",)),
    "lifetimeEventValue": _compared("lifetimeEventValue", "atLeast", "530", "points"),
    "lifetimeEventThreshold": _equal("lifetimeEventThreshold", "560", "points"),
    "expression": Kind(
        {"type": "expression", "expression": f"customer.balance % 2 == 0 || '{GOLD}' in segments"}, (*ANY, "points")
    ),
}
"""Criteria that look at points or memberships, and so at what the rule has done itself."""


def rule_of(kind: Kind, random: Random, rule_id: UUID) -> Json:
    """A rule with this criterion, of one of its types, with some fulfilments and perhaps limits."""
    event_type = random.choice(kind.types)
    fulfilments: list[Json] = [give(random.choice((1, 3, 6)))]
    if event_type in {"order", "transaction"} and random.random() < 0.5:
        fulfilments.append({"type": "pointsPerUnit", "rate": "0.1"})
    if random.random() < 0.5 or kind.criterion.get("segmentId") == str(OWN):
        fulfilments.append(add_to(OWN))
    if random.random() < 0.3:
        fulfilments.append({"type": "trigger", "after": {"count": 1, "unit": "days"}, "nameSpace": "Customer.FollowUp"})
    limits = random.choice(
        (
            None,
            {"perCustomer": 2},
            {"perPeriod": {"count": 1, "unit": random.choice(("day", "week", "month", "year"))}},
            {"total": 5},
            {"pointsTotal": 20},
            {"perCustomer": 3, "perPeriod": {"count": 2, "unit": "week"}, "total": 9},
        )
    )
    return {
        "ruleId": str(rule_id), "name": f"{event_type} {kind.criterion['type']}", "eventType": event_type,
        "status": "active", "criteria": [kind.criterion], "fulfilments": fulfilments, "limits": limits,
    }  # fmt: skip
