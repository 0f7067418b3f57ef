"""The client of the benchmarks: figures of what was not answered, or not answered well, are no figures."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.benchmarks.client import Load, request_bytes
from tests.parts import PATIENCE_SECONDS

Answering = Callable[[str], Sequence[bytes]]
"""The path of a request → the pieces in which it is answered."""


@asynccontextmanager
async def server(answering: Answering, connections: list[int]) -> AsyncIterator[int]:
    """Answers every request, piece by piece; gives the port, and notes how many requests each connection had."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for number in count(1):
                head = await reader.readuntil(b"\r\n\r\n")
                for piece in answering(head.split()[1].decode()):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                connections.append(number)
        except asyncio.IncompleteReadError:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def asking(number: int) -> list[bytes]:
    return [request_bytes("GET", f"/{place}", {}) for place in range(number)]


async def test_answers_are_told_in_the_order_of_the_requests_however_they_are_cut(tmp_path: Path) -> None:
    def cut(path: str) -> list[bytes]:
        whole = ok(path.encode() * 1_000)
        return [whole[:5], whole[5:40], whole[40:90], whole[90:]]

    requests: list[int] = []
    async with server(cut, requests) as port:
        load = await Load.prepared(tmp_path, port, asking(20), connections=4)
        started = load.begin()
        answers = await load.finished()
    assert list(answers.bodies) == [f"/{place}".encode() * 1_000 for place in range(20)]
    assert len(requests) == 20
    assert max(requests) > 1, "a connection is used again"
    assert answers.seconds == max(answers.answered_at) - started


@pytest.mark.parametrize("status", [b"201 Created", b"208 Already Reported", b"503 Service Unavailable"])
async def test_an_answer_that_is_not_200_fails_the_load(tmp_path: Path, status: bytes) -> None:
    def third_is_refused(path: str) -> list[bytes]:
        return [ok(b"").replace(b"200 OK", status) if path == "/3" else ok(b"")]

    async with server(third_is_refused, []) as port:
        load = await Load.prepared(tmp_path, port, asking(5), connections=2)
        load.begin()
        with pytest.raises(RuntimeError, match="ended with 1"):
            await load.finished()


async def test_a_connection_that_is_closed_fails_the_load(tmp_path: Path) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(close, "127.0.0.1", 0)
    async with listening:
        load = await Load.prepared(tmp_path, listening.sockets[0].getsockname()[1], asking(5), connections=2)
        load.begin()
        async with asyncio.timeout(PATIENCE_SECONDS):  # not only once the client has waited for long enough
            with pytest.raises(RuntimeError, match="ended with 1"):
                await load.finished()


async def test_at_a_rate_no_request_comes_before_its_instant(tmp_path: Path) -> None:
    async with server(lambda _: [ok(b"")], []) as port:
        load = await Load.prepared(tmp_path, port, asking(40), connections=40, rate=400.0)
        started = load.begin()
        answers = await load.finished()
    assert all(at >= started + place / 400.0 for place, at in enumerate(answers.answered_at))
