"""Asking the rules of a rule set about an event: what does not change from event to event is worked out once.

Rules have many criteria in common, such as the nameSpace of one shop: what all of them ask is asked once an event.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import orjson

from tallymarks.rules.criteria import Check, Criterion
from tallymarks.rules.facts import Facts
from tallymarks.rules.rule import Rule
from tallymarks.rules.uses import Limited


class Question(NamedTuple):
    """A criterion, which any number of rules of a rule set have."""

    number: int
    """No other criterion of the rule set has it."""
    check: Callable[[Facts], Check]


class Questions:
    """The criteria of a rule set, each once."""

    def __init__(self) -> None:
        """Begin with none."""
        self._by_criterion: dict[Criterion, Question] = {}

    def of(self, criterion: Criterion) -> Question:
        """Give the question that a criterion is; equal ones see the same in every event."""
        known = self._by_criterion.get(criterion)
        if known is None:
            known = self._by_criterion[criterion] = Question(len(self._by_criterion), criterion.check)
        return known


class Considered:
    """How one rule looked at an event: one of the few ways in which it can end, of which each is made once."""

    __slots__ = ("asked", "kept", "limited", "matched", "rule")

    def __init__(self, rule: Rule, asked: tuple[int, ...], *, matched: bool, limited: Limited | None = None) -> None:
        """Take the rule, the numbers of its criteria up to the first that did not match, and what came of it."""
        self.rule = rule
        self.asked = asked
        self.matched = matched
        self.limited = limited
        """The limit that the match ran into: it has no effect then."""
        ending = [limited] if matched else []
        self.kept = orjson.Fragment(orjson.dumps([rule.rule_id.hex, rule.version, asked, *ending]))
        """As it stands in the explanation of an event, where most rules are some that did not match."""

    @property
    def takes_effect(self) -> bool:
        """Whether the rule's fulfilments are due."""
        return self.matched and self.limited is None


class AskedRule:
    """A rule of a rule set, ready to be asked."""

    __slots__ = ("_matched", "_steps", "is_ranged", "rule")

    def __init__(self, rule: Rule, questions: Iterable[Question]) -> None:
        """Take the rule, and its criteria as questions."""
        asked = tuple(questions)
        numbers = tuple(question.number for question in asked)
        self.rule = rule
        self._matched = Considered(rule, numbers, matched=True)
        self._steps = tuple(
            (number, check, Considered(rule, numbers[: place + 1], matched=False))
            for place, (number, check) in enumerate(asked)
        )
        """Each criterion, and how it ends where that does not match."""
        self.is_ranged = any((rule.from_at, rule.to_at, rule.effective_from, rule.effective_to))
        """Whether there are events of its type that it does not apply to: most rules have no ends."""

    def consider(self, facts: Facts, checks: dict[int, Check]) -> Considered:
        """Ask each criterion in turn, up to the first that does not match.

        Args:
            facts: the event and its customer.
            checks: how criteria have looked at them so far, by number; what is asked here is put there.
        """
        for number, check, otherwise in self._steps:
            known = checks.get(number)
            if known is None:
                known = checks[number] = check(facts)
            if not known.matched:
                return otherwise
        return self._matched

    def limited_by(self, limit: Limited) -> Considered:
        """Give how it ends where it matches and has reached this limit."""
        return Considered(self.rule, self._matched.asked, matched=True, limited=limit)
