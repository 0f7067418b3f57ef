"""Fixtures of the pipeline's tests: the workers as objects, for a test to call."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tallymarks.broker import Topology
from tallymarks.database import Database
from tallymarks.service import new_id
from tallymarks_calendar.anniversaries import Anniversaries
from tallymarks_calendar.triggers import Triggers
from tallymarks_segment_expiry.sweep import Sweeper
from tests.integration.pipeline.parts import Ran, run_command
from tests.parts import Clock


@pytest.fixture
def sweeper(database: Database, topology: Topology, clock: Clock) -> Sweeper:
    """The sweep, not running by itself."""
    return Sweeper(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())


@pytest.fixture
def anniversaries(database: Database, topology: Topology, clock: Clock) -> Anniversaries:
    """The calendar's anniversaries, not running by themselves."""
    return Anniversaries(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())


@pytest.fixture
def triggers(database: Database, topology: Topology, clock: Clock) -> Triggers:
    """The calendar's triggers, not running by themselves."""
    return Triggers(database, topology, now=clock, new_id=new_id, committed=asyncio.Event())


@pytest.fixture
def tallymarks(database_url: str, amqp_url: str, topology: Topology) -> Callable[..., Awaitable[Ran]]:
    """Runs the operator's command on the test's servers: `await tallymarks("ledger", "verify")`."""

    def run(*arguments: str) -> Awaitable[Ran]:
        return run_command(
            "tallymarks",
            *arguments,
            TALLYMARKS_DATABASE_URL=database_url,
            TALLYMARKS_AMQP_URL=amqp_url,
            TALLYMARKS_TOPOLOGY_PREFIX=topology.prefix,
            TALLYMARKS_PARTITIONS=str(topology.partitions),
        )

    return run
