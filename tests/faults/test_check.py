"""The checker finds lies: a service that loses, doubles, or does what it refused does not pass."""

from dataclasses import replace

import pytest

from tests.faults.check import Findings, Row, Stored, findings
from tests.faults.record import Record, Sent

CUSTOMER = "c"


def sent(event_id: str, kind: str, amount: int | None, *answers: tuple[int, dict[str, object]]) -> Sent:
    one = Sent(kind, {"eventId": event_id, "customerId": CUSTOMER}, amount)
    for status, body in answers:
        one.answered(status, body)
    return one


def record() -> Record:
    record = Record(amounts={1: 7}, amounts_unknown={9})
    redeemed: dict[str, object] = {"balance": 30, "pendingBalance": 25}
    for one in (
        sent("order", "order", 30, (503, {}), (200, {}), (208, {})),
        sent("redemption", "redemption", -5, (200, redeemed), (208, redeemed)),
        sent("refused", "redemption", -50, (400, {})),
        sent("unknown", "action", 1, (0, {}), (400, {})),
        sent("changing", "action", None, (200, {})),
        sent("reversal", "reversal", None, (200, {"points": -30})),
    ):
        record.add(one)
    return record


ROWS = (
    Row("order", CUSTOMER, "order", 30, 1),
    Row("redemption", CUSTOMER, "redemption", -5, None),
    Row("changing", CUSTOMER, "action", 7, 1),
    Row("reversal", CUSTOMER, "reversal", -30, 1),
)
EVENT_IDS = frozenset({"order", "redemption", "changing", "reversal"})
TRUTH = Stored(ROWS, EVENT_IDS, {CUSTOMER: 2})


def without(event_id: str) -> Stored:
    return replace(TRUTH, rows=[row for row in ROWS if row.event_id != event_id])


def test_nothing_is_found_where_all_is_as_it_was_answered() -> None:
    assert findings(record(), TRUTH) == Findings(*[[]] * 8)
    assert findings(record(), TRUTH).is_clean


def test_an_event_of_unknown_outcome_may_have_counted_once_or_not_at_all() -> None:
    once = Row("unknown", CUSTOMER, "action", 1, 1)
    assert findings(record(), Stored([*ROWS, once], EVENT_IDS | {"unknown"}, {CUSTOMER: 3})).is_clean
    twice = findings(record(), Stored([*ROWS, once, once], EVENT_IDS | {"unknown"}, {CUSTOMER: 4}))
    assert twice.doubled == ["unknown"]


@pytest.mark.parametrize("event_id", ["order", "redemption", "changing", "reversal"])
def test_an_accepted_event_without_effect_is_lost(event_id: str) -> None:
    found = findings(record(), without(event_id))
    assert found.lost == [event_id]
    assert found.wrong_balances == [CUSTOMER]


def test_an_accepted_event_that_is_not_recorded_is_lost() -> None:
    assert findings(record(), replace(TRUTH, event_ids=EVENT_IDS - {"order"})).lost == ["order"]


def test_an_event_with_two_effects_is_doubled_even_where_the_balance_agrees() -> None:
    found = findings(record(), Stored([*ROWS, ROWS[0]], EVENT_IDS, {CUSTOMER: 32}))
    assert found.doubled == ["order"]
    assert not found.wrong_balances


def test_a_refused_event_with_an_effect_or_a_record_is_found() -> None:
    effect = Row("refused", CUSTOMER, "redemption", -50, None)
    assert findings(record(), Stored([*ROWS, effect], EVENT_IDS, {CUSTOMER: -48})).refused_counted == ["refused"]
    assert findings(record(), replace(TRUTH, event_ids=EVENT_IDS | {"refused"})).refused_counted == ["refused"]


@pytest.mark.parametrize(
    "row",
    [
        Row("order", CUSTOMER, "order", 29, 1),
        Row("order", "another", "order", 30, 1),
        Row("changing", CUSTOMER, "action", 9, 1),
        Row("changing", CUSTOMER, "action", 7, 2),
        Row("reversal", CUSTOMER, "reversal", -29, 1),
    ],
)
def test_an_effect_of_another_amount_version_or_customer_is_wrong(row: Row) -> None:
    found = findings(record(), replace(TRUTH, rows=[*without(row.event_id).rows, row]))
    assert found.wrong_amounts == [row.event_id]


def test_a_version_whose_change_was_not_answered_gives_what_that_change_wanted() -> None:
    row = Row("changing", CUSTOMER, "action", 9, 2)
    assert not findings(record(), replace(TRUTH, rows=[*without("changing").rows, row])).wrong_amounts


def test_a_balance_that_is_not_the_sum_is_wrong() -> None:
    assert findings(record(), replace(TRUTH, balances={CUSTOMER: 3})).wrong_balances == [CUSTOMER]
    assert findings(record(), replace(TRUTH, balances={})).wrong_balances == [CUSTOMER]


def test_an_effect_of_an_event_that_nobody_posted_is_invented() -> None:
    other = Row("nobody's", CUSTOMER, "action", 1, 1)
    assert findings(record(), Stored([*ROWS, other], EVENT_IDS, {CUSTOMER: 3})).invented == ["nobody's"]


def test_answers_that_differ_and_redemptions_below_zero_are_found() -> None:
    told = record()
    told.sent["redemption"].answers = [{"pendingBalance": -1}, {"pendingBalance": 0}]
    found = findings(told, TRUTH)
    assert found.contradictions == ["redemption"]
    assert found.overdrawn == ["redemption"]
