"""Acknowledging a batch that is committed: whatever has become of the connection, the batch ends well."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aio_pika.exceptions import ChannelInvalidStateError
from structlog.testing import capture_logs

from tallymarks.events import EventMessage
from tallymarks_assessor.arrivals import Taken, acknowledge
from tests.unit.builders import TENANT, action

Acknowledging = Callable[[], Awaitable[None]]
WARNING = "messages could not be acknowledged and come again"


def taken(ack: Acknowledging) -> Taken:
    message = cast(Any, SimpleNamespace(ack=ack))
    return Taken(message, EventMessage(tenant_id=TENANT, events=(action(),)))


async def cancelled_by_the_driver() -> None:
    """What becomes of it on a connection that hung and is given up: the driver cancels the future that is awaited."""
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(written.cancel)
    await written


async def closed() -> None:
    raise ChannelInvalidStateError("closed")


@pytest.mark.parametrize("lost", [cancelled_by_the_driver, closed])
async def test_a_connection_that_is_lost_meanwhile_is_a_warning_and_does_not_end_the_batch(lost: Acknowledging) -> None:
    acknowledged = []

    async def arrives() -> None:
        acknowledged.append(True)

    with capture_logs() as logs:
        acknowledging = asyncio.create_task(acknowledge([taken(arrives), taken(lost), taken(arrives)]))
        await asyncio.wait({acknowledging})
    assert not acknowledging.cancelled()
    assert acknowledging.exception() is None
    assert [(entry["event"], entry["log_level"], entry["messages"]) for entry in logs] == [(WARNING, "warning", 3)]
    assert len(acknowledged) == 1  # the connection is gone for the others too: they come again


async def test_a_stop_in_the_middle_of_it_is_a_stop() -> None:
    hangs = asyncio.Event()
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await hangs.wait()

    with capture_logs() as logs:
        acknowledging = asyncio.create_task(acknowledge([taken(hang)]))
        await begun.wait()
        acknowledging.cancel()
        await asyncio.wait({acknowledging})
    assert acknowledging.cancelled()
    assert logs == []
