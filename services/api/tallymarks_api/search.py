"""Searching a customer's events and points transactions, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import asyncpg
from pydantic import Field

from tallymarks import limits
from tallymarks.database import Record
from tallymarks.errors import SearchTooBroad
from tallymarks.events import RecordedEvent, RecordedType
from tallymarks.sql import events as events_sql
from tallymarks.sql import ledger as ledger_sql
from tallymarks.values import Instant, Model, Text
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing
from tallymarks_api.paged import PageQuery, containing, last_instant, next_by_instant

TAG = "Customers"


class EventSearch(PageQuery):
    """What to look for; all that is given must fit."""

    customer_id: UUID | None = None
    event_id: UUID | None = None
    event_type: RecordedType | None = None
    keyword: Text | None = None
    """Part of the nameSpace or the reference; case does not count."""
    from_at: Instant | None = None
    """The first instant of the event's createdAt."""
    to_at: Instant | None = None
    """The last instant of the event's createdAt."""


class EventsPage(Model):
    """A page of events."""

    events: tuple[RecordedEvent, ...]
    offset_key: str | None
    """The key of the next page; null on the last."""


class CustomerTransaction(Model):
    """A points transaction."""

    transaction_id: UUID
    customer_id: UUID
    tenant_id: UUID
    event_id: UUID
    assessment_rule_id: UUID | None
    """Null for what the event itself does: a redemption, or an adjustment by hand."""
    assessment_rule_version: int | None
    """The version of the rule that was effective at the event's createdAt."""
    created_at: Instant
    """When the event happened."""
    check_sum: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 over the content and what makes it unique; no two transactions of a tenant have the same."""
    name_space: str | None
    description: str | None
    amount: int
    external_reference: str | None


class TransactionsPage(Model):
    """A page of points transactions."""

    customer_transactions: tuple[CustomerTransaction, ...]
    offset_key: str | None
    """The key of the next page; null on the last."""


@dataclass(frozen=True, slots=True)
class Statements:
    """The three statements of a search: each lets an index find what it is about."""

    of_event: str
    of_customer: str
    of_all: str
    id_column: str


EVENTS = Statements(events_sql.SEARCH_OF_EVENT, events_sql.SEARCH_OF_CUSTOMER, events_sql.SEARCH_ALL, "event_id")
TRANSACTIONS = Statements(
    ledger_sql.SEARCH_OF_EVENT, ledger_sql.SEARCH_OF_CUSTOMER, ledger_sql.SEARCH_ALL, "transaction_id"
)


async def search_events(call: Call[Nothing, EventSearch, None]) -> Answer:
    """Answer a page of events."""
    rows, offset_key = await _search(call, "events", EVENTS)
    return Answer(
        EventsPage(events=tuple(RecordedEvent.model_validate(dict(row)) for row in rows), offset_key=offset_key)
    )


async def search_transactions(call: Call[Nothing, EventSearch, None]) -> Answer:
    """Answer a page of points transactions."""
    rows, offset_key = await _search(call, "transactions", TRANSACTIONS)
    return Answer(
        TransactionsPage(
            customer_transactions=tuple(
                CustomerTransaction.model_validate({**row, "check_sum": row["check_sum"].hex()}) for row in rows
            ),
            offset_key=offset_key,
        )
    )


async def _search(
    call: Call[Nothing, EventSearch, None], scope: str, statements: Statements
) -> tuple[Sequence[Record], str | None]:
    query = call.query
    before_at, before_id = last_instant(call.caller, scope, query, query.to_at)
    filters = (
        query.event_type,
        containing(query.keyword) if query.keyword else None,
        query.from_at or limits.INSTANT_MIN,
        before_at,
        before_id,
        query.rows_wanted,
    )
    try:
        async with call.parts.database.transaction(call.tenant_id) as connection:
            if query.event_id is not None:
                rows = await connection.fetch(
                    statements.of_event, call.tenant_id, query.event_id, *filters, query.customer_id
                )
            else:
                statement = statements.of_all if query.customer_id is None else statements.of_customer
                rows = await connection.fetch(statement, call.tenant_id, query.customer_id, *filters)
    except asyncpg.QueryCanceledError as error:
        raise SearchTooBroad from error
    return rows[: query.limit], next_by_instant(call.caller, scope, query, rows, statements.id_column)


ENDPOINTS = (
    Endpoint(
        "GET", "/api/v1/customers/events", TAG, "Search for a customer's events", search_events,
        answers={200: EventsPage}, path_parameters=Nothing, query=EventSearch, refusals=(SearchTooBroad,),
    ),
    Endpoint(
        "GET", "/api/v1/customers/transactions", TAG, "Search for a customer's transactions", search_transactions,
        answers={200: TransactionsPage}, path_parameters=Nothing, query=EventSearch, refusals=(SearchTooBroad,),
    ),
)  # fmt: skip
