"""Named cases of a broker of three nodes: whoever is killed, two are left, and publishing goes on.

The services know one address, as of a load balancer or a Kubernetes Service: `lead_to_broker` is what that does.
"""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from random import Random
from uuid import UUID

from tallymarks_local.rabbitmq import find_server_script
from tests.faults.cases import Case
from tests.faults.cluster import NODES, RabbitmqCluster, running_cluster
from tests.faults.system import BROKER, System, migrated_database, new_directory, system_on
from tests.faults.trial import Report
from tests.faults.workload import uuid_of
from tests.parts import until

PAUSE_SECONDS_MAX = 10.0
POSTERS, POSTER_CUSTOMERS = 4, 10
BEFORE_SECONDS, AFTER_SECONDS = 1.0, 2.0
# What the heartbeats take to find out that nobody is at the other end any more, and some more.
LOST_PAUSE_SECONDS_MAX = 45.0


@dataclass(frozen=True)
class Kill:
    """A node that is killed, and the one that the services are connected to, both as seen from the queues' leader.

    A node that is lost breaks no connection, as when its machine is without power.
    """

    who: str
    killed: int
    connected: int
    is_lost: bool = False

    @property
    def pause_seconds_max(self) -> float:
        """How long nothing may be confirmed."""
        return LOST_PAUSE_SECONDS_MAX if self.is_lost else PAUSE_SECONDS_MAX


KILLS = (
    Kill("the leader", 0, 1),
    Kill("the one that the services are connected to", 1, 1),
    Kill("both in one", 0, 0),
    Kill("both in one, lost without a word", 0, 0, is_lost=True),
)


class Posters:
    """Clients that post one event after the other, a partition each, and note when each was confirmed."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._stop = asyncio.Event()
        self._confirmed: list[list[float]] = [[] for _ in range(case.system.topology.partitions)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let them post."""
        for partition in range(len(self._confirmed)):
            customer_ids = [self._customer_of(partition) for _ in range(POSTER_CUSTOMERS)]
            self._tasks += [asyncio.create_task(self._post(partition, customer_ids)) for _ in range(POSTERS)]

    async def stop(self) -> None:
        """Let each finish what it is about."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    def longest_pause_seconds(self, since: float) -> float:
        """The longest time since then in which nothing was confirmed for one of the partitions."""
        now = time.monotonic()
        times = [[since, *(moment for moment in confirmed if moment > since), now] for confirmed in self._confirmed]
        return max(later - earlier for moments in times for earlier, later in pairwise(moments))

    async def go_on(self, since: float) -> bool:
        """Whether something was confirmed for every partition since then."""
        return all(confirmed and confirmed[-1] > since for confirmed in self._confirmed)

    def _customer_of(self, partition: int) -> str:
        """A new customer whose events go there."""
        while True:
            customer_id = uuid_of(self._case.random)
            if self._case.system.topology.partition(self._case.key.tenant_id, UUID(customer_id)) == partition:
                return customer_id

    async def _post(self, partition: int, customer_ids: list[str]) -> None:
        while not self._stop.is_set():
            sent = self._case.visit(self._case.random.choice(customer_ids))
            await self._case.until_accepted(sent)
            self._confirmed[partition].append(time.monotonic())


async def broker_node_killed(system: System, random: Random) -> Report:
    """One node after the other is killed at load, and started again."""
    script = find_server_script()
    assert system.postgres is not None
    assert script is not None
    directory = new_directory(system.directory / "cluster")
    url = await migrated_database(system.postgres, "cluster", directory)
    async with (
        running_cluster(directory, script) as cluster,
        system_on(url, cluster.nodes[0].url, f"{system.topology.prefix}-cluster", directory) as clustered,
    ):
        case = await Case.opened("broker-node-killed", clustered, random)
        posters = Posters(case)
        case.workload.start()
        posters.start()
        try:
            pauses = {kill: await kill_node(cluster, case, posters, kill) for kill in KILLS}
        finally:
            await asyncio.gather(posters.stop(), case.workload.stop())
        for kill, seconds in pauses.items():
            problem = f"{kill.who} killed: publishing paused for {seconds:.1f} s"
            case.expect(seconds < kill.pause_seconds_max, problem)
        longest = ", ".join(f"{seconds:.1f} s ({kill.who})" for kill, seconds in pauses.items())
        return await case.closed(f"3 members each; longest pause of a partition: {longest}")


async def kill_node(cluster: RabbitmqCluster, case: Case, posters: Posters, kill: Kill) -> float:
    """Kill a node and start it again; gives for how long nothing was confirmed."""
    names = case.system.topology
    events_queues = [names.events_queue(partition) for partition in range(names.partitions)]
    whole = partial(cluster.is_whole, [*events_queues, names.dead_letters])
    await until(whole)
    leader = await cluster.leader_of(events_queues[0])
    victim, first = (leader + kill.killed) % NODES, (leader + kill.connected) % NODES
    case.system.lead_to_broker(*cluster.urls(first))
    to_broker = [proxy for (_, part), proxy in case.system.proxies.items() if part == BROKER]
    for proxy in to_broker:
        proxy.cut()
    await until(partial(posters.go_on, time.monotonic()))
    await case.system.ready()
    since = time.monotonic()
    await asyncio.sleep(BEFORE_SECONDS)
    if kill.is_lost:
        for proxy in to_broker:
            proxy.strand()
    cluster.nodes[victim].crash()
    await until(partial(posters.go_on, time.monotonic() + AFTER_SECONDS))
    await cluster.start_again(victim)
    case.system.lead_to_broker(*cluster.urls(first))
    await until(whole)
    return posters.longest_pause_seconds(since)


CASES = {"broker-node-killed": broker_node_killed}
