"""How events travel: many of one tenant in one message, each identified, deduplicated and put aside on its own."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from tallymarks import limits
from tallymarks.broker import OutgoingMessage, Topology
from tallymarks.events import SCHEMA_VERSION, EventBase, EventMessage, RedemptionEvent
from tallymarks.values import format_instant

TENANT_HEADER = "tallymarks-tenant-id"
SCHEMA_VERSION_HEADER = "tallymarks-schema-version"
REASON_CODE_HEADER = "tallymarks-reason-code"
REASON_HEADER = "tallymarks-reason"
EVENT_HEADER = "tallymarks-event-id"
TRACE_HEADER = "traceparent"

_BETWEEN = b",\n"
_TAIL = b"\n]}"


def event_json(event: EventBase) -> bytes:
    """Give an event as it travels and as it is recorded: as it came, or written anew, what is absent then left out."""
    travelled_as: bytes | None = getattr(event, "_travelled_as", None)
    return _written(event) if travelled_as is None else travelled_as


def _written(event: EventBase) -> bytes:
    return event.__pydantic_serializer__.to_json(event, exclude_none=True)


def followed_event_json(event: EventBase, source_event_id: UUID, *, rule_id: UUID | None, depth: int) -> bytes:
    """Give a points event as it is recorded: with what it followed from.

    Args:
        event: the points event.
        source_event_id: the event whose points transaction it is.
        rule_id: the rule that made the transaction; None where the source event itself did.
        depth: how many events lie before it; beyond `limits.POINTS_DEPTH_MAX` it is not assessed.
    """
    origin = b',"sourceEventId":"%b","assessmentRuleId":%b,"depth":%d}'
    return _written(event)[:-1] + origin % (str(source_event_id).encode(), _id_or_null(rule_id), depth)


@lru_cache(maxsize=1_000)
def _id_or_null(rule_id: UUID | None) -> bytes:
    return b"null" if rule_id is None else b'"%b"' % str(rule_id).encode()


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
    *,
    accepted_at: datetime | None = None,
) -> Iterator[Packed]:
    """Pack events likewise, and tell which are in which message.

    Args:
        topology: where they go.
        tenant_id: whose they are.
        events: events.
        new_id: makes the ids of messages.
        trace_parent: the W3C trace context.
        accepted_at: the createdAt of those that have none.
    """
    by_partition: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
    stamp = b"" if accepted_at is None else b',"createdAt":"%b"}' % format_instant(accepted_at).encode()
    for place, event in enumerate(events):
        body = _written(event)
        if event.created_at is None and stamp:
            body = body[:-1] + stamp
        by_partition[topology.partition(tenant_id, event.customer_id)].append((place, body))
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
    message = EventMessage.model_validate_json(body)
    head = _head(message.tenant_id)
    if body.startswith(head) and body.endswith(_TAIL):
        texts = body[len(head) : -len(_TAIL)].split(_BETWEEN)
        # A cut within an event, where others have none between them, leaves pieces that are no JSON: the database
        # refuses those, and the events are put aside as they were read.
        if len(texts) == len(message.events):
            for event, text in zip(message.events, texts, strict=True):
                object.__setattr__(event, "_travelled_as", text)
    return message


def is_decided(event: EventBase) -> bool:
    """Tell whether the event was claimed and debited before it was sent, as redemptions are."""
    return isinstance(event, RedemptionEvent)


def _headers(tenant_id: UUID) -> dict[str, str | int]:
    return {TENANT_HEADER: str(tenant_id), SCHEMA_VERSION_HEADER: SCHEMA_VERSION}


def _storable(reason: str) -> str:
    """Bound a reason, which may repeat what was sent: a NUL of it could not be written to the outbox."""
    return reason[: limits.REASON_LENGTH_MAX].replace("\x00", "\\x00")


def _body(tenant_id: UUID, events: Sequence[bytes]) -> bytes:
    """Write a message: JSON, of which each event is a line, so that who has read it can tell their texts apart."""
    return _head(tenant_id) + _BETWEEN.join(events) + _TAIL


def _head(tenant_id: UUID) -> bytes:
    return b'{"schemaVersion":%d,"tenantId":"%b","events":[\n' % (SCHEMA_VERSION, str(tenant_id).encode())


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
