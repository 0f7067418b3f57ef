"""What one process takes on: requests by the rate of their key, and as many as it has room for."""

import asyncio
from uuid import UUID

import pytest

from tallymarks import limits
from tallymarks.errors import Unavailable
from tallymarks_api.admission import Admission, Allowance, RateLimit

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)
KEY = (TENANT, "key")


class Seconds:
    """A monotonic clock; rates and pauses below are powers of two, which floats hold exactly."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def taken(rate: RateLimit, count: int, key: tuple[UUID, str] = KEY) -> list[bool]:
    return [rate.take(key).is_allowed for _ in range(count)]


class TestRateLimit:
    def test_allows_one_seconds_worth_at_once_and_no_more(self, seconds: Seconds) -> None:
        assert taken(RateLimit(4, seconds), 6) == [True] * 4 + [False] * 2

    def test_fills_at_its_rate(self, seconds: Seconds) -> None:
        rate = RateLimit(4, seconds)
        taken(rate, 4)
        for _ in range(10):
            seconds.now += 0.25
            assert taken(rate, 2) == [True, False]

    def test_half_a_request_is_kept_for_later(self, seconds: Seconds) -> None:
        rate = RateLimit(4, seconds)
        taken(rate, 4)
        seconds.now += 0.125
        assert taken(rate, 1) == [False]
        seconds.now += 0.125
        assert taken(rate, 2) == [True, False]

    def test_holds_no_more_than_one_seconds_worth(self, seconds: Seconds) -> None:
        rate = RateLimit(4, seconds)
        taken(rate, 4)
        seconds.now += 3600
        assert taken(rate, 5) == [True] * 4 + [False]

    def test_a_refused_request_costs_nothing(self, seconds: Seconds) -> None:
        rate = RateLimit(1, seconds)
        assert taken(rate, 100) == [True] + [False] * 99
        seconds.now += 1
        assert taken(rate, 1) == [True]

    def test_a_key_has_its_own_whatever_its_name_in_another_tenant(self, seconds: Seconds) -> None:
        rate = RateLimit(1, seconds)
        for key in (KEY, (TENANT, "other"), (OTHER_TENANT, "key")):
            assert taken(rate, 2, key) == [True, False]

    def test_remembers_a_bounded_number_of_keys(self, seconds: Seconds, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "API_KEYS_CACHED_MAX", 2)
        rate = RateLimit(1, seconds)
        for name in ("a", "b"):
            taken(rate, 1, (TENANT, name))
        # "a" is used again, so "b" is the one that is forgotten.
        assert taken(rate, 1, (TENANT, "a")) == [False]
        taken(rate, 1, (TENANT, "c"))
        assert taken(rate, 1, (TENANT, "a")) == [False]
        assert taken(rate, 1, (TENANT, "b")) == [True]

    def test_a_clock_that_stands_still_gives_nothing(self, seconds: Seconds) -> None:
        rate = RateLimit(2, seconds)
        assert taken(rate, 1_000).count(True) == 2


class TestAllowance:
    def test_tells_the_rate_what_is_left_and_when_all_is_there_again(self, seconds: Seconds) -> None:
        rate = RateLimit(4, seconds)
        assert rate.take(KEY) == Allowance(4, remaining=3, full_in_seconds=0.25, is_allowed=True)
        taken(rate, 3)
        assert rate.take(KEY) == Allowance(4, remaining=0, full_in_seconds=1.0, is_allowed=False)

    def test_headers_are_those_of_the_draft(self) -> None:
        assert Allowance(100, remaining=42, full_in_seconds=0.58, is_allowed=True).headers == {
            "RateLimit-Policy": '"key";q=100;w=1',
            "RateLimit": '"key";r=42;t=1',
        }


class TestAdmission:
    def test_no_rate_is_limited_unless_one_is_set(self, seconds: Seconds) -> None:
        assert Admission(None, seconds).allowance(KEY) is None
        assert Admission(1, seconds).allowance(KEY) is not None

    def test_a_bounded_number_of_requests_is_under_way(self, seconds: Seconds, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "REQUESTS_AT_ONCE_MAX", 2)
        admission = Admission(None, seconds)
        with admission.place():
            with admission.place(), pytest.raises(Unavailable), admission.place():
                pass
            with admission.place():
                assert admission.requests == 2
        assert admission.requests == 0

    @pytest.mark.parametrize("failure", [ValueError, asyncio.CancelledError])
    def test_a_request_that_fails_or_is_cancelled_leaves_its_place(
        self, seconds: Seconds, failure: type[BaseException]
    ) -> None:
        admission = Admission(None, seconds)

        def fail() -> None:
            with admission.place(), admission.body() as hold:
                hold(5)
                raise failure

        with pytest.raises(failure):
            fail()
        assert (admission.requests, admission.body_bytes) == (0, 0)

    def test_the_bodies_of_all_requests_have_a_bounded_number_of_bytes(
        self, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "BODY_BYTES_AT_ONCE_MAX", 10)
        admission = Admission(None, seconds)
        with admission.body() as hold:
            hold(4)
            with admission.body() as hold_too:
                hold_too(6)
                with pytest.raises(Unavailable):
                    hold(1)
                assert admission.body_bytes == 10
            assert admission.body_bytes == 4
            hold(6)
        assert admission.body_bytes == 0
