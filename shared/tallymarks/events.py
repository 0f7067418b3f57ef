"""Customer events: what upstream platforms post, what travels through the broker, what is recorded."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, field_validator

from tallymarks import limits
from tallymarks.values import (
    Amount,
    Attributes,
    Count,
    Flag,
    Id,
    Instant,
    LongText,
    Model,
    PointsMoved,
    PositiveAmount,
    Text,
)

SCHEMA_VERSION = 1


class EventType(StrEnum):
    """Every kind of event; anniversary and error are made by the engine itself, and so are most of points."""

    ACTION = "action"
    ORDER = "order"
    TRANSACTION = "transaction"
    REDEMPTION = "redemption"
    POINTS = "points"
    ERROR = "error"
    ANNIVERSARY = "anniversary"
    REVERSAL = "reversal"
    BASKET = "basket"
    """Decided while the caller waits, and never recorded: only rules have this type."""


RecordedType = Literal[
    EventType.ACTION,
    EventType.ORDER,
    EventType.TRANSACTION,
    EventType.REDEMPTION,
    EventType.POINTS,
    EventType.ERROR,
    EventType.ANNIVERSARY,
    EventType.REVERSAL,
]
"""The types that there are events of afterwards: all but baskets."""


class EventBase(Model):
    """The fields that every event has."""

    __slots__ = ("_travelled_as",)
    """The JSON that it was read from, where its message was laid out as ours are; a copy has none."""

    event_id: Id
    """Unique in the tenant: sending the same id again never counts twice."""
    customer_id: Id
    """An unknown one creates the customer."""
    name_space: Text | None = None
    """Dotted, such as `Customer.Registration`."""
    reference: Text | None = None
    """The caller's own number."""
    campaign: Text | None = None
    attributes: Attributes = ()
    created_at: Instant | None = None
    """When it happened; the api stamps it on acceptance where the caller gives none."""

    @property
    def spend(self) -> Decimal | None:
        """What points per unit of spend are counted on; None where the event is no spend."""
        return None

    @property
    def value(self) -> Decimal | None:
        """What the lifetime value of events of this type adds up; None where the event has none."""
        return self.spend

    @property
    def purchase(self) -> "Order | None":
        """What is bought: of an order, or of a basket that may become one."""
        return None


class Action(Model):
    """What an action event may carry."""

    amount: Amount | None = None
    count: Count | None = None


class ActionEvent(EventBase):
    """A simple notification: a registration, a page visit, a survey, a referral."""

    event_type: Literal["action"] = "action"
    action: Action = Action()

    @property
    def value(self) -> Decimal | None:
        """The action's amount."""
        return self.action.amount


class OrderItem(Model):
    """One line of an order."""

    sku: Text | None = None
    name: Text | None = None
    vendor: Text | None = None
    category: Text | None = None
    type: Text | None = None
    quantity: Count | None = None
    price: Amount | None = None
    tags: Annotated[tuple[Text, ...], Field(max_length=limits.ITEM_TAGS_MAX, fail_fast=True)] = ()


class OrderPayment(Model):
    """One payment towards an order."""

    amount: Amount | None = None
    method: Text | None = None
    scheme: Text | None = None
    bank: Text | None = None
    bin: Text | None = None


class Order(Model):
    """A completed e-commerce order."""

    total: Amount
    tax_total: Amount | None = None
    shipping_total: Amount | None = None
    discount_total: Amount | None = None
    currency: Text | None = None
    items: Annotated[tuple[OrderItem, ...], Field(max_length=limits.ORDER_ITEMS_MAX, fail_fast=True)] = ()
    payments: Annotated[tuple[OrderPayment, ...], Field(max_length=limits.ORDER_PAYMENTS_MAX, fail_fast=True)] = ()


class OrderEvent(EventBase):
    """A completed e-commerce order."""

    event_type: Literal["order"] = "order"
    order: Order

    @property
    def spend(self) -> Decimal | None:
        """The order's total."""
        return self.order.total

    @property
    def purchase(self) -> Order | None:
        """The order."""
        return self.order


class BasketEvent(EventBase):
    """A basket that may become an order: its rules are asked at once, and nothing of it is recorded."""

    event_type: Literal["basket"] = "basket"
    basket: Order

    @property
    def spend(self) -> Decimal | None:
        """The basket's total."""
        return self.basket.total

    @property
    def purchase(self) -> Order | None:
        """The basket."""
        return self.basket


class Payment(Model):
    """A payment or transfer of funds."""

    amount: Amount
    currency: Text | None = None


class TransactionEvent(EventBase):
    """A payment or transfer of funds."""

    event_type: Literal["transaction"] = "transaction"
    transaction: Payment

    @property
    def spend(self) -> Decimal | None:
        """The transaction's amount."""
        return self.transaction.amount


class PointsQuantity(Model):
    """Points earned (positive) or taken (negative)."""

    quantity: PointsMoved


class PointsEvent(EventBase):
    """Points that were moved.

    Posted with a key of role admin it is an adjustment by hand, which may take a balance below zero. All others the
    engine makes: each points transaction is also a points event, which points rules look at.
    """

    event_type: Literal["points"] = "points"
    points: PointsQuantity

    @property
    def value(self) -> Decimal | None:
        """The points."""
        return Decimal(self.points.quantity)


class Redemption(Model):
    """Points that the customer spends."""

    points: Annotated[int, Field(strict=True, ge=1, le=limits.POINTS_MAX)]
    description: LongText | None = None


class RedemptionEvent(EventBase):
    """Points spent: decided and debited at once, assessed afterwards."""

    event_type: Literal["redemption"] = "redemption"
    redemption: Redemption


class ReversalEvent(EventBase):
    """An order or a transaction that is taken back, whole or in part, with what it gave; decided at once."""

    event_type: Literal["reversal"] = "reversal"
    reverses: Id
    """The eventId of the order or transaction, which has been assessed."""
    amount: PositiveAmount | None = None
    """How much of its value; all that is left where none is given."""


class Anniversary(Model):
    """How long the customer has been one."""

    years: Annotated[int, Field(strict=True, ge=1)]


class AnniversaryEvent(EventBase):
    """The anniversary of the customer's createdAt; made by the engine, once a year for each customer."""

    event_type: Literal["anniversary"] = "anniversary"
    anniversary: Anniversary


QueuedEvent = Annotated[ActionEvent | OrderEvent | TransactionEvent | PointsEvent, Field(discriminator="event_type")]
"""What a mixed batch may hold: all that is decided after it was accepted."""

AnyEvent = Annotated[
    ActionEvent | OrderEvent | TransactionEvent | PointsEvent | RedemptionEvent | AnniversaryEvent,
    Field(discriminator="event_type"),
]
"""What reaches the assessor."""


class EventMessage(Model):
    """The body of one broker message: events of one tenant, each identified and deduplicated on its own."""

    schema_version: Literal[1] = 1
    tenant_id: UUID
    events: Annotated[tuple[AnyEvent, ...], Field(min_length=1, max_length=limits.BATCH_EVENTS_MAX)]

    @field_validator("events")
    @classmethod
    def _stamped(cls, events: tuple[AnyEvent, ...]) -> tuple[AnyEvent, ...]:
        if any(event.created_at is None for event in events):
            raise ValueError("createdAt is missing: it is stamped on acceptance")
        return events


class AcceptedEvent(Model):
    """The answer to one posted event."""

    event_id: UUID
    customer_id: UUID
    tenant_id: UUID
    is_existing: Flag
    """True (and status 208) where the eventId was taken in before."""


class AcceptedRedemption(AcceptedEvent):
    """The answer to a redemption; a repeated one answers what the first one did."""

    balance: int
    """Points before the redemption."""
    pending_balance: int
    """Points after it."""


class AcceptedReversal(AcceptedEvent):
    """The answer to a reversal; a repeated one answers what the first one did."""

    reverses: UUID
    amount: Amount
    """How much of the event's value was taken back."""
    points: int
    """What that did to the balance: negative where points were taken back."""
    points_not_taken: int
    """What was left to the customer, where the tenant lets no reversal take a balance below zero."""
    balance: int
    """Points before the reversal."""
    pending_balance: int
    """Points after it."""


class RecordedEvent(Model):
    """One event as event search answers it."""

    event_id: UUID
    tenant_id: UUID
    customer_id: UUID
    created_at: Instant
    event_type: RecordedType
    name_space: str | None
    reference: str | None


def created_at_of(event: EventBase) -> datetime:
    """The instant of an accepted event, which always has one."""
    if event.created_at is None:
        raise ValueError(f"event {event.event_id} was never stamped")
    return event.created_at
