"""Redemptions: decided and debited at once, under the account lock, by the same ledger as everything else.

The same path also registers a customer, since the page that the API follows prints "Create Customer" under it.
"""

from typing import Annotated
from uuid import UUID

import orjson
from pydantic import Field, TypeAdapter

from tallymarks import ledger, outbox
from tallymarks.customers import Customer, NewCustomer
from tallymarks.database import Connection
from tallymarks.errors import (
    AccountLocked,
    CustomerAlreadyExists,
    EmailAlreadyExists,
    EventIdTaken,
    InsufficientPoints,
    Unavailable,
)
from tallymarks.events import AcceptedRedemption, RedemptionEvent, created_at_of
from tallymarks.messages import event_json, event_messages
from tallymarks.sql import events as sql
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing
from tallymarks_api.customers import register_customer
from tallymarks_api.edge import validated
from tallymarks_api.events import EXISTING_STATUS, TAG

RedemptionCall = Call[Nothing, Nothing, RedemptionEvent | NewCustomer]
BODY: TypeAdapter[RedemptionEvent | NewCustomer] = TypeAdapter(
    RedemptionEvent | Annotated[NewCustomer, Field(json_schema_extra={"required": ["emailAddress"]})]
)


def read_redemption_or_customer(data: object) -> RedemptionEvent | NewCustomer:
    """Tell a customer (it has an emailAddress and no redemption) from a redemption."""
    is_customer = isinstance(data, dict) and "emailAddress" in data and "redemption" not in data
    return validated(NewCustomer, data) if is_customer else validated(RedemptionEvent, data)


async def post_redemption(call: RedemptionCall) -> Answer:
    """Debit the points, or register the customer."""
    if isinstance(call.body, NewCustomer):
        return Answer(await register_customer(call.parts, call.tenant_id, call.body))
    event = call.body
    if event.created_at is None:
        event = event.model_copy(update={"created_at": call.parts.now()})
    async with call.parts.database.transaction(call.tenant_id) as connection:
        accepted = await _redeem(connection, call, event)
    call.parts.committed.set()
    return Answer(accepted, EXISTING_STATUS if accepted.is_existing else 200)


async def _redeem(connection: Connection, call: RedemptionCall, event: RedemptionEvent) -> AcceptedRedemption:
    """Decide under the account lock, which the customer's other redemptions and events wait for.

    Raises:
        AccountLocked: the account takes no redemption.
        InsufficientPoints: the balance does not cover it.
        EventIdTaken: the eventId is another event's.
    """
    accounts = await ledger.lock_accounts(connection, call.tenant_id, [event.customer_id])
    existing = await _existing(connection, call.tenant_id, event)
    if existing is not None:
        return existing
    account = accounts.get(event.customer_id)
    balance = account.balance if account else 0
    require_redeemable(event, balance, is_locked=account is not None and account.is_locked)
    now = call.parts.now()
    accepted = AcceptedRedemption(
        event_id=event.event_id,
        customer_id=event.customer_id,
        tenant_id=call.tenant_id,
        is_existing=False,
        balance=balance,
        pending_balance=balance - event.redemption.points,
    )
    claimed = await connection.fetchval(
        sql.INSERT_REDEMPTION,
        call.tenant_id,
        event.event_id,
        event.customer_id,
        event.name_space,
        event.reference,
        created_at_of(event),
        now,
        _record(event, accepted),
    )
    if claimed is None:
        raise EventIdTaken.of("eventId", str(event.event_id))
    transaction = ledger.debit(call.tenant_id, event, call.parts.new_id())
    balances = {event.customer_id: accepted.pending_balance}
    await ledger.write(connection, call.tenant_id, [transaction], balances, now)
    messages = event_messages(call.parts.broker.topology, call.tenant_id, [event], call.parts.new_id, call.trace_parent)
    await outbox.put(connection, call.tenant_id, list(messages), now)
    return accepted


def require_redeemable(event: RedemptionEvent, balance: int, *, is_locked: bool) -> None:
    """Hold a redemption to the account that it is taken from.

    Raises:
        AccountLocked: the account takes no redemption.
        InsufficientPoints: the balance does not cover it.
    """
    if is_locked:
        raise AccountLocked.of("customerId", str(event.customer_id))
    if balance < event.redemption.points:
        raise InsufficientPoints.of("redemption.points", event.redemption.points, f"The balance is {balance} points.")


def _record(event: RedemptionEvent, accepted: AcceptedRedemption) -> str:
    """Give what is stored of a redemption: with what was answered, since a repetition is answered the same."""
    answered = {"balance": accepted.balance, "pendingBalance": accepted.pending_balance}
    return orjson.dumps({**orjson.loads(event_json(event)), **answered}).decode()


async def _existing(connection: Connection, tenant_id: UUID, event: RedemptionEvent) -> AcceptedRedemption | None:
    row = await connection.fetchrow(sql.SELECT_EVENT, tenant_id, event.event_id)
    if row is None:
        return None
    body = orjson.loads(row["body"])
    is_the_same = (
        row["event_type"] == event.event_type
        and row["customer_id"] == event.customer_id
        and body["redemption"]["points"] == event.redemption.points
    )
    if not is_the_same:
        raise EventIdTaken.of("eventId", str(event.event_id))
    return AcceptedRedemption(
        event_id=event.event_id,
        customer_id=event.customer_id,
        tenant_id=tenant_id,
        is_existing=True,
        balance=body["balance"],
        pending_balance=body["pendingBalance"],
    )


ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/events/redemptions", TAG, "Redeem points (or create a customer)", post_redemption,
        answers={200: AcceptedRedemption | Customer, EXISTING_STATUS: AcceptedRedemption},
        path_parameters=Nothing, query=Nothing, body=BODY, read=read_redemption_or_customer,
        refusals=(AccountLocked, InsufficientPoints, EventIdTaken, EmailAlreadyExists, CustomerAlreadyExists,
                  Unavailable),
    ),
)  # fmt: skip
