"""segment-expiry: removes memberships that have lapsed, and tells of each; and explanations whose time is over."""

import asyncio

import structlog
from aiohttp import web

from tallymarks import outbox
from tallymarks.health import add_health_routes, all_up
from tallymarks.service import listening, new_id, opened_parts, run_service, utc_now
from tallymarks.settings import Settings
from tallymarks_segment_expiry.retention import Retention
from tallymarks_segment_expiry.sweep import Sweeper

log = structlog.get_logger(__name__)

NAME = "segment-expiry"
DEFAULT_PORT = 8082


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until stopped; the lot under way is finished first, and the outbox keeps what waits in it."""
    committed = asyncio.Event()
    async with opened_parts(settings, NAME) as (database, broker):
        sweeper = Sweeper(database, broker.topology, now=utc_now, new_id=new_id, committed=committed)
        retention = Retention(database, now=utc_now, days=settings.explanation_days)
        app = web.Application()
        # Removing goes on while the broker is away: the outbox keeps what is to be published.
        add_health_routes(app, {"database": database.is_reachable}, all_up)
        async with listening(app, settings, DEFAULT_PORT), asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(broker.open())
            relaying = tasks.create_task(outbox.relay(database, broker, committed))
            async with asyncio.TaskGroup() as work:
                work.create_task(sweeper.run(stop))
                work.create_task(retention.run(stop))
            opening.cancel()
            relaying.cancel()


def main() -> None:
    """Start the service."""
    run_service(NAME, serve)
