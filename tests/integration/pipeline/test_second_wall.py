"""The second wall between tenants: a statement that has lost its filters meets no row of another tenant.

From each statement every condition is taken out, that on the tenant with the others, and every bound. Then it is run
as the services run theirs, bound to one tenant, while another has rows in every table too: the server tells how many
rows of each table it met.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg
import orjson
import pytest
from pglast import ast, enums, parse_sql
from pglast.stream import RawStream

from tallymarks.database import Connection, Database
from tests.integration.possessions import SHARED_TABLES, Possessions, mirror, tenant_tables
from tests.parts import Tenant
from tests.unit.test_sql_rules import STATEMENTS, Statement, nodes, primary_keys, tables_of

BESIDE_THE_WALL = {
    "customers.SEARCH_IDS_BY_TRIGRAMS": "run as the searcher: an index on LIKE is not used below a policy",
    "customers.SEARCH_IDS_BY_PIECES": "likewise",
    "memberships.SELECT_TENANTS_WITH_LAPSED": "run as the housekeeper, who looks for tenants with something to do",
    "anniversaries.SELECT_TENANTS_WITH_DUE": "likewise",
    "triggers.SELECT_TENANTS_WITH_DUE": "likewise",
    "simulations.SELECT_TENANTS_WITH_UNSETTLED": "likewise",
    "assessments.SELECT_TENANTS_WITH_OLD": "likewise",
    "events.SELECT_RECORDED": "run as the doorkeeper, who is asked without a transaction",
    "tenancy.SELECT_TENANTS": "run as the housekeeper, for the operator's checks",
}
"""Statements that are run as a role that no policy holds: it sees the columns that it was granted, and no others."""
SELECT_FOREIGN_KEYS = """
SELECT conrelid::regclass::text AS table, conname AS name FROM pg_constraint WHERE contype = 'f'
"""
FOUND_ONE = {"tenancy.SELECT_TENANT_EXISTS": "EXISTS ends with the first row"}
"""Statements that even without any wall meet no more rows than a tenant has itself."""


def is_of(statement: Statement, *kinds: str) -> bool:
    """Whether a statement is of one of these kinds, and touches data of tenants."""
    touched = {table.relname for query in nodes(statement.tree) for table in tables_of(query)}
    is_kind = type(statement.tree).__name__ in kinds
    return is_kind and (kinds == ("InsertStmt",) or bool(touched & set(primary_keys()) - SHARED_TABLES))


READING = [statement for statement in STATEMENTS if is_of(statement, "SelectStmt", "UpdateStmt", "DeleteStmt")]
INSERTING = [
    statement
    for statement in STATEMENTS
    if is_of(statement, "InsertStmt") and statement.tree.relation.relname not in SHARED_TABLES  # type: ignore[attr-defined]
]


# --- statements that have lost what held them -------------------------------------------------------------------------


def stripped(statement: Statement, parameters: tuple[asyncpg.Type, ...]) -> str:
    """The statement without any condition and bound; what it would set it leaves as it is."""
    tree: Any = statement.tree
    for node in list(nodes(tree)):
        match type(node).__name__:
            case "SelectStmt":
                node.whereClause = node.limitCount = None
            case "UpdateStmt" | "DeleteStmt":
                node.whereClause = None
            case "JoinExpr":
                node.quals = _condition("true")
    if type(tree).__name__ == "UpdateStmt":
        for target in tree.targetList:
            target.val = ast.ColumnRef((_name(tree.relation), ast.String(target.name)))
    # The server wants to know of which type each parameter is, also those that the statement needs no more.
    typed = " AND ".join(f"(${place}::{_type(one)} IS NULL OR true)" for place, one in enumerate(parameters, 1))
    where = _condition(typed or "true")
    is_union = type(tree).__name__ == "SelectStmt" and tree.op != enums.SetOperation.SETOP_NONE
    (tree.larg if is_union else tree).whereClause = where
    return str(RawStream()(tree))


def _name(table: Any) -> ast.String:
    return ast.String(table.alias.aliasname if table.alias else table.relname)


def _condition(text: str) -> Any:
    parsed: Any = parse_sql(f"SELECT 1 WHERE {text}")
    return parsed[0].stmt.whereClause


def _type(parameter: asyncpg.Type) -> str:
    return f"{parameter.name.removesuffix('[]')}[]" if parameter.kind == "array" else parameter.name


def arguments(parameters: tuple[asyncpg.Type, ...]) -> list[object]:
    """Arguments that make one row of each `unnest`, with nothing in it."""
    return [[None] if parameter.kind == "array" else None for parameter in parameters]


# --- what they meet ---------------------------------------------------------------------------------------------------


def scans(plan: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Each look into a table that was taken, with the rows that came of it."""
    if "Relation Name" in plan and "Scan" in plan["Node Type"] and plan["Actual Loops"]:
        yield plan["Relation Name"], plan["Actual Rows"]
    for child in plan.get("Plans", ()):
        yield from scans(child)


async def met(connection: "Connection | asyncpg.Connection", statement: Statement) -> Counter[str]:
    """The most rows of each table that one look of the stripped statement meets; nothing of what it does stays."""
    parameters = (await connection.prepare(statement.text)).get_parameters()
    explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {stripped(statement, parameters)}"
    await connection.execute("SAVEPOINT before_it")
    try:
        ((plan,),) = await connection.fetch(explained, *arguments(parameters))
    finally:
        await connection.execute("ROLLBACK TO before_it")
    found: Counter[str] = Counter()
    for table, rows in scans(orjson.loads(plan)[0]["Plan"]):
        found[table] = max(found[table], rows)
    return found


@pytest.fixture
async def rows(
    owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, possessions: Possessions
) -> Mapping[str, int]:
    """How many rows each of two tenants has in each table."""
    await mirror(owner, tenant, other_tenant)
    for key in await owner.fetch(SELECT_FOREIGN_KEYS):
        # They would be looked at by a commit, which there is none of.
        await owner.execute(f"ALTER TABLE {key['table']} ALTER CONSTRAINT {key['name']} DEFERRABLE INITIALLY DEFERRED")
    counted = {}
    for table in await tenant_tables(owner):
        of_each = await owner.fetch(f"SELECT count(*) AS rows FROM {table} GROUP BY tenant_id")
        assert len(of_each) == 2, table
        counted[table] = min(row["rows"] for row in of_each)
        assert counted[table] > 0
    return counted


async def test_a_statement_without_its_conditions_meets_the_rows_of_its_own_tenant_only(
    database: Database, owner: asyncpg.Connection, tenant: Tenant, rows: Mapping[str, int]
) -> None:
    assert len(READING) > 80
    for statement in READING:
        async with database.transaction(tenant.tenant_id) as connection:
            behind = await met(connection, statement)
        assert behind, statement
        assert not {table: number for table, number in behind.items() if number > rows[table]}, statement
        # Without the wall the same statement does meet the other's: what was run was worth running.
        async with owner.transaction():
            beside = await met(owner, statement)
        if statement.name not in FOUND_ONE:
            assert all(beside[table] > rows[table] for table in behind), (statement, beside)


async def test_a_statement_without_its_conditions_and_without_a_tenant_meets_nothing(
    database: Database, rows: Mapping[str, int]
) -> None:
    for statement in READING:
        async with database.connection() as connection, connection.transaction():
            assert set((await met(connection, statement)).values()) <= {0}, statement


async def test_no_statement_inserts_a_row_of_another_tenant(
    database: Database, tenant: Tenant, other_tenant: Tenant, rows: Mapping[str, int]
) -> None:
    assert len(INSERTING) >= 20
    for statement in INSERTING:
        async with database.transaction(tenant.tenant_id) as connection:
            prepared = await connection.prepare(statement.text)
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await prepared.fetch(other_tenant.tenant_id, *arguments(prepared.get_parameters())[1:])


def test_statements_beside_the_wall_are_known() -> None:
    assert set(BESIDE_THE_WALL) <= {statement.name for statement in READING}
