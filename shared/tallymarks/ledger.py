"""The ledger: accounts under lock, transactions that are only ever added, balances that are their sum.

Whoever moves points goes through here, in one SQL transaction: lock the accounts, decide, write. Everyone takes locks
in the same order (accounts by key, customers that are made, uses of rules, events, memberships), so nobody deadlocks;
the row of a debited redemption is guarded by the lock of its account.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import orjson

from tallymarks.database import Connection, Record
from tallymarks.events import AnyEvent, RedemptionEvent, ReversalEvent, created_at_of
from tallymarks.rules.evaluate import Effected
from tallymarks.rules.facts import COUNTED_TYPES, VALUED_TYPES, CustomerState, Totals
from tallymarks.rules.fulfilments import GivePoints
from tallymarks.rules.reversal import TakenBack
from tallymarks.segments import anniversary
from tallymarks.sql import customers as customers_sql
from tallymarks.sql import ledger as sql
from tallymarks.values import format_instant

COUNT_COLUMNS = [(event_type, f"{event_type}_count") for event_type in COUNTED_TYPES]
VALUE_COLUMNS = [(event_type, f"{event_type}_value") for event_type in VALUED_TYPES]


class Account(NamedTuple):
    """An account, whose row this transaction has locked unless it only reads."""

    customer_id: UUID
    balance: int
    is_locked: bool
    customer_created_at: datetime
    totals: Totals


class LockedBatch(NamedTuple):
    """What a batch begins with."""

    rules_revision: int
    taken_event_ids: frozenset[UUID]
    """Of its events those that were recorded when this was asked; not those of whom its locks had to wait for."""
    accounts: Mapping[UUID, Account]
    """Of its customers those that are known."""


class Overtaken(Exception):  # noqa: N818 - named as the state it tells of
    """Another transaction has written meanwhile what this one has not found; the same again finds it."""


class Transaction(NamedTuple):
    """One row of the ledger: the effect of one fulfilment of one rule on one event, or of the event itself.

    In the order of the database's type `new_transaction`.
    """

    transaction_id: UUID
    customer_id: UUID
    event_id: UUID
    event_type: str
    assessment_rule_id: UUID | None
    created_at: datetime
    check_sum: bytes
    name_space: str | None
    description: str | None
    amount: int
    external_reference: str | None
    assessment_rule_version: int | None
    fulfilment_index: int


async def create_missing_customers(
    connection: Connection, tenant_id: UUID, customer_ids: Iterable[UUID], now: datetime
) -> dict[UUID, Account]:
    """Create a bare customer, with an account, for each id that is not known; gives these accounts.

    Nobody else sees them before this transaction is committed, so they need no lock.
    """
    rows = await connection.fetch(
        customers_sql.INSERT_MISSING, tenant_id, sorted(customer_ids), now, anniversary(now, 1)
    )
    created = sorted(row["customer_id"] for row in rows)
    if created:
        await connection.execute(customers_sql.INSERT_ACCOUNTS, tenant_id, created, now)
    return {customer_id: Account(customer_id, 0, False, now, Totals()) for customer_id in created}


async def lock_batch(
    connection: Connection, tenant_id: UUID, customer_ids: Iterable[UUID], event_ids: Sequence[UUID]
) -> LockedBatch | None:
    """Lock the accounts likewise, and read with them what a batch has to know before all else.

    None where there is no such tenant.
    """
    rows = await connection.fetch(sql.LOCK_BATCH, tenant_id, sorted(customer_ids), event_ids)
    if not rows:
        return None
    accounts = {row["customer_id"]: _account_of(row) for row in rows if row["customer_id"] is not None}
    return LockedBatch(rows[0]["rules_revision"], frozenset(rows[0]["taken_event_ids"]), accounts)


async def lock_accounts(connection: Connection, tenant_id: UUID, customer_ids: Iterable[UUID]) -> dict[UUID, Account]:
    """Lock the accounts until the transaction ends; unknown customers are not in what comes back."""
    rows = await connection.fetch(sql.LOCK_ACCOUNTS, tenant_id, sorted(customer_ids))
    return {row["customer_id"]: _account_of(row) for row in rows}


async def read_accounts(connection: Connection, tenant_id: UUID, customer_ids: Iterable[UUID]) -> dict[UUID, Account]:
    """Read the accounts without a lock, to tell what would be: nothing may be decided by them."""
    rows = await connection.fetch(sql.SELECT_ACCOUNTS, tenant_id, sorted(customer_ids))
    return {row["customer_id"]: _account_of(row) for row in rows}


def _account_of(row: Record) -> Account:
    return Account(row["customer_id"], row["balance"], row["is_locked"], row["customer_created_at"], _totals_of(row))


def _totals_of(row: Record) -> Totals:
    return Totals(
        {event_type: row[column] for event_type, column in COUNT_COLUMNS},
        {event_type: row[column] for event_type, column in VALUE_COLUMNS},
        int(row["points_earned"]),
    )


def transactions_of(
    tenant_id: UUID, event: AnyEvent, effects: Iterable[Effected], new_id: Callable[[], UUID]
) -> list[Transaction]:
    """Make the ledger rows of an event's effects."""
    rows = []
    for effected in effects:
        if isinstance(effected.effect, GivePoints):
            rule = effected.rule
            rows.append(
                _transaction(
                    tenant_id,
                    event,
                    rule_id=rule.rule_id if rule else None,
                    rule_version=rule.version if rule else None,
                    fulfilment_index=effected.fulfilment_index,
                    description=rule.name if rule else None,
                    amount=effected.effect.amount,
                    transaction_id=new_id(),
                )
            )
    return rows


def debit(tenant_id: UUID, event: RedemptionEvent, transaction_id: UUID) -> Transaction:
    """Make the ledger row of a redemption."""
    return _transaction(
        tenant_id,
        event,
        rule_id=None,
        rule_version=None,
        fulfilment_index=0,
        description=event.redemption.description,
        amount=-event.redemption.points,
        transaction_id=transaction_id,
    )


def taken_back(tenant_id: UUID, event: ReversalEvent, one: TakenBack, transaction_id: UUID) -> Transaction:
    """Make the ledger row of what a reversal takes back: it tells the rule whose points they were."""
    return _transaction(
        tenant_id,
        event,
        rule_id=one.given.rule_id,
        rule_version=one.given.rule_version,
        fulfilment_index=one.given.fulfilment_index,
        description=one.given.description,
        amount=one.amount,
        transaction_id=transaction_id,
    )


async def write(
    connection: Connection,
    tenant_id: UUID,
    transactions: Sequence[Transaction],
    balances: Mapping[UUID, int],
    now: datetime,
) -> None:
    """Add transactions, and write the balances that they lead to; the accounts must be locked by this transaction."""
    await connection.execute(sql.INSERT_TRANSACTIONS, tenant_id, transactions, now)
    await connection.execute(sql.UPDATE_BALANCES, tenant_id, list(balances), list(balances.values()), now)


async def write_assessed(
    connection: Connection,
    tenant_id: UUID,
    transactions: Sequence[Transaction],
    customers: Sequence[CustomerState],
    now: datetime,
) -> None:
    """Add transactions, and write the balances and totals that events have led to; the accounts must be locked.

    Args:
        connection: in a transaction of the tenant.
        tenant_id: the tenant.
        transactions: the new rows of the ledger.
        customers: the customers as they are afterwards.
        now: when this is recorded.
    """
    if transactions:
        await connection.execute(sql.INSERT_TRANSACTIONS, tenant_id, transactions, now)
    moved = {transaction.customer_id for transaction in transactions}
    rows = [  # of the type `assessed_account`
        (
            customer.customer_id,
            customer.balance,
            customer.customer_id in moved,
            *map(totals.count, COUNTED_TYPES),
            *(str(totals.value(event_type)) for event_type in VALUED_TYPES),
            str(totals.points_earned),
        )
        for customer in customers
        for totals in (customer.totals,)
    ]
    await connection.execute(sql.UPDATE_ACCOUNTS, tenant_id, rows, now)


def check_sum_of(
    tenant_id: UUID,
    *,
    customer_id: UUID,
    event_id: UUID,
    rule_id: UUID | None,
    fulfilment_index: int,
    event_type: str,
    created_at: datetime,
    name_space: str | None,
    description: str | None,
    amount: int,
    external_reference: str | None,
) -> bytes:
    """Give the SHA-256 over a row's content and what makes it unique.

    So the same effect can be written once only, and a row that was changed behind our back no longer agrees with it.
    """
    content = (
        tenant_id,
        customer_id,
        event_id,
        rule_id,
        fulfilment_index,
        event_type,
        format_instant(created_at),
        name_space,
        description,
        amount,
        external_reference,
    )
    return sha256(orjson.dumps(content, default=str)).digest()


def _transaction(
    tenant_id: UUID,
    event: AnyEvent | ReversalEvent,
    *,
    rule_id: UUID | None,
    rule_version: int | None,
    fulfilment_index: int,
    description: str | None,
    amount: int,
    transaction_id: UUID,
) -> Transaction:
    created_at = created_at_of(event)
    check_sum = check_sum_of(
        tenant_id,
        customer_id=event.customer_id,
        event_id=event.event_id,
        rule_id=rule_id,
        fulfilment_index=fulfilment_index,
        event_type=event.event_type,
        created_at=created_at,
        name_space=event.name_space,
        description=description,
        amount=amount,
        external_reference=event.reference,
    )
    return Transaction(
        transaction_id=transaction_id,
        customer_id=event.customer_id,
        event_id=event.event_id,
        event_type=event.event_type,
        assessment_rule_id=rule_id,
        created_at=created_at,
        check_sum=check_sum,
        name_space=event.name_space,
        description=description,
        amount=amount,
        external_reference=event.reference,
        assessment_rule_version=rule_version,
        fulfilment_index=fulfilment_index,
    )
