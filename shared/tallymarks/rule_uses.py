"""Uses of rules that have limits: read before events are evaluated, written after, under the locks of the batch."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from tallymarks.database import Connection, Record
from tallymarks.rules.facts import UseKey
from tallymarks.rules.uses import RuleUses
from tallymarks.sql import rule_uses as sql

CustomerUses = Mapping[UUID, Mapping[UseKey, int]]
"""Customer → what is counted → how often."""


async def load_of_customers(
    connection: Connection, tenant_id: UUID, customer_ids: Iterable[UUID], keys: Iterable[UseKey]
) -> CustomerUses:
    """Read what the customers have used under these keys; to be counted on, their accounts must be locked."""
    rule_ids: set[UUID] = set()
    beginnings: set[datetime] = set()
    for key in keys:
        rule_ids.add(key.rule_id)
        beginnings.add(key.period_from)
    loaded: defaultdict[UUID, dict[UseKey, int]] = defaultdict(dict)
    if rule_ids:
        rows = await connection.fetch(
            sql.SELECT_OF_CUSTOMERS, tenant_id, sorted(customer_ids), sorted(rule_ids), sorted(beginnings)
        )
        for row in rows:
            loaded[row["customer_id"]][UseKey(row["rule_id"], row["period"], row["period_from"])] = row["uses"]
    return loaded


async def write_of_customers(connection: Connection, tenant_id: UUID, changed: CustomerUses) -> None:
    """Write what customers have used, as it is now."""
    rows = sorted((customer_id, key, uses) for customer_id, of_one in changed.items() for key, uses in of_one.items())
    if rows:
        await connection.execute(
            sql.UPSERT_OF_CUSTOMERS,
            tenant_id,
            [customer_id for customer_id, _, _ in rows],
            [key.rule_id for _, key, _ in rows],
            [key.period for _, key, _ in rows],
            [key.period_from for _, key, _ in rows],
            [uses for _, _, uses in rows],
        )


async def lock_together(connection: Connection, tenant_id: UUID, rule_ids: Sequence[UUID]) -> dict[UUID, RuleUses]:
    """Lock what all customers together have used of these rules, until the transaction ends."""
    if not rule_ids:
        return {}
    in_order = sorted(rule_ids)
    await connection.execute(sql.INSERT_MISSING, tenant_id, in_order)
    return _together(await connection.fetch(sql.LOCK, tenant_id, in_order))


async def load_together(connection: Connection, tenant_id: UUID, rule_ids: Sequence[UUID]) -> dict[UUID, RuleUses]:
    """Read what all customers together have used of these rules without a lock, to tell what would be."""
    return _together(await connection.fetch(sql.SELECT, tenant_id, rule_ids)) if rule_ids else {}


def _together(rows: Iterable[Record]) -> dict[UUID, RuleUses]:
    return {row["rule_id"]: RuleUses(row["uses"], int(row["points"])) for row in rows}


async def write_together(connection: Connection, tenant_id: UUID, uses: Mapping[UUID, RuleUses]) -> None:
    """Write what all customers together have used of rules that this transaction has locked."""
    if uses:
        await connection.execute(
            sql.UPDATE,
            tenant_id,
            list(uses),
            [one.uses for one in uses.values()],
            [one.points for one in uses.values()],
        )
