"""The limits of a rule: how often, and with how many points, it may have an effect."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from tallymarks import limits
from tallymarks.values import Model

Uses = Annotated[int, Field(strict=True, ge=1, le=limits.RULE_USES_MAX)]


class PeriodUnit(StrEnum):
    """A period of the calendar, in UTC."""

    DAY = "day"
    WEEK = "week"
    """From Monday on, as ISO 8601 has it."""
    MONTH = "month"
    YEAR = "year"


class PeriodLimit(Model):
    """So many matches of one customer in each period of the calendar."""

    count: Uses
    unit: PeriodUnit


class RuleLimits(Model):
    """How much a rule may do; a match beyond any of its limits has no effect at all. At least one is given."""

    per_customer: Uses | None = None
    """Matches of one customer, ever."""
    per_period: PeriodLimit | None = None
    """Matches of one customer in the period in which the event's createdAt lies."""
    total: Uses | None = None
    """Matches of all customers together."""
    points_total: Annotated[int, Field(strict=True, ge=1, le=limits.POINTS_MAX)] | None = None
    """Points given to all customers together: a match whose points do not fit in what is left gives nothing."""

    @model_validator(mode="after")
    def _limit_something(self) -> "RuleLimits":
        if all(limit is None for limit in (self.per_customer, self.per_period, self.total, self.points_total)):
            raise ValueError("at least one limit must be given")
        return self


def period_from(at: datetime, unit: PeriodUnit) -> datetime:
    """Give the first instant of the period of the calendar in which an instant (in UTC) lies."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match unit:
        case PeriodUnit.DAY:
            return midnight
        case PeriodUnit.WEEK:
            return midnight - timedelta(days=midnight.weekday())
        case PeriodUnit.MONTH:
            return midnight.replace(day=1)
        case PeriodUnit.YEAR:
            return midnight.replace(month=1, day=1)
