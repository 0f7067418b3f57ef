"""Criteria on the numbers of actions, transactions, points events and anniversaries."""

from decimal import Decimal
from typing import ClassVar, Literal

from tallymarks import limits
from tallymarks.events import ActionEvent, AnniversaryEvent, EventType, PointsEvent, TransactionEvent
from tallymarks.rules.claims import WHOLE, Numbers
from tallymarks.rules.comparison import AMOUNTS, Comparison
from tallymarks.rules.facts import Facts
from tallymarks.values import Amount, Count, Points

BALANCES = Numbers(every=WHOLE)
MOVED = Numbers.whole(-limits.POINTS_MAX, limits.POINTS_MAX)


class ActionAmount(Comparison[Amount]):
    """Compares the action's amount."""

    type: Literal["actionAmount"]
    possible: ClassVar = AMOUNTS
    looks_at: ClassVar = frozenset({EventType.ACTION})

    def number(self, facts: Facts) -> Decimal | None:
        """Give the amount."""
        return facts.event.action.amount if isinstance(facts.event, ActionEvent) else None


class ActionCount(Comparison[Count]):
    """Compares the action's count."""

    type: Literal["actionCount"]
    possible: ClassVar = Numbers.whole(0, limits.COUNT_MAX)
    looks_at: ClassVar = frozenset({EventType.ACTION})

    def number(self, facts: Facts) -> int | None:
        """Give the count."""
        return facts.event.action.count if isinstance(facts.event, ActionEvent) else None


class TransactionAmount(Comparison[Amount]):
    """Compares the transaction's amount."""

    type: Literal["transactionAmount"]
    possible: ClassVar = AMOUNTS
    looks_at: ClassVar = frozenset({EventType.TRANSACTION})

    def number(self, facts: Facts) -> Decimal | None:
        """Give the amount."""
        return facts.event.transaction.amount if isinstance(facts.event, TransactionEvent) else None


class PointsComparison(Comparison[Points]):
    """Compares a number of points when points were moved."""

    looks_at: ClassVar = frozenset({EventType.POINTS})


class PointsQuantityIs(PointsComparison):
    """Compares how many points were earned (positive) or taken (negative)."""

    type: Literal["pointsQuantity"]
    possible: ClassVar = MOVED.both(Numbers(without=frozenset({0})))

    def number(self, facts: Facts) -> int | None:
        """Give the quantity."""
        return facts.event.points.quantity if isinstance(facts.event, PointsEvent) else None


class PreviousBalance(PointsComparison):
    """Compares the balance before these points were moved."""

    type: Literal["previousBalance"]
    possible: ClassVar = BALANCES

    def number(self, facts: Facts) -> int:
        """Give the balance before."""
        return facts.balance_before


class Balance(PointsComparison):
    """Compares the balance with these points moved."""

    type: Literal["balance"]
    possible: ClassVar = BALANCES

    def number(self, facts: Facts) -> int:
        """Give the balance after."""
        return facts.balance_after


class LifetimePoints(PointsComparison):
    """Compares all points ever earned, these counted in; what was taken or spent does not lessen them."""

    type: Literal["lifetimePoints"]
    possible: ClassVar = BALANCES.both(Numbers(least=0))

    def number(self, facts: Facts) -> int:
        """Give the sum of what was earned."""
        return facts.totals_after.points_earned


class YearsSinceJoining(Comparison[Count]):
    """Compares how many years ago, to the day, the customer joined."""

    type: Literal["yearsSinceJoining"]
    possible: ClassVar = Numbers.whole(1, limits.INSTANT_MAX.year - limits.INSTANT_MIN.year)
    looks_at: ClassVar = frozenset({EventType.ANNIVERSARY})

    def number(self, facts: Facts) -> int | None:
        """Give the years."""
        return facts.event.anniversary.years if isinstance(facts.event, AnniversaryEvent) else None
