"""A TCP proxy that a test puts between a service and a server, to do what networks do: stall, delay, break, lead
nowhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from urllib.parse import parse_qs, urlsplit

CHUNK_BYTES_MAX = 65_536
# PostgreSQL's, in the directory that an address names as its host.
SOCKET_NAME = ".s.PGSQL.5432"


class Direction(Enum):
    """Where bytes go: from the client to the server, or back."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class Proxy:
    """Forwards to the host and port (or the unix socket) of a server's address, until it is told otherwise."""

    def __init__(self, server_url: str) -> None:
        self.delay_seconds = 0.0
        """How much later each piece arrives; in which many bytes are one piece."""
        self._listener: asyncio.Server | None = None
        self._flowing = {direction: asyncio.Event() for direction in Direction}
        self._held = dict.fromkeys(Direction, 0)
        self._pumps: set[asyncio.Task[None]] = set()
        self.lead_to(server_url)
        self.release()

    def lead_to(self, *server_urls: str) -> None:
        """Forward new connections to this server: of several, as a load balancer would, to the first that is there."""
        self._server_urls = [urlsplit(url) for url in server_urls]

    @property
    def url(self) -> str:
        """The server's address with the proxy's host and port in it."""
        if self._listener is None:
            raise RuntimeError("the proxy does not listen")
        host, port = self._listener.sockets[0].getsockname()[:2]
        server_url = self._server_urls[0]
        credentials, at, _ = server_url.netloc.rpartition("@")
        return server_url._replace(netloc=f"{credentials}{at}{host}:{port}", query="").geturl()

    def hold(self, direction: Direction) -> None:
        """Forward nothing more in this direction; nobody is told."""
        self._flowing[direction].clear()

    def release(self) -> None:
        """Forward what was held and what comes."""
        for flowing in self._flowing.values():
            flowing.set()

    def strand(self) -> None:
        """Forward nothing more on the connections that there are, for good, as when a machine is lost; nobody is told.
        New connections are served."""
        for flowing in self._flowing.values():
            flowing.clear()
        self._flowing = {direction: asyncio.Event() for direction in Direction}
        self.release()

    def held_bytes(self, direction: Direction) -> int:
        """How much was sent in this direction and not forwarded, of what the proxy has read."""
        return self._held[direction]

    def cut(self) -> None:
        """Break every connection, and drop what was held."""
        for pump in self._pumps:
            pump.cancel()

    async def start(self) -> None:
        """Listen on a free port of the loopback address."""
        self._listener = await asyncio.start_server(self._forward, "127.0.0.1", 0)

    async def stop(self) -> None:
        """Break every connection, and listen no more."""
        if self._listener is not None:
            self._listener.close()
        pumps = list(self._pumps)
        self.cut()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _forward(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await self._connect()
        except OSError:
            to_client.transport.abort()
            return
        pumps = {
            asyncio.create_task(self._pump(from_client, to_server, Direction.TO_SERVER)),
            asyncio.create_task(self._pump(from_server, to_client, Direction.TO_CLIENT)),
        }
        self._pumps |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        self._pumps -= pumps
        to_client.close()
        to_server.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for server_url in self._server_urls:
            with suppress(OSError):
                if directories := parse_qs(server_url.query).get("host"):
                    return await asyncio.open_unix_connection(f"{directories[0]}/{SOCKET_NAME}")
                return await asyncio.open_connection(server_url.hostname, server_url.port)
        raise ConnectionRefusedError

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction) -> None:
        flowing = self._flowing[direction]
        try:
            while chunk := await source.read(CHUNK_BYTES_MAX):
                self._held[direction] += len(chunk)
                try:
                    await flowing.wait()
                    await asyncio.sleep(self.delay_seconds)
                finally:
                    self._held[direction] -= len(chunk)
                target.write(chunk)
                await target.drain()
        except OSError:
            pass  # an end like any other
        # Nor is it told that the other side has ended, while nothing is forwarded.
        await flowing.wait()


@asynccontextmanager
async def proxy_to(server_url: str) -> AsyncIterator[Proxy]:
    """A proxy for the length of an `async with` block."""
    proxy = Proxy(server_url)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
