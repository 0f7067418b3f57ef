"""A private RabbitMQ node in a directory, from the installed `rabbitmq-server` package or a container.

The package's own server script is run, not the wrapper on the PATH, which changes user and shares the system's node.
Nothing of the system's configuration is read, and nothing outside the directory is written.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tallymarks_local.servers import (
    DIRECTORY_VARIABLE,
    LocalServerError,
    end_processes,
    free_ports,
    last_lines,
    processes_of,
)

# The data belongs to the node of this name, so it never changes. Nodes of other directories have an epmd of their own.
NODE_NAME = "tallymarks@localhost"

PACKAGE = "rabbitmq-server"
PACKAGE_FOLDERS = (Path("/usr/lib/rabbitmq/lib"), Path("/usr/local/lib/rabbitmq/lib"))
INSTALL_COMMAND = f"apt-get install -y --no-install-recommends {PACKAGE}"
IMAGE = "rabbitmq:4"
AMQP_PORT = 5672

AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
AMQP_METHOD_FRAME = b"\x01"
PROBE_TIMEOUT_SECONDS = 2.0
STOP_TIMEOUT_SECONDS = 30.0
ENGINE_TIMEOUT_SECONDS = 10.0
INSTALL_TIMEOUT_SECONDS = 600.0

# Small limits for a machine that also does other things; the log holds what an operator would want to know.
CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
raft.wal_max_size_bytes = 67108864
log.console = false
log.file.level = warning
"""
# A node that has no data yet joins the first one of its cluster.
CLUSTER_CONFIGURATION = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = {first_node}
"""
ERLANG_ARGUMENTS = "+sbwt none +sbwtdcpu none +sbwtdio very_short"
"""Schedulers that wait busily take the processors from the services; those that read files may, for a moment.

None does by RabbitMQ's own default, which takes 6 s to start on two virtual cores; so it takes 3.
"""


@dataclass(frozen=True)
class ClusterMember:
    """What a node is in a cluster: its own name, and what it shares with the others."""

    node_name: str
    first_node_name: str
    epmd_port: int
    """Of a port mapper that somebody else starts and ends."""
    home: Path
    """A directory that holds the cookie."""


class RabbitmqNode:
    """A node whose data, log and settings live in one directory; all its ports are free loopback ones."""

    name = "RabbitMQ"

    def __init__(self, directory: Path, server_script: Path, member: ClusterMember | None = None) -> None:
        """Take the directory, and for one of several nodes what it is among them; `start` starts it."""
        self._directory = directory.resolve()
        self._server_script = server_script
        self._member = member
        self._port = 0
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._port_mapper: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The node's address, for aio-pika and every AMQP 0-9-1 client; known once it is started."""
        return _amqp_url(self._port)

    def start(self) -> None:
        """Stop a node that an earlier run left on this directory, write the settings, and start."""
        self.stop_leftover()
        member, home = self._member, self._directory / "home"
        self._port, distribution_port, epmd_port = free_ports(3)
        settings = CONFIGURATION.format(port=self._port)
        if member is not None:
            home, epmd_port = member.home, member.epmd_port
            settings += CLUSTER_CONFIGURATION.format(first_node=member.first_node_name)
        for folder in (self._directory, home, self._log_folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._output.unlink(missing_ok=True)
        configuration = self._directory / "rabbitmq.conf"
        configuration.write_text(settings)
        plugins = self._directory / "enabled_plugins"
        plugins.write_text("[].\n")
        self._environment = environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(home),  # holds the cookie
            DIRECTORY_VARIABLE: str(self._directory),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_NODENAME": NODE_NAME if member is None else member.node_name,
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self._directory / "mnesia"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self._directory / "feature_flags"),
            "RABBITMQ_LOG_BASE": str(self._log_folder),
            "RABBITMQ_CONFIG_FILE": str(configuration.with_suffix("")),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._directory / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ERL_ARGS": ERLANG_ARGUMENTS,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        # A port mapper that the node starts outlives it as nobody's child; ours ends with us and leaves no zombie.
        if member is None:
            self._port_mapper = self._spawn(["epmd", "-address", "127.0.0.1", "-port", str(epmd_port)], environment)
        self._process = self._spawn([str(self._server_script)], environment)

    def is_ready(self) -> bool:
        """Whether the node answers an AMQP greeting (it opens its port last)."""
        if (reason := self.exit_reason()) is not None:
            raise LocalServerError(f"{reason}\n{last_lines(self._output)}")
        return answers_amqp("127.0.0.1", self._port)

    def exit_reason(self) -> str | None:
        """Why the node is no longer running, None while it runs."""
        code = self._process.poll() if self._process else None
        return (
            None
            if code is None
            else f"{self.name} ended by itself with code {code}; its logs are in {self._log_folder}"
        )

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop gracefully, by force after a time; ends the port mapper (epmd) too."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._port_mapper is not None:
            self._port_mapper.terminate()
            self._port_mapper.wait()
            self._port_mapper = None
            self.stop_leftover()

    def crash(self) -> None:
        """End it in the middle of whatever it does."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` on the node that was started; gives what it printed.

        Raises:
            LocalServerError: the command failed.
        """
        command = [str(self._server_script.with_name("rabbitmqctl")), "--quiet", *arguments]
        result = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise LocalServerError(f"{self.name}: rabbitmqctl {arguments[0]} failed: {result.stdout}{result.stderr}")
        return result.stdout

    def stop_leftover(self) -> None:
        """End every process of this directory's node that runs, also one that an earlier run left."""
        end_processes(processes_of(self._directory), STOP_TIMEOUT_SECONDS)

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            try:
                return subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._directory,
                    start_new_session=True,
                )
            except OSError as error:
                raise LocalServerError(f"{self.name}: could not start {command[0]}: {error}") from error

    @property
    def _log_folder(self) -> Path:
        return self._directory / "log"

    @property
    def _output(self) -> Path:
        return self._log_folder / "startup.log"


class RabbitmqContainer:
    """A container of the public image, with its data in a named volume of the directory."""

    name = "RabbitMQ (container)"

    def __init__(self, directory: Path) -> None:
        self._container = f"tallymarks-{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]}"
        self._port = 0

    @property
    def url(self) -> str:
        """The node's address; known once it is started."""
        return _amqp_url(self._port)

    def start(self) -> None:
        """Remove a container that an earlier run left, and start; the image is fetched where missing."""
        self.stop_leftover()
        (self._port,) = free_ports(1)
        result = subprocess.run(
            [
                *("docker", "run", "--detach", "--rm", "--name", self._container, "--hostname", "tallymarks"),
                *("--publish", f"127.0.0.1:{self._port}:{AMQP_PORT}"),
                *("--volume", f"{self._container}:/var/lib/rabbitmq", IMAGE),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise LocalServerError(f"docker could not run {IMAGE}: {result.stderr.strip()}")

    def is_ready(self) -> bool:
        """Whether the node answers an AMQP greeting."""
        if (reason := self.exit_reason()) is not None:
            raise LocalServerError(reason)
        return answers_amqp("127.0.0.1", self._port)

    def exit_reason(self) -> str | None:
        """Why the container is no longer running, None while it runs."""
        command = ["docker", "ps", "--quiet", "--filter", f"name={self._container}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        ended = result.returncode == 0 and not result.stdout.strip()
        return f"{self.name} ended by itself" if ended else None

    def stop(self) -> None:
        """Stop the container, which removes it; its volume stays."""
        subprocess.run(["docker", "stop", self._container], capture_output=True, check=False)

    def stop_leftover(self) -> None:
        """Remove the container where it still runs."""
        subprocess.run(["docker", "rm", "--force", self._container], capture_output=True, check=False)


def rabbitmq_server(directory: Path, say: Callable[[str], None]) -> RabbitmqNode | RabbitmqContainer:
    """A private RabbitMQ in a directory, not yet started, of whatever this machine has or can install.

    The installed package; missing, it is installed by apt-get where we are root; else a container where an engine
    answers. `say` is told of what takes time.

    Raises:
        LocalServerError: none of these is to be had; the message holds the command to type.
    """
    script = find_server_script()
    if script is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"{PACKAGE} is missing: installing it ({INSTALL_COMMAND})")
        directory.mkdir(parents=True, exist_ok=True)
        _install_package(directory / "install.log")
        script = find_server_script()
    if script is not None:
        return RabbitmqNode(directory, script)
    if has_container_engine():
        say(f"{PACKAGE} is missing: running the image {IMAGE} with docker")
        return RabbitmqContainer(directory)
    raise LocalServerError(
        f"RabbitMQ is needed and not installed here. Type: sudo {INSTALL_COMMAND}"
        " (or start a Docker engine, or set TALLYMARKS_AMQP_URL to a broker of yours)"
    )


def find_server_script() -> Path | None:
    """The server script of the newest installed package, None where there is none."""
    scripts = [
        script
        for folder in PACKAGE_FOLDERS
        for script in folder.glob("rabbitmq_server-*/sbin/rabbitmq-server")
        if os.access(script, os.X_OK)
    ]
    return max(scripts, key=lambda script: [int(number) for number in re.findall(r"\d+", str(script))], default=None)


def has_container_engine() -> bool:
    """Whether a Docker engine answers."""
    try:
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(command, capture_output=True, check=False, timeout=ENGINE_TIMEOUT_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _install_package(log_path: Path) -> None:
    """Install the package; what goes wrong is in the log, and the caller sees that there is still no server script."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-o", "DPkg::Lock::Timeout=120", "-q"]
    with log_path.open("w") as log, contextlib.suppress(subprocess.TimeoutExpired):
        for arguments in (["update"], INSTALL_COMMAND.split()[1:]):
            subprocess.run(
                ["apt-get", *options, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                timeout=INSTALL_TIMEOUT_SECONDS,
            )


def answers_amqp(host: str, port: int) -> bool:
    """Whether an AMQP 0-9-1 broker answers a greeting at the address."""
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_SECONDS) as connection:
            connection.sendall(AMQP_GREETING)
            return connection.recv(1) == AMQP_METHOD_FRAME
    except OSError:
        return False


def _amqp_url(port: int) -> str:
    return f"amqp://guest:guest@127.0.0.1:{port}/"
