"""Doing together what arrives together: the next lot gathers while those before it are under way."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

GATHERING_TURNS = 3
"""Of the event loop: so many it takes a request from its first byte to here."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    size: int
    result: "asyncio.Future[Result | Exception]"


class Batcher(Generic[Item, Result]):
    """Hands waiting items to `do` in lots.

    Each lot has a price of its own, however small it is. So one begins beside those that are under way when enough wait
    for it to be worth a place; else when nothing is under way, and as many wait as were in the last lot (who was
    answered together asks again together, and who is alone waits for nobody) or the pace allows it. What comes at the
    same time is taken along.
    """

    def __init__(
        self,
        do: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        at_once: int,
        beside_min: int,
        size_max: int,
        pace_seconds: float = 0,
    ) -> None:
        """Take the work; made where an event loop runs.

        Args:
            do: gives for each item of a lot its result, or what is to be raised where it was added.
            at_once: lots under way at the same time, at most.
            beside_min: items that must wait for a lot to begin while another is under way.
            size_max: the sizes of the items of one lot together; a larger item makes a lot of its own.
            pace_seconds: from the beginning of a lot to that of the next, where fewer wait than were in the first.
        """
        self._do = do
        self._at_once = at_once
        self._beside_min = beside_min
        self._size_max = size_max
        self._pace_seconds = pace_seconds
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_gathering = False
        self._last_number = 0
        """Of the items of the last lot."""
        self._pacing: asyncio.TimerHandle | None = None
        """Set while fewer than those are not enough."""
        self._loop = asyncio.get_running_loop()

    async def add(self, item: Item, size: int = 1) -> Result:
        """Have an item done; raises what its result says, or what the work itself raised."""
        waiting: _Waiting[Item, Result] = _Waiting(item, size, self._loop.create_future())
        self._waiting.append(waiting)
        self._start()
        result = await waiting.result
        if isinstance(result, Exception):
            raise result
        return result

    def _start(self) -> None:
        if len(self._waiting) >= self._needed() and not self._is_gathering and len(self._under_way) < self._at_once:
            self._is_gathering = True
            task = asyncio.create_task(self._run())
            self._under_way.add(task)
            task.add_done_callback(self._done)

    def _needed(self) -> int:
        """Give how many must wait for the next lot to begin."""
        if self._under_way:
            return self._beside_min
        return 1 if self._pacing is None else min(self._last_number, self._beside_min)

    def _paced(self) -> None:
        self._pacing = None
        self._start()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start()

    def _next_lot(self) -> list[_Waiting[Item, Result]]:
        lot = [self._waiting.popleft()]
        size = lot[0].size
        while self._waiting and size + self._waiting[0].size <= self._size_max:
            size += self._waiting[0].size
            lot.append(self._waiting.popleft())
        return lot

    async def _run(self) -> None:
        """Do one lot; whatever becomes of it, each that waits is told."""
        # What has arrived by now may still be on its way through the program: it is taken along, and not waited for.
        for _ in range(GATHERING_TURNS):
            await asyncio.sleep(0)
        lot = self._next_lot()
        self._last_number = len(lot)
        if self._pacing is not None:
            self._pacing.cancel()
        self._pacing = self._loop.call_later(self._pace_seconds, self._paced) if self._pace_seconds else None
        self._is_gathering = False
        self._start()
        # A caller who gave up need not be served; the others of the lot are.
        lot = [waiting for waiting in lot if not waiting.result.done()]
        if not lot:
            return
        try:
            results: Sequence[Result | Exception] = await self._do([waiting.item for waiting in lot])
        except Exception as error:
            results = [error] * len(lot)
        except BaseException:
            for waiting in lot:
                waiting.result.cancel()
            raise
        for waiting, result in zip(lot, results, strict=True):
            if not waiting.result.done():
                waiting.result.set_result(result)


async def done_by_tenant(
    lot: Sequence[Item],
    tenant_of: Callable[[Item], UUID],
    do: Callable[[UUID, Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
) -> Sequence[Result | Exception]:
    """Do the items of a lot, those of each tenant together and all tenants at once; what fails one fails no other."""
    places_of: defaultdict[UUID, list[int]] = defaultdict(list)
    for place, item in enumerate(lot):
        places_of[tenant_of(item)].append(place)
    if len(places_of) == 1:
        return await do(tenant_of(lot[0]), lot)

    async def of_tenant(tenant_id: UUID, places: Sequence[int]) -> Sequence[Result | Exception]:
        try:
            return await do(tenant_id, [lot[place] for place in places])
        except Exception as error:
            return [error] * len(places)

    done = await asyncio.gather(*(of_tenant(tenant_id, places) for tenant_id, places in places_of.items()))
    results: dict[int, Result | Exception] = {}
    for places, of_one in zip(places_of.values(), done, strict=True):
        results.update(zip(places, of_one, strict=True))
    return [results[place] for place in range(len(lot))]
