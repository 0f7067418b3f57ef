"""The memory of an api and an assessor that are kept busy for minutes: after the first one, and at the end.

README.md beside this file says how it is measured.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

import psutil

from tests.acceptance.installation import ASSESSOR, ServiceProcess
from tests.benchmarks import program
from tests.benchmarks.backlog import Backlog
from tests.benchmarks.frame import Figures, Report, Row, aligned, say
from tests.benchmarks.ground import Ground

CUSTOMERS = 10_000
POSTERS = 4
OUTSTANDING_MAX = 10_000
"""Orders posted and not assessed yet: with so few, no memory is that of a queue."""
WARM_UP_SECONDS = 60.0
MEDIAN_SECONDS = 10
"""How many samples of a second each figure is the median of."""
GROWTH_MAX = 1.1
POLL_SECONDS = 0.1
DRAIN_TIMEOUT_SECONDS = 60.0
PICTURE_COLUMNS = 60
PICTURE = "▁▂▃▄▅▆▇█"
MEBIBYTE = 1024 * 1024


def main() -> int:
    """Run the benchmark; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long orders are posted")
    minutes = parser.parse_args().minutes
    if minutes < 1:
        parser.error("--minutes must be at least 1")

    async def measure(ground: Ground) -> list[Report]:
        return [await measure_memory(ground, minutes * 60)]

    return program.run(measure)


async def measure_memory(ground: Ground, seconds: float) -> Report:
    """Post orders for so long, as fast as they are assessed, and watch the memory."""
    async with Backlog.on(ground, customers=CUSTOMERS, explained=True) as backlog:
        assessor = backlog.installation.start(ASSESSOR)
        await assessor.ready()
        services = (backlog.api, assessor)
        load = Load(backlog, assessor)
        samples: dict[str, list[float]] = {service.name: [] for service in services}
        async with asyncio.TaskGroup() as tasks:
            posting = tasks.create_task(load.run(seconds))
            while not posting.done():
                for service in services:
                    samples[service.name].append(psutil.Process(service.pid).memory_info().rss / MEBIBYTE)
                if (number := len(samples[assessor.name])) % 30 == 0:
                    rates = f"{load.assessed / number:,.0f} events/s"
                    say(f"  {number} s: {rates}, " + ", ".join(f"{n} {s[-1]:.0f} MiB" for n, s in samples.items()))
                await asyncio.sleep(1)
        await assessor.stop()
        await backlog.check(load.posted, load.points)
    warm = min(int(WARM_UP_SECONDS), int(seconds) // 3)
    return Report(
        [row_of(name, sampled, warm) for name, sampled in samples.items()],
        besides=[Figures("assessed meanwhile", "events/s", [load.posted / seconds])],
        notes=["\n".join(aligned([pictured(name, sampled) for name, sampled in samples.items()]))],
    )


class Load:
    """Requests of 1,000 orders, some at a time, as long as few enough orders wait to be assessed."""

    def __init__(self, backlog: Backlog, assessor: ServiceProcess) -> None:
        self._backlog = backlog
        self._assessor = assessor
        self._until = 0.0
        self.posted = 0
        self.points = 0
        self.assessed = 0

    async def run(self, seconds: float) -> None:
        """Post for so long, and wait until all are assessed.

        Raises:
            TimeoutError: they never were.
        """
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            async with asyncio.TaskGroup() as posting:
                for _ in range(POSTERS):
                    posting.create_task(self._post())
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                while self.assessed < self.posted:
                    await asyncio.sleep(POLL_SECONDS)
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            self.assessed = int(await self._assessor.metric("tallymarks_events_assessed"))
            await asyncio.sleep(POLL_SECONDS)

    async def _post(self) -> None:
        while time.monotonic() < self._until:
            if self.posted - self.assessed >= OUTSTANDING_MAX:
                await asyncio.sleep(POLL_SECONDS / 10)
                continue
            request = self._backlog.make()
            self.posted += len(request.orders)
            self.points += request.points
            await self._backlog.post(request)


def row_of(name: str, samples: Sequence[float], warm: int) -> Row:
    """Hold the end against the end of the first minute."""
    early, late = (samples[place - MEDIAN_SECONDS : place] for place in (warm + MEDIAN_SECONDS, len(samples)))
    return Row(
        f"memory of the {name}",
        Figures(f"{name}, at the end", "MiB", [statistics.median(late)]),
        Figures(f"{name}, after {warm} s", "MiB", [statistics.median(early)]),
        at_most=GROWTH_MAX,
    )


def pictured(name: str, samples: Sequence[float]) -> tuple[str, ...]:
    """Draw the samples: the lowest column is the least of them, the highest at least a tenth more."""
    columns = min(PICTURE_COLUMNS, len(samples))
    edges = [place * len(samples) // columns for place in range(columns + 1)]
    means = [statistics.mean(samples[start:end]) for start, end in pairwise(edges)]
    least = min(means)
    span = max(max(means) - least, least * (GROWTH_MAX - 1))
    picture = "".join(PICTURE[min(int((mean - least) / span * len(PICTURE)), len(PICTURE) - 1)] for mean in means)
    return name, f"{samples[0]:.0f} MiB", picture, f"{samples[-1]:.0f} MiB", f"(▁ {least:.0f}, █ {least + span:.0f})"


if __name__ == "__main__":
    sys.exit(main())
