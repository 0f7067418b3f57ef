"""Reading what events are assessed in: a few set-based queries for a whole batch, under the account lock.

Or without any lock for one event that is only asked about, as baskets are.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tallymarks import ledger, memberships, rule_uses
from tallymarks.database import Connection
from tallymarks.events import AnyEvent, EventBase, EventType, created_at_of
from tallymarks.ledger import Account, Overtaken
from tallymarks.rules.assessment import Situation
from tallymarks.rules.facts import CustomerState, UseKey, Window
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_set import RuleSet
from tallymarks.rules.uses import RuleUses, counts_together, use_keys
from tallymarks.sql import events as sql

Windows = Mapping[UUID, Mapping[Window, int]]
"""Customer → question → answer."""


@dataclass(slots=True)
class Situations:
    """The customers of a batch as they are now, and what was read for its rules; it changes from event to event."""

    customers: dict[UUID, CustomerState]
    windows: Windows
    rule_uses: Mapping[UUID, RuleUses]
    first_uses: Mapping[UUID, Mapping[UseKey, int]] = field(default_factory=dict)
    """What customers had used before the batch."""
    first_rule_uses: Mapping[UUID, RuleUses] = field(default_factory=dict)
    """What all customers together had used before it."""

    def of(self, event: EventBase) -> Situation:
        """Give the situation that the event meets."""
        return Situation(self.customers[event.customer_id], self.rule_uses, self.windows.get(event.customer_id, {}))

    def changed_uses(self) -> dict[UUID, dict[UseKey, int]]:
        """Give what the batch has used, by customer."""
        changed: dict[UUID, dict[UseKey, int]] = {}
        for customer_id, customer in self.customers.items():
            before = self.first_uses.get(customer_id, {})
            of_one = {key: uses for key, uses in customer.uses.items() if before.get(key) != uses}
            if of_one:
                changed[customer_id] = of_one
        return changed

    def changed_rule_uses(self) -> dict[UUID, RuleUses]:
        """Give what the batch has used of rules that all customers share."""
        before = self.first_rule_uses
        return {rule_id: uses for rule_id, uses in self.rule_uses.items() if before.get(rule_id) != uses}


async def load(
    connection: Connection,
    tenant_id: UUID,
    events: Sequence[AnyEvent],
    rule_set: RuleSet,
    now: datetime,
    locked: Mapping[UUID, Account],
) -> Situations:
    """Create unknown customers, lock the rules that all customers share, and read what rules ask.

    Args:
        connection: in a transaction of the tenant.
        tenant_id: the tenant.
        events: of a batch.
        rule_set: the rules that assess them.
        now: when a customer who is not known joins.
        locked: the accounts of those of the events' customers that are known, which this transaction has locked.

    Raises:
        Overtaken: a customer who was not known has been created by another transaction, and the account is not locked.
    """
    customer_ids = {event.customer_id for event in events}
    accounts = [locked[customer_id] for customer_id in customer_ids.intersection(locked)]
    if unknown := customer_ids.difference(locked):
        created = await ledger.create_missing_customers(connection, tenant_id, unknown, now)
        if len(created) < len(unknown):
            raise Overtaken
        accounts += created.values()
    together = await rule_uses.lock_together(connection, tenant_id, _shared_rules(rule_set, events))
    return await _read(connection, tenant_id, events, rule_set, now, accounts, together)


async def look(
    connection: Connection,
    tenant_id: UUID,
    event: AnyEvent,
    rule_set: RuleSet,
    now: datetime,
    made_up: CustomerState | None = None,
) -> Situation:
    """Read what the event would be assessed in were it posted now; this locks, creates and writes nothing.

    Args:
        connection: in a transaction of the tenant that sees one instant (`Database.reading`).
        tenant_id: the tenant.
        event: the event.
        rule_set: the rules that would assess it.
        now: when a customer who is not known would join.
        made_up: a customer to take instead of what is known of the event's, who then has no past but what is in it.
    """
    together = await rule_uses.load_together(connection, tenant_id, _shared_rules(rule_set, [event]))
    if made_up is not None:
        return Situation(made_up, together, {})
    accounts = await ledger.read_accounts(connection, tenant_id, [event.customer_id])
    if not accounts:
        return Situation(CustomerState(event.customer_id, now, 0, {}), together, {})
    situations = await _read(connection, tenant_id, [event], rule_set, now, accounts.values(), together)
    return situations.of(event)


async def _read(
    connection: Connection,
    tenant_id: UUID,
    events: Sequence[AnyEvent],
    rule_set: RuleSet,
    now: datetime,
    accounts: Collection[Account],
    together: Mapping[UUID, RuleUses],
) -> Situations:
    """Read what rules ask of the events' customers, whose accounts and uses together are read already."""
    customer_ids = [account.customer_id for account in accounts]
    current = await memberships.load(connection, tenant_id, customer_ids, now) if rule_set.names_segments else {}
    keys = {
        key
        for event in (events if rule_set.limited else ())
        for rule in _limited_rules(rule_set, event)
        for key in use_keys(rule, created_at_of(event))
    }
    uses = await rule_uses.load_of_customers(connection, tenant_id, customer_ids, keys)
    windows = await _count_in_windows(connection, tenant_id, events, rule_set) if rule_set.asks_windows else {}
    customers = {
        account.customer_id: CustomerState(
            account.customer_id,
            account.customer_created_at,
            account.balance,
            current.get(account.customer_id, {}),
            account.totals,
            uses.get(account.customer_id, {}),
        )
        for account in accounts
    }
    return Situations(customers, windows, together, uses, together)


def _event_types(event: AnyEvent) -> tuple[str, ...]:
    """Give the types under which rules look at the event, or at the points events that may follow from it."""
    return tuple({event.event_type: None, EventType.POINTS: None})


def _limited_rules(rule_set: RuleSet, event: AnyEvent) -> Iterator[Rule]:
    for event_type in _event_types(event):
        yield from rule_set.limited.get(event_type, ())


def _shared_rules(rule_set: RuleSet, events: Iterable[AnyEvent]) -> list[UUID]:
    """Name the rules that may match and have a limit on what all customers use together, in the order of their locks.

    Whoever assesses events that such a rule cannot match does not wait for it. The points events that may follow from
    an event have all its texts but those of items and payments, so they find no rule that it does not.
    """
    if not any(counts_together(rule) for of_type in rule_set.limited.values() for rule in of_type):
        return []
    return sorted(
        {
            rule.rule_id
            for event in events
            for event_type in _event_types(event)
            for rule in rule_set.matching(event, event_type)
            if counts_together(rule)
        }
    )


async def _count_in_windows(
    connection: Connection, tenant_id: UUID, events: Sequence[AnyEvent], rule_set: RuleSet
) -> Windows:
    """Answer all that rules ask about the past of the batch's customers with one query.

    The points events that may follow from an event have its nameSpace and createdAt, so they ask the same as it would.
    """
    asked = list(
        dict.fromkeys(
            (event.customer_id, window)
            for event in events
            for event_type in _event_types(event)
            for rule in rule_set.matching(event, event_type)
            for criterion in rule.criteria
            for window in criterion.windows(event, event_type)
        )
    )
    answered: defaultdict[UUID, dict[Window, int]] = defaultdict(dict)
    if asked:
        rows = await connection.fetch(
            sql.COUNT_IN_WINDOWS,
            tenant_id,
            [event.event_id for event in events],
            list(range(len(asked))),
            [customer_id for customer_id, _ in asked],
            [window.event_type for _, window in asked],
            [window.name_space for _, window in asked],
            [window.after for _, window in asked],
            [window.until for _, window in asked],
            [window.count_max for _, window in asked],
        )
        for row in rows:
            customer_id, window = asked[row["place"]]
            answered[customer_id][window] = row["events"]
    return answered
