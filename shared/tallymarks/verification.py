"""The proof that the ledger is sound: balances are the sums of their transactions, and no transaction was altered."""

from collections.abc import AsyncIterator
from uuid import UUID

from tallymarks import ledger, limits
from tallymarks.database import Database, Record
from tallymarks.sql import ledger as sql

NO_ID = UUID(int=0)


async def differing_balances(database: Database, tenant_id: UUID, number_max: int) -> list[Record]:
    """Give the first customers of a tenant whose balance is not the sum of their transactions."""
    async with database.transaction(tenant_id) as connection:
        # The one statement that reads a whole tenant.
        await connection.execute("SET LOCAL statement_timeout = 0")
        return await connection.fetch(
            sql.SELECT_DIFFERING_BALANCES, tenant_id, number_max, timeout=limits.VERIFY_TIMEOUT_SECONDS
        )


async def altered_transactions(database: Database, tenant_id: UUID) -> AsyncIterator[Record]:
    """Give the transactions of a tenant that do not agree with their check sums, page by page.

    Each page has a transaction of its own: rows are only ever added, so none is judged by what another page saw.
    """
    last = NO_ID
    while True:
        async with database.transaction(tenant_id) as connection:
            rows = await connection.fetch(sql.SELECT_TO_VERIFY, tenant_id, last, limits.VERIFY_TRANSACTIONS_MAX)
        for row in rows:
            if not _agrees(tenant_id, row):
                yield row
        if len(rows) < limits.VERIFY_TRANSACTIONS_MAX:
            return
        last = rows[-1]["transaction_id"]


def _agrees(tenant_id: UUID, row: Record) -> bool:
    """Tell whether a row is what its check sum was made of.

    Of a row that is older than the column of its fulfilment any that the rule can have had will do.
    """
    index = row["fulfilment_index"]
    indexes = range(limits.RULE_FULFILMENTS_MAX) if index is None else (index,)
    return any(
        row["check_sum"]
        == ledger.check_sum_of(
            tenant_id,
            customer_id=row["customer_id"],
            event_id=row["event_id"],
            rule_id=row["assessment_rule_id"],
            fulfilment_index=one,
            event_type=row["event_type"],
            created_at=row["created_at"],
            name_space=row["name_space"],
            description=row["description"],
            amount=row["amount"],
            external_reference=row["external_reference"],
        )
        for one in indexes
    )
