"""Events assessed by one assessor process whose queue was filled beforehand.

README.md beside this file says how it is measured.
"""

from functools import partial

from tests.benchmarks.backlog import Backlog
from tests.benchmarks.frame import Figures, Plan, Report, Row, in_turn, say
from tests.benchmarks.ground import Ground
from tests.benchmarks.pgbench import CLIENTS, Pgbench
from tests.benchmarks.writer import ARRAYS, BATCH_EVENTS, ROWS, Writer

EVENTS = 25_000
CUSTOMERS = 500
PROFILED_ROUNDS = 4
"""A profile is of so many rounds at once, beside which the start is little."""
MANY_CUSTOMERS = 10_000
TENANTS = 100
TENANT_REQUEST_EVENTS = 100


async def measure(ground: Ground, plan: Plan) -> Report:
    """Measure an assessor beside one transaction per event, and beside the rows alone."""
    events = plan.of(EVENTS)
    async with (
        Backlog.on(ground, customers=CUSTOMERS) as backlog,
        Backlog.on(ground, customers=CUSTOMERS, explained=True) as explained,
        Pgbench.on(ground, CUSTOMERS) as pgbench,
        Writer.on(ground, backlog, ARRAYS) as in_arrays,
        Writer.on(ground, backlog, ROWS) as in_rows,
    ):
        assessed, alone, arrays, rows, kept = await in_turn(
            plan,
            "events/s",
            {
                "assessor": partial(backlog.measure, events),
                f"pgbench, {CLIENTS} clients": partial(pgbench.measure, events),
                f"asyncpg, {BATCH_EVENTS} a transaction": in_arrays.measure,
                "asyncpg, the same in rows": in_rows.measure,
                "assessor, explanations kept": partial(explained.measure, events),
            },
        )
        spent = [
            Figures(name, "µs processor/event", one.cpu_microseconds[-plan.rounds :])
            for name, one in (("assessor", backlog), ("assessor, explanations kept", explained))
        ]
        notes = []
        if plan.profile:
            say("  a round under the profiler")
            await backlog.measure(PROFILED_ROUNDS * events, profiled=True)
            notes = [backlog.profile or ""]
    return Report(
        [
            Row("assessed", assessed, alone, at_least=4),
            Row("assessed", assessed, arrays, at_least=0.6),
            Row("assessed", assessed, rows),
            Row("assessed, explanations kept", kept, assessed),
        ],
        besides=spent,
        notes=notes,
    )


async def measure_hot_customer(ground: Ground, plan: Plan) -> Report:
    """Measure an assessor whose events are all of one customer, beside the same spread over many."""
    events = plan.of(EVENTS)
    async with Backlog.on(ground, customers=1) as hot, Backlog.on(ground, customers=MANY_CUSTOMERS) as spread:
        one, many = await in_turn(
            plan,
            "events/s",
            {
                "one customer": partial(hot.measure, events),
                f"{MANY_CUSTOMERS:,} customers": partial(spread.measure, events),
            },
        )
    return Report([Row("assessed, one hot customer", one, many, at_least=0.5)])


async def measure_tenants(ground: Ground, plan: Plan) -> Report:
    """Measure an assessor whose messages are of many tenants in a random order, beside the same messages of one."""
    events, customers = plan.of(EVENTS), MANY_CUSTOMERS // TENANTS
    async with (
        Backlog.on(ground, customers=customers, tenant_count=TENANTS, request_size=TENANT_REQUEST_EVENTS) as mixed,
        Backlog.on(ground, customers=MANY_CUSTOMERS, request_size=TENANT_REQUEST_EVENTS) as alone,
    ):
        many, one = await in_turn(
            plan,
            "events/s",
            {f"{TENANTS} tenants": partial(mixed.measure, events), "one tenant": partial(alone.measure, events)},
        )
    return Report([Row(f"assessed, {TENANTS} tenants mixed", many, one, at_least=0.5)])
