"""What the rules look at: one event and the state of its customer, as they are before the event has any effect."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from tallymarks.events import EventBase, EventType, PointsEvent, created_at_of
from tallymarks.segments import Segment

COUNTED_TYPES = (
    EventType.ACTION,
    EventType.ORDER,
    EventType.TRANSACTION,
    EventType.POINTS,
    EventType.REDEMPTION,
    EventType.ANNIVERSARY,
)
"""The types of event that totals count."""

VALUED_TYPES = (EventType.ACTION, EventType.ORDER, EventType.TRANSACTION, EventType.POINTS)
"""The types whose values totals add up: `action.amount`, `order.total`, `transaction.amount`, `points.quantity`."""


NONE: Mapping[Any, Any] = MappingProxyType({})
"""Nothing known, and nothing that anybody could put in."""


ZERO = Decimal(0)


class Totals(NamedTuple):
    """All that a customer has done so far, in the order in which it was assessed; kept beside the balance."""

    counts: Mapping[str, int] = NONE
    """Event type → number of events; a type that is not there is 0."""
    values: Mapping[str, Decimal] = NONE
    """Event type → sum of values; a type that is not there is 0."""
    points_earned: int = 0
    """The sum of what was earned: what was taken does not lessen it, a reversal of what was given does."""

    def count(self, event_type: str) -> int:
        """Give the number of events of the type."""
        return self.counts.get(event_type, 0)

    def value(self, event_type: str) -> Decimal:
        """Give the cumulative value of the events of the type."""
        return self.values.get(event_type, ZERO)

    @property
    def spend(self) -> Decimal:
        """Orders and transactions together."""
        return self.value(EventType.ORDER) + self.value(EventType.TRANSACTION)

    def plus(self, event: EventBase, event_type: str) -> "Totals":
        """Count the event in."""
        value, values = event.value, self.values
        if value:
            values = {**values, event_type: values.get(event_type, ZERO) + value}
        earned = self.points_earned
        if isinstance(event, PointsEvent) and event.points.quantity > 0:
            earned += event.points.quantity
        return Totals({**self.counts, event_type: self.counts.get(event_type, 0) + 1}, values, earned)

    def plus_all(self, other: "Totals") -> "Totals":
        """Count together what was done in two spans of time."""
        return Totals(
            {name: self.count(name) + other.count(name) for name in {**self.counts, **other.counts}},
            {name: self.value(name) + other.value(name) for name in {**self.values, **other.values}},
            self.points_earned + other.points_earned,
        )


NOTHING_DONE = Totals()


class Window(NamedTuple):
    """A question about the past: how many events of one type and nameSpace lie in a span of time."""

    event_type: str
    name_space: str | None
    after: datetime
    """Excluded."""
    until: datetime
    """Included: the createdAt of the event that asks."""
    count_max: int
    """More than these need not be told apart."""


class UseKey(NamedTuple):
    """What the uses of a rule by one customer are counted under."""

    rule_id: UUID
    period: str
    """`life`, or the unit of a calendar period."""
    period_from: datetime
    """The beginning of the period; `limits.INSTANT_MIN` of a whole life."""


@dataclass(slots=True)
class CustomerState:
    """A customer under the account lock; never changed, but not frozen either: one is made for each event."""

    customer_id: UUID
    created_at: datetime
    balance: int
    memberships: Mapping[UUID, datetime | None]
    """Segment → when the membership lapses (None: never); lapsed ones may still be in it."""
    totals: Totals = NOTHING_DONE
    uses: Mapping[UseKey, int] = field(default_factory=lambda: NONE)
    """How often each limited rule has matched, where any rule has limits; what is not there is 0."""
    recent: tuple[tuple[str, str | None, datetime], ...] = ()
    """Type, nameSpace and createdAt of the events assessed in this transaction, which no window read counts."""

    def is_member(self, segment_id: UUID, now: datetime) -> bool:
        """Tell whether the customer is a member at this instant."""
        if segment_id not in self.memberships:
            return False
        lapses_at = self.memberships[segment_id]
        return lapses_at is None or lapses_at > now


@dataclass(slots=True)
class Facts:
    """All that a criterion or a fulfilment may ask; never changed, and not frozen for the same reason."""

    event: EventBase
    event_type: str
    customer: CustomerState
    """As before the event; its totals do not count the event yet."""
    segments: Mapping[UUID, Segment]
    now: datetime
    balance_before: int
    """The balance before the event's own points were moved: for a points event, without them."""
    windows: Mapping[Window, int] = field(default_factory=lambda: NONE)
    """What was read of the past before this transaction; a window that is not there counts 0."""
    memo: dict[type, Any] = field(init=False, default_factory=dict, compare=False, repr=False)
    """What some criterion has worked out of the rest, for others of its kind that look at the same event."""

    @property
    def totals_after(self) -> Totals:
        """The totals with the event counted in."""
        known: Totals | None = self.memo.get(Totals)
        if known is None:
            known = self.memo[Totals] = self.customer.totals.plus(self.event, self.event_type)
        return known

    @property
    def balance_after(self) -> int:
        """The balance with the event's own points moved."""
        moved = self.event.points.quantity if isinstance(self.event, PointsEvent) else 0
        return self.balance_before + moved

    def counted(self, window: Window) -> int:
        """Count the events in the window, without the one that asks; exact up to the window's `count_max`."""
        in_transaction = sum(
            1
            for event_type, name_space, created_at in self.customer.recent
            if event_type == window.event_type
            and name_space == window.name_space
            and window.after < created_at <= window.until
        )
        return self.windows.get(window, 0) + in_transaction


def counted_in(customer: CustomerState, facts: Facts, *, is_looked_back_at: bool) -> CustomerState:
    """Give the state that the next event meets: that after the effects of this one, with it counted in."""
    recent = customer.recent
    if is_looked_back_at:
        recent = (*recent, (facts.event_type, facts.event.name_space, created_at_of(facts.event)))
    return CustomerState(
        customer.customer_id,
        customer.created_at,
        customer.balance,
        customer.memberships,
        facts.totals_after,
        customer.uses,
        recent,
    )
