"""Reversals: how much of what an event gave is taken back, and what that leaves of the customer's totals.

All partial reversals of an event together take back what one whole reversal would, to the point, and never more than
was given in between: each takes what is due of the sum so far, rounded down, less what was due before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import UUID

from tallymarks import limits
from tallymarks.errors import AlreadyReversed, AmountExceedsRest, LimitReached
from tallymarks.events import EventType
from tallymarks.rules.facts import Totals

REVERSIBLE_TYPES = frozenset({EventType.ORDER, EventType.TRANSACTION})
"""The types of event whose effect can be taken back."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an event's value that a reversal takes back."""

    value: Decimal
    """The event's."""
    before: Decimal
    """What earlier reversals took back."""
    amount: Decimal

    @property
    def is_last(self) -> bool:
        """Whether nothing is left after it."""
        return self.before + self.amount == self.value

    def of(self, points: int) -> int:
        """Give the share of points that were given (or, negative, taken), rounded towards zero."""
        due_before = self._due(points, self.before) if self.before else 0
        return (points if self.is_last else self._due(points, self.before + self.amount)) - due_before

    def _due(self, points: int, part: Decimal) -> int:
        # In whole ten-thousandths: a decimal would round products of so many digits.
        due = abs(points) * _smallest_units(part) // _smallest_units(self.value)
        return due if points > 0 else -due


def _smallest_units(amount: Decimal) -> int:
    return int(amount.scaleb(limits.AMOUNT_DIGITS_AFTER_POINT_MAX))


def share_of(reverses: UUID, value: Decimal, earlier: Sequence[Decimal], amount: Decimal | None) -> Share:
    """Decide how much of an event's value a reversal takes back.

    What has no positive value can be reversed as a whole only, since it has no parts.

    Args:
        reverses: the id of the event.
        value: the order's total, or the transaction's amount.
        earlier: what each reversal before this one took back.
        amount: how much is asked for; all that is left where None.

    Raises:
        AlreadyReversed: nothing is left.
        AmountExceedsRest: less is left than is asked for.
        LimitReached: this could only be the last reversal of the event, and leaves something.
    """
    before = sum(earlier, Decimal(0))
    rest = value - before
    if earlier and not rest:
        raise AlreadyReversed.of("reverses", str(reverses))
    if amount is not None and amount > rest:
        raise AmountExceedsRest.of("amount", str(amount), f"{max(rest, Decimal(0)):f} is left to reverse.")
    share = Share(value, before, rest if amount is None else amount)
    if not share.is_last and len(earlier) + 1 >= limits.REVERSALS_PER_EVENT_MAX:
        raise LimitReached("The event has been reversed so often that only all that is left can be.")
    return share


@dataclass(frozen=True, slots=True)
class Given:
    """What one fulfilment of one rule gave, or took: for the event itself, or for points events that followed."""

    rule_id: UUID
    rule_version: int | None
    """None where it is older than versions, and than points events of what rules give."""
    fulfilment_index: int
    description: str | None
    amount: int


@dataclass(frozen=True, slots=True)
class TakenBack:
    """One transaction of a reversal."""

    given: Given
    amount: int
    """Of the opposite sign."""


@dataclass(frozen=True, slots=True)
class Taking:
    """All that a reversal does to a balance."""

    taken_back: tuple[TakenBack, ...]
    points_not_taken: int
    """What would have taken the balance below zero, where it may not; it is not taken later either."""

    @property
    def points(self) -> int:
        """The sum."""
        return sum(one.amount for one in self.taken_back)


def take_back(given: Iterable[Given], share: Share, balance: int, *, may_go_below_zero: bool) -> Taking:
    """Turn what was given into what is taken back, one row for each fulfilment of each rule.

    Where the balance may not go below zero (or further below), first comes what is given back, then what is taken in
    the order of `given`, as far as the balance covers it.
    """
    due = [TakenBack(one, -share.of(one.amount)) for one in _by_fulfilment(given)]
    if may_go_below_zero:
        return Taking(tuple(one for one in due if one.amount), 0)
    covered = max(0, balance + sum(one.amount for one in due if one.amount > 0))
    taken_back: list[TakenBack] = []
    points_not_taken = 0
    for one in due:
        amount = max(one.amount, -covered)
        points_not_taken += amount - one.amount
        covered += min(amount, 0)
        taken_back.append(replace(one, amount=amount))
    return Taking(tuple(one for one in taken_back if one.amount), points_not_taken)


def _by_fulfilment(given: Iterable[Given]) -> Iterable[Given]:
    """Add up what a fulfilment gave more than once, for several points events: always the same, so of one sign."""
    sums: dict[tuple[UUID, int], Given] = {}
    for one in given:
        key = (one.rule_id, one.fulfilment_index)
        sums[key] = replace(one, amount=one.amount + sums[key].amount) if key in sums else one
    return sums.values()


def totals_after(totals: Totals, event_type: str, share: Share, taken_back: Sequence[TakenBack]) -> Totals:
    """Give the customer's totals without what was reversed, and with the points events of the reversal.

    The event's value falls by the share, its count by one with the last share. Of the points earned goes what was
    taken back, unless it was never counted there (it is older than that total).
    """
    points = EventType.POINTS
    counts = {**totals.counts, points: totals.count(points) + len(taken_back)}
    if share.is_last:
        counts[event_type] = totals.count(event_type) - 1
    values = {
        **totals.values,
        event_type: totals.value(event_type) - share.amount,
        points: totals.value(points) + sum(one.amount for one in taken_back),
    }
    unearned = sum(-one.amount for one in taken_back if one.amount < 0 and one.given.rule_version is not None)
    return Totals(counts, values, totals.points_earned - unearned)
