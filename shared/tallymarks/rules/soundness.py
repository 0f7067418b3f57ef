"""What a rule may not be, beyond the form of its parts: one that can never match, or that works against itself.

Asked when a caller saves or tries a rule, never of a stored one: a rule that was taken once must always load.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from tallymarks.events import EventType
from tallymarks.rules.claims import Allowed, both
from tallymarks.rules.criteria import Criterion
from tallymarks.rules.criteria_expression import Expression
from tallymarks.rules.criteria_memory import CountSince
from tallymarks.rules.expression_review import Fault
from tallymarks.rules.fulfilments import AddToSegment, Fulfilment, RemoveFromSegment
from tallymarks.values import format_instant

Place = tuple[str | int, ...]


class Problem(NamedTuple):
    """One thing that is wrong with a rule."""

    place: Place
    """Where, as JSON names it: `criteria`, 2, `value`."""
    message: str
    value: object
    """What stands there."""


def problems(
    event_type: EventType, criteria: Sequence[Criterion], fulfilments: Sequence[Fulfilment], to_at: datetime | None
) -> Iterator[Problem]:
    """Find what is wrong with a rule whose parts are each of their form.

    Only what is certain is a problem: what contradicts itself in an `expression`, or only together with what a customer
    can be, is left to whoever tries the rule.
    """
    yield from _faults(criteria)
    yield from _misfits(event_type, "criteria", criteria)
    yield from _misfits(event_type, "fulfilments", fulfilments)
    yield from _contradictions(event_type, criteria)
    yield from _beginnings_after_the_end(criteria, to_at)
    yield from _loops(fulfilments)


def require(found: Iterator[Problem], title: str) -> None:
    """Refuse a rule with problems, from within the validation of its form.

    Raises:
        ValidationError: with the place of each, which pydantic puts below the place of the rule itself.
    """
    details = [
        InitErrorDetails(
            type=PydanticCustomError("unsound", "{problem}", {"problem": problem.message}),
            loc=problem.place,
            input=problem.value,
        )
        for problem in found
    ]
    if details:
        raise ValidationError.from_exception_data(title, details)


def _faults(criteria: Sequence[Criterion]) -> Iterator[Problem]:
    for index, criterion in enumerate(criteria):
        if isinstance(criterion, Expression) and isinstance(criterion.program, Fault):
            yield Problem(("criteria", index, "expression"), str(criterion.program), criterion.expression)


def _misfits(event_type: EventType, kind: str, parts: Sequence[Criterion] | Sequence[Fulfilment]) -> Iterator[Problem]:
    for index, part in enumerate(parts):
        if event_type not in part.event_types():
            fitting = ", ".join(sorted(part.event_types()))
            message = f"{part.type} goes with events of type {fitting}, not {event_type}"
            yield Problem((kind, index, "type"), message, part.type)


def _contradictions(event_type: EventType, criteria: Sequence[Criterion]) -> Iterator[Problem]:
    """Put together, subject by subject, what the criteria claim; the first that leaves nothing is at fault."""
    so_far: dict[str, tuple[Allowed, list[str]]] = {}
    for index, criterion in enumerate(criteria):
        if event_type not in criterion.event_types():
            continue
        for claim in criterion.claims(event_type):
            place = ("criteria", index, claim.field)
            if claim.allowed.is_empty:
                yield Problem(place, "no event can match this", _at(criterion, claim.field))
                continue
            allowed, others = so_far.get(claim.subject, (claim.allowed, []))
            allowed = both(allowed, claim.allowed)
            if allowed.is_empty:
                message = f"no event can match this together with {', '.join(others)}"
                yield Problem(place, message, _at(criterion, claim.field))
            else:
                so_far[claim.subject] = (allowed, [*others, f"criteria.{index}"])


def _beginnings_after_the_end(criteria: Sequence[Criterion], to_at: datetime | None) -> Iterator[Problem]:
    for index, criterion in enumerate(criteria):
        if isinstance(criterion, CountSince) and to_at is not None and criterion.since >= to_at:
            message = "since must be before toAt: the rule looks at no event that late"
            yield Problem(("criteria", index, "since"), message, format_instant(criterion.since))


def _loops(fulfilments: Sequence[Fulfilment]) -> Iterator[Problem]:
    """Find a segment that the rule both adds to and removes from, at the later of the two."""
    first: dict[UUID, tuple[int, type[Fulfilment]]] = {}
    for index, fulfilment in enumerate(fulfilments):
        if isinstance(fulfilment, AddToSegment | RemoveFromSegment):
            at, kind = first.setdefault(fulfilment.segment_id, (index, type(fulfilment)))
            if kind is not type(fulfilment):
                message = f"the rule would undo fulfilments.{at}: it adds to and removes from one segment"
                yield Problem(("fulfilments", index, "segmentId"), message, str(fulfilment.segment_id))


def _at(criterion: Criterion, field: str) -> object:
    return criterion.model_dump(mode="json")[field]
