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
    make_rules,
    points,
    post,
    post_batch,
    redemption,
    until_counted,
)
from tests.acceptance.installation import Installation, Json, Stack, start_stack
from tests.parts import Answered, Tenant, until

POINTS_OF_A_REDEMPTION = 5


async def two_stacks(installation: Installation, tenant: Tenant) -> tuple[Stack, Stack]:
    return await asyncio.gather(*(start_stack(installation, tenant.admin) for _ in range(2)))  # type: ignore[return-value]


async def redeem(stacks: Sequence[Stack], customer_ids: Sequence[UUID]) -> list[tuple[Json, list[Answered]]]:
    """Redeem for all customers at once, each redemption by both apis at the same time."""
    redemptions = [redemption(customer_id, POINTS_OF_A_REDEMPTION) for customer_id in customer_ids for _ in range(10)]
    answers = await asyncio.gather(*(post(stack.client, one) for one in redemptions for stack in stacks))
    return [(one, answers[2 * place : 2 * place + 2]) for place, one in enumerate(redemptions)]


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
    assert [one.status for one in await asyncio.gather(*(post_batch(s.client, both) for s in stacks))] == [200, 200]
    await posting

    taken = [one for one, answers in outcomes if is_redeemed(answers)]
    assert len(taken) >= 4 * len(customer_ids)
    assert await owner.fetchval("SELECT min(balance) FROM accounts") >= 0
    # One assessor alone meets the last events last.
    assert await stacks[1].assessor.stop() == 0
    events = [*earned, *both, *taken, *(event for load in loads for event in load.events)]
    await assert_each_counted_once(installation, client, owner, events)


def is_redeemed(answers: Sequence[Answered]) -> bool:
    """One of the two apis has decided, the other has found the decision; or both have refused."""
    statuses = sorted(answered.status for answered in answers)
    if statuses == [200, 208]:
        assert answers[0].body | {"isExisting": None} == answers[1].body | {"isExisting": None}
        assert answers[0].body["pendingBalance"] >= 0
        return True
    # What the first has refused may be covered when the second decides.
    refused = [answered.body["code"] for answered in answers if answered.status == 400]
    assert set(refused) == {"InsufficientPoints"}
    return 200 in statuses


async def test_two_expiry_workers_remove_each_lapsed_membership_once(
    installation: Installation, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    stacks = await two_stacks(installation, tenant)
    client = stacks[0].client
    segment = await client.post("/api/v1/admin/segments", {"name": "members"})
    await make_rules(client, action={"type": "addToSegment", "segmentId": segment.body["segmentId"]})
    member_count = 3000
    for _ in range(member_count // 1000):
        assert (await post_batch(client, [action(new_id()) for _ in range(1000)])).status == 200

    async def have_joined() -> bool:
        return bool(await owner.fetchval("SELECT count(*) FROM segment_memberships") == member_count)

    async def have_lapsed() -> bool:
        return not await owner.fetchval("SELECT count(*) FROM segment_memberships")

    await until(have_joined)
    await owner.execute("UPDATE segment_memberships SET expiry_date_time = now()")
    await until(have_lapsed)
    assert await owner.fetchval("SELECT count(DISTINCT customer_id) FROM segment_lapses") == member_count
    removed = [await stack.segment_expiry.metric("tallymarks_memberships_lapsed") for stack in stacks]
    assert sum(removed) == member_count
