"""The services as child processes: started, their output shown, started again when one dies, stopped."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from tallymarks_local.servers import DIRECTORY_VARIABLE, POLL_SECONDS, LocalServerError, free_ports

API = "api"
ASSESSOR = "assessor"
SEGMENT_EXPIRY = "segment-expiry"
CALENDAR = "calendar"

READY_TIMEOUT_SECONDS = 60.0
PROBE_TIMEOUT_SECONDS = 2.0
# The services' own grace period is 30 s, as in Kubernetes.
STOP_TIMEOUT_SECONDS = 35.0
# A service that dies is started again, unless it keeps dying.
RESTARTS_MAX = 5
RESTARTS_WINDOW_SECONDS = 60.0
RESTART_DELAY_SECONDS = 0.2
OUTPUT_LINE_BYTES_MAX = 1024 * 1024

ANSI_COLOURS = {API: "36", ASSESSOR: "33", SEGMENT_EXPIRY: "35", CALENDAR: "32"}


class Service:
    """One service as a process of its own; it serves its health and metrics at `port`."""

    def __init__(self, name: str, port: int, environment: Mapping[str, str]) -> None:
        self.name = name
        self.port = port
        self._environment = {
            **environment,
            "TALLYMARKS_HOST": "127.0.0.1",
            "TALLYMARKS_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
        }
        self._process: Process | None = None
        self._output: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process's number, 0 while it was never started."""
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        """How the process ended (negative: the signal that ended it), None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Start the process, in a session of its own: the terminal's Ctrl-C is for the supervisor alone."""
        command = Path(sys.executable).parent / f"tallymarks-{self.name}"
        try:
            self._process = await asyncio.create_subprocess_exec(
                command,
                env=self._environment,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                limit=OUTPUT_LINE_BYTES_MAX,
                start_new_session=True,
            )
        except OSError as error:
            raise LocalServerError(f"Could not start {self.name}: {error}") from error
        self._output = asyncio.create_task(self._show_output(self._process))

    async def wait(self) -> int:
        """Wait until the process ends; gives its exit code."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        if self._output is not None:
            await self._output
        return code

    async def is_ready(self, session: aiohttp.ClientSession) -> bool:
        """Whether the service says that it is ready.

        Raises:
            LocalServerError: it has ended.
        """
        if self.exit_code is not None:
            raise LocalServerError(f"{self.name} {describe_exit(self.exit_code)} before it was ready")
        try:
            async with session.get(f"http://127.0.0.1:{self.port}/health/ready") as response:
                return response.status == 200  # noqa: PLR2004 - OK
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> None:
        """Stop gracefully, by force after a time."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_SECONDS)
        except TimeoutError:
            print(f"{self.name} did not stop within {STOP_TIMEOUT_SECONDS:.0f} s: killed", flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.wait()

    async def _show_output(self, process: Process) -> None:
        stream = process.stdout
        if stream is None:
            return
        prefix = f"{self.name:<14} | "
        if sys.stdout.isatty():
            prefix = f"\x1b[{ANSI_COLOURS[self.name]}m{prefix}\x1b[0m"
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # longer than the limit: dropped
            if not line:
                return
            with contextlib.suppress(OSError):  # whoever reads us is gone; the services go on
                sys.stdout.write(prefix + line.decode(errors="replace"))
                sys.stdout.flush()


def make_services(api_port: int, database_url: str, amqp_url: str, directory: Path) -> list[Service]:
    """The services of this checkout, not yet started; `directory` marks their processes."""
    environment = {
        **os.environ,
        "TALLYMARKS_DATABASE_URL": database_url,
        "TALLYMARKS_AMQP_URL": amqp_url,
        DIRECTORY_VARIABLE: str(directory),
    }
    if sys.stdout.isatty():
        environment.setdefault("TALLYMARKS_LOG_FORMAT", "console")
    workers = (ASSESSOR, SEGMENT_EXPIRY, CALENDAR)
    ports = [api_port, *free_ports(len(workers))]
    return [Service(name, port, environment) for name, port in zip((API, *workers), ports, strict=True)]


async def start_and_wait(services: Sequence[Service]) -> None:
    """Start the services and wait until each is ready.

    Raises:
        LocalServerError: one ended, or was not ready in time.
    """
    for service in services:
        await service.start()
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for service in services:
            while not await service.is_ready(session):
                if time.monotonic() > deadline:
                    raise LocalServerError(f"{service.name} was not ready within {READY_TIMEOUT_SECONDS:.0f} s")
                await asyncio.sleep(POLL_SECONDS)


async def stop_all(services: Sequence[Service]) -> None:
    """Stop the services, all at once."""
    await asyncio.gather(*(service.stop() for service in services))


async def keep_running(service: Service, say: Callable[[str], None], changed: Callable[[], None]) -> None:
    """Start the service again whenever it dies: `say` is told, and `changed` is called when it has a new process.

    Raises:
        LocalServerError: it keeps dying.
    """
    restarts: deque[float] = deque(maxlen=RESTARTS_MAX)
    while True:
        how = describe_exit(await service.wait())
        now = time.monotonic()
        if len(restarts) == RESTARTS_MAX and now - restarts[0] < RESTARTS_WINDOW_SECONDS:
            raise LocalServerError(
                f"{service.name} {how}, and was started again {RESTARTS_MAX} times"
                f" within {RESTARTS_WINDOW_SECONDS:.0f} s already"
            )
        say(f"{service.name} {how}: starting it again")
        restarts.append(now)
        await asyncio.sleep(RESTART_DELAY_SECONDS)
        await service.start()
        changed()


def describe_exit(code: int) -> str:
    """How a process ended, as the second half of a sentence."""
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
