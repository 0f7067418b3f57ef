"""How events travel: many of one tenant in one message, each identified, deduplicated and put aside on its own."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from tallymarks import limits
from tallymarks.broker import OutgoingMessage, Topology
from tallymarks.events import SCHEMA_VERSION, EventBase, EventMessage, RedemptionEvent

TENANT_HEADER = "tallymarks-tenant-id"
SCHEMA_VERSION_HEADER = "tallymarks-schema-version"
REASON_CODE_HEADER = "tallymarks-reason-code"
REASON_HEADER = "tallymarks-reason"
EVENT_HEADER = "tallymarks-event-id"
TRACE_HEADER = "traceparent"


def event_json(event: EventBase) -> bytes:
    """Give an event as it travels and as it is recorded; what is absent stays absent."""
    return event.__pydantic_serializer__.to_json(event, exclude_none=True)


def followed_event_json(event: EventBase, source_event_id: UUID, *, rule_id: UUID | None, depth: int) -> bytes:
    """Give a points event as it is recorded: with what it followed from.

    Args:
        event: the points event.
        source_event_id: the event whose points transaction it is.
        rule_id: the rule that made the transaction; None where the source event itself did.
        depth: how many events lie before it; beyond `limits.POINTS_DEPTH_MAX` it is not assessed.
    """
    rule = b"null" if rule_id is None else b'"%b"' % str(rule_id).encode()
    origin = b',"sourceEventId":"%b","assessmentRuleId":%b,"depth":%d}' % (str(source_event_id).encode(), rule, depth)
    return event_json(event)[:-1] + origin


@dataclass(frozen=True, slots=True)
class Packed:
    """A message, and the places of its events among those that were to be packed."""

    message: OutgoingMessage
    places: Sequence[int]


def event_messages(
    topology: Topology,
    tenant_id: UUID,
    events: Iterable[EventBase],
    new_id: Callable[[], UUID],
    trace_parent: str | None = None,
) -> Iterator[OutgoingMessage]:
    """Pack accepted events into messages: by partition, bounded in events and bytes, in the order given."""
    for packed in packed_events(topology, tenant_id, events, new_id, trace_parent):
        yield packed.message


def packed_events(
    topology: Topology,
    tenant_id: UUID,
    events: Iterable[EventBase],
    new_id: Callable[[], UUID],
    trace_parent: str | None = None,
) -> Iterator[Packed]:
    """Pack accepted events likewise, and tell which are in which message."""
    by_partition: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for place, event in enumerate(events):
        by_partition[topology.partition(tenant_id, event.customer_id)].append((place, event_json(event)))
    headers = _headers(tenant_id) if trace_parent is None else {**_headers(tenant_id), TRACE_HEADER: trace_parent}
    for partition, placed in by_partition.items():
        for part in _bounded(placed):
            message = OutgoingMessage(
                exchange=topology.events_exchange,
                routing_key=str(partition),
                body=_body(tenant_id, [body for _, body in part]),
                headers=headers,
                message_id=new_id(),
            )
            yield Packed(message, [place for place, _ in part])


def dead_letter(
    topology: Topology,
    tenant_id: UUID,
    event: EventBase,
    *,
    reason_code: str,
    reason: str,
    new_id: Callable[[], UUID],
) -> OutgoingMessage:
    """Put one event aside: the message that it would travel in, with the reason in its headers."""
    return OutgoingMessage(
        exchange=topology.dead_letters,
        routing_key=str(topology.partition(tenant_id, event.customer_id)),
        body=_body(tenant_id, [event_json(event)]),
        headers={
            **_headers(tenant_id),
            EVENT_HEADER: str(event.event_id),
            REASON_CODE_HEADER: reason_code,
            REASON_HEADER: _storable(reason),
        },
        message_id=new_id(),
    )


def unreadable_letter(topology: Topology, body: bytes, reason: str, new_id: Callable[[], UUID]) -> OutgoingMessage:
    """Put a message aside that is no events of ours."""
    return OutgoingMessage(
        exchange=topology.dead_letters,
        routing_key="0",
        body=body,
        headers={REASON_CODE_HEADER: "UnreadableMessage", REASON_HEADER: _storable(reason)},
        message_id=new_id(),
    )


def read_events(body: bytes) -> EventMessage:
    """Read the body of a message.

    Raises:
        pydantic.ValidationError: it is not one of ours, or of a schema version that this program does not know.
    """
    return EventMessage.model_validate_json(body)


def is_decided(event: EventBase) -> bool:
    """Tell whether the event was claimed and debited before it was sent, as redemptions are."""
    return isinstance(event, RedemptionEvent)


def _headers(tenant_id: UUID) -> dict[str, str | int]:
    return {TENANT_HEADER: str(tenant_id), SCHEMA_VERSION_HEADER: SCHEMA_VERSION}


def _storable(reason: str) -> str:
    """Bound a reason, which may repeat what was sent: a NUL of it could not be written to the outbox."""
    return reason[: limits.REASON_LENGTH_MAX].replace("\x00", "\\x00")


def _body(tenant_id: UUID, events: Sequence[bytes]) -> bytes:
    return b'{"schemaVersion":%d,"tenantId":%b,"events":[%b]}' % (
        SCHEMA_VERSION,
        orjson.dumps(str(tenant_id)),  # the driver has a class of its own, which orjson does not know
        b",".join(events),
    )


def _bounded(placed: Sequence[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    part: list[tuple[int, bytes]] = []
    size = 0
    for place, body in placed:
        if part and (len(part) == limits.MESSAGE_EVENTS_MAX or size + len(body) > limits.MESSAGE_BYTES_MAX):
            yield part
            part, size = [], 0
        part.append((place, body))
        size += len(body)
    if part:
        yield part
