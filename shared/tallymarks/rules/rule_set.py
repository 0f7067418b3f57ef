"""What a tenant's events are assessed by."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from tallymarks.events import EventBase
from tallymarks.rules.asked import AskedRule, Questions
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_index import Place, RuleIndex
from tallymarks.segments import Segment, Status

NO_RULES = RuleIndex()


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What a tenant's events are assessed by: the active rules by event type, and its segments."""

    revision: int
    rules: tuple[Rule, ...]
    """In the order in which their effects apply: oldest first."""
    asked: tuple[AskedRule, ...]
    """The same, ready to be asked."""
    by_type: Mapping[str, RuleIndex]
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
        return cls.of_any_status(revision, in_order(rule for rule in rules if rule.status is Status.ACTIVE), segments)

    @classmethod
    def of_any_status(cls, revision: int, rules: Iterable[Rule], segments: Iterable[Segment]) -> "RuleSet":
        """Keep all the rules, in the order given, whether they are active or not: to try them."""
        kept = tuple(rules)
        questions = Questions()
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
            tuple(AskedRule(rule, map(questions.of, rule.criteria)) for rule in kept),
            {event_type: RuleIndex.of(places) for event_type, places in by_type.items()},
            {segment.segment_id: segment for segment in segments},
            names_segments=any(True for rule in kept for _ in rule.segments_named())
            or any(criterion.sees_memberships for criterion in criteria),
            asks_windows=any(criterion.looks_back for criterion in criteria),
            limited={event_type: tuple(found) for event_type, found in limited.items()},
        )

    def to_ask(self, event: EventBase, event_type: str) -> list[AskedRule]:
        """Give the rules of the type that could match the event, in order."""
        return [self.asked[place] for place in self.by_type.get(event_type, NO_RULES).matching(event)]

    def matching(self, event: EventBase, event_type: str) -> list[Rule]:
        """Give them as they are."""
        return [self.rules[place] for place in self.by_type.get(event_type, NO_RULES).matching(event)]


def in_order(rules: Iterable[Rule]) -> list[Rule]:
    """Give rules in the order in which their effects apply: oldest first."""
    return sorted(rules, key=lambda rule: (rule.created_at, rule.rule_id, rule.version))
