"""Expressions: the engine side of CEL, the Common Expression Language. Text in, a truth value out, never an exception.

The library holds Python's lock while it evaluates, so that no thread of its own would help against a slow expression:
what one may cost is bounded before it is ever evaluated (`expression_review`).
"""

import re
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from typing import Any, NamedTuple

from cel_expr_python import cel

from tallymarks import limits
from tallymarks.errors import cut
from tallymarks.events import EventType
from tallymarks.rules.criterion import Check
from tallymarks.rules.expression_review import Fault, Review
from tallymarks.rules.expression_view import CUSTOMER, EVENT, FORMS, TOTALS, Field, Path, View, field_of
from tallymarks.rules.facts import Facts
from tallymarks.values import format_instant

_ENVIRONMENT = cel.NewEnv(
    FORMS.pool,
    variables={
        "event": cel.Type(EVENT),
        "customer": cel.Type(CUSTOMER),
        "totals": cel.Type(TOTALS),
        "segments": cel.Type.List(cel.Type.STRING),
        "now": cel.Type.TIMESTAMP,
    },
)
_TEXTS = cel.NewEnv(variables={"text": cel.Type.STRING})
_MATCHES = _TEXTS.compile("''.matches(text) == true")
_IN_TIME_ZONE = _TEXTS.compile("timestamp(0).getHours(text) >= 0")

_OVERLOAD = re.compile(r"found no matching overload for '(.+)' applied to '(.+)'")
_FAULT = re.compile(r"ERROR: <input>:(-?[0-9]+):(-?[0-9]+): (.*)")
_NOISE = re.compile(r"^[A-Z_]+: | expecting \{.*| \(in container ''\)|tallymarks\.(?=[A-Z])| \[[A-Z_]+\]$")
"""What the library adds to a message: its kind of error before and behind, all that could follow, the packages."""


class Shown(NamedTuple):
    """A field that is shown with what an expression came to."""

    text: str
    """Its path, as it is written."""
    variable: str
    outer: tuple[str, ...]
    """The messages on the way to it."""
    field: Field

    @classmethod
    def of(cls, path: Path) -> "Shown":
        """Look up once what does not change from event to event."""
        variable, *outer, _ = path.steps
        return cls(str(path), variable, tuple(outer), field_of(path))

    def seen(self, view: View) -> str:
        """Write what is there as the explanation shows it."""
        return f"{self.text} {self._value(view.variables[self.variable])}"

    def _value(self, message: Any) -> str:
        for step in self.outer:
            if not message.HasField(step):
                return "is absent"
            message = getattr(message, step)
        _, name, is_list, part, convert = self.field
        if is_list:
            return f"has {len(getattr(message, name))}"
        if not message.HasField(name):
            return "is absent"
        if part is not None:
            return "is there"
        value = getattr(message, name)
        return f"= {value!r}" if convert is not None else f"= {format_instant(value.ToDatetime(UTC))}"


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression."""

    expression: cel.Expression
    shown: tuple[Shown, ...]
    """The fields that are shown with what it came to."""
    needs: tuple[Path, ...]
    """All that it looks at: nothing else is made of an event for it."""
    event_types: frozenset[EventType]
    """The types of event that have all of them."""
    asks_segments: bool
    steps: int
    """What it takes at the most."""

    def evaluate(self, facts: Facts) -> Check:
        """Evaluate it for one event; whatever fails does not match, and says why.

        What it saw are the fields that it looked at, with their values.
        """
        view: View | None = facts.memo.get(View)
        if view is None:
            view = facts.memo[View] = View()
        view.make(self.needs, facts)
        if view.failures and (reasons := [view.failures[path] for path in self.needs if path in view.failures]):
            return Check(matched=False, saw=_cut(f"failed: {reasons[0]}"))
        if self.asks_segments and len(view.variables["segments"]) > limits.EXPRESSION_SEGMENTS_MAX:
            reason = f"failed: the customer is in more than {limits.EXPRESSION_SEGMENTS_MAX} segments"
            return Check(matched=False, saw=reason)
        try:
            value = self.expression.eval(self._activation(view)).value()
        except RuntimeError as error:
            value = str(error)
        seen = [field.seen(view) for field in self.shown]
        if isinstance(value, bool):
            return Check(value, _cut(", ".join(seen) or str(value).lower()))
        return Check(matched=False, saw=_cut(", ".join([f"failed: {_without_noise(str(value))}", *seen])))

    def _activation(self, view: View) -> cel.Activation:
        """Give what it is evaluated on: what evaluations on one activation make is freed with it only."""
        if self.steps > limits.EXPRESSION_STEPS_SHARED_MAX:
            return _ENVIRONMENT.Activation(view.variables)
        if view.activation is None:
            view.activation = _ENVIRONMENT.Activation(view.variables)
        return view.activation


@lru_cache(limits.EXPRESSIONS_CACHED_MAX)
def compiled(source: str) -> Program | Fault:
    """Compile an expression, or tell why it is none; the same text only once, however often its rule is read."""
    try:
        return _compile(source)
    except Fault as fault:
        return fault


def _compile(source: str) -> Program:
    if len(source) > limits.EXPRESSION_LENGTH_MAX:
        raise Fault(1, 1, f"longer than {limits.EXPRESSION_LENGTH_MAX} characters")
    try:
        expression = _ENVIRONMENT.compile(source)
    except RuntimeError as error:
        raise _fault(str(error)) from None
    result = expression.return_type()
    if result != cel.Type.BOOL:
        raise Fault(1, 1, f"the result must be true or false, and is {_without_noise(result.name()).lower()}")
    review = Review(source, is_pattern=_is_pattern, is_time_zone=_is_time_zone)
    review.read(expression.serialize())
    fields = tuple(map(Shown.of, review.paths))[: limits.EXPRESSION_FIELDS_SEEN_MAX]
    asks_segments = any(path.steps[0] == "segments" for path in review.needs)
    return Program(expression, fields, tuple(review.needs), review.event_types, asks_segments, review.steps)


def _is_pattern(text: str) -> bool:
    return isinstance(_MATCHES.eval(data={"text": text}).value(), bool)


def _is_time_zone(text: str) -> bool:
    return isinstance(_IN_TIME_ZONE.eval(data={"text": text}).value(), bool)


def _fault(text: str) -> Fault:
    """Turn the library's message into ours: its first place, without its drawing."""
    found = _FAULT.search(text)
    if found is None or "recursion" in text:
        return Fault(1, 1, "nested too deeply" if "recursion" in text else _without_noise(text))
    line, column = (max(1, int(number)) for number in found.groups()[:2])
    return Fault(line, column, _without_noise(found[3]))


def _without_noise(text: str) -> str:
    text = _NOISE.sub("", _NOISE.sub("", text)).strip()
    return _OVERLOAD.sub(lambda found: f"{found[1].replace('_', '').lstrip('@')} does not take {found[2]}", text)


def _cut(text: str) -> str:
    return cut(text, limits.SAW_LENGTH_MAX)
