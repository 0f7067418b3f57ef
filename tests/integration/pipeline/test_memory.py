"""Criteria with memory at their edges, through the pipeline: with all events in one batch, and with each in its own."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from tallymarks.events import AnyEvent, EventMessage
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.generated import debited
from tests.integration.pipeline.parts import give, make_rule, order, points, seeded_ids
from tests.parts import START, ApiClient, Tenant

MILLISECOND, DAY = timedelta(milliseconds=1), timedelta(days=1)
CUSTOMER = UUID("aaaaaaaa-0000-4000-8000-000000000000")
ids = seeded_ids(77)

Matched = Callable[..., Awaitable[list[int]]]
"""Gives the places of the events that a rule with these criteria matches, counted from 1."""


def event(event_type: str, at: datetime = START, name_space: str | None = None, **own: Any) -> AnyEvent:
    """An event, with what is its type's own."""
    body = {"eventId": ids(), "customerId": CUSTOMER, "eventType": event_type, "createdAt": at, event_type: own}
    message = {"tenantId": CUSTOMER, "events": [{**body, "nameSpace": name_space}]}
    return EventMessage.model_validate_json(orjson.dumps(message, default=str)).events[0]


EVENTS: dict[str, Callable[..., AnyEvent]] = {
    "action": lambda at=START: event("action", at),
    "order": lambda at=START: event("order", at, total="1"),
    "transaction": lambda at=START: event("transaction", at, amount="1"),
    "points": lambda at=START: event("points", at, quantity=1),
    "redemption": lambda at=START: event("redemption", at, points=1),
    "anniversary": lambda at=START: event("anniversary", at, years=1),
}
"""Type → makes an event of it."""


@pytest.fixture(params=["one batch", "a batch each"])
def in_one_batch(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "one batch")


@pytest.fixture
def matched(
    api: ApiClient, assessor: Assessor, owner: asyncpg.Connection, tenant: Tenant, in_one_batch: bool
) -> Matched:
    async def assess(events: Sequence[AnyEvent], *criteria: dict[str, Any], event_type: str | None = None) -> list[int]:
        looked_at = event_type or events[-1].event_type
        trigger = {"type": "trigger", "after": {"count": 1, "unit": "days"}, "nameSpace": "Matched"}
        await make_rule(api, looked_at, trigger, criteria=criteria)
        accepted = await debited(api, events)
        assert accepted == list(events)
        for batch in [events] if in_one_batch else [[one] for one in events]:
            await assessor.assess(tenant.tenant_id, batch)
        rows = await owner.fetch("SELECT source_event_id FROM triggers WHERE tenant_id = $1", tenant.tenant_id)
        found = {row["source_event_id"] for row in rows}
        return [place for place, one in enumerate(events, 1) if one.event_id in found]

    return assess


class TestCounts:
    @pytest.mark.parametrize("event_type", EVENTS)
    async def test_the_10th_matches_and_neither_the_9th_nor_the_11th(
        self, matched: Matched, assessor: Assessor, tenant: Tenant, event_type: str
    ) -> None:
        if event_type == "redemption":
            await assessor.assess(tenant.tenant_id, [points(ids(), CUSTOMER, 50)])
        events = [EVENTS[event_type]() for _ in range(12)]
        assert await matched(events, {"type": "nthEvent", "n": 10}) == [10]

    async def test_every_5th_matches(self, matched: Matched) -> None:
        events = [EVENTS["order"]() for _ in range(16)]
        assert await matched(events, {"type": "everyNthEvent", "n": 5}) == [5, 10, 15]

    async def test_only_events_of_the_type_count(self, matched: Matched) -> None:
        events = [EVENTS[kind]() for kind in ("order", "action", "order", "transaction", "points", "order")]
        assert await matched(events, {"type": "nthEvent", "n": 3}) == [6]

    async def test_a_duplicate_does_not_count(self, matched: Matched) -> None:
        first, second, third = (EVENTS["order"]() for _ in range(3))
        assert await matched([first, second, first, second, third], {"type": "nthEvent", "n": 3}) == [5]

    async def test_a_backdated_event_counts_when_it_is_assessed(self, matched: Matched) -> None:
        """Not among those of its time: what was counted before is not counted again."""
        events = [EVENTS["order"](at) for at in (START, START - 400 * DAY, START)]
        assert await matched(events, {"type": "nthEvent", "n": 2}) == [2]

    async def test_each_customer_has_a_count(self, matched: Matched) -> None:
        others = seeded_ids(78)
        events: list[AnyEvent] = [order(ids(), others(), "1") for _ in range(3)]
        assert await matched([*events, EVENTS["order"](), EVENTS["order"]()], {"type": "nthEvent", "n": 2}) == [5]


class TestSums:
    @pytest.mark.parametrize("event_type", ["action", "order", "transaction"])
    async def test_the_event_that_carries_the_sum_to_the_threshold_matches_and_not_the_one_after(
        self, matched: Matched, event_type: str
    ) -> None:
        amounts = ("60", "39.9999", "0.0001", "100")
        if event_type == "order":
            events = [event("order", total=amount) for amount in amounts]
        else:
            events = [event(event_type, amount=amount) for amount in amounts]
        assert await matched(events, {"type": "lifetimeEventThreshold", "value": "100"}) == [3]

    async def test_also_of_points(self, matched: Matched) -> None:
        events = [event("points", quantity=quantity) for quantity in (60, -10, 49, 2, 1)]
        assert await matched(events, {"type": "lifetimeEventThreshold", "value": "100"}) == [4]

    async def test_it_may_be_passed_by_a_leap_and_again_after_something_was_taken_back(self, matched: Matched) -> None:
        events = [event("order", total=total) for total in ("5", "500", "1", "-480", "90", "1")]
        assert await matched(events, {"type": "lifetimeEventThreshold", "value": "100"}) == [2, 5]

    @pytest.mark.parametrize(("operator", "places"), [("atLeast", [2, 3]), ("moreThan", [3]), ("equals", [2])])
    async def test_the_lifetime_value_is_that_with_the_event(
        self, matched: Matched, operator: str, places: list[int]
    ) -> None:
        events = [event("order", total=total) for total in ("99.9999", "0.0001", "0.0001")]
        criterion = {"type": "lifetimeEventValue", "operator": operator, "value": "100"}
        assert await matched(events, criterion) == places

    async def test_the_lifetime_spend_is_of_orders_and_transactions(self, matched: Matched) -> None:
        events = [
            event("order", total="60"),
            event("action", amount="500"),
            event("transaction", amount="39.99"),
            event("transaction", amount="0.01"),
            event("transaction", amount="0"),
        ]
        spent = {"type": "lifetimeSpend", "operator": "equals", "value": "100"}
        assert await matched(events, spent, event_type="transaction") == [4, 5]


class TestPoints:
    @pytest.mark.parametrize(
        ("kind", "places"), [("previousBalance", [3]), ("balance", [2, 4]), ("lifetimePoints", [2, 3])]
    )
    async def test_balances_are_before_and_after_and_what_was_earned_is_not_lessened(
        self, matched: Matched, kind: str, places: list[int]
    ) -> None:
        """Balances 60, 100, 90, 100; earned 60, 100, 100, 110."""
        events = [event("points", quantity=quantity) for quantity in (60, 40, -10, 10)]
        assert await matched(events, {"type": kind, "operator": "equals", "value": 100}) == places

    async def test_what_rules_give_is_looked_at_with_its_own_balance(
        self, matched: Matched, api: ApiClient, owner: asyncpg.Connection
    ) -> None:
        await make_rule(api, "order", give(30))
        events = [EVENTS["order"]() for _ in range(4)]
        await matched(
            events, {"type": "previousBalance", "operator": "lessThan", "value": 100},
            {"type": "balance", "operator": "atLeast", "value": 100}, event_type="points",
        )  # fmt: skip
        (row,) = await owner.fetch(
            "SELECT body ->> 'sourceEventId' AS source FROM triggers t JOIN events e ON event_id = t.source_event_id"
        )
        assert row["source"] == str(events[3].event_id)


def back(*offsets: timedelta) -> list[AnyEvent]:
    """Orders, each so much before START."""
    return [EVENTS["order"](START - offset) for offset in offsets]


class TestWindows:
    @pytest.mark.parametrize(("hours", "places"), [(23, [3]), (24, [])])
    async def test_a_day_has_24_hours(self, matched: Matched, hours: int, places: list[int]) -> None:
        within = {"type": "countInPeriod", "count": 3, "period": {"count": 1, "unit": "days"}}
        hour = timedelta(hours=1)
        assert await matched(back(hours * hour, hour, 0 * hour), within) == places

    async def test_the_beginning_is_excluded_to_the_millisecond(self, matched: Matched) -> None:
        within = {"type": "countInPeriod", "count": 2, "period": {"count": 7, "unit": "days"}}
        week = 7 * DAY
        # The second is a week after the first; the third a week less a millisecond after the second.
        events = [EVENTS["order"](at) for at in (START - 2 * week, START - week, START - MILLISECOND)]
        assert await matched(events, within) == [3]

    async def test_the_end_is_the_event_itself_and_what_happened_later_is_not_in_it(self, matched: Matched) -> None:
        """Two at one instant are both in the window of the one that is assessed second; a later one in none."""
        within = {"type": "countInPeriod", "count": 2, "period": {"count": 1, "unit": "days"}}
        events = [EVENTS["order"](at) for at in (START + MILLISECOND, START, START)]
        assert await matched(events, within) == [3]

    async def test_just_the_xth_matches(self, matched: Matched) -> None:
        within = {"type": "countInPeriod", "count": 2, "period": {"count": 1, "unit": "days"}}
        assert await matched(back(3 * MILLISECOND, 2 * MILLISECOND, MILLISECOND, 0 * DAY), within) == [2]

    async def test_only_the_same_type_and_name_space_count(self, matched: Matched) -> None:
        within = {"type": "countInPeriod", "count": 2, "period": {"count": 1, "unit": "days"}}
        events = [
            event("order", name_space="A", total="1"),
            event("order", name_space="B", total="1"),
            event("order", total="1"),
            event("action", name_space="A"),
            event("order", total="1"),
            event("order", name_space="A", total="1"),
        ]
        assert await matched(events, within) == [5, 6]

    @pytest.mark.parametrize(
        ("first", "last", "places"),
        [
            ("2025-02-28T09:00:00.000", "2025-03-31T09:00:00.000", []),
            ("2025-02-28T09:00:00.001", "2025-03-31T09:00:00.000", [2]),
            ("2024-02-29T09:00:00.000", "2024-03-31T09:00:00.000", []),
            ("2024-02-29T09:00:00.001", "2024-03-31T09:00:00.000", [2]),
            ("2024-02-28T23:59:59.999", "2024-03-29T09:00:00.000", []),
            ("2025-01-31T00:00:00.000", "2025-02-28T00:00:00.000", [2]),
            ("2025-01-28T00:00:00.000", "2025-02-28T00:00:00.000", []),
            ("2025-12-31T12:00:00.001", "2026-01-31T12:00:00.000", [2]),
            ("2025-12-31T12:00:00.000", "2026-01-31T12:00:00.000", []),
        ],
    )
    async def test_a_month_ends_with_its_last_day(
        self, matched: Matched, first: str, last: str, places: list[int]
    ) -> None:
        events = [EVENTS["order"](datetime.fromisoformat(at).replace(tzinfo=UTC)) for at in (first, last)]
        assert (
            await matched(events, {"type": "countInPeriod", "count": 2, "period": {"count": 1, "unit": "months"}})
            == places
        )

    async def test_since_an_instant_includes_it_to_the_millisecond(self, matched: Matched) -> None:
        since = {"type": "countSince", "count": 2, "since": START.isoformat()}
        events = [EVENTS["order"](at) for at in (START - MILLISECOND, START, START + DAY, START + 2 * DAY)]
        assert await matched(events, since) == [3]

    async def test_one_from_before_it_never_matches(self, matched: Matched) -> None:
        since = {"type": "countSince", "count": 1, "since": START.isoformat()}
        assert await matched([EVENTS["order"](START - MILLISECOND)], since) == []

    async def test_a_backdated_event_counts_among_those_before_its_own_time(self, matched: Matched) -> None:
        """Assessed third, it is the second of its window; those that happened after it stay what they were."""
        within = {"type": "countInPeriod", "count": 2, "period": {"count": 1, "unit": "days"}}
        days_ago = [10 * DAY, 0 * DAY, 10 * DAY - MILLISECOND, 9.5 * DAY]
        assert await matched(back(*days_ago), within) == [3]

    async def test_a_redemption_that_is_debited_and_not_assessed_yet_does_not_count(
        self, matched: Matched, assessor: Assessor, tenant: Tenant
    ) -> None:
        await assessor.assess(tenant.tenant_id, [points(ids(), CUSTOMER, 50)])
        within = {"type": "countInPeriod", "count": 2, "period": {"count": 1, "unit": "days"}}
        assert await matched([EVENTS["redemption"]() for _ in range(3)], within) == [2]

    async def test_points_that_rules_give_count_in_windows_of_points_events(
        self, matched: Matched, api: ApiClient, owner: asyncpg.Connection
    ) -> None:
        """Three orders of two transactions each: the fifth is the first of the third order."""
        await make_rule(api, "order", give(1), give(2))
        within = {"type": "countInPeriod", "count": 5, "period": {"count": 1, "unit": "days"}}
        await matched(back(2 * MILLISECOND, MILLISECOND, 0 * DAY), within, event_type="points")
        (row,) = await owner.fetch("SELECT e.body FROM triggers t JOIN events e ON e.event_id = t.source_event_id")
        body = orjson.loads(row["body"])
        assert body["points"]["quantity"] == 1

    async def test_a_window_is_not_counted_beyond_what_was_asked(
        self, matched: Matched, owner: asyncpg.Connection
    ) -> None:
        within = {"type": "countInPeriod", "count": 1, "period": {"count": 1, "unit": "days"}}
        assert await matched([EVENTS["order"]() for _ in range(4)], within) == [1]
        rows = await owner.fetch("SELECT explanation FROM assessments ORDER BY event_id")
        saw = [orjson.loads(row["explanation"])["saw"] for row in rows]
        assert sorted(text for (text,) in saw) == ["1", "more than 1", "more than 1", "more than 1"]
