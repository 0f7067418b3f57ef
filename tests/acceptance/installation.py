"""An installation under test: the services as processes and the command, run as an operator runs them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

from tallymarks.tenants import CreatedApiKey
from tallymarks_local.servers import free_ports
from tests.parts import Answered, ApiClient, credentials, until

API, ASSESSOR, SEGMENT_EXPIRY, CALENDAR = SERVICES = ("api", "assessor", "segment-expiry", "calendar")
PROGRAMS = Path(sys.executable).parent
# A service's own grace period is 25 s.
STOP_TIMEOUT_SECONDS = 60
# A confirm waits for the disk, which others may keep busy; what it is like not to get one is for tests of that.
CONFIRM_TIMEOUT_SECONDS = "60"

Json = dict[str, object]


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    exit_code: int
    output: str
    errors: str

    @property
    def lines(self) -> list[Json]:
        """What it printed, a JSON object a line."""
        return [orjson.loads(line) for line in self.output.splitlines()]


class ServiceProcess:
    """One service as a process; its log goes to a file, and what cProfile sees of it to another where asked for."""

    def __init__(self, name: str, environment: dict[str, str], log: Path, profile: Path | None = None) -> None:
        self.name = name
        self.log = log
        self.port = int(environment["TALLYMARKS_PORT"])
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = environment
        self._command: list[str | Path] = [] if profile is None else [sys.executable, "-m", "cProfile", "-o", profile]
        self._command.append(PROGRAMS / f"tallymarks-{name}")
        self._process = self._run()

    def _run(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    async def ready(self, *parts: str) -> None:
        """Wait until the service is ready; an api also until these parts of it are up."""
        await until(partial(self._is_ready, parts))

    async def _is_ready(self, parts: Sequence[str]) -> bool:
        if not await self.answers():
            return False
        health = await self.health()
        return health.status == 200 and all(health.body["parts"][part] == "up" for part in parts)

    async def answers(self) -> bool:
        """Whether the service takes requests: not yet while it starts, no more while it stops."""
        assert self.is_running, f"{self.name} has ended"
        try:
            await self.health()
        except aiohttp.ClientError:
            return False
        return True

    async def health(self) -> Answered:
        """What the service says about its readiness."""
        async with aiohttp.ClientSession() as session:
            return await ApiClient(session, self.url, {}).get("/health/ready")

    async def metric(self, name: str) -> float:
        """The value of one of the service's counters."""
        async with aiohttp.ClientSession() as session:
            text = (await ApiClient(session, self.url, {}).get("/metrics")).body
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return sum(sample.value for sample in samples if sample.name == f"{name}_total")

    def terminate(self) -> None:
        """Ask the service to stop."""
        self._process.terminate()

    async def ended(self) -> int:
        """Wait until the process has ended; gives its exit code."""
        return await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_SECONDS)

    async def stop(self) -> int:
        """Stop the service gracefully; gives its exit code."""
        self.terminate()
        return await self.ended()

    def kill(self) -> None:
        """End the process in the middle of whatever it does."""
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def start_again(self) -> None:
        """Run the service anew, with the same settings and on the same port."""
        assert not self.is_running
        self._process = self._run()


class Installation:
    """Services that share a database and a broker."""

    def __init__(self, settings: dict[str, str], logs: Path, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._logs = logs
        self._session = session
        self.services: list[ServiceProcess] = []

    def environment(self, **settings: str | None) -> dict[str, str]:
        """The environment of a process: ours of this installation, and none that the developer has set."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLYMARKS_")}
        for name, value in {**self._settings, **settings}.items():
            if value is not None:
                environment[f"TALLYMARKS_{name}"] = value
        return environment

    def start(self, name: str, profile: Path | None = None, /, **settings: str | None) -> ServiceProcess:
        """Start a service, with other settings where given (`AMQP_URL=...`; None: not set); it is not ready yet.

        With `profile` it runs under cProfile, which writes there where the time went when the service has stopped.
        """
        settings = {"PORT": str(free_ports(1)[0]), **settings}
        log = self._logs / f"{name}.{len(self.services)}.log"
        service = ServiceProcess(name, self.environment(**settings), log, profile)
        self.services.append(service)
        return service

    async def command(self, *arguments: str) -> Ran:
        """Run the `tallymarks` command to its end."""
        return await run(PROGRAMS / "tallymarks", *arguments, environment=self.environment())

    async def create_tenant(self, name: str = "Acme") -> CreatedApiKey:
        """Make a tenant by the command; gives its admin key."""
        (created,) = (await self.command("tenant", "create", name)).lines
        assert created.pop("name") == name
        return CreatedApiKey.model_validate(
            {
                "tenant_id": created["tenantId"],
                "api_key": created["apiKey"],
                "api_secret": created["apiSecret"],
                "name": "admin",
                "role": "admin",
                "is_enabled": True,
                "created_at": created["createdAt"],
                "changed_at": created["changedAt"],
            }
        )

    def client(self, service: ServiceProcess, key: CreatedApiKey | None = None) -> ApiClient:
        """A client of a service; an api wants to see a key."""
        return ApiClient(self._session, service.url, credentials(key) if key else {})

    async def stop(self) -> dict[str, int]:
        """Stop what still runs, all at once; gives the exit codes by log name."""
        running = [service for service in self.services if service.is_running]
        codes = await asyncio.gather(*(service.stop() for service in running))
        return {service.log.stem: code for service, code in zip(running, codes, strict=True)}

    def show_logs(self) -> None:
        """Print every log: pytest shows it where the test failed."""
        for service in self.services:
            print(f"--- {service.log.name}\n{service.log.read_text()}")


@dataclass(frozen=True)
class Stack:
    """One process of each service, all ready, and a client with an admin key."""

    installation: Installation
    api: ServiceProcess
    assessor: ServiceProcess
    segment_expiry: ServiceProcess
    calendar: ServiceProcess
    tenant_id: UUID
    client: ApiClient

    @property
    def services(self) -> tuple[ServiceProcess, ...]:
        """Every process."""
        return (self.api, *self.workers)

    @property
    def workers(self) -> tuple[ServiceProcess, ...]:
        """Every process but the api."""
        return (self.assessor, self.segment_expiry, self.calendar)

    async def ready(self) -> None:
        """Wait until all are."""
        await asyncio.gather(self.api.ready("broker", "database"), *(worker.ready() for worker in self.workers))


@asynccontextmanager
async def installed(database_url: str, amqp_url: str, topology_prefix: str, logs: Path) -> AsyncIterator[Installation]:
    """An installation without any process yet; what was started in it must stop gracefully at the end."""
    settings = {
        "DATABASE_URL": database_url,
        "AMQP_URL": amqp_url,
        "TOPOLOGY_PREFIX": topology_prefix,
        "PARTITIONS": "2",
        "CONFIRM_TIMEOUT_SECONDS": CONFIRM_TIMEOUT_SECONDS,
    }
    async with aiohttp.ClientSession() as session:
        installation = Installation(settings, logs, session)
        try:
            yield installation
        finally:
            codes = await installation.stop()
            installation.show_logs()
        assert set(codes.values()) <= {0}, codes


async def start_stack(installation: Installation, key: CreatedApiKey, **settings: str) -> Stack:
    """Start one process of each service, and wait until all are ready."""
    api, assessor, segment_expiry, calendar = (installation.start(name, **settings) for name in SERVICES)
    client = installation.client(api, key)
    stack = Stack(installation, api, assessor, segment_expiry, calendar, key.tenant_id, client)
    await stack.ready()
    return stack


async def run(program: Path, *arguments: str, environment: dict[str, str]) -> Ran:
    """Run a program to its end."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    return Ran(process.returncode or 0, output.decode(), errors.decode())
