"""The criterion that is written in an expression language, for what no other criterion says."""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from tallymarks.events import EventType
from tallymarks.rules.criterion import RULE_TYPES, Check, CriterionBase
from tallymarks.rules.expression_review import Fault
from tallymarks.rules.expressions import Program, compiled
from tallymarks.rules.facts import Facts
from tallymarks.values import ExpressionText


class Expression(CriterionBase):
    """Matches when a CEL expression over `event`, `customer`, `totals`, `segments` and `now` is true."""

    type: Literal["expression"]
    expression: Annotated[ExpressionText, Field(examples=["event.order.total > 50.0"])]
    """Its result must be true or false; docs/expressions.md tells what it may hold."""

    @property
    def sees_memberships(self) -> bool:
        """Whether it asks for segments."""
        return isinstance(self.program, Program) and self.program.asks_segments

    @cached_property
    def program(self) -> Program | Fault:
        """Compiled with the rule that it stands in; or why it is no expression."""
        return compiled(self.expression)

    def check(self, facts: Facts) -> Check:
        """Evaluate it; where that fails the event does not match, and `saw` says why."""
        program = self.program
        if isinstance(program, Fault):
            return Check(matched=False, saw=f"failed: {program}")
        return program.evaluate(facts)

    def event_types(self) -> frozenset[EventType]:
        """Name the types of event that have the fields it looks at; all of them where it cannot be read."""
        program = self.program
        return RULE_TYPES if isinstance(program, Fault) else RULE_TYPES & program.event_types
