"""Customers: how a registration and a change apply, and what a keyword is looked for in."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tallymarks.customers import (
    Customer,
    CustomerChange,
    NewCustomer,
    change,
    fold,
    has_trigram,
    register,
    search_pieces,
    search_text,
)
from tests.parts import START
from tests.unit.builders import CUSTOMER, OTHER_CUSTOMER, TENANT, generated, texts

FIELDS: dict[str, Any] = {
    "firstName": "Ada",
    "lastName": "Lovelace",
    "displayName": "ada",
    "emailAddress": "Ada@Example.com",
    "mobileNumber": "+44 7700 900123",
    "optinSms": True,
    "optinEmail": True,
    "acceptTerms": True,
    "attributes": [{"key": "colour", "name": "colour", "value": "blue"}],
    "dateOfBirth": "1915-12-10T00:00:00.000Z",
    "contactPhone": "+44 20 7946 0000",
    "externalReference": "crm-1",
    "externalStatus": "active",
}
EMPTY: dict[str, Any] = {
    **dict.fromkeys(FIELDS),
    "optinSms": False,
    "optinEmail": False,
    "acceptTerms": False,
    "attributes": [],
}
LATER = START + timedelta(days=1)


def registered(**fields: object) -> Customer:
    return register(NewCustomer.model_validate(fields), customer_id=CUSTOMER, tenant_id=TENANT, now=START)


def changed(customer: Customer, **fields: object) -> Customer:
    return change(customer, CustomerChange.model_validate(fields), LATER)


def shown(customer: Customer) -> dict[str, Any]:
    return customer.model_dump(mode="json")


class TestRegister:
    def test_keeps_every_field_that_was_given(self) -> None:
        assert shown(registered(**FIELDS)) == {
            **FIELDS,
            "customerId": str(CUSTOMER),
            "tenantId": str(TENANT),
            "isAccountLocked": False,
            "createdAt": "2026-03-14T09:26:53.589Z",
            "changedAt": "2026-03-14T09:26:53.589Z",
        }

    @pytest.mark.parametrize("name", FIELDS)
    def test_null_is_the_same_as_absent(self, name: str) -> None:
        assert registered(**{name: None}) == registered()
        assert shown(registered())[name] == EMPTY[name]

    def test_the_ids_are_those_of_the_call_whatever_the_body_says(self) -> None:
        assert registered(customerId=str(OTHER_CUSTOMER)).customer_id == CUSTOMER

    @pytest.mark.parametrize("name", ["isAccountLocked", "tenantId", "createdAt", "changedAt", "balance"])
    def test_refuses_what_only_the_service_decides(self, name: str) -> None:
        with pytest.raises(ValidationError, match=name):
            registered(**{name: None})


class TestChange:
    @pytest.mark.parametrize("name", FIELDS)
    def test_a_field_that_is_given_changes_and_no_other(self, name: str) -> None:
        before = registered()
        after = changed(before, **{name: FIELDS[name]})
        assert shown(after) == {**shown(before), name: FIELDS[name], "changedAt": "2026-03-15T09:26:53.589Z"}

    @pytest.mark.parametrize("name", FIELDS)
    def test_null_clears_and_what_is_absent_stays(self, name: str) -> None:
        before = registered(**FIELDS)
        after = changed(before, **{name: None})
        assert shown(after) == {**shown(before), name: EMPTY[name], "changedAt": "2026-03-15T09:26:53.589Z"}

    @pytest.mark.parametrize(("given_as", "locked"), [(True, True), (False, False), (None, False)])
    def test_locks_and_unlocks_the_account(self, given_as: bool | None, locked: bool) -> None:
        before = changed(registered(), isAccountLocked=not locked)
        assert changed(before, isAccountLocked=given_as).is_account_locked is locked

    def test_nothing_given_moves_only_the_time_of_the_change(self) -> None:
        before = registered(**FIELDS)
        assert changed(before) == before.model_copy(update={"changed_at": LATER})

    def test_ids_and_the_anniversary_never_change(self) -> None:
        before = registered(**FIELDS)
        after = changed(before, customerId=str(OTHER_CUSTOMER), tenantId=str(OTHER_CUSTOMER), firstName="Grace")
        assert (after.customer_id, after.tenant_id, after.created_at) == (CUSTOMER, TENANT, START)

    def test_leaves_the_customer_that_it_was_given_alone(self) -> None:
        before = registered(**FIELDS)
        changed(before, firstName="Grace", attributes=None)
        assert before == registered(**FIELDS)

    @pytest.mark.parametrize("name", ["createdAt", "changedAt", "balance"])
    def test_refuses_what_only_the_service_decides(self, name: str) -> None:
        with pytest.raises(ValidationError, match=name):
            changed(registered(), **{name: None})


class TestSearchText:
    def test_has_names_address_phones_and_reference_without_regard_to_case(self) -> None:
        text = search_text(registered(**FIELDS))
        for name in (
            "firstName",
            "lastName",
            "displayName",
            "emailAddress",
            "mobileNumber",
            "contactPhone",
            "externalReference",
        ):
            assert fold(FIELDS[name]) in text

    def test_has_nothing_else(self) -> None:
        customer = registered(externalStatus="delinquent", attributes=[{"key": "colour", "value": "blue"}])
        assert search_text(customer) == ""

    def test_no_keyword_matches_across_two_fields(self) -> None:
        text = search_text(registered(firstName="Ada", lastName="Lovelace"))
        assert "adalovelace" not in text
        assert "ada lovelace" not in text

    @generated
    @given(texts, texts, st.integers(0, 20), st.integers(0, 20))
    def test_every_part_of_a_name_finds_it_in_any_case(self, first: str, last: str, start: int, length: int) -> None:
        text = search_text(registered(firstName=first, lastName=last))
        for name in (first, last):
            part = name[start : start + length]
            assert fold(part) in text

    @pytest.mark.parametrize("keyword", ["ada", "c-100", "ada@", "müller", "0171/22"])
    def test_three_letters_or_digits_in_a_row_are_a_trigram(self, keyword: str) -> None:
        assert has_trigram(keyword)

    @pytest.mark.parametrize("keyword", ["a", "ad", "a-b-c", "@de", "...", "___", "дом", "日本語", "a%b_c"])
    def test_what_the_trigram_index_may_not_have_in_any_locale_is_none(self, keyword: str) -> None:
        assert not has_trigram(keyword)

    @pytest.mark.parametrize(
        ("keyword", "pieces"), [("a", ["a"]), ("日", ["日"]), ("ab", ["ab"]), ("a-b\\", ["a-", "-b", "b\\"])]
    )
    def test_the_pieces_of_a_keyword_are_its_pairs_or_its_one_character(self, keyword: str, pieces: list[str]) -> None:
        assert search_pieces(keyword) == pieces

    def test_folding_knows_more_than_ascii(self) -> None:
        assert fold("STRASSE") == fold("Straße")
        assert fold("ÅSA@ΣΊΣΥΦΟΣ") == fold("åsa@σίσυφος")
