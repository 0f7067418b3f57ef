"""The rules that assessors hold in memory, and how they notice a change: by its number, in each transaction.

So a change counts from the next batch on, wherever the assessor runs, and no announcement of it can be lost.
"""

from collections.abc import Iterable
from uuid import UUID

import orjson
from cachetools import LRUCache

from tallymarks import limits
from tallymarks.database import Connection, Record
from tallymarks.rules.explanation import VersionKey
from tallymarks.rules.rule import Rule, RuleVersion
from tallymarks.rules.rule_set import RuleSet, in_order
from tallymarks.segments import Segment
from tallymarks.sql import rules as sql


class RuleSets:
    """The rule sets of the tenants seen last."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_tenant: LRUCache[UUID, RuleSet] = LRUCache(limits.RULE_SETS_CACHED_MAX)

    async def current(self, connection: Connection, tenant_id: UUID) -> RuleSet | None:
        """Give the tenant's rules as they are now, read anew only where their revision is another.

        None where there is no such tenant.
        """
        revision = await connection.fetchval(sql.SELECT_REVISION, tenant_id)
        return None if revision is None else await self.of_revision(connection, tenant_id, revision)

    async def of_revision(self, connection: Connection, tenant_id: UUID, revision: int) -> RuleSet:
        """Give the tenant's rules, of which this transaction has read the revision."""
        known = self._by_tenant.get(tenant_id)
        if known is None or known.revision != revision:
            known = await _read(connection, tenant_id, revision)
            self._by_tenant[tenant_id] = known
        return known


async def _read(connection: Connection, tenant_id: UUID, revision: int) -> RuleSet:
    rules = [rule_of(row) for row in await connection.fetch(sql.SELECT_ACTIVE_RULE_VERSIONS, tenant_id)]
    return RuleSet.of(revision, rules, await _segments_named(connection, tenant_id, rules))


async def with_rules_in_test(connection: Connection, tenant_id: UUID, active: RuleSet) -> RuleSet:
    """Give the active rules together with those in status test, as they would be were these active too."""
    in_test = [rule_of(row) for row in await connection.fetch(sql.SELECT_RULES_IN_TEST, tenant_id)]
    segments = {**active.segments}
    for segment in await _segments_named(connection, tenant_id, in_test):
        segments[segment.segment_id] = segment
    return RuleSet.of_any_status(active.revision, in_order([*active.rules, *in_test]), segments.values())


async def _segments_named(connection: Connection, tenant_id: UUID, rules: Iterable[Rule]) -> list[Segment]:
    named = sorted({segment_id for rule in rules for _, segment_id in rule.segments_named()})
    return [segment_of(row) for row in await connection.fetch(sql.SELECT_SEGMENTS_NAMED, tenant_id, named)]


async def rules_of_versions(
    connection: Connection, tenant_id: UUID, named: Iterable[VersionKey]
) -> dict[VersionKey, Rule]:
    """Read rules with the content of the versions named."""
    keys = sorted(named)
    rows = await connection.fetch(
        sql.SELECT_RULE_VERSIONS_NAMED,
        tenant_id,
        [key.rule_id for key in keys],
        [key.version for key in keys],
    )
    return {VersionKey(row["rule_id"], row["version"]): rule_of(row) for row in rows}


def rule_of(row: Record) -> Rule:
    """Read a stored rule, with the content of one of its versions."""
    return Rule.model_validate({**orjson.loads(row["definition"]), **_without_definition(row)})


def rule_version_of(row: Record) -> RuleVersion:
    """Read a stored version of a rule."""
    return RuleVersion.model_validate({**orjson.loads(row["definition"]), **_without_definition(row)})


def segment_of(row: Record) -> Segment:
    """Read a stored segment."""
    return Segment.model_validate({**dict(row), "expiry": orjson.loads(row["expiry"])})


def _without_definition(row: Record) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "definition"}
