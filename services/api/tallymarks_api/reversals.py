"""Reversals: what an order or a transaction gave is taken back at once, under the account lock, exactly once.

A reversal is no redemption: it corrects what the merchant gave, so it goes through on a locked account too. What takes
back gives nothing: its points events are recorded and no rule looks at them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import orjson
from pydantic import TypeAdapter

from tallymarks import ledger, limits
from tallymarks.database import Connection
from tallymarks.errors import (
    AlreadyReversed,
    AmountExceedsRest,
    BalanceOutOfRange,
    EventIdTaken,
    EventNotReversible,
    LimitReached,
    ReversedEventNotFound,
    Unavailable,
)
from tallymarks.events import AcceptedReversal, ReversalEvent
from tallymarks.messages import event_json, followed_event_json
from tallymarks.records import Recording, record
from tallymarks.rules.assessment import points_event, points_event_id
from tallymarks.rules.evaluate import in_range
from tallymarks.rules.facts import CustomerState
from tallymarks.rules.reversal import REVERSIBLE_TYPES, Given, Share, TakenBack, share_of, take_back, totals_after
from tallymarks.sql import events as events_sql
from tallymarks.sql import reversals as sql
from tallymarks.sql import tenancy
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing
from tallymarks_api.events import EXISTING_STATUS, TAG

ReversalCall = Call[Nothing, Nothing, ReversalEvent]


@dataclass(frozen=True, slots=True)
class Reversed:
    """The event that is reversed, and which part of it."""

    event_type: str
    share: Share


async def post_reversal(call: ReversalCall) -> Answer:
    """Take back what an order or a transaction gave: whole, or in the proportion of an amount to its value."""
    event = call.body
    if event.created_at is None:
        event = event.model_copy(update={"created_at": call.parts.now()})
    async with call.parts.database.transaction(call.tenant_id) as connection:
        accepted = await _reverse(connection, call, event)
    return Answer(accepted, EXISTING_STATUS if accepted.is_existing else 200)


async def _reverse(connection: Connection, call: ReversalCall, event: ReversalEvent) -> AcceptedReversal:
    """Decide under the account lock, which all that moves the customer's points waits for.

    Raises:
        ReversedEventNotFound, EventNotReversible, AlreadyReversed, AmountExceedsRest, LimitReached: nothing can be
            taken back so.
        BalanceOutOfRange: the balance would pass its bound.
        EventIdTaken: the eventId is another event's.
    """
    tenant_id = call.tenant_id
    accounts = await ledger.lock_accounts(connection, tenant_id, [event.customer_id])
    existing = await _existing(connection, tenant_id, event)
    if existing is not None:
        return existing
    account = accounts.get(event.customer_id)
    reversed_ = await _reversed(connection, tenant_id, event) if account else None
    if account is None or reversed_ is None:
        raise ReversedEventNotFound.of("reverses", str(event.reverses))
    taking = take_back(
        await _given(connection, tenant_id, event),
        reversed_.share,
        account.balance,
        may_go_below_zero=await connection.fetchval(tenancy.SELECT_TENANT_SETTINGS, tenant_id),
    )
    accepted = AcceptedReversal(
        event_id=event.event_id,
        customer_id=event.customer_id,
        tenant_id=tenant_id,
        is_existing=False,
        reverses=event.reverses,
        amount=reversed_.share.amount,
        points=taking.points,
        points_not_taken=taking.points_not_taken,
        balance=account.balance,
        pending_balance=in_range(account.balance + taking.points),
    )
    now = call.parts.now()
    await _record(connection, tenant_id, event, accepted, taking.taken_back, now)
    transactions = [ledger.taken_back(tenant_id, event, one, call.parts.new_id()) for one in taking.taken_back]
    totals = totals_after(account.totals, reversed_.event_type, reversed_.share, taking.taken_back)
    customer = CustomerState(
        event.customer_id, account.customer_created_at, accepted.pending_balance, memberships={}, totals=totals
    )
    await ledger.write_assessed(connection, tenant_id, transactions, [customer], now)
    return accepted


async def _existing(connection: Connection, tenant_id: UUID, event: ReversalEvent) -> AcceptedReversal | None:
    row = await connection.fetchrow(events_sql.SELECT_EVENT, tenant_id, event.event_id)
    if row is None:
        return None
    body = orjson.loads(row["body"])
    is_the_same = (
        row["event_type"] == event.event_type
        and row["customer_id"] == event.customer_id
        and body["reverses"] == str(event.reverses)
        and _amount_of(body) == event.amount
    )
    if not is_the_same:
        raise EventIdTaken.of("eventId", str(event.event_id))
    return AcceptedReversal.model_validate({**body["answered"], "isExisting": True})


def _amount_of(body: dict[str, str]) -> Decimal | None:
    return Decimal(body["amount"]) if "amount" in body else None


async def _reversed(connection: Connection, tenant_id: UUID, event: ReversalEvent) -> Reversed | None:
    """Look at the event that is to be reversed; None where the customer has none of this id."""
    row = await connection.fetchrow(sql.SELECT_REVERSED_EVENT, tenant_id, event.reverses)
    if row is None or row["customer_id"] != event.customer_id:
        return None
    if row["event_type"] not in REVERSIBLE_TYPES:
        raise EventNotReversible.of("reverses", str(event.reverses))
    rows = await connection.fetch(sql.SELECT_REVERSALS, tenant_id, event.reverses, limits.REVERSALS_PER_EVENT_MAX)
    earlier = [row["amount"] for row in rows]
    return Reversed(row["event_type"], share_of(event.reverses, Decimal(row["value"]), earlier, event.amount))


async def _given(connection: Connection, tenant_id: UUID, event: ReversalEvent) -> list[Given]:
    """Read what the event gave, and what the points events did that followed from it, as deep as any are assessed."""
    given: list[Given] = []
    event_ids = [event.reverses]
    for _ in range(limits.POINTS_DEPTH_MAX + 1):
        found = await connection.fetch(sql.SELECT_GIVEN, tenant_id, event_ids)
        # Another customer's only where a caller gave an event the id of one that follows.
        rows = [row for row in found if row["customer_id"] == event.customer_id]
        if not rows:
            break
        given.extend(
            Given(
                row["assessment_rule_id"],
                row["assessment_rule_version"],
                row["fulfilment_index"],
                row["description"],
                row["amount"],
            )
            for row in rows
        )
        event_ids = sorted(
            points_event_id(row["event_id"], row["assessment_rule_id"], row["fulfilment_index"]) for row in rows
        )
    return given


async def _record(
    connection: Connection,
    tenant_id: UUID,
    event: ReversalEvent,
    accepted: AcceptedReversal,
    taken_back: Sequence[TakenBack],
    now: datetime,
) -> None:
    """Record the reversal with what was answered, the points events that its transactions are, and its share."""
    answered = orjson.loads(accepted.model_dump_json())
    recordings: list[Recording] = [(event, orjson.dumps({**orjson.loads(event_json(event)), "answered": answered}))]
    for one in taken_back:
        followed = points_event(event, one.amount, one.given.rule_id, one.given.fulfilment_index)
        # As deep as those that no rule looks at.
        body = followed_event_json(
            followed, event.event_id, rule_id=one.given.rule_id, depth=limits.POINTS_DEPTH_MAX + 1
        )
        recordings.append((followed, body))
    if event.event_id not in await record(connection, tenant_id, recordings, now):
        raise EventIdTaken.of("eventId", str(event.event_id))
    await connection.execute(sql.INSERT_REVERSAL, tenant_id, event.reverses, event.event_id, accepted.amount, now)


ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/events/reversals", TAG, "Reverse an order or a transaction", post_reversal,
        answers={200: AcceptedReversal, EXISTING_STATUS: AcceptedReversal}, path_parameters=Nothing, query=Nothing,
        body=TypeAdapter(ReversalEvent),
        refusals=(ReversedEventNotFound, EventNotReversible, AmountExceedsRest, BalanceOutOfRange, AlreadyReversed,
                  LimitReached, EventIdTaken, Unavailable),
    ),
)  # fmt: skip
