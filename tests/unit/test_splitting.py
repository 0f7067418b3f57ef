"""However events are cut into batches, they come to the same: the ledger, the balances, the memberships.

The changes of a batch are folded, and written once. What is written here into a dict is what the statements write into
the table; the other side of the comparison applies one effect after the other to a dict, as anybody would.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallymarks import ledger
from tallymarks.errors import TooManyEffects
from tallymarks.events import AnyEvent
from tallymarks.memberships import Changes, Pair
from tallymarks.rules.assessment import Assessment, Situation
from tallymarks.rules.assessment import assess as assess_event
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.facts import CustomerState, Totals, UseKey
from tallymarks.rules.fulfilments import Effect, JoinSegment, LeaveSegment
from tallymarks.rules.rule_set import RuleSet
from tallymarks.rules.uses import RuleUses
from tests.parts import START
from tests.unit.builders import (
    CUSTOMER,
    OTHER_CUSTOMER,
    OTHER_SEGMENT,
    SEGMENT,
    TENANT,
    action,
    customer,
    expiries,
    generated,
    id_of,
    ids,
    order,
    points,
    redemption,
    rule,
    rule_set,
    rules,
    segment,
    transaction,
)

CUSTOMERS = (CUSTOMER, OTHER_CUSTOMER)
SEGMENTS = (SEGMENT, OTHER_SEGMENT)
NAME_SPACES = ("join", "leave", "other")
LONG_AGO = START - timedelta(days=500)


@dataclass(frozen=True)
class Row:
    """A row of the table of memberships."""

    created_at: datetime
    source_event_id: UUID | None
    lapses_at: datetime | None

    def is_current(self) -> bool:
        return self.lapses_at is None or self.lapses_at > START


Table = dict[Pair, Row]


@dataclass
class World:
    """All that assessing changes."""

    table: Table
    lapses: list[tuple[Pair, Row]] = field(default_factory=list)
    """Lapsed memberships whose removal was recorded."""
    balances: dict[UUID, int] = field(default_factory=lambda: dict.fromkeys(CUSTOMERS, 0))
    totals: dict[UUID, Totals] = field(default_factory=lambda: dict.fromkeys(CUSTOMERS, Totals()))
    uses: dict[UUID, Mapping[UseKey, int]] = field(default_factory=lambda: {key: {} for key in CUSTOMERS})
    together: Mapping[UUID, RuleUses] = field(default_factory=dict)
    transactions: list[ledger.Transaction] = field(default_factory=list)

    def keep(self, customers: Iterable[CustomerState], together: Mapping[UUID, RuleUses]) -> None:
        """Keep what the customers have come to."""
        for state in customers:
            self.balances[state.customer_id] = state.balance
            self.totals[state.customer_id] = state.totals
            self.uses[state.customer_id] = state.uses
        self.together = together

    def states(self) -> dict[UUID, CustomerState]:
        """The customers as a batch loads them."""
        states = {}
        for customer_id in CUSTOMERS:
            current = {
                pair[1]: row.lapses_at
                for pair, row in self.table.items()
                if pair[0] == customer_id and row.is_current()
            }
            known = customer(customer_id, created_at=LONG_AGO, balance=self.balances[customer_id], memberships=current)
            states[customer_id] = replace(known, totals=self.totals[customer_id], uses=self.uses[customer_id])
        return states

    def remove_lapsed(self, pairs: Iterable[Pair]) -> None:
        """Remove what has lapsed, and record it."""
        for pair in [pair for pair in pairs if pair in self.table and not self.table[pair].is_current()]:
            self.lapses.append((pair, self.table.pop(pair)))

    def write(self, changes: Changes) -> None:
        """Write folded changes as the statements do: remove what has lapsed, leave, join."""
        self.remove_lapsed(changes.joined)
        for pair in changes.left:
            if pair in self.table and self.table[pair].is_current():
                del self.table[pair]
        for pair, (source_event_id, lapses_at) in changes.joined.items():
            known = self.table.get(pair)
            joined = replace(known, lapses_at=lapses_at) if known else Row(START, source_event_id, lapses_at)
            self.table[pair] = joined

    def do(self, customer_id: UUID, source_event_id: UUID | None, effects: Iterable[Effected]) -> None:
        """Apply effects at once, one after the other."""
        for effected in effects:
            match effected.effect:
                case JoinSegment(segment_id, lapses_at):
                    pair = (customer_id, segment_id)
                    self.remove_lapsed([pair])
                    known = self.table.get(pair, Row(START, source_event_id, lapses_at))
                    self.table[pair] = replace(known, lapses_at=lapses_at)
                case LeaveSegment(segment_id):
                    self.table.pop((customer_id, segment_id), None)

    def seen(self) -> Mapping[str, object]:
        """What can be told of it in the end, once everything that has lapsed is removed."""
        self.remove_lapsed(list(self.table))
        return {
            "memberships": self.table,
            "lapses": sorted(self.lapses, key=repr),
            "balances": self.balances,
            "totals": self.totals,
            "uses": (self.uses, self.together),
            "transactions": [row._replace(transaction_id=UUID(int=0)) for row in self.transactions],
        }


def assess_one(event: AnyEvent, situation: Situation, rules_: RuleSet) -> Assessment | None:
    """Assess an event; None where it has too many effects: it is put aside, and nothing of it counts."""
    try:
        return assess_event(event, situation, rules_, START)
    except TooManyEffects:
        return None


def assess(world: World, batch: Sequence[AnyEvent], rules_: RuleSet) -> None:
    """Assess a batch: each event meets what those before it have left; what they change is written once."""
    states, changes, new_id, together = world.states(), Changes(), ids(), world.together
    for event in batch:
        assessed = assess_one(event, Situation(states[event.customer_id], together, {}), rules_)
        if assessed is None:
            continue
        states[event.customer_id], together = assessed.customer, assessed.rule_uses
        for step in assessed.steps:
            effects = step.outcome.effects if step.outcome else ()
            world.transactions.extend(ledger.transactions_of(TENANT, step.event, effects, new_id))
            changes.add(step.event.customer_id, step.event.event_id, effects)
    world.keep(states.values(), together)
    world.write(changes)


def assess_one_by_one(world: World, batch: Sequence[AnyEvent], rules_: RuleSet) -> None:
    """Assess events with nothing kept between them but the tables."""
    for event in batch:
        assessed = assess_one(event, Situation(world.states()[event.customer_id], world.together, {}), rules_)
        if assessed is None:
            continue
        world.keep([assessed.customer], assessed.rule_uses)
        for step in assessed.steps:
            effects = step.outcome.effects if step.outcome else ()
            world.transactions.extend(ledger.transactions_of(TENANT, step.event, effects, ids()))
            world.do(step.event.customer_id, step.event.event_id, effects)


def cut(batch: Sequence[AnyEvent], places: Iterable[int]) -> list[Sequence[AnyEvent]]:
    """Cut events into batches, at places that may be anywhere."""
    ends = sorted({min(place, len(batch)) for place in places} | {len(batch)})
    return [batch[start:end] for start, end in zip([0, *ends], ends, strict=False)]


rows = st.builds(
    Row,
    created_at=st.just(LONG_AGO),
    source_event_id=st.just(id_of(1)),
    lapses_at=st.sampled_from([None, LONG_AGO, START, START + timedelta(hours=1), START + timedelta(days=5_000)]),
)
tables = st.dictionaries(st.tuples(st.sampled_from(CUSTOMERS), st.sampled_from(SEGMENTS)), rows)
makers: st.SearchStrategy[Callable[..., AnyEvent]] = st.sampled_from(
    [
        action,
        partial(order, "19.99"),
        partial(order, "-0.3"),
        partial(transaction, "7"),
        partial(points, 5),
        partial(points, -5),
        partial(redemption, 3),
    ]
)
batches = st.lists(
    st.tuples(makers, st.sampled_from(CUSTOMERS), st.sampled_from([None, *NAME_SPACES])), max_size=12
).map(
    lambda many: [
        make(event_id=id_of(number), customer_id=customer_id, name_space=name_space)
        for number, (make, customer_id, name_space) in enumerate(many)
    ]
)
rule_sets = st.builds(
    lambda many, kinds: rule_set(
        [rule(number, **fields) for number, fields in enumerate(many)],
        [segment(segment_id, expiry=expiry) for segment_id, expiry in zip(SEGMENTS, kinds, strict=True)],
    ),
    rules(SEGMENTS, NAME_SPACES),
    st.tuples(expiries(), expiries()),
)


@settings(generated, max_examples=300)
@given(batches, rule_sets, tables, st.lists(st.integers(0, 12), max_size=5))
def test_the_same_events_come_to_the_same_however_they_are_cut(
    batch: Sequence[AnyEvent], rules_: RuleSet, table: Table, places: Sequence[int]
) -> None:
    expected = World(dict(table))
    assess_one_by_one(expected, batch, rules_)
    for parts in (cut(batch, places), [batch], [[event] for event in batch]):
        world = World(dict(table))
        for part in parts:
            assess(world, part, rules_)
        assert world.seen() == expected.seen()


@generated
@given(batches, rule_sets, tables)
def test_a_balance_is_the_sum_of_its_transactions(batch: Sequence[AnyEvent], rules_: RuleSet, table: Table) -> None:
    world = World(dict(table))
    assess(world, batch, rules_)
    sums = dict.fromkeys(CUSTOMERS, 0)
    for row in world.transactions:
        sums[row.customer_id] += row.amount
    assert world.balances == sums
    check_sums = [row.check_sum for row in world.transactions]
    assert len(set(check_sums)) == len(check_sums)


steps = st.one_of(
    st.builds(JoinSegment, st.sampled_from(SEGMENTS), st.none() | st.just(START + timedelta(days=1))),
    st.builds(LeaveSegment, st.sampled_from(SEGMENTS)),
)


@generated
@given(st.lists(st.tuples(st.sampled_from(CUSTOMERS), st.lists(steps, max_size=3)), max_size=12), tables)
def test_folded_changes_are_what_one_after_the_other_comes_to(
    many: Sequence[tuple[UUID, Sequence[Effect]]], table: Table
) -> None:
    """Joining and leaving in any order, even within one event: when one joined, and by which event, stays right."""
    changes, folded, expected = Changes(), World(dict(table)), World(dict(table))
    # No rule ever asks to leave what has lapsed: it is not loaded.
    expected.remove_lapsed(table)
    for number, (customer_id, of_event) in enumerate(many):
        effects = [Effected(effect, None, 0) for effect in of_event]
        changes.add(customer_id, id_of(number), effects)
        expected.do(customer_id, id_of(number), effects)
    folded.write(changes)
    assert folded.seen() == expected.seen()


class TestFolding:
    """The same, by example: E0 is what made the customer a member, E1, E2 and E3 follow in one batch."""

    pair = (CUSTOMER, SEGMENT)
    member: Mapping[Pair, Row] = {pair: Row(LONG_AGO, id_of(0), START + timedelta(hours=1))}

    @staticmethod
    def after(table: Mapping[Pair, Row], *effects: Effect) -> Row | None:
        changes, world = Changes(), World(dict(table))
        for number, effect in enumerate(effects, start=1):
            changes.add(CUSTOMER, id_of(number), [Effected(effect, None, 0)])
        world.write(changes)
        return world.table.get(TestFolding.pair)

    join, leave = JoinSegment(SEGMENT, None), LeaveSegment(SEGMENT)

    @pytest.mark.parametrize(
        ("table", "effects", "expected"),
        [
            ({}, [join], Row(START, id_of(1), None)),
            ({}, [join, join], Row(START, id_of(1), None)),
            ({}, [join, leave], None),
            ({}, [join, leave, join], Row(START, id_of(3), None)),
            ({}, [leave, join], Row(START, id_of(2), None)),
            (member, [join], Row(LONG_AGO, id_of(0), None)),
            (member, [join, join], Row(LONG_AGO, id_of(0), None)),
            (member, [leave], None),
            (member, [leave, join], Row(START, id_of(2), None)),
            (member, [join, leave, join], Row(START, id_of(3), None)),
            (member, [join, leave], None),
            (member, [leave, join, leave], None),
        ],
    )
    def test_leaving_and_joining_again_starts_anew(
        self, table: Any, effects: list[Effect], expected: Row | None
    ) -> None:
        assert self.after(table, *effects) == expected

    def test_a_lapsed_membership_starts_anew(self) -> None:
        lapsed = {self.pair: Row(LONG_AGO, id_of(0), START)}
        assert self.after(lapsed, self.join) == Row(START, id_of(1), None)

    def test_the_last_lapse_counts(self) -> None:
        sooner, later = (JoinSegment(SEGMENT, START + timedelta(days=days)) for days in (1, 2))
        row = self.after({}, sooner, later)
        assert row == Row(START, id_of(1), START + timedelta(days=2))

    def test_what_a_caller_does_has_no_source(self) -> None:
        changes = Changes()
        changes.add(CUSTOMER, None, [Effected(self.join, None, 0)])
        assert changes.joined == {self.pair: (None, None)}
        assert changes.left == set()
