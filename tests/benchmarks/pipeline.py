"""Events posted in batches until all are assessed: under one rule, beside pgbench doing one transaction per event; and
under a hundred rules of all kinds with explanations kept, beside the one rule without.

README.md beside this file says how it is measured.
"""

import argparse
import asyncio
import os
import platform
import re
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

import aio_pika
import aiohttp
import asyncpg
import orjson
import psutil

from tallymarks.broker import Topology
from tallymarks.limits import BATCH_EVENTS_MAX
from tallymarks.segments import anniversary
from tallymarks.service import utc_now
from tallymarks.sql import customers as customers_sql
from tallymarks.sql import tenancy
from tallymarks_local.postgres import find_binaries
from tests.acceptance.installation import Installation, Stack, start_stack
from tests.benchmarks.rules import ONE, Rule, mixed
from tests.servers import ServersOfRun, copy_database, drop_database

BALANCES = "SELECT coalesce(sum(balance), 0)::bigint FROM accounts WHERE tenant_id = $1"
ASSESSED = "SELECT coalesce(sum(order_count), 0)::bigint FROM accounts WHERE tenant_id = $1"
TRANSACTIONS = "SELECT count(*) FROM transactions WHERE tenant_id = $1 AND assessment_rule_id = $2"
# The rate is measured to this time, some hundredths of a round's; asking so often costs a hundredth of a core.
POLL_SECONDS = 0.02
PGBENCH_SCRIPT = Path(__file__).with_name("pgbench.sql")
PGBENCH_RATE = re.compile(r"^tps = ([\d.]+) \(without initial connection time\)$", re.MULTILINE)
OK = 200


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    events: int
    rounds: int
    batch_size: int
    customers: int
    requests_at_once: int
    rules: int
    pgbench_clients: int
    timeout_seconds: float


@dataclass(frozen=True)
class Measured:
    """One round of the pipeline: events a second, and the processor time that each service spent on an event."""

    rate: float
    cpu_microseconds: Mapping[str, float]


def main() -> int:
    """Run the benchmark; gives the exit code."""
    options = read_options()
    servers = ServersOfRun.open()
    try:
        asyncio.run(run(options, servers))
    except TimeoutError:
        print(f"a round did not end within {options.timeout_seconds:.0f} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        servers.stop()
    return 0


def read_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.pipeline",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=20_000, help="events of a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, in turn")
    parser.add_argument("--batch-size", type=int, default=BATCH_EVENTS_MAX, help="events of a request")
    parser.add_argument("--customers", type=int, default=500, help="customers who order")
    parser.add_argument("--requests-at-once", type=int, default=4, help="requests under way at the same time")
    parser.add_argument("--rules", type=int, default=100, help="rules of all kinds")
    parser.add_argument("--pgbench-clients", type=int, default=8, help="sessions of pgbench")
    parser.add_argument("--timeout-seconds", type=float, default=300.0, help="longest time of a round")
    given = parser.parse_args()
    if min(vars(given).values()) <= 0 or given.batch_size > BATCH_EVENTS_MAX:
        parser.error(f"numbers must be positive, and --batch-size at most {BATCH_EVENTS_MAX}")
    return Options(**vars(given))


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


async def run(options: Options, servers: ServersOfRun) -> None:
    """Measure both in turn, round after round, and print the table."""
    say("starting PostgreSQL and RabbitMQ")
    server_url = await asyncio.to_thread(servers.postgres_url)
    amqp_url = await asyncio.to_thread(servers.amqp_url)
    template = await asyncio.to_thread(servers.template_database)
    pipeline_rounds: list[Measured] = []
    mixed_rounds: list[Measured] = []
    pgbench_rates: list[float] = []
    async with (
        scratch_database(server_url, template) as pipeline_url,
        scratch_database(server_url, template) as mixed_url,
        scratch_database(server_url, template) as pgbench_url,
        pipeline_on(pipeline_url, amqp_url, options, ONE, explained=False) as pipeline,
        pipeline_on(mixed_url, amqp_url, options, mixed(options.rules), explained=True) as mixed_pipeline,
    ):
        pgbench = await Pgbench.prepared(pgbench_url, options)
        for number in range(1, options.rounds + 1):
            async with asyncio.timeout(options.timeout_seconds):
                pipeline_rounds.append(await pipeline.measure())
            say(f"round {number} of {options.rounds}: pipeline {pipeline_rounds[-1].rate:,.0f} events/s")
            async with asyncio.timeout(options.timeout_seconds):
                mixed_rounds.append(await mixed_pipeline.measure())
            say(f"round {number} of {options.rounds}: {options.rules} rules {mixed_rounds[-1].rate:,.0f} events/s")
            async with asyncio.timeout(options.timeout_seconds):
                pgbench_rates.append(await pgbench.measure())
            say(f"round {number} of {options.rounds}: pgbench {pgbench_rates[-1]:,.0f} events/s")
        circumstances = await circumstances_of(pipeline_url, amqp_url)
    print(table(options, pipeline_rounds, mixed_rounds, pgbench_rates))
    print(circumstances)


@asynccontextmanager
async def scratch_database(server_url: str, template: str) -> AsyncIterator[str]:
    """A migrated database that is dropped at the end; gives its address."""
    name = f"bench_{uuid4().hex[:12]}"
    try:
        yield await copy_database(server_url, template, name)
    finally:
        await drop_database(server_url, name)


# --- the pipeline -----------------------------------------------------------------------------------------------------


class Orders:
    """Makes bodies of batches: orders of three items, worth a point for each whole unit of their total."""

    def __init__(self, customer_count: int) -> None:
        self._random = Random(1)
        self._customer_ids = [UUID(int=self._random.getrandbits(128), version=4) for _ in range(customer_count)]
        self.points = 0
        """What all orders made so far are worth."""

    def batches(self, event_count: int, batch_size: int) -> list[bytes]:
        """Orders of customers taken at random."""
        customer_ids = self._random.choices(self._customer_ids, k=event_count)
        return [self._batch(customer_ids[start : start + batch_size]) for start in range(0, event_count, batch_size)]

    def batches_of_all(self, batch_size: int) -> list[bytes]:
        """One order of each customer."""
        ids = self._customer_ids
        return [self._batch(ids[start : start + batch_size]) for start in range(0, len(ids), batch_size)]

    def _batch(self, customer_ids: Sequence[UUID]) -> bytes:
        return orjson.dumps({"events": [self._order(customer_id) for customer_id in customer_ids]})

    def _order(self, customer_id: UUID) -> dict[str, object]:
        prices = [Decimal(self._random.randint(100, 9_999)) / 100 for _ in range(3)]
        total = sum(prices, Decimal(0))
        self.points += int(total)
        return {
            "eventType": "order",
            "eventId": str(UUID(int=self._random.getrandbits(128), version=4)),
            "customerId": str(customer_id),
            "nameSpace": "Shop.Order",
            "reference": str(self._random.randint(10**6, 10**7)),
            "order": {
                "total": str(total),
                "currency": "EUR",
                "items": [
                    {"sku": f"SKU-{number}", "name": f"Item {number}", "quantity": 1, "price": str(price)}
                    for number, price in enumerate(prices)
                ],
            },
        }


class Pipeline:
    """One process of each service, one tenant with its rules, and its events."""

    def __init__(
        self,
        stack: Stack,
        session: aiohttp.ClientSession,
        database: asyncpg.Connection,
        options: Options,
        rules: Sequence[Rule],
    ) -> None:
        self._rules = rules
        self._points_rule_id: UUID | None = None
        self._stack = stack
        self._session = session
        self._database = database
        self._options = options
        self._orders = Orders(options.customers)
        self._posted = 0

    async def prepare(self) -> None:
        """Make the rules, and let every customer order once: what is measured finds everything warm."""
        for rule in self._rules:
            answered = await self._stack.client.post("/api/v1/admin/rules", rule)
            if answered.status != OK:
                raise RuntimeError(f"the rule was refused: {answered.body}")
            self._points_rule_id = self._points_rule_id or UUID(answered.body["ruleId"])
        await self._post_until_assessed(self._orders.batches_of_all(self._options.batch_size))

    async def measure(self) -> Measured:
        """Post a round's events, and wait until they are assessed."""
        bodies = self._orders.batches(self._options.events, self._options.batch_size)
        await self._database.execute("CHECKPOINT")
        before = self._cpu_seconds()
        seconds = await self._post_until_assessed(bodies)
        spent = {name: after - before[name] for name, after in self._cpu_seconds().items()}
        return Measured(
            self._options.events / seconds,
            {name: seconds / self._options.events * 1e6 for name, seconds in spent.items()},
        )

    async def _post_until_assessed(self, bodies: Sequence[bytes]) -> float:
        """Give the seconds from the first request to the last total; the ledger must then hold every event."""
        waiting, answers = list(reversed(bodies)), list[bytes]()
        self._posted += sum(body.count(b'"eventId"') for body in bodies)
        posting = (self._post(waiting, answers) for _ in range(self._options.requests_at_once))
        started = time.perf_counter()
        await asyncio.gather(*posting, self._until_assessed())
        seconds = time.perf_counter() - started
        statuses = [result["status"] for answer in answers for result in orjson.loads(answer)["results"]]
        counted = await self._database.fetchval(TRANSACTIONS, self._stack.tenant_id, self._points_rule_id)
        if set(statuses) != {OK} or counted != self._posted:
            raise RuntimeError(f"{counted} transactions of {self._posted} events, which were answered {set(statuses)}")
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
        while await self._database.fetchval(ASSESSED, self._stack.tenant_id) != self._posted:
            await asyncio.sleep(POLL_SECONDS)

    def _cpu_seconds(self) -> dict[str, float]:
        services = (self._stack.api, self._stack.assessor)
        return {service.name: sum(psutil.Process(service.pid).cpu_times()[:2]) for service in services}


@asynccontextmanager
async def pipeline_on(
    database_url: str, amqp_url: str, options: Options, rules: Sequence[Rule], *, explained: bool
) -> AsyncIterator[Pipeline]:
    """Start the services, and stop them at the end; their queues are deleted."""
    topology = Topology(f"bench-{uuid4().hex[:12]}", partitions=1)
    settings = {"DATABASE_URL": database_url, "AMQP_URL": amqp_url, "TOPOLOGY_PREFIX": topology.prefix}
    settings["EXPLANATIONS"] = str(explained)
    async with AsyncExitStack() as exit_stack:
        logs = Path(exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="tallymarks-bench-")))
        session = await exit_stack.enter_async_context(aiohttp.ClientSession())
        exit_stack.push_async_callback(delete_queues, amqp_url, topology)
        installation = Installation(settings, logs, session)
        exit_stack.push_async_callback(installation.stop)
        say("starting the services")
        stack = await start_stack(installation, await installation.create_tenant("Benchmark"))
        database = await asyncpg.connect(database_url)
        exit_stack.push_async_callback(database.close)
        pipeline = Pipeline(stack, session, database, options, rules)
        await pipeline.prepare()
        yield pipeline


async def delete_queues(amqp_url: str, topology: Topology) -> None:
    """Leave nothing behind on a broker that may be somebody's."""
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        for queue in (topology.events_queue(0), topology.dead_letters):
            await channel.queue_delete(queue)
        for exchange in (topology.events_exchange, topology.notifications_exchange, topology.dead_letters):
            await channel.exchange_delete(exchange)


# --- pgbench ----------------------------------------------------------------------------------------------------------


class Pgbench:
    """PostgreSQL's own benchmark program, doing one transaction per event on the same tables in another database."""

    def __init__(self, database_url: str, tenant_id: UUID, options: Options) -> None:
        self._database_url = database_url
        self._tenant_id = tenant_id
        self._options = options

    @classmethod
    async def prepared(cls, database_url: str, options: Options) -> "Pgbench":
        """Make a tenant and its customers, with the ids that the script computes."""
        tenant_id, now = uuid4(), utc_now()
        customer_ids = [UUID(f"00000000-0000-4000-8000-{number:012}") for number in range(1, options.customers + 1)]
        database = await asyncpg.connect(database_url)
        try:
            await database.execute(tenancy.INSERT_TENANT, tenant_id, "Benchmark", b"", now)
            await database.execute(customers_sql.INSERT_MISSING, tenant_id, customer_ids, now, anniversary(now, 1))
            await database.execute(customers_sql.INSERT_ACCOUNTS, tenant_id, customer_ids, now)
        finally:
            await database.close()
        return cls(database_url, tenant_id, options)

    async def measure(self) -> float:
        """Run a round's transactions; gives the events a second that pgbench says."""
        database = await asyncpg.connect(self._database_url)
        await database.execute("CHECKPOINT")
        await database.close()
        clients = self._options.pgbench_clients
        threads = min(clients, os.cpu_count() or 1)
        variables = {"tenant": self._tenant_id, "customers": self._options.customers, "body": self._body()}
        process = await asyncio.create_subprocess_exec(
            find_binaries() / "pgbench",
            *(
                "--no-vacuum",
                "--protocol=prepared",
                f"--client={clients}",
                f"--jobs={threads}",
            ),
            *(f"--transactions={max(1, self._options.events // clients)}", f"--file={PGBENCH_SCRIPT}"),
            *(f"--define={name}={value}" for name, value in variables.items()),
            self._database_url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        found = PGBENCH_RATE.search(output.decode())
        if process.returncode or found is None:
            raise RuntimeError(f"pgbench failed: {(output + errors).decode()}")
        return float(found[1])

    def _body(self) -> str:
        """An order as the pipeline records it."""
        (body,) = Orders(1).batches(1, 1)
        return orjson.dumps(orjson.loads(body)["events"][0]).decode()


# --- the report -------------------------------------------------------------------------------------------------------


def table(
    options: Options,
    pipeline_rounds: Sequence[Measured],
    mixed_rounds: Sequence[Measured],
    pgbench_rates: Sequence[float],
) -> str:
    """The medians, the rounds that they are of, and the ratios of the medians."""
    pipeline_rates = [measured.rate for measured in pipeline_rounds]
    mixed_rates = [measured.rate for measured in mixed_rounds]
    pipeline, pgbench = statistics.median(pipeline_rates), statistics.median(pgbench_rates)
    many = statistics.median(mixed_rates)
    rows = [
        ("events/s", "median", "rounds"),
        (f"pipeline, batches of {options.batch_size:,}", f"{pipeline:,.0f}", listed(pipeline_rates)),
        (f"pgbench, {options.pgbench_clients} clients", f"{pgbench:,.0f}", listed(pgbench_rates)),
        ("ratio", f"{pipeline / pgbench:.2f}", ""),
        ("", "", ""),
        (f"{options.rules} rules, explained", f"{many:,.0f}", listed(mixed_rates)),
        ("ratio to one rule", f"{many / pipeline:.2f}", ""),
        ("", "", ""),
        ("processor time, µs/event", "", ""),
    ]
    for rules, rounds in (("one rule", pipeline_rounds), (f"{options.rules} rules", mixed_rounds)):
        for name in rounds[0].cpu_microseconds:
            spent = [measured.cpu_microseconds[name] for measured in rounds]
            rows.append((f"{name}, {rules}", f"{statistics.median(spent):,.0f}", listed(spent)))
    return "\n".join(f"{name:<28}{median:>10}   {rounds}".rstrip() for name, median, rounds in rows)


def listed(figures: Sequence[float]) -> str:
    """Each round's figure."""
    return "  ".join(f"{figure:,.0f}" for figure in figures)


async def circumstances_of(database_url: str, amqp_url: str) -> str:
    """What the figures depend on."""
    database = await asyncpg.connect(database_url)
    postgresql = await database.fetchval("SHOW server_version")
    fsync = await database.fetchval("SHOW fsync")
    await database.close()
    async with await aio_pika.connect(amqp_url) as connection:
        properties = connection.transport.connection.server_properties if connection.transport else {}
    return (
        f"\n{platform.python_implementation()} {platform.python_version()} ({build_flags()})"
        f"\nPostgreSQL {postgresql} (fsync {fsync}), RabbitMQ {as_text(properties.get('version'))}"
        f"\n{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}"
    )


def build_flags() -> str:
    """How the interpreter was optimized when it was built, which is worth up to a factor of two."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    flags = re.findall(r"-O\w+", sysconfig.get_config_var("OPT") or "")
    flags += [name for name in ("--enable-optimizations", "--with-lto") if name in arguments]
    return " ".join(flags) or "built without optimizations"


def as_text(value: object) -> str:
    """A string that the broker sent, which may come as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    sys.exit(main())
