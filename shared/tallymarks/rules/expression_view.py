"""What an expression looks at: typed messages, derived from the models of events and filled from one event's facts.

Most expressions look at one field or two, so a field is filled when the first expression of an event's rules needs it.

Types are what makes the check at save time worth something: an unknown field, a comparison of a number with a text and
a result that is no truth value are found there, and a field that is absent reads as empty instead of failing.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin
from uuid import UUID

from cel_expr_python import cel
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


class Path(NamedTuple):
    """A field that an expression looks at: variable and fields, such as event, order, total; or a whole variable."""

    steps: tuple[str, ...]

    def __str__(self) -> str:
        """Write it as in the expression."""
        return ".".join(self.steps)


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


class Step(NamedTuple):
    """One field that is to be filled, and what of the messages in it."""

    field: Field
    below: "Plan"


Plan = Mapping[str, Step]
"""What is to be filled of a message, by the names of its fields."""


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

    def plan(self, message: str, steps: tuple[str, ...]) -> Plan:
        """Say what of a message to fill for one field; where no step is left, all."""
        fields = [one for one in self.fields[message] if not steps or one.name == steps[0]]
        return {one.name: Step(one, self.plan(one.message, steps[1:]) if one.message else {}) for one in fields}


def _fill(message: Message, plan: Plan, source: object) -> None:
    """Fill a message from a model, or whatever has attributes of these names; what it has not stays absent.

    What is filled already is filled with the same again.

    Raises:
        ValueError: a number beyond 64 bits.
    """
    for field, below in plan.values():
        value = getattr(source, field.attribute, None)
        if value is None:
            continue
        if field.is_list:
            _fill_list(getattr(message, field.name), field, below, value)
        elif field.message is not None:
            _fill(_part(message, field.name), below, value)
        elif field.convert is None:
            getattr(message, field.name).FromDatetime(value)
        else:
            setattr(message, field.name, field.convert(value))


def _fill_list(parts: Any, field: Field, below: Plan, values: Iterable[Any]) -> None:
    del parts[:]
    if field.message is None:
        parts.extend(values)
    else:
        for one in values:
            _fill(parts.add(), below, one)


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


class View:
    """What the expressions look at for one event: each field is made once, when the first of them needs it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.variables: dict[str, Any] = {}
        self.failures: dict[Path, str] = {}
        """What could not be made, and why: it has a number beyond 64 bits."""
        self.activation: cel.Activation | None = None
        """What the library has made of the variables as they are."""
        self._made: set[Path] = set()

    def make(self, needs: Iterable[Path], facts: Facts) -> None:
        """See to it that of these facts there is what is needed, each field with all that is below it."""
        for path in needs:
            if path in self._made:
                continue
            self._made.add(path)
            self.activation = None
            try:
                self._make(path, facts)
            except ValueError as error:
                self.failures[path] = str(error)

    def _make(self, path: Path, facts: Facts) -> None:
        name = path.steps[0]
        if name == "now":
            self.variables[name] = facts.now
        elif name == "segments":
            current = (one for one in facts.customer.memberships if facts.customer.is_member(one, facts.now))
            self.variables[name] = sorted(map(str, current))
        else:
            if name not in self.variables:
                self.variables[name] = MESSAGES[name].made()
            MESSAGES[name].fill(self.variables[name], _plan(path), facts)


@cache
def _plan(path: Path) -> Plan:
    return FORMS.plan(MESSAGES[path.steps[0]].name, path.steps[1:])


def field_of(path: Path) -> Field:
    """Look up the field at the end of a path."""
    fields = _plan(path)
    for step in path.steps[1:-1]:
        fields = fields[step].below
    return fields[path.steps[-1]].field


def _fill_event(message: Message, plan: Plan, facts: Facts) -> None:
    _fill(message, plan, facts.event)
    if "eventType" in plan:
        _set(message, "eventType", str(facts.event_type))
    if "order" in plan and isinstance(facts.event, BasketEvent) and facts.event_type == EventType.ORDER:
        # A basket is also looked at as the order that it may become.
        _fill(_part(message, "order"), plan["order"].below, facts.event.basket)


def _fill_customer(message: Message, plan: Plan, facts: Facts) -> None:
    _fill(message, plan, facts.customer)
    if "balance" in plan:
        _set(message, "balance", facts.balance_before)


def _fill_totals(message: Message, plan: Plan, facts: Facts) -> None:
    totals = facts.customer.totals
    for name in plan["counts"].below if "counts" in plan else ():
        _set(_part(message, "counts"), name, totals.count(name))
    for name in plan["values"].below if "values" in plan else ():
        _set(_part(message, "values"), name, float(totals.value(name)))
    if "spend" in plan:
        _set(message, "spend", float(totals.spend))
    if "pointsEarned" in plan:
        _set(message, "pointsEarned", totals.points_earned)


class Filled(NamedTuple):
    """How a variable that is a message is made."""

    name: str
    made: Callable[[], Message]
    fill: Callable[[Message, Plan, Facts], None]


MESSAGES: Mapping[str, Filled] = {
    "event": Filled(EVENT, _EVENT, _fill_event),
    "customer": Filled(CUSTOMER, _CUSTOMER, _fill_customer),
    "totals": Filled(TOTALS, _TOTALS, _fill_totals),
}
VARIABLES = (*MESSAGES, "segments", "now")


def _set(message: Message, name: str, value: object) -> None:
    setattr(message, name, value)


def _part(message: Message, name: str) -> Message:
    part: Message = getattr(message, name)
    part.SetInParent()
    return part
