"""The HTTP server of the services holds its clients to bounds: raw sockets that do what no well-behaved client does.

Times are patched to be short, and what is waited for is always something that happens: never that time passes.
"""

import asyncio
import json
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

import pytest
from aiohttp import web

from tallymarks import limits
from tallymarks.http import BoundedRunner, Connection
from tests.parts import PATIENCE_SECONDS, until

SHORT_SECONDS = 0.05
LARGE_BYTES = 16 * 1024 * 1024
"""More than the sockets of both sides take."""
SMALL_BYTES = 48 * 1024
"""Less than a transport buffers before it would tell by default."""
SOCKET_BYTES = 4096
GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
GET_HELD = b"GET /held HTTP/1.1\r\nHost: api\r\n\r\n"
HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: a"


@dataclass
class Served:
    """A server in this process."""

    runner: BoundedRunner
    port: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets /held answer."""
    held: int = 0
    request: web.Request | None = None
    """The last one that was held."""

    async def is_held(self) -> bool:
        return self.held == 1

    @property
    def connections(self) -> list[Connection]:
        assert self.runner.server is not None
        return cast(list[Connection], self.runner.server.connections)

    async def has_no_connection(self) -> bool:
        return not self.connections

    async def has_an_idle_connection(self) -> bool:
        return any(one.is_idle for one in self.connections)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    app = web.Application(client_max_size=LARGE_BYTES)
    served = Served(BoundedRunner(app, shutdown_timeout=0.1))

    async def short(_: web.Request) -> web.Response:
        return web.Response(text="short")

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * LARGE_BYTES)

    async def small(request: web.Request) -> web.Response:
        assert request.transport is not None
        with socket.socket(fileno=socket.dup(request.transport.get_extra_info("socket").fileno())) as its_socket:
            its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        return web.Response(body=b"x" * SMALL_BYTES)

    async def held(request: web.Request) -> web.Response:
        served.held, served.request = served.held + 1, request
        await served.release.wait()
        return web.Response(text="held")

    async def length(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    routes: list[tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]] = [
        ("GET", "/", short),
        ("GET", "/large", large),
        ("GET", "/small", small),
        ("GET", "/held", held),
        ("POST", "/held", held),
        ("POST", "/length", length),
    ]
    for method, path, handler in routes:
        app.router.add_route(method, path, handler)
    await served.runner.setup()
    await web.TCPSite(served.runner, "127.0.0.1", 0).start()
    served.port = served.runner.addresses[0][1]
    yield served
    await served.runner.cleanup()


@dataclass
class Client:
    """A client that writes and reads bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bytes]:
        """Read one answer: its status and its body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            (length,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")]
            return int(head.split(b" ")[1]), await self.reader.readexactly(int(length.split(b" ")[1]))

    async def rest(self) -> bytes:
        """Read until the server has closed the connection."""
        read = bytearray()
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionError):
                while piece := await self.reader.read(65_536):
                    read += piece
        # A reader tells a reset before what has come ahead of it.
        return bytes(read + self.reader._buffer)  # type: ignore[attr-defined]

    async def drip(self, piece: bytes) -> None:
        """Send it again and again until there is an answer."""

        async def is_answered() -> bool:
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(SHORT_SECONDS / 10):
                    self.first = await self.reader.readexactly(1)
                return True
            if self.reader.exception() is not None:
                return True
            self.writer.write(piece)
            return False

        self.first = b""
        await until(is_answered)

    async def refused(self, status: int, code: str, *, begun: bytes = b"", also: bytes = b"") -> None:
        """Read a refusal in the one format of errors, after which the connection is closed."""
        head, body = (begun + await self.rest()).split(b"\r\n\r\n")
        assert also in head
        assert head.startswith(b"HTTP/1.1 %d " % status) or head.startswith(b"HTTP/1.0 %d " % status), head
        assert b"content-type: application/json" in head.lower()
        read = json.loads(body)
        assert set(read) == {"code", "message", "detail", "errors"}
        assert (read["code"], read["errors"]) == (code, [])


@asynccontextmanager
async def connected(served: Served, receive_bytes: int | None = None) -> AsyncIterator[Client]:
    raw = socket.socket()
    raw.setblocking(False)
    if receive_bytes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", served.port))
    # A small limit: the reader soon stops taking what nobody reads.
    reader, writer = await asyncio.open_connection(sock=raw, limit=SOCKET_BYTES)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def a_head_timeout_has_passed(served: Served) -> None:
    """Wait until a client that says nothing, and came last, is cut off."""
    async with connected(served) as silent:
        assert await silent.rest() == b""


async def a_round_trip(served: Served) -> None:
    """Wait until the server has looked at its sockets again."""
    async with connected(served) as client:
        client.writer.write(GET)
        assert await client.answer() == (200, b"short")


@pytest.fixture
def hurried_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT_SECONDS", SHORT_SECONDS)


@pytest.fixture
def hurried_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANSWER_TIMEOUT_SECONDS", SHORT_SECONDS)


@pytest.mark.usefixtures("hurried_heads")
class TestSlowHead:
    async def test_a_head_that_comes_byte_by_byte_is_cut_off(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(HALF_A_HEAD)
            await client.drip(b"a")
            await client.refused(408, "RequestTimeout", begun=client.first)

    async def test_a_head_that_stops_is_cut_off(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(HALF_A_HEAD)
            await client.refused(408, "RequestTimeout")

    async def test_who_says_nothing_is_told_nothing(self, served: Served) -> None:
        async with connected(served) as client:
            assert await client.rest() == b""

    async def test_each_head_of_a_connection_has_its_time(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(GET)
            assert await client.answer() == (200, b"short")
            client.writer.write(HALF_A_HEAD)
            await client.drip(b"a")
            await client.refused(408, "RequestTimeout", begun=client.first)

    async def test_a_connection_may_lie_idle_longer_than_a_head_may_take(self, served: Served) -> None:
        async with connected(served) as client:
            for _ in range(2):
                client.writer.write(GET)
                assert await client.answer() == (200, b"short")
                await a_head_timeout_has_passed(served)

    async def test_a_body_may_take_longer_than_a_head(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(b"POST /length HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\nab")
            await a_head_timeout_has_passed(served)
            client.writer.write(b"c")
            await a_head_timeout_has_passed(served)
            client.writer.write(b"d")
            assert await client.answer() == (200, b"4")

    async def test_a_request_under_way_is_answered_before_half_a_head_behind_it_is_cut_off(
        self, served: Served
    ) -> None:
        async with connected(served) as client:
            client.writer.write(GET_HELD)
            await until(served.is_held)
            client.writer.write(HALF_A_HEAD)
            await a_head_timeout_has_passed(served)
            served.release.set()
            assert await client.answer() == (200, b"held")
            await client.refused(408, "RequestTimeout")


class TestLargeHead:
    async def test_a_head_without_end_is_cut_off(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "HEAD_BYTES_MAX", 1_000)
        async with connected(served) as client:
            client.writer.write(HALF_A_HEAD + b"a" * 1_000)
            await client.refused(431, "HeadTooLarge")

    async def test_a_body_is_no_part_of_the_head(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "HEAD_BYTES_MAX", 1_000)
        async with connected(served) as client:
            client.writer.write(b"POST /length HTTP/1.1\r\nHost: api\r\nContent-Length: 1000000\r\n\r\n")
            for _ in range(100):
                client.writer.write(b"x" * 10_000)
                await client.writer.drain()
            assert await client.answer() == (200, b"1000000")

    async def test_each_head_has_its_own_bound(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "HEAD_BYTES_MAX", 1_000)
        async with connected(served) as client:
            for _ in range(10):
                client.writer.write(HALF_A_HEAD + b"a" * 200)
                await a_round_trip(served)
                client.writer.write(b"\r\n\r\n")
                assert await client.answer() == (200, b"short")

    @pytest.mark.parametrize(
        "head",
        [
            b"GET /?" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: api\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api\r\nA: " + b"a" * 9_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api\r\n" + b"A" * 9_000 + b": a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api\r\n" + b"".join(b"A%d: a\r\n" % n for n in range(101)) + b"\r\n",
        ],
        ids=["query", "value", "name", "number"],
    )
    async def test_a_long_line_or_too_many_of_them_are_refused(
        self, served: Served, head: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connected(served) as client:
            client.writer.write(head)
            await client.refused(431, "HeadTooLarge")
        assert not caplog.records


class TestIdle:
    @pytest.fixture
    def hurried_idleness(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "KEEP_ALIVE_TIMEOUT_SECONDS", SHORT_SECONDS)

    @pytest.mark.usefixtures("hurried_idleness")
    async def test_a_connection_that_lies_idle_is_closed(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(GET)
            assert await client.answer() == (200, b"short")
            assert await client.rest() == b""

    async def test_of_a_body_that_nobody_reads_yet_a_bounded_part_is_held(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(b"POST /held HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES)
            client.writer.write(b"x" * LARGE_BYTES)

            async def is_not_read_on() -> bool:
                transport = None if served.request is None else served.request.transport
                return transport is not None and not transport.is_reading()

            await until(is_not_read_on)
            assert served.request is not None
            # The buffer is closed at twice its size, by a piece of up to 256 KiB.
            assert 0 < served.request.content.total_bytes <= 2 * limits.READ_BUFFER_BYTES + 256 * 1024
            served.release.set()


class TestTooMany:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
        for name in ("KEEP_ALIVE", "HEAD"):  # what closes a connection here is that there are too many
            monkeypatch.setattr(limits, f"{name}_TIMEOUT_SECONDS", 2 * PATIENCE_SECONDS)

    async def test_one_more_connection_takes_the_place_of_the_one_that_lies_idle(self, served: Served) -> None:
        async with connected(served) as busy, connected(served) as idle:
            busy.writer.write(GET_HELD)
            await until(served.is_held)
            idle.writer.write(GET)
            assert await idle.answer() == (200, b"short")
            await until(served.has_an_idle_connection)
            async with connected(served) as more:
                more.writer.write(GET)
                assert await more.answer() == (200, b"short")
                assert await idle.rest() == b""
            served.release.set()
            assert await busy.answer() == (200, b"held")

    async def test_where_none_lies_idle_it_is_refused_and_those_that_are_open_go_on(self, served: Served) -> None:
        async with connected(served) as busy, connected(served) as writing:
            busy.writer.write(GET_HELD)
            await until(served.is_held)
            writing.writer.write(HALF_A_HEAD)

            async def has_begun() -> bool:
                return any(one._head_bytes for one in served.connections)

            await until(has_begun)
            for _ in range(5):
                async with connected(served) as more:
                    await more.refused(503, "Unavailable", also=b"Retry-After: 2")
            served.release.set()
            assert await busy.answer() == (200, b"held")
            writing.writer.write(b"\r\n\r\n")
            assert await writing.answer() == (200, b"short")
            async with connected(served) as more:
                more.writer.write(GET)
                assert await more.answer() == (200, b"short")

    async def test_a_request_whose_client_has_gone_keeps_its_place_until_it_is_over(self, served: Served) -> None:
        for _ in range(2):
            async with connected(served) as gone:
                held = served.held
                gone.writer.write(GET_HELD)

                async def is_held_too(before: int = held) -> bool:
                    return served.held == before + 1

                await until(is_held_too)
        async with connected(served) as more:
            await more.refused(503, "Unavailable")
        served.release.set()
        await until(served.has_no_connection)
        async with connected(served) as more:
            more.writer.write(GET)
            assert await more.answer() == (200, b"short")


async def test_a_body_is_not_unpacked(served: Served) -> None:
    packed = zlib.compress(b"x" * LARGE_BYTES)
    async with connected(served) as client:
        head = b"POST /length HTTP/1.1\r\nHost: api\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"
        client.writer.write(head % len(packed) + packed)
        assert await client.answer() == (200, str(len(packed)).encode())


class TestGarbage:
    @pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 100 + b"\r\n\r\n", b"GET\r\n\r\n"])
    async def test_what_is_not_http_is_refused(
        self, served: Served, garbage: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connected(served) as client:
            client.writer.write(garbage)
            await client.refused(400, "InvalidRequest")
        assert not caplog.records

    async def test_behind_a_request_it_is_refused_after_the_answer(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(GET_HELD)
            await until(served.is_held)
            client.writer.write(b"\x00garbage\r\n\r\n" + GET)
            await a_round_trip(served)
            served.release.set()
            assert await client.answer() == (200, b"held")
            await client.refused(400, "InvalidRequest")

    async def test_of_what_comes_together_with_it_nothing_is_done(self, served: Served) -> None:
        async with connected(served) as client:
            client.writer.write(GET_HELD + b"\x00garbage\r\n\r\n")
            await client.refused(400, "InvalidRequest")
        assert served.held == 0


@pytest.mark.usefixtures("hurried_answers")
class TestSlowReader:
    async def test_who_does_not_take_a_large_answer_is_cut_off(self, served: Served) -> None:
        async with connected(served, receive_bytes=SOCKET_BYTES) as client:
            client.writer.write(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")
            await client.reader.readexactly(1)
            await until(served.has_no_connection)
            assert len(await client.rest()) < LARGE_BYTES

    @pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
    async def test_who_leaves_the_end_of_an_answer_is_cut_off(self, served: Served, connection: bytes) -> None:
        async with connected(served, receive_bytes=SOCKET_BYTES) as client:
            client.writer.write(b"GET /small HTTP/1.1\r\nHost: api\r\nConnection: " + connection + b"\r\n\r\n")
            await client.reader.readexactly(1)
            await until(served.has_no_connection)
            assert len(await client.rest()) < SMALL_BYTES

    async def test_who_takes_everything_keeps_the_connection(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Longer than a busy machine may leave this process without its turn.
        monkeypatch.setattr(limits, "ANSWER_TIMEOUT_SECONDS", 2.0)
        async with connected(served) as client:
            client.writer.write(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")
            status, body = await client.answer()
            assert (status, len(body)) == (200, LARGE_BYTES)
            async with connected(served, receive_bytes=SOCKET_BYTES) as other:
                other.writer.write(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")

                async def is_alone() -> bool:
                    return len(served.connections) == 1

                await other.reader.readexactly(1)
                await until(is_alone)
            client.writer.write(GET)
            assert await client.answer() == (200, b"short")
