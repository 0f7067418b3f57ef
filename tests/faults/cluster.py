"""Three RabbitMQ nodes of this machine as one cluster, whose nodes are killed and started again."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from tallymarks_local.rabbitmq import ClusterMember, RabbitmqNode
from tallymarks_local.servers import DIRECTORY_VARIABLE, POLL_SECONDS, READY_TIMEOUT_SECONDS, free_ports

NODES = 3


@dataclass(frozen=True)
class Queue:
    """The names of the nodes of a quorum queue: who leads it, who has its messages, and who of those is there."""

    leader: str
    members: frozenset[str]
    online: frozenset[str]


class RabbitmqCluster:
    """Nodes in directories of their own below one, with one port mapper; by their numbers, from 0 on."""

    def __init__(self, directory: Path, server_script: Path) -> None:
        self._home = directory / "home"
        (self._epmd_port,) = free_ports(1)
        self.names = [f"tallymarks{number}@localhost" for number in range(NODES)]
        self.nodes = [
            RabbitmqNode(
                directory / f"rabbitmq{number}",
                server_script,
                ClusterMember(name, self.names[0], self._epmd_port, self._home),
            )
            for number, name in enumerate(self.names)
        ]
        self._port_mapper: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the port mapper and the first node, and when that is there the others, which join it."""
        self._port_mapper = self._start_port_mapper()
        await self.start_again(0)
        await asyncio.gather(*(self.start_again(number) for number in range(1, NODES)))

    async def start_again(self, number: int) -> None:
        """Start a node, also one that was killed, and wait until it is there; it has another port each time."""
        self.nodes[number].start()
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            while not self.nodes[number].is_ready():
                await asyncio.sleep(POLL_SECONDS)

    def _start_port_mapper(self) -> subprocess.Popen[bytes]:
        self._home.mkdir(parents=True, mode=0o700)
        return subprocess.Popen(
            ["epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)],
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), DIRECTORY_VARIABLE: str(self._home)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End every node at once, whose data nobody needs again, and the port mapper."""
        for node in self.nodes:
            node.crash()
        if self._port_mapper is not None:
            self._port_mapper.terminate()
            self._port_mapper.wait()
            self._port_mapper = None
        for node in self.nodes:
            node.stop_leftover()

    def urls(self, first: int = 0) -> list[str]:
        """Every node's address, beginning with this one's."""
        return [self.nodes[(first + number) % NODES].url for number in range(NODES)]

    async def queues(self) -> dict[str, Queue]:
        """Ask for every queue, at a node that is there."""
        asked = next(node for node in self.nodes if node.is_running)
        order = ("list_queues", "name", "leader", "members", "online", "--formatter=json")
        rows = orjson.loads(await asyncio.to_thread(asked.control, *order))
        return {row["name"]: Queue(row["leader"], frozenset(row["members"]), frozenset(row["online"])) for row in rows}

    async def leader_of(self, queue: str) -> int:
        """The number of the node that leads a queue."""
        return self.names.index((await self.queues())[queue].leader)

    async def is_whole(self, queues: Collection[str]) -> bool:
        """Whether each of these queues has every node as a member, and all of them are there."""
        found = await self.queues()
        return all(name in found and found[name].online == set(self.names) for name in queues)


@asynccontextmanager
async def running_cluster(directory: Path, server_script: Path) -> AsyncIterator[RabbitmqCluster]:
    """A cluster for the length of an `async with` block."""
    cluster = RabbitmqCluster(directory, server_script)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.stop()
