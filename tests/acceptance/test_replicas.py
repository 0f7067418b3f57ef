"""Two of each service at work on one set of customers: no different from one of each."""

import asyncio
from collections.abc import Sequence
from random import Random
from uuid import UUID

import asyncpg

from tallymarks.service import new_id
from tests.acceptance.counting import (
    Load,
    action,
    actions_of,
    assert_each_counted_once,
    connected,
    make_rules,
    points,
    post,
    post_batch,
    redemption,
    until_counted,
    until_taken,
    until_waiting_for_a_lock,
)
from tests.acceptance.installation import SEGMENT_EXPIRY, Installation, Json, Stack, start_stack
from tests.parts import Answered, ApiClient, Tenant, until

POINTS_OF_A_REDEMPTION = 5


async def two_stacks(installation: Installation, tenant: Tenant) -> tuple[Stack, Stack]:
    return await asyncio.gather(*(start_stack(installation, tenant.admin) for _ in range(2)))  # type: ignore[return-value]


async def redeem(stacks: Sequence[Stack], customer_ids: Sequence[UUID]) -> list[tuple[Json, list[Answered]]]:
    """Redeem for all customers at once, each redemption by both apis at the same time."""
    redemptions = [redemption(customer_id, POINTS_OF_A_REDEMPTION) for customer_id in customer_ids for _ in range(10)]
    answers = await asyncio.gather(*(decided(stack.client, one) for one in redemptions for stack in stacks))
    return [(one, answers[2 * place : 2 * place + 2]) for place, one in enumerate(redemptions)]


async def decided(client: ApiClient, one: Json) -> Answered:
    """The answer to a redemption, which is sent again for as long as the api has no connection free for it."""
    while (answered := await post(client, one)).status == 503:
        continue
    return answered


async def test_two_of_each_service_count_each_event_once_and_redeem_no_more_than_there_is(
    installation: Installation, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    stacks = await two_stacks(installation, tenant)
    customer_ids = [new_id() for _ in range(8)]
    client = stacks[0].client
    await make_rules(client)
    earned = [points(customer_id, 22) for customer_id in customer_ids]
    assert (await post_batch(client, earned)).status == 200
    await until_counted(owner, tenant.tenant_id, len(earned))

    loads = [Load(stack.client, customer_ids, Random(seed)) for seed, stack in enumerate((*stacks, *stacks))]
    posting = asyncio.gather(*(load.post(300) for load in loads))
    outcomes = await redeem(stacks, customer_ids)
    both = actions_of(customer_count=8, event_count=500)
    await asyncio.gather(*(until_taken(stack.client, both) for stack in stacks))
    await posting

    taken = [one for one, answers in outcomes if is_redeemed(answers)]
    assert len(taken) >= 4 * len(customer_ids)
    assert await owner.fetchval("SELECT min(balance) FROM accounts") >= 0
    # One assessor alone meets the last events last.
    assert await stacks[1].assessor.stop() == 0
    events = [*earned, *both, *taken, *(event for load in loads for event in load.events)]
    await assert_each_counted_once(installation, client, owner, events)


def is_redeemed(answers: Sequence[Answered]) -> bool:
    """Tell whether the redemption was taken: decided by one api, and by the other found decided or not covered yet."""
    statuses = sorted(answered.status for answered in answers)
    assert statuses in ([200, 208], [200, 400], [400, 400])
    taken = [answered.body for answered in answers if answered.status != 400]
    assert all(one["pendingBalance"] >= 0 for one in taken)
    assert all(one["pendingBalance"] == taken[0]["pendingBalance"] for one in taken)
    return bool(taken)


async def test_two_expiry_workers_remove_each_lapsed_membership_once(
    installation: Installation, tenant: Tenant, owner: asyncpg.Connection, database_url: str
) -> None:
    stacks = await two_stacks(installation, tenant)
    client = stacks[0].client
    member_count = 3000
    segment = await client.post("/api/v1/admin/segments", {"name": "members"})
    await make_rules(client, action={"type": "addToSegment", "segmentId": segment.body["segmentId"]})
    for _ in range(member_count // 1000):
        assert (await post_batch(client, [action(new_id()) for _ in range(1000)])).status == 200

    async def have_joined() -> bool:
        return bool(await owner.fetchval("SELECT count(*) FROM segment_memberships") == member_count)

    async def removed() -> list[float]:
        return [await stack.segment_expiry.metric("tallymarks_memberships_lapsed") for stack in stacks]

    async def are_removed() -> bool:
        return sum(await removed()) >= member_count

    await until(have_joined)
    async with connected(database_url) as blocking, blocking.transaction():
        # Each worker has taken memberships and is about to record them: they meet for certain.
        await blocking.execute("LOCK TABLE segment_lapses IN SHARE MODE")
        await owner.execute("UPDATE segment_memberships SET expiry_date_time = now()")
        await until_waiting_for_a_lock(owner, 2, SEGMENT_EXPIRY)
    await until(are_removed)
    assert sum(await removed()) == member_count
    assert min(await removed()) > 0
    assert await owner.fetchval("SELECT count(*) FROM segment_memberships") == 0
    assert await owner.fetchval("SELECT count(DISTINCT customer_id) FROM segment_lapses") == member_count
