"""Faults, each alone and then a seeded mix of them, and the named cases; a report, and 1 where anything was wrong.

README.md beside this file says what is done and what is checked.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from tests.faults.cases import CASES
from tests.faults.cases_assessing import CASES as ASSESSING_CASES
from tests.faults.cases_cluster import CASES as CLUSTER_CASES
from tests.faults.faults import Fault, all_faults
from tests.faults.system import System, private_system
from tests.faults.trial import Report, plan, trial

MIX = "mix"
# The whole run ends by itself within this: what has not had its turn then is reported as not run.
BUDGET_SECONDS = 14 * 60.0
# One that hangs is given up, and counts as a failure.
TRIAL_SECONDS_MAX = 300.0

Trial = Callable[[System, Random], Coroutine[object, object, Report]]


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    seed: int
    only: Sequence[str]
    mixed: int
    keep: bool


def main() -> int:
    """Run it; gives the exit code."""
    trials = all_trials(mixed=12)
    options = read_options(list(trials))
    trials = all_trials(options.mixed)
    chosen = {name: one for name, one in trials.items() if not options.only or name in options.only}
    # Beside the tests' own directories: the servers' user must reach it.
    directory = Path(tempfile.mkdtemp(prefix="tallymarks-faults-"))
    directory.chmod(0o711)
    try:
        reports = asyncio.run(run(chosen, options, directory))
    except KeyboardInterrupt:
        return 130
    finally:
        if options.keep:
            print(f"the logs are in {directory}", flush=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return summary(reports, options)


def read_options(names: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog="Names: " + ", ".join(names),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=None, help="of the plan; by default another one each time")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="run this one; may be repeated")
    parser.add_argument("--mixed", type=int, default=12, help="faults of the mix (default: 12)")
    parser.add_argument("--keep", action="store_true", help="leave the logs of the services and servers")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(4), "big")
    return Options(seed, given.only or (), given.mixed, given.keep)


def all_trials(mixed: int) -> dict[str, Trial]:
    """Everything that can be run, by name, in order."""
    faults = all_faults()
    trials: dict[str, Trial] = {fault.name: alone(fault) for fault in faults}

    async def mix(system: System, random: Random) -> Report:
        planned = plan(faults, random, mixed)
        print("mix: " + ", ".join(fault.name for fault in planned), flush=True)
        return await trial(system, MIX, planned, random)

    return trials | {MIX: mix} | CASES | CLUSTER_CASES | ASSESSING_CASES


def alone(fault: Fault) -> Trial:
    """The trial of one fault alone."""

    async def run_alone(system: System, random: Random) -> Report:
        return await trial(system, fault.name, [fault], random)

    return run_alone


async def run(trials: dict[str, Trial], options: Options, directory: Path) -> list[Report]:
    """Run the trials one after the other on one system; each has a source of randomness of its own by its name."""
    deadline = time.monotonic() + BUDGET_SECONDS
    print(f"seed {options.seed}", flush=True)
    reports = []
    async with private_system(directory) as system:
        for name, one in trials.items():
            await system.mended()
            remaining = min(deadline - time.monotonic(), TRIAL_SECONDS_MAX)
            report = await bounded(name, one, system, Random(f"{options.seed} {name}"), remaining)
            reports.append(report)
            print(report.line(), *(f"\n    {problem}" for problem in report.problems), sep="", flush=True)
    return reports


async def bounded(name: str, one: Trial, system: System, random: Random, seconds: float) -> Report:
    """Run a trial for so long at the most; what it raises is its result."""
    nothing = Report(name, 0, 0, 0, (), 0.0)
    if seconds <= 0:
        return replace(nothing, problems=("not run: the time was up",))
    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            return await one(system, random)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        return replace(nothing, problems=(problem,), seconds=time.monotonic() - started)


def summary(reports: Sequence[Report], options: Options) -> int:
    """Print the sums; give the exit code."""
    survived = sum(report.survived for report in reports)
    print(
        f"seed {options.seed}: {survived} of {len(reports)} survived,"
        f" {sum(report.through for report in reports):,} events through,"
        f" {sum(report.lost for report in reports)} lost, {sum(report.doubled for report in reports)} doubled"
    )
    return 0 if survived == len(reports) else 1


if __name__ == "__main__":
    sys.exit(main())
