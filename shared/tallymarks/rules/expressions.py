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
from tallymarks.errors import shown
from tallymarks.events import EventType
from tallymarks.rules.expression_review import Fault, Path, Review
from tallymarks.rules.expression_view import CUSTOMER, EVENT, FORMS, TOTALS, variables
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


class Result(NamedTuple):
    """What an expression came to on one event."""

    matched: bool
    saw: str
    """The fields that it looked at, with their values; and why it failed, where it did."""


class View(NamedTuple):
    """What every expression looks at for one event: made once."""

    variables: dict[str, Any]
    activation: cel.Activation
    segments: int
    """How many the customer is in. Only what asks for them is handed them, and fails where they are too many."""


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression."""

    expression: cel.Expression
    paths: tuple[Path, ...]
    """The fields that it looks at."""
    event_types: frozenset[EventType]
    """The types of event that have all of them."""
    asks_segments: bool
    steps: int
    """What it takes at the most."""

    def evaluate(self, facts: Facts) -> Result:
        """Evaluate it for one event; whatever fails does not match, and says why."""
        view = view_of(facts)
        if isinstance(view, str):
            return Result(matched=False, saw=_cut(f"failed: {view}"))
        if self.asks_segments and view.segments > limits.EXPRESSION_SEGMENTS_MAX:
            reason = f"failed: the customer is in more than {limits.EXPRESSION_SEGMENTS_MAX} segments"
            return Result(matched=False, saw=reason)
        try:
            value = self.expression.eval(self._activation(view)).value()
        except RuntimeError as error:
            value = str(error)
        seen = [f"{path} {_seen(view, path)}" for path in self.paths]
        if isinstance(value, bool):
            return Result(value, _cut(", ".join(seen) or str(value).lower()))
        return Result(matched=False, saw=_cut(", ".join([f"failed: {_without_noise(str(value))}", *seen])))

    def _activation(self, view: View) -> cel.Activation:
        """Give what it is evaluated on: what evaluations on one activation make is freed with it only."""
        is_small = self.steps <= limits.EXPRESSION_STEPS_SHARED_MAX
        return view.activation if is_small else _ENVIRONMENT.Activation(view.variables)


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
    paths = tuple(review.paths)[: limits.EXPRESSION_FIELDS_SEEN_MAX]
    return Program(expression, paths, review.event_types, "segments" in review.names, review.steps)


def view_of(facts: Facts) -> View | str:
    """Give what expressions look at, made once for one event; or why it cannot be handed in."""
    view = facts.memo.get(View)
    if view is None:
        try:
            values = variables(facts)
            view = View(values, _ENVIRONMENT.Activation(values), len(values["segments"]))
        except ValueError as error:
            view = str(error)
        facts.memo[View] = view
    known: View | str = view
    return known


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
    return shown(text, limits.SAW_LENGTH_MAX) or ""


def _seen(view: View, path: Path) -> str:
    """Write the value at a path as the explanation shows it."""
    value: Any = view.variables[path.steps[0]]
    for step in path.steps[1:]:
        field = value.DESCRIPTOR.fields_by_name[step]
        if field.is_repeated:
            return f"has {len(getattr(value, step))}"
        if not value.HasField(step):
            return "is absent"
        value = getattr(value, step)
    if hasattr(value, "ToDatetime"):
        return f"= {format_instant(value.ToDatetime(UTC))}"
    return "is there" if hasattr(value, "DESCRIPTOR") else f"= {value!r}"
