"""A rule: event type, criteria (all must match), fulfilments, limits, date range; its status, and its versions."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tallymarks import limits
from tallymarks.events import EventType
from tallymarks.rules import soundness
from tallymarks.rules.criteria import Criterion
from tallymarks.rules.criterion import RULE_TYPES
from tallymarks.rules.fulfilments import Fulfilment
from tallymarks.rules.rule_limits import RuleLimits
from tallymarks.segments import Status
from tallymarks.values import Id, Instant, LongText, Model, RequiredText


class RuleContent(Model):
    """What a rule says, which is what another version of it changes."""

    name: RequiredText
    description: LongText = ""
    event_type: Annotated[EventType, Field(json_schema_extra={"not": {"enum": ["error", "reversal"]}})]
    from_at: Instant | None = None
    """The first instant of events that it looks at."""
    to_at: Instant | None = None
    """The instant from which on it looks at no more events."""
    criteria: Annotated[tuple[Criterion, ...], Field(max_length=limits.RULE_CRITERIA_MAX)] = ()
    """All must match; none is every event."""
    fulfilments: Annotated[tuple[Fulfilment, ...], Field(min_length=1, max_length=limits.RULE_FULFILMENTS_MAX)]
    limits: RuleLimits | None = None
    """Null: it may have its effect any number of times."""

    @field_validator("event_type")
    @classmethod
    def _can_be_assessed(cls, value: EventType) -> EventType:
        if value not in RULE_TYPES:
            raise ValueError(f"{value} events are not assessed")
        return value

    @field_validator("limits")
    @classmethod
    def _limits_mean_something(cls, value: RuleLimits | None, info: ValidationInfo) -> RuleLimits | None:
        """Look at the fields before this one; one that is wrong itself is not among them."""
        if value is None:
            return None
        if info.data.get("event_type") is EventType.BASKET:
            raise ValueError("nothing of a basket is recorded, so there is nothing to limit")
        fulfilments = info.data.get("fulfilments")
        if value.points_total is not None and fulfilments and not any(one.gives_points() for one in fulfilments):
            raise ValueError("pointsTotal needs a fulfilment that gives points")
        return value

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "RuleContent":
        if self.from_at is not None and self.to_at is not None and self.from_at >= self.to_at:
            raise ValueError("fromAt must be before toAt")
        return self

    def says_the_same(self, other: "RuleContent") -> bool:
        """Tell whether both have the same content, whatever else they have."""
        return all(getattr(self, name) == getattr(other, name) for name in RuleContent.model_fields)

    def segments_named(self) -> Iterator[tuple[str, UUID]]:
        """Give each segment that the rule names, with its place in the rule."""
        for kind, parts in (("criteria", self.criteria), ("fulfilments", self.fulfilments)):
            for place, part in enumerate(parts):
                for segment_id in part.segment_ids():
                    yield f"{kind}.{place}.segmentId", segment_id


class NewRule(RuleContent):
    """The body that creates a rule."""

    rule_id: Id | None = None
    """Made by the service where the caller gives none."""
    status: Status = Status.CONFIGURE
    """Only an active rule looks at events."""

    @model_validator(mode="after")
    def _is_sound(self) -> "NewRule":
        found = soundness.problems(self.event_type, self.criteria, self.fulfilments, self.to_at)
        soundness.require(found, title=type(self).__name__)
        return self


class VersionedContent(RuleContent):
    """What a tenant's rule says of the events of a span of time."""

    rule_id: UUID
    tenant_id: UUID
    version: int
    """Counts the contents that the rule has had since it became active; 1 before that."""
    effective_from: Instant | None
    """The first instant of events that this version looks at; null: any."""
    effective_to: Instant | None
    """The instant from which on the next version looks at events, or none does any more; null: it goes on."""


class RuleVersion(VersionedContent):
    """A version of a rule, which never changes but for its end."""

    created_at: Instant
    """When this version was made."""


class Rule(VersionedContent):
    """A rule of a tenant, with what its newest version says; or, to assess events of another time, another version."""

    status: Status
    created_at: Instant
    """When the rule was made, which decides its place among the others."""
    changed_at: Instant

    def applies_at(self, at: datetime) -> bool:
        """Tell whether an event of this instant is in the rule's and its version's range (their ends are excluded)."""
        return _is_in(at, self.from_at, self.to_at) and _is_in(at, self.effective_from, self.effective_to)


def _is_in(at: datetime, first: datetime | None, end: datetime | None) -> bool:
    return (first is None or at >= first) and (end is None or at < end)
