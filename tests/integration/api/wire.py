"""Sending what a well-behaved client would not: large bodies, with or without their length, and bytes by hand."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

from tests.parts import Answered, ApiClient

CHUNK_BYTES = 64 * 1024


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]


async def post(
    api: ApiClient, path: str, body: bytes, *, is_chunked: bool = False, headers: Mapping[str, str] | None = None
) -> Answered:
    """POST bytes as JSON, with their length or (chunked) without it."""
    data = _in_chunks(body) if is_chunked else io.BytesIO(body)
    sent = {**api.headers, "content-type": "application/json", **(headers or {})}
    async with api.session.post(api.base_url + path, data=data, headers=sent) as response:
        return Answered(response.status, await response.json(), response.headers)


async def begun(api: ApiClient, path: str, body: bytes, length: int) -> tuple[bytes, bytes]:
    """Send the beginning of a body that says to be longer; gives the head and the body of the answer."""
    address = urlsplit(api.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    headers = {**api.headers, "host": "api", "content-type": "application/json", "content-length": str(length)}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    try:
        writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        answered_head = await reader.readuntil(b"\r\n\r\n")
        return answered_head, await reader.read(CHUNK_BYTES)
    finally:
        writer.close()
        await writer.wait_closed()
