"""What `make run` does: everything on one machine, in the foreground, until Ctrl-C.

    PostgreSQL, RabbitMQ -> migrations -> services -> demo tenant -> .local/run.json

Each step registers its own undoing before the next begins, so an interruption anywhere stops exactly what was started:
services first, then the broker, then the database.
"""

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from tallymarks_local.demo import Demo, curl_lines, prepare_demo, run_command, write_private
from tallymarks_local.postgres import PostgresServer
from tallymarks_local.rabbitmq import has_container_engine, rabbitmq_server
from tallymarks_local.servers import (
    POLL_SECONDS,
    READY_TIMEOUT_SECONDS,
    LocalServer,
    LocalServerError,
    end_processes,
    is_port_free,
    processes_of,
)
from tallymarks_local.services import (
    STOP_TIMEOUT_SECONDS,
    Service,
    keep_running,
    make_services,
    start_and_wait,
    stop_all,
)

DATABASE = "tallymarks"
WATCH_SECONDS = 0.5
CHECKOUT = Path(__file__).resolve().parents[3]


class Progress:
    """Prints a line per step with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        """Print one step."""
        with contextlib.suppress(OSError):  # whoever reads us is gone
            print(f"[{time.monotonic() - self._started:5.1f} s] {line}", flush=True)


def main() -> int:
    """Run until Ctrl-C or SIGTERM; gives the exit code: 0 when asked to stop, 1 when something failed."""
    parser = argparse.ArgumentParser(prog="tallymarks_local", description="Run Tallymarks on this machine.")
    parser.add_argument("--port", type=int, default=8080, help="the api's port (default 8080)")
    parser.add_argument("--directory", type=Path, default=CHECKOUT / ".local", help="where data and logs are kept")
    parser.add_argument("--install-only", action="store_true", help="install what the private servers need, and end")
    options = parser.parse_args()
    directory = options.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        if options.install_only:
            if not has_container_engine():  # tests prefer containers
                rabbitmq_server(directory / "rabbitmq", Progress())
            return 0
        with only_run_of(directory):
            asyncio.run(run_until_stopped(directory, options.port))
    except LocalServerError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def only_run_of(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the kernel lets go when this process ends in whatever way."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalServerError(f"another make run of this checkout is running (it holds {lock.name})") from None
        yield


async def run_until_stopped(directory: Path, port: int) -> None:
    """Run everything until a signal asks to stop.

    Raises:
        LocalServerError: something could not be started, or ended by itself; everything is stopped by then.
    """
    progress = Progress()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    work = asyncio.create_task(_run(directory, port, progress))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        progress("Stopping")
        work.cancel()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    progress("Stopped")


async def _run(directory: Path, port: int, progress: Progress) -> None:
    run_file = directory / "run.json"
    run_file.unlink(missing_ok=True)
    services_directory = directory / "services"
    end_processes(processes_of(services_directory), STOP_TIMEOUT_SECONDS)  # of a run that was killed
    if not is_port_free(port):
        raise LocalServerError(f"port {port} of 127.0.0.1 is taken; choose another: make run PORT=9000")
    async with AsyncExitStack() as stack:
        database_url, amqp_url, servers = await _start_servers(directory, stack, progress)
        environment = {**os.environ, "TALLYMARKS_DATABASE_URL": database_url, "TALLYMARKS_AMQP_URL": amqp_url}
        await run_command(environment, "migrate")
        progress("Database migrated")
        services = make_services(port, database_url, amqp_url, services_directory)
        stack.push_async_callback(stop_all, services)
        await start_and_wait(services)
        progress("Services ready: " + ", ".join(service.name for service in services))
        base_url = f"http://127.0.0.1:{port}"
        demo = await prepare_demo(directory / "demo.json", base_url, environment)
        progress(f"Demo tenant ready: {demo.tenant_id}")

        def write_run_file() -> None:
            write_private(run_file, _run_facts(base_url, demo, database_url, amqp_url, services))

        stack.callback(run_file.unlink, missing_ok=True)
        _announce(base_url, demo, progress)
        write_run_file()
        watches = [asyncio.create_task(keep_running(service, progress, write_run_file)) for service in services]
        watches.append(asyncio.create_task(_watch(servers)))
        try:
            await asyncio.gather(*watches)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)


async def _start_servers(
    directory: Path, stack: AsyncExitStack, progress: Progress
) -> tuple[str, str, list[LocalServer]]:
    """Start the servers whose address the environment does not give; gives both addresses and the started servers."""
    servers: list[LocalServer] = []
    postgres = broker = None
    # Stopped in reverse: the broker before the database. The broker, which takes longer, starts first.
    if not (database_url := os.environ.get("TALLYMARKS_DATABASE_URL", "")):
        postgres = PostgresServer(directory / "postgres")
        servers.append(postgres)
    if not (amqp_url := os.environ.get("TALLYMARKS_AMQP_URL", "")):
        broker = rabbitmq_server(directory / "rabbitmq", progress)
        servers.append(broker)
    for server in servers:
        stack.callback(server.stop)
    for server in reversed(servers):
        progress(f"Starting {server.name}")
        server.start()
    for server in servers:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not server.is_ready():
            if time.monotonic() > deadline:
                raise LocalServerError(f"{server.name} was not ready within {READY_TIMEOUT_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        progress(f"{server.name} ready")
    if postgres is not None:
        postgres.create_database(DATABASE)
        database_url = postgres.url(DATABASE)
    return database_url, broker.url if broker is not None else amqp_url, servers


async def _watch(servers: list[LocalServer]) -> None:
    """Raise when a server ends by itself."""
    while True:
        for server in servers:
            if (reason := server.exit_reason()) is not None:
                raise LocalServerError(reason)
        await asyncio.sleep(WATCH_SECONDS)


def _run_facts(
    base_url: str, demo: Demo, database_url: str, amqp_url: str, services: list[Service]
) -> dict[str, str | dict[str, int]]:
    return {
        "baseUrl": base_url,
        "tenantId": demo.tenant_id,
        "apiKey": demo.api_key,
        "apiSecret": demo.api_secret,
        "segmentId": demo.segment_id,
        "databaseUrl": database_url,
        "amqpUrl": amqp_url,
        "pids": {service.name: service.pid for service in services},
    }


def _announce(base_url: str, demo: Demo, progress: Progress) -> None:
    credentials = "\n".join(f"  {name}: {value}" for name, value in demo.headers.items())
    commands = "\n".join(f"  {line}" for line in curl_lines(base_url, demo))
    progress("Tallymarks is ready")
    print(
        f"\n  {base_url}   (API: {base_url}/swagger/index.html)\n\n{credentials}\n\n"
        f"An order for a new customer, then (a moment later) its balance, events, transactions and segments:\n\n"
        f"{commands}\n\nCtrl-C stops everything; the data stays in .local\n",
        flush=True,
    )
