"""What every service's start and stop have in common."""

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NoReturn
from uuid import UUID

import structlog
import uuid_utils.compat
import uvloop
from aiohttp import web
from pydantic import ValidationError

from tallymarks import limits
from tallymarks.broker import Broker, Topology
from tallymarks.database import SERVICE_ROLE, Database
from tallymarks.http import BoundedRunner
from tallymarks.logs import configure_logging, log_unhandled
from tallymarks.settings import Settings

log = structlog.get_logger(__name__)

Serve = Callable[[Settings, asyncio.Event], Coroutine[None, None, None]]


def run_service(name: str, serve: Serve) -> None:
    """Run a service until SIGTERM or SIGINT, then let it finish what it holds; ends the process.

    Exits with 0 after a stop, 1 when a part of the service failed or did not stop in time, 2 when its settings are
    wrong.
    """
    settings = load_settings()
    if not settings.amqp_url:
        fail("TALLYMARKS_AMQP_URL is not set")
    configure_logging(name, settings.log_format)
    collect_garbage_seldom()
    allow_open_files(limits.CONNECTIONS_MAX + limits.OTHER_FILES_MAX)
    try:
        uvloop.run(_until_stopped(serve, settings))
    except Exception:
        log.exception("the service failed")
        sys.exit(1)
    log.info("stopped")


def collect_garbage_seldom() -> None:
    """Look for cycles after many allocations rather than after 700, and never among what was made so far.

    Events are read by the thousand and freed by reference count alone; with the default, a tenth of an assessor's
    time went into looking at all of them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(limits.GARBAGE_ALLOCATIONS)


def allow_open_files(count: int) -> None:
    """Let the process open so many files, where it may: unless asked, many systems stop at 1,024."""
    allowed, at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if at_most == resource.RLIM_INFINITY else min(count, at_most)
    if wanted < count:
        log.warning("the system allows fewer open files than there may be connections", allowed=wanted, needed=count)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, at_most))


def load_settings() -> Settings:
    """Read the settings from the environment; ends the process with what is wrong with them."""
    try:
        return Settings()
    except ValidationError as error:
        fail("; ".join(f"TALLYMARKS_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()))


def fail(message: str) -> NoReturn:
    """End the process with a sentence for the operator."""
    sys.stderr.write(f"tallymarks: {message}\n")
    sys.exit(2)


async def _until_stopped(serve: Serve, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_unhandled)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(serve(settings, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    # Raises what a failed service raised, or TimeoutError where a stop hangs.
    await asyncio.wait_for(serving, limits.STOP_TIMEOUT_SECONDS)


@asynccontextmanager
async def connected(
    settings: Settings, name: str, *, pool_size: int, lock_timeout_seconds: float = 0, role: str = SERVICE_ROLE
) -> AsyncIterator[Database]:
    """Prepare the database, which is not waited for; its connections are closed at the end."""
    database = Database(
        settings.database_url,
        pool_size=pool_size,
        application_name=name,
        lock_timeout_seconds=lock_timeout_seconds,
        role=role,
    )
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def prepared_broker(settings: Settings, name: str) -> AsyncIterator[Broker]:
    """Prepare the broker, which is to be opened; its connection is closed at the end."""
    topology = Topology(settings.topology_prefix, settings.partitions)
    broker = Broker(settings.amqp_url, topology, confirm_timeout_seconds=settings.confirm_timeout_seconds, name=name)
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def opened_parts(settings: Settings, name: str) -> AsyncIterator[tuple[Database, Broker]]:
    """Prepare what a worker needs."""
    async with (
        connected(settings, name, pool_size=settings.database_pool_size) as database,
        prepared_broker(settings, name) as broker,
    ):
        yield database, broker


@asynccontextmanager
async def listening(app: web.Application, settings: Settings, default_port: int) -> AsyncIterator[int]:
    """Serve HTTP; gives the port. On leaving, requests under way are finished first."""
    runner = BoundedRunner(app, shutdown_timeout=limits.REQUESTS_DRAIN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, default_port if settings.port is None else settings.port)
        await site.start()
        port: int = runner.addresses[0][1]
        log.info("listening", host=settings.host, port=port)
        yield port
    finally:
        await runner.cleanup()


def utc_now() -> datetime:
    """Give the present instant, in whole milliseconds as all instants of the contract are."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def new_id() -> UUID:
    """Make an id that sorts by the time it was made (version 7), so that new rows lie together."""
    return uuid_utils.compat.uuid7()
