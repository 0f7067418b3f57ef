"""One condition of a rule: what every criterion can tell, whatever its kind."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple
from uuid import UUID

from tallymarks import limits
from tallymarks.errors import cut
from tallymarks.events import EventBase, EventType
from tallymarks.rules.claims import Claim
from tallymarks.rules.facts import COUNTED_TYPES, Facts, Window
from tallymarks.values import Model

RECORDED_TYPES = frozenset(COUNTED_TYPES)
"""The types of event that a customer's past is made of, and that rules assess."""

RULE_TYPES = RECORDED_TYPES | {EventType.BASKET}
"""The types that a rule may have; a basket is looked at and not recorded."""


class Check(NamedTuple):
    """How one criterion looked at one event: `saw` is what it found, for the explanation."""

    matched: bool
    saw: str | None


class FoundBy(NamedTuple):
    """What an event must have for a criterion to match, so that rules are looked up instead of tried one by one."""

    field: str
    """One of those that `rule_index.TEXTS` reads, or `nameSpacePrefix`."""
    value: str
    """Equal to the event's field, or to one of them where it may have many; for `nameSpacePrefix` its beginning."""


class CriterionBase(Model):
    """One condition of a rule."""

    looks_at: ClassVar[frozenset[EventType]] = RULE_TYPES
    """The types of event that it can look at."""
    looks_back: ClassVar[bool] = False
    """Whether it asks about windows of the past."""

    type: str
    """Which kind it is: each has its own."""

    @property
    def sees_memberships(self) -> bool:
        """Whether it looks at memberships without naming their segments."""
        return False

    @abstractmethod
    def check(self, facts: Facts) -> Check:
        """Look at the event and the customer; never raises on a valid event."""

    def event_types(self) -> frozenset[EventType]:
        """Name the types of event that it can look at."""
        return self.looks_at

    def found_by(self) -> FoundBy | None:
        """Tell what an event must have to match, None where that is nothing that can be looked up."""
        return None

    def segment_ids(self) -> Iterator[UUID]:
        """Name the segments that must exist for the criterion to mean anything."""
        return iter(())

    def windows(self, event: EventBase, event_type: str) -> Iterator[Window]:  # noqa: ARG002 - most ask none
        """Ask what must be read of the past before the criterion can look at the event."""
        return iter(())

    def claims(self, event_type: EventType) -> Iterator[Claim]:  # noqa: ARG002 - most are the same for every type
        """Tell what an event of the type must be like to match, as far as it is certain."""
        return iter(())


def listed(values: Iterable[str]) -> str | None:
    """Give values as one text for the explanation, each once and cut to its bound; None where there are none."""
    distinct = dict.fromkeys(values)
    return cut(", ".join(distinct), limits.SAW_LENGTH_MAX) if distinct else None
