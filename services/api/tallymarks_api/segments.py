"""A customer's segments: list, join, leave. A membership that has lapsed is not there, removed or not."""

from uuid import UUID

from pydantic import TypeAdapter

from tallymarks import ledger, memberships
from tallymarks.database import Connection
from tallymarks.errors import CustomerNotFound, MembershipNotFound, SegmentNotActive, SegmentNotFound
from tallymarks.rule_sets import segment_of
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.facts import CustomerState
from tallymarks.rules.fulfilments import join
from tallymarks.segments import Membership
from tallymarks.sql import customers as customers_sql
from tallymarks.sql import memberships as sql
from tallymarks.sql import rules as rules_sql
from tallymarks.values import Model
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing
from tallymarks_api.customers import CustomerPath
from tallymarks_api.paged import PageQuery, last_id, next_by_id

TAG = "Customers"


class MembershipPath(CustomerPath):
    """One membership of one customer."""

    segment_id: UUID


class JoinedSegment(Model):
    """The segment to join."""

    segment_id: UUID


class MembershipsPage(Model):
    """A page of the segments that the customer is a member of, in the order of their ids."""

    segments: tuple[Membership, ...]
    offset_key: str | None
    """The key of the next page; null on the last."""


async def list_memberships(call: Call[CustomerPath, PageQuery, None]) -> Answer:
    """Answer a page of the customer's current memberships."""
    customer_id, query = call.path.customer_id, call.query
    scope = f"segments of {customer_id}"
    after = last_id(call.caller, scope, query)
    async with call.parts.database.transaction(call.tenant_id) as connection:
        rows = await connection.fetch(
            sql.SELECT_PAGE, call.tenant_id, customer_id, after, query.rows_wanted, call.parts.now()
        )
        if not rows:
            await _require_customer(connection, call.tenant_id, customer_id)
    return Answer(
        MembershipsPage(
            segments=tuple(Membership.model_validate(dict(row)) for row in rows[: query.limit]),
            offset_key=next_by_id(call.caller, scope, query, rows, "segment_id"),
        )
    )


async def join_segment(call: Call[CustomerPath, Nothing, JoinedSegment]) -> Answer:
    """Make the customer a member; for one who is, the lapse moves forward where the segment gives a later one."""
    customer_id, segment_id, now = call.path.customer_id, call.body.segment_id, call.parts.now()
    async with call.parts.database.transaction(call.tenant_id) as connection:
        accounts = await ledger.lock_accounts(connection, call.tenant_id, [customer_id])
        if customer_id not in accounts:
            raise CustomerNotFound.of("customerId", str(customer_id))
        row = await connection.fetchrow(rules_sql.SELECT_SEGMENT, call.tenant_id, segment_id)
        if row is None:
            raise SegmentNotFound.of("segmentId", str(segment_id))
        current = await memberships.load(connection, call.tenant_id, [customer_id], now)
        account = accounts[customer_id]
        state = CustomerState(customer_id, account.customer_created_at, account.balance, current.get(customer_id, {}))
        effect = join(segment_of(row), state, now)
        if effect is None:
            raise SegmentNotActive.of("segmentId", str(segment_id))
        changes = memberships.Changes()
        changes.add(customer_id, None, [Effected(effect, None, 0)])
        topology = call.parts.broker.topology
        await memberships.write(connection, topology, call.tenant_id, changes, now=now, new_id=call.parts.new_id)
        (joined,) = await connection.fetch(sql.SELECT_ONE, call.tenant_id, customer_id, segment_id)
    call.parts.committed.set()
    return Answer(Membership.model_validate(dict(joined)))


async def leave_segment(call: Call[MembershipPath, Nothing, None]) -> Answer:
    """End the membership."""
    customer_id, segment_id = call.path.customer_id, call.path.segment_id
    async with call.parts.database.transaction(call.tenant_id) as connection:
        accounts = await ledger.lock_accounts(connection, call.tenant_id, [customer_id])
        if customer_id not in accounts:
            raise CustomerNotFound.of("customerId", str(customer_id))
        left = await memberships.leave(connection, call.tenant_id, [(customer_id, segment_id)], call.parts.now())
    if not left:
        raise MembershipNotFound.of("segmentId", str(segment_id))
    return Answer(Nothing())


async def _require_customer(connection: Connection, tenant_id: UUID, customer_id: UUID) -> None:
    if await connection.fetchval(customers_sql.SELECT_CUSTOMER_CREATED_AT, tenant_id, customer_id) is None:
        raise CustomerNotFound.of("customerId", str(customer_id))


ENDPOINTS = (
    Endpoint(
        "GET", "/api/v1/customers/{customerId}/segments", TAG, "Search for a customer's segments", list_memberships,
        answers={200: MembershipsPage}, path_parameters=CustomerPath, query=PageQuery, refusals=(CustomerNotFound,),
    ),
    Endpoint(
        "PUT", "/api/v1/customers/{customerId}/segments", TAG, "Add a customer to a segment", join_segment,
        answers={200: Membership}, path_parameters=CustomerPath, query=Nothing, body=TypeAdapter(JoinedSegment),
        refusals=(CustomerNotFound, SegmentNotFound, SegmentNotActive),
    ),
    Endpoint(
        "DELETE", "/api/v1/customers/{customerId}/segments/{segmentId}", TAG, "Delete a customer from a segment",
        leave_segment, answers={200: Nothing}, path_parameters=MembershipPath, query=Nothing,
        refusals=(CustomerNotFound, MembershipNotFound),
    ),
)  # fmt: skip
