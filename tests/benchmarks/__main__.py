"""`make bench`: every benchmark that takes minutes at most, and one table.

README.md beside this file says how each is measured.
"""

import argparse
import sys
from collections.abc import Mapping

from tests.benchmarks import api, assessor, evaluation, latency, pipeline, program
from tests.benchmarks.frame import Benchmark, Plan, Report, say
from tests.benchmarks.ground import Ground

BENCHMARKS: Mapping[str, Benchmark] = {
    "evaluation": evaluation.measure,
    "pipeline": pipeline.measure,
    "assessor": assessor.measure,
    "hot-customer": assessor.measure_hot_customer,
    "tenants": assessor.measure_tenants,
    "api": api.measure,
    "latency": latency.measure,
}
"""By the names that --only takes, in the order in which they run."""


def main() -> int:
    """Run the benchmarks; gives the exit code, which does not depend on how fast anything was."""
    names, plan = read_options()

    async def measure(ground: Ground) -> list[Report]:
        reports = []
        for name in names:
            say(name)
            reports.append(await BENCHMARKS[name](ground, plan))
        return reports

    return program.run(measure)


def read_options() -> tuple[list[str], Plan]:
    """Read the command line: which benchmarks, and how much of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="rounds of each, in turn")
    parser.add_argument("--scale", type=float, default=Plan.scale, help="what sizes are multiplied by")
    parser.add_argument("--profile", action="store_true", help="tell where the services' time went, in a round more")
    given = parser.parse_args()
    if given.rounds <= 0 or given.scale <= 0:
        parser.error("numbers must be positive")
    return [name for name in BENCHMARKS if name in (given.only or BENCHMARKS)], Plan(
        given.rounds, given.scale, given.profile
    )


if __name__ == "__main__":
    sys.exit(main())
