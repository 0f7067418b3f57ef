"""What an expression looks at: typed messages, derived from the models of events and filled from one event's facts.

Types are what makes the check at save time worth something: an unknown field, a comparison of a number with a text and
a result that is no truth value are found there, and a field that is absent reads as empty instead of failing.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin
from uuid import UUID

from google.protobuf.message import Message
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from tallymarks.events import (
    ActionEvent,
    AnniversaryEvent,
    BasketEvent,
    EventBase,
    EventType,
    OrderEvent,
    PointsEvent,
    RedemptionEvent,
    TransactionEvent,
)
from tallymarks.rules.expression_types import TIMESTAMP, FieldType, Scalar, declare, message_class
from tallymarks.rules.facts import COUNTED_TYPES, VALUED_TYPES, Facts

PACKAGE = "tallymarks"
EVENT, CUSTOMER, TOTALS = f"{PACKAGE}.Event", f"{PACKAGE}.Customer", f"{PACKAGE}.Totals"
COUNTS, VALUES = f"{PACKAGE}.Counts", f"{PACKAGE}.Values"

EVENT_MODELS = (
    ActionEvent,
    OrderEvent,
    TransactionEvent,
    PointsEvent,
    RedemptionEvent,
    AnniversaryEvent,
    BasketEvent,
)
"""The events that rules look at."""

SCALARS: Mapping[type, tuple[Scalar, type]] = {
    str: (Scalar.TEXT, str),
    UUID: (Scalar.TEXT, str),
    int: (Scalar.WHOLE, int),
    Decimal: (Scalar.DOUBLE, float),
}
"""How a value is declared, and what it is turned into: the language has no exact decimals."""


class Field(NamedTuple):
    """How one field of a message is filled."""

    attribute: str
    name: str
    """The attribute's name in JSON, and so in an expression."""
    is_list: bool
    message: str | None
    """What kind of message it is; None for a scalar."""
    convert: type | None
    """What a scalar is turned into; None for a time."""


class Forms:
    """The messages: how each is declared, and how it is filled."""

    def __init__(self) -> None:
        """Declare all that an expression can name."""
        self.declared: dict[str, list[FieldType]] = {}
        self.fields: dict[str, list[Field]] = {}
        self.lengths: dict[tuple[str, str], int] = {}
        """Message and field → how many elements the list has at most."""
        models = {name: field for model in EVENT_MODELS for name, field in model.model_fields.items()}
        for name, field in models.items():
            self._add(EVENT, name, field.annotation, field)
        self._add_all(CUSTOMER, {"customer_id": UUID, "created_at": datetime, "balance": int})
        self._add_all(COUNTS, dict.fromkeys(COUNTED_TYPES, int))
        self._add_all(VALUES, dict.fromkeys(VALUED_TYPES, Decimal))
        self._add_message(TOTALS, "counts", COUNTS)
        self._add_message(TOTALS, "values", VALUES)
        self._add_all(TOTALS, {"spend": Decimal, "points_earned": int})
        self.pool = declare(PACKAGE, self.declared)

    def _add_all(self, message: str, fields: Mapping[str, type]) -> None:
        for attribute, annotation in fields.items():
            self._add(message, attribute, annotation)

    def _add(self, message: str, attribute: str, annotation: Any, info: FieldInfo | None = None) -> None:
        of, is_list = _kind(annotation)
        if is_list and info is not None:
            (longest,) = (one.max_length for one in info.metadata if hasattr(one, "max_length"))
            self.lengths[message, to_camel(attribute)] = longest
        if issubclass(of, BaseModel):
            self._add_message(message, attribute, self._add_model(of), is_list=is_list)
        elif of is datetime:
            self._put(message, Field(attribute, to_camel(attribute), is_list, None, None), TIMESTAMP)
        else:
            scalar, convert = SCALARS[of]
            self._put(message, Field(attribute, to_camel(attribute), is_list, None, convert), scalar)

    def _add_model(self, model: type[BaseModel]) -> str:
        """Declare a model under its own name; once for all that hold one."""
        message = f"{PACKAGE}.{model.__name__}"
        if message not in self.declared:
            for name, field in model.model_fields.items():
                self._add(message, name, field.annotation, field)
        return message

    def _add_message(self, message: str, attribute: str, part: str, *, is_list: bool = False) -> None:
        self._put(message, Field(attribute, to_camel(attribute), is_list, part, None), part)

    def _put(self, message: str, field: Field, declared: Scalar | str) -> None:
        fields = self.fields.setdefault(message, [])
        fields.append(field)
        self.declared.setdefault(message, []).append(FieldType(field.name, len(fields), declared, field.is_list))

    def fill(self, message: Message, name: str, source: object) -> None:
        """Fill a message from a model, or whatever has attributes of these names; what it has not stays absent.

        Raises:
            ValueError: a number beyond 64 bits.
        """
        for field in self.fields[name]:
            value = getattr(source, field.attribute, None)
            if value is None:
                continue
            if field.message is None:
                _put_scalar(message, field, value)
            elif field.is_list:
                parts = getattr(message, field.name)
                for one in value:
                    self.fill(parts.add(), field.message, one)
            else:
                self.fill(_part(message, field.name), field.message, value)


def _put_scalar(message: Message, field: Field, value: Any) -> None:
    if field.is_list:
        getattr(message, field.name).extend(value)
    elif field.convert is None:
        getattr(message, field.name).FromDatetime(value)
    else:
        setattr(message, field.name, field.convert(value))


def _kind(annotation: Any) -> tuple[type, bool]:
    """Tell what a field's annotation comes to: a type, and whether it is a list of it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        (one,) = (one for one in get_args(annotation) if one is not type(None))
        return _kind(one)
    if origin is tuple:
        return _kind(get_args(annotation)[0])[0], True
    if origin is Literal:
        return str, False
    return annotation, False


FORMS = Forms()

BODIES: Mapping[str, frozenset[EventType]] = {
    to_camel(name): frozenset(
        EventType(one.model_fields["event_type"].default) for one in EVENT_MODELS if name in one.model_fields
    )
    for model in EVENT_MODELS
    for name in model.model_fields
    if name not in EventBase.model_fields and name != "event_type"
}
"""The fields that not every event has, such as `order`, and the types of event that have them."""

_EVENT, _CUSTOMER, _TOTALS = (message_class(FORMS.pool, name) for name in (EVENT, CUSTOMER, TOTALS))


def variables(facts: Facts) -> dict[str, Any]:
    """Give each variable its value, for one event.

    Raises:
        ValueError: a number beyond 64 bits.
    """
    segments = sorted(str(one) for one in facts.customer.memberships if facts.customer.is_member(one, facts.now))
    return {
        "event": _event(facts),
        "customer": _customer(facts),
        "totals": _totals(facts),
        "segments": segments,
        "now": facts.now,
    }


def _event(facts: Facts) -> Message:
    message = _EVENT()
    FORMS.fill(message, EVENT, facts.event)
    _set(message, "eventType", str(facts.event_type))
    if isinstance(facts.event, BasketEvent) and facts.event_type == EventType.ORDER:
        # A basket is also looked at as the order that it may become.
        FORMS.fill(_part(message, "order"), f"{PACKAGE}.Order", facts.event.basket)
    return message


def _customer(facts: Facts) -> Message:
    message = _CUSTOMER()
    FORMS.fill(message, CUSTOMER, facts.customer)
    _set(message, "balance", facts.balance_before)
    return message


def _totals(facts: Facts) -> Message:
    message, totals = _TOTALS(), facts.customer.totals
    for name in COUNTED_TYPES:
        _set(_part(message, "counts"), name, totals.count(name))
    for name in VALUED_TYPES:
        _set(_part(message, "values"), name, float(totals.value(name)))
    _set(message, "spend", float(totals.spend))
    _set(message, "pointsEarned", totals.points_earned)
    return message


def _set(message: Message, name: str, value: object) -> None:
    setattr(message, name, value)


def _part(message: Message, name: str) -> Message:
    part: Message = getattr(message, name)
    part.SetInParent()
    return part
