"""The life of a rule: which status follows which, when what it says may change, and when a change makes a version.

A rule is edited in place as long as it has done nothing. What an active one says is kept as a version for good: another
content is another version, which takes its place from an instant on, and events from before it are assessed as before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tallymarks import limits
from tallymarks.errors import InvalidRequest, LimitReached, Refusal, RuleNotEditable, StatusChangeNotAllowed
from tallymarks.rules.rule import NewRule, Rule
from tallymarks.segments import Status
from tallymarks.values import Instant, format_instant

FOLLOWING: Mapping[Status, frozenset[Status]] = {
    Status.CONFIGURE: frozenset({Status.TEST, Status.ACTIVE, Status.ARCHIVED}),
    Status.TEST: frozenset({Status.CONFIGURE, Status.ACTIVE, Status.ARCHIVED}),
    Status.ACTIVE: frozenset({Status.INACTIVE, Status.ARCHIVED}),
    Status.INACTIVE: frozenset({Status.ARCHIVED}),
    Status.ARCHIVED: frozenset(),
}
"""The statuses that each may change to: one that was active is never so again, and one that is archived stays so."""

EDITABLE = frozenset({Status.CONFIGURE, Status.TEST})
"""The statuses in which a rule has done nothing yet."""

_NOT_EDITABLE = (
    "What this rule says cannot change, as its status is {}: its status can, where the rest is sent as it is."
)


class RuleChange(NewRule):
    """The body that replaces a rule; of an active rule, what its next version says."""

    effective_from: Instant | None = None
    """The first instant of events that the next version of an active rule looks at, now or later; null: now."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a body does to a rule: the version that it has afterwards, and what becomes of those before."""

    version: int
    effective_from: datetime | None
    effective_to: datetime | None
    makes_version: bool
    """Whether the content is to be kept as this version, which it was not before."""
    ends_versions_at: datetime | None = None
    """The instant from which on the versions before look at no more events; None: they go on as they do."""


def require_first_status(status: Status) -> None:
    """Hold a new rule to a status that it may begin with: what one that is being configured may become.

    Raises:
        StatusChangeNotAllowed: it cannot begin so.
    """
    if status is not Status.CONFIGURE:
        _require_following(Status.CONFIGURE, status)


def change_of(rule: Rule, wanted: RuleChange, now: datetime) -> Change | None:
    """Tell what the body does to the rule; None where it says what holds already, so that sending it again is harmless.

    Raises:
        StatusChangeNotAllowed: the wanted status does not follow the rule's.
        RuleNotEditable: the rule's content cannot change, or not while its status does.
        InvalidRequest: `effectiveFrom` is past, beyond the rule's `toAt`, or no version would begin then.
        LimitReached: the rule has as many versions as it may have.
    """
    if wanted.status is not rule.status:
        _require_following(rule.status, wanted.status)
    elif rule.status is Status.ACTIVE:
        return _next_version(rule, wanted, now)
    if wanted.effective_from is not None:
        raise _wrong_instant(wanted.effective_from, "Only the next version of an active rule has an effectiveFrom.")
    is_same = rule.says_the_same(wanted)
    if is_same and wanted.status is rule.status:
        return None
    if rule.status in EDITABLE:
        return Change(rule.version, None, None, makes_version=wanted.status is Status.ACTIVE)
    if not is_same:
        raise RuleNotEditable.of("status", rule.status, _NOT_EDITABLE.format(rule.status))
    return _ended(rule, now)


def _next_version(rule: Rule, wanted: RuleChange, now: datetime) -> Change | None:
    begins = now if wanted.effective_from is None else wanted.effective_from
    if rule.says_the_same(wanted) and (rule.effective_from is None or rule.effective_from <= begins):
        return None
    if wanted.event_type is not rule.event_type:
        raise RuleNotEditable.of("eventType", wanted.event_type, "The eventType of an active rule cannot change.")
    if begins < now:
        raise _wrong_instant(begins, "A version cannot begin in the past.")
    if wanted.to_at is not None and begins >= wanted.to_at:
        raise _wrong_instant(begins, "A version must begin before the rule's toAt.")
    if rule.version >= limits.RULE_VERSIONS_MAX:
        raise LimitReached.of("ruleId", str(rule.rule_id), "The rule has as many versions as it may have.")
    return Change(rule.version + 1, begins, None, makes_version=True, ends_versions_at=begins)


def _ended(rule: Rule, now: datetime) -> Change:
    """End the rule where it still looks at events; a version that has not begun yet ends as it would have begun."""
    if rule.status is not Status.ACTIVE:
        return Change(rule.version, rule.effective_from, rule.effective_to, makes_version=False)
    end = now if rule.effective_from is None else max(now, rule.effective_from)
    return Change(rule.version, rule.effective_from, end, makes_version=False, ends_versions_at=now)


def _require_following(status: Status, wanted: Status) -> None:
    if wanted not in FOLLOWING[status]:
        allowed = ", ".join(sorted(FOLLOWING[status])) or "nothing else"
        raise StatusChangeNotAllowed.of("status", wanted, f"What is {status} may become {allowed}.")


def _wrong_instant(instant: datetime, detail: str) -> Refusal:
    return InvalidRequest.of("effectiveFrom", format_instant(instant), detail)
