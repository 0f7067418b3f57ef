"""Named cases of what clients see, each with its figure, after what Jepsen, TigerBeetle and RabbitMQ test."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from random import Random

import aiohttp
import orjson

from tallymarks.tenants import CreatedApiKey
from tests.acceptance.installation import API, ASSESSOR, Json, ServiceProcess
from tests.faults.check import Findings
from tests.faults.faults import DO, crash_postgresql, crash_rabbitmq, cut, kill
from tests.faults.rate import sampled, seconds_until_back, usual_rate
from tests.faults.record import Record, Sent
from tests.faults.system import BROKER, DATABASE, System
from tests.faults.trial import Report
from tests.faults.workload import VISIT, VISIT_POINTS, Caller, Workload, uuid_of
from tests.parts import ApiClient, credentials, until
from tests.proxy import Direction

IDENTICAL_POSTS, IDENTICAL_CONNECTIONS, ANSWERED_BEFORE_KILL = 100, 5, (15, 30)
UNIQUE_EVENTS, UNIQUE_BATCH, UNIQUE_POSTERS = 100_000, 500, 4
# Then the rest may come through: on a busy machine there is little time between two of them.
UNIQUE_FAULTS_MAX = 12
RACING, RACING_POINTS, RACED_FOR = 200, 10, 1_000
UNDISTURBED_SECONDS, CUT_EVERY_SECONDS, CUT_FOR_SECONDS, BACK_WITHIN_SECONDS = 10.0, 5.0, 120.0, 10.0


class Case:
    """A tenant with the workload's rules, a record, and what is reported in the end."""

    def __init__(self, name: str, system: System, random: Random, key: CreatedApiKey, workload: Workload) -> None:
        self.name = name
        self.system = system
        self.random = random
        self.key = key
        self.workload = workload
        self.caller = workload.caller
        self.problems: list[str] = []
        self._started = time.monotonic()

    @classmethod
    async def opened(cls, name: str, system: System, random: Random) -> "Case":
        """Make the tenant and its rules, on a system that is ready."""
        await system.ready()
        key, client = await system.tenant()
        workload = Workload(client, Random(random.getrandbits(64)))
        await workload.prepare()
        return cls(name, system, random, key, workload)

    @property
    def record(self) -> Record:
        """What was answered."""
        return self.workload.record

    def sent(self, kind: str, amount: int | None, customer_id: str | None = None, **parts: object) -> Sent:
        """A new event, of a new customer unless one is given."""
        event: Json = {"eventId": uuid_of(self.random), "customerId": customer_id or uuid_of(self.random), **parts}
        return self.record.add(Sent(kind, event, amount))

    def visit(self, customer_id: str | None = None) -> Sent:
        """A new action worth a point."""
        return self.sent("action", VISIT_POINTS, customer_id, nameSpace=VISIT)

    async def until_accepted(self, sent: Sent) -> None:
        """Post an event until it is taken in."""

        async def is_accepted() -> bool:
            return await self.caller.post(sent) in {200, 208}

        await until(is_accepted)

    def expect(self, holds: bool, problem: str) -> None:
        """Note a problem where something does not hold."""
        if not holds:
            self.problems.append(problem)

    async def closed(self, figure: str) -> Report:
        """Hold everything against the record, and report."""
        await self.system.ready()
        found: Findings = await self.system.compared(self.record, self.key)
        self.problems += found.lines()
        self.expect(await self.system.drained(), "the events queues did not drain")
        self.expect(await self.system.verified(self.key), "`tallymarks ledger verify` found something")
        self.expect(not self.record.overdue, f"{self.record.overdue} calls had no answer within the deadline")
        through = sum(bool(sent.answers) for sent in self.record.sent.values()) - len(found.lost)
        seconds = time.monotonic() - self._started
        return Report(self.name, through, len(found.lost), len(found.doubled), tuple(self.problems), seconds, figure)


async def identical_posts(system: System, random: Random) -> Report:
    """The same order many times at once, at two apis; one is killed midway, and what was not answered is sent again."""
    case = await Case.opened("identical-posts", system, random)
    sent = case.sent("order", 30, order={"total": "30"})
    killed, other = system.services[API], system.start(API)
    await other.ready(BROKER, DATABASE)
    enough, answers = random.randint(*ANSWERED_BEFORE_KILL), 0
    async with connected(case, killed) as one, connected(case, other) as two:

        async def post_once(caller: Caller) -> bool:
            nonlocal answers
            is_answered = await caller.post(sent) in {200, 208}
            answers += is_answered and caller is one
            if answers == enough and killed.is_running:
                killed.kill()
            return is_answered

        posting = [post_once(caller) for caller in (one, two) for _ in range(IDENTICAL_POSTS // 2)]
        first = Counter(await asyncio.gather(*posting))
        killed.start_again()
        await system.ready()
        again = await asyncio.gather(*((one, two)[number % 2].post(sent) for number in range(first[False])))
    code = await other.stop()
    system.installation.services.remove(other)
    case.expect(code == 0, f"the second api ended with {code}")
    case.expect(first[True] > 0 and first[False] > 0, f"the kill came too early or too late: {first}")
    case.expect(set(again) <= {200, 208}, f"sent again, it was answered {Counter(again)}")
    bodies = {orjson.dumps(answer, option=orjson.OPT_SORT_KEYS) for answer in sent.answers}
    case.expect(
        (len(bodies), len(sent.answers)) == (1, IDENTICAL_POSTS),
        f"{len(bodies)} different bodies in {len(sent.answers)} answers",
    )
    return await case.closed(
        f"{first[True]} answered and {first[False]} not when one of two apis was killed, those sent again:"
        f" {len(sent.answers)} identical bodies, one effect"
    )


@asynccontextmanager
async def connected(case: Case, api: ServiceProcess) -> AsyncIterator[Caller]:
    """A client of one api that keeps so many requests waiting for a few connections."""
    connector = aiohttp.TCPConnector(limit=IDENTICAL_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Caller(ApiClient(session, api.url, credentials(case.key)), case.record)


async def unique_events(system: System, random: Random) -> Report:
    """Very many events while broker, assessor, api and database are ended in turn."""
    case = await Case.opened("unique-events", system, random)
    customer_ids = [uuid_of(random) for _ in range(500)]
    events = [case.visit(random.choice(customer_ids)) for _ in range(UNIQUE_EVENTS)]
    batches = [events[start : start + UNIQUE_BATCH] for start in range(0, UNIQUE_EVENTS, UNIQUE_BATCH)]
    posting = asyncio.gather(*(post_all(case.caller, batches) for _ in range(UNIQUE_POSTERS)))
    faults: list[DO] = [partial(kill, ASSESSOR), partial(kill, API), crash_postgresql, crash_rabbitmq]
    survived = 0
    while survived < len(faults) or (not posting.done() and survived < UNIQUE_FAULTS_MAX):
        await faults[survived % len(faults)](system, random)
        survived += 1
        await asyncio.sleep(1)
    await posting
    return await case.closed(f"{UNIQUE_EVENTS:,} events, {survived} faults")


async def post_all(caller: Caller, batches: list[list[Sent]]) -> None:
    """Post batch after batch, each until it is taken in."""
    while batches:
        batch = batches.pop()
        while await caller.post_batch(batch) != 200:
            await asyncio.sleep(0.2)


async def deleted_binding(system: System, random: Random) -> Report:
    """A queue that is no longer bound: nothing is taken in that would go nowhere."""
    case = await Case.opened("deleted-binding", system, random)
    names = system.topology
    partitions = range(names.partitions)
    async with system.channel() as channel:
        queues = [await channel.get_queue(names.events_queue(partition)) for partition in partitions]
        for partition, queue in zip(partitions, queues, strict=True):
            await queue.unbind(names.events_exchange, routing_key=str(partition))
        singles = [case.visit() for _ in range(20)]
        statuses = Counter(await asyncio.gather(*map(case.caller.post, singles)))
        statuses[await case.caller.post_batch([case.visit() for _ in range(20)])] += 1
        for partition, queue in zip(partitions, queues, strict=True):
            await queue.bind(names.events_exchange, routing_key=str(partition))
    case.expect(set(statuses) == {503}, f"answered {dict(statuses)}")
    await asyncio.gather(*map(case.until_accepted, singles))
    return await case.closed(f"answered {dict(statuses)} while unbound, taken in afterwards")


async def connections_cut(system: System, random: Random) -> Report:
    """Every connection to a server is cut every few seconds for two minutes, whether the rate is back or not."""
    case = await Case.opened("connections-cut", system, random)
    pairs = [pair for pair in system.proxies if pair[0] in system.services]
    cuts: list[float] = []
    case.workload.start()
    try:
        async with sampled(system) as samples:
            await asyncio.sleep(UNDISTURBED_SECONDS)
            usual = usual_rate(samples)
            started = time.monotonic()
            while (begun := time.monotonic()) < started + CUT_FOR_SECONDS:
                await cut(pairs, system, random)
                cuts.append(time.monotonic())
                await asyncio.sleep(begun + CUT_EVERY_SECONDS - time.monotonic())

            async def is_back() -> bool:
                return seconds_until_back(samples, cuts[-1], usual) < inf

            with suppress(TimeoutError):
                await until(is_back, BACK_WITHIN_SECONDS)
    finally:
        await case.workload.stop()
    longest = max(seconds_until_back(samples, cut_at, usual) for cut_at in cuts)
    case.expect(longest < BACK_WITHIN_SECONDS, f"the rate was back too late after a cut, or never: {longest:.1f} s")
    return await case.closed(
        f"cut {len(cuts)} times, half of the usual {usual:,.0f} events/s was back after {longest:.1f} s at the longest"
    )


async def racing_redemptions(system: System, random: Random) -> Report:
    """Twice as many redemptions as there are points for, all at once."""
    case = await Case.opened("racing-redemptions", system, random)
    earned = case.sent("points", RACED_FOR, points={"quantity": RACED_FOR})
    await case.until_accepted(earned)
    await case.system.compared(case.record, case.key)
    redemptions = [
        case.sent("redemption", -RACING_POINTS, earned.customer_id, redemption={"points": RACING_POINTS})
        for _ in range(RACING)
    ]
    statuses = Counter(await asyncio.gather(*(until_decided(case.caller, one) for one in redemptions)))
    expected = RACED_FOR // RACING_POINTS
    case.expect(statuses == {200: expected, 400: RACING - expected}, f"answered {dict(statuses)}")
    async with system.owner() as owner:
        statement = "SELECT balance FROM accounts WHERE tenant_id = $1"
        balance = await owner.fetchval(statement, case.key.tenant_id)
    case.expect(balance == 0, f"the balance is {balance}")
    return await case.closed(f"{statuses[200]} succeeded, {statuses[400]} refused, balance {balance}")


async def until_decided(caller: Caller, sent: Sent) -> int:
    """Post until it is decided; one that was decided before counts as taken."""
    while (status := await caller.post(sent)) not in {200, 208, 400}:
        await asyncio.sleep(0.05)
    return 200 if status == 208 else status


async def deadlines(system: System, random: Random) -> Report:
    """Neither server answers the api: each call is answered in time all the same, and never with what is not known."""
    case = await Case.opened("deadlines", system, random)
    proxies = [system.proxies[API, part] for part in (BROKER, DATABASE)]
    for proxy in proxies:
        for direction in Direction:
            proxy.hold(direction)
    posted: Sequence[Sent] = [
        case.visit(),
        case.sent("order", 5, order={"total": "5"}),
        case.sent("redemption", -1, redemption={"points": 1}),
        case.sent("reversal", None, reverses=uuid_of(random)),
    ]
    reads = ("/api/v1/customers/events", f"/api/v1/customers/{uuid_of(random)}/balance", "/api/v1/admin/rules")
    calls = [case.caller.post(sent) for sent in posted]
    answers = await asyncio.gather(*calls, *(read(case.caller, path) for path in reads))
    for proxy in proxies:
        proxy.release()
    case.expect(set(answers) == {503}, f"answered {answers}")
    return await case.closed(
        f"{len(answers)} calls answered 503, the slowest after {case.record.slowest_seconds:.1f} s"
    )


async def read(caller: Caller, path: str) -> int:
    """Read once; gives the status."""
    status, _ = await caller.call("GET", path, None)
    return status


CASES = {
    "identical-posts": identical_posts,
    "racing-redemptions": racing_redemptions,
    "deleted-binding": deleted_binding,
    "deadlines": deadlines,
    "unique-events": unique_events,
    "connections-cut": connections_cut,
}
