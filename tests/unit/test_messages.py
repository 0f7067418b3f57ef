"""How events travel: packed by partition, bounded, in order, and the same at the other end."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tallymarks import limits
from tallymarks.broker import OutgoingMessage, Topology
from tallymarks.events import AnyEvent, EventBase
from tallymarks.messages import (
    dead_letter,
    event_json,
    event_messages,
    is_decided,
    read_events,
    unreadable_letter,
)
from tests.unit.builders import (
    CUSTOMER,
    EVENT,
    OTHER_CUSTOMER,
    TENANT,
    action,
    events,
    generated,
    id_of,
    ids,
    order,
    points,
    redemption,
    texts,
    transaction,
)

TOPOLOGY = Topology("test", partitions=4)
SIZE_OF_ENVELOPE_MAX = 128


def packed(sent: Sequence[EventBase], topology: Topology = TOPOLOGY) -> list[OutgoingMessage]:
    return list(event_messages(topology, TENANT, sent, ids()))


def unpacked(messages: Sequence[OutgoingMessage]) -> list[AnyEvent]:
    return [event for message in messages for event in read_events(message.body).events]


class TestPartition:
    @pytest.mark.parametrize(
        ("customer_id", "of_four", "of_256"),
        [(CUSTOMER, 3, 199), (OTHER_CUSTOMER, 3, 71), (UUID(int=0), 2, 90), (UUID(int=2**128 - 1), 1, 21)],
    )
    def test_is_the_same_on_every_machine_and_in_every_version(
        self, customer_id: UUID, of_four: int, of_256: int
    ) -> None:
        assert TOPOLOGY.partition(TENANT, customer_id) == of_four
        assert Topology("other", 256).partition(TENANT, customer_id) == of_256

    @generated
    @given(st.uuids(), st.uuids(), st.integers(1, 256))
    def test_is_in_range(self, tenant_id: UUID, customer_id: UUID, partitions: int) -> None:
        assert 0 <= Topology("test", partitions).partition(tenant_id, customer_id) < partitions

    def test_spreads_customers_of_a_tenant_and_tenants_of_a_customer(self) -> None:
        assert {TOPOLOGY.partition(TENANT, id_of(number)) for number in range(100)} == {0, 1, 2, 3}
        assert {TOPOLOGY.partition(id_of(number), CUSTOMER) for number in range(100)} == {0, 1, 2, 3}


class TestEventMessages:
    def test_nothing_is_sent_where_there_is_nothing(self) -> None:
        assert packed([]) == []

    def test_a_message_says_whose_it_is_and_where_it_goes(self) -> None:
        (message,) = packed([action()])
        assert message.exchange == "test.events"
        assert message.routing_key == str(TOPOLOGY.partition(TENANT, CUSTOMER))
        assert message.headers == {"tallymarks-tenant-id": str(TENANT), "tallymarks-schema-version": 1}
        assert message.message_id == ids()()
        assert message.is_mandatory
        assert read_events(message.body).tenant_id == TENANT

    def test_a_trace_context_is_carried_on(self) -> None:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        (message,) = event_messages(TOPOLOGY, TENANT, [action()], ids(), parent)
        assert message.headers["traceparent"] == parent

    def test_what_is_absent_stays_absent(self) -> None:
        (message,) = packed([action()])
        assert orjson.loads(message.body) == {
            "schemaVersion": 1,
            "tenantId": str(TENANT),
            "events": [
                {
                    "eventType": "action",
                    "eventId": str(EVENT),
                    "customerId": str(CUSTOMER),
                    "attributes": [],
                    "createdAt": "2026-03-14T09:26:53.589Z",
                    "action": {},
                }
            ],
        }

    @generated
    @given(st.lists(events(), max_size=10))
    def test_every_event_arrives_once_and_the_same(self, sent: Sequence[AnyEvent]) -> None:
        by_customer = Topology("test", 256)
        messages = packed(sent, by_customer)
        arrived = unpacked(messages)
        for customer_id in (CUSTOMER, OTHER_CUSTOMER):
            assert [event for event in arrived if event.customer_id == customer_id] == [
                event for event in sent if event.customer_id == customer_id
            ]
        assert len(arrived) == len(sent)
        for message in messages:
            for event in read_events(message.body).events:
                assert str(by_customer.partition(TENANT, event.customer_id)) == message.routing_key

    @pytest.mark.parametrize("number", [1, 250, 251, 500, 1_000])
    def test_messages_are_bounded_in_events_and_full(self, number: int) -> None:
        assert limits.MESSAGE_EVENTS_MAX == 250
        sent = [action(event_id=id_of(place)) for place in range(number)]
        messages = packed(sent)
        sizes = [len(read_events(message.body).events) for message in messages]
        assert sizes[:-1] == [250] * (len(sizes) - 1)
        assert 0 < sizes[-1] <= 250
        assert unpacked(messages) == sent
        assert len({message.message_id for message in messages}) == len(messages)

    def test_messages_are_bounded_in_bytes(self) -> None:
        sent = [order(event_id=id_of(place), order=large_order(40)) for place in range(40)]
        size = len(event_json(sent[0]))
        assert limits.MESSAGE_BYTES_MAX // size in range(3, 39)
        messages = packed(sent)
        assert unpacked(messages) == sent
        for message in messages:
            assert len(message.body) <= limits.MESSAGE_BYTES_MAX + SIZE_OF_ENVELOPE_MAX
        for message in messages[:-1]:
            assert len(message.body) > limits.MESSAGE_BYTES_MAX - size - SIZE_OF_ENVELOPE_MAX

    def test_an_event_that_is_over_the_bound_by_itself_travels_alone(self) -> None:
        large = order(event_id=id_of(2), order=large_order(1_000))
        assert len(event_json(large)) > limits.MESSAGE_BYTES_MAX
        sent = [action(event_id=id_of(1)), large, action(event_id=id_of(3))]
        messages = packed(sent)
        assert [[event.event_id for event in read_events(message.body).events] for message in messages] == [
            [id_of(1)],
            [id_of(2)],
            [id_of(3)],
        ]


class TestWhatIsRecorded:
    """What is recorded of an event is what travelled, where that is known event by event."""

    def test_an_event_is_recorded_as_it_travelled(self) -> None:
        (message,) = packed([action(), action(event_id=id_of(2), reference="a\n,\n{}")])
        body = message.body.replace(b'"attributes":[]', b'"attributes": []')
        first, second = read_events(body).events
        assert event_json(first) == event_json(action()).replace(b":[]", b": []")
        assert orjson.loads(event_json(second))["reference"] == "a\n,\n{}"
        assert b'"attributes": []' in event_json(second)

    def test_a_changed_copy_is_not(self) -> None:
        (message,) = packed([action()])
        (event,) = read_events(message.body).events
        changed = event.model_copy(update={"reference": "changed"})
        assert event_json(changed) == event_json(action(reference="changed"))

    @pytest.mark.parametrize(
        "layout",
        [
            lambda body: orjson.dumps(orjson.loads(body)),
            lambda body: orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2),
            lambda body: body.replace(b",\n", b", "),
            lambda body: body.replace(b'"action":{', b'"action":\n{').replace(b',"attributes"', b',\n"attributes"'),
            lambda body: b" " + body,
            lambda body: body + b" ",
        ],
        ids=["compact", "indented", "on one line", "with more lines", "with more before", "with more after"],
    )
    def test_nor_one_of_a_message_that_is_laid_out_otherwise(self, layout: Callable[[bytes], bytes]) -> None:
        sent = [action(), action(event_id=id_of(2))]
        (message,) = packed(sent)
        events_read = read_events(layout(message.body)).events
        assert [event_json(event) for event in events_read] == [event_json(event) for event in sent]


def large_order(items: int) -> dict[str, object]:
    """An order of about this many half kilobytes."""
    return {"total": 1, "items": [{"sku": "s" * 200, "name": "n" * 200, "price": "19.99"}] * items}


class TestDeadLetter:
    def test_carries_the_event_and_the_reason(self) -> None:
        event = points(5)
        letter = dead_letter(
            TOPOLOGY, TENANT, event, reason_code="BalanceOutOfRange", reason="It is full.", new_id=ids()
        )
        assert letter.exchange == "test.dead-letters"
        assert letter.routing_key == str(TOPOLOGY.partition(TENANT, CUSTOMER))
        assert letter.is_mandatory
        assert letter.message_id == ids()()
        assert letter.headers == {
            "tallymarks-tenant-id": str(TENANT),
            "tallymarks-schema-version": 1,
            "tallymarks-event-id": str(EVENT),
            "tallymarks-reason-code": "BalanceOutOfRange",
            "tallymarks-reason": "It is full.",
        }
        assert unpacked([letter]) == [event]

    def test_a_long_reason_is_cut(self) -> None:
        letter = dead_letter(TOPOLOGY, TENANT, action(), reason_code="Code", reason="r" * 10_000, new_id=ids())
        assert letter.headers["tallymarks-reason"] == "r" * limits.REASON_LENGTH_MAX

    def test_a_reason_that_repeats_a_nul_can_be_stored(self) -> None:
        """No text and no JSON of the database can hold one."""
        letters = (
            dead_letter(TOPOLOGY, TENANT, action(), reason_code="Code", reason="a\x00b", new_id=ids()),
            unreadable_letter(TOPOLOGY, b"", "a\x00b", ids()),
        )
        assert [letter.headers["tallymarks-reason"] for letter in letters] == ["a\\x00b"] * 2

    @generated
    @given(events())
    def test_can_be_read_again_as_it_was(self, event: AnyEvent) -> None:
        letter = dead_letter(TOPOLOGY, TENANT, event, reason_code="Code", reason="", new_id=ids())
        content = read_events(letter.body)
        assert (content.tenant_id, content.events) == (TENANT, (event,))

    @pytest.mark.parametrize("body", [b"", b"\xff\x00", b"{}", b"null"])
    def test_what_is_no_event_is_put_aside_as_it_came(self, body: bytes) -> None:
        letter = unreadable_letter(TOPOLOGY, body, "r" * 10_000, ids())
        assert (letter.exchange, letter.body) == ("test.dead-letters", body)
        assert letter.headers == {
            "tallymarks-reason-code": "UnreadableMessage",
            "tallymarks-reason": "r" * limits.REASON_LENGTH_MAX,
        }


class TestReadEvents:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"schemaVersion":1,"tenantId":"7d444840-9dc0-11d1-b245-5ffdce74fad2","events":[]}',
            b'{"schemaVersion":1,"tenantId":"7d444840-9dc0-11d1-b245-5ffdce74fad2","events":[{}]}',
        ],
    )
    def test_refuses_what_is_not_ours(self, body: bytes) -> None:
        with pytest.raises(ValidationError):
            read_events(body)

    @generated
    @given(st.binary(max_size=500) | texts.map(str.encode))
    def test_refuses_whatever_is_no_message_and_raises_nothing_else(self, body: bytes) -> None:
        with pytest.raises(ValidationError) as raised:
            read_events(body)
        assert_can_be_put_aside(body, raised.value)

    @generated
    @given(st.lists(events(), min_size=1, max_size=3), st.data())
    def test_reads_a_damaged_message_as_another_or_refuses_it(
        self, sent: Sequence[AnyEvent], data: st.DataObject
    ) -> None:
        (message, *_) = packed(sent)
        body = bytearray(message.body)
        start = data.draw(st.integers(0, len(body)))
        body[start : start + data.draw(st.integers(0, 20))] = data.draw(
            st.binary(max_size=20) | st.sampled_from(JSON_PIECES)
        )
        assert_is_read_or_refused(bytes(body))

    @generated
    @given(st.lists(events(), min_size=1, max_size=3), st.data())
    def test_reads_a_message_with_anything_in_a_field_or_refuses_it(
        self, sent: Sequence[AnyEvent], data: st.DataObject
    ) -> None:
        (message, *_) = packed(sent)
        content = orjson.loads(message.body)
        place: Any = data.draw(st.sampled_from(list(places(content))))
        place[data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))] = data.draw(
            JSON
        )
        assert_is_read_or_refused(json.dumps(content).encode())

    def test_refuses_a_schema_that_it_does_not_know(self) -> None:
        (message,) = packed([action()])
        with pytest.raises(ValidationError, match="schemaVersion"):
            read_events(message.body.replace(b'"schemaVersion":1', b'"schemaVersion":2'))

    def test_knows_what_was_decided_before_it_was_sent(self) -> None:
        assert is_decided(redemption())
        for event in (action(), order(), transaction(), points()):
            assert not is_decided(event)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
"""Anything that a JSON text may say, and some that it may not: NaN, infinities, half of a surrogate pair."""
JSON_PIECES = [
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\\ud800",
    b"\\u0000",
    b"1e999",
    b"-0",
    b"9" * 20,
    b"[" * 20,
    b"NaN",
    b"\xed\xa0\x80",
]


def places(content: object) -> Iterator[object]:
    """Everything in a message that has fields or items."""
    if isinstance(content, dict | list) and content:
        yield content
        for part in content.values() if isinstance(content, dict) else content:
            yield from places(part)


def assert_can_be_put_aside(body: bytes, error: ValidationError) -> None:
    """Check that a letter of it can go through the outbox, which stores JSON and no NUL."""
    letter = unreadable_letter(TOPOLOGY, body, str(error), ids())
    assert letter.body == body
    assert "\x00" not in "".join(map(str, orjson.loads(orjson.dumps(letter.headers)).values()))


def assert_is_read_or_refused(body: bytes) -> None:
    """Check that what is read of a message is read again as the same, and that nothing but a refusal is raised."""
    try:
        content = read_events(body)
    except ValidationError as error:
        assert_can_be_put_aside(body, error)
        return
    again = event_messages(TOPOLOGY, content.tenant_id, content.events, ids())
    assert Counter(map(event_json, unpacked(list(again)))) == Counter(map(event_json, content.events))
