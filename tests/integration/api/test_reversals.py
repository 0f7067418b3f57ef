"""Reversals: what an order or a transaction gave is taken back, exactly once, whatever happens at the same time."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.database import Database
from tallymarks.events import OrderEvent, PointsEvent, TransactionEvent
from tallymarks.ledger import lock_accounts
from tallymarks.rules.assessment import points_event_id
from tallymarks.rules.facts import Totals
from tallymarks.sql import ledger as ledger_sql
from tallymarks.verification import altered_transactions
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import all_at_once, contents, listed, queued, refused
from tests.integration.api.given import (
    CUSTOMERS,
    EVENT_SEARCH,
    EVENTS,
    REDEMPTIONS,
    REVERSALS,
    SETTINGS,
    TRANSACTION_SEARCH,
    Json,
    a_rule,
    a_segment,
    earned,
    fresh_id,
    order,
    points,
    redemption,
    reversal,
    transaction,
)
from tests.parts import START, Answered, ApiClient, Clock, Tenant

CUSTOMER = "6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f0"


class Shop:
    """One customer's orders and transactions, assessed already, and looks at what became of them."""

    def __init__(self, api: ApiClient, assessor: Assessor, database: Database, tenant: Tenant) -> None:
        """Take the parts."""
        self.api, self._assessor, self._database, self._tenant = api, assessor, database, tenant

    async def sells(self, total: object = "100", customer_id: str = CUSTOMER, **fields: object) -> str:
        """Assess an order; gives its id."""
        event = OrderEvent.model_validate({**order(customer_id, total, **fields), "createdAt": START})
        await self._assessor.assess(self._tenant.tenant_id, [event])
        return str(event.event_id)

    async def is_paid(self, amount: object = "100") -> str:
        """Assess a transaction; gives its id."""
        event = TransactionEvent.model_validate({**transaction(CUSTOMER, amount), "createdAt": START})
        await self._assessor.assess(self._tenant.tenant_id, [event])
        return str(event.event_id)

    async def reverses(self, event_id: str, amount: object = None, **fields: object) -> Answered:
        """Post a reversal, and check what must hold after each."""
        answered = await self.api.post(REVERSALS, reversal(CUSTOMER, event_id, amount, **fields))
        await self.assert_sound()
        return answered

    async def assert_sound(self) -> None:
        """Check that balances are sums, and that no transaction disagrees with its check sum."""
        async with self._database.transaction(self._tenant.tenant_id) as connection:
            assert await connection.fetch(ledger_sql.SELECT_DIFFERING_BALANCES, self._tenant.tenant_id, 10) == []
        assert [row async for row in altered_transactions(self._database, self._tenant.tenant_id)] == []

    async def balance(self) -> int:
        """The customer's points."""
        amount: int = (await self.api.get(f"{CUSTOMERS}/{CUSTOMER}/balance")).body["amount"]
        return amount

    async def totals(self) -> Totals:
        """The customer's totals."""
        async with self._database.transaction(self._tenant.tenant_id) as connection:
            accounts = await lock_accounts(connection, self._tenant.tenant_id, [UUID(CUSTOMER)])
        return accounts[UUID(CUSTOMER)].totals

    async def ledger(self, event_id: object = None) -> list[Json]:
        """The customer's transactions, or those of an event, in the order of their amounts."""
        query = {"customerId": CUSTOMER} if event_id is None else {"eventId": event_id}
        rows = await listed(self.api, TRANSACTION_SEARCH, "customerTransactions", **query)
        return sorted(rows, key=lambda row: int(row["amount"]))


@pytest.fixture
def shop(api: ApiClient, assessor: Assessor, database: Database, tenant: Tenant) -> Shop:
    return Shop(api, assessor, database, tenant)


def give(amount: int) -> Json:
    return {"type": "points", "amount": amount}


def amounts_of(rows: Iterable[Json]) -> list[int]:
    return [row["amount"] for row in rows]


def counted(totals: Totals, event_type: str) -> tuple[int, int]:
    """The number of events of a type, and the sum of their values."""
    return totals.count(event_type), int(totals.value(event_type))


def points_of(totals: Totals) -> tuple[int, int, int]:
    return *counted(totals, "points"), totals.points_earned


async def lock(api: ApiClient) -> None:
    assert (await api.patch(f"{CUSTOMERS}/{CUSTOMER}", {"isAccountLocked": True})).status == 200


async def never_below_zero(api: ApiClient) -> None:
    assert (await api.put(SETTINGS, {"reversalsMayGoBelowZero": False})).status == 200


# --- whole ------------------------------------------------------------------------------------------------------------


async def test_a_reversal_takes_back_what_the_order_gave_at_once(
    shop: Shop, integration: ApiClient, tenant: Tenant, clock: Clock
) -> None:
    rule = await a_rule(shop.api, "order", give(5), {"type": "pointsPerUnit", "rate": 2}, name="Double")
    order_id = await shop.sells()
    clock.advance(minutes=5)
    event = reversal(CUSTOMER, order_id, nameSpace="Shop.Return", reference="R-1")
    answered = await integration.post(REVERSALS, event)
    assert (answered.status, answered.body) == (
        200,
        {
            "eventId": event["eventId"],
            "customerId": CUSTOMER,
            "tenantId": str(tenant.tenant_id),
            "isExisting": False,
            "reverses": order_id,
            "amount": "100",
            "points": -205,
            "pointsNotTaken": 0,
            "balance": 205,
            "pendingBalance": 0,
        },
    )
    await shop.assert_sound()
    balance = (await integration.get(f"{CUSTOMERS}/{CUSTOMER}/balance")).body
    assert (balance["amount"], balance["changedAt"]) == (0, "2026-03-14T09:31:53.589Z")
    (found,) = await listed(integration, EVENT_SEARCH, "events", eventType="reversal")
    assert (found["eventId"], found["createdAt"]) == (event["eventId"], "2026-03-14T09:31:53.589Z")
    rows = await shop.ledger(event["eventId"])
    assert amounts_of(rows) == [-200, -5]
    for row in rows:
        assert (row["assessmentRuleId"], row["description"]) == (rule["ruleId"], "Double")
        assert (row["nameSpace"], row["externalReference"]) == ("Shop.Return", "R-1")
        assert row["createdAt"] == "2026-03-14T09:31:53.589Z"


async def test_its_transactions_tell_the_rule_the_version_and_the_fulfilment_that_gave(
    shop: Shop, owner: asyncpg.Connection
) -> None:
    await a_rule(shop.api, "order", give(5), give(-2), give(9))
    order_id = await shop.sells()
    answered = await shop.reverses(order_id)
    columns = "assessment_rule_id, assessment_rule_version, fulfilment_index"
    given, taken = [
        await owner.fetch(
            f"SELECT {columns}, amount, event_type FROM transactions WHERE event_id = $1 ORDER BY 3", event_id
        )
        for event_id in (order_id, answered.body["eventId"])
    ]
    assert [tuple(row)[:3] for row in taken] == [tuple(row)[:3] for row in given]
    assert [(row["amount"], row["event_type"]) for row in taken] == [
        (-5, "reversal"),
        (2, "reversal"),
        (-9, "reversal"),
    ]


async def test_a_transaction_is_reversed_likewise(shop: Shop) -> None:
    await a_rule(shop.api, "transaction", {"type": "pointsPerUnit", "rate": "0.5"})
    paid = await shop.is_paid("99.99")
    answered = await shop.reverses(paid)
    assert (answered.body["amount"], answered.body["points"], await shop.balance()) == ("99.99", -49, 0)
    totals = await shop.totals()
    assert counted(totals, "transaction") == (0, 0)


async def test_what_gave_nothing_is_reversed_in_the_totals_alone(shop: Shop) -> None:
    order_id = await shop.sells()
    answered = await shop.reverses(order_id)
    assert (answered.status, answered.body["points"], answered.body["amount"]) == (200, 0, "100")
    assert await shop.ledger() == []
    assert (await shop.totals()).count("order") == 0
    refused(await shop.reverses(order_id), 409, "AlreadyReversed")


@pytest.mark.parametrize("total", ["0", "-50"])
async def test_what_has_no_positive_value_is_reversed_as_a_whole(shop: Shop, total: str) -> None:
    await a_rule(shop.api, "order", give(5))
    order_id = await shop.sells(total)
    refused(await shop.reverses(order_id, "1"), 400, "AmountExceedsRest", "amount", "1")
    answered = await shop.reverses(order_id)
    assert (answered.body["amount"], answered.body["points"]) == (total, -5)
    assert (await shop.totals()).value("order") == 0
    refused(await shop.reverses(order_id), 409, "AlreadyReversed")


async def test_a_reversal_is_a_correction_and_goes_through_on_a_locked_account(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(5))
    order_id = await shop.sells()
    await lock(shop.api)
    assert (await shop.reverses(order_id)).status == 200
    assert await shop.balance() == 0


async def test_what_was_given_before_fulfilments_were_told_apart_is_taken_back_too(
    shop: Shop, owner: asyncpg.Connection
) -> None:
    await a_rule(shop.api, "order", give(5), give(7))
    order_id = await shop.sells()
    await owner.execute("UPDATE transactions SET fulfilment_index = NULL, assessment_rule_version = NULL")
    answered = await shop.reverses(order_id)
    assert (answered.body["points"], amounts_of(await shop.ledger(answered.body["eventId"]))) == (-12, [-12])


# --- its points events ------------------------------------------------------------------------------------------------


async def test_what_points_rules_gave_for_the_points_is_taken_back_as_deep_as_any_were_assessed(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(100))
    await a_rule(shop.api, "points", give(10))
    order_id = await shop.sells()
    # The order's, and one for each of the points events that are assessed.
    assert amounts_of(await shop.ledger()) == [10] * limits.POINTS_DEPTH_MAX + [100]
    answered = await shop.reverses(order_id)
    assert (answered.body["points"], answered.body["pendingBalance"]) == (-130, 0)
    assert amounts_of(await shop.ledger(answered.body["eventId"])) == [-100, -30]


async def test_its_points_events_are_recorded_and_give_nothing(shop: Shop, owner: asyncpg.Connection) -> None:
    rule = await a_rule(shop.api, "order", give(100))
    order_id = await shop.sells()
    await a_rule(shop.api, "points", give(10))
    await a_rule(shop.api, "points", give(-10))
    answered = await shop.reverses(order_id, nameSpace="Shop.Return", campaign="Spring")
    assert (await shop.balance(), len(await shop.ledger())) == (0, 2)
    event_id = points_event_id(UUID(answered.body["eventId"]), UUID(rule["ruleId"]), 0)
    row = await owner.fetchrow("SELECT * FROM events WHERE event_id = $1", event_id)
    assert row is not None
    assert (row["event_type"], row["name_space"], str(row["customer_id"])) == ("points", "Shop.Return", CUSTOMER)
    assert row["assessed_at"] is not None
    found = await listed(shop.api, EVENT_SEARCH, "events", eventType="points")
    assert {event["nameSpace"] for event in found} == {None, "Shop.Return"}
    assert '"campaign": "Spring"' in row["body"]
    assert f'"sourceEventId": "{answered.body["eventId"]}"' in row["body"]
    assert '"quantity": -100' in row["body"]


async def test_nothing_is_sent_to_be_assessed(shop: Shop, broker: Broker, owner: asyncpg.Connection) -> None:
    await a_rule(shop.api, "order", give(100))
    await shop.reverses(await shop.sells())
    assert (await owner.fetchval("SELECT count(*) FROM outbox"), await queued(broker)) == (0, 0)


async def test_what_was_given_for_other_events_stays(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(5))
    await a_rule(shop.api, "points", give(1))
    first, second = await shop.sells(), await shop.sells()
    each = 5 + limits.POINTS_DEPTH_MAX
    assert (await shop.reverses(first)).body["points"] == -each
    assert await shop.balance() == each
    assert (await shop.reverses(second)).body["points"] == -each


# --- totals -----------------------------------------------------------------------------------------------------------


async def test_totals_fall_by_what_was_taken_back_and_count_its_points_events(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(50), give(-20))
    await shop.sells("30")
    order_id = await shop.sells("100")
    totals = await shop.totals()
    assert counted(totals, "order") == (2, 130)
    assert points_of(totals) == (4, 60, 100)
    await shop.reverses(order_id, "50")
    totals = await shop.totals()
    assert (counted(totals, "order"), int(totals.spend)) == ((2, 80), 80)
    assert points_of(totals) == (6, 45, 75)
    await shop.reverses(order_id)
    totals = await shop.totals()
    assert (counted(totals, "order"), int(totals.spend)) == ((1, 30), 30)
    assert points_of(totals) == (8, 30, 50)


async def test_a_lifetime_threshold_looks_at_the_reduced_totals(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(500), criteria=[{"type": "lifetimeEventThreshold", "value": 150}])
    first = await shop.sells("100")
    crossing = await shop.sells("60")
    assert amounts_of(await shop.ledger()) == [500]
    assert (await shop.reverses(crossing)).body["points"] == -500
    assert (await shop.reverses(first, "90")).body["points"] == 0
    # 10 are left: 139 more do not reach it, one more does, and it is crossed once.
    await shop.sells("139")
    assert await shop.balance() == 0
    await shop.sells("1")
    assert await shop.balance() == 500
    await shop.sells("1000")
    assert await shop.balance() == 500


async def test_segments_and_uses_of_limited_rules_stay(shop: Shop) -> None:
    segment_id = (await a_segment(shop.api))["segmentId"]
    await a_rule(
        shop.api, "order", give(5), {"type": "addToSegment", "segmentId": segment_id}, limits={"perCustomer": 1}
    )
    await shop.reverses(await shop.sells())
    memberships = await listed(shop.api, f"{CUSTOMERS}/{CUSTOMER}/segments", "segments")
    assert [row["segmentId"] for row in memberships] == [segment_id]
    await shop.sells()
    assert await shop.balance() == 0


# --- in parts ---------------------------------------------------------------------------------------------------------


async def test_parts_take_back_the_whole_in_the_end_and_then_nothing(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(10), give(-1))
    order_id = await shop.sells("3")
    answers = [await shop.reverses(order_id, "1") for _ in range(3)]
    assert [answered.body["points"] for answered in answers] == [-3, -3, -4 + 1]
    assert [answered.body["pendingBalance"] for answered in answers] == [6, 3, 0]
    refused(await shop.reverses(order_id, "0.0001"), 409, "AlreadyReversed", "reverses", order_id)
    refused(await shop.reverses(order_id), 409, "AlreadyReversed", "reverses", order_id)
    assert await shop.balance() == 0


async def test_no_amount_is_all_that_is_left(shop: Shop) -> None:
    await a_rule(shop.api, "order", {"type": "pointsPerUnit", "rate": 1})
    order_id = await shop.sells("99.95")
    assert (await shop.reverses(order_id, 33.33)).body["points"] == -33
    answered = await shop.reverses(order_id)
    assert (answered.body["amount"], answered.body["points"], answered.body["pendingBalance"]) == ("66.62", -66, 0)


async def test_more_than_is_left_is_refused_and_leaves_nothing(shop: Shop, owner: asyncpg.Connection) -> None:
    order_id = await shop.sells("100")
    refused(await shop.reverses(order_id, "100.0001"), 400, "AmountExceedsRest", "amount", "100.0001")
    await shop.reverses(order_id, "60")
    before = await contents(owner)
    answered = await shop.reverses(order_id, "40.0001")
    refused(answered, 400, "AmountExceedsRest", "amount", "40.0001")
    assert answered.body["detail"] == "40 is left to reverse."
    assert await contents(owner) == before


@pytest.mark.parametrize("amount", [0, "0", "0.0000", -1, "-0.5", "1.00001", "x", True, 10**12])
async def test_an_amount_must_be_one(shop: Shop, owner: asyncpg.Connection, amount: object) -> None:
    order_id = await shop.sells("100")
    before = await contents(owner)
    refused(await shop.reverses(order_id, amount), 400, "InvalidRequest", "amount")
    assert await contents(owner) == before


# --- again ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [None, "40", 40.5])
async def test_a_repeated_reversal_answers_what_the_first_one_did(shop: Shop, amount: object) -> None:
    await a_rule(shop.api, "order", give(10))
    order_id = await shop.sells("100")
    event = reversal(CUSTOMER, order_id, amount)
    first = await shop.api.post(REVERSALS, event)
    await shop.sells("7")
    again = await shop.api.post(REVERSALS, event)
    assert (again.status, again.body) == (208, {**first.body, "isExisting": True})
    assert await shop.balance() == first.body["pendingBalance"] + 10
    await shop.assert_sound()


async def test_an_event_id_of_something_else_is_refused_and_leaves_nothing(
    shop: Shop, owner: asyncpg.Connection
) -> None:
    first, second, stranger = await shop.sells(), await shop.sells(), fresh_id()
    of_stranger = await shop.sells(customer_id=stranger)
    taken = reversal(CUSTOMER, first, "10")
    assert (await shop.api.post(REVERSALS, taken)).status == 200
    before = await contents(owner)
    others = [
        {**taken, "amount": "11"},
        {name: value for name, value in taken.items() if name != "amount"},
        {**taken, "reverses": second},
        {**taken, "customerId": stranger, "reverses": of_stranger},
        {**taken, "eventId": first},
        {**taken, "eventId": second},
    ]
    for event in others:
        refused(await shop.api.post(REVERSALS, event), 409, "EventIdTaken", "eventId", event["eventId"])
    assert await contents(owner) == before


async def test_a_redemption_of_the_same_id_is_refused(shop: Shop, assessor: Assessor, tenant: Tenant) -> None:
    await earned(assessor, tenant, CUSTOMER, 100)
    event = reversal(CUSTOMER, await shop.sells())
    await shop.api.post(REVERSALS, event)
    answered = await shop.api.post(REDEMPTIONS, {**redemption(CUSTOMER, 10), "eventId": event["eventId"]})
    refused(answered, 409, "EventIdTaken", "eventId", event["eventId"])


# --- what can be reversed ---------------------------------------------------------------------------------------------


async def test_an_event_that_the_customer_does_not_have_is_not_found_whoever_has_it(
    shop: Shop, other: ApiClient, assessor: Assessor, tenant: Tenant, other_tenant: Tenant, owner: asyncpg.Connection
) -> None:
    order_id, of_stranger, unknown = await shop.sells(), await shop.sells(customer_id=fresh_id()), fresh_id()
    await earned(assessor, other_tenant, CUSTOMER, 5)
    before = await contents(owner)
    told = []
    for client, customer_id, event_id in (
        (shop.api, CUSTOMER, unknown),
        (shop.api, CUSTOMER, of_stranger),
        (shop.api, fresh_id(), order_id),
        (other, CUSTOMER, order_id),
        (other, fresh_id(), order_id),
    ):
        answered = await client.post(REVERSALS, reversal(customer_id, event_id))
        refused(answered, 400, "ReversedEventNotFound", "reverses", event_id)
        told.append(str(answered.body).replace(event_id, "…"))
    assert len(set(told)) == 1
    assert await contents(owner) == before


async def test_only_orders_and_transactions_can_be_reversed(
    shop: Shop, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    rule = await a_rule(shop.api, "order", give(50))
    order_id = await shop.sells()
    redeemed = redemption(CUSTOMER, 10)
    assert (await shop.api.post(REDEMPTIONS, redeemed)).status == 200
    reversed_ = await shop.reverses(order_id, "1")
    derived = points_event_id(UUID(order_id), UUID(rule["ruleId"]), 0)
    before = await contents(owner)
    for event_id in (redeemed["eventId"], reversed_.body["eventId"], str(derived)):
        refused(await shop.reverses(event_id), 400, "EventNotReversible", "reverses", event_id)
    assert await contents(owner) == before


async def test_a_reversal_is_no_event_of_a_batch(shop: Shop) -> None:
    event = {**reversal(CUSTOMER, await shop.sells()), "eventType": "reversal"}
    answered = await shop.api.post(EVENTS, {"events": [event]})
    (result,) = answered.body["results"]
    assert (result["status"], result["error"]["errors"][0]["param"]) == (400, "events.0.eventType")


# --- below zero -------------------------------------------------------------------------------------------------------


async def test_a_reversal_may_take_a_balance_below_zero_and_redemptions_then_refuse(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(100))
    order_id = await shop.sells()
    assert (await shop.api.post(REDEMPTIONS, redemption(CUSTOMER, 70))).status == 200
    answered = await shop.reverses(order_id)
    assert (answered.body["points"], answered.body["pendingBalance"]) == (-100, -70)
    refused(await shop.api.post(REDEMPTIONS, redemption(CUSTOMER, 1)), 400, "InsufficientPoints")
    assert await shop.balance() == -70


async def test_a_tenant_may_let_no_reversal_take_a_balance_below_zero(shop: Shop) -> None:
    await never_below_zero(shop.api)
    await a_rule(shop.api, "order", give(60), give(40))
    order_id = await shop.sells()
    assert (await shop.api.post(REDEMPTIONS, redemption(CUSTOMER, 70))).status == 200
    event = reversal(CUSTOMER, order_id)
    answered = await shop.api.post(REVERSALS, event)
    assert (answered.body["points"], answered.body["pointsNotTaken"]) == (-30, 70)
    assert (answered.body["balance"], answered.body["pendingBalance"], await shop.balance()) == (30, 0, 0)
    assert amounts_of(await shop.ledger(event["eventId"])) == [-30]
    assert points_of(await shop.totals())[2] == 70
    refused(await shop.reverses(order_id), 409, "AlreadyReversed")
    assert (await shop.api.post(REVERSALS, event)).body == {**answered.body, "isExisting": True}
    await shop.assert_sound()


async def test_what_was_not_taken_is_not_taken_later(shop: Shop) -> None:
    await never_below_zero(shop.api)
    await a_rule(shop.api, "order", give(100))
    order_id = await shop.sells()
    assert (await shop.api.post(REDEMPTIONS, redemption(CUSTOMER, 100))).status == 200
    assert (await shop.reverses(order_id, "50")).body["pointsNotTaken"] == 50
    await shop.sells()
    answered = await shop.reverses(order_id)
    assert (answered.body["points"], answered.body["pointsNotTaken"], await shop.balance()) == (-50, 0, 50)


async def test_a_balance_that_is_below_zero_already_is_left_alone(
    shop: Shop, assessor: Assessor, tenant: Tenant
) -> None:
    await never_below_zero(shop.api)
    await a_rule(shop.api, "order", give(100))
    order_id = await shop.sells()
    await earned(assessor, tenant, CUSTOMER, -130)
    answered = await shop.reverses(order_id)
    assert (answered.body["points"], answered.body["pointsNotTaken"], await shop.balance()) == (0, 100, -30)


async def test_a_balance_keeps_to_its_bound(shop: Shop, assessor: Assessor, tenant: Tenant) -> None:
    await a_rule(shop.api, "order", give(-5))
    order_id = await shop.sells()
    for quantity in (limits.POINTS_MAX, 1):
        await earned(assessor, tenant, CUSTOMER, quantity)
    refused(await shop.reverses(order_id), 400, "BalanceOutOfRange")
    assert await shop.balance() == limits.POINTS_MAX - 4


async def test_settings_are_each_tenants_own(api: ApiClient, other: ApiClient) -> None:
    yes, no = {"reversalsMayGoBelowZero": True}, {"reversalsMayGoBelowZero": False}
    assert (await api.get(SETTINGS)).body == yes
    assert (await api.put(SETTINGS, no)).body == no
    assert ((await api.get(SETTINGS)).body, (await other.get(SETTINGS)).body) == (no, yes)
    wrong: list[tuple[Json, str]] = [
        ({}, "reversalsMayGoBelowZero"),
        ({"reversalsMayGoBelowZero": "no"}, "reversalsMayGoBelowZero"),
        ({**yes, "surprise": 1}, "surprise"),
    ]
    for body, param in wrong:
        refused(await api.put(SETTINGS, body), 400, "InvalidRequest", param)
    assert (await api.get(SETTINGS)).body == no


# --- at the same time -------------------------------------------------------------------------------------------------


async def test_of_20_reversals_of_one_order_at_once_one_takes_it_back(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(100))
    order_id = await shop.sells()
    answers = await all_at_once(*(shop.api.post(REVERSALS, reversal(CUSTOMER, order_id)) for _ in range(20)))
    assert sorted(answered.status for answered in answers) == [200] + [409] * 19
    assert {answered.body["code"] for answered in answers if answered.status == 409} == {"AlreadyReversed"}
    assert (await shop.balance(), amounts_of(await shop.ledger())) == (0, [-100, 100])
    await shop.assert_sound()


async def test_the_same_reversal_sent_20_times_at_once_takes_back_once(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(100))
    event = reversal(CUSTOMER, await shop.sells(), "70")
    answers = await all_at_once(*(shop.api.post(REVERSALS, event) for _ in range(20)))
    assert sorted(answered.status for answered in answers) == [200] + [208] * 19
    assert {(answered.body["balance"], answered.body["pendingBalance"]) for answered in answers} == {(100, 30)}
    assert await shop.balance() == 30
    await shop.assert_sound()


async def test_parts_at_once_take_back_no_more_than_the_whole(shop: Shop) -> None:
    await a_rule(shop.api, "order", give(100))
    order_id = await shop.sells("10")
    answers = await all_at_once(*(shop.api.post(REVERSALS, reversal(CUSTOMER, order_id, "0.7")) for _ in range(20)))
    assert sorted(answered.status for answered in answers) == [200] * 14 + [400] * 6
    assert {answered.body["code"] for answered in answers if answered.status == 400} == {"AmountExceedsRest"}
    assert await shop.balance() == 2
    assert (await shop.reverses(order_id)).body["points"] == -2


async def test_reversals_redemptions_and_orders_at_once_lose_nothing(shop: Shop, owner: asyncpg.Connection) -> None:
    await never_below_zero(shop.api)
    await a_rule(shop.api, "order", give(20))
    orders = [await shop.sells() for _ in range(10)]

    async def reverse(order_id: str) -> int:
        """Reverse half and all that is left at once; gives what was taken of the 20 points, or left to the customer."""
        halves = [reversal(CUSTOMER, order_id, "50"), reversal(CUSTOMER, order_id)]
        answers = await all_at_once(*(shop.api.post(REVERSALS, event) for event in halves))
        assert [answered.status for answered in answers] in ([200, 200], [409, 200])
        done = [answered.body for answered in answers if answered.status == 200]
        return sum(body["pointsNotTaken"] - body["points"] for body in done)

    reversing = [reverse(order_id) for order_id in orders]
    redeeming = [shop.api.post(REDEMPTIONS, redemption(CUSTOMER, 15)) for _ in orders]
    selling = [shop.sells() for _ in orders]
    done = await asyncio.gather(*reversing, *redeeming, *selling)
    assert done[: len(orders)] == [20] * len(orders)
    await shop.assert_sound()
    assert counted(await shop.totals(), "order") == (10, 1000)
    running = await owner.fetch(
        "SELECT sum(amount) OVER (ORDER BY recorded_at, transaction_id) AS balance FROM transactions"
    )
    assert min(row["balance"] for row in running) >= 0


async def test_a_batch_with_the_id_of_a_reversal_at_the_same_time_is_one_of_them(
    shop: Shop, assessor: Assessor, tenant: Tenant, owner: asyncpg.Connection
) -> None:
    await a_rule(shop.api, "order", give(100))
    order_id = await shop.sells()
    event = reversal(CUSTOMER, order_id)
    taken = points(CUSTOMER, 7, eventId=event["eventId"])
    posted = PointsEvent.model_validate({**taken, "createdAt": START})
    answered, _ = await asyncio.gather(
        shop.api.post(REVERSALS, event), assessor.assess(tenant.tenant_id, [posted]), return_exceptions=True
    )
    assert isinstance(answered, Answered)
    assert answered.status in (200, 409, 503)
    assert await owner.fetchval("SELECT count(*) FROM events WHERE event_id = $1", event["eventId"]) == 1
    await shop.assert_sound()
