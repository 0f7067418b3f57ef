"""What a trial tells is what the pipeline then does: generated rules, on generated events."""

import json
from collections import Counter
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import TypeAdapter

from tallymarks.events import AnyEvent
from tallymarks.values import format_instant
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import contents, refused
from tests.integration.api.given import (
    REDEMPTIONS,
    RULE_TRIALS,
    RULES,
    Json,
    a_rule_for,
    a_segment,
    fresh_id,
    give,
    made,
    tried,
)
from tests.parts import START, ApiClient, Clock, Tenant

EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
NAME_SPACES = ["Shop", "Shop.Web", "Visit"]
TYPES = ["action", "order", "transaction", "points", "redemption", "anniversary"]


class Generated:
    """Rules and events, the same for the same seed."""

    def __init__(self, seed: int, segment_ids: list[str]) -> None:
        self.random = Random(seed)
        self.segment_ids = segment_ids

    def criteria(self, event_type: str) -> list[Json]:
        random = self.random
        memory: list[Json] = [
            {"type": "nthEvent", "n": random.randint(1, 5)},
            {"type": "everyNthEvent", "n": random.randint(1, 3)},
            {"type": "countInPeriod", "count": random.randint(1, 3), "period": {"count": 1, "unit": "days"}},
            {"type": "countSince", "count": random.randint(1, 3), "since": format_instant(START)},
            {"type": "lifetimeSpend", "operator": "atLeast", "value": random.randint(0, 200)},
        ]
        if event_type not in ("redemption", "anniversary"):
            memory.append({"type": "lifetimeEventValue", "operator": "atLeast", "value": random.randint(0, 100)})
            memory.append({"type": "lifetimeEventThreshold", "value": random.randint(1, 100)})
        if event_type == "points":
            memory.append({"type": "pointsQuantity", "operator": "atLeast", "value": random.randint(-5, 20)})
            memory.append({"type": "previousBalance", "operator": "atMost", "value": random.randint(0, 100)})
            memory.append({"type": "lifetimePoints", "operator": "atLeast", "value": random.randint(0, 200)})
        memberships: list[Json] = [
            {"type": random.choice(["inSegment", "notInSegment"]), "segmentId": random.choice(self.segment_ids)},
            {"type": "expression", "expression": f"segments.size() < {random.randint(1, 2)}"},
        ]
        shared: list[Json] = [
            {"type": "nameSpace", "operator": "beginsWith", "value": random.choice(["Shop", "Visit"])},
            {"type": "nameSpace", "operator": "equals", "value": random.choice(NAME_SPACES)},
            {"type": "campaign", "value": "Spring"},
        ]
        groups = [group for group in (memory, memberships, shared) if random.random() < 0.4]
        return [random.choice(group) for group in groups]

    def fulfilments(self, event_type: str) -> list[Json]:
        random = self.random
        made: list[Json] = [give(random.choice([-20, -1, 1, 5, 30]))]
        if event_type in ("order", "transaction"):
            made.append({"type": "pointsPerUnit", "rate": random.choice(["0.5", "1.1", "3"])})
        kind, segment_id = random.choice(["addToSegment", "removeFromSegment"]), random.choice(self.segment_ids)
        made.append({"type": kind, "segmentId": segment_id})
        after = {"count": random.randint(1, 9), "unit": random.choice(["hours", "days", "months"])}
        made.append({"type": "trigger", "after": after, "nameSpace": "Later", "reference": "R"})
        return random.sample(made, random.randint(1, len(made)))

    def rule(self) -> Json:
        random = self.random
        event_type = random.choice([*TYPES, "order", "points"])
        rule = a_rule_for(event_type, *self.fulfilments(event_type), criteria=self.criteria(event_type))
        if random.random() < 0.4:
            rule["limits"] = random.choice(
                [
                    {"perCustomer": random.randint(1, 3)},
                    {"perPeriod": {"count": random.randint(1, 2), "unit": random.choice(["day", "week", "month"])}},
                    {"total": random.randint(1, 4)},
                ]
            )
        return rule

    def event(self, customer_id: str, now: datetime) -> Json:
        random = self.random
        event_type = random.choice([*TYPES, "order"])
        amount = f"{random.randint(1, 60)}.{random.randint(0, 99):02}"
        content: dict[str, Json] = {
            "action": {"amount": amount},
            "order": {"total": amount},
            "transaction": {"amount": amount},
            "points": {"quantity": random.choice([-5, 5, 40])},
            "redemption": {"points": random.randint(1, 10)},
            "anniversary": {"years": random.randint(1, 5)},
        }
        event: Json = {
            "eventType": event_type,
            "eventId": str(UUID(int=random.getrandbits(128), version=4)),
            "customerId": customer_id,
            event_type: content[event_type],
            "nameSpace": random.choice(NAME_SPACES),
            "reference": "R",
        }
        if random.random() < 0.5:
            event["campaign"] = "Spring"
        if random.random() < 0.3:
            event["createdAt"] = format_instant(now - timedelta(hours=random.randint(0, 60)))
        return event


class Pipeline:
    """Posts an event and tells what became of it, in the words of a trial."""

    def __init__(self, api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant) -> None:
        self.api, self.assessor, self.owner, self.tenant_id = api, assessor, owner, tenant.tenant_id

    async def post(self, event: Json, now: datetime) -> None:
        if event["eventType"] == "redemption":
            body = {name: value for name, value in event.items() if name != "eventType"}
            answered = await self.api.post(REDEMPTIONS, body)
            assert answered.status == 200, answered.body
        stamped = {"createdAt": format_instant(now), **event}
        await self.assessor.assess(self.tenant_id, [EVENT.validate_python(stamped)])

    async def written(self, event_ids: list[UUID]) -> dict[str, list[Json]]:
        """The transactions and triggers of these events."""
        transactions = await self.owner.fetch(
            'SELECT event_id AS "eventId", event_type AS "eventType", assessment_rule_id AS "assessmentRuleId",'
            ' assessment_rule_version AS "assessmentRuleVersion", created_at AS "createdAt", name_space AS "nameSpace",'
            ' description, amount, external_reference AS "externalReference"'
            " FROM transactions WHERE tenant_id = $1 AND event_id = ANY($2::uuid[])",
            self.tenant_id,
            event_ids,
        )
        triggers = await self.owner.fetch(
            'SELECT trigger_id AS "eventId", due_at AS "dueAt", name_space AS "nameSpace", reference'
            " FROM triggers WHERE tenant_id = $1 AND source_event_id = ANY($2::uuid[])",
            self.tenant_id,
            event_ids,
        )
        return {"transactions": list(map(as_told, transactions)), "triggers": list(map(as_told, triggers))}

    async def balance(self, customer_id: str) -> int:
        found = await self.owner.fetchval(
            "SELECT balance FROM accounts WHERE tenant_id = $1 AND customer_id = $2", self.tenant_id, UUID(customer_id)
        )
        return int(found or 0)

    async def memberships(self, customer_id: str, now: datetime) -> dict[str, str | None]:
        rows = await self.owner.fetch(
            "SELECT segment_id, expiry_date_time FROM segment_memberships WHERE tenant_id = $1 AND customer_id = $2"
            " AND (expiry_date_time IS NULL OR expiry_date_time > $3)",
            self.tenant_id,
            UUID(customer_id),
            now,
        )
        told = [as_told(row) for row in rows]
        return {row["segment_id"]: row["expiry_date_time"] for row in told}

    async def explanation(self, event_ids: list[UUID]) -> list[Json]:
        """How each event was assessed, without the ids that writing gave."""
        explained = []
        for event_id in event_ids:
            answered = await self.api.get(f"/api/v1/events/{event_id}/assessment")
            assert answered.status == 200, answered.body
            explained.append(
                {
                    "eventId": answered.body["eventId"],
                    "eventType": answered.body["eventType"],
                    **without_transaction_ids(answered.body["explanation"]),
                }
            )
        return explained


def as_told(row: asyncpg.Record) -> Json:
    """A row as an answer has it."""
    return {
        name: format_instant(value) if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in row.items()
    }


def without_transaction_ids(explanation: Json) -> Json:
    for rule in explanation["rules"]:
        for fulfilment in rule["fulfilments"]:
            fulfilment["transactionId"] = None
    return explanation


def counted(rows: list[Json]) -> Counter[str]:
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


async def agrees(pipeline: Pipeline, event: Json, clock: Clock) -> Counter[str]:
    """Try the event, post it, and hold what was done to what was told; gives what was seen, by kind."""
    customer_id = event["customerId"]
    before = await contents(pipeline.owner)
    answered = await pipeline.api.post(RULE_TRIALS, {"event": event})
    assert await contents(pipeline.owner) == before
    if answered.status == 400:
        body = {name: value for name, value in event.items() if name != "eventType"}
        refused(await pipeline.api.post(REDEMPTIONS, body), 400, answered.body["code"])
        return Counter(["refused"])
    assert answered.status == 200, answered.body
    told: dict[str, Any] = answered.body["wouldWrite"]
    event_ids = [UUID(step["eventId"]) for step in answered.body["explanation"]]
    assert await pipeline.balance(customer_id) == told["balance"]["before"]
    expected = await pipeline.memberships(customer_id, clock())
    for left in told["left"]:
        del expected[left["segmentId"]]
    expected |= {joined["segmentId"]: joined["expiryDateTime"] for joined in told["joined"]}
    await pipeline.post(event, clock())
    written = await pipeline.written(event_ids)
    assert counted(written["transactions"]) == counted(told["transactions"])
    assert counted(written["triggers"]) == counted(told["triggers"])
    assert await pipeline.balance(customer_id) == told["balance"]["after"]
    assert await pipeline.memberships(customer_id, clock()) == expected
    assert await pipeline.explanation(event_ids) == answered.body["explanation"]
    rules = [rule for step in answered.body["explanation"] for rule in step["rules"]]
    seen = Counter({name: len(told[name]) for name in ("transactions", "triggers", "joined", "left")})
    return seen + Counter(
        matched=sum(rule["matched"] for rule in rules),
        unmatched=sum(not rule["matched"] for rule in rules),
        limited=sum(rule["limitedBy"] is not None for rule in rules),
        deep=sum(step["depth"] > 1 for step in answered.body["explanation"]),
    )


async def test_what_is_told_is_what_the_pipeline_then_does(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    """Generated rules, first in status test and then active, on generated events of three customers."""
    segment_ids = [
        (await a_segment(api, expiry=expiry))["segmentId"]
        for expiry in ({"mode": "none"}, {"mode": "period", "count": 2, "unit": "days"})
    ]
    pipeline = Pipeline(api, assessor, owner, tenant)
    seen: Counter[str] = Counter()
    for seed in range(6):
        generated = Generated(seed, segment_ids)
        rules = [await made(api, RULES, {**generated.rule(), "status": "test"}) for _ in range(12)]
        customer_ids = [fresh_id() for _ in range(3)]
        first = {"eventType": "order", "order": {"total": "50"}, "customerId": customer_ids[0], "eventId": fresh_id()}
        in_test = await tried(api, first)
        await _all_become(api, rules, "active")
        assert await tried(api, first) == in_test
        for _ in range(18):
            seen += await agrees(pipeline, generated.event(generated.random.choice(customer_ids), clock()), clock)
            clock.advance(hours=generated.random.randint(0, 20))
        await _all_become(api, rules, "inactive")
    assert set(seen) == {
        "refused", "transactions", "triggers", "joined", "left", "matched", "unmatched", "limited", "deep",
    }  # fmt: skip


async def _all_become(api: ApiClient, rules: list[Json], status: str) -> None:
    for rule in rules:
        body = {name: rule[name] for name in ("name", "eventType", "criteria", "fulfilments", "limits")}
        assert (await api.put(f"{RULES}/{rule['ruleId']}", {**body, "status": status})).status == 200
