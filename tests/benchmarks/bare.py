"""What the benchmarks of the api are held against: the least that a program with the same libraries can do.

Each is a process of its own, on the event loop that the services have. README.md says what each is for.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import orjson
import uvloop
from aiohttp import web

from tallymarks.broker import QUORUM_ARGUMENTS
from tallymarks.events import OrderEvent
from tallymarks.service import utc_now
from tallymarks_api.events import EventBatch
from tests.benchmarks.client import HEAD_END, SEPARATOR
from tests.benchmarks.load import Orders

SELECT_BALANCE = """
SELECT a.balance, coalesce(a.balance_changed_at, c.created_at) AS changed_at
FROM accounts a
JOIN customers c ON c.tenant_id = a.tenant_id AND c.customer_id = a.customer_id
WHERE a.tenant_id = $1 AND c.tenant_id = $1 AND a.customer_id = $2
"""
INSERT = """
INSERT INTO events (tenant_id, event_id, customer_id, event_type, created_at, recorded_at, assessed_at, body)
VALUES ($1, $2, $3, 'order', $4, $4, $4, $5)
"""


async def ran(*arguments: object) -> bytes:
    """Run one of the programs to its end; gives what it printed."""
    process = await _start(*arguments)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {process.returncode}")
    return output


@asynccontextmanager
async def serving(database_url: str, tenant_id: UUID, pool_size: int) -> AsyncIterator[tuple[int, int]]:
    """Run the server; gives its process's number and its port."""
    process = await _start("serve", database_url, tenant_id, pool_size)
    try:
        port = await cast(asyncio.StreamReader, process.stdout).readline()
        yield process.pid, int(port)
    finally:
        cast(asyncio.StreamWriter, process.stdin).close()
        await process.wait()


async def _start(*arguments: object) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "tests.benchmarks.bare", *map(str, arguments)]
    return await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


# --- in the process of the program ------------------------------------------------------------------------------------


def application(pool: asyncpg.Pool, tenant_id: UUID) -> web.Application:
    """Two handlers, on the paths of the api: an order is validated and answered, a balance is fetched."""

    async def post_order(request: web.Request) -> web.Response:
        event = OrderEvent.model_validate_json(await request.read())
        return _json({"eventId": event.event_id, "customerId": event.customer_id})

    async def get_balance(request: web.Request) -> web.Response:
        customer_id = UUID(request.match_info["customerId"])
        row = await pool.fetchrow(SELECT_BALANCE, tenant_id, customer_id)
        if row is None:
            raise web.HTTPNotFound
        return _json({"customerId": str(customer_id), "amount": row["balance"], "changedAt": row["changed_at"]})

    app = web.Application()
    app.router.add_post("/api/v1/events/orders", post_order)
    app.router.add_get("/api/v1/customers/{customerId}/balance", get_balance)
    return app


def _json(body: dict[str, object]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


async def serve(database_url: str, tenant_id: UUID, pool_size: int) -> None:
    """Serve on a free port, which is printed, until the input ends."""
    async with asyncpg.create_pool(database_url, min_size=pool_size, max_size=pool_size) as pool:
        runner = web.AppRunner(application(pool, tenant_id), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()


def validate(requests: Path, passes: int) -> None:
    """Read the bodies of batch requests one after the other, all of them so many times; prints the seconds by the clock
    and those of the processor.
    """
    bodies = [request.split(HEAD_END, 1)[1] for request in requests.read_bytes().split(SEPARATOR)]
    EventBatch.model_validate_json(bodies[0])  # what is made at the first time is not what is measured
    started, before = time.perf_counter(), time.process_time()
    for _ in range(passes):
        for body in bodies:
            EventBatch.model_validate_json(body)
    print(time.perf_counter() - started, time.process_time() - before)


async def commit(database_url: str, amqp_url: str, tenant_id: UUID, times: int) -> None:
    """Publish one message and wait for its confirm, insert one row and wait for its commit, one pair after the other;
    prints the seconds of each pair.
    """
    (order,) = Orders(1).of_any(1)
    body, customer_id = orjson.dumps(order), uuid4()
    database = await asyncpg.connect(database_url)
    async with await aio_pika.connect(amqp_url) as connection, connection.channel(on_return_raises=True) as channel:
        queue = await channel.declare_queue(f"bench-{uuid4().hex[:12]}", durable=True, arguments=dict(QUORUM_ARGUMENTS))
        seconds: list[float] = []
        try:
            for _ in range(times):
                event_id, now = uuid4(), utc_now()
                message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                started = time.perf_counter()
                await channel.default_exchange.publish(message, queue.name)
                await database.execute(INSERT, tenant_id, event_id, customer_id, now, body.decode())
                seconds.append(time.perf_counter() - started)
        finally:
            await queue.delete(if_unused=False, if_empty=False)
            await database.close()
    print(orjson.dumps(seconds).decode())


def main() -> int:
    """Be one of the programs; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bare", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    served = programs.add_parser("serve", help="a bare aiohttp server, until its input ends")
    served.add_argument("database_url")
    served.add_argument("tenant_id", type=UUID)
    served.add_argument("pool_size", type=int)
    validated = programs.add_parser("validate", help="pydantic alone")
    validated.add_argument("requests", type=Path)
    validated.add_argument("passes", type=int)
    committed = programs.add_parser("commit", help="one confirm plus one commit")
    committed.add_argument("database_url")
    committed.add_argument("amqp_url")
    committed.add_argument("tenant_id", type=UUID)
    committed.add_argument("times", type=int)
    options = vars(parser.parse_args())
    match options.pop("program"):
        case "serve":
            uvloop.run(serve(**options))
        case "validate":
            validate(**options)
        case "commit":
            uvloop.run(commit(**options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
