"""What the clients were answered: the truth that everything is held against afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tests.acceptance.installation import Json

ACCEPTED_STATUSES = frozenset({200, 208})
REFUSED_STATUSES = range(400, 500)
# What may differ between the answers to one event: whether it was known.
EXISTING = "isExisting"


class Outcome(Enum):
    """What the clients know of an event."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass
class Sent:
    """An event that was posted, once or more often, and all that was said about it."""

    kind: str
    event: Json
    amount: int | None = None
    """The points that it is worth where it is accepted; None: what a rule said that was changed, or the answer says."""
    answers: list[Json] = field(default_factory=list)
    """The bodies of what was answered 2xx."""
    refusals: int = 0
    unanswered: int = 0
    """Attempts that may or may not have done something: 5xx, a connection that broke."""

    @property
    def event_id(self) -> str:
        """The event's id."""
        return str(self.event["eventId"])

    @property
    def customer_id(self) -> str:
        """The customer's id."""
        return str(self.event["customerId"])

    @property
    def outcome(self) -> Outcome:
        """Accepted by any 2xx; refused only where every attempt was."""
        if self.answers:
            return Outcome.ACCEPTED
        return Outcome.REFUSED if self.refusals and not self.unanswered else Outcome.UNKNOWN

    def answered(self, status: int, body: Json) -> None:
        """Note an answer."""
        if status in ACCEPTED_STATUSES:
            self.answers.append({name: value for name, value in body.items() if name != EXISTING})
        elif status in REFUSED_STATUSES:
            self.refusals += 1
        else:
            self.unanswered += 1


@dataclass
class Record:
    """All events of a run's clients, and the amounts that the changed rule has had."""

    sent: dict[str, Sent] = field(default_factory=dict)
    amounts: dict[int, int] = field(default_factory=dict)
    """What each version of the changed rule gives, as far as its change was answered."""
    amounts_unknown: set[int] = field(default_factory=set)
    """What changes wanted that were not answered: any version that is not known may give one of these."""
    slowest_seconds: float = 0.0
    overdue: int = 0
    """Calls that were not answered within the deadline of all."""

    def add(self, sent: Sent) -> Sent:
        """Keep an event that is about to be posted."""
        return self.sent.setdefault(sent.event_id, sent)

    def of(self, outcome: Outcome) -> Iterator[Sent]:
        """The events with this outcome."""
        return (sent for sent in self.sent.values() if sent.outcome is outcome)
