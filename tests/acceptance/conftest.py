"""Fixtures of the acceptance layer: the services as processes, on the run's servers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tallymarks.broker import Broker
from tests.acceptance.installation import Installation, Stack, installed, start_stack
from tests.parts import Tenant


@pytest.fixture
async def installation(
    database_url: str,
    amqp_url: str,
    topology_prefix: str,
    broker: Broker,  # deletes the queues afterwards
    tmp_path: Path,
) -> AsyncIterator[Installation]:
    """An installation on the run's servers, without any process yet."""
    async with installed(database_url, amqp_url, topology_prefix, tmp_path) as installation:
        yield installation


@pytest.fixture
async def stack(installation: Installation, tenant: Tenant) -> Stack:
    """One process of each service, ready; each must end with 0 on SIGTERM after the test."""
    return await start_stack(installation, tenant.admin)
