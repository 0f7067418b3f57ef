"""What the rules look at: one event and the state of its customer, as they are before the event has any effect."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tallymarks.events import EventBase
from tallymarks.segments import Segment


@dataclass(frozen=True, slots=True)
class CustomerState:
    """A customer under the account lock."""

    customer_id: UUID
    created_at: datetime
    balance: int
    memberships: Mapping[UUID, datetime | None]
    """Segment → when the membership lapses (None: never); lapsed ones may still be in it."""

    def is_member(self, segment_id: UUID, now: datetime) -> bool:
        """Tell whether the customer is a member at this instant."""
        if segment_id not in self.memberships:
            return False
        lapses_at = self.memberships[segment_id]
        return lapses_at is None or lapses_at > now


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a criterion or a fulfilment may ask."""

    event: EventBase
    customer: CustomerState
    segments: Mapping[UUID, Segment]
    now: datetime
