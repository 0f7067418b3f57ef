"""What a rule does: the effects that there are, and what every fulfilment can tell, whatever its kind."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from tallymarks.events import EventType
from tallymarks.rules.facts import Facts
from tallymarks.values import Model


class DiscountTarget(StrEnum):
    """What a discount is taken from."""

    BASKET = "basket"
    """The basket's total."""
    DELIVERY = "delivery"
    """What shipping costs."""
    PRODUCT = "product"
    """The items that the discount selects."""


class DiscountKind(StrEnum):
    """How a discount is counted."""

    PERCENTAGE = "percentage"
    ABSOLUTE = "absolute"


@dataclass(frozen=True, slots=True)
class GivePoints:
    """A points transaction of this amount."""

    amount: int


@dataclass(frozen=True, slots=True)
class JoinSegment:
    """The customer is a member from now on, until the instant given (None: for good)."""

    segment_id: UUID
    lapses_at: datetime | None


@dataclass(frozen=True, slots=True)
class LeaveSegment:
    """The customer is no member from now on."""

    segment_id: UUID


@dataclass(frozen=True, slots=True)
class ScheduleTrigger:
    """An action event of the customer is to come."""

    due_at: datetime
    name_space: str
    reference: str | None
    depth: int
    """How many triggers lead to it, itself included."""


@dataclass(frozen=True, slots=True)
class GrantDiscount:
    """So much is to be taken off what is in the basket, or what its delivery costs: for the caller to do."""

    target: DiscountTarget
    kind: DiscountKind
    value: Decimal
    """Per cent, or an amount, as the rule has it."""
    amount: Decimal
    """What that comes to, with 4 decimals."""
    sku: str | None
    category: str | None


@dataclass(frozen=True, slots=True)
class GrantVoucher:
    """The customer may have this voucher: for the caller to give."""

    code: str
    description: str | None


Effect = GivePoints | JoinSegment | LeaveSegment | ScheduleTrigger | GrantDiscount | GrantVoucher


class FulfilmentBase(Model):
    """One thing that a matching rule does."""

    @abstractmethod
    def fulfil(self, facts: Facts) -> Effect | None:
        """Give the effect, None where there is none; never raises on a valid event of a fitting type."""

    def event_types(self) -> frozenset[EventType]:
        """Name the types of event that it can follow."""
        return frozenset(EventType)

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segments that must exist for the fulfilment to mean anything."""
        return iter(())

    def gives_points(self) -> bool:
        """Tell whether it can give points, so that a limit on them means anything."""
        return False
