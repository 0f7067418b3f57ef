"""Events assessed by one assessor where a tenant has stored very many, beside the same where nothing is stored.

README.md beside this file says how it is measured.
"""

import argparse
import sys
from functools import partial

from tests.benchmarks import program
from tests.benchmarks.backlog import Backlog
from tests.benchmarks.frame import Plan, Report, Row, in_turn, say
from tests.benchmarks.ground import Ground
from tests.benchmarks.history import History, store

RUN_EVENTS = 25_000
WARM_UP_RUNS = 4
"""So many times the orders of a round come before the first one."""
POSTGRES_SETTINGS = {
    "shared_buffers": "2GB",
    "max_wal_size": "12GB",
    "checkpoint_timeout": "30min",
}
"""What an operator of so large a database sets: PostgreSQL's own are for small ones."""


def main() -> int:
    """Run the benchmark; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=10_000_000, help="events that are stored")
    parser.add_argument("--customers", type=int, default=1_000_000, help="customers who have them")
    parser.add_argument("--run-events", type=int, default=RUN_EVENTS, help="orders of a round")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="rounds of each, in turn")
    given = parser.parse_args()
    if min(vars(given).values()) <= 0:
        parser.error("numbers must be positive")

    async def measure(ground: Ground) -> list[Report]:
        plan = Plan(given.rounds)
        return [await measure_growth(ground, plan, given.events, given.customers, given.run_events)]

    return program.run(measure, POSTGRES_SETTINGS)


async def measure_growth(ground: Ground, plan: Plan, events: int, customers: int, run_events: int) -> Report:
    """Load, then measure an assessor beside one whose database has the customers of the run, and nothing else."""
    async with Backlog.on(ground, customers=customers) as full, Backlog.on(ground, customers=customers) as empty:
        (of_tenant,) = full.of_tenants
        say(f"storing {events:,} events of {customers:,} customers")
        await store(History(full.database_url, of_tenant.tenant_id, of_tenant.rule_id, customers, max(1, events // 2)))
        # The empty one goes first: its checkpoint is of the whole server.
        once = Plan(rounds=1)
        nothing_yet, stored_yet = await in_turn(
            once,
            "events/s",
            {
                "nothing stored, from a checkpoint on": partial(empty.measure, WARM_UP_RUNS * run_events),
                f"{events:,} events stored, from a checkpoint on": partial(full.measure, WARM_UP_RUNS * run_events),
            },
        )
        stored, nothing = await in_turn(
            plan,
            "events/s",
            {
                f"{events:,} events stored": partial(full.measure, run_events, settled=False),
                "nothing stored": partial(empty.measure, run_events, settled=False),
            },
        )
    return Report(
        [
            Row("assessed, growth", stored, nothing, at_least=0.8),
            Row("assessed, growth, from a checkpoint on", stored_yet, nothing_yet),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
