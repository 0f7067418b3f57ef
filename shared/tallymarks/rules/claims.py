"""What a criterion lets through, in a form in which criteria that exclude each other are found before a rule is saved.

Only what is certain is claimed: two claims about one subject that share nothing can never both hold.
"""

from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from math import lcm
from typing import NamedTuple

from tallymarks import limits

WHOLE = 10**limits.AMOUNT_DIGITS_AFTER_POINT_MAX
"""One, counted in the last digit that an amount may have: then every number is whole."""

FAR = 10**40
"""Beyond every sum."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The multiples of `every` from `least` to `most` but for some, all counted in the last digit of an amount."""

    least: int = -FAR
    most: int = FAR
    every: int = 1
    without: frozenset[int] = frozenset()

    @classmethod
    def whole(cls, least: int, most: int) -> "Numbers":
        """Whole numbers, both ends included."""
        return cls(least * WHOLE, most * WHOLE, every=WHOLE)

    @classmethod
    def of(cls, value: Decimal | int) -> "Numbers":
        """Just this number."""
        return cls(scaled(value), scaled(value))

    def both(self, other: "Numbers") -> "Numbers":
        """Give what both let through."""
        return Numbers(
            max(self.least, other.least),
            min(self.most, other.most),
            lcm(self.every, other.every),
            self.without | other.without,
        )

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is let through: one more than those left out is enough to look at."""
        first = -(-self.least // self.every) * self.every
        some = islice(range(first, self.most + 1, self.every), len(self.without) + 1)
        return all(number in self.without for number in some)


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts with this beginning, or the one text that it is."""

    beginning: str
    is_whole: bool = True
    is_empty: bool = False

    def both(self, other: "Texts") -> "Texts":
        """Give what both let through."""
        shorter, longer = sorted((self, other), key=lambda texts: len(texts.beginning))
        fits = longer.beginning.startswith(shorter.beginning)
        is_longer = len(longer.beginning) > len(shorter.beginning)
        return Texts(
            longer.beginning,
            self.is_whole or other.is_whole,
            is_empty=self.is_empty or other.is_empty or not fits or (shorter.is_whole and is_longer),
        )


Allowed = Numbers | Texts


class Claim(NamedTuple):
    """What one field of a criterion asks of its subject."""

    field: str
    """The field's name in JSON."""
    subject: str
    """What is asked about: claims about the same subject must agree."""
    allowed: Allowed


def scaled(value: Decimal | int) -> int:
    """Count a number in the last digit that an amount may have."""
    return int(Decimal(value).scaleb(limits.AMOUNT_DIGITS_AFTER_POINT_MAX))


def both(one: Allowed, other: Allowed) -> Allowed:
    """Give what both let through; they are about the same subject, so of the same kind."""
    match one, other:
        case Numbers(), Numbers():
            return one.both(other)
        case Texts(), Texts():
            return one.both(other)
    raise TypeError(f"{one} and {other} are about one subject and of two kinds")
