"""Cutting a batch into shares that are assessed at once; no customer's events overtake each other."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID
from zlib import crc32

from tallymarks import limits
from tallymarks.events import AnyEvent


@dataclass(frozen=True, slots=True)
class Share:
    """Events that are assessed in one transaction."""

    tenant_id: UUID
    events: Sequence[AnyEvent]
    customer_ids: frozenset[UUID]

    @classmethod
    def of(cls, tenant_id: UUID, events: Sequence[AnyEvent]) -> "Share":
        """Take events of one tenant."""
        return cls(tenant_id, events, frozenset({event.customer_id for event in events}))

    def has_a_customer_of(self, other: "Share") -> bool:
        """Tell whether there is a customer of both: they would wait for each other's account lock."""
        return self.tenant_id == other.tenant_id and not self.customer_ids.isdisjoint(other.customer_ids)


def shares_of(tenant_id: UUID, events: Sequence[AnyEvent]) -> list[Share]:
    """Cut a tenant's events by customer, in the order given, where there are so many that it is worth it."""
    if len(events) <= limits.SHARE_EVENTS_MIN:
        return [Share.of(tenant_id, events)]
    parts: list[list[AnyEvent]] = [[] for _ in range(limits.SHARES_OF_TENANT)]
    for event in events:
        # Not by the last bits: those of one queue have them in common.
        parts[(crc32(event.customer_id.bytes) >> 16) % len(parts)].append(event)
    return [Share.of(tenant_id, of_part) for of_part in parts if of_part]


@dataclass(eq=False, slots=True)
class Turn:
    """When a share may begin: after those that came before it and have a customer in common with it."""

    share: Share
    after: Sequence[asyncio.Event]
    """When those are over; not they themselves, which would keep the events of all that ever overlapped."""
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class Turns:
    """The shares that are under way or wait, in the order in which they came."""

    def __init__(self) -> None:
        """Start with none."""
        self._turns: list[Turn] = []

    def give(self, share: Share) -> Turn:
        """Give a share its turn; it must be taken, or those after it wait for ever."""
        turn = Turn(share, [other.is_over for other in self._turns if other.share.has_a_customer_of(share)])
        self._turns.append(turn)
        return turn

    @asynccontextmanager
    async def taking(self, turn: Turn) -> AsyncIterator[Share]:
        """Wait for the turn; on leaving it is over."""
        try:
            for other_is_over in turn.after:
                await other_is_over.wait()
            yield turn.share
        finally:
            self._turns.remove(turn)
            turn.is_over.set()
