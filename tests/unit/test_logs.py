"""The log of a service, as its standard output shows it. Each is a process: logging belongs to a process as a whole."""

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from tallymarks.database import DatabaseAway
from tallymarks.errors import InvalidRequest
from tallymarks.logs import log_unhandled, reason_of
from tallymarks.service import _until_stopped
from tallymarks.settings import Settings

ROOT = Path(__file__).parents[2]
PROGRAM = """
import logging, structlog
from uuid import UUID
from tallymarks.logs import configure_logging
configure_logging("api", {log_format!r})
log = structlog.get_logger("tallymarks.test")
{statements}
"""


def logged(statements: str, log_format: str = "json") -> list[str]:
    """The lines that a program writes; nothing may go to the standard error."""
    program = PROGRAM.format(log_format=log_format, statements=statements)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def only_line(statements: str, log_format: str = "json") -> dict[str, Any]:
    (line,) = logged(statements, log_format)
    read: dict[str, Any] = json.loads(line)
    return read


def test_a_line_is_a_json_object_with_level_service_and_time() -> None:
    line = only_line('log.info("listening", port=8080, host="127.0.0.1")')
    at = datetime.fromisoformat(line.pop("timestamp"))
    assert at.tzinfo == UTC
    assert line == {
        "event": "listening",
        "level": "info",
        "logger": "tallymarks.test",
        "service": "api",
        "port": 8080,
        "host": "127.0.0.1",
    }


def test_is_json_wherever_there_is_no_terminal() -> None:
    assert only_line('log.info("x")', "auto")["event"] == "x"


def test_is_readable_on_request() -> None:
    (line,) = logged('log.info("listening", port=8080)', "console")
    assert "listening" in line
    assert "8080" in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


def test_libraries_log_the_same_way() -> None:
    line = only_line('logging.getLogger("library").warning("%s is %d", "it", 5, extra={"colour": "blue"})')
    del line["timestamp"]
    assert line == {"event": "it is 5", "level": "warning", "logger": "library", "service": "api", "colour": "blue"}


def test_an_exception_stays_on_its_line() -> None:
    line = only_line('try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception("failed")')
    assert (line["event"], line["level"]) == ("failed", "error")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("\nZeroDivisionError")


def test_what_an_exception_says_is_logged_where_it_repeats_nothing_only() -> None:
    statements = """
try:
    try:
        int("ada@example.org")
    except ValueError as error:
        raise RuntimeError("no number: ada@example.org") from error
except RuntimeError as error:
    try:
        raise ExceptionGroup("ada@example.org", [error, OSError(111, "refused")])
    except ExceptionGroup:
        logging.getLogger("library").exception("failed")
"""
    for log_format in ("json", "console"):
        text = "\n".join(logged(statements, log_format))
        assert text.count("Traceback") >= 3
        assert "ConnectionRefusedError: [Errno 111] refused" in text
        # The lines of the program are shown, which are no secret.
        assert text.count("ada@example.org") == 0
    said = only_line(statements)["exception"]
    assert said.index("ValueError") < said.index("RuntimeError") < said.index("ExceptionGroup")


def test_what_a_task_fails_with_that_nobody_waits_for_is_logged_likewise() -> None:
    statements = """
import asyncio, gc
from tallymarks.logs import log_unhandled
async def failing(secret):
    raise ValueError(secret)
async def main():
    asyncio.get_running_loop().set_exception_handler(log_unhandled)
    asyncio.ensure_future(failing("ada@example" + ".org"))
    asyncio.get_running_loop().call_soon(int, "ada@example" + ".org")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
asyncio.run(main())
"""
    lines = [json.loads(line) for line in logged(statements)]
    assert [line["event"] for line in lines] == ["a task or a callback failed"] * 2
    assert all(line["exception"].endswith("\nValueError") for line in lines)
    assert "ada@example.org" not in str(lines)


async def test_every_service_logs_so_what_nobody_waits_for() -> None:
    handlers: list[object] = []

    async def serve(_: Settings, __: asyncio.Event) -> None:
        handlers.append(asyncio.get_running_loop().get_exception_handler())

    await _until_stopped(serve, Settings(database_url="postgresql://127.0.0.1/nothing"))
    assert handlers == [log_unhandled]


class Read(BaseModel):
    """Something that is read from what a caller sends."""

    number: int


def failed(raise_it: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whichever it is
        raise_it()
    return raised.value


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("ada@example.org"), "ValueError"),
        (KeyError("ada@example.org"), "KeyError"),
        (InvalidRequest.of("email", "ada@example.org", "ada@example.org is none"), "InvalidRequest: "),
        (failed(lambda: Read.model_validate({"number": "ada@example.org"})), "Read: int_parsing"),
        (failed(lambda: Read.model_validate_json(b"ada@example.org")), "Read: json_invalid"),
        (asyncpg.DataError("invalid input for query argument $1: 'ada@example.org'"), "DataError"),
        (
            asyncpg.UniqueViolationError(
                "duplicate key",
            ),
            "duplicate key",
        ),
        (asyncpg.DeadlockDetectedError(), "DeadlockDetectedError"),
        (asyncpg.InterfaceError("connection is closed"), "connection is closed"),
        (DatabaseAway("connection refused"), "connection refused"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_reason_repeats_nothing_that_was_sent_or_stored(error: Exception, reason: str) -> None:
    assert reason_of(error).startswith(reason)
    assert "ada@example.org" not in reason_of(error)


def test_the_details_of_the_server_which_show_rows_are_no_reason() -> None:
    error = asyncpg.UniqueViolationError("duplicate key")
    error.detail = "Key (email)=(ada@example.org) already exists."
    assert "ada@example.org" in str(error)
    assert reason_of(error) == "duplicate key"


def test_a_text_with_line_breaks_stays_on_its_line() -> None:
    line = only_line(r'log.info("a\nb", path="\r\n{}")')
    assert (line["event"], line["path"]) == ("a\nb", "\r\n{}")


def test_what_json_does_not_know_is_shown_as_python_would() -> None:
    line = only_line('log.info("x", value=object, event_id=UUID(int=1), numbers={1, })')
    assert line["value"] == "<class 'object'>"
    assert line["event_id"] == "00000000-0000-0000-0000-000000000001"
    assert line["numbers"] == "{1}"


def test_details_are_left_out() -> None:
    assert logged('log.debug("x"); logging.getLogger("library").debug("x")') == []


def test_the_brokers_client_leaves_it_to_us_to_say_what_is_wrong() -> None:
    assert logged('logging.getLogger("aiormq.connection").error("x")') == []


# --- the calls that log -----------------------------------------------------------------------------------------------

SOURCES = sorted(path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py"))


def untold_exceptions(source: str) -> list[str]:
    """The calls of a log that hand over a caught exception in another way than by `reason_of` or as `exc_info`."""
    tree = ast.parse(source)
    caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")
        for said in (*node.args, *(keyword.value for keyword in node.keywords if keyword.arg != "exc_info"))
        if not ast.unparse(said).startswith("reason_of(")
        and any(isinstance(name, ast.Name) and name.id in caught for name in ast.walk(said))
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_call_hands_an_exception_to_the_log_as_it_is(path: Path) -> None:
    assert untold_exceptions(path.read_text()) == []


@pytest.mark.parametrize("said", ["reason=str(error)", "error=error", "reason=f'{error}'", "reason=error.args[0]"])
def test_a_call_that_did_would_be_found(said: str) -> None:
    call = f"log.warning('it waits', {said})"
    assert len(untold_exceptions(f"try:\n    x()\nexcept OSError as error:\n    {call}")) == 1
