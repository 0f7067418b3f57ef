"""A change of a rule or a segment counts from the next batch on; only an active rule does anything."""

from collections.abc import Iterable

import asyncpg
import pytest

from tallymarks.broker import Broker, Topology
from tallymarks.database import Database
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_set import RuleSet
from tallymarks.segments import Segment
from tallymarks.service import new_id
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.parts import (
    RULES,
    SEGMENTS,
    action,
    add_to,
    balances_of,
    count,
    give,
    in_name_space,
    make_rule,
    make_segment,
    memberships_of,
    points,
    publish,
    seeded_ids,
)
from tests.parts import ApiClient, Clock, Tenant, until


async def test_a_replaced_rule_counts_from_the_next_batch_on_in_every_assessor(
    database: Database, topology: Topology, clock: Clock, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient
) -> None:
    ids = seeded_ids(1)
    customer_id = ids()
    assessors = [Assessor(database, topology, now=clock, new_id=new_id) for _ in range(3)]
    rule_id = await make_rule(api, "action", give(1))
    expected = 0
    for amount in (1, 10, 100):
        rule = {"name": "action", "eventType": "action", "status": "active", "fulfilments": [give(amount)]}
        assert (await api.put(f"{RULES}/{rule_id}", rule)).status == 200
        for assessor in assessors:
            await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
            expected += amount
            assert await balances_of(owner, tenant.tenant_id) == {customer_id: expected}


@pytest.mark.usefixtures("assessing")
async def test_a_running_assessor_follows_each_change(
    broker: Broker, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient
) -> None:
    ids = seeded_ids(2)
    customer_id = ids()
    rule_id = await make_rule(api, "action", give(1))
    for number in range(1, 6):
        amount = 10**number
        rule = {"name": "action", "eventType": "action", "status": "active", "fulfilments": [give(amount)]}
        assert (await api.put(f"{RULES}/{rule_id}", rule)).status == 200
        event = action(ids(), customer_id)
        await publish(broker, tenant.tenant_id, [event])

        async def is_assessed(number: int = number) -> bool:
            return await count(owner, "transactions", tenant.tenant_id) == number

        await until(is_assessed)
        assert await owner.fetchval("SELECT amount FROM transactions WHERE event_id = $1", event.event_id) == amount


@pytest.mark.parametrize("before", ["configure", "test"])
@pytest.mark.parametrize("after", ["inactive", "archived"])
async def test_a_rule_that_is_not_active_does_nothing(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, before: str, after: str
) -> None:
    ids = seeded_ids(3)
    customer_id = ids()
    rule_id = await make_rule(api, "action", give(5), status=before)
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
    assert await count(owner, "transactions", tenant.tenant_id) == 0
    rule = {"name": "action", "eventType": "action", "status": "active", "fulfilments": [give(5)]}
    assert (await api.put(f"{RULES}/{rule_id}", rule)).status == 200
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 5}
    assert (await api.put(f"{RULES}/{rule_id}", {**rule, "status": after})).status == 200
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id)])
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 5}


async def test_a_new_rule_and_one_whose_criteria_changed_count_from_the_next_batch_on(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient
) -> None:
    ids = seeded_ids(4)
    customer_id = ids()
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id, "Visit")])  # under no rule at all
    rule_id = await make_rule(api, "action", give(5), criteria=[in_name_space("Visit")])
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id, "Visit")])
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 5}
    rule = {
        "name": "action", "eventType": "action", "status": "active", "fulfilments": [give(7)],
        "criteria": [in_name_space("Survey")],
    }  # fmt: skip
    assert (await api.put(f"{RULES}/{rule_id}", rule)).status == 200
    await assessor.assess(tenant.tenant_id, [action(ids(), customer_id, "Visit"), action(ids(), customer_id, "Survey")])
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 12}


async def test_a_rules_range_of_dates_is_of_the_events_own_time(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient, clock: Clock
) -> None:
    ids = seeded_ids(5)
    customer_id, first = ids(), clock()
    clock.advance(days=1)
    await make_rule(api, "action", give(1), fromAt=first.isoformat(), toAt=clock().isoformat())
    for at in (first, clock()):  # the first instant is in, the last is out
        await assessor.assess(tenant.tenant_id, [action(ids(), customer_id, at=at)])
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 1}


async def test_a_segment_that_takes_no_more_members_counts_from_the_next_batch_on(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, api: ApiClient
) -> None:
    ids = seeded_ids(6)
    before, after = ids(), ids()
    segment_id = await make_segment(api, "gold")
    await make_rule(api, "action", add_to(segment_id))
    await assessor.assess(tenant.tenant_id, [action(ids(), before)])
    segment = {"name": "gold", "status": "inactive", "expiry": {"mode": "none"}}
    assert (await api.put(f"{SEGMENTS}/{segment_id}", segment)).status == 200
    await assessor.assess(tenant.tenant_id, [action(ids(), after)])
    assert set(await memberships_of(owner, tenant.tenant_id)) == {(before, segment_id)}


async def test_rules_are_read_once_while_they_do_not_change(
    assessor: Assessor, tenant: Tenant, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    of = RuleSet.of

    def counted(revision: int, rules: Iterable[Rule], segments: Iterable[Segment]) -> RuleSet:
        reads.append(revision)
        return of(revision, rules, segments)

    monkeypatch.setattr(RuleSet, "of", counted)
    ids = seeded_ids(7)
    for _ in range(2):
        await make_rule(api, "action", give(1))
        for _ in range(3):
            await assessor.assess(tenant.tenant_id, [action(ids(), ids())])
    assert len(reads) == 2


async def test_a_tenants_rules_are_for_its_own_events(
    assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, api: ApiClient
) -> None:
    ids = seeded_ids(8)
    customer_id = ids()
    await make_rule(api, "action", give(3))
    for one in (other_tenant, tenant, other_tenant):
        await assessor.assess(one.tenant_id, [action(ids(), customer_id), points(ids(), customer_id, 1)])
    assert await balances_of(owner, tenant.tenant_id) == {customer_id: 4}
    assert await balances_of(owner, other_tenant.tenant_id) == {customer_id: 2}
