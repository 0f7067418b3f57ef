"""Triggers: action events to come. What identifies one, and how deep it lies.

An event that a trigger made may match a rule that makes a trigger again. Each such event carries how many triggers led
to it, so that rules that lead to one another come to an end (`limits.TRIGGER_DEPTH_MAX`).
"""

from uuid import UUID, uuid5

from tallymarks.events import EventBase

DEPTH_KEY = "Tallymarks.TriggerDepth"
"""The attribute of an event that a trigger made: how many triggers led to it, the last one included."""
SOURCE_KEY = "Tallymarks.TriggeredBy"
"""The attribute that names the event that the trigger was made by."""


def trigger_id_of(event_id: UUID, rule_id: UUID, fulfilment_index: int) -> UUID:
    """Give the id of the trigger that one fulfilment makes of one event, which is also that of the event to come.

    The same whoever computes it and however often, so that the trigger is written, and its event counts, once.
    """
    return uuid5(event_id, f"trigger/{rule_id}/{fulfilment_index}")


def depth_of(event: EventBase) -> int:
    """Tell how many triggers led to the event: 0 for one that a caller posted.

    A caller may send the attribute too, with any value: what is no number counts as 0.
    """
    depths = (one.value for one in event.attributes if one.key == DEPTH_KEY)
    return max((int(depth) for depth in depths if depth.isdecimal()), default=0)
