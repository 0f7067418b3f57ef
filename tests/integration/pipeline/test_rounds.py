"""Rounds: every tenant with something due has its turn, whatever becomes of the others' turns."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits, rounds
from tallymarks.database import Database, DatabaseAway
from tallymarks.service import new_id
from tallymarks.sql import triggers as sql
from tests.integration.pipeline.parts import schedule, seeded_ids, trigger
from tests.parts import PATIENCE_SECONDS, Clock, Tenant, until


@pytest.fixture
async def tenant_ids(database: Database, tenant: Tenant, other_tenant: Tenant, owner: asyncpg.Connection) -> list[UUID]:
    """Tenants that have something due, in the order of their turns; a third has nothing."""
    ids = seeded_ids(1)
    both = sorted([tenant.tenant_id, other_tenant.tenant_id])
    for tenant_id in both:
        await schedule(database, tenant_id, [trigger(ids)])
    await owner.execute(
        "INSERT INTO tenants SELECT $1, 'Third', '', 0, created_at, true FROM tenants LIMIT 1", new_id()
    )
    return both


@pytest.mark.parametrize("error", [asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError])
async def test_a_tenant_whose_turn_takes_too_long_or_meets_another_is_passed_over(
    database: Database, tenant_ids: list[UUID], clock: Clock, error: type[Exception]
) -> None:
    turns: list[UUID] = []

    async def turn(tenant_id: UUID) -> int:
        turns.append(tenant_id)
        if tenant_id == tenant_ids[0]:
            raise error("not now")
        return 5

    stop = asyncio.Event()
    assert await rounds.one_round(database, sql.SELECT_TENANTS_WITH_DUE, turn, now=clock, stop=stop) == 5
    assert turns == tenant_ids


@pytest.mark.parametrize("error", [DatabaseAway, ZeroDivisionError])
async def test_a_round_ends_where_the_database_goes_away_or_something_is_wrong(
    database: Database, tenant_ids: list[UUID], clock: Clock, error: type[Exception]
) -> None:
    turns: list[UUID] = []

    async def turn(tenant_id: UUID) -> int:
        turns.append(tenant_id)
        raise error

    with pytest.raises(error):
        await rounds.one_round(database, sql.SELECT_TENANTS_WITH_DUE, turn, now=clock, stop=asyncio.Event())
    assert turns == tenant_ids[:1]


async def test_rounds_follow_one_another_while_there_is_something_and_at_every_poll_and_survive_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RECONNECT_INTERVAL_SECONDS", 0.01)
    outcomes: list[int | Exception] = [3, 2, 0, DatabaseAway(), 1, 0, 0]
    stop, left = asyncio.Event(), list(outcomes)

    async def go_round(stop: asyncio.Event) -> int:
        outcome = left.pop(0) if left else 0
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    running = asyncio.create_task(rounds.keep_going(go_round, stop, poll_seconds=0.01, done="did something"))

    async def are_done() -> bool:
        return not left

    await until(are_done)
    stop.set()
    await asyncio.wait_for(running, PATIENCE_SECONDS)


async def test_a_stop_does_not_wait_for_the_next_poll() -> None:
    stop, waiting = asyncio.Event(), asyncio.Event()

    async def go_round(stop: asyncio.Event) -> int:
        waiting.set()
        return 0

    running = asyncio.create_task(rounds.keep_going(go_round, stop, poll_seconds=3_600, done="did something"))
    await waiting.wait()
    stop.set()
    await asyncio.wait_for(running, PATIENCE_SECONDS)
