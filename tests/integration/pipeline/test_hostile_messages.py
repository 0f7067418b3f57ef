"""Messages that the api would never send, by the hundred: each is put aside or counts, and so does all between them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tallymarks.broker import Broker, OutgoingMessage
from tallymarks.database import Database
from tallymarks.events import AnyEvent, EventMessage
from tallymarks.messages import event_json, is_decided, read_events
from tallymarks.service import new_id
from tests.integration.pipeline.parts import (
    differing_balances,
    drain,
    give,
    make_rule,
    messages_ready,
    per_unit,
    points,
    publish,
    waiting_letters,
)
from tests.parts import ApiClient, Tenant, until
from tests.unit.builders import events
from tests.unit.test_messages import JSON, JSON_PIECES, places

Hostile = tuple[bytes, Mapping[str, str | int]]
"""The body and the headers of a message."""

HEADERS: st.SearchStrategy[Mapping[str, str | int]] = st.dictionaries(
    st.sampled_from(["x-delivery-count", "x-death", "traceparent", "tallymarks-tenant-id", "tallymarks-reason-code"]),
    st.sampled_from(["", "many", "\x00", "é" * 200, -1, 3, 2**62]),
    max_size=2,
)
DEEP = 10_000
"""Levels of nesting: more than a parser that calls itself could go down."""
VALUES: list[object] = [
    None,
    "",
    "a\x00b",
    "\ud800",
    "\u202e" * 256,
    "é" * 256,
    0,
    -0.0,
    10**15,
    -(10**12),
    10**400,
    1e308,
    "1e9",
    [],
]
"""What stands in a field instead of its value: some of it may."""


@st.composite
def hostile(draw: st.DrawFn) -> Hostile:
    """Bytes that are no message, a message of ours with something wrong in it, or one that only looks so."""
    kind = draw(st.sampled_from(["bytes", "damaged", "field", "field", "unknown field", "deep", "whole", "whole"]))
    if kind == "bytes":
        return draw(st.binary(max_size=300)), draw(HEADERS)
    event = orjson.loads(event_json(draw(events())))
    content = {"schemaVersion": 1, "tenantId": "TENANT", "events": [event]}
    place: Any = draw(st.sampled_from([one for one in places(content) if isinstance(one, dict)]))
    if kind == "unknown field":
        place[draw(st.sampled_from(["a\x00b", "\ud800", ""]))] = 1
    elif kind in {"field", "deep"}:
        place[draw(st.sampled_from(list(place)))] = "DEEP" if kind == "deep" else draw(st.sampled_from(VALUES) | JSON)
    text = json.dumps(content, separators=(",", ":")).replace('"DEEP"', "[" * DEEP + "]" * DEEP)
    if text.endswith("]}") and draw(st.booleans()):  # laid out as ours are
        text = text.replace('"events":[', '"events":[\n')[:-2] + "\n]}"
    body = bytearray(text.encode())
    if kind == "damaged":
        start = draw(st.integers(0, len(body)))
        damage = draw(st.binary(max_size=20) | st.sampled_from(JSON_PIECES))
        body[start : start + draw(st.integers(0, 20))] = damage
    return bytes(body), draw(HEADERS)


@pytest.mark.slow
@pytest.mark.usefixtures("assessing")
@settings(
    max_examples=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.lists(hostile(), min_size=30, max_size=60))
async def test_what_cannot_be_read_is_put_aside_and_every_event_that_can_be_is_recorded_or_put_aside(
    broker: Broker,
    database: Database,
    owner: asyncpg.Connection,
    tenant: Tenant,
    api: ApiClient,
    sent: Sequence[Hostile],
) -> None:
    await rules_for_all(api)
    neighbours: list[AnyEvent] = [points(new_id(), new_id(), 3) for _ in sent]
    bodies = [body.replace(b"TENANT", str(tenant.tenant_id).encode()) for body, _ in sent]
    for body, (_, headers), neighbour in zip(bodies, sent, neighbours, strict=True):
        await broker.publish(OutgoingMessage(broker.topology.events_exchange, "0", body, headers, new_id()))
        await publish(broker, tenant.tenant_id, [neighbour])
    unreadable, foreign, ours = sorted_out(bodies, tenant)

    async def each_is_somewhere() -> bool:
        letters = await waiting_letters(broker)
        by_reason = Counter(letter["reasonCode"] for letter in letters)
        rows = await owner.fetch("SELECT event_id FROM events WHERE tenant_id = $1", tenant.tenant_id)
        found = {str(row["event_id"]) for row in rows} | {letter["eventId"] for letter in letters}
        return (
            by_reason["UnreadableMessage"] == len(unreadable)
            and by_reason["UnknownTenant"] == foreign
            and ours <= found
            and {str(one.event_id) for one in neighbours} <= {str(row["event_id"]) for row in rows}
        )

    await until(each_is_somewhere)
    letters = await drain(broker, broker.topology.dead_letters)
    aside = [letter.body for letter in letters if letter.headers["tallymarks-reason-code"] == "UnreadableMessage"]
    assert sorted(aside) == sorted(unreadable)
    assert await messages_ready(broker, broker.topology.events_queue(0)) == 0
    assert await differing_balances(database, tenant.tenant_id) == []
    earned = await owner.fetch(
        "SELECT event_id FROM transactions WHERE tenant_id = $1 AND amount = 3 AND event_id = ANY($2)",
        tenant.tenant_id,
        [one.event_id for one in neighbours],
    )
    assert len(earned) == len(neighbours)


async def rules_for_all(api: ApiClient) -> None:
    """Make rules that look at events of every type, once."""
    if (await api.get("/api/v1/admin/rules")).body["rules"]:
        return
    expression = {"type": "expression", "expression": "event.attributes.size() >= 0"}
    for event_type in ("action", "order", "transaction", "redemption"):
        await make_rule(api, event_type, give(1), criteria=[expression])
    for event_type in ("order", "transaction"):
        await make_rule(api, event_type, per_unit("1.5"))


def sorted_out(bodies: Sequence[bytes], tenant: Tenant) -> tuple[list[bytes], int, set[str]]:
    """Give the bodies that cannot be read, the number of events of nobody, and the ids of events of the tenant."""
    unreadable, foreign, ours = list[bytes](), 0, set[str]()
    for body in bodies:
        try:
            content: EventMessage = read_events(body)
        except ValidationError:
            unreadable.append(body)
            continue
        if content.tenant_id != tenant.tenant_id:
            foreign += len(content.events)
        else:
            # A redemption was recorded when it was debited, or never happened.
            ours |= {str(event.event_id) for event in content.events if not is_decided(event)}
    return unreadable, foreign, ours
