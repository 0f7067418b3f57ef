"""What a test looks at: refusals, pages, and what a request has left behind."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import asyncpg

from tallymarks.broker import Broker
from tests.parts import Answered, ApiClient, sessions_waiting_for_locks

STILL = object()

SELECT_TABLES = """
SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations' ORDER BY tablename
"""


def refused(answered: Answered, status: int, code: str, param: str | None = None, value: object = STILL) -> None:
    """Check that a refusal has the one format of errors, this code, and names this field with this value."""
    assert (answered.status, answered.body.get("code")) == (status, code), answered.body
    refused_body(answered.body, param, value)


def refused_body(body: Mapping[str, Any], param: str | None = None, value: object = STILL) -> None:
    """Check the format of an error, and that it names this field with this value."""
    assert set(body) == {"code", "message", "detail", "errors"}
    assert body["code"]
    assert body["message"]
    assert all(set(error) == {"message", "param", "value"} and error["message"] for error in body["errors"])
    if param is not None:
        named = {error["param"]: error["value"] for error in body["errors"]}
        assert param in named, body
        assert value is STILL or named[param] == value, body


async def pages(api: ApiClient, path: str, name: str, **query: object) -> AsyncIterator[list[dict[str, Any]]]:
    """Read a listing page by page to its end."""
    while True:
        answered = await api.get(path, **query)
        assert answered.status == 200, answered.body
        assert set(answered.body) == {name, "offsetKey"}
        yield answered.body[name]
        if answered.body["offsetKey"] is None:
            return
        query["offsetKey"] = answered.body["offsetKey"]


async def listed(api: ApiClient, path: str, name: str, **query: object) -> list[dict[str, Any]]:
    """Read a whole listing."""
    return [row async for page in pages(api, path, name, **query) for row in page]


async def contents(owner: asyncpg.Connection) -> dict[str, list[str]]:
    """Everything in the database: each row of each table, as text."""
    tables = [row["tablename"] for row in await owner.fetch(SELECT_TABLES)]
    return {
        table: [row["row"] for row in await owner.fetch(f'SELECT t::text AS row FROM "{table}" t ORDER BY 1')]
        for table in tables
    }


async def queued(broker: Broker) -> int:
    """The number of messages that wait in the broker's queues to be assessed."""
    channel = await broker.channel()
    try:
        waiting = 0
        for partition in range(broker.topology.partitions):
            queue = await channel.declare_queue(broker.topology.events_queue(partition), passive=True)
            waiting += queue.declaration_result.message_count or 0
        return waiting
    finally:
        await channel.close()


async def waits_for_a_lock(owner: asyncpg.Connection) -> bool:
    """Whether some session of this database waits for another's lock."""
    return await sessions_waiting_for_locks(owner, "test") > 0


async def all_at_once(*calls: Coroutine[Any, Any, Answered]) -> list[Answered]:
    """Make calls at the same time."""
    return list(await asyncio.gather(*calls))
