"""Criteria on what every event has, and on current memberships."""

from collections.abc import Iterator
from typing import Literal
from uuid import UUID

from tallymarks.events import EventType
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


class Reference(CriterionBase):
    """Matches the event's reference."""

    type: Literal["reference"]
    value: RequiredText

    def check(self, facts: Facts) -> Check:
        """Compare the reference."""
        return Check(facts.event.reference == self.value, facts.event.reference)

    def found_by(self) -> FoundBy:
        """Find it by the reference."""
        return FoundBy("reference", self.value)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell the reference."""
        yield Claim("value", "reference", Texts(self.value))


class Campaign(CriterionBase):
    """Matches the event's campaign."""

    type: Literal["campaign"]
    value: RequiredText

    def check(self, facts: Facts) -> Check:
        """Compare the campaign."""
        return Check(facts.event.campaign == self.value, facts.event.campaign)

    def found_by(self) -> FoundBy:
        """Find it by the campaign."""
        return FoundBy("campaign", self.value)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell the campaign."""
        yield Claim("value", "campaign", Texts(self.value))


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
    """A condition on a current membership."""

    segment_id: UUID

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segment asked about."""
        yield self.segment_id

    def _saw(self, facts: Facts) -> str:
        return "member" if facts.customer.is_member(self.segment_id, facts.now) else "not a member"

    def _claim(self, wanted: str) -> Claim:
        return Claim("segmentId", f"segment {self.segment_id}", Texts(wanted))


class InSegment(SegmentCriterion):
    """Matches when the customer is a current member of the segment."""

    type: Literal["inSegment"]

    def check(self, facts: Facts) -> Check:
        """Look at the memberships as they are before the event."""
        saw = self._saw(facts)
        return Check(saw == "member", saw)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell that the customer is a member."""
        yield self._claim("member")


class NotInSegment(SegmentCriterion):
    """Matches when the customer is not a current member of the segment."""

    type: Literal["notInSegment"]

    def check(self, facts: Facts) -> Check:
        """Look at the memberships as they are before the event."""
        saw = self._saw(facts)
        return Check(saw == "not a member", saw)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell that the customer is no member."""
        yield self._claim("not a member")
