"""Why an event did what it did: kept compactly with the event, told in full when somebody asks.

What is kept are the rules that were asked, with what each of their criteria saw and what each fulfilment made. What a
criterion wanted is not kept: the version of the rule says it, and versions never change.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from tallymarks.events import EventType
from tallymarks.rules.assessment import Step, points_event_id
from tallymarks.rules.criteria import Criterion
from tallymarks.rules.evaluate import Outcome
from tallymarks.rules.fulfilment import (
    GivePoints,
    GrantDiscount,
    GrantVoucher,
    JoinSegment,
    LeaveSegment,
    ScheduleTrigger,
)
from tallymarks.rules.fulfilments import Fulfilment
from tallymarks.rules.rule import Rule
from tallymarks.rules.triggers import trigger_id_of
from tallymarks.rules.uses import Limited
from tallymarks.values import Amount, Instant, Model


class VersionKey(NamedTuple):
    """One version of a rule."""

    rule_id: UUID
    version: int


class CriterionExplanation(Model):
    """How one criterion looked at the event."""

    wanted: Criterion
    """The criterion, as the rule has it."""
    matched: bool | None
    """Null where it was not asked: one before it did not match."""
    saw: str | None
    """What it found; null where there was nothing to see, or it was not asked."""


class FulfilmentExplanation(Model):
    """What one fulfilment made of the event."""

    wanted: Fulfilment
    """The fulfilment, as the rule has it."""
    has_effect: bool
    """False where the rule did not match or was limited, or there was nothing to do: no whole point, no membership."""
    amount: int | None = None
    """The points that were given or taken."""
    transaction_id: UUID | None = None
    """Their points transaction."""
    points_event_id: UUID | None = None
    """The points event that the transaction is; none for a basket, of which nothing is kept."""
    expiry_date_time: Instant | None = None
    """When the membership that was given lapses; null is never."""
    trigger_id: UUID | None = None
    """The action event that will be made."""
    due_at: Instant | None = None
    """When it will be made."""
    discount: Amount | None = None
    """What is to be taken off."""


class RuleExplanation(Model):
    """How one rule looked at the event."""

    rule_id: UUID
    version: int
    name: str
    matched: bool
    limited_by: Limited | None
    """The limit that kept a match from taking effect."""
    criteria: tuple[CriterionExplanation, ...]
    fulfilments: tuple[FulfilmentExplanation, ...]


class Explanation(Model):
    """How an event was assessed."""

    depth: int
    """0; of a points event that followed from another event how many lie before it."""
    source_event_id: UUID | None
    """Of such a points event: the event that it followed from."""
    is_assessed: bool
    """False of a points event that lies too deep."""
    rules: tuple[RuleExplanation, ...]
    """The rules that were asked, in the order of their effects: not those of which a text of the event tells that they
    cannot match (a nameSpace, reference, campaign, attribute, or a text of items or payments that it does not have)."""


class KeptRule(NamedTuple):
    """What is kept of one rule."""

    rule_id: str
    version: int
    matched: bool
    limited_by: str | None
    saw: Sequence[str | None]
    """What its criteria saw, up to the first that did not match."""
    made: Sequence[Sequence[Any]]
    """Fulfilment index, id and value of each effect."""


def are_unasked(followed: Sequence[Step]) -> bool:
    """Tell whether no rule was asked about any of the points events that followed from an event.

    Nothing but that is kept of them then, with the event: most tenants have no rules on points.
    """
    return bool(followed) and all(step.outcome is not None and not step.outcome.considered for step in followed)


def compact(step: Step, transaction_ids: Iterable[UUID], *, followed_unasked: bool = False) -> bytes:
    """Give what is kept of an assessed event, as JSON.

    Args:
        step: the event and what it did.
        transaction_ids: the points transactions that were made of its effects, in their order.
        followed_unasked: whether this is all that is kept of the points events that followed from it, too.
    """
    event_id, depth, source_event_id = step.event.event_id, step.depth, step.source_event_id
    return _compact(event_id, step.outcome, depth, source_event_id, transaction_ids, followed_unasked=followed_unasked)


def explain(
    event_id: UUID, outcome: Outcome | None, *, depth: int = 0, source_event_id: UUID | None = None
) -> Explanation:
    """Tell in full how an event would be assessed, of which nothing is kept: its transactions have no ids.

    Args:
        event_id: the event.
        outcome: what rules made of it; None where it lies too deep.
        depth: how many events lie before it.
        source_event_id: the one that it follows from.
    """
    considered = () if outcome is None else outcome.considered
    rules = {VersionKey(one.rule.rule_id, one.rule.version): one.rule for one in considered}
    return expand(event_id, _compact(event_id, outcome, depth, source_event_id, ()), rules)


def _compact(
    event_id: UUID,
    outcome: Outcome | None,
    depth: int,
    source_event_id: UUID | None,
    transaction_ids: Iterable[UUID],
    *,
    followed_unasked: bool = False,
) -> bytes:
    """Write what each criterion saw once, and each rule as it is known beforehand: with the numbers of its criteria."""
    whole: dict[str, Any] = {"depth": depth, "source": source_event_id, "assessed": outcome is not None, "rules": ()}
    if outcome is not None and outcome.considered:
        whole["rules"] = [considered.kept for considered in outcome.considered]
        whole["criteria"] = list(outcome.checks)
        whole["saw"] = [check.saw for check in outcome.checks.values()]
        whole["made"] = _made(event_id, outcome, iter(transaction_ids))
    if followed_unasked:
        whole["followedUnasked"] = True
    return orjson.dumps(whole)


def _made(event_id: UUID, outcome: Outcome, transaction_ids: Iterator[UUID]) -> list[tuple[Any, ...]]:
    """Give the effects of rules as they are kept: the place of the rule, the fulfilment, what was made, its value."""
    made: list[tuple[Any, ...]] = []
    place = 0
    for effect, rule, index in outcome.effects:
        transaction_id = next(transaction_ids, None) if isinstance(effect, GivePoints) else None
        if rule is None:
            continue
        while outcome.considered[place].rule is not rule:  # both are in the order of rules
            place += 1
        match effect:
            case GivePoints(amount):
                made.append((place, index, transaction_id, amount))
            case JoinSegment(_, lapses_at):
                made.append((place, index, None, lapses_at))
            case LeaveSegment() | GrantVoucher():
                made.append((place, index, None, None))
            case ScheduleTrigger(due_at):
                made.append((place, index, trigger_id_of(event_id, rule.rule_id, index), due_at))
            case GrantDiscount(amount=off):
                made.append((place, index, None, str(off)))
    return made


def versions_named(kept: bytes) -> set[VersionKey]:
    """Name the versions of rules that are needed to tell it in full."""
    return {VersionKey(UUID(rule[0]), rule[1]) for rule in orjson.loads(kept)["rules"]}


def expand(event_id: UUID, kept: bytes, rules: Mapping[VersionKey, Rule]) -> Explanation:
    """Tell in full what was kept of an event.

    Args:
        event_id: the event.
        kept: what `compact` gave.
        rules: the versions that `versions_named` names.
    """
    whole = orjson.loads(kept)
    return Explanation(
        depth=whole["depth"],
        source_event_id=whole["source"],
        is_assessed=whole["assessed"],
        rules=tuple(_rule(event_id, rule, rules) for rule in _kept_rules(whole)),
    )


def expand_followed(source_event_id: UUID, kept_of_source: bytes) -> Explanation | None:
    """Tell what was kept of a points event with the event that it followed from; None where nothing was.

    Args:
        source_event_id: the event that it followed from.
        kept_of_source: what `compact` gave of that.
    """
    whole = orjson.loads(kept_of_source)
    if "followedUnasked" not in whole:
        return None
    return Explanation(depth=whole["depth"] + 1, source_event_id=source_event_id, is_assessed=True, rules=())


def _kept_rules(whole: Mapping[str, Any]) -> Iterator[KeptRule]:
    """Give what is kept of each rule: in the first form what its criteria saw, and what it made, stands with it."""
    if "criteria" not in whole:
        yield from itertools.starmap(KeptRule, whole["rules"])
        return
    saw = dict(zip(whole["criteria"], whole["saw"], strict=True))
    for place, (rule_id, version, asked, *limited_by) in enumerate(whole["rules"]):
        yield KeptRule(
            rule_id,
            version,
            matched=bool(limited_by),
            limited_by=limited_by[0] if limited_by else None,
            saw=[saw[number] for number in asked],
            made=[one for of, *one in whole["made"] if of == place],
        )


def _rule(event_id: UUID, kept: KeptRule, rules: Mapping[VersionKey, Rule]) -> RuleExplanation:
    rule = rules[VersionKey(UUID(kept.rule_id), kept.version)]
    made = {index: (made_id, value) for index, made_id, value in kept.made}
    last = len(kept.saw) - 1
    return RuleExplanation(
        rule_id=rule.rule_id,
        version=rule.version,
        name=rule.name,
        matched=kept.matched,
        limited_by=Limited(kept.limited_by) if kept.limited_by else None,
        criteria=tuple(
            CriterionExplanation(
                wanted=criterion,
                matched=None if place > last else kept.matched or place < last,
                saw=None if place > last else kept.saw[place],
            )
            for place, criterion in enumerate(rule.criteria)
        ),
        fulfilments=tuple(
            _fulfilment(event_id, rule, index, made.get(index)) for index in range(len(rule.fulfilments))
        ),
    )


def _fulfilment(event_id: UUID, rule: Rule, index: int, made: tuple[str | None, Any] | None) -> FulfilmentExplanation:
    wanted = rule.fulfilments[index]
    if made is None:
        return FulfilmentExplanation(wanted=wanted, has_effect=False)
    made_id, value = made
    is_basket = rule.event_type is EventType.BASKET
    match wanted.type:
        case "points" | "pointsPerUnit":
            return FulfilmentExplanation(
                wanted=wanted,
                has_effect=True,
                amount=value,
                transaction_id=made_id,
                points_event_id=None if is_basket else points_event_id(event_id, rule.rule_id, index),
            )
        case "trigger":
            return FulfilmentExplanation(wanted=wanted, has_effect=True, trigger_id=made_id, due_at=value)
        case "discount":
            return FulfilmentExplanation(wanted=wanted, has_effect=True, discount=Decimal(value))
        case "voucher":
            return FulfilmentExplanation(wanted=wanted, has_effect=True)
        case _:
            return FulfilmentExplanation(wanted=wanted, has_effect=True, expiry_date_time=value)
