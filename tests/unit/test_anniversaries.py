"""The event of an anniversary: which one it is, and the id by which it counts once."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarks.events import AnniversaryEvent
from tallymarks.messages import event_json
from tallymarks.segments import anniversary
from tallymarks_calendar.anniversaries import NAME_SPACE, anniversary_event, anniversary_id_of
from tests.unit.builders import CUSTOMER, OTHER_CUSTOMER, TENANT, generated, id_of, instants

LEAP_DAY = datetime(2024, 2, 29, 23, 59, 59, 999_000, tzinfo=UTC)


@generated
@given(instants.filter(lambda at: at.year < 2100), st.integers(1, 99))
def test_is_the_one_that_its_instant_says(joined_at: datetime, years: int) -> None:
    at = anniversary(joined_at, years)
    event = anniversary_event(TENANT, CUSTOMER, joined_at, at)
    assert (event.customer_id, event.name_space, event.created_at) == (CUSTOMER, NAME_SPACE, at)
    assert event.anniversary.years == years
    assert event.event_id == anniversary_id_of(TENANT, CUSTOMER, years)
    assert AnniversaryEvent.model_validate_json(event_json(event)) == event


@pytest.mark.parametrize(("year", "day"), [(2025, 28), (2027, 28), (2028, 29), (2029, 28)])
def test_is_counted_from_a_leap_day_too(year: int, day: int) -> None:
    at = LEAP_DAY.replace(year=year, day=day)
    assert anniversary_event(TENANT, CUSTOMER, LEAP_DAY, at).anniversary.years == year - 2024


def test_has_the_same_id_in_every_run() -> None:
    assert anniversary_id_of(TENANT, CUSTOMER, 1) == UUID("537146da-f02e-5c6a-9ef3-e478830b6043")


def test_has_an_id_of_its_own() -> None:
    keys = [
        (of, whose, years) for of in (TENANT, id_of(1)) for whose in (CUSTOMER, OTHER_CUSTOMER) for years in (1, 11)
    ]
    assert len({anniversary_id_of(*key) for key in keys}) == len(keys)
