"""Comparing a number of the event or the customer with the one that a rule names."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import StrEnum
from operator import eq, ge, gt, le, lt, ne
from typing import Any, ClassVar, Generic, TypeVar

from tallymarks import limits
from tallymarks.events import EventType
from tallymarks.rules.claims import Claim, Numbers, scaled
from tallymarks.rules.criterion import Check, CriterionBase
from tallymarks.rules.facts import Facts
from tallymarks.values import format_amount

Number = TypeVar("Number", bound=Decimal | int)

AMOUNT_SCALED_MAX = 10 ** (limits.AMOUNT_DIGITS_BEFORE_POINT_MAX + limits.AMOUNT_DIGITS_AFTER_POINT_MAX) - 1
AMOUNTS = Numbers(-AMOUNT_SCALED_MAX, AMOUNT_SCALED_MAX)
"""All amounts that an event may carry."""


class Operator(StrEnum):
    """How what was seen must stand to the value."""

    EQUALS = "equals"
    NOT_EQUALS = "notEquals"
    LESS_THAN = "lessThan"
    AT_MOST = "atMost"
    AT_LEAST = "atLeast"
    MORE_THAN = "moreThan"


_COMPARE: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUALS: eq,
    Operator.NOT_EQUALS: ne,
    Operator.LESS_THAN: lt,
    Operator.AT_MOST: le,
    Operator.AT_LEAST: ge,
    Operator.MORE_THAN: gt,
}


class Comparison(CriterionBase, Generic[Number]):
    """Matches when a number compares so with the value; where there is no such number, nothing matches."""

    operator: Operator
    value: Number

    possible: ClassVar[Numbers] = Numbers()
    """The numbers that can be seen at all."""

    @abstractmethod
    def number(self, facts: Facts) -> Decimal | int | None:
        """Give the number, None where the event has none."""

    def check(self, facts: Facts) -> Check:
        """Compare exactly: amounts are decimals, all others whole numbers."""
        number = self.number(facts)
        if number is None:
            return Check(matched=False, saw=None)
        return Check(_COMPARE[self.operator](number, self.value), number_text(number))

    def subject(self) -> str:
        """Name what is compared: criteria on the same must agree."""
        return type(self).__name__

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - the same for most types
        """Tell which numbers match."""
        yield Claim("value", self.subject(), self.possible.both(matching(self.operator, self.value)))


def matching(operator: Operator, value: Decimal | int) -> Numbers:
    """Give the numbers that compare so with the value."""
    at = scaled(value)
    match operator:
        case Operator.EQUALS:
            return Numbers(least=at, most=at)
        case Operator.NOT_EQUALS:
            return Numbers(without=frozenset({at}))
        case Operator.LESS_THAN:
            return Numbers(most=at - 1)
        case Operator.AT_MOST:
            return Numbers(most=at)
        case Operator.AT_LEAST:
            return Numbers(least=at)
        case Operator.MORE_THAN:
            return Numbers(least=at + 1)


def number_text(number: Decimal | int) -> str:
    """Give a number for the explanation, never with an exponent."""
    return format_amount(number) if isinstance(number, Decimal) else str(number)
