"""Customers: what is posted, what is answered, and how a change applies."""

import re
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from tallymarks.values import Attribute, Attributes, EmailAddress, Flag, Id, Instant, Model, Text


class CustomerFields(Model):
    """What a caller may set of a customer; null is the same as absent on creation and clears on update."""

    first_name: Text | None = None
    last_name: Text | None = None
    display_name: Text | None = None
    email_address: EmailAddress | None = None
    """Unique in the tenant, whatever the spelling of upper and lower case."""
    mobile_number: Text | None = None
    optin_sms: Flag | None = None
    optin_email: Flag | None = None
    accept_terms: Flag | None = None
    attributes: Attributes | None = None
    date_of_birth: Instant | None = None
    contact_phone: Text | None = None
    external_reference: Text | None = None
    external_status: Text | None = None


class NewCustomer(CustomerFields):
    """The body that registers a customer."""

    customer_id: Id | None = None
    """Made by the service where the caller gives none."""


class CustomerChange(CustomerFields):
    """The body of an update: what is absent stays as it is, null clears."""

    customer_id: UUID | None = None
    """Accepted only when equal to the one of the route."""
    tenant_id: UUID | None = None
    """Accepted only when equal to the caller's."""
    is_account_locked: Flag | None = None


class Customer(Model):
    """A customer as the page answers it."""

    customer_id: UUID
    tenant_id: UUID
    first_name: str | None = None
    last_name: str | None = None
    display_name: str | None = None
    email_address: str | None = None
    is_account_locked: bool = False
    mobile_number: str | None = None
    optin_sms: bool = False
    optin_email: bool = False
    accept_terms: bool = False
    attributes: tuple[Attribute, ...] = ()
    date_of_birth: Instant | None = None
    created_at: Instant
    """Also the customer's anniversary date."""
    changed_at: Instant
    contact_phone: str | None = None
    external_reference: str | None = None
    external_status: str | None = None


class FoundCustomer(Model):
    """A customer as customer search answers it."""

    customer_id: UUID
    tenant_id: UUID
    first_name: str | None
    last_name: str | None
    display_name: str | None
    email_address: str | None
    created_at: Instant
    changed_at: Instant
    contact_phone: str | None
    external_reference: str | None
    external_status: str | None


class Balance(Model):
    """A customer's points."""

    tenant_id: UUID
    customer_id: UUID
    points_segment: Annotated[str, Field(examples=["base"])] = "base"
    """Reserved: there is only `base`."""
    amount: int
    changed_at: Instant
    """When the balance last changed; the customer's createdAt where it never did."""


def register(customer: NewCustomer, *, customer_id: UUID, tenant_id: UUID, now: datetime) -> Customer:
    """Make the customer of a registration."""
    given = {name: value for name, value in _given(customer).items() if value is not None}
    return Customer(
        **{**given, "customer_id": customer_id, "tenant_id": tenant_id, "created_at": now, "changed_at": now}
    )


def change(customer: Customer, changed: CustomerChange, now: datetime) -> Customer:
    """Apply an update: fields that the caller gave, null as the field's empty value."""
    empty = Customer.model_fields
    given = {
        name: empty[name].default if value is None else value
        for name, value in _given(changed).items()
        if name not in {"customer_id", "tenant_id"}
    }
    return customer.model_copy(update={**given, "changed_at": now})


def _given(fields: CustomerFields) -> dict[str, object]:
    return {name: getattr(fields, name) for name in fields.model_fields_set}


def fold(text: str) -> str:
    """How texts are compared without regard to case: done here, so that no locale of a database decides it."""
    return text.casefold()


def has_trigram(keyword: str) -> bool:
    """Whether the trigram index can serve a folded keyword: letters and digits only are in it, in threes.

    Of ASCII, since what else is a letter depends on the database's locale.
    """
    return re.search("[a-z0-9]{3}", keyword) is not None


def search_pieces(keyword: str) -> list[str]:
    """What a text that contains the folded keyword has among its pieces: the pairs of neighbours, or its one character.

    The pieces of a text are made by the SQL function of this name.
    """
    return [keyword[at : at + 2] for at in range(len(keyword) - 1)] or [keyword]


def search_text(customer: Customer) -> str:
    """What a keyword is looked for in; the separator keeps a keyword from matching across two fields."""
    fields = (
        customer.first_name,
        customer.last_name,
        customer.display_name,
        customer.email_address,
        customer.mobile_number,
        customer.contact_phone,
        customer.external_reference,
    )
    return fold("\n".join(field for field in fields if field))
