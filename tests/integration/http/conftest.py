"""On which event loops the HTTP server is tested."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """On both: services run on uvloop, whose transports are not those of asyncio, and most tests do not."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
