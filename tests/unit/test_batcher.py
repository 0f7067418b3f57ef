"""What arrives together is done together, and waits for company only as long as it may."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from tallymarks_api.batcher import GATHERING_TURNS, Batcher, done_by_tenant


class Work:
    """Work that goes on when the test says so."""

    def __init__(self) -> None:
        self.lots: list[list[str]] = []
        self.may_end = asyncio.Event()
        self.fails: Exception | None = None

    async def do(self, lot: Sequence[str]) -> list[str | Exception]:
        self.lots.append(list(lot))
        await self.may_end.wait()
        if self.fails is not None:
            raise self.fails
        return [ValueError(item) if item.startswith("bad") else item.upper() for item in lot]


async def added(batcher: Batcher[str, str], *items: str, turns: int = GATHERING_TURNS + 3) -> list["asyncio.Task[str]"]:
    """Add items at the same time, and let so many turns pass: by default, what need not wait is under way then."""
    tasks = [asyncio.create_task(batcher.add(item)) for item in items]
    for _ in range(turns):
        await asyncio.sleep(0)
    return tasks


async def test_what_comes_alone_is_done_at_once_and_what_comes_meanwhile_together() -> None:
    work = Work()
    batcher = Batcher(work.do, at_once=1, beside_min=1, size_max=10)
    first = await added(batcher, "a")
    assert work.lots == [["a"]]
    others = await added(batcher, "b", "c")
    assert work.lots == [["a"]]
    work.may_end.set()
    assert await asyncio.gather(*first, *others) == ["A", "B", "C"]
    assert work.lots == [["a"], ["b", "c"]]


async def test_what_comes_at_the_same_time_is_done_together() -> None:
    work = Work()
    batcher = Batcher(work.do, at_once=2, beside_min=1, size_max=10)
    tasks = await added(batcher, "a", "b", "c")
    assert work.lots == [["a", "b", "c"]]
    work.may_end.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_no_more_lots_are_under_way_than_may_be() -> None:
    work = Work()
    batcher = Batcher(work.do, at_once=2, beside_min=1, size_max=10)
    tasks = [task for item in "abcd" for task in await added(batcher, item)]
    assert work.lots == [["a"], ["b"]]
    work.may_end.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]
    assert work.lots == [["a"], ["b"], ["c", "d"]]


async def test_another_lot_begins_beside_one_that_is_under_way_only_when_it_is_large_enough() -> None:
    work = Work()
    batcher = Batcher(work.do, at_once=2, beside_min=3, size_max=10)
    tasks = await added(batcher, "a")
    tasks += await added(batcher, "b", "c")
    assert work.lots == [["a"]]
    tasks += await added(batcher, "d")
    assert work.lots == [["a"], ["b", "c", "d"]]
    tasks += await added(batcher, "e")
    work.may_end.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E"]
    assert work.lots == [["a"], ["b", "c", "d"], ["e"]]


async def test_what_comes_within_a_few_turns_is_one_lot_and_none_begins_to_gather_beside_it() -> None:
    work = Work()
    batcher = Batcher(work.do, at_once=2, beside_min=2, size_max=10)
    tasks = [task for item in "abcdef" for task in await added(batcher, item, turns=1)]
    # Enough of them wait for a lot beside the first while that one still gathers: it takes them along.
    await added(batcher)
    assert work.lots == [["a", "b", "c", "d"], ["e", "f"]]
    work.may_end.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E", "F"]


async def test_a_lot_is_bounded_by_the_sizes_of_its_items() -> None:
    work = Work()
    batcher = Batcher(work.do, at_once=1, beside_min=1, size_max=5)
    tasks = [asyncio.create_task(batcher.add(item, size)) for item, size in (("a", 1), ("b", 3), ("c", 2), ("d", 9))]
    work.may_end.set()
    await asyncio.gather(*tasks)
    assert work.lots == [["a", "b"], ["c"], ["d"]]


async def test_each_gets_its_own_result_or_error() -> None:
    work = Work()
    work.may_end.set()
    batcher = Batcher(work.do, at_once=1, beside_min=1, size_max=10)
    results = await asyncio.gather(*await added(batcher, "a", "bad", "c"), return_exceptions=True)
    assert (results[0], results[2]) == ("A", "C")
    assert isinstance(results[1], ValueError)


async def test_what_the_work_raises_is_raised_for_each_of_its_lot_and_the_next_lot_is_done() -> None:
    work = Work()
    work.fails = RuntimeError("broken")
    work.may_end.set()
    batcher = Batcher(work.do, at_once=1, beside_min=1, size_max=10)
    failed = await asyncio.gather(*await added(batcher, "a", "b"), return_exceptions=True)
    assert [str(error) for error in failed] == ["broken", "broken"]
    work.fails = None
    assert await batcher.add("c") == "C"


async def test_one_who_gives_up_takes_nobody_along() -> None:
    work = Work()
    batcher = Batcher(work.do, at_once=1, beside_min=1, size_max=10)
    await added(batcher, "a")
    leaves, stays = await added(batcher, "b", "c")
    leaves.cancel()
    work.may_end.set()
    assert await stays == "C"
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert work.lots == [["a"], ["c"]]


# --- the pace ---------------------------------------------------------------------------------------------------------


class Timers:
    """The event loop's timers, which ring when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._set: list[Callable[[], None]] = []
        self.seconds = 0.0
        """For how long the last one was set."""
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._call_later)

    def _call_later(self, seconds: float, ring: Callable[[], None]) -> "Timers.Timer":
        self.seconds = seconds
        self._set.append(ring)
        return self.Timer(lambda: self._set.remove(ring))

    class Timer:
        def __init__(self, cancel: Callable[[], None]) -> None:
            self.cancel = cancel

    def ring(self) -> None:
        """Ring the only one that is set."""
        (ring,) = self._set
        ring()
        self._set.remove(ring)


def paced(work: Work, *, beside_min: int = 10) -> Batcher[str, str]:
    """A batcher whose work ends at once."""
    work.may_end.set()
    return Batcher(work.do, at_once=2, beside_min=beside_min, size_max=20, pace_seconds=0.25)


async def test_those_who_were_answered_together_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    Timers(monkeypatch)
    work = Work()
    batcher = paced(work)
    await added(batcher, "a", "b", "c")
    await added(batcher, "d")
    await added(batcher, "e")
    assert work.lots == [["a", "b", "c"]]
    await added(batcher, "f")
    assert work.lots == [["a", "b", "c"], ["d", "e", "f"]]


async def test_who_is_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    Timers(monkeypatch)
    work = Work()
    batcher = paced(work)
    for item in "abc":
        await added(batcher, item)
    assert work.lots == [["a"], ["b"], ["c"]]


async def test_fewer_than_before_wait_no_longer_than_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    work = Work()
    batcher = paced(work)
    await added(batcher, "a", "b", "c")
    await added(batcher, "d", "e")
    assert work.lots == [["a", "b", "c"]]
    assert timers.seconds == 0.25
    timers.ring()
    await added(batcher)
    assert work.lots == [["a", "b", "c"], ["d", "e"]]
    await added(batcher, "f")
    assert work.lots == [["a", "b", "c"], ["d", "e"]]


async def test_once_the_pace_is_over_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    work = Work()
    batcher = paced(work)
    await added(batcher, "a", "b", "c")
    timers.ring()
    await added(batcher, "d")
    assert work.lots == [["a", "b", "c"], ["d"]]


async def test_the_pace_counts_from_the_last_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """So one timer is set, however many lots have begun without it."""
    timers = Timers(monkeypatch)
    work = Work()
    batcher = paced(work)
    await added(batcher, "a", "b")
    await added(batcher, "c", "d")
    await added(batcher, "e")
    timers.ring()
    await added(batcher)
    assert work.lots == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_lot_that_is_large_enough_for_a_place_beside_others_waits_for_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Timers(monkeypatch)
    work = Work()
    batcher = paced(work, beside_min=2)
    await added(batcher, "a", "b", "c")
    await added(batcher, "d", "e")
    assert work.lots == [["a", "b", "c"], ["d", "e"]]


# --- lots of several tenants ------------------------------------------------------------------------------------------

ONE, OTHER, THIRD = (UUID(int=number) for number in (1, 2, 3))


async def test_each_tenants_items_are_done_together_and_each_result_finds_its_item() -> None:
    done: list[tuple[UUID, list[str]]] = []

    async def do(tenant_id: UUID, items: Sequence[tuple[UUID, str]]) -> list[str | Exception]:
        done.append((tenant_id, [text for _, text in items]))
        return [f"{tenant_id.int}{text}" for _, text in items]

    lot = [(ONE, "a"), (OTHER, "a"), (ONE, "b"), (THIRD, "c"), (OTHER, "d")]
    assert await done_by_tenant(lot, lambda item: item[0], do) == ["1a", "2a", "1b", "3c", "2d"]
    assert done == [(ONE, ["a", "b"]), (OTHER, ["a", "d"]), (THIRD, ["c"])]
    assert await done_by_tenant(lot[:1], lambda item: item[0], do) == ["1a"]


async def test_what_fails_one_tenant_fails_no_other() -> None:
    async def do(tenant_id: UUID, items: Sequence[UUID]) -> list[str | Exception]:
        if tenant_id == OTHER:
            raise ValueError("broken")
        return ["done" for _ in items]

    results = await done_by_tenant([ONE, OTHER, ONE, OTHER], lambda tenant_id: tenant_id, do)
    assert [str(result) for result in results] == ["done", "broken", "done", "broken"]
    assert [isinstance(result, ValueError) for result in results] == [False, True, False, True]
