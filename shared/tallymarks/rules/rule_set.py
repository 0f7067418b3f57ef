"""What a tenant's events are assessed by, and the index that finds the rules that could match."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from tallymarks.events import EventBase, EventType
from tallymarks.rules.rule import Rule
from tallymarks.segments import Segment, Status

Place = tuple[int, Rule]
"""A rule and its place in the order in which effects apply."""


@dataclass(frozen=True, slots=True)
class RulesOfType:
    """The rules of one event type, each under the one thing by which it can be found, or asked always."""

    always: tuple[Place, ...] = ()
    by_value: Mapping[tuple[str, str], tuple[Place, ...]] = field(default_factory=dict)
    """Field and its whole value → the rules that only match such events."""
    by_prefix: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    """Beginning of the nameSpace → the rules that only match such events."""
    prefix_lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, rules: Iterable[Place]) -> "RulesOfType":
        """Put each rule where the narrowest of its criteria finds it."""
        always: list[Place] = []
        by_value: defaultdict[tuple[str, str], list[Place]] = defaultdict(list)
        by_prefix: defaultdict[str, list[Place]] = defaultdict(list)
        for place in rules:
            found = [found_by for criterion in place[1].criteria if (found_by := criterion.found_by()) is not None]
            whole = next((one for one in found if one.field != "nameSpacePrefix"), None)
            if whole is not None:
                by_value[whole.field, whole.value].append(place)
            elif found:
                by_prefix[found[0].value].append(place)
            else:
                always.append(place)
        return cls(
            tuple(always),
            {key: tuple(places) for key, places in by_value.items()},
            {prefix: tuple(places) for prefix, places in by_prefix.items()},
            tuple(sorted({len(prefix) for prefix in by_prefix})),
        )

    def matching(self, event: EventBase) -> Iterable[Rule]:
        """Give the rules that could match, in order; the others do not need to be asked."""
        found: list[Place] = []
        if self.by_value:
            fields = (
                ("nameSpace", event.name_space),
                ("reference", event.reference),
                ("campaign", event.campaign),
            )
            for name, value in fields:
                if value is not None:
                    found.extend(self.by_value.get((name, value), ()))
        if self.by_prefix and event.name_space is not None:
            for length in self.prefix_lengths:
                if length > len(event.name_space):
                    break
                found.extend(self.by_prefix.get(event.name_space[:length], ()))
        if not found:
            return [rule for _, rule in self.always]
        return [rule for _, rule in sorted([*self.always, *found], key=lambda place: place[0])]


NO_RULES = RulesOfType()


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What a tenant's events are assessed by: the active rules by event type, and its segments."""

    revision: int
    rules: tuple[Rule, ...]
    """In the order in which their effects apply: oldest first."""
    by_type: Mapping[str, RulesOfType]
    segments: Mapping[UUID, Segment]
    names_segments: bool
    """Whether any rule asks about or changes memberships, or may: else they need not be loaded."""
    asks_windows: bool
    """Whether any rule asks about the recent past: else nobody has to look back."""
    limited: Mapping[str, tuple[Rule, ...]]
    """Event type → the rules that have limits."""

    @classmethod
    def of(cls, revision: int, rules: Iterable[Rule], segments: Iterable[Segment]) -> "RuleSet":
        """Keep the active rules, with all the versions of each that are given."""
        in_order = sorted(rules, key=lambda rule: (rule.created_at, rule.rule_id, rule.version))
        return cls.of_any_status(revision, [rule for rule in in_order if rule.status is Status.ACTIVE], segments)

    @classmethod
    def of_any_status(cls, revision: int, rules: Iterable[Rule], segments: Iterable[Segment]) -> "RuleSet":
        """Keep all the rules, in the order given, whether they are active or not: to try them."""
        kept = tuple(rules)
        by_type: defaultdict[str, list[Place]] = defaultdict(list)
        limited: defaultdict[str, list[Rule]] = defaultdict(list)
        for place in enumerate(kept):
            by_type[place[1].event_type].append(place)
            if place[1].limits is not None:
                limited[place[1].event_type].append(place[1])
        criteria = [criterion for rule in kept for criterion in rule.criteria]
        return cls(
            revision,
            kept,
            {event_type: RulesOfType.of(places) for event_type, places in by_type.items()},
            {segment.segment_id: segment for segment in segments},
            names_segments=any(True for rule in kept for _ in rule.segments_named())
            or any(criterion.sees_memberships for criterion in criteria),
            asks_windows=any(criterion.looks_back for criterion in criteria),
            limited={event_type: tuple(found) for event_type, found in limited.items()},
        )

    def matching(self, event: EventBase, event_type: str) -> Iterable[Rule]:
        """Give the rules of the type that could match the event, in order."""
        return self.by_type.get(event_type, NO_RULES).matching(event)

    def has_rules_for(self, event_type: EventType) -> bool:
        """Tell whether any rule looks at events of the type."""
        return event_type in self.by_type
