"""The invariants, held against what the clients were answered.

`findings` is pure, and a test shows that it finds each kind of lie; `stored` reads what there is.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from uuid import UUID

import asyncpg

from tests.faults.record import Outcome, Record, Sent

TRANSACTIONS = """
SELECT event_id::text, customer_id::text, event_type, amount, assessment_rule_version
FROM transactions WHERE tenant_id = $1
"""
EVENTS = "SELECT event_id::text FROM events WHERE tenant_id = $1"
BALANCES = "SELECT customer_id::text, balance FROM accounts WHERE tenant_id = $1"


@dataclass(frozen=True, slots=True)
class Row:
    """A points transaction."""

    event_id: str
    customer_id: str
    event_type: str
    amount: int
    rule_version: int | None


@dataclass(frozen=True)
class Stored:
    """What the database holds of a tenant."""

    rows: Sequence[Row]
    event_ids: frozenset[str]
    balances: Mapping[str, int]


@dataclass(frozen=True)
class Findings:
    """What contradicts the record, by event or customer; nothing where all is well."""

    lost: Sequence[str] = ()
    """Accepted, and without effect."""
    doubled: Sequence[str] = ()
    """With more effects than one."""
    refused_counted: Sequence[str] = ()
    """Refused, and recorded or with an effect all the same."""
    wrong_amounts: Sequence[str] = ()
    """With another effect than it should have, or on another customer."""
    invented: Sequence[str] = ()
    """Effects of events that nobody has posted."""
    wrong_balances: Sequence[str] = ()
    """Customers whose balance is not the sum of their transactions."""
    contradictions: Sequence[str] = ()
    """Answered one thing first and another later."""
    overdrawn: Sequence[str] = ()
    """Redemptions that took more than there was."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.lines()

    def lines(self) -> list[str]:
        """A line for each kind of what was found, with some of it."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return [f"{name}: {len(what)}, such as {', '.join(what[:5])}" for name, what in found.items() if what]


async def stored(owner: asyncpg.Connection, tenant_id: UUID) -> Stored:
    """Read what the database holds of a tenant, at one instant."""
    async with owner.transaction(isolation="repeatable_read", readonly=True):
        rows = await owner.fetch(TRANSACTIONS, tenant_id)
        events = await owner.fetch(EVENTS, tenant_id)
        balances = await owner.fetch(BALANCES, tenant_id)
    return Stored(
        [Row(*row) for row in rows],
        frozenset(row["event_id"] for row in events),
        {row["customer_id"]: row["balance"] for row in balances},
    )


def findings(record: Record, stored: Stored) -> Findings:
    """Compare what was answered with what there is."""
    by_event: defaultdict[str, list[Row]] = defaultdict(list)
    sums: Counter[str] = Counter()
    for row in stored.rows:
        by_event[row.event_id].append(row)
        sums[row.customer_id] += row.amount
    accepted, refused = list(record.of(Outcome.ACCEPTED)), list(record.of(Outcome.REFUSED))
    # Whether it was taken is unknown; that it was taken once at the most, and as it should, is not.
    taken = [sent for sent in record.sent.values() if by_event[sent.event_id]]
    return Findings(
        lost=[sent.event_id for sent in accepted if is_lost(sent, by_event[sent.event_id], stored.event_ids)],
        doubled=[sent.event_id for sent in taken if len(by_event[sent.event_id]) > 1],
        refused_counted=[
            sent.event_id for sent in refused if by_event[sent.event_id] or sent.event_id in stored.event_ids
        ],
        wrong_amounts=[
            sent.event_id for sent in taken for row in by_event[sent.event_id] if not is_right(record, sent, row)
        ],
        invented=[event_id for event_id, rows in by_event.items() if rows and event_id not in record.sent],
        wrong_balances=[
            customer_id
            for customer_id in sorted(sums.keys() | stored.balances.keys())
            if sums[customer_id] != stored.balances.get(customer_id, 0)
        ],
        contradictions=[sent.event_id for sent in accepted if any(one != sent.answers[0] for one in sent.answers)],
        overdrawn=[sent.event_id for sent in accepted if sent.kind == "redemption" and below_zero(sent.answers[0])],
    )


def is_lost(sent: Sent, rows: Sequence[Row], event_ids: frozenset[str]) -> bool:
    """Tell whether an accepted event is not recorded, or has no effect (a reversal may have had nothing to take)."""
    has_effect = sent.kind != "reversal" or sent.answers[0]["points"] != 0
    return sent.event_id not in event_ids or (has_effect and not rows)


def is_right(record: Record, sent: Sent, row: Row) -> bool:
    """Tell whether a transaction is what its event should have given."""
    if (row.customer_id, row.event_type) != (sent.customer_id, sent.kind):
        return False
    if sent.amount is not None:
        return row.amount == sent.amount
    if sent.kind == "reversal":
        # One that was not answered has taken back something all the same.
        return row.amount == sent.answers[0]["points"] if sent.answers else row.amount < 0
    if row.rule_version in record.amounts:
        return row.amount == record.amounts[row.rule_version]
    return row.amount in record.amounts_unknown


def below_zero(answer: Mapping[str, object]) -> bool:
    """Tell whether a redemption's own answer says that it took more than there was."""
    pending = answer["pendingBalance"]
    return isinstance(pending, int) and pending < 0
