"""Criteria on what every event has, and on current memberships."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal
from uuid import UUID

from tallymarks.events import EventBase, EventType
from tallymarks.rules.claims import Claim, Texts
from tallymarks.rules.criterion import Check, CriterionBase, FoundBy, listed
from tallymarks.rules.facts import Facts
from tallymarks.values import RequiredText, Text


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

    def found_by(self) -> FoundBy:
        """Find it by the nameSpace or its beginning."""
        return FoundBy("nameSpace" if self.operator == "equals" else "nameSpacePrefix", self.value)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell the nameSpace or its beginning."""
        yield Claim("value", "nameSpace", Texts(self.value, is_whole=self.operator == "equals"))


class EventText(CriterionBase):
    """A text that every event may have, compared whole."""

    value: RequiredText

    def check(self, facts: Facts) -> Check:
        """Compare the text."""
        saw = self._text(facts.event)
        return Check(saw == self.value, saw)

    def found_by(self) -> FoundBy:
        """Find it by the text."""
        return FoundBy(self.type, self.value)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell the text."""
        yield Claim("value", self.type, Texts(self.value))

    @abstractmethod
    def _text(self, event: EventBase) -> str | None: ...


class Reference(EventText):
    """Matches the event's reference."""

    type: Literal["reference"]

    def _text(self, event: EventBase) -> str | None:
        return event.reference


class Campaign(EventText):
    """Matches the event's campaign."""

    type: Literal["campaign"]

    def _text(self, event: EventBase) -> str | None:
        return event.campaign


def attribute_text(key: str, value: str) -> str:
    """Give an attribute as one text; neither part can have a NUL."""
    return f"{key}\x00{value}"


class AttributeEquals(CriterionBase):
    """Matches when one of the event's attributes has this key and this value."""

    type: Literal["attribute"]
    key: RequiredText
    value: Text

    def found_by(self) -> FoundBy:
        """Events with this attribute."""
        return FoundBy("attribute", attribute_text(self.key, self.value))

    def check(self, facts: Facts) -> Check:
        """Look for the key and the value among the attributes; a key may stand there more than once."""
        values = [attribute.value for attribute in facts.event.attributes if attribute.key == self.key]
        return Check(self.value in values, listed(values))


class SegmentCriterion(CriterionBase):
    """Matches when the customer is, or is not, a current member of the segment."""

    segment_id: UUID

    wanted: ClassVar[Literal["member", "not a member"]]

    def check(self, facts: Facts) -> Check:
        """Look at the memberships as they are before the event."""
        saw = "member" if facts.customer.is_member(self.segment_id, facts.now) else "not a member"
        return Check(saw == self.wanted, saw)

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segment asked about."""
        yield self.segment_id

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell what the customer is."""
        yield Claim("segmentId", f"segment {self.segment_id}", Texts(self.wanted))


class InSegment(SegmentCriterion):
    """Matches when the customer is a current member of the segment."""

    type: Literal["inSegment"]
    wanted: ClassVar = "member"


class NotInSegment(SegmentCriterion):
    """Matches when the customer is not a current member of the segment."""

    type: Literal["notInSegment"]
    wanted: ClassVar = "not a member"
