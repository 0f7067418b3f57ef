"""The rows of the ledger, and the sum that makes each of them unique."""

from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given

from tallymarks.events import AnyEvent
from tallymarks.ledger import Transaction, debit, transactions_of
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.fulfilments import GivePoints, JoinSegment, LeaveSegment
from tests.parts import START
from tests.unit.builders import (
    CUSTOMER,
    EVENT,
    OTHER_CUSTOMER,
    SEGMENT,
    TENANT,
    action,
    events,
    generated,
    id_of,
    ids,
    redemption,
    rule,
)


def give(amount: int = 5, rule_number: int | None = 1, place: int = 0, **fields: Any) -> Effected:
    """Points of a rule, or of the event itself."""
    made = None if rule_number is None else rule(rule_number, **{"name": "Bonus", **fields})
    return Effected(GivePoints(amount), made, place)


def rows(*effects: Effected, event: AnyEvent | None = None, tenant_id: UUID = TENANT) -> list[Transaction]:
    return transactions_of(tenant_id, event or action(), effects, ids())


def only_row(effected: Effected, event: AnyEvent | None = None, tenant_id: UUID = TENANT) -> Transaction:
    (row,) = rows(effected, event=event, tenant_id=tenant_id)
    return row


def test_a_row_says_what_was_given_for_what() -> None:
    event = action(name_space="Customer.Registration", reference="R-1")
    row = only_row(give(amount=-7, place=3), event)
    assert row == Transaction(
        transaction_id=ids()(),
        customer_id=CUSTOMER,
        event_id=EVENT,
        event_type="action",
        assessment_rule_id=id_of(1),
        created_at=START,
        check_sum=row.check_sum,
        name_space="Customer.Registration",
        description="Bonus",
        amount=-7,
        external_reference="R-1",
        assessment_rule_version=1,
        fulfilment_index=3,
    )
    assert len(row.check_sum) == 32


def test_what_the_event_itself_does_has_no_rule() -> None:
    row = only_row(give(rule_number=None))
    assert (row.assessment_rule_id, row.description) == (None, None)


def test_only_points_are_rows_in_the_order_of_the_effects() -> None:
    effects = (
        give(1, place=0),
        Effected(JoinSegment(SEGMENT, None), rule(1), 1),
        give(2, place=2),
        Effected(LeaveSegment(SEGMENT), rule(2), 0),
        give(3, rule_number=2, place=1),
    )
    made = rows(*effects)
    assert [row.amount for row in made] == [1, 2, 3]
    assert len({row.transaction_id for row in made}) == 3
    assert rows() == []


def test_a_redemption_takes_its_points() -> None:
    event = redemption(100, "A mug", name_space="Shop.Redemption", reference="R-1")
    row = debit(TENANT, event, id_of(9))
    assert (row.transaction_id, row.event_type, row.amount) == (id_of(9), "redemption", -100)
    assert (row.assessment_rule_id, row.description) == (None, "A mug")
    assert (row.customer_id, row.event_id, row.created_at) == (CUSTOMER, EVENT, START)
    assert (row.name_space, row.external_reference) == ("Shop.Redemption", "R-1")
    assert len(row.check_sum) == 32


class TestCheckSum:
    def test_is_the_same_for_the_same_effect_whatever_id_the_row_gets(self) -> None:
        new_id = ids()
        one, other = (transactions_of(TENANT, action(), [give()], new_id)[0] for _ in range(2))
        assert one.transaction_id != other.transaction_id
        assert one.check_sum == other.check_sum
        assert debit(TENANT, redemption(), id_of(1)).check_sum == debit(TENANT, redemption(), id_of(2)).check_sum

    def test_is_the_same_in_every_version(self) -> None:
        """A row that a newer program writes again must be told as the same."""
        of_rule = (
            b'["7d444840-9dc0-11d1-b245-5ffdce74fad2","6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f0",'
            b'"f47ac10b-58cc-4372-a567-0e02b2c3d479","00000000-0000-0001-0000-000000000001",0,"action",'
            b'"2026-03-14T09:26:53.589Z","A","Bonus",5,null]'
        )
        assert only_row(give(), action(name_space="A")).check_sum == sha256(of_rule).digest()
        of_redemption = (
            b'["7d444840-9dc0-11d1-b245-5ffdce74fad2","6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f0",'
            b'"f47ac10b-58cc-4372-a567-0e02b2c3d479",null,0,"redemption","2026-03-14T09:26:53.589Z",null,"A mug",-100,'
            b'"R-1"]'
        )
        row = debit(TENANT, redemption(100, "A mug", reference="R-1"), id_of(1))
        assert row.check_sum == sha256(of_redemption).digest()

    def test_is_another_for_each_event_rule_and_fulfilment(self) -> None:
        sums = [
            only_row(give(rule_number=number, place=place), action(event_id=id_of(event))).check_sum
            for number in (None, 1, 2)
            for place in (0, 1)
            for event in (1, 2)
        ]
        assert len(set(sums)) == 12

    @pytest.mark.parametrize(
        ("effected", "event", "tenant_id"),
        [
            (give(6), action(), TENANT),
            (give(-5), action(), TENANT),
            (give(name="Another"), action(), TENANT),
            (give(), action(customer_id=OTHER_CUSTOMER), TENANT),
            (give(), action(created_at=START + timedelta(milliseconds=1)), TENANT),
            (give(), action(name_space="A"), TENANT),
            (give(), action(reference="A"), TENANT),
            (give(), action(), id_of(1)),
            (give(), redemption(), TENANT),
        ],
        ids=["amount", "sign", "description", "customer", "instant", "nameSpace", "reference", "tenant", "type"],
    )
    def test_no_longer_agrees_with_a_row_that_was_changed(
        self, effected: Effected, event: AnyEvent, tenant_id: UUID
    ) -> None:
        assert only_row(effected, event, tenant_id).check_sum != only_row(give()).check_sum

    def test_fields_cannot_be_shifted_into_one_another(self) -> None:
        one = only_row(give(), action(name_space="A", reference="B"))
        other = only_row(give(), action(name_space="B", reference="A"))
        assert one.check_sum != other.check_sum
        assert only_row(give(), action(name_space='A","B')).check_sum != one.check_sum

    @generated
    @given(events(), events())
    def test_two_rows_have_the_same_sum_only_where_they_are_the_same(self, one: AnyEvent, other: AnyEvent) -> None:
        first, second = only_row(give(), one), only_row(give(), other)
        is_same = first._replace(check_sum=b"") == second._replace(check_sum=b"")
        assert (first.check_sum == second.check_sum) is is_same
