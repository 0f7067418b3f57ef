"""Invariant 1 under SIGKILL: what was answered 2xx takes effect exactly once, wherever the kill strikes."""

import asyncio
from random import Random

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.service import new_id
from tests.acceptance.counting import (
    Load,
    actions_of,
    assert_each_counted_once,
    make_rules,
    post_batch,
    times_counted,
    until_consumed,
    until_counted,
    until_met,
    until_waiting_for_a_lock,
)
from tests.acceptance.installation import API, ASSESSOR, Installation, Stack
from tests.parts import Tenant, until
from tests.proxy import Direction, proxy_to


async def test_an_assessor_killed_between_commit_and_acknowledge_counts_each_event_once(
    installation: Installation, tenant: Tenant, owner: asyncpg.Connection, broker: Broker, amqp_url: str
) -> None:
    async with proxy_to(amqp_url) as proxy:
        api, assessor = installation.start(API), installation.start(ASSESSOR, AMQP_URL=proxy.url)
        await asyncio.gather(api.ready("broker", "database"), assessor.ready(), until_consumed(broker))
        client = installation.client(api, tenant.admin)
        await make_rules(client)

        proxy.hold(Direction.TO_SERVER)
        events = actions_of(customer_count=20, event_count=300)
        assert (await post_batch(client, events)).status == 200
        await until_counted(owner, tenant.tenant_id, len(events))

        async def is_acknowledging() -> bool:
            return proxy.held_bytes(Direction.TO_SERVER) > 0

        await until(is_acknowledging)
        assessor.kill()
        proxy.cut()
        proxy.release()
        assessor.start_again()
        await assessor.ready()
        await until_met(assessor, len(events))
        await assert_each_counted_once(installation, client, owner, events)
        assert await assessor.stop() == 0


async def test_an_assessor_killed_before_its_commit_leaves_nothing_and_the_events_count_afterwards(
    stack: Stack, owner: asyncpg.Connection
) -> None:
    await make_rules(stack.client)
    events = actions_of(customer_count=20, event_count=300)
    async with owner.transaction():
        # The ledger is written after events, customers and accounts, which are there for their transaction alone.
        await owner.execute("LOCK TABLE transactions IN SHARE MODE")
        assert (await post_batch(stack.client, events)).status == 200
        await until_waiting_for_a_lock(owner, 1, "assessor")
        stack.assessor.kill()
    for table in ("events", "customers", "accounts", "transactions"):
        assert await owner.fetchval(f"SELECT count(*) FROM {table}") == 0
    stack.assessor.start_again()
    await assert_each_counted_once(stack.installation, stack.client, owner, events)


@pytest.mark.parametrize("seed", [1, 2])
async def test_services_killed_at_random_moments_under_load_count_each_event_once(
    stack: Stack, owner: asyncpg.Connection, seed: int
) -> None:
    random = Random(seed)
    await make_rules(stack.client)
    customer_ids = [new_id() for _ in range(10)]
    loads = [Load(stack.client, customer_ids, Random(random.random())) for _ in range(2)]
    for _ in range(4):
        counted = len(await times_counted(owner, stack.tenant_id))
        posting = asyncio.gather(*(load.post(400) for load in loads))
        await until_counted(owner, stack.tenant_id, counted + random.randint(1, 400))
        victim = random.choice([stack.assessor, stack.assessor, stack.api])
        victim.kill()
        victim.start_again()
        await posting
    await asyncio.gather(stack.api.ready("broker", "database"), stack.assessor.ready())
    events = [event for load in loads for event in load.events]
    await assert_each_counted_once(stack.installation, stack.client, owner, events)
