"""Searching events and points transactions: the same parameters, each and in every combination."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from tallymarks.database import Database
from tallymarks.events import AnyEvent, OrderEvent, PointsEvent
from tallymarks.rules.assessment import points_event, points_event_id
from tallymarks.service import new_id
from tallymarks.sql import events as events_sql
from tallymarks.values import format_instant
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import listed, pages, refused
from tests.integration.api.given import (
    EVENT_SEARCH,
    REDEMPTIONS,
    TRANSACTION_SEARCH,
    a_rule,
    earned,
    fresh_id,
    redemption,
)
from tests.parts import START, ApiClient, Clock, Tenant

ADA, BEN = UUID("aaaaaaaa-0000-4000-8000-000000000000"), UUID("bbbbbbbb-0000-4000-8000-000000000000")
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Search:
    """One of the two searches."""

    path: str
    rows: str
    row_id: str
    reference: str

    async def found(self, api: ApiClient, **query: object) -> list[dict[str, Any]]:
        """Everything that fits the query, newest first."""
        return await listed(api, self.path, self.rows, **query)

    async def events_found(self, api: ApiClient, **query: object) -> list[str]:
        """The ids of the events that fit, or whose transactions do."""
        return [row["eventId"] for row in await self.found(api, **query)]

    @property
    def finds_events(self) -> bool:
        """Whether it searches for events."""
        return self.path == EVENT_SEARCH


BOTH = [
    Search(EVENT_SEARCH, "events", "eventId", "reference"),
    Search(TRANSACTION_SEARCH, "customerTransactions", "transactionId", "externalReference"),
]


@pytest.fixture(params=BOTH, ids=["events", "transactions"])
def search(request: pytest.FixtureRequest) -> Search:
    search: Search = request.param
    return search


@dataclass
class History:
    """Posts events that each give points, so that both searches have something of each."""

    api: ApiClient
    assessor: Assessor
    tenant: Tenant
    rule_id: UUID
    """What gives three points for each order: each transaction of it is a points event too."""
    events: list[AnyEvent] = field(default_factory=list)

    async def happened(self, *events: AnyEvent) -> None:
        """Assess the events."""
        await self.assessor.assess(self.tenant.tenant_id, events)
        self.events.extend(events)

    def newest_first(self, search: Search, fits: Callable[[AnyEvent], bool] = lambda _: True) -> list[str]:
        """The ids of the events that fit, or whose transactions do, newest first."""
        followed = [points_event(event, 3, self.rule_id, 0) for event in self.events if event.event_type == "order"]
        looked_at = [*self.events, *followed] if search.finds_events else self.events
        fitting = sorted((event.created_at or START, event.event_id) for event in looked_at if fits(event))
        return [str(event_id) for _, event_id in reversed(fitting)]


@pytest.fixture
async def history(api: ApiClient, assessor: Assessor, tenant: Tenant) -> History:
    rule = await a_rule(api, "order", {"type": "points", "amount": 3}, name="Three an order")
    return History(api, assessor, tenant, UUID(rule["ruleId"]))


def an_order(customer_id: UUID, at: datetime, name_space: str | None = None, reference: str | None = None) -> AnyEvent:
    return OrderEvent.model_validate(
        {
            "eventId": new_id(),
            "customerId": customer_id,
            "createdAt": at,
            "order": {"total": "1"},
            "nameSpace": name_space,
            "reference": reference,
        }
    )


def some_points(customer_id: UUID, at: datetime, name_space: str | None = None) -> AnyEvent:
    return PointsEvent.model_validate(
        {
            "eventId": new_id(),
            "customerId": customer_id,
            "createdAt": at,
            "points": {"quantity": 5},
            "nameSpace": name_space,
        }
    )


async def test_a_found_event_has_the_fields_of_the_page(history: History, integration: ApiClient) -> None:
    await history.happened(an_order(ADA, START, "Shop.Checkout", "PO-1"))
    (event,) = history.events
    fields = {
        "eventId": str(event.event_id),
        "tenantId": str(history.tenant.tenant_id),
        "customerId": str(ADA),
        "createdAt": "2026-03-14T09:26:53.589Z",
        "eventType": "order",
        "nameSpace": "Shop.Checkout",
        "reference": "PO-1",
    }
    assert await listed(integration, EVENT_SEARCH, "events", eventType="order") == [fields]
    # The points that it gave are an event too, with the fields of what it follows from.
    (followed,) = await listed(integration, EVENT_SEARCH, "events", eventType="points")
    assert followed == {
        **fields,
        "eventId": str(points_event_id(event.event_id, history.rule_id, 0)),
        "eventType": "points",
    }


async def test_a_found_transaction_has_the_fields_of_the_page(
    history: History, api: ApiClient, integration: ApiClient, clock: Clock
) -> None:
    clock.advance(hours=1)
    await history.happened(an_order(ADA, START, "Shop.Checkout", "PO-1"))
    (event,), (rule,) = history.events, await listed(api, "/api/v1/admin/rules", "rules")
    (found,) = await listed(integration, TRANSACTION_SEARCH, "customerTransactions")
    assert UUID(found.pop("transactionId")).version == 7
    check_sum = found.pop("checkSum")
    assert len(check_sum) == 64
    assert set(check_sum) <= set("0123456789abcdef")
    assert found == {
        "customerId": str(ADA),
        "tenantId": str(history.tenant.tenant_id),
        "eventId": str(event.event_id),
        "assessmentRuleId": rule["ruleId"],
        "assessmentRuleVersion": 1,
        "createdAt": "2026-03-14T09:26:53.589Z",
        "nameSpace": "Shop.Checkout",
        "description": "Three an order",
        "amount": 3,
        "externalReference": "PO-1",
    }


async def test_a_redemption_is_a_transaction_of_no_rule(api: ApiClient, assessor: Assessor, tenant: Tenant) -> None:
    await earned(assessor, tenant, ADA, 10)
    event = redemption(ADA, 4, nameSpace="Shop.Voucher", reference="V-1")
    event["redemption"]["description"] = "A voucher"
    assert (await api.post(REDEMPTIONS, event)).status == 200
    (found,) = await listed(api, TRANSACTION_SEARCH, "customerTransactions", eventType="redemption")
    assert (found["amount"], found["assessmentRuleId"], found["description"]) == (-4, None, "A voucher")
    assert (found["eventId"], found["nameSpace"], found["externalReference"]) == (
        event["eventId"],
        "Shop.Voucher",
        "V-1",
    )
    assert await listed(api, EVENT_SEARCH, "events", eventId=event["eventId"], eventType="redemption")


async def test_no_two_transactions_have_one_check_sum(history: History, api: ApiClient) -> None:
    await a_rule(api, "order", {"type": "points", "amount": 3}, {"type": "points", "amount": 3}, name="Three an order")
    await history.happened(*(an_order(ADA, START) for _ in range(5)))
    check_sums = [row["checkSum"] for row in await listed(api, TRANSACTION_SEARCH, "customerTransactions")]
    assert len(check_sums) == len(set(check_sums)) == 15


async def test_every_combination_of_parameters_finds_what_fits_all_of_them(history: History, search: Search) -> None:
    instants = [START + timedelta(days=day) for day in range(3)]
    for customer_id, at, name_space in product((ADA, BEN), instants, ("Shop.Web", None)):
        await history.happened(an_order(customer_id, at, name_space, "PO-7"), some_points(customer_id, at, name_space))
    wanted = history.events[len(history.events) // 2]
    filters: dict[str, tuple[object, Callable[[AnyEvent], bool]]] = {
        "customerId": (wanted.customer_id, lambda event: event.customer_id == wanted.customer_id),
        "eventId": (wanted.event_id, lambda event: event.event_id == wanted.event_id),
        "eventType": ("order", lambda event: event.event_type == "order"),
        "keyword": ("shop", lambda event: event.name_space == "Shop.Web"),
        "fromAt": (format_instant(instants[1]), lambda event: (event.created_at or START) >= instants[1]),
        "toAt": (format_instant(instants[1]), lambda event: (event.created_at or START) <= instants[1]),
    }
    for chosen in product((False, True), repeat=len(filters)):
        used = [name for name, is_used in zip(filters, chosen, strict=True) if is_used]
        expected = history.newest_first(search, lambda event, used=used: all(filters[name][1](event) for name in used))  # type: ignore[misc]
        found = await search.events_found(history.api, **{name: filters[name][0] for name in used})
        assert sorted(found) == sorted(expected), used
        if search.finds_events:
            assert found == expected, used


async def test_both_bounds_of_time_are_included_to_the_millisecond(history: History, search: Search) -> None:
    await history.happened(an_order(ADA, START))
    found = history.newest_first(search)
    for bounds, expected in (
        ({"fromAt": START}, found),
        ({"fromAt": START + MILLISECOND}, []),
        ({"toAt": START}, found),
        ({"toAt": START - MILLISECOND}, []),
        ({"fromAt": START, "toAt": START}, found),
        ({"fromAt": START + MILLISECOND, "toAt": START - MILLISECOND}, []),
    ):
        query = {name: format_instant(at) for name, at in bounds.items()}
        assert await search.events_found(history.api, **query) == expected, query
    # The same instant, as another place writes it.
    assert await search.events_found(history.api, fromAt="2026-03-14T11:56:53.589+02:30") == found


async def test_each_event_type_can_be_asked_for(history: History, database: Database, search: Search) -> None:
    await history.happened(an_order(ADA, START), some_points(ADA, START))
    kinds = ["action", "order", "transaction", "redemption", "points", "error", "anniversary", "reversal"]
    for kind in kinds:
        of_kind = history.newest_first(search, lambda event, kind=kind: event.event_type == kind)  # type: ignore[misc]
        assert await search.events_found(history.api, eventType=kind) == of_kind
    made = [new_id() for _ in kinds]
    async with database.transaction(history.tenant.tenant_id) as connection:
        rows = [(event_id, BEN, kind, None, None, START, "{}") for event_id, kind in zip(made, kinds, strict=True)]
        await connection.fetch(events_sql.INSERT_EVENTS, history.tenant.tenant_id, rows, START)
    for kind, event_id in zip(kinds, made, strict=True):
        found = await BOTH[0].events_found(history.api, eventType=kind, customerId=BEN)
        assert found == [str(event_id)]


async def test_a_keyword_is_part_of_the_name_space_or_the_reference(history: History, search: Search) -> None:
    names = [("Shop.Checkout", "PO_1%"), ("shop.visit", None), (None, "checkout\\7"), (None, None)]
    await history.happened(*(an_order(ADA, START, name_space, reference) for name_space, reference in names))
    for keyword in ("shop", "CHECKOUT", "po_1", "_", "%", "\\", "o", "Shop.Checkout", "nothing", "Shop.CheckoutPO_1%"):

        def has_it(event: AnyEvent, part: str = keyword.lower()) -> bool:
            return any(part in (text or "").lower() for text in (event.name_space, event.reference))

        expected = history.newest_first(search, has_it)
        assert sorted(await search.events_found(history.api, keyword=keyword)) == sorted(expected), keyword
    rows = await search.found(history.api, keyword="PO_1%")
    assert {(row["nameSpace"], row[search.reference]) for row in rows} == {names[0]}


async def test_the_newest_come_first_and_pages_hold_each_once_also_at_one_instant(
    history: History, search: Search
) -> None:
    times: Sequence[datetime] = [START, START + MILLISECOND, START + timedelta(days=1)]
    await history.happened(*(an_order(ADA, at) for at in (times[1], times[0], times[2]) for _ in range(3)))
    whole = await search.found(history.api)
    order = [(row["createdAt"], row[search.row_id]) for row in whole]
    assert order == sorted(order, reverse=True)
    assert sorted(row["eventId"] for row in whole) == sorted(history.newest_first(search))
    queries: list[dict[str, object]] = [{}, {"customerId": ADA}, {"toAt": format_instant(times[2])}]
    for limit, query in product((1, 2, 4, 8, 9, 10, 100), queries):
        read = [page async for page in pages(history.api, search.path, search.rows, limit=limit, **query)]
        assert [row for page in read for row in page] == whole
        assert [len(page) for page in read[:-1]] == [limit] * (len(read) - 1)
        assert len(read[-1]) > 0


async def test_what_happens_meanwhile_neither_repeats_nor_skips_any(history: History, search: Search) -> None:
    await history.happened(*(an_order(ADA, START + timedelta(hours=hour)) for hour in range(4)))
    expected = sorted(history.newest_first(search))
    first = (await history.api.get(search.path, limit=2)).body
    await history.happened(an_order(ADA, START + timedelta(days=1)), an_order(BEN, START + timedelta(hours=3)))
    rest = await search.found(history.api, offsetKey=first["offsetKey"])
    assert sorted(row["eventId"] for row in first[search.rows] + rest) == expected


async def test_a_page_holds_50_unless_told_and_100_at_the_most(history: History, search: Search) -> None:
    await history.happened(*(some_points(ADA, START) for _ in range(101)))
    assert [len(page) async for page in pages(history.api, search.path, search.rows)] == [50, 50, 1]
    assert [len(page) async for page in pages(history.api, search.path, search.rows, limit=100)] == [100, 1]


async def test_an_unknown_customer_or_event_has_no_history(history: History, search: Search) -> None:
    await history.happened(an_order(ADA, START))
    assert await search.found(history.api, customerId=fresh_id()) == []
    assert await search.found(history.api, eventId=fresh_id()) == []


async def test_an_offset_key_of_another_search_is_refused(history: History, search: Search) -> None:
    await history.happened(an_order(ADA, START, "a"), an_order(ADA, START, "a"))
    offset_key = (await history.api.get(search.path, limit=1, customerId=ADA)).body["offsetKey"]
    own = await history.api.get(search.path, limit=100, customerId=ADA, offsetKey=offset_key)
    assert (own.status, len(own.body[search.rows])) == (200, len(history.newest_first(search)) - 1)
    others: list[dict[str, object]] = [
        {},
        {"customerId": BEN},
        {"customerId": ADA, "eventType": "order"},
        {"customerId": ADA, "keyword": "a"},
        {"customerId": ADA, "fromAt": "2020-01-01T00:00:00Z"},
        {"customerId": ADA, "toAt": "2030-01-01T00:00:00Z"},
        {"customerId": ADA, "eventId": history.events[0].event_id},
    ]
    for query in others:
        answered = await history.api.get(search.path, offsetKey=offset_key, **query)
        refused(answered, 400, "InvalidRequest", "offsetKey", offset_key)
    (elsewhere,) = [one for one in BOTH if one != search]
    answered = await history.api.get(elsewhere.path, customerId=ADA, offsetKey=offset_key)
    refused(answered, 400, "InvalidRequest", "offsetKey", offset_key)


async def test_an_offset_key_of_another_tenant_is_refused(history: History, other: ApiClient, search: Search) -> None:
    await history.happened(an_order(ADA, START), an_order(ADA, START))
    offset_key = (await history.api.get(search.path, limit=1)).body["offsetKey"]
    refused(await other.get(search.path, offsetKey=offset_key), 400, "InvalidRequest", "offsetKey", offset_key)
