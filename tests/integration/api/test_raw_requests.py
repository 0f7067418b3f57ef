"""What comes over a socket that no client library would send: no fault of the service comes of it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks_api.admission import Admission
from tests.integration.api.given import ACTIONS, CUSTOMERS, EVENT_SEARCH, action, fresh_id
from tests.parts import PATIENCE_SECONDS, ApiClient, until

SHORT_SECONDS = 0.5
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not whole is soon given up: before the api starts, which reads some of these then."""
    for name in ("HEAD", "BODY", "UNREAD_BODY", "KEEP_ALIVE"):
        monkeypatch.setattr(limits, f"{name}_TIMEOUT_SECONDS", SHORT_SECONDS)


def head(api: ApiClient, line: str, *headers: str) -> bytes:
    """The head of a request: with credentials last, so that others in it are looked at, and to close the connection."""
    known = [f"{name}: {value}" for name, value in {"host": "api", **api.headers, "connection": "close"}.items()]
    return "\r\n".join([line, *headers, *known, "", ""]).encode("latin-1")


async def statuses(api: ApiClient, *sent: bytes) -> list[int]:
    """Send bytes, each lot when the one before was looked at; read to the end, and give the statuses of the answers."""
    address = urlsplit(api.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    read = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionError):
                for lot in sent:
                    writer.write(lot)
                    assert (await api.get("/health/live")).status == 200
                while piece := await reader.read(65_536):
                    read += piece
    finally:
        writer.transport.abort()
    return [int(status) for status in STATUS.findall(read)]


def are_no_fault(answered: Sequence[int]) -> bool:
    """Tell whether these statuses say that a request was done, or what was wrong with it."""
    return {status // 100 for status in answered} <= {1, 2, 4}


POST = f"POST {ACTIONS} HTTP/1.1"
JSON, CHUNKED = "content-type: application/json", "transfer-encoding: chunked"
HEADS: dict[str, Sequence[str]] = {
    "a length that is no number": (POST, JSON, "content-length: many"),
    "a length below zero": (POST, JSON, "content-length: -1"),
    "a length of many digits": (POST, JSON, "content-length: " + "9" * 400),
    "two lengths": (POST, JSON, "content-length: 2", "content-length: 3"),
    "a length and chunks": (POST, JSON, "content-length: 2", CHUNKED),
    "chunks twice": (POST, JSON, CHUNKED, CHUNKED),
    "a transfer that is not known": (POST, JSON, "transfer-encoding: gzip, chunked"),
    "an encoding that is not known": (POST, JSON, "content-length: 2", "content-encoding: enigma"),
    "an encoding in an encoding": (POST, JSON, "content-length: 2", "content-encoding: gzip, gzip"),
    "a charset that is not known": (POST, "content-type: application/json; charset=enigma", "content-length: 2"),
    "a wide charset": (POST, "content-type: application/json; charset=utf-16", "content-length: 2"),
    "two types": (POST, JSON, "content-type: text/plain", "content-length: 2"),
    "an expectation that is not known": (POST, JSON, "content-length: 2", "expect: the unexpected"),
    "an expectation": (POST, JSON, "content-length: 2", "expect: 100-continue"),
    "an upgrade": (f"GET {CUSTOMERS} HTTP/1.1", "upgrade: websocket", "sec-websocket-key: AAAA", "connection: upgrade"),
    "a secret twice": (f"GET {CUSTOMERS} HTTP/1.1", "x-api-secret: another"),
    "a host twice": (f"GET {CUSTOMERS} HTTP/1.1", "host: another"),
    "no UTF-8 in a path": (f"GET {CUSTOMERS}/%ff%fe HTTP/1.1",),
    "no UTF-8 in a query": (f"GET {EVENT_SEARCH}?keyword=%ff%fe HTTP/1.1",),
    "no UTF-8 in the name of a query": (f"GET {EVENT_SEARCH}?%ff=1 HTTP/1.1",),
    "a NUL in a path": (f"GET {CUSTOMERS}/%00 HTTP/1.1",),
    "a NUL in a query": (f"GET {EVENT_SEARCH}?keyword=a%00b HTTP/1.1",),
    "half a surrogate pair in a query": (f"GET {EVENT_SEARCH}?keyword=%ed%a0%80 HTTP/1.1",),
    "a percent sign and nothing": (f"GET {CUSTOMERS}?keyword=%&limit=%zz HTTP/1.1",),
    "raw bytes in a path": (f"GET {CUSTOMERS}/\xff\xfe HTTP/1.1",),
    "dots in a path": ("GET /api/v1/../../etc/passwd HTTP/1.1",),
    "a whole address": (f"GET http://elsewhere{CUSTOMERS} HTTP/1.1",),
    "an address that is none": ("GET http://[::1 HTTP/1.1",),
    "an authority": ("CONNECT elsewhere:443 HTTP/1.1",),
    "an asterisk": ("OPTIONS * HTTP/1.1",),
    "a method that is not known": (f"BREW {CUSTOMERS} HTTP/1.1",),
    "a method of lower case": (f"get {CUSTOMERS} HTTP/1.1",),
    "HTTP of old": (f"GET {CUSTOMERS} HTTP/1.0",),
    "HTTP to come": (f"GET {CUSTOMERS} HTTP/9.9",),
    "HTTP/2": ("PRI * HTTP/2.0",),
    "a header without a name": (f"GET {CUSTOMERS} HTTP/1.1", ": value"),
    "a header without a value": (f"GET {CUSTOMERS} HTTP/1.1", "name"),
    "a header with a NUL": (f"GET {CUSTOMERS} HTTP/1.1", "name: a\x00b"),
    "a folded header": (f"GET {CUSTOMERS} HTTP/1.1", "name: a", "  b"),
    "a trace of bytes": (POST, JSON, "content-length: 2", "traceparent: \xff\xfe"),
    "a secret of bytes": (f"GET {CUSTOMERS} HTTP/1.1", "x-api-key: \xff\xfe", "x-api-secret: \xff\xfe"),
}
CHUNKS = (
    b"zz\r\n{}\r\n0\r\n\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}",
    b"2\r\n{}0\r\n\r\n",
    b"f" * 40 + b"\r\n{}",
    b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"2\n{}\n0\n\n",
    b"0\r\nname: " + b"x" * 20_000,
    b"\r\n\r\n",
)
DAMAGE = st.binary(max_size=20) | st.sampled_from(
    (
        *(b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\x00", b"%ff", b"%00", b":", b"?a=1", b"#"),
        b"\r\ntransfer-encoding: chunked",
        b"\r\ncontent-length: 1",
        b"\r\ncontent-encoding: deflate",
        b"\r\nexpect: 100-continue",
    )
)


@pytest.fixture
async def no_fault(
    api: ApiClient, admission: Admission, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """Check afterwards that nothing was logged as a fault, nothing is held any more, and requests are served."""
    yield
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]
    assert "a request failed" not in capfd.readouterr().out
    assert (admission.requests, admission.body_bytes) == (0, 0)
    assert (await api.post(ACTIONS, action(fresh_id()))).status == 200


@pytest.mark.usefixtures("no_fault")
async def test_strange_heads_are_answered_or_refused(api: ApiClient) -> None:
    answered = {what: await statuses(api, head(api, *lines) + b"{}") for what, lines in HEADS.items()}
    assert {what: told for what, told in answered.items() if not told or not are_no_fault(told)} == {}


@pytest.mark.usefixtures("no_fault")
async def test_strange_chunks_are_refused(api: ApiClient) -> None:
    for chunks in CHUNKS:
        for sent in ([head(api, POST, JSON, CHUNKED) + chunks], [head(api, POST, JSON, CHUNKED), chunks]):
            answered = await statuses(api, *sent)
            assert [status // 100 for status in answered] == [4], sent


@pytest.mark.usefixtures("no_fault")
@settings(
    max_examples=30, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.data())
async def test_random_bytes_and_damaged_requests_are_answered_or_refused(api: ApiClient, data: st.DataObject) -> None:
    body = json.dumps(action(fresh_id())).encode()
    whole = head(api, POST, JSON, f"content-length: {len(body)}") + body

    def damaged() -> bytes:
        sent = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(sent)))
            sent[start : start + data.draw(st.integers(0, 30))] = data.draw(DAMAGE)
        return bytes(sent)

    sent = [data.draw(st.binary(max_size=300)) if data.draw(st.booleans()) else damaged() for _ in range(10)]
    for answered in await asyncio.gather(*(statuses(api, one) for one in sent)):
        assert are_no_fault(answered), answered


@pytest.mark.usefixtures("no_fault")
async def test_a_body_that_comes_byte_by_byte_is_cut_off(api: ApiClient) -> None:
    address = urlsplit(api.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(head(api, POST, JSON, "content-length: 1000000"))
    answering = asyncio.create_task(reader.readline())

    async def is_answered() -> bool:
        writer.write(b" ")
        return answering.done()

    try:
        await until(is_answered)
        assert (await answering).startswith(b"HTTP/1.1 408 ")
    finally:
        writer.transport.abort()
