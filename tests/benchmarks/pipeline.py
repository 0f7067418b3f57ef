"""Events posted in batches until all are assessed: under one rule, beside pgbench doing one transaction per event; and
under a hundred rules of all kinds with explanations kept, beside the one rule without.

README.md beside this file says how it is measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

import aiohttp
import asyncpg
import orjson

from tallymarks.limits import BATCH_EVENTS_MAX
from tests.acceptance.installation import Stack, start_stack
from tests.benchmarks.backlog import cpu_seconds
from tests.benchmarks.frame import Figures, Plan, Report, Row, in_turn, say
from tests.benchmarks.ground import Ground, new_topology, settle
from tests.benchmarks.load import Orders, bodies
from tests.benchmarks.pgbench import CLIENTS, Pgbench
from tests.benchmarks.rules import ONE, Rule, mixed

EVENTS = 20_000
CUSTOMERS = 500
RULES = 100
REQUESTS_AT_ONCE = 4
BALANCES = "SELECT coalesce(sum(balance), 0)::bigint FROM accounts WHERE tenant_id = $1"
ASSESSED = "SELECT coalesce(sum(order_count), 0)::bigint FROM accounts WHERE tenant_id = $1"
TRANSACTIONS = "SELECT count(*) FROM transactions WHERE tenant_id = $1 AND assessment_rule_id = $2"
# The rate is measured to this time, some hundredths of a round's; asking so often costs a hundredth of a core.
POLL_SECONDS = 0.02
OK = 200


async def measure(ground: Ground, plan: Plan) -> Report:
    """Measure the pipeline under one rule, under a hundred, and pgbench."""
    events = plan.of(EVENTS)
    async with (
        pipeline_on(ground, ONE, explained=False) as pipeline,
        pipeline_on(ground, mixed(RULES), explained=True) as mixed_pipeline,
        Pgbench.on(ground, CUSTOMERS) as pgbench,
    ):
        one, many, beside = await in_turn(
            plan,
            "events/s",
            {
                "pipeline, one rule": lambda: pipeline.measure(events),
                f"pipeline, {RULES} rules, explained": lambda: mixed_pipeline.measure(events),
                f"pgbench, {CLIENTS} clients": lambda: pgbench.measure(events),
            },
        )
    return Report(
        rows=[
            Row("posted until assessed, one rule", one, beside),
            Row(f"posted until assessed, {RULES} rules, explained", many, one, at_least=0.6),
        ],
        besides=[
            Figures(f"{name}, {rules}", "µs processor/event", spent)
            for rules, measured in (("one rule", pipeline), (f"{RULES} rules", mixed_pipeline))
            for name, spent in measured.cpu_microseconds.items()
        ],
    )


class Pipeline:
    """One process of each service, one tenant with its rules, and its events."""

    def __init__(
        self,
        stack: Stack,
        session: aiohttp.ClientSession,
        database_url: str,
        database: asyncpg.Connection,
        rules: Sequence[Rule],
    ) -> None:
        self._rules = rules
        self._database_url = database_url
        self._points_rule_id: UUID | None = None
        self._stack = stack
        self._session = session
        self._database = database
        self._orders = Orders(CUSTOMERS)
        self.cpu_microseconds: dict[str, list[float]] = {}
        """What each service spent on an event, of each round."""

    async def prepare(self) -> None:
        """Make the rules, and let every customer order once: what is measured finds everything warm."""
        for rule in self._rules:
            answered = await self._stack.client.post("/api/v1/admin/rules", rule)
            if answered.status != OK:
                raise RuntimeError(f"the rule was refused: {answered.body}")
            self._points_rule_id = self._points_rule_id or UUID(answered.body["ruleId"])
        await self._post_until_assessed(bodies(self._orders.of_all(), BATCH_EVENTS_MAX))

    async def measure(self, events: int) -> float:
        """Post a round's events, and wait until they are assessed; gives the events a second."""
        requests = bodies(self._orders.of_any(events), BATCH_EVENTS_MAX)
        await settle(self._database_url)
        before = self._cpu_seconds()
        seconds = await self._post_until_assessed(requests)
        for name, after in self._cpu_seconds().items():
            self.cpu_microseconds.setdefault(name, []).append((after - before[name]) / events * 1e6)
        return events / seconds

    async def _post_until_assessed(self, requests: Sequence[bytes]) -> float:
        """Give the seconds from the first request to the last total; the ledger must then hold every event."""
        waiting, answers = list(reversed(requests)), list[bytes]()
        posting = (self._post(waiting, answers) for _ in range(REQUESTS_AT_ONCE))
        started = time.perf_counter()
        await asyncio.gather(*posting, self._until_assessed())
        seconds = time.perf_counter() - started
        statuses = [result["status"] for answer in answers for result in orjson.loads(answer)["results"]]
        counted = await self._database.fetchval(TRANSACTIONS, self._stack.tenant_id, self._points_rule_id)
        if set(statuses) != {OK} or counted != self._orders.made:
            raise RuntimeError(
                f"{counted} transactions of {self._orders.made} events, which were answered {set(statuses)}"
            )
        if (
            len(self._rules) == 1
            and await self._database.fetchval(BALANCES, self._stack.tenant_id) != self._orders.points
        ):
            raise RuntimeError("the balances are not what was posted")
        return seconds

    async def _post(self, waiting: list[bytes], answers: list[bytes]) -> None:
        url = f"{self._stack.api.url}/api/v1/events"
        headers = {**self._stack.client.headers, "content-type": "application/json"}
        while waiting:
            async with self._session.post(url, data=waiting.pop(), headers=headers) as response:
                response.raise_for_status()
                answers.append(await response.read())

    async def _until_assessed(self) -> None:
        """Wait for the totals, which the transaction that writes the ledger writes too, and which are few."""
        while await self._database.fetchval(ASSESSED, self._stack.tenant_id) != self._orders.made:
            await asyncio.sleep(POLL_SECONDS)

    def _cpu_seconds(self) -> dict[str, float]:
        services = (self._stack.api, self._stack.assessor)
        return {service.name: cpu_seconds(service) for service in services}


@asynccontextmanager
async def pipeline_on(ground: Ground, rules: Sequence[Rule], *, explained: bool) -> AsyncIterator[Pipeline]:
    """Start the services on a database of their own, and stop them at the end."""
    async with AsyncExitStack() as exit_stack:
        database_url = await exit_stack.enter_async_context(ground.database())
        installation = await exit_stack.enter_async_context(
            ground.installation(database_url, new_topology(), EXPLANATIONS=str(explained))
        )
        session = await exit_stack.enter_async_context(aiohttp.ClientSession())
        say("  starting the services")
        stack = await start_stack(installation, await installation.create_tenant("Benchmark"))
        database = await asyncpg.connect(database_url)
        exit_stack.push_async_callback(database.close)
        pipeline = Pipeline(stack, session, database_url, database, rules)
        await pipeline.prepare()
        yield pipeline
