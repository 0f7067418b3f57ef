"""What waits for an account that stays busy is told to try again, and has no effect until it does."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.database import Database
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, refused
from tests.integration.api.given import CUSTOMERS, REDEMPTIONS, a_segment, earned, fresh_id, redemption
from tests.parts import PATIENCE_SECONDS, ApiClient, Tenant


@pytest.fixture
async def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """The database as the api sees it, which waits for locks for a short time only; no other limit ends the wait."""
    monkeypatch.setattr(limits, "STATEMENT_TIMEOUT_SECONDS", 300.0)
    database = Database(database_url, pool_size=10, application_name="test", lock_timeout_seconds=0.05)
    await database.open()
    yield database
    await database.close()


async def test_an_account_that_stays_busy_is_a_503_and_nothing_is_kept(
    api: ApiClient, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    customer_id, segment_id = fresh_id(), (await a_segment(api))["segmentId"]
    await earned(assessor, tenant, customer_id, 100)
    calls: list[tuple[str, str, object]] = [
        ("POST", REDEMPTIONS, redemption(customer_id, 10)),
        ("PUT", f"{CUSTOMERS}/{customer_id}/segments", {"segmentId": segment_id}),
        ("PATCH", f"{CUSTOMERS}/{customer_id}", {"isAccountLocked": True}),
    ]
    before = await contents(owner)
    async with owner.transaction():
        await owner.execute("SELECT FROM accounts FOR UPDATE")
        async with asyncio.timeout(PATIENCE_SECONDS):
            answers = await all_at_once(*(api.call(*call) for call in calls))
        assert (await api.get(f"{CUSTOMERS}/{customer_id}/balance")).body["amount"] == 100
    for answered in answers:
        refused(answered, 503, "Unavailable")
        assert int(answered.headers["Retry-After"]) > 0
    assert await contents(owner) == before
    for call in calls:
        assert (await api.call(*call)).status == 200
