"""What the api takes on at a time: so much per key, so much in all, and beyond it a refusal instead of memory."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from tallymarks import limits
from tallymarks.http import BoundedRunner
from tallymarks_api.admission import Admission
from tallymarks_api.edge import admission_middleware
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import refused
from tests.integration.api.given import ACTIONS, CUSTOMERS, REDEMPTIONS, action, earned, fresh_id, redemption
from tests.parts import PATIENCE_SECONDS, Answered, ApiClient, Tenant, sessions_waiting_for_locks, until

RATE = 4
LARGE_BYTES = 16 * 1024 * 1024
"""More than the sockets of both sides take."""


class Seconds:
    """A monotonic clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rate_told(answered: Answered) -> tuple[str | None, str | None]:
    return answered.headers.get("RateLimit-Policy"), answered.headers.get("RateLimit")


async def open_to_all(api: ApiClient) -> list[int]:
    return [(await api.call("GET", path, headers={})).status for path in ("/health/live", "/health/ready", "/metrics")]


class TestRate:
    @pytest.fixture
    def seconds(self) -> Seconds:
        return Seconds()

    @pytest.fixture
    def admission(self, seconds: Seconds) -> Admission:
        return Admission(RATE, seconds)

    async def test_a_key_that_makes_too_many_requests_is_told_when_to_go_on(
        self, api: ApiClient, integration: ApiClient, other: ApiClient, seconds: Seconds
    ) -> None:
        for left in (3, 2, 1, 0):
            answered = await api.get(CUSTOMERS)
            assert answered.status == 200
            assert rate_told(answered) == ('"key";q=4;w=1', f'"key";r={left};t=1')
        for _ in range(2):
            answered = await api.get(CUSTOMERS)
            refused(answered, 429, "TooManyRequests")
            assert rate_told(answered) == ('"key";q=4;w=1', '"key";r=0;t=1')
            assert answered.headers["Retry-After"] == "1"
        assert (await integration.get(CUSTOMERS)).status == 200
        assert (await other.get(CUSTOMERS)).status == 200
        seconds.now += 1 / RATE
        assert (await api.get(CUSTOMERS)).status == 200
        refused(await api.get(CUSTOMERS), 429, "TooManyRequests")

    async def test_a_refused_event_has_no_effect_and_is_taken_in_afterwards(
        self, integration: ApiClient, seconds: Seconds
    ) -> None:
        event = action(fresh_id())
        for _ in range(RATE):
            await integration.get(CUSTOMERS)
        refused(await integration.post(ACTIONS, event), 429, "TooManyRequests")
        seconds.now += 1
        answered = await integration.post(ACTIONS, event)
        assert (answered.status, answered.body["isExisting"]) == (200, False)

    async def test_refusals_count_and_tell_the_rate_too(self, integration: ApiClient) -> None:
        refused(answered := await integration.get(f"{CUSTOMERS}/{fresh_id()}"), 404, "CustomerNotFound")
        assert rate_told(answered) == ('"key";q=4;w=1', '"key";r=3;t=1')
        refused(answered := await integration.post(CUSTOMERS, []), 400, "InvalidRequest")
        assert rate_told(answered) == ('"key";q=4;w=1', '"key";r=2;t=1')
        refused(answered := await integration.get("/api/v1/admin/rules"), 403, "Forbidden")
        assert rate_told(answered) == ('"key";q=4;w=1', '"key";r=1;t=1')

    async def test_who_does_not_know_the_secret_takes_nothing_of_the_rate(self, api: ApiClient) -> None:
        for _ in range(2 * RATE):
            answered = await api.call("GET", CUSTOMERS, headers={**api.headers, "x-api-secret": "wrong"})
            refused(answered, 401, "Unauthorized")
            assert rate_told(answered) == (None, None)
        assert (await api.get(CUSTOMERS)).status == 200

    async def test_health_and_metrics_have_no_rate(self, api: ApiClient) -> None:
        for _ in range(2 * RATE):
            assert await open_to_all(api) == [200, 200, 200]


async def test_no_rate_is_limited_or_told_unless_it_is_set(api: ApiClient) -> None:
    for _ in range(20):
        answered = await api.get(CUSTOMERS)
        assert (answered.status, rate_told(answered)) == (200, (None, None))


async def test_beyond_the_requests_under_way_is_a_503_and_health_goes_on(
    api: ApiClient,
    assessor: Assessor,
    tenant: Tenant,
    owner: asyncpg.Connection,
    admission: Admission,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_AT_ONCE_MAX", 3)
    customers = [fresh_id() for _ in range(3)]
    for customer_id in customers:
        await earned(assessor, tenant, customer_id, 100)

    async def all_wait() -> bool:
        return await sessions_waiting_for_locks(owner, "test") == 3

    async with owner.transaction():
        await owner.execute("SELECT FROM accounts FOR UPDATE")
        held = [asyncio.create_task(api.post(REDEMPTIONS, redemption(one, 10))) for one in customers]
        await until(all_wait)
        assert admission.requests == 3
        for path, headers in ((CUSTOMERS, api.headers), (CUSTOMERS, {}), ("/swagger/index.html", {}), ("/nowhere", {})):
            answered = await api.call("GET", path, headers=headers)
            refused(answered, 503, "Unavailable")
            assert answered.headers["Retry-After"] == str(limits.RETRY_AFTER_SECONDS)
        refused(await api.post(ACTIONS, action(customers[0])), 503, "Unavailable")
        assert await open_to_all(api) == [200, 200, 200]
    assert [answered.status for answered in await asyncio.gather(*held)] == [200, 200, 200]
    assert (await api.post(ACTIONS, action(customers[0]))).status == 200


async def test_beyond_the_bytes_of_bodies_is_a_503_until_they_are_let_go(
    api: ApiClient, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_BYTES_AT_ONCE_MAX", 1_000)
    address = urlsplit(api.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps({"firstName": "Ada"}).encode().ljust(950)
    headers = {**api.headers, "host": "api", "content-type": "application/json", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST {CUSTOMERS} HTTP/1.1\r\n{head}\r\n".encode() + body[:900])

    async def most_is_held() -> bool:
        return admission.body_bytes == 900

    try:
        await until(most_is_held)
        answered = await api.call("POST", CUSTOMERS, raw=b"{}".ljust(101))
        refused(answered, 503, "Unavailable")
        assert answered.headers["Retry-After"] == str(limits.RETRY_AFTER_SECONDS)
        assert (await api.call("POST", CUSTOMERS, raw=b"{}".ljust(100))).status == 200
        writer.write(body[900:])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()
        await writer.wait_closed()
    assert admission.body_bytes == 0
    assert (await api.call("POST", CUSTOMERS, raw=b"{}".ljust(1_000))).status == 200


@pytest.fixture
async def large_url(admission: Admission) -> AsyncIterator[str]:
    """The address of an application that answers much."""

    async def large(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * LARGE_BYTES)

    app = web.Application(middlewares=[admission_middleware(admission)])
    app.router.add_get("/", large)
    runner = BoundedRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


def so_many(admission: Admission, count: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return admission.requests == count

    return condition


@pytest.mark.parametrize("is_taken", [True, False])
async def test_a_request_is_under_way_until_its_client_has_taken_the_answer_or_is_cut_off(
    large_url: str, admission: Admission, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    monkeypatch.setattr(limits, "ANSWER_TIMEOUT_SECONDS", PATIENCE_SECONDS if is_taken else 0.05)
    address = urlsplit(large_url)
    raw = socket.socket()
    raw.setblocking(False)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(raw, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        if is_taken:
            assert admission.requests == 1
            await reader.readexactly(LARGE_BYTES)
        await until(so_many(admission, 0))
    finally:
        writer.transport.abort()
    # A busy machine may leave this process without its turn for longer than was patience for the one who took nothing.
    monkeypatch.setattr(limits, "ANSWER_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    async with aiohttp.ClientSession() as session, session.get(large_url) as response:
        assert len(await response.read()) == LARGE_BYTES
