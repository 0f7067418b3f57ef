"""calendar: publishes anniversaries that have come, and triggers that are due, as events to be assessed.

It also goes through history: simulations of rules, which write nothing but what they find.
"""

import asyncio

from aiohttp import web

from tallymarks import outbox
from tallymarks.health import add_health_routes, all_up
from tallymarks.service import listening, new_id, opened_parts, run_service, utc_now
from tallymarks.settings import Settings
from tallymarks_calendar.anniversaries import Anniversaries
from tallymarks_calendar.simulations import Simulations
from tallymarks_calendar.triggers import Triggers

NAME = "calendar"
DEFAULT_PORT = 8083


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until stopped; the lots under way are finished first, and the outbox keeps what waits in it."""
    committed = asyncio.Event()
    async with opened_parts(settings, NAME) as (database, broker):
        anniversaries = Anniversaries(database, broker.topology, now=utc_now, new_id=new_id, committed=committed)
        triggers = Triggers(database, broker.topology, now=utc_now, new_id=new_id, committed=committed)
        simulations = Simulations(database, now=utc_now)
        app = web.Application()
        # What falls due goes on falling due while the broker is away: the outbox keeps what is to be published.
        add_health_routes(app, {"database": database.is_reachable}, all_up)
        async with listening(app, settings, DEFAULT_PORT), asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(broker.open())
            relaying = tasks.create_task(outbox.relay(database, broker, committed))
            async with asyncio.TaskGroup() as work:
                work.create_task(anniversaries.run(stop))
                work.create_task(triggers.run(stop))
                work.create_task(simulations.run(stop))
            opening.cancel()
            relaying.cancel()


def main() -> None:
    """Start the service."""
    run_service(NAME, serve)
