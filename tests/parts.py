"""What tests hold in their hands: a clock that they turn, a tenant with its keys, a client of the api."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from tallymarks.tenants import CreatedApiKey

START = datetime(2026, 3, 14, 9, 26, 53, 589000, tzinfo=UTC)
PATIENCE_SECONDS = 90.0
"""How long a test waits for what must come: it is no measure of speed, and the machine may be busy."""


async def until(condition: Callable[[], Awaitable[bool]], timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something to be so, and fail when it is not in time."""
    async with asyncio.timeout(timeout_seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def sessions_waiting_for_locks(connection: asyncpg.Connection, application_name: str) -> int:
    """Count the sessions of this database, of the given name, that wait for somebody's lock."""
    # Else a transaction goes on seeing the sessions that there were when it first looked.
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    waiting: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND application_name = $1 AND datname = current_database()",
        application_name,
    )
    return waiting


class Clock:
    """Tells the time that the test wants it to be."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        """Let time pass: `advance(days=1)`."""
        self.now += timedelta(**duration)


@dataclass(frozen=True)
class Tenant:
    """A tenant with a key of each role."""

    admin: CreatedApiKey
    integration: CreatedApiKey

    @property
    def tenant_id(self) -> UUID:
        """The tenant's id."""
        return self.admin.tenant_id


def credentials(key: CreatedApiKey) -> dict[str, str]:
    """The headers of a request with this key."""
    return {"x-tenant-id": str(key.tenant_id), "x-api-key": key.api_key, "x-api-secret": key.api_secret}


@dataclass(frozen=True)
class Answered:
    """A response, read."""

    status: int
    body: Any
    headers: Mapping[str, str]


class ApiClient:
    """Calls the api with a tenant's admin key, or with other headers."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, headers: Mapping[str, str]) -> None:
        self.session = session
        self.base_url = base_url
        self.headers = dict(headers)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answered:
        """Send a request: `body` as JSON, or `raw` as it is (with a content type of JSON unless given)."""
        sent = dict(self.headers if headers is None else headers)
        if raw is not None:
            sent = {"content-type": "application/json"} | sent
        params = {name: str(value) for name, value in (query or {}).items()}
        async with self.session.request(
            method, self.base_url + path, json=body if raw is None else None, data=raw, params=params, headers=sent
        ) as response:
            is_json = response.content_type == "application/json"
            return Answered(
                response.status, await response.json() if is_json else await response.text(), response.headers
            )

    async def get(self, path: str, **query: object) -> Answered:
        """GET with these query parameters."""
        return await self.call("GET", path, query=query)

    async def post(self, path: str, body: object) -> Answered:
        """POST a JSON body."""
        return await self.call("POST", path, body)

    async def put(self, path: str, body: object) -> Answered:
        """PUT a JSON body."""
        return await self.call("PUT", path, body)

    async def patch(self, path: str, body: object) -> Answered:
        """PATCH with a JSON body."""
        return await self.call("PATCH", path, body)

    async def delete(self, path: str) -> Answered:
        """DELETE."""
        return await self.call("DELETE", path)
