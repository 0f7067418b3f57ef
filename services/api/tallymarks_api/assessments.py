"""Telling how an event was assessed: which rules looked at it, what each criterion saw, and what came of it."""

from uuid import UUID

from tallymarks.credentials import Role
from tallymarks.database import Connection
from tallymarks.errors import EventNotFound
from tallymarks.events import RecordedType
from tallymarks.rule_sets import rules_of_versions
from tallymarks.rules.explanation import Explanation, expand, expand_followed, versions_named
from tallymarks.sql import assessments as sql
from tallymarks.sql import events as events_sql
from tallymarks.values import Instant, Model
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing

TAG = "Events"


class EventPath(Model):
    """One event."""

    event_id: UUID


class EventAssessment(Model):
    """How an event was assessed."""

    event_id: UUID
    tenant_id: UUID
    customer_id: UUID
    event_type: RecordedType
    created_at: Instant
    assessed_at: Instant | None
    """Null for a redemption that no assessor has looked at yet."""
    explanation: Explanation | None
    """Null where none is kept: its time is over, explanations were off, or it is an error, which no rule looks at."""


async def get_assessment(call: Call[EventPath, Nothing, None]) -> Answer:
    """Answer which rules looked at an event, what each criterion wanted and saw, and what each fulfilment made.

    A points transaction is a points event of its own: follow `pointsEventId` to what points rules made of it.
    """
    event_id = call.path.event_id
    async with call.parts.database.transaction(call.tenant_id) as connection:
        event = await connection.fetchrow(events_sql.SELECT_ASSESSED, call.tenant_id, event_id)
        if event is None:
            raise EventNotFound.of("eventId", str(event_id))
        fields = dict(event)
        explanation = await _explanation(connection, call.tenant_id, event_id, fields.pop("source_event_id"))
    return Answer(EventAssessment(**fields, explanation=explanation))


async def _explanation(
    connection: Connection, tenant_id: UUID, event_id: UUID, source_event_id: UUID | None
) -> Explanation | None:
    """Read what was kept of the event, or of it with the one that it followed from."""
    kept = await connection.fetchval(sql.SELECT, tenant_id, event_id)
    if kept is not None:
        rules = await rules_of_versions(connection, tenant_id, versions_named(kept))
        return expand(event_id, kept, rules)
    if source_event_id is None:
        return None
    kept_of_source = await connection.fetchval(sql.SELECT, tenant_id, source_event_id)
    return None if kept_of_source is None else expand_followed(source_event_id, kept_of_source)


ENDPOINTS = (
    Endpoint(
        "GET", "/api/v1/events/{eventId}/assessment", TAG, "Explain how an event was assessed", get_assessment,
        answers={200: EventAssessment}, path_parameters=EventPath, query=Nothing, refusals=(EventNotFound,),
        role=Role.ADMIN,
    ),
)  # fmt: skip
