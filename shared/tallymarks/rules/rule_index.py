"""Finding the rules that could match an event, without asking all of them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tallymarks.events import EventBase, OrderItem, OrderPayment
from tallymarks.rules.criteria_shared import attribute_text
from tallymarks.rules.criterion import FoundBy
from tallymarks.rules.rule import Rule

Place = tuple[int, Rule]
"""A rule and its place in the order in which effects apply."""

PREFIX = "nameSpacePrefix"


def _of_items(text: Callable[[OrderItem], str | None]) -> Callable[[EventBase], Iterable[str | None]]:
    return lambda event: map(text, event.purchase.items) if event.purchase else ()


def _of_payments(text: Callable[[OrderPayment], str | None]) -> Callable[[EventBase], Iterable[str | None]]:
    return lambda event: map(text, event.purchase.payments) if event.purchase else ()


def _tags(event: EventBase) -> Iterable[str]:
    return (tag for item in event.purchase.items for tag in item.tags) if event.purchase else ()


TEXTS: Mapping[str, Callable[[EventBase], Iterable[str | None]]] = {
    "nameSpace": lambda event: (event.name_space,),
    "reference": lambda event: (event.reference,),
    "campaign": lambda event: (event.campaign,),
    "attribute": lambda event: (attribute_text(one.key, one.value) for one in event.attributes),
    "sku": _of_items(lambda item: item.sku),
    "vendor": _of_items(lambda item: item.vendor),
    "category": _of_items(lambda item: item.category),
    "productType": _of_items(lambda item: item.type),
    "tag": _tags,
    "scheme": _of_payments(lambda payment: payment.scheme),
    "bank": _of_payments(lambda payment: payment.bank),
    "bin": _of_payments(lambda payment: payment.bin),
}
"""What rules can be found by, and all texts of it that an event has."""


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """The rules of one event type, each under one thing that an event must have to match it, or asked always."""

    always: tuple[int, ...] = ()
    """Places of rules, as everywhere below."""
    by_text: Mapping[str, Mapping[str | None, tuple[int, ...]]] = field(default_factory=dict)
    """What is looked at → its text → the rules that only match events with it."""
    by_prefix: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Beginning of the nameSpace → the rules that only match such events."""
    prefix_lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, rules: Iterable[Place]) -> "RuleIndex":
        """Put each rule under what the fewest rules have in common with it: that finds the fewest in vain."""
        keys = [(place, _keys(rule)) for place, rule in rules]
        common = Counter(key for _, of_rule in keys for key in of_rule)
        always: list[int] = []
        by_text: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        by_prefix: defaultdict[str, list[int]] = defaultdict(list)
        for place, of_rule in keys:
            key = min(of_rule, key=lambda one: (one.field == PREFIX, common[one]), default=None)
            if key is None:
                always.append(place)
            elif key.field == PREFIX:
                by_prefix[key.value].append(place)
            else:
                by_text[key.field][key.value].append(place)
        return cls(
            tuple(always),
            {name: {text: tuple(places) for text, places in found.items()} for name, found in by_text.items()},
            {prefix: tuple(places) for prefix, places in by_prefix.items()},
            tuple(sorted({len(prefix) for prefix in by_prefix})),
        )

    def matching(self, event: EventBase) -> Sequence[int]:
        """Give the places of the rules that could match, in order; the others need not be asked."""
        found: set[int] = set()
        for name, by_text in self.by_text.items():
            for text in TEXTS[name](event):
                if text in by_text:
                    found.update(by_text[text])
        name_space = event.name_space
        if name_space is not None:
            for length in self.prefix_lengths:
                if length > len(name_space):
                    break
                found.update(self.by_prefix.get(name_space[:length], ()))
        return sorted(found.union(self.always)) if found else self.always


def _keys(rule: Rule) -> list[FoundBy]:
    return [key for criterion in rule.criteria if (key := criterion.found_by()) is not None]
