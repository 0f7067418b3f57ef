"""Logging: one JSON line an event on stdout, readable lines on a terminal."""

import json
import logging
import sys
from typing import Literal

import orjson
import structlog


def configure_logging(service: str, log_format: Literal["auto", "json", "console"]) -> None:
    """Send the program's and its libraries' log to stdout, the service's name on each line."""
    on_terminal = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    if not on_terminal:
        shared.append(structlog.processors.format_exc_info)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(serializer=_to_json)
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


def _to_json(value: object, **_: object) -> str:
    try:
        return orjson.dumps(value, default=repr).decode()
    except orjson.JSONEncodeError:
        # An integer over 64 bits, a lone surrogate: a line that reads less well beats none.
        return json.dumps(value, default=repr)
