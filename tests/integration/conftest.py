"""What every test on real servers has: patience, and on request a tenant who owns something of everything."""

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.database import Database
from tallymarks_assessor.assess import Assessor
from tests.integration.possessions import Possessions, possess
from tests.parts import PATIENCE_SECONDS, ApiClient, Clock, Tenant


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts in this process wait as long as the tests do.

    In production they give up early, for their callers' sake; on a busy machine a test would meet that by chance. A
    test that is about giving up sets its own limit.
    """
    for name in ("STATEMENT", "CONNECT", "HEALTH", "LOOKUP", "TRANSACTION_IDLE"):
        monkeypatch.setattr(limits, f"{name}_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(limits, "LARGE_BODY_WAIT_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
async def possessions(
    api: ApiClient, assessor: Assessor, tenant: Tenant, clock: Clock, owner: asyncpg.Connection, database: Database
) -> Possessions:
    """Rows of the first tenant in every table of tenant data."""
    return await possess(api, assessor, tenant, clock, owner, database)
