"""The api: takes events in, decides redemptions and reversals, and serves the Customer API."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from aiohttp import web

from tallymarks import limits, outbox
from tallymarks.database import DOORKEEPER_ROLE, Database
from tallymarks.health import add_health_routes
from tallymarks.service import connected, listening, new_id, prepared_broker, run_service, utc_now
from tallymarks.settings import Settings
from tallymarks_api import (
    admin,
    assessments,
    baskets,
    customers,
    events,
    redemptions,
    reversals,
    rule_trials,
    rules,
    search,
    segments,
    simulations,
    tenant_settings,
)
from tallymarks_api.admission import Admission
from tallymarks_api.auth import Authenticator
from tallymarks_api.balances import Balances
from tallymarks_api.calls import Parts
from tallymarks_api.duplicates import Duplicates
from tallymarks_api.edge import REQUEST_ID, admission_middleware, errors_middleware, handler_of
from tallymarks_api.intake import Intake
from tallymarks_api.openapi import add_swagger_routes

NAME = "api"
DEFAULT_PORT = 8080
ENDPOINTS = (
    *customers.ENDPOINTS,
    *search.ENDPOINTS,
    *segments.ENDPOINTS,
    *events.ENDPOINTS,
    *assessments.ENDPOINTS,
    *redemptions.ENDPOINTS,
    *reversals.ENDPOINTS,
    *baskets.ENDPOINTS,
    *rules.ENDPOINTS,
    *simulations.ENDPOINTS,
    *rule_trials.ENDPOINTS,
    *admin.ENDPOINTS,
    *tenant_settings.ENDPOINTS,
)


def application(parts: Parts, authenticator: Authenticator, admission: Admission, health: Database) -> web.Application:
    """Make the application out of the route table; `health` is the database by which its health is told."""
    app = web.Application(middlewares=[admission_middleware(admission), errors_middleware])
    app[REQUEST_ID] = parts.new_id
    for endpoint in ENDPOINTS:
        app.router.add_route(endpoint.method, endpoint.path, handler_of(endpoint, parts, authenticator, admission))
    add_swagger_routes(app, ENDPOINTS)

    async def broker_is_up() -> bool:
        return parts.broker.is_connected

    add_health_routes(app, {"broker": broker_is_up, "database": health.is_reachable}, _can_serve)
    return app


def _can_serve(up: Mapping[str, bool]) -> bool:
    """Ready with either part: events go in without the database, reads and redemptions go on without the broker."""
    return any(up.values())


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until stopped: requests under way are answered first."""
    committed = asyncio.Event()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            connected(
                settings,
                NAME,
                pool_size=settings.database_pool_size,
                lock_timeout_seconds=limits.ACCOUNT_LOCK_TIMEOUT_SECONDS,
            )
        )
        broker = await stack.enter_async_context(prepared_broker(settings, NAME))
        keys = await stack.enter_async_context(connected(settings, f"{NAME} keys", pool_size=limits.KEY_CONNECTIONS))
        door = await stack.enter_async_context(
            connected(settings, f"{NAME} door", pool_size=limits.DOOR_CONNECTIONS, role=DOORKEEPER_ROLE)
        )
        intake = Intake(broker, Duplicates(door, time.monotonic), now=utc_now, new_id=new_id)
        parts = Parts(database, broker, intake, Balances(database), committed, now=utc_now, new_id=new_id)
        admission = Admission(settings.rate_limit_per_second, time.monotonic)
        app = application(parts, Authenticator(keys, time.monotonic), admission, keys)
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(broker.open())
            relaying = tasks.create_task(outbox.relay(database, broker, committed))
            async with listening(app, settings, DEFAULT_PORT):
                await stop.wait()
            opening.cancel()
            relaying.cancel()


def main() -> None:
    """Start the service."""
    run_service(NAME, serve)
