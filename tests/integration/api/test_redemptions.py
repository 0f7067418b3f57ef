"""Redemptions: decided at once, never below zero, never from a locked account, whatever happens at the same time."""

import asyncio

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.database import Database
from tallymarks.events import OrderEvent
from tallymarks.sql import ledger as ledger_sql
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, listed, queued, refused, waits_for_a_lock
from tests.integration.api.given import (
    ACTIONS,
    CUSTOMERS,
    EVENT_SEARCH,
    REDEMPTIONS,
    TRANSACTION_SEARCH,
    a_rule,
    action,
    earned,
    fresh_id,
    order,
    redemption,
)
from tests.parts import START, Answered, ApiClient, Clock, Tenant, until


async def balance_of(api: ApiClient, customer_id: object) -> int:
    amount: int = (await api.get(f"{CUSTOMERS}/{customer_id}/balance")).body["amount"]
    return amount


async def lock(api: ApiClient, customer_id: object, *, is_locked: bool = True) -> Answered:
    return await api.patch(f"{CUSTOMERS}/{customer_id}", {"isAccountLocked": is_locked})


async def assert_balances_are_sums(database: Database, tenant: Tenant) -> None:
    async with database.transaction(tenant.tenant_id) as connection:
        assert await connection.fetch(ledger_sql.SELECT_DIFFERING_BALANCES, tenant.tenant_id, 10) == []


@pytest.fixture
async def customer_id(assessor: Assessor, tenant: Tenant) -> str:
    """A customer with 100 points."""
    customer_id = fresh_id()
    await earned(assessor, tenant, customer_id, 100)
    return customer_id


async def test_a_redemption_debits_the_account_at_once(
    integration: ApiClient, tenant: Tenant, clock: Clock, customer_id: str
) -> None:
    clock.advance(minutes=5)
    event = redemption(customer_id, 30, nameSpace="Shop.Voucher", reference="V-1")
    answered = await integration.post(REDEMPTIONS, event)
    assert (answered.status, answered.body) == (
        200,
        {
            "eventId": event["eventId"],
            "customerId": customer_id,
            "tenantId": str(tenant.tenant_id),
            "isExisting": False,
            "balance": 100,
            "pendingBalance": 70,
        },
    )
    balance = (await integration.get(f"{CUSTOMERS}/{customer_id}/balance")).body
    assert (balance["amount"], balance["changedAt"]) == (70, "2026-03-14T09:31:53.589Z")
    (found,) = await listed(integration, EVENT_SEARCH, "events", eventType="redemption")
    assert (found["eventId"], found["createdAt"]) == (event["eventId"], "2026-03-14T09:31:53.589Z")


async def test_the_whole_balance_may_be_redeemed(api: ApiClient, customer_id: str) -> None:
    assert (await api.post(REDEMPTIONS, redemption(customer_id, 100))).body["pendingBalance"] == 0
    assert await balance_of(api, customer_id) == 0


async def test_a_repeated_redemption_answers_what_the_first_one_did(api: ApiClient, customer_id: str) -> None:
    event = redemption(customer_id, 60)
    first = await api.post(REDEMPTIONS, event)
    assert (await api.post(REDEMPTIONS, redemption(customer_id, 40))).status == 200
    await lock(api, customer_id)
    again = await api.post(REDEMPTIONS, event)
    assert (again.status, again.body) == (208, {**first.body, "isExisting": True})
    assert await balance_of(api, customer_id) == 0


async def test_the_same_redemption_sent_many_times_at_once_debits_once(
    api: ApiClient, database: Database, tenant: Tenant, customer_id: str
) -> None:
    event = redemption(customer_id, 40)
    answers = await all_at_once(*(api.post(REDEMPTIONS, event) for _ in range(20)))
    assert sorted(answered.status for answered in answers) == [200] + [208] * 19
    assert {(answered.body["balance"], answered.body["pendingBalance"]) for answered in answers} == {(100, 60)}
    assert await balance_of(api, customer_id) == 60
    await assert_balances_are_sums(database, tenant)


async def test_an_event_id_of_something_else_is_refused_and_leaves_nothing(
    api: ApiClient, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection, customer_id: str
) -> None:
    taken, stranger = redemption(customer_id, 10), fresh_id()
    assert (await api.post(REDEMPTIONS, taken)).status == 200
    await earned(assessor, tenant, stranger, 100)
    an_order = OrderEvent.model_validate({**order(customer_id), "createdAt": START})
    await assessor.assess(tenant.tenant_id, [an_order])
    before = await contents(owner)
    others = [
        {**taken, "redemption": {"points": 11}},
        {**taken, "customerId": stranger},
        {**redemption(customer_id, 10), "eventId": str(an_order.event_id)},
    ]
    for event in others:
        answered = await api.post(REDEMPTIONS, event)
        refused(answered, 409, "EventIdTaken", "eventId", event["eventId"])
    assert await contents(owner) == before


async def test_a_redemption_of_the_same_id_for_two_customers_at_once_is_one_of_them(
    api: ApiClient, assessor: Assessor, tenant: Tenant, customer_id: str
) -> None:
    stranger, event_id = fresh_id(), fresh_id()
    await earned(assessor, tenant, stranger, 100)
    events = [{**redemption(each, 10), "eventId": event_id} for each in (customer_id, stranger)] * 5
    answers = await all_at_once(*(api.post(REDEMPTIONS, event) for event in events))
    assert sorted(answered.status for answered in answers) == [200] + [208] * 4 + [409] * 5
    assert sorted([await balance_of(api, each) for each in (customer_id, stranger)]) == [90, 100]


async def test_an_event_with_the_id_of_a_redemption_is_a_duplicate(
    api: ApiClient, customer_id: str, clock: Clock
) -> None:
    event = redemption(customer_id, 10)
    await api.post(REDEMPTIONS, event)
    clock.advance(milliseconds=1)
    answered = await api.post(ACTIONS, {**action(customer_id), "eventId": event["eventId"]})
    assert (answered.status, answered.body["isExisting"]) == (208, True)


async def test_points_that_are_not_there_are_refused_and_leave_nothing(
    api: ApiClient, owner: asyncpg.Connection, customer_id: str
) -> None:
    before = await contents(owner)
    answered = await api.post(REDEMPTIONS, redemption(customer_id, 101))
    refused(answered, 400, "InsufficientPoints", "redemption.points", "101")
    assert await contents(owner) == before


async def test_an_unknown_customer_has_no_points_and_is_not_created(api: ApiClient, owner: asyncpg.Connection) -> None:
    before = await contents(owner)
    refused(await api.post(REDEMPTIONS, redemption(fresh_id(), 1)), 400, "InsufficientPoints", "redemption.points", "1")
    assert await contents(owner) == before


async def test_an_account_below_zero_takes_no_redemption(api: ApiClient, assessor: Assessor, tenant: Tenant) -> None:
    customer_id = fresh_id()
    await earned(assessor, tenant, customer_id, -5)
    refused(await api.post(REDEMPTIONS, redemption(customer_id, 1)), 400, "InsufficientPoints")
    assert await balance_of(api, customer_id) == -5


async def test_a_locked_account_takes_no_redemption_until_it_is_unlocked(
    api: ApiClient, owner: asyncpg.Connection, customer_id: str
) -> None:
    event = redemption(customer_id, 10)
    assert (await lock(api, customer_id)).body["isAccountLocked"] is True
    before = await contents(owner)
    refused(await api.post(REDEMPTIONS, event), 400, "AccountLocked", "customerId", customer_id)
    assert await contents(owner) == before
    await lock(api, customer_id, is_locked=False)
    assert (await api.post(REDEMPTIONS, event)).status == 200


async def test_a_refused_redemption_may_be_sent_again_when_the_points_are_there(
    api: ApiClient, assessor: Assessor, tenant: Tenant, customer_id: str
) -> None:
    event = redemption(customer_id, 150)
    refused(await api.post(REDEMPTIONS, event), 400, "InsufficientPoints")
    await earned(assessor, tenant, customer_id, 50)
    assert (await api.post(REDEMPTIONS, event)).status == 200


@pytest.mark.usefixtures("assessing")
async def test_a_redemption_is_assessed_afterwards_once(api: ApiClient, customer_id: str) -> None:
    await a_rule(api, "redemption", {"type": "points", "amount": 5}, name="Thanks")
    event = redemption(customer_id, 50)
    for _ in range(2):
        await api.post(REDEMPTIONS, event)

    async def is_assessed() -> bool:
        return len(await listed(api, TRANSACTION_SEARCH, "customerTransactions", eventId=event["eventId"])) == 2

    await until(is_assessed)
    assert await balance_of(api, customer_id) == 55


async def test_a_redemption_waits_in_the_outbox_for_the_broker(
    api: ApiClient, broker: Broker, owner: asyncpg.Connection, customer_id: str
) -> None:
    assert (await api.post(REDEMPTIONS, redemption(customer_id, 10))).status == 200
    assert (await owner.fetchval("SELECT count(*) FROM outbox"), await queued(broker)) == (1, 0)


@pytest.mark.parametrize(("points_each", "succeeding"), [(3, 33), (100, 1), (2, 50), (101, 0)])
async def test_of_50_redemptions_at_once_as_many_succeed_as_the_balance_covers(
    api: ApiClient, database: Database, tenant: Tenant, customer_id: str, points_each: int, succeeding: int
) -> None:
    events = [redemption(customer_id, points_each) for _ in range(50)]
    answers = await all_at_once(*(api.post(REDEMPTIONS, event) for event in events))
    accepted = [answered.body for answered in answers if answered.status == 200]
    assert len(accepted) == succeeding
    assert all(answered.body["code"] == "InsufficientPoints" for answered in answers if answered.status != 200)
    left = [100 - points_each * (number + 1) for number in range(succeeding)]
    assert sorted((body["pendingBalance"] for body in accepted), reverse=True) == left
    assert await balance_of(api, customer_id) == 100 - points_each * succeeding
    await assert_balances_are_sums(database, tenant)


async def test_redemptions_and_assessed_events_at_once_lose_nothing(
    api: ApiClient, assessor: Assessor, database: Database, tenant: Tenant, customer_id: str
) -> None:
    earning = [earned(assessor, tenant, customer_id, 7) for _ in range(15)]
    redeeming = [api.post(REDEMPTIONS, redemption(customer_id, 11)) for _ in range(15)]
    done = await asyncio.gather(*earning, *redeeming)
    succeeded = [answered for answered in done if answered is not None and answered.status == 200]
    assert await balance_of(api, customer_id) == 100 + 15 * 7 - 11 * len(succeeded)
    await assert_balances_are_sums(database, tenant)


async def test_a_redemption_that_waited_for_the_account_sees_that_it_was_locked(
    api: ApiClient, owner: asyncpg.Connection, customer_id: str
) -> None:
    async with owner.transaction():
        await owner.execute("UPDATE accounts SET is_locked = true")
        redeeming = asyncio.create_task(api.post(REDEMPTIONS, redemption(customer_id, 10)))
        await until(lambda: waits_for_a_lock(owner))
    refused(await redeeming, 400, "AccountLocked", "customerId", customer_id)


async def test_locking_an_account_is_answered_after_what_moves_its_points_is_done(
    api: ApiClient, owner: asyncpg.Connection, customer_id: str
) -> None:
    async with owner.transaction():
        await owner.execute("SELECT FROM accounts FOR UPDATE")
        locking = asyncio.create_task(lock(api, customer_id))
        await until(lambda: waits_for_a_lock(owner))
        assert not locking.done()
    assert (await locking).body["isAccountLocked"] is True


async def test_no_redemption_started_after_the_lock_was_answered_succeeds(
    api: ApiClient, database: Database, tenant: Tenant, customer_id: str
) -> None:
    is_locked = asyncio.Event()
    succeeded_before = 0

    async def redeem_until_locked() -> None:
        nonlocal succeeded_before
        while not is_locked.is_set():
            answered = await api.post(REDEMPTIONS, redemption(customer_id, 1))
            succeeded_before += answered.status == 200
        refused(await api.post(REDEMPTIONS, redemption(customer_id, 1)), 400, "AccountLocked")

    async def lock_after_some() -> None:
        async def have_succeeded() -> bool:
            return succeeded_before >= 5

        await until(have_succeeded)
        assert (await lock(api, customer_id)).status == 200
        is_locked.set()

    await asyncio.gather(lock_after_some(), *(redeem_until_locked() for _ in range(8)))
    assert await balance_of(api, customer_id) == 100 - succeeded_before
    await assert_balances_are_sums(database, tenant)
