"""A batch is cut by customer, and nobody's events overtake each other."""

import asyncio
import weakref
from uuid import UUID

import pytest

from tallymarks import limits
from tallymarks.events import AnyEvent
from tallymarks_assessor.shares import Share, Turn, Turns, shares_of
from tests.unit.builders import action

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)
MANY = limits.SHARE_EVENTS_MIN + 1


def events_of(customers: int, number: int) -> list[AnyEvent]:
    """So many events, by customers in turn."""
    return [
        action(event_id=UUID(int=place + 1), customer_id=UUID(int=place % customers + 1)) for place in range(number)
    ]


class TestSharesOf:
    def test_few_events_stay_together(self) -> None:
        events = events_of(customers=10, number=limits.SHARE_EVENTS_MIN)
        assert shares_of(TENANT, events) == [Share.of(TENANT, events)]

    def test_many_are_cut_and_none_is_left_out(self) -> None:
        events = events_of(customers=50, number=MANY)
        shares = shares_of(TENANT, events)
        assert len(shares) == limits.SHARES_OF_TENANT
        assert sorted((event.event_id for share in shares for event in share.events), key=lambda one: one.int) == [
            event.event_id for event in events
        ]

    def test_a_customer_is_in_one_share_only_and_in_order(self) -> None:
        events = events_of(customers=7, number=MANY)
        for customer_id in {event.customer_id for event in events}:
            of_customer = [event for event in events if event.customer_id == customer_id]
            found = [
                [event for event in share.events if event.customer_id == customer_id]
                for share in shares_of(TENANT, events)
            ]
            assert [one for one in found if one] == [of_customer]

    def test_customers_are_cut_alike_in_every_batch(self) -> None:
        first, second = (
            {share.customer_ids for share in shares_of(TENANT, events)}
            for events in (events_of(customers=20, number=MANY), list(reversed(events_of(customers=20, number=MANY))))
        )
        assert first == second


def share(*customers: int, tenant_id: UUID = TENANT) -> Share:
    """Events of these customers."""
    return Share.of(tenant_id, [action(customer_id=UUID(int=number)) for number in customers])


class TestTurns:
    @pytest.mark.parametrize(
        ("earlier", "later", "waits"),
        [
            (share(1), share(1), True),
            (share(1), share(2), False),
            (share(1, 2), share(2, 3), True),
            (share(1, 2), share(3, 4), False),
            (share(1), share(1, tenant_id=OTHER_TENANT), False),
        ],
    )
    async def test_a_share_waits_for_an_earlier_one_with_a_customer_of_its_own(
        self, earlier: Share, later: Share, *, waits: bool
    ) -> None:
        turns = Turns()
        first, second = turns.give(earlier), turns.give(later)
        begun = asyncio.Event()
        async with turns.taking(first):
            taking = asyncio.create_task(self._take(turns, second, begun))
            for _ in range(3):
                await asyncio.sleep(0)
            assert begun.is_set() is not waits
        await taking
        assert begun.is_set()

    async def test_a_turn_is_over_however_it_ended(self) -> None:
        turns = Turns()
        first, second = turns.give(share(1)), turns.give(share(1))
        with pytest.raises(ZeroDivisionError):
            async with turns.taking(first):
                raise ZeroDivisionError
        async with asyncio.timeout(5), turns.taking(second):
            pass

    async def test_what_is_over_is_forgotten(self) -> None:
        turns = Turns()
        async with turns.taking(turns.give(share(1))):
            pass
        assert not turns.give(share(1)).after

    async def test_of_what_is_over_nothing_is_kept_by_those_after_it(self) -> None:
        class Events(list[AnyEvent]):
            """What a weak reference can be made to."""

        turns, events = Turns(), Events()
        kept = weakref.ref(events)
        first = turns.give(Share(TENANT, events, frozenset({UUID(int=1)})))
        second = turns.give(share(1))
        async with turns.taking(first):
            pass
        del first, events
        third = turns.give(share(1))
        async with turns.taking(second):
            assert kept() is None
        assert len(third.after) == 1

    @staticmethod
    async def _take(turns: Turns, turn: Turn, begun: asyncio.Event) -> None:
        async with turns.taking(turn):
            begun.set()
