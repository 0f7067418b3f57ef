"""A rule: event type, criteria (all must match), fulfilments, status and date range."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from tallymarks import limits
from tallymarks.events import EventType
from tallymarks.rules.criteria import Criterion
from tallymarks.rules.fulfilments import Fulfilment
from tallymarks.segments import Status
from tallymarks.values import Id, Instant, LongText, Model, RequiredText


class RuleFields(Model):
    """What makes a rule."""

    name: RequiredText
    description: LongText = ""
    event_type: Annotated[EventType, Field(json_schema_extra={"not": {"const": EventType.ERROR}})]
    status: Status = Status.CONFIGURE
    """Only an active rule looks at events."""
    from_at: Instant | None = None
    """The first instant of events that it looks at."""
    to_at: Instant | None = None
    """The instant from which on it looks at no more events."""
    criteria: Annotated[tuple[Criterion, ...], Field(max_length=limits.RULE_CRITERIA_MAX)] = ()
    """All must match; none is every event."""
    fulfilments: Annotated[tuple[Fulfilment, ...], Field(min_length=1, max_length=limits.RULE_FULFILMENTS_MAX)]

    @field_validator("event_type")
    @classmethod
    def _can_be_assessed(cls, value: EventType) -> EventType:
        if value is EventType.ERROR:
            raise ValueError("error events are not assessed")
        return value

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "RuleFields":
        if self.from_at is not None and self.to_at is not None and self.from_at >= self.to_at:
            raise ValueError("fromAt must be before toAt")
        return self

    @model_validator(mode="after")
    def _fulfilments_fit_the_event_type(self) -> "RuleFields":
        for place, fulfilment in enumerate(self.fulfilments):
            if self.event_type not in fulfilment.event_types():
                raise ValueError(f"fulfilments.{place}: {fulfilment.type} cannot follow an event of this type")
        return self

    def segments_named(self) -> Iterator[tuple[str, UUID]]:
        """Give each segment that the rule names, with its place in the rule."""
        for kind, parts in (("criteria", self.criteria), ("fulfilments", self.fulfilments)):
            for place, part in enumerate(parts):
                for segment_id in part.segment_ids():
                    yield f"{kind}.{place}.segmentId", segment_id


class NewRule(RuleFields):
    """The body that creates or replaces a rule."""

    rule_id: Id | None = None
    """Made by the service where the caller gives none."""


class Rule(RuleFields):
    """A rule of a tenant."""

    rule_id: UUID
    tenant_id: UUID
    created_at: Instant
    changed_at: Instant

    def applies_at(self, at: datetime) -> bool:
        """Tell whether an event of this instant is in the rule's date range (its end is excluded)."""
        return (self.from_at is None or at >= self.from_at) and (self.to_at is None or at < self.to_at)
