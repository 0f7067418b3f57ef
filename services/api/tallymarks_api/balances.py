"""Reading balances, those that are asked for at the same time with one query."""

from collections.abc import Sequence
from uuid import UUID

from tallymarks import limits
from tallymarks.database import Database, Record
from tallymarks.sql import customers as sql
from tallymarks_api.batcher import Batcher, done_by_tenant

Asked = tuple[UUID, UUID]
"""A tenant and its customer."""


class Balances:
    """Reads balances."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database
        self._batcher: Batcher[Asked, Record | None] = Batcher(
            self._read_together,
            at_once=limits.BALANCE_LOTS_AT_ONCE,
            beside_min=limits.LOT_BESIDE_MIN,
            size_max=limits.BALANCES_TOGETHER_MAX,
        )

    async def read(self, tenant_id: UUID, customer_id: UUID) -> Record | None:
        """Give a balance as it is after this was called, and when it changed; None where there is no such customer."""
        return await self._batcher.add((tenant_id, customer_id))

    async def _read_together(self, lot: Sequence[Asked]) -> Sequence[Record | Exception | None]:
        return await done_by_tenant(lot, lambda asked: asked[0], self._read)

    async def _read(self, tenant_id: UUID, lot: Sequence[Asked]) -> Sequence[Record | Exception | None]:
        async with self._database.transaction(tenant_id) as connection:
            rows = await connection.fetch(sql.SELECT_BALANCES, tenant_id, [customer_id for _, customer_id in lot])
        found = {row["customer_id"]: row for row in rows}
        return [found.get(customer_id) for _, customer_id in lot]
