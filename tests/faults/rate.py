"""How fast events are assessed while faults happen, and how long after each of them the rate is back."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median

from tests.acceptance.installation import ASSESSOR
from tests.faults.system import System

WINDOW_SECONDS = 0.5
ASSESSED = "tallymarks_events_assessed"
BACK_SHARE = 0.5
"""Of the undisturbed rate, from which on it is back.

The clients wait for their answers, and post now one event and now forty: without any fault the windows differ by as
much as a third from their median. While a connection is away, next to nothing is assessed.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the assessor had done at an instant (of `time.monotonic`)."""

    at: float
    assessed: float
    """Events, since it was started."""
    is_consumed: bool
    """Whether every events queue has a consumer: one of them alone may be as fast as half of the rate."""


@asynccontextmanager
async def sampled(system: System) -> AsyncIterator[Sequence[Sample]]:
    """Take a sample every so often for the length of an `async with` block; the sequence grows."""
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(_sample(system, samples))
        try:
            yield samples
        finally:
            sampling.cancel()


async def _sample(system: System, samples: list[Sample]) -> None:
    names = [system.topology.events_queue(partition) for partition in range(system.topology.partitions)]
    async with system.channel() as channel:
        while True:
            assessed = await system.services[ASSESSOR].metric(ASSESSED)
            at = time.monotonic()
            queues = [await channel.declare_queue(name, passive=True) for name in names]
            is_consumed = all(queue.declaration_result.consumer_count for queue in queues)
            samples.append(Sample(at, assessed, is_consumed))
            await asyncio.sleep(WINDOW_SECONDS)


def usual_rate(samples: Sequence[Sample]) -> float:
    """Give the events a second of the window in the middle, by their rate."""
    return median(rate_between(earlier, later) for earlier, later in pairwise(samples))


def seconds_until_back(samples: Sequence[Sample], since: float, usual: float) -> float:
    """Give how long after an instant the first window ended that began after it and had the rate back.

    However many faults came meanwhile; infinity where there is no such window.
    """
    for earlier, later in pairwise(samples):
        if earlier.at >= since and later.is_consumed and rate_between(earlier, later) >= usual * BACK_SHARE:
            return later.at - since
    return inf


def rate_between(earlier: Sample, later: Sample) -> float:
    """Give the events a second of the window between two samples."""
    return (later.assessed - earlier.assessed) / (later.at - earlier.at)
