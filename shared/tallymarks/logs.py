"""Logging: one JSON line an event on stdout, readable lines on a terminal.

What an exception says may repeat what a caller has sent: a secret, or who a customer is. So only that is logged of it
which is known to repeat nothing (`reason_of`), also where a library logs it, and where it was raised.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Literal

import asyncpg
import orjson
import structlog
from aio_pika.exceptions import AMQPError
from pydantic import ValidationError

from tallymarks.database import DatabaseAway
from tallymarks.errors import Refusal

log = structlog.get_logger(__name__)

ABOUT_SERVERS: tuple[type[BaseException], ...] = (OSError, DatabaseAway, AMQPError, asyncpg.InterfaceError)
"""Errors that speak of addresses, connections and channels only; one that is also a ValueError repeats an argument."""
DATA_EXCEPTION = "22"
"""The class of the server's errors whose first line repeats a value."""


def reason_of(error: BaseException) -> str:
    """Tell what went wrong in words that may be logged: they repeat nothing of what was asked, sent or stored."""
    name = type(error).__name__
    match error:
        case Refusal():
            return f"{error.code}: {error.message}"
        case ValidationError():
            kinds = sorted({each["type"] for each in error.errors(include_url=False, include_input=False)})
            return f"{error.title}: {', '.join(kinds)}"
        case asyncpg.PostgresError() if error.args and not str(error.sqlstate).startswith(DATA_EXCEPTION):
            return str(error.args[0])  # without the detail, which shows rows and keys
        case _ if isinstance(error, ABOUT_SERVERS) and not isinstance(error, ValueError):
            return str(error) or name
    return name


def configure_logging(service: str, log_format: Literal["auto", "json", "console"]) -> None:
    """Send the program's and its libraries' log to stdout, the service's name on each line."""
    on_terminal = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.ExceptionRenderer(_traceback),
    ]
    renderer: structlog.typing.Processor = (
        # Any other than a plain one would show the values of variables.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if on_terminal
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # The broker's client logs each attempt with a traceback of its own; the services say once what they do about it.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    structlog.contextvars.bind_contextvars(service=service)


def log_unhandled(_: object, context: dict[str, object]) -> None:
    """Log what nobody waited for; the handler of an event loop, whose own would show what it was working on."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        log.error("a task or a callback failed", exc_info=error)
    else:
        log.error("the event loop complains", reason=context["message"])


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    return "".join(_lines(exc_info[1], set())).rstrip()


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    """Tell of an exception as Python does, but for what it says; first of those that led to it."""
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _lines(before, seen)
        yield "\nThen, because of it or while it was dealt with:\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    reason, name = reason_of(error), type(error).__name__
    yield f"{name}: {reason}\n" if reason != name else f"{name}\n"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _lines(one, seen)


def _to_json(value: object, **_: object) -> str:
    try:
        return orjson.dumps(value, default=repr).decode()
    except orjson.JSONEncodeError:
        # An integer over 64 bits, a lone surrogate: a line that reads less well beats none.
        return json.dumps(value, default=repr)
