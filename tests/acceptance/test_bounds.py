"""The bounds of one process, met by real sockets: beyond them clients are refused, and its memory does not grow."""

import asyncio
import json
import resource
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import pytest

from tallymarks import limits
from tallymarks.service import new_id
from tests.acceptance.installation import API, SERVICES, Installation, ServiceProcess
from tests.parts import PATIENCE_SECONDS, Tenant, credentials, until

ACTIONS, CUSTOMERS = "/api/v1/events/actions", "/api/v1/customers"
BODY_BYTES = 40_000
"""Of one request: those of all that may be under way fit in what their bodies may have together."""
BEYOND = 100
"""So many more clients than there may be."""
ALLOWED_BY_SHELLS = 1_024
MEBIBYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def open_files() -> Iterator[None]:
    """Start what a test starts with the open files of a usual shell, and have as many as possible in the test."""
    allowed, at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, at_most))


async def start_as_from_a_shell(installation: Installation, name: str) -> ServiceProcess:
    """Start a service that may open as many files as is usual unless it asks; gives it when it is ready."""
    _, at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (ALLOWED_BY_SHELLS, at_most))
    service = installation.start(name)
    resource.setrlimit(resource.RLIMIT_NOFILE, (at_most, at_most))
    await service.ready(*(("broker", "database") if name == API else ()))
    return service


@dataclass(frozen=True)
class Client:
    """A client that writes and reads bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bytes, dict[str, object]]:
        """Read an answer: its status, its head and its body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head.split(b" ")[1]), head, json.loads(await self.reader.readexactly(length))


Connect = Callable[[bytes], Awaitable[Client]]
"""Opens one more connection and sends something on it."""


@asynccontextmanager
async def connecting(service: ServiceProcess) -> AsyncIterator[Connect]:
    """Give what opens connections to a service, which are gone at the end."""
    address, opened = urlsplit(service.url), []

    async def connect(sent: bytes) -> Client:
        client = Client(*await asyncio.open_connection(address.hostname, address.port))
        opened.append(client)
        client.writer.write(sent)
        return client

    try:
        yield connect
    finally:
        for client in opened:
            client.writer.transport.abort()


def post_of(tenant: Tenant, customer_id: UUID) -> bytes:
    """A request of many bytes."""
    body = json.dumps({"eventId": str(new_id()), "customerId": str(customer_id)}).ljust(BODY_BYTES)
    headers = {**credentials(tenant.integration), "content-type": "application/json", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {"host": "api", **headers}.items())
    return f"POST {ACTIONS} HTTP/1.1\r\n{head}\r\n{body}".encode()


async def test_beyond_the_requests_under_way_is_a_503_and_memory_is_that_of_their_bodies(
    installation: Installation, tenant: Tenant
) -> None:
    api = await start_as_from_a_shell(installation, API)
    client = installation.client(api, tenant.integration)
    assert (await client.get(CUSTOMERS)).status == 200
    before = psutil.Process(api.pid).memory_info().rss
    customer_id = new_id()
    requests = [post_of(tenant, customer_id) for _ in range(limits.REQUESTS_AT_ONCE_MAX + BEYOND)]
    async with connecting(api) as connect:
        senders = [await connect(request[:-1]) for request in requests]
        answers = [asyncio.create_task(sender.answer()) for sender in senders]

        async def so_many_are_refused() -> bool:
            return sum(answer.done() for answer in answers) >= BEYOND

        await until(so_many_are_refused)
        for answer in answers:
            if answer.done():
                status, head, body = answer.result()
                assert (status, body["code"]) == (503, "Unavailable")
                assert b"\r\nretry-after: %d\r\n" % limits.RETRY_AFTER_SECONDS in head
        assert (await api.health()).status == 200
        assert psutil.Process(api.pid).memory_info().rss - before < len(senders) * BODY_BYTES + 100 * MEBIBYTE
        for sender, request in zip(senders, requests, strict=True):
            sender.writer.write(request[-1:])
        assert Counter([(await answer)[0] for answer in answers]) == {
            200: limits.REQUESTS_AT_ONCE_MAX,
            503: BEYOND,
        }
    assert (await client.get(CUSTOMERS)).status == 200


@pytest.mark.parametrize("name", SERVICES)
async def test_beyond_the_open_connections_one_that_lies_idle_is_closed_and_the_new_one_served(
    installation: Installation, name: str
) -> None:
    service = await start_as_from_a_shell(installation, name)
    async with connecting(service) as connect:
        opened = []
        for _ in range(limits.CONNECTIONS_MAX + BEYOND):
            opened.append(await connect(b"GET /health/live HTTP/1.1\r\nHost: tallymarks\r\n\r\n"))
            assert (await opened[-1].answer())[0] == 200

        async def so_many_are_closed() -> bool:
            return sum(client.reader.at_eof() for client in opened) >= BEYOND

        # Before they would be closed for having lain idle too long.
        await until(so_many_are_closed, limits.KEEP_ALIVE_TIMEOUT_SECONDS / 2)
        assert not opened[-1].reader.at_eof()
