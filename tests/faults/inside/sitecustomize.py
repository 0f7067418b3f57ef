"""What goes wrong inside of a service's process; Python imports this first, where PYTHONPATH says so.

The clock is as many seconds off as the file of TALLYMARKS_TEST_CLOCK_FILE says, and can be stepped while the service
runs. An assessor that meets an event with the nameSpace of `KILLING` is killed.
"""

import os
import signal
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

CLOCK_FILE = "TALLYMARKS_TEST_CLOCK_FILE"
KILLING = "Poison.Kill"


def step_the_clock(file: Path) -> None:
    """Let `utc_now` be off by what the file says."""
    from tallymarks import service  # noqa: PLC0415 - only where the faults are wanted

    right = service.utc_now

    def utc_now() -> datetime:
        try:
            return right() + timedelta(seconds=float(file.read_text()))
        except (FileNotFoundError, ValueError):
            return right()

    service.utc_now = utc_now


def be_killed_by_poison() -> None:
    """Let the assessor end in the middle of its work when it meets a certain event."""
    from tallymarks_assessor.assess import Assessor  # noqa: PLC0415

    assess = Assessor.assess

    async def assess_or_die(self: Assessor, tenant_id: UUID, events: Sequence[Any]) -> Any:
        if any(event.name_space == KILLING for event in events):
            os.kill(os.getpid(), signal.SIGKILL)
        return await assess(self, tenant_id, events)

    Assessor.assess = assess_or_die  # type: ignore[method-assign]


if CLOCK_FILE in os.environ:
    step_the_clock(Path(os.environ[CLOCK_FILE]))
    be_killed_by_poison()
