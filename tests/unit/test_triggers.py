"""Triggers: when one is due, what identifies it, how deep it lies, and the event that it becomes."""

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tallymarks import limits
from tallymarks.events import ActionEvent, AnyEvent
from tallymarks.messages import event_json
from tallymarks.rules.evaluate import Effected, apply
from tallymarks.rules.facts import COUNTED_TYPES
from tallymarks.rules.fulfilments import After, GivePoints, MakeTrigger, ScheduleTrigger
from tallymarks.rules.triggers import DEPTH_KEY, SOURCE_KEY, depth_of, trigger_id_of
from tallymarks.triggers import Trigger, event_of, triggers_of
from tallymarks.values import format_instant, parse_instant
from tests.parts import START
from tests.unit.builders import CUSTOMER, EVENT, action, customer, events, facts, generated, id_of, order, rule

NAME_SPACE = "Customer.FollowUp"


def made(event: AnyEvent, *, count: int = 7, unit: str = "days", reference: str | None = None) -> object:
    """What the fulfilment makes of the event."""
    after = {"count": count, "unit": unit}
    fulfilment = MakeTrigger.model_validate(
        {"type": "trigger", "after": after, "nameSpace": NAME_SPACE, "reference": reference}
    )
    return fulfilment.fulfil(facts(event))


def due(count: int, unit: str, at: str) -> str:
    """When a trigger is due that is made by an event of this instant."""
    effect = made(action(created_at=parse_instant(at)), count=count, unit=unit)
    assert isinstance(effect, ScheduleTrigger)
    return format_instant(effect.due_at)


def of_depth(*values: str) -> ActionEvent:
    """An event with the attribute, as often as given."""
    return action(attributes=[{"key": DEPTH_KEY, "value": value} for value in values])


class TestDue:
    @pytest.mark.parametrize(
        ("count", "unit", "at", "expected"),
        [
            (1, "minutes", "2026-03-14T09:26:53.589Z", "2026-03-14T09:27:53.589Z"),
            (90, "minutes", "2026-12-31T23:00:00.001Z", "2027-01-01T00:30:00.001Z"),
            (25, "hours", "2024-02-28T12:00:00Z", "2024-02-29T13:00:00.000Z"),
            (7, "days", "2026-03-14T09:26:53.589Z", "2026-03-21T09:26:53.589Z"),
            (1, "months", "2026-01-31T12:00:00Z", "2026-02-28T12:00:00.000Z"),
            (1, "months", "2024-01-31T12:00:00Z", "2024-02-29T12:00:00.000Z"),
            (13, "months", "2023-01-31T12:00:00Z", "2024-02-29T12:00:00.000Z"),
            (1, "years", "2024-02-29T12:00:00Z", "2025-02-28T12:00:00.000Z"),
            (4, "years", "2024-02-29T12:00:00Z", "2028-02-29T12:00:00.000Z"),
            # a night in which clocks elsewhere are changed
            (1, "days", "2026-03-28T12:00:00+01:00", "2026-03-29T11:00:00.000Z"),
        ],
    )
    def test_is_the_span_after_the_event_happened(self, count: int, unit: str, at: str, expected: str) -> None:
        assert due(count, unit, at) == expected

    @pytest.mark.parametrize("unit", limits.TRIGGER_COUNT_MAX)
    def test_is_at_most_five_years_ahead(self, unit: str) -> None:
        most = limits.TRIGGER_COUNT_MAX[unit]
        furthest = After.model_validate({"count": most, "unit": unit}).later_than(START)
        assert START.replace(year=2031) <= furthest <= START.replace(year=2031) + timedelta(days=1)
        with pytest.raises(ValidationError, match=r"5 years|less than or equal"):
            After.model_validate({"count": most + 1, "unit": unit})

    @pytest.mark.parametrize("count", [0, -1, 1.5, "1", True, None])
    def test_is_never_at_once(self, count: object) -> None:
        with pytest.raises(ValidationError):
            After.model_validate({"count": count, "unit": "days"})

    @pytest.mark.parametrize("unit", ["weeks", "seconds", "day", "", None])
    def test_is_counted_in_known_units(self, unit: object) -> None:
        with pytest.raises(ValidationError):
            After.model_validate({"count": 1, "unit": unit})

    def test_beyond_all_instants_never_comes(self) -> None:
        last = limits.INSTANT_MAX - timedelta(days=7)
        assert isinstance(made(action(created_at=last)), ScheduleTrigger)
        assert made(action(created_at=last + timedelta(milliseconds=1))) is None


class TestFulfilment:
    def test_makes_a_trigger_of_any_event(self) -> None:
        expected = ScheduleTrigger(START + timedelta(days=7), NAME_SPACE, "R-1", 1)
        for event in (action(), order()):
            assert made(event, reference="R-1") == expected

    def test_follows_every_type_that_is_kept_and_names_no_segment(self) -> None:
        fulfilment = MakeTrigger(type="trigger", after=After(count=1, unit="days"), name_space=NAME_SPACE)
        assert fulfilment.event_types() == set(COUNTED_TYPES)
        assert list(fulfilment.segment_ids()) == []

    @pytest.mark.parametrize("name_space", ["", None, "x" * 257])
    def test_needs_a_name_space(self, name_space: object) -> None:
        with pytest.raises(ValidationError):
            MakeTrigger.model_validate(
                {"type": "trigger", "after": {"count": 1, "unit": "days"}, "nameSpace": name_space}
            )

    def test_changes_nothing_of_the_customer_now(self) -> None:
        effected = Effected(ScheduleTrigger(START, NAME_SPACE, None, 1), rule(), 0)
        assert apply(customer(), [effected]) == customer()

    @generated
    @given(events(), st.sampled_from(sorted(limits.TRIGGER_COUNT_MAX)), st.integers(1, 60))
    def test_never_raises(self, event: AnyEvent, unit: str, count: int) -> None:
        made(event, unit=unit, count=1 if unit == "years" else count)


class TestDepth:
    def test_is_none_for_an_event_that_was_posted(self) -> None:
        assert depth_of(action()) == 0

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (["1"], 1),
            (["099"], 99),
            (["3", "7", "5"], 7),
            (["", "x", "-1", "1.5", "²", " 1"], 0),
            (["9" * 256], int("9" * 256)),
        ],
    )
    def test_is_read_of_whatever_a_caller_sent(self, values: list[str], expected: int) -> None:
        assert depth_of(of_depth(*values)) == expected

    def test_is_one_more_with_each_trigger_until_there_is_no_other(self) -> None:
        event = action()
        for depth in range(1, limits.TRIGGER_DEPTH_MAX + 1):
            effect = made(event)
            assert isinstance(effect, ScheduleTrigger)
            assert (depth_of(event), effect.depth) == (depth - 1, depth)
            (trigger,) = triggers_of(event, [Effected(effect, rule(), 0)])
            event = event_of(trigger)
        assert made(event) is None


class TestId:
    def test_is_the_same_in_every_run(self) -> None:
        assert trigger_id_of(EVENT, id_of(1), 0) == UUID("6c0a91eb-0810-5960-88f7-069a98e02da5")

    def test_is_another_for_another_event_rule_or_fulfilment(self) -> None:
        keys = [
            (event, of, index) for event in (EVENT, CUSTOMER) for of in (id_of(1), id_of(2)) for index in (0, 1, 10)
        ]
        assert len({trigger_id_of(*key) for key in keys}) == len(keys)


class TestEvent:
    def test_is_an_action_that_happened_when_it_was_due(self) -> None:
        source = order()
        effect = ScheduleTrigger(START + timedelta(days=7), NAME_SPACE, "R-1", 3)
        (trigger,) = triggers_of(source, [Effected(effect, rule(4), 2)])
        event = event_of(trigger)
        assert event.event_id == trigger.trigger_id == trigger_id_of(source.event_id, id_of(4), 2)
        assert event.customer_id == source.customer_id
        assert event.created_at == effect.due_at
        assert (event.name_space, event.reference, event.value) == (NAME_SPACE, "R-1", None)
        assert {one.key: one.value for one in event.attributes} == {DEPTH_KEY: "3", SOURCE_KEY: str(source.event_id)}

    def test_travels_as_any_other(self) -> None:
        event = event_of(Trigger(id_of(1), CUSTOMER, START, NAME_SPACE, None, EVENT, 1))
        assert ActionEvent.model_validate_json(event_json(event)) == event

    def test_other_effects_are_no_triggers(self) -> None:
        assert triggers_of(action(), [Effected(GivePoints(1), rule(), 0)]) == []
