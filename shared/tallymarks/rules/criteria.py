"""Criteria: each a small class that tells what it wants, what it saw, and whether they agree.

A new criterion is one class here, its name in `Criterion`, and its tests.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from tallymarks.events import EventBase, EventType
from tallymarks.rules.facts import Facts, Window
from tallymarks.values import Model, RequiredText, Text


@dataclass(frozen=True, slots=True)
class Check:
    """How one criterion looked at one event: `saw` is what it found, for the explanation."""

    matched: bool
    saw: str | None


class CriterionBase(Model):
    """One condition of a rule."""

    @abstractmethod
    def check(self, facts: Facts) -> Check:
        """Look at the event and the customer; never raises on a valid event."""

    def event_types(self) -> frozenset[EventType]:
        """Name the types of event that it can look at."""
        return frozenset(EventType)

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segments that must exist for the criterion to mean anything."""
        return iter(())

    def windows(self, event: EventBase, event_type: str) -> Iterator[Window]:  # noqa: ARG002 - most ask none
        """Ask what must be read of the past before the criterion can look at the event."""
        return iter(())


class EveryEvent(CriterionBase):
    """Matches every event of the rule's type."""

    type: Literal["everyEvent"]

    def check(self, facts: Facts) -> Check:
        """Match."""
        return Check(matched=True, saw=str(facts.event.event_id))


class NameSpace(CriterionBase):
    """Matches the event's nameSpace whole, or its beginning. Case counts."""

    type: Literal["nameSpace"]
    operator: Literal["equals", "beginsWith"] = "equals"
    value: RequiredText

    def check(self, facts: Facts) -> Check:
        """Compare the nameSpace."""
        saw = facts.event.name_space
        if saw is None:
            return Check(matched=False, saw=None)
        matched = saw == self.value if self.operator == "equals" else saw.startswith(self.value)
        return Check(matched, saw)


class Reference(CriterionBase):
    """Matches the event's reference."""

    type: Literal["reference"]
    value: RequiredText

    def check(self, facts: Facts) -> Check:
        """Compare the reference."""
        return Check(facts.event.reference == self.value, facts.event.reference)


class Campaign(CriterionBase):
    """Matches the event's campaign."""

    type: Literal["campaign"]
    value: RequiredText

    def check(self, facts: Facts) -> Check:
        """Compare the campaign."""
        return Check(facts.event.campaign == self.value, facts.event.campaign)


class AttributeEquals(CriterionBase):
    """Matches when one of the event's attributes has this key and this value."""

    type: Literal["attribute"]
    key: RequiredText
    value: Text

    def check(self, facts: Facts) -> Check:
        """Look for the key and the value among the attributes; a key may stand there more than once."""
        values = [attribute.value for attribute in facts.event.attributes if attribute.key == self.key]
        return Check(self.value in values, ", ".join(values) if values else None)


class SegmentCriterion(CriterionBase):
    """A condition on a current membership."""

    segment_id: UUID

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segment asked about."""
        yield self.segment_id

    def _is_member(self, facts: Facts) -> bool:
        return facts.customer.is_member(self.segment_id, facts.now)


class InSegment(SegmentCriterion):
    """Matches when the customer is a current member of the segment."""

    type: Literal["inSegment"]

    def check(self, facts: Facts) -> Check:
        """Look at the memberships as they are before the event."""
        is_member = self._is_member(facts)
        return Check(is_member, "member" if is_member else "not a member")


class NotInSegment(SegmentCriterion):
    """Matches when the customer is not a current member of the segment."""

    type: Literal["notInSegment"]

    def check(self, facts: Facts) -> Check:
        """Look at the memberships as they are before the event."""
        is_member = self._is_member(facts)
        return Check(not is_member, "member" if is_member else "not a member")


Criterion = Annotated[
    EveryEvent | NameSpace | Reference | Campaign | AttributeEquals | InSegment | NotInSegment,
    Field(discriminator="type"),
]
"""The registry of criteria."""
