"""Fixtures that every layer shares: real servers, a fresh database and fresh queue names per test."""

import os
from collections.abc import AsyncIterator

import pytest

from tests.servers import ServersOfRun, copy_database, drop_database

SERVERS = pytest.StashKey[ServersOfRun]()


def pytest_configure(config: pytest.Config) -> None:
    """Name the directory that this run's processes share; no server is started yet."""
    config.stash[SERVERS] = ServersOfRun.open()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's servers when the run is over; a worker of pytest-xdist leaves that to the controller."""
    if not hasattr(config, "workerinput"):
        config.stash[SERVERS].stop()


@pytest.fixture(scope="session")
def postgres_url(pytestconfig: pytest.Config) -> str:
    """A superuser's address of the run's PostgreSQL server."""
    return pytestconfig.stash[SERVERS].postgres_url()


@pytest.fixture(scope="session")
def amqp_url(pytestconfig: pytest.Config) -> str:
    """The address of the run's RabbitMQ."""
    return pytestconfig.stash[SERVERS].amqp_url()


@pytest.fixture(scope="session")
def template_database(pytestconfig: pytest.Config) -> str:
    """The name of a migrated, empty database to copy."""
    return pytestconfig.stash[SERVERS].template_database()


@pytest.fixture
async def database_url(postgres_url: str, template_database: str) -> AsyncIterator[str]:
    """The address of a fresh, migrated database, dropped after the test."""
    name = f"test_{os.urandom(6).hex()}"
    yield await copy_database(postgres_url, template_database, name)
    await drop_database(postgres_url, name)


@pytest.fixture
def topology_prefix() -> str:
    """A fresh start for the names of exchanges and queues (the services take it from TALLYMARKS_TOPOLOGY_PREFIX)."""
    return f"test-{os.urandom(6).hex()}"
