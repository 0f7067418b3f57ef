"""`make run`: everything on one machine, in the foreground, until Ctrl-C."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tallymarks_local.rabbitmq import find_server_script
from tallymarks_local.servers import DIRECTORY_VARIABLE, free_ports, is_alive
from tests.parts import until

READY_TIMEOUT_SECONDS = 180
STOP_TIMEOUT_SECONDS = 90


class Run:
    """A `make run` as a process, in a directory that is not the checkout's."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._output = directory.with_suffix(".output")
        # A developer's own servers are not for this test.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLYMARKS_")}
        command = [sys.executable, "-m", "tallymarks_local", "--port", str(port), "--directory", str(directory)]
        with self._output.open("wb") as output:
            self.process = psutil.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text()

    @property
    def commands(self) -> list[str]:
        """The lines to type that it has printed."""
        return [line.strip() for line in self.output.splitlines() if line.startswith("  curl ")]

    async def facts(self) -> dict[str, Any]:
        """Wait for run.json; gives what is in it."""
        await until(self._is_ready, READY_TIMEOUT_SECONDS)
        found: dict[str, Any] = json.loads((self._directory / "run.json").read_text())
        return found

    async def _is_ready(self) -> bool:
        assert self.process.poll() is None, "make run has ended"
        return (self._directory / "run.json").exists()

    def descendants(self) -> list[psutil.Process]:
        """Every process that it has started and that still runs, also those whose parent is gone."""
        return [process for process in psutil.process_iter() if is_alive(process) and self._has_started(process)]

    def _has_started(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(DIRECTORY_VARIABLE, "")
            # Services carry the mark, servers work in their directory, and commands are children.
            places = (Path(mark), Path(process.cwd()))
            return any(place.is_relative_to(self._directory) for place in places) or self.process in process.parents()
        return False

    def interrupt(self, number: int = signal.SIGINT) -> int:
        """Press Ctrl-C; gives the exit code."""
        self.process.send_signal(number)
        return int(self.process.wait(STOP_TIMEOUT_SECONDS))

    def kill(self) -> None:
        """End whatever a failed test has left of it."""
        for process in [*self.descendants(), self.process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(STOP_TIMEOUT_SECONDS)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a run keeps its data: PostgreSQL's own user can reach it, which pytest's directory does not allow."""
    parent = Path(tempfile.mkdtemp(prefix="tallymarks-test-run-"))
    yield parent / "local"
    shutil.rmtree(parent)


@pytest.fixture
def port() -> int:
    (port,) = free_ports(1)
    return port


@contextlib.contextmanager
def running(directory: Path, port: int) -> Iterator[Run]:
    run = Run(directory, port)
    try:
        yield run
    finally:
        run.kill()
        print(run.output)


def type_in(command: str) -> Any:
    """Run a printed line as it is; gives the JSON that it prints."""
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


async def has_balance(command: str, amount: int) -> bool:
    return bool(type_in(command).get("amount") == amount)


async def is_known(command: str) -> bool:
    """Whether the event is answered as one that was taken in before: an api that is busy may leave the look-up out."""
    return bool(type_in(command).get("isExisting"))


def names_of(processes: list[psutil.Process]) -> set[str]:
    names = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.add(re.sub(r"[^a-z].*", "", process.name()))
    return names


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_make_run_serves_what_it_prints_leaves_no_process_and_finds_its_data_again(
    directory: Path, port: int
) -> None:
    with running(directory, port) as run:
        facts = await run.facts()
        assert facts["baseUrl"] == f"http://127.0.0.1:{port}"
        assert set(facts) == {
            *("baseUrl", "tenantId", "apiKey", "apiSecret", "segmentId", "databaseUrl", "amqpUrl", "pids"),
        }
        assert set(facts["pids"]) == {"api", "assessor", "segment-expiry", "calendar"}
        assert all(psutil.pid_exists(pid) for pid in facts["pids"].values())
        assert (directory / "run.json").stat().st_mode & 0o777 == 0o600

        order, balance, events, transactions, segments = commands = run.commands
        assert type_in(order)["isExisting"] is False
        await until(partial(has_balance, balance, 29))
        assert sorted(event["eventType"] for event in type_in(events)["events"]) == ["order", "points"]
        assert [row["amount"] for row in type_in(transactions)["customerTransactions"]] == [29]
        assert type_in(segments)["segments"] == []

        descendants = run.descendants()
        of_the_broker = {"beam", "epmd"} if find_server_script() else set()
        assert {"postgres", "tallymarks"} | of_the_broker <= names_of(descendants)
        assert run.interrupt() == 0
        assert not [process for process in descendants if is_alive(process)]
        assert not run.descendants()
        assert not (directory / "run.json").exists()

    with running(directory, port) as run:
        again = await run.facts()
        assert {**again, "pids": 0, "amqpUrl": 0} == {**facts, "pids": 0, "amqpUrl": 0}
        assert await has_balance(commands[1], 29)
        await until(partial(is_known, commands[0]))
        assert run.interrupt(signal.SIGTERM) == 0
        assert not run.descendants()


async def test_make_run_interrupted_while_it_starts_leaves_no_process(directory: Path, port: int) -> None:
    with running(directory, port) as run:

        async def has_started_its_servers() -> bool:
            return "postgres" in names_of(run.descendants())

        await until(has_started_its_servers, READY_TIMEOUT_SECONDS)
        descendants = run.descendants()
        assert run.interrupt() == 0
        assert not [process for process in descendants if is_alive(process)]
        assert not run.descendants()
        assert "is ready" not in run.output


def test_make_run_on_a_taken_port_ends_with_one_and_a_sentence(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(directory, port) as run:
            assert run.process.wait(READY_TIMEOUT_SECONDS) == 1
            expected = f"make run: port {port} of 127.0.0.1 is taken; choose another: make run PORT=9000"
            assert run.output.splitlines()[-1] == expected
            assert "Traceback" not in run.output
            assert not run.descendants()
