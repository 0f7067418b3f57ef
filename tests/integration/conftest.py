"""What every test on real servers has: patience."""

import pytest

from tallymarks import limits
from tallymarks_api import auth, duplicates
from tests.parts import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts in this process wait as long as the tests do.

    In production they give up early, for their callers' sake; on a busy machine a test would meet that by chance. A
    test that is about giving up sets its own limit.
    """
    for name in ("STATEMENT", "CONNECT", "HEALTH", "TRANSACTION_IDLE"):
        monkeypatch.setattr(limits, f"{name}_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(limits, "LARGE_BODY_WAIT_SECONDS", PATIENCE_SECONDS)
    for module in (auth, duplicates):
        monkeypatch.setattr(module, "LOOKUP_TIMEOUT_SECONDS", PATIENCE_SECONDS)
