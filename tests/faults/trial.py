"""A trial: the workload runs, faults happen, and what is found afterwards is reported in a line."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.faults.check import Findings
from tests.faults.faults import Fault
from tests.faults.record import Outcome
from tests.faults.system import System
from tests.faults.workload import Workload

BEFORE_SECONDS = 0.7
AFTER_SECONDS = 0.7


@dataclass(frozen=True)
class Report:
    """What became of a trial, or of a named case."""

    name: str
    through: int
    lost: int
    doubled: int
    problems: tuple[str, ...]
    seconds: float
    figure: str = ""

    @property
    def survived(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems

    def line(self) -> str:
        """The row of the report."""
        verdict = "survived" if self.survived else "FAILED"
        return (
            f"{self.name:<32} {verdict:<8} {self.through:>8,} through {self.lost:>4} lost {self.doubled:>4} doubled"
            f" {self.seconds:>6.1f} s  {self.figure}"
        )


def plan(faults: Sequence[Fault], random: Random, count: int) -> list[Fault]:
    """Faults in the order that the seed gives, with repetition."""
    return [random.choice(faults) for _ in range(count)]


async def trial(system: System, name: str, faults: Sequence[Fault], random: Random) -> Report:
    """Run the workload of a tenant of its own; let the faults happen one after the other; compare at the end."""
    started = time.monotonic()
    key, client = await system.tenant()
    workload = Workload(client, Random(random.getrandbits(64)))
    await workload.prepare()
    workload.start()
    problems: list[str] = []
    try:
        await asyncio.sleep(BEFORE_SECONDS)
        for fault in faults:
            await fault.do(system, random)
            await asyncio.sleep(AFTER_SECONDS)
    finally:
        await workload.stop()
    record = workload.record
    found = Findings()
    try:
        found = await system.settle(workload, key, random)
    except TimeoutError:
        problems.append("the services did not become ready by themselves")
    problems += found.lines()
    if record.overdue:
        problems.append(f"{record.overdue} calls had no answer within the deadline")
    if not await system.drained():
        problems.append("the events queues did not drain")
    if not await system.verified(key):
        problems.append("`tallymarks ledger verify` found something")
    count = {outcome: sum(1 for _ in record.of(outcome)) for outcome in Outcome}
    figure = (
        f"{count[Outcome.REFUSED]} refused, {count[Outcome.UNKNOWN]} unknown,"
        f" slowest answer {record.slowest_seconds:.1f} s"
    )
    seconds = time.monotonic() - started
    through = count[Outcome.ACCEPTED] - len(found.lost)
    return Report(name, through, len(found.lost), len(found.doubled), tuple(problems), seconds, figure)
