"""The real servers of a test run: each started at most once, when the first test asks for it.

With pytest-xdist several processes run tests. They share a directory, the run's: whoever holds a server's lock there
starts it and writes down its address, the others read it. The servers outlive the process that started them; the
controller stops them when the run is over.

A server is taken from the environment (TALLYMARKS_TEST_DATABASE_URL, TALLYMARKS_TEST_AMQP_URL) where set, else it is a
container where a Docker engine answers, else a private server of this machine.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from tallymarks_local.postgres import PostgresServer, create_database_statement
from tallymarks_local.rabbitmq import AMQP_PORT, RabbitmqNode, answers_amqp, has_container_engine, rabbitmq_server
from tallymarks_local.servers import POLL_SECONDS, LocalServer, wait_until_ready

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

RUN_DIRECTORY_VARIABLE = "TALLYMARKS_TEST_RUN_DIRECTORY"
POSTGRES_IMAGE = "postgres:18"
RABBITMQ_IMAGE = "rabbitmq:4"
TEMPLATE_PREFIX = "tallymarks_template_"
# Every worker's services hold pools of their own.
MAX_CONNECTIONS = "400"


class ServersOfRun:
    """The servers of one test run, by the directory that its processes share.

    A PostgreSQL that the run starts itself has its settings (as in postgresql.conf), besides room for many connections.
    """

    def __init__(self, directory: Path, postgres_settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._postgres_settings = {"max_connections": MAX_CONNECTIONS, **(postgres_settings or {})}
        self._started: list[LocalServer] = []

    @classmethod
    def open(cls, postgres_settings: Mapping[str, str] | None = None) -> "ServersOfRun":
        """The run of this process: made by the controller, whose environment the workers inherit."""
        if RUN_DIRECTORY_VARIABLE not in os.environ:
            os.environ[RUN_DIRECTORY_VARIABLE] = tempfile.mkdtemp(prefix="tallymarks-test-")
        return cls(Path(os.environ[RUN_DIRECTORY_VARIABLE]), postgres_settings)

    def postgres_url(self) -> str:
        """A superuser's address of the run's PostgreSQL; starts it where it does not run yet."""
        given = os.environ.get("TALLYMARKS_TEST_DATABASE_URL")
        return given or self._once("postgres", self._start_postgres)

    def amqp_url(self) -> str:
        """The address of the run's RabbitMQ; starts it where it does not run yet."""
        given = os.environ.get("TALLYMARKS_TEST_AMQP_URL")
        return given or self._once("rabbitmq", self._start_rabbitmq)

    def template_database(self) -> str:
        """The name of a migrated database that no client is connected to, to be copied; makes it once."""
        return self._once("template", self._make_template)

    def stop(self) -> None:
        """Drop and stop whatever the run made, also what a crashed worker left, and remove its directory."""
        for name in ("rabbitmq", "postgres"):
            if (container := self._read(f"{name}.container")) is not None:
                subprocess.run(["docker", "rm", "--force", "--volumes", container], check=False, capture_output=True)
        if (template := self._read("template")) is not None and "TALLYMARKS_TEST_DATABASE_URL" in os.environ:
            asyncio.run(drop_database(self.postgres_url(), template))
        for server in reversed(self._started):
            server.stop()
        RabbitmqNode(self.directory / "rabbitmq", Path()).stop_leftover()
        PostgresServer(self.directory / "postgres").stop_leftover()
        shutil.rmtree(self.directory, ignore_errors=True)
        os.environ.pop(RUN_DIRECTORY_VARIABLE, None)

    def _start_postgres(self) -> str:
        if has_container_engine():
            from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - slow, seldom needed

            settings = " ".join(f"-c {name}={value}" for name, value in self._postgres_settings.items())
            container = PostgresContainer(POSTGRES_IMAGE, command=f"postgres {settings}")
            self._start_container("postgres", container)
            return str(container.get_connection_url(driver=None))
        server = PostgresServer(self.directory / "postgres", self._postgres_settings)
        self._started.append(server)
        server.start()
        wait_until_ready(server)
        return server.url()

    def _start_rabbitmq(self) -> str:
        if has_container_engine():
            from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - slow, seldom needed

            container = DockerContainer(RABBITMQ_IMAGE).with_exposed_ports(AMQP_PORT)
            self._start_container("rabbitmq", container)
            host, port = container.get_container_host_ip(), int(container.get_exposed_port(AMQP_PORT))
            while not answers_amqp(host, port):  # the test's own timeout ends a wait for nothing
                time.sleep(POLL_SECONDS)
            return f"amqp://guest:guest@{host}:{port}/"
        server = rabbitmq_server(self.directory / "rabbitmq", print)
        self._started.append(server)
        server.start()
        wait_until_ready(server)
        return server.url

    def _start_container(self, name: str, container: "DockerContainer") -> None:
        """Start a container, also where that fails halfway one for `stop` to remove."""
        from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 - slow, seldom needed

        # The library's own remover takes a container away when the process that started it ends: here that is one of
        # several workers, and the others may still be testing.
        testcontainers_config.ryuk_disabled = True
        try:
            container.start()
        finally:
            if (started := container.get_wrapped_container()) is not None:
                self._write(f"{name}.container", started.id)

    def _make_template(self) -> str:
        name = TEMPLATE_PREFIX + os.urandom(4).hex()
        # A thread of its own, because the test that asks for this may run in an event loop.
        with ThreadPoolExecutor(1) as executor:
            executor.submit(asyncio.run, _create_empty_database(self.postgres_url(), name)).result()
        subprocess.run(
            [Path(sys.executable).parent / "tallymarks", "migrate"],
            env={**os.environ, "TALLYMARKS_DATABASE_URL": database_url(self.postgres_url(), name)},
            check=True,
        )
        return name

    def _once(self, name: str, make: Callable[[], str]) -> str:
        with self._locked(name):
            if (known := self._read(name)) is not None:
                return known
            made = make()
            self._write(name, made)
            return made

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, name: str) -> str | None:
        try:
            return str(json.loads((self.directory / f"{name}.json").read_text()))
        except FileNotFoundError:
            return None

    def _write(self, name: str, value: str | None) -> None:
        (self.directory / f"{name}.json").write_text(json.dumps(value))


def database_url(server_url: str, name: str) -> str:
    """The address of another database on the same server."""
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()


async def copy_database(server_url: str, template: str, name: str) -> str:
    """Make a database as a copy of another; gives its address."""
    async with _connection(server_url) as connection:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return database_url(server_url, name)


async def drop_database(server_url: str, name: str) -> None:
    """Drop a database, ending the sessions that still use it."""
    async with _connection(server_url) as connection:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _create_empty_database(server_url: str, name: str) -> None:
    async with _connection(server_url) as connection:
        await connection.execute(create_database_statement(name, connection.get_server_version().major))


@contextlib.asynccontextmanager
async def _connection(server_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server_url)
    try:
        yield connection
    finally:
        await connection.close()
