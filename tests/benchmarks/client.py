"""Puts requests to an HTTP server over a number of connections, and tells when each was answered: the client of the
benchmarks of the api.

It shares the machine with what it measures, so it is a process of its own that does as little as it can: requests are
made beforehand, and of an answer it reads the status and the length. `Load` starts it; README.md says how it is used.
"""

import argparse
import asyncio
import re
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import uvloop

SEPARATOR = b"\0"
"""Between requests, and between answers, in the files that they are handed over in: none of them holds one."""
HEAD_END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 "
CONTENT_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")
TIMEOUT_SECONDS = 240.0
"""For all answers: a client whose parent has given up does not stay for ever."""
HANDSHAKE_SECONDS = 0.05
"""From the word to begin until it begins: by then the client has read the word."""
TIMER_SECONDS = 0.001
"""The event loop's timers count in these."""


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Give a request as it is sent."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + HEAD_END + body


@dataclass(frozen=True)
class Answers:
    """What became of a load, all of which was answered 200."""

    seconds: float
    """From the first request to the last answer."""
    cpu_seconds: float
    """What the client itself spent of the processor."""
    answered_at: Sequence[float]
    """By `time.monotonic`, in the order of the requests."""
    bodies: Sequence[bytes]


class Load:
    """A client process that has its requests and its connections, and waits for the word to begin."""

    def __init__(self, process: asyncio.subprocess.Process, answers: Path) -> None:
        self._process = process
        self._answers = answers

    @classmethod
    async def prepared(
        cls, directory: Path, port: int, requests: Sequence[bytes], connections: int, rate: float | None = None
    ) -> "Load":
        """Start the client: it keeps all connections busy, or sends `rate` requests a second come what may."""
        given, answers = directory / "requests", directory / "answers"
        given.write_bytes(SEPARATOR.join(requests))
        command = ["-m", "tests.benchmarks.client", str(given), str(answers), str(port), str(connections)]
        if rate is not None:
            command.append(f"--rate={rate!r}")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if not await cast(asyncio.StreamReader, process.stdout).readline():
            raise RuntimeError(f"the client ended with {await process.wait()}")
        return cls(process, answers)

    def begin(self) -> float:
        """Have it begin; gives the `time.monotonic` of the first request, which is about to come."""
        at = time.monotonic() + HANDSHAKE_SECONDS
        cast(asyncio.StreamWriter, self._process.stdin).write(f"{at!r}\n".encode())
        return at

    async def finished(self) -> Answers:
        """Wait for the last answer.

        Raises:
            RuntimeError: there was none, or one that was not 200.
        """
        if code := await self._process.wait():
            raise RuntimeError(f"the client ended with {code}")
        told, *bodies = self._answers.read_bytes().split(SEPARATOR)
        return Answers(**orjson.loads(told), bodies=bodies)


# --- in the process of the client -------------------------------------------------------------------------------------


class Requests:
    """The requests that are to be sent, each on a connection that is free then."""

    def __init__(self, requests: Sequence[bytes], rate: float | None) -> None:
        self._requests = requests
        self._rate = rate
        self._next = 0
        self._waiting = len(requests)
        self._started = 0.0
        self._loop = asyncio.get_running_loop()
        self.free: deque[Connection] = deque()
        self.answered_at = [0.0] * len(requests)
        self.bodies: list[bytes] = [b""] * len(requests)
        self.done: asyncio.Future[None] = self._loop.create_future()

    def begin(self, at: float) -> None:
        """Send the first ones."""
        self._started = at
        if self._rate is None:
            self._send()
        else:
            self._tick()

    def answered(self, connection: "Connection", place: int, body: bytes) -> None:
        """Note an answer, and send the next request where one is due."""
        self.answered_at[place] = time.monotonic()
        self.bodies[place] = body
        self.free.append(connection)
        self._waiting -= 1
        if self._waiting:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)

    def failed(self, reason: str) -> None:
        """Give up."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))

    def _send(self) -> None:
        due = len(self._requests)
        if self._rate is not None:
            due = min(due, int((time.monotonic() - self._started) * self._rate) + 1)
        while self.free and self._next < due:
            self.free.popleft().send(self._next, self._requests[self._next])
            self._next += 1

    def _tick(self) -> None:
        self._send()
        if self._next < len(self._requests):
            self._loop.call_later(TIMER_SECONDS, self._tick)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._transport: Any = None
        self._place = 0
        self._received = bytearray()
        self._body_at = self._end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be free."""
        self._transport = transport
        self._requests.free.append(self)

    def send(self, place: int, request: bytes) -> None:
        """Send a request."""
        self._place = place
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Hand the answer over once it is whole."""
        self._received += data
        if not self._end and not self._read_head():
            return
        if len(self._received) >= self._end:
            body = bytes(self._received[self._body_at : self._end])
            self._received.clear()
            self._end = 0
            self._requests.answered(self, self._place, body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up: none is to be lost before the end."""
        self._requests.failed(f"a connection was closed: {exc}")

    def _read_head(self) -> bool:
        at = self._received.find(HEAD_END)
        if at < 0:
            return False
        length = CONTENT_LENGTH.search(self._received, 0, at + 2)
        if length is None or not self._received.startswith(OK):
            self._requests.failed(f"a request was answered {bytes(self._received[:1_000])!r}")
            return False
        self._body_at = at + len(HEAD_END)
        self._end = self._body_at + int(length[1])
        return True


async def put(given: Sequence[bytes], port: int, connections: int, rate: float | None) -> list[bytes]:
    """Connect, wait for the word, put all requests; gives what is told of it, then the bodies of the answers."""
    requests = Requests(given, rate)
    for _ in range(connections):
        await asyncio.get_running_loop().create_connection(lambda: Connection(requests), "127.0.0.1", port)
    print("ready", flush=True)
    at = float(await asyncio.to_thread(sys.stdin.readline))
    await asyncio.sleep(at - time.monotonic())
    before = resource.getrusage(resource.RUSAGE_SELF)
    requests.begin(at)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await requests.done
    after = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "seconds": max(requests.answered_at) - at,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "answered_at": requests.answered_at,
    }
    return [orjson.dumps(told), *requests.bodies]


def main() -> int:
    """Be the client; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.client", description=__doc__)
    parser.add_argument("requests", type=Path, help="the requests, separated by NUL")
    parser.add_argument(
        "answers", type=Path, help="where what was measured and the bodies of the answers are to be written"
    )
    parser.add_argument("port", type=int, help="of the server on 127.0.0.1")
    parser.add_argument("connections", type=int, help="how many there are")
    parser.add_argument("--rate", type=float, help="requests a second; without it, each connection is kept busy")
    options = parser.parse_args()
    requests = options.requests.read_bytes().split(SEPARATOR)
    answers = uvloop.run(put(requests, options.port, options.connections, options.rate))
    options.answers.write_bytes(SEPARATOR.join(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
