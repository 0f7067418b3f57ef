"""The offsetKey: opaque, bound to its query and its tenant, and told apart when forged."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.errors import InvalidRequest
from tallymarks.paging import new_paging_secret, offset_key, position_of
from tests.unit.builders import CUSTOMER, generated

SECRET, OTHER_SECRET = b"s" * 32, b"t" * 32
QUERY = ["events", {"customerId": str(CUSTOMER), "keyword": None}]
POSITION = ["2026-03-14T09:26:53.589Z", str(CUSTOMER)]
KEY = offset_key(SECRET, QUERY, POSITION)
positions = st.lists(st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40))


def is_refused(key: str, secret: bytes = SECRET, query: object = QUERY) -> bool:
    """Whether the key is refused, in the one way that is an answer to the caller."""
    try:
        position_of(secret, query, key)
    except InvalidRequest as refused:
        return [error.param for error in refused.errors] == ["offsetKey"]
    return False


@generated
@given(positions)
def test_gives_back_the_position(position: Sequence[str | int]) -> None:
    key = offset_key(SECRET, QUERY, position)
    if len(key) <= limits.OFFSET_KEY_LENGTH_MAX:
        assert position_of(SECRET, QUERY, key) == position
    else:
        assert is_refused(key)


def test_the_longest_positions_of_the_service_fit() -> None:
    for position in (POSITION, [str(CUSTOMER)], ["k" * 128]):
        assert position_of(SECRET, QUERY, offset_key(SECRET, QUERY, position)) == position


def test_can_stand_in_a_query_string_as_it_is() -> None:
    assert KEY.isascii()
    assert KEY.replace("-", "").replace("_", "").isalnum()


def test_is_the_same_on_every_replica() -> None:
    assert offset_key(SECRET, QUERY, POSITION) == KEY


@pytest.mark.parametrize(
    "other",
    [
        ["transactions", QUERY[1]],
        ["events", {"customerId": str(CUSTOMER), "keyword": ""}],
        ["events", {"customerId": str(CUSTOMER), "keyword": "a"}],
        ["events", {"customerId": None, "keyword": None}],
        ["events"],
        None,
    ],
)
def test_is_good_for_its_query_only(other: object) -> None:
    assert is_refused(KEY, query=other)


def test_is_good_for_its_tenant_only() -> None:
    assert is_refused(KEY, secret=OTHER_SECRET)
    assert not is_refused(KEY)


@generated
@given(st.text())
@example("")
@example("=")
@example("A")
@example("A" * 24)
@example("=" * 10_000)
@example("A" * 10_000)
@example("é")
@example("\ud800")
@example("../../etc/passwd")
def test_garbage_is_refused_and_does_nothing_else(garbage: str) -> None:
    assert is_refused(garbage)


@generated
@given(st.integers(0, len(KEY) - 1), st.characters(exclude_categories=["Cs"]))
def test_one_character_makes_it_a_forgery(place: int, character: str) -> None:
    forged = KEY[:place] + character + KEY[place + 1 :]
    assert is_refused(forged) is (forged != KEY)


@generated
@given(st.integers(0, len(KEY)), st.text(min_size=1, max_size=8))
@example(len(KEY), "=")
@example(len(KEY), "====")
@example(0, "!!!!")
@example(4, "\n\n\n\n")
def test_nothing_can_be_put_into_it(place: int, more: str) -> None:
    assert is_refused(KEY[:place] + more + KEY[place:])


@pytest.mark.parametrize("length", range(len(KEY)))
def test_nothing_can_be_left_out_of_its_end(length: int) -> None:
    assert is_refused(KEY[:length])


@pytest.mark.parametrize("position", [[], ["a"], [1]])
def test_a_position_cannot_be_signed_without_the_secret(position: list[str | int]) -> None:
    assert is_refused(offset_key(b"", QUERY, position))


def test_secrets_are_long_and_never_the_same() -> None:
    secrets = {new_paging_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {len(secret) for secret in secrets} == {32}
