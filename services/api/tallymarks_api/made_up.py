"""What rules are tried on: made-up events, and customers of whom all may be made up."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from tallymarks import limits
from tallymarks.events import (
    ActionEvent,
    AnniversaryEvent,
    AnyEvent,
    BasketEvent,
    EventBase,
    EventType,
    OrderEvent,
    PointsEvent,
    RedemptionEvent,
    TransactionEvent,
)
from tallymarks.rules.facts import CustomerState, Totals
from tallymarks.values import Amount, Count, Id, Instant, Model, Points

NOT_GIVEN = UUID(int=0)
"""No caller can give this id: it stands for one that is not given."""


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class MadeUp(EventBase):
    """An event that nobody posted: it need not say whose it is."""

    event_id: Id = Field(default=NOT_GIVEN, json_schema_extra=_without_default)
    """Made up where the caller gives none; that one with this id may be recorded does not matter."""
    customer_id: Id = Field(default=NOT_GIVEN, json_schema_extra=_without_default)
    """Whose it is; an unknown one, or none, is a customer who joins now."""


class MadeUpAction(MadeUp, ActionEvent):
    """A made-up action."""


class MadeUpOrder(MadeUp, OrderEvent):
    """A made-up order."""


class MadeUpTransaction(MadeUp, TransactionEvent):
    """A made-up transaction."""


class MadeUpPoints(MadeUp, PointsEvent):
    """A made-up adjustment by hand."""


class MadeUpRedemption(MadeUp, RedemptionEvent):
    """A made-up redemption."""


class MadeUpAnniversary(MadeUp, AnniversaryEvent):
    """A made-up anniversary."""


class MadeUpBasket(MadeUp, BasketEvent):
    """A made-up basket."""


MadeUpEvent = Annotated[
    MadeUpAction | MadeUpOrder | MadeUpTransaction | MadeUpPoints | MadeUpRedemption | MadeUpAnniversary | MadeUpBasket,
    Field(discriminator="event_type"),
]
"""Of any type that rules look at."""

MADE_UP_FORMS: Mapping[str, type[MadeUp]] = {
    EventType.ACTION: MadeUpAction,
    EventType.ORDER: MadeUpOrder,
    EventType.TRANSACTION: MadeUpTransaction,
    EventType.POINTS: MadeUpPoints,
    EventType.REDEMPTION: MadeUpRedemption,
    EventType.ANNIVERSARY: MadeUpAnniversary,
    EventType.BASKET: MadeUpBasket,
}
_POSTED: Mapping[type[MadeUp], type[AnyEvent | BasketEvent]] = {
    MadeUpAction: ActionEvent,
    MadeUpOrder: OrderEvent,
    MadeUpTransaction: TransactionEvent,
    MadeUpPoints: PointsEvent,
    MadeUpRedemption: RedemptionEvent,
    MadeUpAnniversary: AnniversaryEvent,
    MadeUpBasket: BasketEvent,
}


class MadeUpMembership(Model):
    """A membership that the customer is said to have."""

    segment_id: UUID
    expiry_date_time: Instant | None = None
    """When it lapses; null is never."""


class MadeUpCounts(Model):
    """How many events of each type the customer is said to have had."""

    action: Count = 0
    order: Count = 0
    transaction: Count = 0
    points: Count = 0
    redemption: Count = 0
    anniversary: Count = 0


class MadeUpValues(Model):
    """What the events of each type are said to add up to."""

    action: Amount = Decimal(0)
    order: Amount = Decimal(0)
    transaction: Amount = Decimal(0)
    points: Amount = Decimal(0)


class MadeUpTotals(Model):
    """What the customer is said to have done so far."""

    counts: MadeUpCounts = MadeUpCounts()
    values: MadeUpValues = MadeUpValues()
    points_earned: Annotated[int, Field(strict=True, ge=0, le=limits.POINTS_MAX)] = 0


class TriedCustomer(Model):
    """One who exists, by the `customerId` alone; or one who is made up of the rest, and has no other past."""

    customer_id: Id | None = None
    created_at: Instant | None = None
    """When the customer joined; null is now."""
    balance: Points = 0
    memberships: Annotated[
        tuple[MadeUpMembership, ...], Field(max_length=limits.MADE_UP_MEMBERSHIPS_MAX, fail_fast=True)
    ] = ()
    totals: MadeUpTotals = MadeUpTotals()

    @field_validator("memberships")
    @classmethod
    def _name_each_segment_once(cls, value: tuple[MadeUpMembership, ...]) -> tuple[MadeUpMembership, ...]:
        if len({membership.segment_id for membership in value}) < len(value):
            raise ValueError("a segment is named more than once")
        return value

    @model_validator(mode="after")
    def _exists_or_is_made_up(self) -> "TriedCustomer":
        if self.customer_id is not None and self.model_fields_set != {"customer_id"}:
            raise ValueError("customerId names a customer as he is: nothing else of him can be given")
        return self

    def state(self, customer_id: UUID, now: datetime) -> CustomerState:
        """Give the made-up customer as rules see him: with what has not lapsed by now."""
        totals = self.totals
        return CustomerState(
            customer_id,
            self.created_at or now,
            self.balance,
            {
                membership.segment_id: membership.expiry_date_time
                for membership in self.memberships
                if membership.expiry_date_time is None or membership.expiry_date_time > now
            },
            Totals(totals.counts.model_dump(), totals.values.model_dump(), totals.points_earned),
        )


def posted(made_up: MadeUp, *, event_id: UUID, customer_id: UUID, now: datetime) -> AnyEvent | BasketEvent:
    """Give the event that it would be were it posted now.

    Args:
        made_up: the event.
        event_id: its id, where it has none.
        customer_id: whose it is.
        now: when it happens, where it does not say.
    """
    fields = {name: getattr(made_up, name) for name in type(made_up).model_fields}
    given = made_up.event_id if made_up.event_id != NOT_GIVEN else event_id
    stamped = {"event_id": given, "customer_id": customer_id, "created_at": made_up.created_at or now}
    return _POSTED[type(made_up)].model_construct(**{**fields, **stamped})
