"""Fulfilments: each a small class that turns a matched event into an effect.

A new fulfilment is one class, its name in `Fulfilment`, its row in docs/rules.md, and its tests; a new kind of effect
is also a branch in `evaluate.apply`, in the explanation, and in what writes or answers it.
"""

from collections.abc import Iterator
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Annotated, Literal
from uuid import UUID

from dateutil.relativedelta import relativedelta
from pydantic import Field, model_validator

from tallymarks import limits
from tallymarks.events import EventType, created_at_of
from tallymarks.rules.criterion import RECORDED_TYPES
from tallymarks.rules.facts import CustomerState, Facts
from tallymarks.rules.fulfilment import (
    Effect,
    FulfilmentBase,
    GivePoints,
    GrantDiscount,
    GrantVoucher,
    JoinSegment,
    LeaveSegment,
    ScheduleTrigger,
)
from tallymarks.rules.fulfilments_basket import OfferDiscount, OfferVoucher
from tallymarks.rules.triggers import depth_of
from tallymarks.segments import Segment, lapses_at, later
from tallymarks.values import Model, PointsMoved, Rate, RequiredText, Text

__all__ = [
    "Effect",
    "FulfilmentBase",
    "GivePoints",
    "GrantDiscount",
    "GrantVoucher",
    "JoinSegment",
    "LeaveSegment",
    "ScheduleTrigger",
]

SPEND_EVENT_TYPES = frozenset({EventType.ORDER, EventType.TRANSACTION, EventType.BASKET})


def join(segment: Segment, customer: CustomerState, now: datetime) -> JoinSegment | None:
    """Give what joining the segment now comes to: a later lapse for a current member, None where it takes nobody."""
    if not segment.takes_members(now):
        return None
    lapse = lapses_at(segment.expiry, joined_at=now, customer_created_at=customer.created_at)
    if customer.is_member(segment.segment_id, now):
        lapse = later(lapse, customer.memberships[segment.segment_id])
    return JoinSegment(segment.segment_id, lapse)


class GivePointsPerEvent(FulfilmentBase):
    """The same number of points for each matching event; a negative number takes points."""

    type: Literal["points"]
    amount: PointsMoved

    def gives_points(self) -> bool:
        """Give points, unless it takes them."""
        return self.amount > 0

    def fulfil(self, facts: Facts) -> Effect | None:  # noqa: ARG002 - it is the same for every event
        """Give the amount."""
        return GivePoints(self.amount)


class GivePointsPerUnit(FulfilmentBase):
    """Points for each unit of spend (order or basket total, transaction amount), rounded down to whole points."""

    type: Literal["pointsPerUnit"]
    rate: Rate

    def event_types(self) -> frozenset[EventType]:
        """Only orders and transactions are spend, and baskets would be."""
        return SPEND_EVENT_TYPES

    def gives_points(self) -> bool:
        """Give points."""
        return True

    def fulfil(self, facts: Facts) -> Effect | None:
        """Give rate × spend; none where it comes to less than a point, down (so away from zero) for a refund."""
        points = int((self.rate * (facts.event.spend or Decimal(0))).to_integral_value(ROUND_FLOOR))
        return GivePoints(points) if points else None


class _KeptFulfilment(FulfilmentBase):
    """Changes something that is kept, so it follows no basket."""

    def event_types(self) -> frozenset[EventType]:
        """All but baskets."""
        return RECORDED_TYPES


class AddToSegment(_KeptFulfilment):
    """Makes the customer a member, or moves the lapse of a member forward, never back."""

    type: Literal["addToSegment"]
    segment_id: UUID

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segment that is joined."""
        yield self.segment_id

    def fulfil(self, facts: Facts) -> Effect | None:
        """Join, unless the segment takes no members."""
        segment = facts.segments.get(self.segment_id)
        return join(segment, facts.customer, facts.now) if segment else None


class RemoveFromSegment(_KeptFulfilment):
    """Ends the customer's membership."""

    type: Literal["removeFromSegment"]
    segment_id: UUID

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segment that is left."""
        yield self.segment_id

    def fulfil(self, facts: Facts) -> Effect | None:
        """Leave, where the customer is a member."""
        return LeaveSegment(self.segment_id) if self.segment_id in facts.customer.memberships else None


class After(Model):
    """A span of time, of 5 years at the most."""

    count: Annotated[int, Field(strict=True, ge=1, le=limits.TRIGGER_COUNT_MAX["minutes"])]
    unit: Literal["minutes", "hours", "days", "months", "years"]

    @model_validator(mode="after")
    def _is_bounded(self) -> "After":
        if self.count > limits.TRIGGER_COUNT_MAX[self.unit]:
            raise ValueError("a trigger lies at most 5 years ahead")
        return self

    def later_than(self, at: datetime) -> datetime:
        """Give the instant that lies this span after another.

        Months and years keep the day of the month and the time of day (UTC), or take the month's last day where it has
        no such day, as memberships do.
        """
        match self.unit:
            case "minutes":
                return at + relativedelta(minutes=self.count)
            case "hours":
                return at + relativedelta(hours=self.count)
            case "days":
                return at + relativedelta(days=self.count)
            case "months":
                return at + relativedelta(months=self.count)
            case "years":
                return at + relativedelta(years=self.count)


class MakeTrigger(_KeptFulfilment):
    """Makes an action event of the customer come, once, a span of time after the event's createdAt.

    Where that lies in the past already, it comes at once.
    """

    type: Literal["trigger"]
    after: After
    name_space: RequiredText
    reference: Text | None = None

    def fulfil(self, facts: Facts) -> Effect | None:
        """Schedule it; none where rules have led to one another too often, or it lies beyond all instants."""
        due_at = self.after.later_than(created_at_of(facts.event))
        depth = depth_of(facts.event) + 1
        if depth > limits.TRIGGER_DEPTH_MAX or due_at > limits.INSTANT_MAX:
            return None
        return ScheduleTrigger(due_at, self.name_space, self.reference, depth)


Fulfilment = Annotated[
    GivePointsPerEvent
    | GivePointsPerUnit
    | AddToSegment
    | RemoveFromSegment
    | MakeTrigger
    | OfferDiscount
    | OfferVoucher,
    Field(discriminator="type"),
]
"""The registry of fulfilments."""
