"""What every private server has in common: how it is started, waited for, stopped, and found again after a crash.

A server runs in a session of its own, so that the terminal's Ctrl-C reaches only the supervisor, which stops its
children in the right order. Starting never waits for readiness: the caller waits in its own way (a test blocks, `make
run` awaits), and can therefore be interrupted at any time without losing track of a process.
"""

import contextlib
import random
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

# A server's environment carries this name with the server's directory, and what it spawns inherits it. That is how its
# processes are found again after the process that started them was killed: never by name.
DIRECTORY_VARIABLE = "TALLYMARKS_LOCAL_DIRECTORY"

READY_TIMEOUT_SECONDS = 90.0
POLL_SECONDS = 0.05

# Below the kernel's default range for outgoing connections, so that no connection takes a port before its server does.
PORT_RANGE = range(15_000, 32_000)
_ports = cycle(random.sample(PORT_RANGE, len(PORT_RANGE)))


class LocalServerError(Exception):
    """A server or service could not be started or ended by itself; the message is for the person at the terminal."""


class LocalServer(Protocol):
    """A server that this machine runs for us."""

    name: str

    def start(self) -> None:
        """Stop what an earlier run left behind, then start; returns before the server is ready.

        Raises:
            LocalServerError: it cannot be started.
        """

    def is_ready(self) -> bool:
        """Whether clients can connect.

        Raises:
            LocalServerError: it ended while starting.
        """

    def exit_reason(self) -> str | None:
        """Why the server is no longer running, None while it runs."""

    def stop(self) -> None:
        """Stop it gracefully, by force after a time; everything it started is gone afterwards. May be called twice."""


Server = TypeVar("Server", bound=LocalServer)


def wait_until_ready(server: LocalServer, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
    """Block until the server takes connections.

    Raises:
        LocalServerError: it ended while starting, or was not ready in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while not server.is_ready():
        if time.monotonic() > deadline:
            raise LocalServerError(f"{server.name} was not ready within {timeout_seconds:.0f} s")
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server for the length of a `with` block."""
    try:
        server.start()
        wait_until_ready(server)
        yield server
    finally:
        server.stop()


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Different TCP ports that nobody listens on now, on the loopback address.

    Each is given out once, so that two servers that are about to start never get the same one.
    """
    return list(islice((port for port in _ports if is_port_free(port)), count))


def processes_of(directory: Path) -> list[psutil.Process]:
    """The running processes whose environment names the directory of a server."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(DIRECTORY_VARIABLE) == str(directory) and is_alive(process):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs: one that has ended and waits to be reaped by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_processes(processes: Sequence[psutil.Process], timeout_seconds: float, number: int = signal.SIGTERM) -> None:
    """Signal the processes, wait until they are gone, and kill those that are not by then."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    if not _wait_until_gone(processes, timeout_seconds):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_until_gone(processes, timeout_seconds)


def _wait_until_gone(processes: Sequence[psutil.Process], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while any(is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log file, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return "(no log)"
