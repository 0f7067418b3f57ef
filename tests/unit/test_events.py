"""The events: what may be posted, and what may travel."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from tallymarks import limits
from tallymarks.errors import InvalidRequest
from tallymarks.events import (
    ActionEvent,
    AnyEvent,
    EventBase,
    EventMessage,
    OrderEvent,
    PointsEvent,
    QueuedEvent,
    RedemptionEvent,
    ReversalEvent,
    TransactionEvent,
    created_at_of,
)
from tallymarks.values import Model
from tallymarks_api.edge import validated
from tests.parts import START
from tests.unit import builders
from tests.unit.builders import CUSTOMER, EVENT, OTHER_CUSTOMER, TENANT, generated

FORMS: dict[str, type[EventBase]] = {
    "action": ActionEvent,
    "order": OrderEvent,
    "transaction": TransactionEvent,
    "points": PointsEvent,
    "redemption": RedemptionEvent,
}
BODIES: dict[str, dict[str, Any]] = {
    "action": {"amount": "1.5", "count": 3},
    "order": {
        "total": "19.99",
        "taxTotal": "3.19",
        "shippingTotal": "4.90",
        "discountTotal": "0",
        "currency": "EUR",
        "items": [
            {
                "sku": "A-1",
                "name": "Mug",
                "vendor": "Potter",
                "category": "Kitchen",
                "type": "ware",
                "quantity": 2,
                "price": "7.5",
                "tags": ["blue", "gift"],
            }
        ],
        "payments": [
            {"amount": "19.99", "method": "card", "scheme": "debit", "bank": "First", "bin": "411111"},
        ],
    },
    "transaction": {"amount": "-5.25", "currency": "EUR"},
    "points": {"quantity": -3},
    "redemption": {"points": 100, "description": "A mug"},
}
COMMON = {
    "eventId": str(EVENT),
    "customerId": str(CUSTOMER),
    "nameSpace": "Customer.Registration",
    "reference": "R-1",
    "campaign": "Spring",
    "attributes": [{"key": "colour", "name": "colour", "value": "blue"}],
    "createdAt": "2026-03-14T09:26:53.589Z",
}
ANY: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
QUEUED: TypeAdapter[AnyEvent] = TypeAdapter(QueuedEvent)
each_type = pytest.mark.parametrize("event_type", FORMS)


def whole(event_type: str) -> dict[str, Any]:
    """An event with every field that it may have."""
    return {**COMMON, "eventType": event_type, event_type: BODIES[event_type]}


def places_refused(form: type[Model], data: object) -> set[str | None]:
    """The places of what the api refuses."""
    with pytest.raises(InvalidRequest) as refused:
        validated(form, data)
    return {error.param for error in refused.value.errors}


@each_type
def test_keeps_every_field(event_type: str) -> None:
    event = validated(FORMS[event_type], whole(event_type))
    assert event.model_dump(mode="json", exclude_none=True) == whole(event_type)


@each_type
def test_needs_no_more_than_ids_and_its_own_body(event_type: str) -> None:
    required = {"action": {}, "order": {"total": 1}, "transaction": {"amount": 1}, "points": {"quantity": 1}}
    body = required.get(event_type, {"points": 1})
    event = validated(FORMS[event_type], {"eventId": str(EVENT), "customerId": str(CUSTOMER), event_type: body})
    assert (event.event_id, event.customer_id) == (EVENT, CUSTOMER)
    assert (event.name_space, event.reference, event.campaign, event.created_at) == (None, None, None, None)
    assert event.attributes == ()


def test_an_action_needs_no_body_of_its_own() -> None:
    event = validated(ActionEvent, {"eventId": str(EVENT), "customerId": str(CUSTOMER)})
    assert (event.action.amount, event.action.count) == (None, None)


@pytest.mark.parametrize("event_type", ["order", "transaction", "points", "redemption"])
def test_a_missing_body_is_named_as_the_caller_would_write_it(event_type: str) -> None:
    data = {"eventId": str(EVENT), "customerId": str(CUSTOMER)}
    assert places_refused(FORMS[event_type], data) == {event_type}
    assert places_refused(FORMS[event_type], {**data, "eventType": event_type}) == {event_type}


@each_type
def test_refuses_unknown_fields_wherever_they_stand(event_type: str) -> None:
    assert places_refused(FORMS[event_type], {**whole(event_type), "colour": "blue"}) == {"colour"}
    body = {**BODIES[event_type], "colour": "blue"}
    assert places_refused(FORMS[event_type], {**whole(event_type), event_type: body}) == {f"{event_type}.colour"}


def test_refuses_unknown_fields_of_items_and_payments() -> None:
    body = {"total": 1, "items": [{}, {"colour": 1}], "payments": [{"iban": 1}]}
    assert places_refused(OrderEvent, {**whole("order"), "order": body}) == {
        "order.items.1.colour",
        "order.payments.0.iban",
    }


@each_type
@pytest.mark.parametrize(
    ("name", "other"), [("eventId", "event_id"), ("customerId", "customer_id"), ("nameSpace", "name_space")]
)
def test_knows_the_names_of_the_contract_only(event_type: str, name: str, other: str) -> None:
    data = whole(event_type)
    data[other] = data.pop(name)
    assert other in places_refused(FORMS[event_type], data)


@each_type
@pytest.mark.parametrize("contradicting", [*FORMS, "basket", "error", "anniversary", "reversal", "", "Action", None, 1])
def test_refuses_an_event_type_that_contradicts_the_path(event_type: str, contradicting: object) -> None:
    data = {**whole(event_type), "eventType": contradicting}
    if contradicting == event_type:
        validated(FORMS[event_type], data)
    else:
        assert places_refused(FORMS[event_type], data) == {"eventType"}


@each_type
@pytest.mark.parametrize("name", ["eventId", "customerId"])
@pytest.mark.parametrize("bad", ["", "x", 1, None, str(EVENT)[:-1], str(EVENT) + "0", [str(EVENT)]])
def test_refuses_ids_that_are_no_uuids(event_type: str, name: str, bad: object) -> None:
    assert places_refused(FORMS[event_type], {**whole(event_type), name: bad}) == {name}


@pytest.mark.parametrize(
    ("event_type", "body", "place"),
    [
        ("action", {"amount": "x"}, "action.amount"),
        ("action", {"count": -1}, "action.count"),
        ("action", {"count": "1"}, "action.count"),
        ("action", None, "action"),
        ("action", [], "action"),
        ("order", {}, "order.total"),
        ("order", {"total": None}, "order.total"),
        ("order", {"total": 1, "items": {}}, "order.items"),
        ("order", {"total": 1, "items": [{"quantity": Decimal("1.5")}]}, "order.items.0.quantity"),
        ("order", {"total": 1, "items": [{"tags": ["a", None]}]}, "order.items.0.tags.1"),
        ("order", {"total": 1, "items": [{"name": "a\x00"}]}, "order.items.0.name"),
        ("order", {"total": 1, "payments": [{"amount": True}]}, "order.payments.0.amount"),
        ("transaction", {"currency": "EUR"}, "transaction.amount"),
        ("transaction", {"amount": "1", "currency": 978}, "transaction.currency"),
        ("points", {"quantity": 0}, "points.quantity"),
        ("points", {"quantity": 10**15 + 1}, "points.quantity"),
        ("points", {"quantity": Decimal("1.0")}, "points.quantity"),
        ("redemption", {"points": 0}, "redemption.points"),
        ("redemption", {"points": -1}, "redemption.points"),
        ("redemption", {"points": 10**15 + 1}, "redemption.points"),
        ("redemption", {"points": "1"}, "redemption.points"),
        ("redemption", {"points": 1, "description": "d" * 2_001}, "redemption.description"),
    ],
)
def test_refuses_a_body_that_is_none(event_type: str, body: object, place: str) -> None:
    assert places_refused(FORMS[event_type], {**whole(event_type), event_type: body}) == {place}


@pytest.mark.parametrize(
    ("name", "one", "most"),
    [
        ("items", {"sku": "A"}, limits.ORDER_ITEMS_MAX),
        ("payments", {"amount": 1}, limits.ORDER_PAYMENTS_MAX),
    ],
)
def test_the_lists_of_an_order_are_bounded(name: str, one: dict[str, object], most: int) -> None:
    validated(OrderEvent, {**whole("order"), "order": {"total": 1, name: [one] * most}})
    body = {"total": 1, name: [one] * (most + 1)}
    assert places_refused(OrderEvent, {**whole("order"), "order": body}) == {f"order.{name}"}


def test_the_tags_of_an_item_are_bounded() -> None:
    def tagged(number: int) -> dict[str, object]:
        return {**whole("order"), "order": {"total": 1, "items": [{"tags": ["t"] * number}]}}

    validated(OrderEvent, tagged(limits.ITEM_TAGS_MAX))
    assert places_refused(OrderEvent, tagged(limits.ITEM_TAGS_MAX + 1)) == {"order.items.0.tags"}


@each_type
def test_the_type_tells_what_an_event_is(event_type: str) -> None:
    assert type(ANY.validate_python(whole(event_type))) is FORMS[event_type]


@pytest.mark.parametrize("event_type", ["basket", "error", "anniversary", "reversal", None, 1, ""])
def test_refuses_types_that_nobody_posts(event_type: object) -> None:
    with pytest.raises(ValidationError):
        ANY.validate_python({**whole("action"), "eventType": event_type})


def test_a_redemption_is_no_event_of_a_batch() -> None:
    """It is decided at once, and a batch is decided later."""
    for event_type in set(FORMS) - {"redemption"}:
        assert type(QUEUED.validate_python(whole(event_type))) is FORMS[event_type]
    with pytest.raises(ValidationError):
        QUEUED.validate_python(whole("redemption"))


def test_a_reversal_has_no_effect_where_others_are_assessed() -> None:
    """Like a redemption it is decided at once; and unlike one, rules have nothing to say about it."""
    data = {**COMMON, "reverses": str(OTHER_CUSTOMER), "amount": "9.50"}
    reversal = validated(ReversalEvent, data)
    assert reversal.model_dump(mode="json", exclude_none=True) == {**data, "eventType": "reversal"}
    assert (reversal.spend, reversal.value, reversal.purchase) == (None, None, None)
    for form in (ANY, QUEUED):
        with pytest.raises(ValidationError):
            form.validate_python({**data, "eventType": "reversal"})


def test_spend_is_what_orders_and_transactions_come_to() -> None:
    assert builders.order("19.99").spend == Decimal("19.99")
    assert builders.transaction("-5.25").spend == Decimal("-5.25")
    assert builders.action(action={"amount": "7"}).spend is None
    assert builders.points(7).spend is None
    assert builders.redemption(7).spend is None


def test_an_event_that_was_never_stamped_has_no_instant() -> None:
    assert created_at_of(builders.action()) == START
    with pytest.raises(ValueError, match=str(EVENT)):
        created_at_of(builders.action(created_at=None))


@generated
@given(builders.events())
def test_a_generated_event_is_the_same_after_its_journey_as_json(event: AnyEvent) -> None:
    assert ANY.validate_json(event.model_dump_json()) == event
    assert ANY.validate_json(event.model_dump_json(exclude_none=True)) == event


class TestEventMessage:
    @staticmethod
    def read(**changed: object) -> EventMessage:
        fields = {"schemaVersion": 1, "tenantId": str(TENANT), "events": [whole("action"), whole("redemption")]}
        return EventMessage.model_validate({**fields, **changed})

    def test_carries_events_of_one_tenant_in_their_order(self) -> None:
        message = self.read()
        assert message.tenant_id == TENANT
        assert [event.event_type for event in message.events] == ["action", "redemption"]

    @pytest.mark.parametrize(
        "changed",
        [
            {"schemaVersion": 2},
            {"schemaVersion": "1"},
            {"tenantId": "x"},
            {"events": []},
            {"events": None},
            {"events": [{**whole("action"), "createdAt": None}]},
            {"events": [whole("action"), {**whole("action"), "eventType": "error"}]},
            {"events": [{name: value for name, value in whole("action").items() if name != "createdAt"}]},
            {"more": 1},
        ],
        ids=str,
    )
    def test_is_refused_where_it_is_not_ours(self, changed: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            self.read(**changed)

    def test_ids_are_read_however_they_are_spelt(self) -> None:
        assert self.read(tenantId=str(TENANT).upper()).tenant_id == TENANT
        assert self.read(tenantId=UUID(int=TENANT.int)).tenant_id == TENANT
