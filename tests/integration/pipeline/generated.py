"""Generated rules of every criterion, generated events, and all that they lead to: for tests that compare two tenants.

Numbers and texts are few and small, so that rules match, thresholds are passed and limits are met.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from hypothesis import strategies as st
from pydantic import ValidationError

from tallymarks.events import AnyEvent, EventMessage
from tallymarks.rules.rule import NewRule
from tests.integration.pipeline.parts import RULES, add_to, give, make_segment, per_unit, remove_from
from tests.parts import START, ApiClient
from tests.unit.builders import OTHER_SEGMENT, SEGMENT
from tests.unit.criteria import criteria_fields, criterion

REDEMPTIONS = "/api/v1/events/redemptions"
CUSTOMERS = 3
Json = dict[str, Any]

# --- rules -----------------------------------------------------------------------------------------------------------

_operators = st.sampled_from(["equals", "notEquals", "lessThan", "atMost", "atLeast", "moreThan"])


def _compared(kind: str, least: int, most: int) -> st.SearchStrategy[Json]:
    return st.builds(
        lambda operator, value: {"type": kind, "operator": operator, "value": value},
        _operators,
        st.integers(least, most),
    )


def _counted_back(way: str, count: int, unit: str, hours: int) -> Json:
    if way == "since":
        return {"type": "countSince", "count": count, "since": START + timedelta(hours=hours)}
    return {"type": "countInPeriod", "count": count, "period": {"count": 1 + abs(hours) // 30, "unit": unit}}


MEMORY: st.SearchStrategy[Json] = st.one_of(
    st.integers(1, 4).map(lambda n: {"type": "nthEvent", "n": n}),
    st.integers(1, 3).map(lambda n: {"type": "everyNthEvent", "n": n}),
    st.builds(
        _counted_back, st.sampled_from(["period", "since"]), st.integers(1, 3), st.sampled_from(["days", "months"]),
        st.integers(-60, 60),
    ),
    st.integers(1, 60).map(lambda value: {"type": "lifetimeEventThreshold", "value": value}),
    _compared("lifetimeEventValue", -20, 80),
    _compared("lifetimeSpend", -20, 120),
    _compared("previousBalance", 80, 120),
    _compared("balance", 80, 120),
    _compared("lifetimePoints", 100, 140),
    st.builds(
        lambda kind, segment_id: {"type": kind, "segmentId": str(segment_id)},
        st.sampled_from(["inSegment", "notInSegment"]),
        st.sampled_from([SEGMENT, OTHER_SEGMENT]),
    ),
    st.sampled_from(
        [
            "totals.counts.order % 2 == 1",
            "totals.values.transaction > 10.0 || totals.pointsEarned > 110",
            "segments.size() == 1 && customer.balance > 100",
        ]
    ).map(lambda expression: {"type": "expression", "expression": expression}),
)  # fmt: skip
"""Criteria on the past, that some of the events here meet."""

WITHOUT_MEMORY: st.SearchStrategy[Json] = st.one_of(
    st.sampled_from(["A", "A.B"]).flatmap(
        lambda value: st.sampled_from(["equals", "beginsWith"]).map(
            lambda operator: {"type": "nameSpace", "operator": operator, "value": value}
        )
    ),
    _compared("orderTotal", -5, 50),
    _compared("transactionAmount", -5, 50),
    _compared("actionCount", 0, 3),
    _compared("pointsQuantity", -5, 10).filter(lambda fields: fields["value"] != 0),
    st.sampled_from(["sku", "tag", "bin"]).map(lambda kind: {"type": kind, "value": "A"}),
    st.just({"type": "attribute", "key": "A", "value": "b"}),
    st.just({"type": "everyEvent"}),
)
"""Criteria on the event alone, likewise."""

_limits = (
    st.none()
    | st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "perCustomer": st.integers(1, 3),
            "perPeriod": st.fixed_dictionaries(
                {"count": st.integers(1, 2), "unit": st.sampled_from(["day", "week", "month", "year"])}
            ),
            "total": st.integers(1, 6),
            "pointsTotal": st.integers(1, 60),
        },
    ).filter(bool)
)
_trigger = {"type": "trigger", "after": {"count": 3, "unit": "hours"}, "nameSpace": "Later", "reference": "A"}
_points = st.sampled_from([-3, 1, 5, 20]).map(give)
_segments = [of(segment_id) for of in (add_to, remove_from) for segment_id in (SEGMENT, OTHER_SEGMENT)]


def _fitting(content: Json) -> Json:
    """The rule without what does not go with its type of event."""
    event_type = content["eventType"]
    criteria = [one for one in content["criteria"] if event_type in criterion(**one).event_types()]
    is_spend = event_type in {"order", "transaction"}
    fulfilments = [one for one in content["fulfilments"] if is_spend or one["type"] != "pointsPerUnit"] or [give(2)]
    return {**content, "criteria": criteria, "fulfilments": fulfilments}


def _is_sound(content: Json) -> bool:
    """Whether the api takes it: criteria may contradict each other, a limit on points may limit nothing."""
    try:
        NewRule.model_validate_json(orjson.dumps(content, default=str))
    except ValidationError:
        return False
    return True


def _rules(
    event_types: Sequence[str],
    criteria: st.SearchStrategy[Json],
    fulfilments: st.SearchStrategy[Json],
    *,
    limits: st.SearchStrategy[Json | None],
    number: int,
    fulfilments_max: int,
) -> st.SearchStrategy[list[Json]]:
    one = st.fixed_dictionaries(
        {
            "name": st.just("Generated"),
            "status": st.just("active"),
            "eventType": st.sampled_from(event_types),
            "criteria": st.lists(criteria, min_size=1, max_size=2),
            "fulfilments": st.lists(fulfilments, min_size=1, max_size=fulfilments_max),
            "limits": limits,
        }
    )
    return st.lists(one, min_size=number, max_size=number).map(
        lambda contents: [content for content in map(_fitting, contents) if _is_sound(content)]
    )


OWN_TYPES = ["action", "order", "transaction", "redemption", "anniversary"]


def rules() -> st.SearchStrategy[list[Json]]:
    """Rules of every criterion and every fulfilment, with limits; few points rules, or they would feed each other."""
    criteria = st.one_of(MEMORY, MEMORY, MEMORY, WITHOUT_MEMORY, criteria_fields())
    fulfilments = _points | st.sampled_from([per_unit("0.5"), _trigger, *_segments])
    return st.builds(
        lambda of_spend, of_others, of_points: [*of_spend, *of_others, *of_points],
        _rules(["order", "transaction"], criteria, fulfilments, limits=_limits, number=8, fulfilments_max=2),
        _rules(OWN_TYPES, criteria, fulfilments, limits=_limits, number=8, fulfilments_max=2),
        _rules(["points"], criteria, _points | st.sampled_from([_trigger, *_segments]), limits=_limits, number=3,
               fulfilments_max=1),
    )  # fmt: skip


def rules_without_memory() -> st.SearchStrategy[list[Json]]:
    """Rules that see nothing but the event."""
    return st.builds(
        lambda of_others, of_points: [*of_others, *of_points],
        _rules(OWN_TYPES, WITHOUT_MEMORY, _points | st.sampled_from([per_unit("0.5"), _trigger]), limits=st.none(),
               number=8, fulfilments_max=2),
        _rules(["points"], WITHOUT_MEMORY, _points, limits=st.none(), number=2, fulfilments_max=1),
    )  # fmt: skip


async def make(api: ApiClient, contents: Sequence[Json], ids: Callable[[], UUID]) -> None:
    """Make the two segments and the rules in a tenant; the same `ids` make the same ones in another."""
    await make_segment(api, "for good", segmentId=str(SEGMENT))
    await make_segment(api, "days", {"mode": "period", "count": 1, "unit": "days"}, segmentId=str(OTHER_SEGMENT))
    for content in contents:
        body = orjson.loads(orjson.dumps({**content, "ruleId": ids()}, default=str))
        answered = await api.post(RULES, body)
        assert answered.status == 200, answered.body


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Happening:
    """One event, by what makes it; `repeats` is how many events before it the same one was sent, 0 for a new one."""

    customer: int
    event_type: str
    amount: int
    text: str | None
    hours_ago: int
    repeats: int

    def fields(self, event_id: UUID, customer_id: UUID, now: datetime) -> Json:
        """The event, as JSON has it."""
        common = {
            "eventId": event_id,
            "customerId": customer_id,
            "eventType": self.event_type,
            "nameSpace": self.text,
            "attributes": [{"key": "A", "value": self.text or "b"}],
            "createdAt": now - timedelta(hours=self.hours_ago),
        }
        item = {"sku": self.text, "quantity": abs(self.amount), "tags": [self.text or "b"]}
        own = {
            "action": {"amount": self.amount, "count": abs(self.amount) % 4},
            "order": {"total": f"{self.amount}.25", "items": [item], "payments": [{"amount": 1, "bin": self.text}]},
            "transaction": {"amount": f"{self.amount}.5"},
            "points": {"quantity": self.amount or 1},
            "redemption": {"points": abs(self.amount) % 20 + 1},
            "anniversary": {"years": abs(self.amount) % 3 + 1},
        }
        return {**common, self.event_type: own[self.event_type]}


HAPPENINGS = st.lists(
    st.builds(
        Happening,
        customer=st.integers(0, CUSTOMERS - 1),
        event_type=st.sampled_from(["action", "order", "order", "transaction", "points", "redemption", "anniversary"]),
        amount=st.sampled_from([-4, 0, 2, 9, 30]),
        text=st.sampled_from([None, "A", "A.B"]),
        hours_ago=st.sampled_from([0, 0, 0, 1, 24, 25, 24 * 31]),
        repeats=st.sampled_from([0, 0, 0, 0, 1, 3]),
    ),
    min_size=6,
    max_size=20,
)
"""Events of every kind, backdated ones and duplicates among them."""


def events_of(
    happenings: Sequence[Happening], customer_ids: Sequence[UUID], ids: Callable[[], UUID], now: datetime
) -> list[AnyEvent]:
    """The events, as they travel."""
    events: list[AnyEvent] = []
    for one in happenings:
        if one.repeats:
            events.extend(events[-one.repeats : len(events) - one.repeats + 1])
            continue
        fields = one.fields(ids(), customer_ids[one.customer], now)
        message = orjson.dumps({"tenantId": SEGMENT, "events": [fields]}, default=str)
        events.extend(EventMessage.model_validate_json(message).events)
    return events


async def debited(api: ApiClient, events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """Have the redemptions decided, and leave out those that were refused."""
    refused = set()
    for event in events:
        if event.event_type == "redemption":
            body = orjson.loads(event.model_dump_json(by_alias=True, exclude={"event_type"}, exclude_none=True))
            answered = await api.post(REDEMPTIONS, body)
            assert answered.status in {200, 208, 400}, answered.body
            if answered.status == 400:
                refused.add(event.event_id)
    return [event for event in events if event.event_id not in refused]


# --- what became of it -----------------------------------------------------------------------------------------------

COMPARED = {
    "events": "event_id",
    "transactions": "event_id, assessment_rule_id, fulfilment_index",
    "accounts": "customer_id",
    "customers": "customer_id",
    "rule_uses": "rule_id",
    "customer_rule_uses": "customer_id, rule_id, period, period_from",
    "segment_memberships": "customer_id, segment_id",
    "segment_lapses": "customer_id, segment_id, lapsed_at, joined_at",
    "triggers": "trigger_id",
}
"""Table → the order of its rows."""


async def state_of(owner: asyncpg.Connection, tenant_id: UUID) -> Mapping[str, Any]:
    """All that events have led to, but for what is a tenant's own: its id, ids that are made, sums over them."""
    state: dict[str, Any] = {}
    for table, order in COMPARED.items():
        rows = await owner.fetch(
            f"SELECT (to_jsonb(t) - '{{tenant_id,transaction_id,check_sum}}'::text[])::text AS row FROM {table} t"
            f" WHERE tenant_id = $1 ORDER BY {order}",
            tenant_id,
        )
        state[table] = [row["row"] for row in rows]
        if table == "segment_lapses":  # a batch may leave a lapsed membership to the sweep
            state[table] = [{**orjson.loads(row), "recorded_at": None} for row in state[table]]
    state["assessments"] = await explanations_of(owner, tenant_id)
    return state


async def explanations_of(owner: asyncpg.Connection, tenant_id: UUID) -> dict[UUID, Any]:
    """Event → what is kept of its assessment, with what each transaction is the effect of in place of its id."""
    transactions = await owner.fetch("SELECT * FROM transactions WHERE tenant_id = $1", tenant_id)
    made_by = {
        str(row["transaction_id"]): [str(row["event_id"]), str(row["assessment_rule_id"]), row["fulfilment_index"]]
        for row in transactions
    }
    kept = {}
    for row in await owner.fetch("SELECT event_id, explanation FROM assessments WHERE tenant_id = $1", tenant_id):
        kept[row["event_id"]] = explanation = orjson.loads(row["explanation"])
        for effect in explanation.get("made", ()):
            effect[2] = made_by.get(effect[2], effect[2])
    return kept
