"""What an expression may hold: looked at once, in the form in which the library has read it, when its rule is saved.

The library stops an evaluation after 10,000 iterations and knows no other bound: three hundred characters that double a
text in a row of loops take all memory, one counted pattern takes a third of a second, comparing two orders in a loop
takes minutes. So what can grow is left out (texts and lists that are joined, structures that are made), functions are
those of a list, and the rest is costed for the largest event and customer that there can be.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from google.protobuf.message import DecodeError

from tallymarks import limits
from tallymarks.events import EventType
from tallymarks.rules.expression_types import FieldType, Scalar, declare, message_class
from tallymarks.rules.expression_view import BODIES, FORMS, VARIABLES, Path

PACKAGE = "cel.expr"


def _type(name: str) -> str:
    return f"{PACKAGE}.{name}"


_TREE = {
    _type("Any"): [FieldType("value", 2, Scalar.BYTES)],
    _type("CheckedExpr"): [
        FieldType("types", 3, _type("TypeEntry"), is_list=True),
        FieldType("expr", 4, _type("Expr")),
        FieldType("source", 5, _type("SourceInfo")),
    ],
    _type("SourceInfo"): [FieldType("positions", 4, _type("PositionEntry"), is_list=True)],
    _type("PositionEntry"): [FieldType("key", 1, Scalar.WHOLE), FieldType("value", 2, Scalar.WHOLE)],
    _type("TypeEntry"): [FieldType("key", 1, Scalar.WHOLE), FieldType("value", 2, _type("Type"))],
    _type("Type"): [
        FieldType("primitive", 3, Scalar.WHOLE),
        FieldType("well_known", 5, Scalar.WHOLE),
        FieldType("list", 6, _type("ListType")),
        FieldType("message", 9, Scalar.TEXT),
    ],
    _type("ListType"): [FieldType("of", 1, _type("Type"))],
    _type("Expr"): [
        FieldType("id", 2, Scalar.WHOLE),
        FieldType("constant", 3, _type("Constant")),
        FieldType("name", 4, _type("Name")),
        FieldType("select", 5, _type("Select")),
        FieldType("call", 6, _type("Call")),
        FieldType("list", 7, _type("List")),
        FieldType("struct", 8, _type("Struct")),
        FieldType("loop", 9, _type("Loop")),
    ],
    _type("Constant"): [FieldType("text", 6, Scalar.TEXT)],
    _type("Name"): [FieldType("name", 1, Scalar.TEXT)],
    _type("Select"): [
        FieldType("operand", 1, _type("Expr")),
        FieldType("field", 2, Scalar.TEXT),
        FieldType("is_test", 3, Scalar.FLAG),
    ],
    _type("Call"): [
        FieldType("target", 1, _type("Expr")),
        FieldType("function", 2, Scalar.TEXT),
        FieldType("arguments", 3, _type("Expr"), is_list=True),
    ],
    _type("List"): [FieldType("elements", 1, _type("Expr"), is_list=True)],
    _type("Struct"): [FieldType("name", 1, Scalar.TEXT)],
    _type("Loop"): [
        FieldType("variable", 1, Scalar.TEXT),
        FieldType("range", 2, _type("Expr")),
        FieldType("initial", 4, _type("Expr")),
        FieldType("step", 6, _type("Expr")),
    ],
}
"""The part of the specification's `cel/expr/checked.proto` and `syntax.proto` that is looked at, under our names."""

_POOL = declare(PACKAGE, _TREE)
_ANY, _CHECKED = (message_class(_POOL, _type(name)) for name in ("Any", "CheckedExpr"))

# Steps, of about 10 ns each, as measured.
NODE_STEPS = 1
ITERATION_STEPS = 8
APPEND_STEPS = 4
"""For each element that the list has already: the library copies it."""
SEARCH_STEPS = 20
CONVERSION_STEPS = 100
MATCH_STEPS = 500
PATTERN_STEPS = 120
"""For each character of a pattern, as often as a count repeats it: the library compiles it anew at each evaluation."""

SEARCHES = ("contains", "startsWith", "endsWith")
PARTS_OF_TIME = (
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
)
CONVERSIONS = ("int", "double", "string", "bool", "timestamp", "duration")
OPERATORS = ("_&&_", "_||_", "!_", "_?_:_", "_<_", "_<=_", "_>_", "_>=_", "_-_", "_*_", "_/_", "_%_", "-_", "_[_]")
COMPARISONS = ("_==_", "_!=_", "@in")
STEPS: Mapping[str, int] = {
    "@not_strictly_false": 0,
    "size": NODE_STEPS,
    "_+_": NODE_STEPS,
    "matches": MATCH_STEPS,
    **dict.fromkeys((*OPERATORS, *COMPARISONS), NODE_STEPS),
    **dict.fromkeys(SEARCHES, SEARCH_STEPS),
    **dict.fromkeys((*CONVERSIONS, *PARTS_OF_TIME), CONVERSION_STEPS),
}
"""The functions that there are, and what each costs beside its arguments."""

_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}", re.ASCII)
_CLASS_OF_UNICODE = re.compile(r"\\[pP]")
_TIME_ZONE = re.compile(r"UTC|[A-Za-z_]+(/[A-Za-z0-9_+-]+)+|[+-][0-9]{2}:[0-9]{2}", re.ASCII)
"""No name that could be the path of any other file, and none that means another zone on another machine."""


class Fault(ValueError):  # noqa: N818 - it is an answer, not a failure of the program
    """Why a text is no expression that a rule may have, and where: line and column from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        """Say where and why."""
        super().__init__(f"{line}:{column}: {message}")


@dataclass
class Review:
    """What was found in one expression."""

    source: str
    is_pattern: Callable[[str], bool]
    is_time_zone: Callable[[str], bool]
    steps: int = 0
    needs: dict[Path, None] = field(default_factory=dict)
    """All that it looks at: variables, and fields with all that is below them."""
    paths: dict[Path, None] = field(default_factory=dict)
    """The fields that it names, in the order of the text."""
    event_types: frozenset[EventType] = frozenset(EventType)
    """The types of event that have all of its fields."""
    _types: dict[int, Any] = field(default_factory=dict)
    _positions: dict[int, int] = field(default_factory=dict)

    def read(self, serialized: bytes) -> None:
        """Look at an expression as the library serializes it.

        Raises:
            Fault: it holds what it may not, or costs too much.
        """
        try:
            checked: Any = _CHECKED.FromString(_value_of(_ANY.FromString(serialized)))
        except DecodeError:
            raise Fault(1, 1, "nested too deeply") from None
        self._types = {entry.key: entry.value for entry in checked.types}
        self._positions = {entry.key: entry.value for entry in checked.source.positions}
        self._look(checked.expr, 1, frozenset())

    def _look(self, expr: Any, times: int, bound: frozenset[str]) -> None:
        """Look at one node that is evaluated so many times; `bound` has the names of the loops around it."""
        self._pay(expr, times * NODE_STEPS)
        if expr.HasField("name"):
            self._need(expr, bound, ())
        elif expr.HasField("select"):
            self._look_at_field(expr, times, bound)
        elif expr.HasField("call"):
            self._look_at_call(expr, times, bound)
        elif expr.HasField("list"):
            for element in expr.list.elements:
                self._require_scalar(element, "a list may only hold texts, numbers, truth values and times")
                self._look(element, times, bound)
        elif expr.HasField("struct"):
            self._refuse(expr, "maps and messages cannot be made in an expression")
        elif expr.HasField("loop"):
            self._look_at_loop(expr, times, bound)

    def _look_at_field(self, expr: Any, times: int, bound: frozenset[str]) -> None:
        """Look at a field, of a field, and so on, down to a variable or whatever else has the first of them."""
        place, steps = expr, [expr.select.field]
        while (expr := expr.select.operand).HasField("select"):
            self._pay(expr, times * NODE_STEPS)
            steps.append(expr.select.field)
        if not expr.HasField("name"):
            self._look(expr, times, bound)
            return
        self._pay(expr, times * NODE_STEPS)
        path = self._need(expr, bound, tuple(reversed(steps)))
        if path is None:
            return
        if path.steps[0] == "event" and path.steps[1] in BODIES:
            self.event_types &= BODIES[path.steps[1]]
            if not self.event_types:
                self._refuse(place, "no event has this field together with those before it")
        if not any(known.steps[: len(path.steps)] == path.steps for known in self.paths):
            self.paths[path] = None

    def _need(self, expr: Any, bound: frozenset[str], steps: tuple[str, ...]) -> Path | None:
        """Note what is looked at of a variable; what a loop has bound is no variable, but part of what it runs over."""
        # In a loop that has bound the name of a variable, the variable is the name with a dot before it.
        name = expr.name.name.removeprefix(".")
        if expr.name.name in bound or name not in VARIABLES:
            return None
        path = Path((name, *steps))
        self.needs[path] = None
        return path

    def _look_at_call(self, expr: Any, times: int, bound: frozenset[str]) -> None:
        call = expr.call
        arguments = [*([call.target] if call.HasField("target") else []), *call.arguments]
        if call.function not in STEPS:
            self._refuse(expr, f"there is no {call.function} in expressions")
        self._pay(expr, times * STEPS[call.function])
        if call.function in COMPARISONS:
            self._look_at_comparison(expr, arguments, times)
        elif call.function == "_+_" and not all(map(self._is_number_or_time, arguments)):
            self._refuse(expr, "only numbers and times can be added")
        elif call.function == "matches":
            self._look_at_pattern(expr, arguments[1], times)
        elif call.function in PARTS_OF_TIME and arguments[1:]:
            text = self._literal(arguments[1], "a time zone")
            if not _TIME_ZONE.fullmatch(text) or not self.is_time_zone(text):
                self._refuse(arguments[1], "no time zone, such as Europe/Berlin or +01:00")
        for argument in arguments:
            self._look(argument, times, bound)

    def _look_at_comparison(self, expr: Any, arguments: Iterable[Any], times: int) -> None:
        left, right = arguments
        self._require_scalar(left, "only texts, numbers, truth values and times can be compared")
        if expr.call.function == "@in":
            self._pay(expr, times * self._length(right))

    def _look_at_pattern(self, expr: Any, pattern: Any, times: int) -> None:
        text = self._literal(pattern, "a pattern")
        repeats = 1
        for least, most in _COUNTED.findall(text):
            repeats *= max(1, int(most or least))
        if len(text) > limits.EXPRESSION_PATTERN_LENGTH_MAX or repeats > limits.EXPRESSION_PATTERN_REPEATS_MAX:
            self._refuse(pattern, "the pattern is too long, or repeats too often by a count")
        if _CLASS_OF_UNICODE.search(text):
            self._refuse(pattern, r"\p and \P are not available in patterns")
        self._pay(expr, times * PATTERN_STEPS * len(text) * repeats)
        if not self.is_pattern(text):
            self._refuse(pattern, "no regular expression (RE2)")

    def _look_at_loop(self, expr: Any, times: int, bound: frozenset[str]) -> None:
        loop = expr.loop
        self._look(loop.range, times, bound)
        length = self._length(loop.range)
        inner = min(times * length, limits.EXPRESSION_ITERATIONS_MAX)
        bound |= {loop.variable, "@result"}
        self._pay(expr, inner * ITERATION_STEPS)
        if loop.initial.HasField("list"):
            self._pay(expr, inner * length * APPEND_STEPS)
            for one in _parts_of_append(loop.step):
                self._look(one, inner, bound)
        else:
            self._look(loop.step, inner, bound)

    def _length(self, expr: Any) -> int:
        """Give the greatest length that a list can have: none gets longer than what is handed in or written out."""
        if expr.HasField("list"):
            return len(expr.list.elements)
        if expr.HasField("select"):
            of = self._types[expr.select.operand.id].message
            return FORMS.lengths.get((of, expr.select.field), _LENGTH_MAX)
        if expr.HasField("loop"):
            return self._length(expr.loop.range)
        return _LENGTH_MAX

    def _literal(self, expr: Any, what: str) -> str:
        if not expr.HasField("constant") or not expr.constant.HasField("text"):
            self._refuse(expr, f"{what} must be written out")
        text: str = expr.constant.text
        return text

    def _is_number_or_time(self, expr: Any) -> bool:
        of = self._types[expr.id]
        return of.primitive in _NUMBERS or of.well_known in _TIMES

    def _require_scalar(self, expr: Any, message: str) -> None:
        of = self._types[expr.id]
        if not of.HasField("primitive") and of.well_known not in _TIMES:
            self._refuse(expr, message)

    def _pay(self, expr: Any, steps: int) -> None:
        self.steps += steps
        if self.steps > limits.EXPRESSION_STEPS_MAX:
            self._refuse(expr, "the expression takes too many steps on the largest event that there can be")

    def _refuse(self, expr: Any, message: str) -> NoReturn:
        before = self.source[: self._positions.get(expr.id, 0)]
        raise Fault(before.count("\n") + 1, len(before) - before.rfind("\n"), message)


_NUMBERS = (2, 4)
"""Of the specification's primitive types: whole and double. (1 is truth values, 5 texts.)"""
_TIMES = (2, 3)
"""Of its well-known types: timestamp and duration."""
_LENGTH_MAX = max(*FORMS.lengths.values(), limits.EXPRESSION_SEGMENTS_MAX, limits.EXPRESSION_LENGTH_MAX)


def _value_of(message: Any) -> bytes:
    value: bytes = message.value
    return value


def _parts_of_append(step: Any) -> Iterable[Any]:
    """Give what `filter` and `map` evaluate for each element: their own appending is no adding of lists."""
    if step.call.function == "_?_:_":
        condition, step = step.call.arguments[0], step.call.arguments[1]
        yield condition
    yield from step.call.arguments[1].list.elements
