"""Customers: register, read, update, search; and their balance."""

from uuid import UUID

import asyncpg
import orjson
from pydantic import TypeAdapter

from tallymarks import ledger, limits
from tallymarks.customers import (
    Balance,
    Customer,
    CustomerChange,
    FoundCustomer,
    NewCustomer,
    change,
    fold,
    has_trigram,
    register,
    search_pieces,
    search_text,
)
from tallymarks.database import Connection, Record
from tallymarks.errors import (
    CustomerAlreadyExists,
    CustomerNotFound,
    CustomerNotFoundInUpdate,
    EmailAlreadyExists,
    InvalidRequest,
    SearchTooBroad,
)
from tallymarks.sql import customers as sql
from tallymarks.values import Model, Text
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing, Parts
from tallymarks_api.paged import PageQuery, containing, last_id, next_by_id

TAG = "Customers"


class CustomerPath(Model):
    """One customer."""

    customer_id: UUID


class CustomerSearch(PageQuery):
    """What to look for."""

    keyword: Text | None = None
    """Part of a name, the email address, a phone number or the external reference; case does not count."""


class CustomersPage(Model):
    """A page of customers, in the order of their ids."""

    customers: tuple[FoundCustomer, ...]
    offset_key: str | None
    """The key of the next page; null on the last."""


async def create_customer(call: Call[Nothing, Nothing, NewCustomer]) -> Answer:
    """Register a customer; one that an event has made before keeps points, memberships and anniversary."""
    return Answer(await register_customer(call.parts, call.tenant_id, call.body))


async def register_customer(parts: Parts, tenant_id: UUID, body: NewCustomer) -> Customer:
    """Write the registration.

    Raises:
        CustomerAlreadyExists: it was registered before.
        EmailAlreadyExists: another customer has the address.
    """
    customer_id = body.customer_id or parts.new_id()
    now = parts.now()
    customer = register(body, customer_id=customer_id, tenant_id=tenant_id, now=now)
    try:
        async with parts.database.transaction(tenant_id) as connection:
            await ledger.create_missing_customers(connection, tenant_id, [customer_id], now)
            created_at = await connection.fetchval(sql.REGISTER, *_columns(customer))
            if created_at is None:
                raise CustomerAlreadyExists.of("customerId", str(customer_id))
            return await _read(connection, tenant_id, customer_id)
    except asyncpg.UniqueViolationError as error:
        raise EmailAlreadyExists.of("emailAddress", body.email_address) from error


async def get_customer(call: Call[CustomerPath, Nothing, None]) -> Answer:
    """Answer one customer."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        return Answer(await _read(connection, call.tenant_id, call.path.customer_id))


async def update_customer(call: Call[CustomerPath, Nothing, CustomerChange]) -> Answer:
    """Change the fields that are given; null clears one."""
    _same("customerId", call.body.customer_id, call.path.customer_id)
    _same("tenantId", call.body.tenant_id, call.tenant_id)
    customer_id = call.path.customer_id
    try:
        async with call.parts.database.transaction(call.tenant_id) as connection:
            if await connection.fetchval(sql.LOCK_CUSTOMER, call.tenant_id, customer_id) is None:
                raise CustomerNotFoundInUpdate.of("customerId", str(customer_id))
            before = await _read(connection, call.tenant_id, customer_id)
            after = change(before, call.body, call.parts.now())
            await connection.execute(sql.UPDATE_CUSTOMER, *_columns(after))
            if after.is_account_locked != before.is_account_locked:
                await connection.execute(sql.UPDATE_ACCOUNT_LOCK, call.tenant_id, customer_id, after.is_account_locked)
            return Answer(after)
    except asyncpg.UniqueViolationError as error:
        raise EmailAlreadyExists.of("emailAddress", call.body.email_address) from error


async def search_customers(call: Call[Nothing, CustomerSearch, None]) -> Answer:
    """Answer a page of the customers that have the keyword."""
    query = call.query
    after = last_id(call.caller, "customers", query)
    try:
        async with call.parts.database.transaction(call.tenant_id) as connection:
            if query.keyword:
                rows = await _search(connection, call.tenant_id, after, query.rows_wanted, query.keyword)
            else:
                rows = await connection.fetch(sql.SELECT_PAGE, call.tenant_id, after, query.rows_wanted)
    except asyncpg.QueryCanceledError as error:
        raise SearchTooBroad.of("keyword", query.keyword) from error
    return Answer(
        CustomersPage(
            customers=tuple(FoundCustomer.model_validate(dict(row)) for row in rows[: query.limit]),
            offset_key=next_by_id(call.caller, "customers", query, rows, "customer_id"),
        )
    )


async def _search(connection: Connection, tenant_id: UUID, after: UUID, rows_wanted: int, keyword: str) -> list[Record]:
    """Find customers with the keyword: a common one among the next few in order, a rare one by an index."""
    folded = fold(keyword)
    pattern = containing(folded)
    found = await connection.fetch(sql.SEARCH_NEARBY, tenant_id, after, rows_wanted, pattern, limits.SEARCH_NEARBY_MAX)
    if len(found) < rows_wanted:
        await connection.execute(sql.ACT_AS_SEARCHER)
        page = (tenant_id, after, rows_wanted, pattern)
        if has_trigram(folded):
            found = await connection.fetch(sql.SEARCH_IDS_BY_TRIGRAMS, *page)
        else:
            found = await connection.fetch(sql.SEARCH_IDS_BY_PIECES, *page, search_pieces(folded))
        await connection.execute(sql.ACT_AS_SERVICE)
    rows: list[Record] = await connection.fetch(sql.SELECT_FOUND, tenant_id, [row["customer_id"] for row in found])
    return rows


async def get_balance(call: Call[CustomerPath, Nothing, None]) -> Answer:
    """Answer the customer's points."""
    customer_id = call.path.customer_id
    row = await call.parts.balances.read(call.tenant_id, customer_id)
    if row is None:
        raise CustomerNotFound.of("customerId", str(customer_id))
    return Answer(
        Balance(tenant_id=call.tenant_id, customer_id=customer_id, amount=row["balance"], changed_at=row["changed_at"])
    )


async def _read(connection: Connection, tenant_id: UUID, customer_id: UUID) -> Customer:
    row = await connection.fetchrow(sql.SELECT_CUSTOMER, tenant_id, customer_id)
    if row is None:
        raise CustomerNotFound.of("customerId", str(customer_id))
    fields = {**row, "is_account_locked": row["is_locked"], "attributes": orjson.loads(row["attributes"])}
    del fields["is_locked"]
    return Customer.model_validate(fields)


def _columns(customer: Customer) -> tuple[object, ...]:
    return (
        customer.tenant_id,
        customer.customer_id,
        customer.first_name,
        customer.last_name,
        customer.display_name,
        customer.email_address,
        fold(customer.email_address) if customer.email_address else None,
        customer.mobile_number,
        customer.optin_sms,
        customer.optin_email,
        customer.accept_terms,
        orjson.dumps([attribute.model_dump() for attribute in customer.attributes]).decode(),
        customer.date_of_birth,
        customer.contact_phone,
        customer.external_reference,
        customer.external_status,
        search_text(customer),
        customer.changed_at,
    )


def _same(name: str, given: UUID | None, expected: UUID) -> None:
    if given is not None and given != expected:
        raise InvalidRequest.of(name, str(given), f"{name} must be the one of the route and the credentials.")


ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/customers", TAG, "Create a customer", create_customer,
        answers={200: Customer}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(NewCustomer),
        refusals=(EmailAlreadyExists, CustomerAlreadyExists),
    ),
    Endpoint(
        "GET", "/api/v1/customers", TAG, "Search for customers", search_customers,
        answers={200: CustomersPage}, path_parameters=Nothing, query=CustomerSearch, refusals=(SearchTooBroad,),
    ),
    Endpoint(
        "GET", "/api/v1/customers/{customerId}", TAG, "Get a customer", get_customer,
        answers={200: Customer}, path_parameters=CustomerPath, query=Nothing, refusals=(CustomerNotFound,),
    ),
    Endpoint(
        "PATCH", "/api/v1/customers/{customerId}", TAG, "Update a customer", update_customer,
        answers={200: Customer}, path_parameters=CustomerPath, query=Nothing, body=TypeAdapter(CustomerChange),
        refusals=(EmailAlreadyExists, CustomerNotFoundInUpdate),
    ),
    Endpoint(
        "GET", "/api/v1/customers/{customerId}/balance", TAG, "Get a customer's points balance", get_balance,
        answers={200: Balance}, path_parameters=CustomerPath, query=Nothing, refusals=(CustomerNotFound,),
    ),
)  # fmt: skip
