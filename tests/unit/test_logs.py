"""The log of a service, as its standard output shows it. Each is a process: logging belongs to a process as a whole."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

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
    assert "ZeroDivisionError: division by zero" in line["exception"]


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
