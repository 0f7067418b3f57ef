"""Segments, memberships, and when a membership lapses."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from dateutil.relativedelta import relativedelta
from pydantic import Field, model_validator

from tallymarks import limits
from tallymarks.errors import InvalidRequest
from tallymarks.values import Id, Instant, LongText, Model, RequiredText, Text, format_instant


class Status(StrEnum):
    """The life of a rule or a segment."""

    CONFIGURE = "configure"
    TEST = "test"
    ACTIVE = "active"
    INACTIVE = "inactive"
    ARCHIVED = "archived"


class ExpiryMode(StrEnum):
    """When a membership lapses by itself."""

    NONE = "none"
    UNTIL_ANNIVERSARY = "untilAnniversary"
    UNTIL_ANNIVERSARY_PLUS_YEAR = "untilAnniversaryPlusYear"
    PERIOD = "period"
    DATE = "date"


class Expiry(Model):
    """When a membership lapses: `count` and `unit` belong to `period`, `date` to `date`."""

    mode: ExpiryMode = ExpiryMode.NONE
    count: Annotated[int, Field(strict=True, ge=1, le=limits.EXPIRY_COUNT_MAX["days"])] | None = None
    unit: Literal["days", "months", "years"] | None = None
    date: Instant | None = None

    @model_validator(mode="after")
    def _fits_its_mode(self) -> "Expiry":
        if self.mode is ExpiryMode.PERIOD:
            if self.count is None or self.unit is None:
                raise ValueError("mode period needs count and unit")
            if self.count > limits.EXPIRY_COUNT_MAX[self.unit]:
                raise ValueError("a period is at most 5 years")
        elif self.count is not None or self.unit is not None:
            raise ValueError("count and unit belong to mode period")
        if (self.date is None) is (self.mode is ExpiryMode.DATE):
            raise ValueError("date belongs to mode date, which needs it")
        return self


class NewSegment(Model):
    """The body that creates or replaces a segment."""

    segment_id: Id | None = None
    """Made by the service where the caller gives none."""
    name: RequiredText
    """Unique in the tenant."""
    display_name: Text | None = None
    description: LongText | None = None
    status: Status = Status.ACTIVE
    expiry: Expiry = Expiry()


class Segment(Model):
    """A named group of customers."""

    segment_id: UUID
    tenant_id: UUID
    name: str
    display_name: str | None
    description: str | None
    status: Status
    expiry: Expiry
    created_at: Instant
    changed_at: Instant

    def takes_members(self, now: datetime) -> bool:
        """Only an active segment does, and one with a fixed date only before it."""
        return self.status is Status.ACTIVE and (self.expiry.date is None or self.expiry.date > now)


class Membership(Model):
    """A customer's membership of a segment as the page answers it."""

    segment_id: UUID
    tenant_id: UUID
    name: str
    description: str | None
    display_name: str | None
    created_at: Instant
    """When the customer joined."""
    changed_at: Instant
    source_event_id: UUID | None
    """The event whose assessment added the customer; null where a caller did."""
    expiry_date_time: Instant | None
    """When the membership lapses by itself; null is never."""


def require_near(expiry: Expiry, now: datetime) -> None:
    """Hold a fixed date to its bound.

    Raises:
        InvalidRequest: it is more than 5 years ahead.
    """
    if expiry.date is not None and expiry.date > now + relativedelta(years=limits.EXPIRY_YEARS_MAX):
        raise InvalidRequest.of("expiry.date", format_instant(expiry.date), "A date is at most 5 years ahead.")


def anniversary(customer_created_at: datetime, years: int) -> datetime:
    """Give the customer's nth anniversary, at the time of day (UTC) of joining.

    Counted from the day of joining itself, so a customer of 29 February has it on 28 February in other years and on
    29 February in leap years.
    """
    return customer_created_at + relativedelta(years=years)


def next_anniversary(customer_created_at: datetime, after: datetime) -> tuple[int, datetime]:
    """Give the first anniversary later than `after`, and which one it is."""
    years = max(after.year - customer_created_at.year, 1)
    while anniversary(customer_created_at, years) <= after:
        years += 1
    return years, anniversary(customer_created_at, years)


def lapses_at(expiry: Expiry, *, joined_at: datetime, customer_created_at: datetime) -> datetime | None:
    """Compute, when a customer joins, the instant at which the membership lapses; None is never.

    Periods of months and years keep the day of the month and the time of day (UTC), or take the month's last day where
    it has no such day: 31 January and a month is 28 (or 29) February, 29 February and a year is 28 February.
    """
    match expiry.mode:
        case ExpiryMode.NONE:
            return None
        case ExpiryMode.DATE:
            return expiry.date
        case ExpiryMode.PERIOD:
            return joined_at + _period(expiry)
        case ExpiryMode.UNTIL_ANNIVERSARY:
            return next_anniversary(customer_created_at, joined_at)[1]
        case ExpiryMode.UNTIL_ANNIVERSARY_PLUS_YEAR:
            years, _ = next_anniversary(customer_created_at, joined_at)
            return anniversary(customer_created_at, years + 1)


def _period(expiry: Expiry) -> relativedelta:
    count = expiry.count or 0
    match expiry.unit:
        case "days":
            return relativedelta(days=count)
        case "months":
            return relativedelta(months=count)
        case _:
            return relativedelta(years=count)


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Of two lapses the one that comes later, where None is never: joining again moves it forward, never back."""
    return None if one is None or other is None else max(one, other)
