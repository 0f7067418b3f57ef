"""One bad event or message never holds up the others: it is put aside with the reason, and can be seen."""

import math
from collections import Counter
from random import Random
from uuid import UUID

import asyncpg
import orjson
import pytest
from pydantic import ValidationError

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.database import Database
from tallymarks.errors import BalanceOutOfRange
from tallymarks.events import AnyEvent
from tallymarks.messages import event_messages, read_events
from tallymarks.rules.criteria import Check
from tallymarks.rules.criteria_shared import EveryEvent
from tallymarks.rules.facts import Facts
from tallymarks.service import new_id
from tests.integration.pipeline.parts import (
    RecordingAssessor,
    action,
    balances_of,
    count,
    differing_balances,
    drain,
    give,
    ledger_of,
    make_rule,
    messages_ready,
    points,
    publish,
    raw_message,
    seeded_ids,
    waiting_letters,
    working,
)
from tests.parts import START, ApiClient, Clock, Tenant, until

POISON = "Poison"
EVERY_EVENT = {"type": "everyEvent"}


def fail_on_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the criterion a fault that one nameSpace meets."""
    check = EveryEvent.check

    def faulty(self: EveryEvent, facts: Facts) -> Check:
        if facts.event.name_space == POISON:
            raise RuntimeError("a fault of ours")
        return check(self, facts)

    monkeypatch.setattr(EveryEvent, "check", faulty)


async def until_put_aside(broker: Broker, number: int) -> list[dict[str, object]]:
    """Wait for so many dead letters; gives them."""

    async def are_put_aside() -> bool:
        return await messages_ready(broker, broker.topology.dead_letters) >= number

    await until(are_put_aside)
    letters = await waiting_letters(broker)
    assert len(letters) == number
    return letters


async def until_has(owner: asyncpg.Connection, tenant: Tenant, customer_id: UUID, balance: int) -> None:
    """Wait until the customer is known and has so many points."""

    async def has_it() -> bool:
        return (await balances_of(owner, tenant.tenant_id)).get(customer_id) == balance

    await until(has_it)


async def error_events(owner: asyncpg.Connection, tenant: Tenant) -> list[asyncpg.Record]:
    """The events that make failures visible."""
    return list(
        await owner.fetch(
            "SELECT * FROM events WHERE tenant_id = $1 AND event_type = 'error' ORDER BY event_id", tenant.tenant_id
        )
    )


@pytest.mark.usefixtures("assessing")
async def test_an_event_that_passes_the_balances_bound_is_put_aside_and_all_others_count(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient
) -> None:
    ids = seeded_ids(1)
    customer_ids = [ids() for _ in range(10)]
    good: list[AnyEvent] = [points(ids(), customer_ids[number % 10], 2) for number in range(100)]
    poison = points(ids(), customer_ids[3], limits.POINTS_MAX)
    await publish(broker, tenant.tenant_id, [*good[:60], poison, *good[60:]])
    (letter,) = await until_put_aside(broker, 1)
    assert letter["eventId"] == str(poison.event_id)
    assert letter["tenantId"] == str(tenant.tenant_id)
    assert letter["reasonCode"] == BalanceOutOfRange.code
    assert "BalanceOutOfRange" in str(letter["reason"])

    async def all_others_count() -> bool:
        return len(await ledger_of(owner, tenant.tenant_id)) == 100

    await until(all_others_count)
    assert await balances_of(owner, tenant.tenant_id) == dict.fromkeys(customer_ids, 20)
    assert await differing_balances(database, tenant.tenant_id) == []
    found = await api.get("/api/v1/customers/events", customerId=poison.customer_id, eventType="error")
    (error,) = found.body["events"]
    assert error["nameSpace"] == "Error.BalanceOutOfRange"
    assert error["reference"] == str(poison.event_id)
    (recorded,) = await error_events(owner, tenant)
    body = orjson.loads(recorded["body"])
    assert body["event"]["eventId"] == str(poison.event_id)
    assert body["event"]["points"]["quantity"] == limits.POINTS_MAX
    assert await owner.fetchval("SELECT count(*) FROM events WHERE event_id = $1", poison.event_id) == 0


@pytest.mark.usefixtures("assessing")
async def test_an_event_that_our_own_fault_fails_is_put_aside_and_all_others_count(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_rule(api, "action", give(1), criteria=[EVERY_EVENT])
    fail_on_poison(monkeypatch)
    ids = seeded_ids(2)
    customer_id = ids()
    good = [action(ids(), customer_id, "Good") for _ in range(100)]
    poison = action(ids(), customer_id, POISON)
    await publish(broker, tenant.tenant_id, [*good[:7], poison, *good[7:]])
    (letter,) = await until_put_aside(broker, 1)
    assert letter["eventId"] == str(poison.event_id)
    assert letter["reasonCode"] == "AssessmentFailed"
    assert letter["reason"] == "RuntimeError: a fault of ours"

    async def all_others_count() -> bool:
        return await balances_of(owner, tenant.tenant_id) == {customer_id: 100}

    await until(all_others_count)
    (error,) = await error_events(owner, tenant)
    assert error["name_space"] == "Error.AssessmentFailed"
    assert error["reference"] == str(poison.event_id)
    assert error["created_at"] == START


async def test_finding_one_bad_event_takes_few_attempts(
    database: Database, broker: Broker, owner: asyncpg.Connection, tenant: Tenant, clock: Clock, api: ApiClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await make_rule(api, "action", give(1), criteria=[EVERY_EVENT])
    fail_on_poison(monkeypatch)
    ids = seeded_ids(3)
    customer_id = ids()
    events = [action(ids(), customer_id, "Good") for _ in range(128)]
    events[77] = action(ids(), customer_id, POISON)
    assessor = RecordingAssessor(database, broker, clock)
    async with working(database, broker, assessor, clock):
        await publish(broker, tenant.tenant_id, events)  # one customer's: one message, one batch
        await until_put_aside(broker, 1)

        async def is_over() -> bool:
            return assessor.took_effect == 127

        await until(is_over)
    assert assessor.attempts[0] == 128
    assert len(assessor.attempts) == 2 * math.log2(128) + 1


@pytest.mark.usefixtures("assessing")
async def test_a_batch_of_nothing_but_bad_events_is_put_aside_whole(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_rule(api, "action", give(1), criteria=[EVERY_EVENT])
    fail_on_poison(monkeypatch)
    ids = seeded_ids(4)
    events = [action(ids(), ids(), POISON) for _ in range(6)]
    await publish(broker, tenant.tenant_id, events)
    letters = await until_put_aside(broker, 6)
    assert {letter["eventId"] for letter in letters} == {str(event.event_id) for event in events}
    assert len(await error_events(owner, tenant)) == 6
    assert await count(owner, "customers", tenant.tenant_id) == 0


@pytest.mark.usefixtures("assessing")
async def test_one_tenants_bad_event_does_not_touch_another_tenant(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant
) -> None:
    ids = seeded_ids(5)
    customer_id = ids()
    bad = [points(ids(), customer_id, limits.POINTS_MAX) for _ in range(2)]
    good = points(ids(), customer_id, 5)
    for tenant_id, events in ((tenant.tenant_id, bad), (other_tenant.tenant_id, [good])):
        await publish(broker, tenant_id, events)
    (letter,) = await until_put_aside(broker, 1)
    assert letter["eventId"] == str(bad[1].event_id)

    await until_has(owner, other_tenant, customer_id, 5)
    assert await error_events(owner, other_tenant) == []


# --- messages that are no events of ours -----------------------------------------------------------------------------


def event_body(ids_of_tenant: UUID, **changes: object) -> bytes:
    """A message of one good event, with parts of it changed."""
    ids = seeded_ids(6)
    event = {
        "eventType": "action",
        "eventId": str(ids()),
        "customerId": str(ids()),
        "createdAt": "2026-03-14T09:26:53.589Z",
    }
    events = [event | changes.pop("event", {})]  # type: ignore[operator]
    return orjson.dumps({"schemaVersion": 1, "tenantId": str(ids_of_tenant), "events": events} | changes)


UNREADABLE: dict[str, dict[str, object] | bytes] = {
    "no JSON": b"not JSON",
    "no UTF-8": b'{"schemaVersion": 1, "tenantId": "\xff"}',
    "nothing": b"",
    "a NUL": b'{"\x00": 1}',
    "nested too deep": b"[" * 100_000,
    "another schema version": {"schemaVersion": 2},
    "no events": {"events": []},
    "no time": {"event": {"createdAt": None}},
    "an unknown kind": {"event": {"eventType": "baptism"}},
    "an unknown kind with a NUL in it": {"event": {"eventType": "a\x00b"}},
    "an unknown field with a NUL in its name": {"event": {"a\x00b": 1}},
    "a NUL in a text": {"event": {"nameSpace": "a\x00b"}},
    "no tenant": {"tenantId": "nobody"},
}


@pytest.mark.usefixtures("assessing")
@pytest.mark.parametrize("what", UNREADABLE)
async def test_a_message_that_cannot_be_read_is_put_aside_as_it_came(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant, what: str
) -> None:
    ids = seeded_ids(7)
    changes = UNREADABLE[what]
    body = changes if isinstance(changes, bytes) else event_body(tenant.tenant_id, **changes)
    await broker.publish(raw_message(broker, body))
    customer_id = ids()
    await publish(broker, tenant.tenant_id, [points(ids(), customer_id, 4)])
    (letter,) = await until_put_aside(broker, 1)
    assert letter["reasonCode"] == "UnreadableMessage"
    assert letter["reason"]
    assert letter["body"] == body.decode(errors="replace")

    await until_has(owner, tenant, customer_id, 4)
    assert await count(owner, "customers", tenant.tenant_id) == 1


EVENT = '{"eventType":"action","eventId":"%s","customerId":"%s","createdAt":"2026-03-14T09:26:53.589Z"%s}'
UNRECORDABLE = {
    "a line within, none between": (',\n"reference":"a"', ",", 2),
    "a number beyond all bounds, then another": (',"action":{"amount":1e999999,"amount":1}', ",\n", 1),
    "no number, then one": (',"action":{"amount":NaN,"amount":1}', ",\n", 1),
    "a NUL, then none": (',"reference":"a\\u0000","reference":"a"', ",\n", 1),
}
"""Of a message laid out as ours are: what its first event has, what is between its two events, and how many of them can
be read, and not be recorded as they are."""


@pytest.mark.usefixtures("assessing")
@pytest.mark.parametrize("what", UNRECORDABLE)
async def test_what_can_be_read_and_not_be_recorded_is_put_aside_as_it_was_read(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant, what: str
) -> None:
    ids = seeded_ids(8)
    of_first, between, unrecordable = UNRECORDABLE[what]
    events = between.join((EVENT % (ids(), ids(), of_first), EVENT % (ids(), ids(), "")))
    body = b'{"schemaVersion":1,"tenantId":"%b","events":[\n%b\n]}' % (str(tenant.tenant_id).encode(), events.encode())
    read = read_events(body).events
    await broker.publish(raw_message(broker, body))
    customer_id = ids()
    await publish(broker, tenant.tenant_id, [points(ids(), customer_id, 4)])

    await until_has(owner, tenant, customer_id, 4)
    letters = await until_put_aside(broker, unrecordable)
    assert len(await error_events(owner, tenant)) == unrecordable
    for good in read[unrecordable:]:
        await until_has(owner, tenant, good.customer_id, 0)
    assert {letter["reasonCode"] for letter in letters} == {"AssessmentFailed"}
    by_id = {str(event.event_id): event for event in read}
    for letter in await drain(broker, broker.topology.dead_letters):
        (event,) = read_events(letter.body).events
        assert event == by_id[str(letter.headers["tallymarks-event-id"])]
        orjson.loads(letter.body)


def damaged(random: Random, body: bytes) -> bytes:
    """Bytes that are no message, or what is left of one."""
    start, length = random.randrange(len(body)), random.randrange(1, 30)
    return random.choice(
        (
            random.randbytes(random.randrange(300)),
            body[:start],
            body[:start] + random.randbytes(length) + body[start + length :],
            body[:start] + bytes([body[start] ^ 1 << random.randrange(8)]) + body[start + 1 :],
        )
    )


@pytest.mark.usefixtures("assessing")
async def test_random_bytes_among_messages_are_put_aside_and_every_event_that_can_be_read_counts(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    random, ids = Random(1), seeded_ids(1)
    unreadable, aside, counting = 0, 0, set()
    for _ in range(50):
        good = points(ids(), ids(), 3)
        await publish(broker, tenant.tenant_id, [good])
        counting.add(good.event_id)
        (message,) = event_messages(broker.topology, tenant.tenant_id, [points(ids(), ids(), 4)], new_id)
        body = damaged(random, message.body)
        await broker.publish(raw_message(broker, body))
        try:
            content = read_events(body)
        except ValidationError:
            unreadable += 1
            continue
        of_ours = {event.event_id for event in content.events} if content.tenant_id == tenant.tenant_id else set()
        aside += len(content.events) - len(of_ours)
        counting |= of_ours
    letters = await until_put_aside(broker, unreadable + aside)
    assert Counter(letter["reasonCode"] for letter in letters) == +Counter(
        UnreadableMessage=unreadable, UnknownTenant=aside
    )
    assert unreadable > 25

    async def all_count() -> bool:
        rows = await owner.fetch("SELECT event_id FROM transactions WHERE tenant_id = $1", tenant.tenant_id)
        return sorted(row["event_id"] for row in rows) == sorted(counting)

    await until(all_count)


@pytest.mark.usefixtures("assessing")
async def test_the_reason_of_another_schema_version_names_it(broker: Broker, tenant: Tenant) -> None:
    await broker.publish(raw_message(broker, event_body(tenant.tenant_id, schemaVersion=2)))
    (letter,) = await until_put_aside(broker, 1)
    assert "schemaVersion" in str(letter["reason"])


@pytest.mark.usefixtures("assessing")
async def test_events_of_a_tenant_that_does_not_exist_are_put_aside_and_nothing_is_kept(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    ids = seeded_ids(8)
    nobody, event = ids(), points(ids(), ids(), 1)
    await publish(broker, nobody, [event])
    (letter,) = await until_put_aside(broker, 1)
    assert letter["reasonCode"] == "UnknownTenant"
    assert letter["eventId"] == str(event.event_id)
    for table in ("events", "customers", "transactions"):
        assert await count(owner, table) == 0
