"""Criteria that remember: what a customer has done so far, counted under the account lock.

"So far" is in the order in which events were assessed, for counts and sums; windows go by each event's createdAt.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from dateutil.relativedelta import relativedelta
from pydantic import Field, model_validator

from tallymarks import limits
from tallymarks.events import EventBase, EventType, created_at_of
from tallymarks.rules.claims import WHOLE, Claim, Numbers, scaled
from tallymarks.rules.comparison import Comparison, matching, number_text
from tallymarks.rules.criterion import RECORDED_TYPES, RULE_TYPES, Check, CriterionBase
from tallymarks.rules.facts import VALUED_TYPES, Facts, Window
from tallymarks.values import Amount, Instant, Model

Nth = Annotated[int, Field(strict=True, ge=1, le=limits.NTH_MAX)]
Counted = Annotated[int, Field(strict=True, ge=1, le=limits.WINDOW_EVENTS_MAX)]

RECORDED_EVENTS = Numbers.whole(1, limits.COUNT_MAX)
"""How many events of a type a customer may come to, the one that is looked at counted in."""

SMALLEST_STEP = timedelta(microseconds=1)
"""Of the instants that are stored: what is not earlier than T is later than T less this."""


def _number_of(facts: Facts) -> int:
    """Which event of its type this is for the customer, counted from 1."""
    return facts.customer.totals.count(facts.event_type) + 1


class NthEvent(CriterionBase):
    """Matches the customer's nth event of the rule's type, such as the 10th order."""

    type: Literal["nthEvent"]
    n: Nth
    looks_at: ClassVar = RECORDED_TYPES

    def check(self, facts: Facts) -> Check:
        """Count the event in, in the order of assessment."""
        number = _number_of(facts)
        return Check(number == self.n, str(number))

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell the number of the event."""
        yield Claim("n", "number of the event", RECORDED_EVENTS.both(Numbers.of(self.n)))


class EveryNthEvent(CriterionBase):
    """Matches each nth event of the rule's type: the 10th, the 20th, and so on."""

    type: Literal["everyNthEvent"]
    n: Nth
    looks_at: ClassVar = RECORDED_TYPES

    def check(self, facts: Facts) -> Check:
        """Count the event in, in the order of assessment."""
        number = _number_of(facts)
        return Check(number % self.n == 0, str(number))

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell what the number of the event is a multiple of."""
        yield Claim("n", "number of the event", RECORDED_EVENTS.both(Numbers(every=self.n * WHOLE)))


class Period(Model):
    """A span of time back from an event."""

    count: Annotated[int, Field(strict=True, ge=1, le=limits.WINDOW_PERIOD_MAX["days"])]
    unit: Literal["days", "months"]

    @model_validator(mode="after")
    def _is_bounded(self) -> "Period":
        if self.count > limits.WINDOW_PERIOD_MAX[self.unit]:
            raise ValueError("a period is at most 5 years")
        return self

    def before(self, at: datetime) -> datetime:
        """Give the instant this long before.

        A day has 24 hours. Months keep the day of the month and the time of day (UTC), or take the month's last day
        where it has no such day: a month before 31 March is 28 (or 29) February.
        """
        return at - relativedelta(days=self.count) if self.unit == "days" else at - relativedelta(months=self.count)


class WindowCriterion(CriterionBase):
    """Matches the Xth event, of the same type and nameSpace, in a span of time that ends with the event.

    Just the Xth: where one more has gone before, it does not match. Both ends go by createdAt, so a backdated event is
    counted among those before it.
    """

    looks_back: ClassVar[bool] = True

    count: Counted
    looks_at: ClassVar = RECORDED_TYPES

    def _check(self, facts: Facts, window: Window | None) -> Check:
        """Count the event in; it is itself in its window, where it has one."""
        number = 0 if window is None else facts.counted(window) + 1
        # What is beyond was not counted to its end.
        return Check(number == self.count, str(number) if number <= self.count else f"more than {self.count}")


class CountInPeriod(WindowCriterion):
    """Matches the Xth event within the last T days or months."""

    type: Literal["countInPeriod"]
    period: Period

    def check(self, facts: Facts) -> Check:
        """Count the events later than T before this one, up to it."""
        return self._check(facts, self._window(facts.event, facts.event_type))

    def windows(self, event: EventBase, event_type: str) -> Iterator[Window]:
        """Ask for the events of the period."""
        yield self._window(event, event_type)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell the number of events in this period."""
        subject = f"events in {self.period.count} {self.period.unit}"
        yield Claim("count", subject, Numbers.of(self.count))

    def _window(self, event: EventBase, event_type: str) -> Window:
        until = created_at_of(event)
        return Window(event_type, event.name_space, self.period.before(until), until, count_max=self.count)


class CountSince(WindowCriterion):
    """Matches the Xth event since an instant, which is included."""

    type: Literal["countSince"]
    since: Instant

    def check(self, facts: Facts) -> Check:
        """Count the events since then; one from before then never matches."""
        return self._check(facts, next(self.windows(facts.event, facts.event_type), None))

    def windows(self, event: EventBase, event_type: str) -> Iterator[Window]:
        """Ask for the events since then."""
        until = created_at_of(event)
        if until >= self.since:
            yield Window(event_type, event.name_space, self.since - SMALLEST_STEP, until, count_max=self.count)

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for every type
        """Tell the number of events since then."""
        yield Claim("count", f"events since {self.since}", Numbers.of(self.count))


def _lifetime_values(event_type: EventType) -> Numbers:
    """Points are whole, amounts are not."""
    return Numbers(every=WHOLE) if event_type is EventType.POINTS else Numbers()


class LifetimeEventValue(Comparison[Amount]):
    """Compares the sum of what all events of the rule's type were worth, this one counted in.

    An action is worth its amount, an order its total, a transaction its amount, a points event its quantity.
    """

    type: Literal["lifetimeEventValue"]
    looks_at: ClassVar = frozenset(VALUED_TYPES)

    def number(self, facts: Facts) -> Decimal:
        """Give the sum with this event."""
        return facts.totals_after.value(facts.event_type)

    def claims(self, event_type: EventType) -> Iterator[Claim]:
        """Tell which sums match."""
        allowed = _lifetime_values(event_type).both(matching(self.operator, self.value))
        yield Claim("value", self.subject(), allowed)


class LifetimeEventThreshold(CriterionBase):
    """Matches the event that carries the lifetime event value to the threshold or past it.

    Before the event it was below, with the event it is not. Where something was taken back in between, it may be
    reached again, and matches again.
    """

    type: Literal["lifetimeEventThreshold"]
    value: Annotated[Amount, Field(gt=0)]
    looks_at: ClassVar = frozenset(VALUED_TYPES)

    def check(self, facts: Facts) -> Check:
        """Look at the sum before and after."""
        before = facts.customer.totals.value(facts.event_type)
        after = facts.totals_after.value(facts.event_type)
        return Check(before < self.value <= after, f"{number_text(before)} before, {number_text(after)} after")

    def claims(self, event_type: EventType) -> Iterator[Claim]:
        """Tell that the sum with the event has reached the threshold."""
        allowed = _lifetime_values(event_type).both(Numbers(least=scaled(self.value)))
        yield Claim("value", LifetimeEventValue.__name__, allowed)


class LifetimeSpend(Comparison[Amount]):
    """Compares what all orders and transactions together were worth, this event counted in where it is one.

    A basket is not: its rules see what was spent before it.
    """

    type: Literal["lifetimeSpend"]
    looks_at: ClassVar = RULE_TYPES

    def number(self, facts: Facts) -> Decimal:
        """Give the sum with this event."""
        return facts.totals_after.spend
