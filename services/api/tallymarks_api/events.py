"""Taking events in: answered once the broker has confirmed them, whether the database is there or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, TypeAdapter

from tallymarks import limits
from tallymarks.credentials import Role
from tallymarks.errors import ErrorBody, Forbidden, InvalidRequest, Refusal, Unavailable
from tallymarks.events import (
    AcceptedEvent,
    ActionEvent,
    EventBase,
    EventType,
    OrderEvent,
    PointsEvent,
    QueuedEvent,
    TransactionEvent,
)
from tallymarks.values import Model
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing
from tallymarks_api.edge import validated
from tallymarks_api.intake import Posted

TAG = "Events"
EXISTING_STATUS = 208
EVENT_FORMS: Mapping[str, type[EventBase]] = {
    EventType.ACTION: ActionEvent,
    EventType.ORDER: OrderEvent,
    EventType.TRANSACTION: TransactionEvent,
    EventType.POINTS: PointsEvent,
}


class EventBatch(Model):
    """Up to 1,000 events of any kinds that are assessed later."""

    events: Annotated[tuple[QueuedEvent, ...], Field(min_length=1, max_length=limits.BATCH_EVENTS_MAX)]


class _BatchForm(Model):
    """A batch, its events unread."""

    events: Annotated[tuple[object, ...], Field(min_length=1, max_length=limits.BATCH_EVENTS_MAX)]


class EventResult(Model):
    """What became of one event of a batch."""

    event_id: UUID | None
    """Null where the refused event had none that could be read."""
    customer_id: UUID | None
    tenant_id: UUID
    is_existing: bool
    status: int
    """What the event alone would have been answered with: 200, 208, 400 or 403."""
    error: ErrorBody | None


class EventResults(Model):
    """One result for each event, in order."""

    results: tuple[EventResult, ...]


@dataclass(frozen=True, slots=True)
class ReceivedBatch:
    """The events of a batch, each by itself: what was read, or why it is refused, beside what was sent."""

    items: Sequence[tuple[object, EventBase | Refusal]]


def read_batch(data: object) -> ReceivedBatch:
    """Read a batch so that one bad event does not refuse the others.

    Raises:
        InvalidRequest: it is no batch at all, or has too many events.
    """
    sent = validated(_BatchForm, data).events
    return ReceivedBatch([(event, _read_event(place, event)) for place, event in enumerate(sent)])


def _read_event(place: int, event: object) -> EventBase | Refusal:
    # Told by its type first, so that what is wrong is named by its place in the request alone.
    event_type = event.get("eventType") if isinstance(event, dict) else None
    form = EVENT_FORMS.get(event_type) if isinstance(event_type, str) else None
    if form is None:
        return InvalidRequest.of(
            f"events.{place}.eventType", event_type, f"eventType must be one of {', '.join(EVENT_FORMS)}."
        )
    try:
        return validated(form, event, under=("events", place))
    except InvalidRequest as refusal:
        return refusal


async def post_event(call: Call[Nothing, Nothing, EventBase]) -> Answer:
    """Take one event in."""
    (is_existing,) = await call.parts.intake.accept(Posted(call.tenant_id, [call.body], call.trace_parent))
    accepted = AcceptedEvent(
        event_id=call.body.event_id,
        customer_id=call.body.customer_id,
        tenant_id=call.tenant_id,
        is_existing=is_existing,
    )
    return Answer(accepted, EXISTING_STATUS if is_existing else 200)


async def post_events(call: Call[Nothing, Nothing, ReceivedBatch]) -> Answer:
    """Take a batch in: each event is accepted or refused by itself."""
    items = [(sent, _permitted(call.caller.role, event)) for sent, event in call.body.items]
    accepted = [event for _, event in items if isinstance(event, EventBase)]
    is_existing = iter(await call.parts.intake.accept(Posted(call.tenant_id, accepted, call.trace_parent)))
    return Answer(
        EventResults(
            results=tuple(
                _refused(call.tenant_id, sent, event)
                if isinstance(event, Refusal)
                else _accepted(call.tenant_id, event, is_existing=next(is_existing))
                for sent, event in items
            )
        )
    )


def _permitted(role: Role, event: EventBase | Refusal) -> EventBase | Refusal:
    if isinstance(event, PointsEvent) and role is not Role.ADMIN:
        return Forbidden.of("eventType", event.event_type, "A points event needs a key of role admin.")
    return event


def _accepted(tenant_id: UUID, event: EventBase, *, is_existing: bool) -> EventResult:
    return EventResult(
        event_id=event.event_id,
        customer_id=event.customer_id,
        tenant_id=tenant_id,
        is_existing=is_existing,
        status=EXISTING_STATUS if is_existing else 200,
        error=None,
    )


def _refused(tenant_id: UUID, sent: object, refusal: Refusal) -> EventResult:
    return EventResult(
        event_id=_readable_id(sent, "eventId"),
        customer_id=_readable_id(sent, "customerId"),
        tenant_id=tenant_id,
        is_existing=False,
        status=refusal.status,
        error=ErrorBody.of(refusal),
    )


def _readable_id(sent: object, name: str) -> UUID | None:
    """Give an id of a refused event, so that the caller finds it again."""
    try:
        return UUID(sent[name]) if isinstance(sent, dict) and isinstance(sent.get(name), str) else None
    except ValueError:
        return None


def _posting(path: str, summary: str, event: type[EventBase], role: Role = Role.INTEGRATION) -> Endpoint[Any, Any, Any]:
    return Endpoint(
        "POST", path, TAG, summary, post_event,
        answers={200: AcceptedEvent, EXISTING_STATUS: AcceptedEvent}, path_parameters=Nothing, query=Nothing,
        body=TypeAdapter(event), refusals=(Unavailable,), role=role,
    )  # fmt: skip


ENDPOINTS = (
    _posting("/api/v1/events/actions", "Post an action", ActionEvent),
    _posting("/api/v1/events/orders", "Post an order", OrderEvent),
    _posting("/api/v1/events/transactions", "Post a transaction", TransactionEvent),
    _posting("/api/v1/events/points", "Adjust points by hand", PointsEvent, Role.ADMIN),
    Endpoint(
        "POST", "/api/v1/events", TAG, "Post a batch of events", post_events,
        answers={200: EventResults}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(EventBatch),
        read=read_batch, refusals=(Unavailable,), body_bytes_max=limits.BATCH_BODY_BYTES_MAX,
    ),
)  # fmt: skip
