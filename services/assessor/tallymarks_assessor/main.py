"""The assessor: takes accepted events from the broker and gives them their effect."""

import asyncio
from contextlib import suppress

import structlog
from aiohttp import web

from tallymarks import limits, outbox
from tallymarks.broker import UNAVAILABLE_ERRORS
from tallymarks.health import add_health_routes, all_up
from tallymarks.service import listening, new_id, opened_parts, run_service, utc_now
from tallymarks.settings import Settings
from tallymarks_assessor.assess import Assessor
from tallymarks_assessor.batches import Batches

log = structlog.get_logger(__name__)

NAME = "assessor"
DEFAULT_PORT = 8081


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until stopped: the batch under way is finished and acknowledged, what is waiting goes back to its queue."""
    committed = asyncio.Event()
    async with opened_parts(settings, NAME) as (database, broker):
        assessor = Assessor(database, broker.topology, now=utc_now, new_id=new_id, explains=settings.explanations)
        batches = Batches(database, broker.topology, assessor, now=utc_now, new_id=new_id, committed=committed)

        async def broker_is_up() -> bool:
            return broker.is_connected

        app = web.Application()
        add_health_routes(app, {"broker": broker_is_up, "database": database.is_reachable}, all_up)
        async with listening(app, settings, DEFAULT_PORT), asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(broker.open())
            relaying = tasks.create_task(outbox.relay(database, broker, committed))
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await opening
                consuming = await broker.consume(batches.take)
                log.info("assessing", partitions=settings.partitions)
                await batches.run(stop)
                # A broker that no longer answers gives the messages to others by itself.
                with suppress(*UNAVAILABLE_ERRORS):
                    async with asyncio.timeout(limits.CLOSE_TIMEOUT_SECONDS):
                        await consuming.close()
            opening.cancel()
            relaying.cancel()


def main() -> None:
    """Start the service."""
    run_service(NAME, serve)
