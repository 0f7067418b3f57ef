"""The rules that every SQL statement keeps, so that the tables can be distributed by tenant: read out of the texts.

Each check is a function from a statement to what is wrong with it, which is shown to find a statement that breaks it.
"""

import ast as python_ast
import importlib
import pkgutil
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pglast import ast, enums, parse_sql

import tallymarks.sql

ROOT = Path(__file__).parents[2]
SQL_FOLDER = ROOT / "shared" / "tallymarks" / "sql"
MIGRATIONS = sorted((ROOT / "shared" / "tallymarks" / "migrations").glob("*.sql"))
SOURCES = sorted(path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py"))
TENANT = 1
"""The number of the parameter that is the tenant, in every statement."""

SHARED_TABLES = {"outbox": "one small table that all tenants share and that is polled as a whole"}
ACROSS_TENANTS = {
    "memberships.SELECT_TENANTS_WITH_LAPSED": "the housekeeper's: it asks which tenants have something to remove",
    "anniversaries.SELECT_TENANTS_WITH_DUE": "the housekeeper's: likewise, something to publish",
    "triggers.SELECT_TENANTS_WITH_DUE": "the housekeeper's: likewise, something to publish",
    "simulations.SELECT_TENANTS_WITH_UNSETTLED": "the housekeeper's: likewise, something to simulate or to clear away",
    "assessments.SELECT_TENANTS_WITH_OLD": "the housekeeper's: it asks which tenants have something to remove",
    "tenancy.SELECT_TENANTS": "the operator's: it lists the tenants, whose table has no other key",
}
COUNTING = {
    "rules.COUNT_RULES": "the number of a tenant's rules is bounded, and held by a lock while it is counted",
    "rules.COUNT_ACTIVE_RULE_VERSIONS": "likewise the number of versions of the active ones",
    "events.COUNT_IN_WINDOWS": "no more than each window's own bound is counted",
    "simulations.COUNT_IN_WINDOWS": "likewise",
    "simulations.SUM_EVENTS": "an event is counted once in a whole simulation",
}
HARMLESS_FUNCTIONS = {"unnest", "sum", "count", "set_config", "search_pieces", "row_number"}
"""None gives another result for the same arguments, or asks for the time: so every node computes the same."""
NO_QUERIES = {
    "SELECT 1": "asks whether the server answers",
    "SET LOCAL statement_timeout = 0": "for the one statement that reads a whole tenant",
    "SELECT pg_advisory_lock($1)": "one migration at a time: it runs before there are tables",
    "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()": "how the migration tool shall connect",
}
"""Texts outside of the SQL modules: none touches a table of ours."""


# --- the statements ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """A statement, and the name that the program knows it by."""

    name: str
    text: str

    @property
    def tree(self) -> object:
        """The statement, parsed; there must be one only."""
        (parsed,) = parse_sql(self.text)
        return parsed.stmt

    def __str__(self) -> str:
        return self.name


def statements() -> Iterator[Statement]:
    """Every statement of the SQL modules."""
    for module in pkgutil.iter_modules(tallymarks.sql.__path__):
        for name, value in vars(importlib.import_module(f"tallymarks.sql.{module.name}")).items():
            if name.isupper():
                assert isinstance(value, str), name
                yield Statement(f"{module.name}.{name}", value)


STATEMENTS = tuple(statements())
each_statement = pytest.mark.parametrize("statement", STATEMENTS, ids=str)


def nodes(tree: object) -> Iterator[Any]:
    """Every node of a tree, itself included."""
    if isinstance(tree, ast.Node):
        yield tree
        for slot in tree:
            yield from nodes(getattr(tree, slot))
    elif isinstance(tree, tuple):
        for child in tree:
            yield from nodes(child)


def kind(node: object) -> str:
    return type(node).__name__


def of_kind(tree: object, *kinds: str) -> list[Any]:
    """The nodes of a tree that are of these kinds."""
    return [node for node in nodes(tree) if kind(node) in kinds]


@cache
def primary_keys() -> Mapping[str, tuple[str, ...]]:
    """Every table that the migrations make, with the columns of its primary key."""
    texts = [path.read_text().partition("-- migrate:down")[0] for path in MIGRATIONS]
    made = [table for text in texts for table in of_kind(tuple(parse_sql(text)), "CreateStmt")]
    return {table.relation.relname: tuple(_primary_key(table)) for table in made}


def _primary_key(table: Any) -> Iterator[str]:
    for element in table.tableElts:
        constraints = [element] if kind(element) == "Constraint" else element.constraints or ()
        for constraint in constraints:
            if constraint.contype == enums.ConstrType.CONSTR_PRIMARY:
                yield from (key.sval for key in constraint.keys) if constraint.keys else (element.colname,)


# --- what a statement does --------------------------------------------------------------------------------------------


def tables_of(query: Any) -> list[Any]:
    """The tables that a query itself reads or changes, not those of its subqueries."""
    match kind(query):
        case "SelectStmt":
            items = query.fromClause or ()
        case "UpdateStmt":
            items = (query.relation, *(query.fromClause or ()))
        case "DeleteStmt":
            items = (query.relation, *(query.usingClause or ()))
        case _:
            items = ()
    return [table for item in items for table in _tables_in(item)]


def _tables_in(item: Any) -> Iterator[Any]:
    if kind(item) == "RangeVar":
        yield item
    elif kind(item) == "JoinExpr":
        yield from _tables_in(item.larg)
        yield from _tables_in(item.rarg)


def named_results(tree: object) -> set[str]:
    """The names of common table expressions, but not those that hide a table."""
    return {node.ctename for node in of_kind(tree, "CommonTableExpr")} - set(primary_keys())


def conditions(expression: Any) -> Iterator[Any]:
    """What must all hold for the expression to hold."""
    if kind(expression) == "BoolExpr" and expression.boolop == enums.BoolExprType.AND_EXPR:
        for argument in expression.args:
            yield from conditions(argument)
    elif expression is not None:
        yield expression


def fixed_columns(query: Any, table: Any, parameters: Container[int]) -> set[str]:
    """The columns of a table that must equal one of these parameters, by the query's WHERE."""
    name = table.alias.aliasname if table.alias else table.relname
    is_alone = len(tables_of(query)) == 1
    found: set[str] = set()
    for condition in conditions(query.whereClause):
        if kind(condition) != "A_Expr" or condition.kind != enums.A_Expr_Kind.AEXPR_OP:
            continue
        column, value = condition.lexpr, condition.rexpr
        is_equality = [part.sval for part in condition.name] == ["="]
        if is_equality and kind(column) == "ColumnRef" and kind(value) == "ParamRef" and value.number in parameters:
            *path, last = [part.sval for part in column.fields]
            if path == [name] or (not path and is_alone):
                found.add(last)
    return found


def puts_tenant_first(insert: Any) -> bool:
    """Whether the tenant is the first column, and the parameter of that number."""
    query = insert.selectStmt
    first = query.valuesLists[0][0] if query.valuesLists else query.targetList[0].val
    return insert.cols[0].name == "tenant_id" and kind(first) == "ParamRef" and first.number == TENANT


# --- the rules --------------------------------------------------------------------------------------------------------


def tables_without_tenant(tree: object) -> list[str]:
    """The tables that are touched without saying whose rows."""
    read = [
        table.relname
        for query in nodes(tree)
        for table in tables_of(query)
        if "tenant_id" not in fixed_columns(query, table, {TENANT})
    ]
    written = [insert.relation.relname for insert in of_kind(tree, "InsertStmt") if not puts_tenant_first(insert)]
    return [name for name in read + written if name not in SHARED_TABLES and name not in named_results(tree)]


def other_tenants(tree: object) -> list[int]:
    """Parameters that would be the tenant beside the one that is: a statement is about one."""
    compared = [
        condition.rexpr.number
        for condition in of_kind(tree, "A_Expr")
        if kind(condition.rexpr) == "ParamRef"
        and kind(condition.lexpr) == "ColumnRef"
        and condition.lexpr.fields[-1].sval == "tenant_id"
    ]
    return [number for number in compared if number != TENANT]


def unknown_tables(tree: object) -> list[str]:
    """Names that are no tables of the schema."""
    read = [table.relname for query in nodes(tree) for table in tables_of(query)]
    written = [insert.relation.relname for insert in of_kind(tree, "InsertStmt")]
    return [name for name in read + written if name not in primary_keys() and name not in named_results(tree)]


def writes_in_ctes(tree: object) -> list[str]:
    """Common table expressions that change something."""
    writing = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")
    return [node.ctename for node in of_kind(tree, "CommonTableExpr") if of_kind(node, *writing)]


def doubtful_functions(tree: object) -> list[str]:
    """Functions that are not known to give the same everywhere, and the SQL names of the present time."""
    called = [node.funcname[-1].sval for node in of_kind(tree, "FuncCall")]
    times = [kind(node) for node in of_kind(tree, "SQLValueFunction")]
    return [name for name in called if name not in HARMLESS_FUNCTIONS] + times


def skipped_rows(tree: object) -> list[Any]:
    """OFFSET clauses."""
    return [node.limitOffset for node in of_kind(tree, "SelectStmt") if node.limitOffset]


def counted_rows(tree: object) -> list[Any]:
    """Calls of count."""
    return [node for node in of_kind(tree, "FuncCall") if node.funcname[-1].sval == "count"]


def unordered_locks(tree: object) -> list[str]:
    """Tables of which several rows are locked in no order: two who do so could wait for each other."""
    any_parameter = range(1, 100)
    return [
        table.relname
        for query in of_kind(tree, "SelectStmt")
        if query.lockingClause and not query.sortClause
        for table in tables_of(query)
        if not set(primary_keys()[table.relname]) <= fixed_columns(query, table, any_parameter)
    ]


def unordered_claims(tree: object) -> list[str]:
    """Tables that many rows are put into in no order, where they may meet those of others (ON CONFLICT): likewise."""
    return [
        insert.relation.relname
        for insert in of_kind(tree, "InsertStmt")
        if insert.onConflictClause and not insert.selectStmt.valuesLists and not insert.selectStmt.sortClause
    ]


def settings_that_stay(tree: object) -> Sequence[object]:
    """What is set for longer than the transaction: a session is lent to the next one as it was left."""
    calls = [node for node in of_kind(tree, "FuncCall") if node.funcname[-1].sval == "set_config"]
    for_the_session = [node for node in calls if getattr(node.args[-1], "val", None) != ast.Boolean(True)]
    return [*for_the_session, *(node for node in of_kind(tree, "VariableSetStmt") if not node.is_local)]


def times_without_zone(tree: object) -> list[str]:
    """Types of time that mean another instant on another machine."""
    named = [node.names[-1].sval for node in of_kind(tree, "TypeName")]
    return [name for name in named if name in {"timestamp", "time", "timetz", "date"}]


RULES: Mapping[str, Callable[[object], Sequence[object]]] = {
    "names a tenant for each table": tables_without_tenant,
    "is about one tenant": other_tenants,
    "touches known tables": unknown_tables,
    "writes nothing in a CTE": writes_in_ctes,
    "calls nothing volatile": doubtful_functions,
    "sets nothing that stays": settings_that_stay,
    "skips no rows": skipped_rows,
    "counts no rows": counted_rows,
    "locks in order": unordered_locks,
    "claims in order": unordered_claims,
    "has no time without zone": times_without_zone,
}
EXEMPTIONS: Mapping[str, Mapping[str, str]] = {
    "names a tenant for each table": ACROSS_TENANTS,
    "counts no rows": COUNTING,
}
BREAKING = [
    ("names a tenant for each table", "SELECT 1 FROM events WHERE event_id = $1"),
    ("names a tenant for each table", "SELECT 1 FROM events WHERE tenant_id = $2"),
    ("names a tenant for each table", "SELECT 1 FROM events WHERE tenant_id = $1 OR event_id = $2"),
    ("names a tenant for each table", "SELECT 1 FROM events WHERE NOT tenant_id = $1"),
    ("names a tenant for each table", "SELECT 1 FROM events WHERE tenant_id >= $1"),
    ("names a tenant for each table", "SELECT 1 FROM events WHERE tenant_id = ANY($1)"),
    ("names a tenant for each table", "SELECT 1 FROM events e, rules r WHERE tenant_id = $1"),
    ("names a tenant for each table", "SELECT 1 FROM events e, rules r WHERE e.tenant_id = $1"),
    (
        "names a tenant for each table",
        "SELECT 1 FROM events e JOIN rules r ON r.tenant_id = e.tenant_id WHERE e.tenant_id = $1",
    ),
    (
        "names a tenant for each table",
        "SELECT 1 FROM events e LEFT JOIN rules r ON r.tenant_id = $1 WHERE e.tenant_id = $1",
    ),
    (
        "names a tenant for each table",
        "SELECT 1 FROM events WHERE tenant_id = $1 AND EXISTS (SELECT FROM rules WHERE rule_id = $2)",
    ),
    ("names a tenant for each table", "SELECT 1 FROM (SELECT 1 FROM events) e WHERE tenant_id = $1"),
    ("names a tenant for each table", "WITH e AS (SELECT 1 FROM events) SELECT 1 FROM e WHERE tenant_id = $1"),
    ("names a tenant for each table", "SELECT 1 FROM rules WHERE tenant_id = $1 UNION SELECT 1 FROM rules"),
    ("names a tenant for each table", "UPDATE rules SET status = $2 WHERE rule_id = $1"),
    ("names a tenant for each table", "UPDATE rules SET status = $2"),
    ("names a tenant for each table", "DELETE FROM rules r USING events e WHERE r.tenant_id = $1"),
    ("names a tenant for each table", "INSERT INTO rules (rule_id, tenant_id) VALUES ($1, $2)"),
    ("names a tenant for each table", "INSERT INTO rules (tenant_id, rule_id) VALUES ($2, $1)"),
    ("names a tenant for each table", "INSERT INTO rules (tenant_id) SELECT tenant_id FROM rules WHERE tenant_id = $1"),
    (
        "names a tenant for each table",
        "WITH rules AS (SELECT 1 FROM events WHERE tenant_id = $1) SELECT 1 FROM rules",
    ),
    ("is about one tenant", "SELECT 1 FROM rules r, events e WHERE r.tenant_id = $1 AND e.tenant_id = $2"),
    ("touches known tables", "SELECT 1 FROM event WHERE tenant_id = $1"),
    ("touches known tables", "SELECT 1 FROM pg_class"),
    ("writes nothing in a CTE", "WITH a AS (INSERT INTO rules (tenant_id) VALUES ($1)) SELECT 1"),
    ("writes nothing in a CTE", "WITH a AS (DELETE FROM rules WHERE tenant_id = $1 RETURNING 1) SELECT 1 FROM a"),
    ("calls nothing volatile", "SELECT now()"),
    ("calls nothing volatile", "SELECT CURRENT_TIMESTAMP"),
    ("calls nothing volatile", "INSERT INTO rules (tenant_id, rule_id) VALUES ($1, gen_random_uuid())"),
    ("calls nothing volatile", "SELECT 1 FROM rules WHERE random() < 0.5"),
    ("calls nothing volatile", "UPDATE rules SET changed_at = pg_catalog.clock_timestamp()"),
    ("calls nothing volatile", "SELECT nextval('s')"),
    ("sets nothing that stays", "SELECT set_config('tallymarks.tenant_id', $1, false)"),
    ("sets nothing that stays", "SELECT set_config('tallymarks.tenant_id', $1, $2)"),
    ("sets nothing that stays", "SET ROLE tallymarks_service"),
    ("sets nothing that stays", "SET lock_timeout = 0"),
    ("skips no rows", "SELECT 1 FROM rules LIMIT 10 OFFSET $2"),
    ("counts no rows", "SELECT count(*) FROM rules WHERE tenant_id = $1"),
    ("counts no rows", "SELECT 1 FROM rules GROUP BY status HAVING count(rule_id) > 1"),
    ("locks in order", "SELECT 1 FROM rules WHERE tenant_id = $1 FOR UPDATE"),
    ("locks in order", "SELECT 1 FROM rules WHERE tenant_id = $1 AND rule_id = ANY($2) FOR NO KEY UPDATE"),
    ("locks in order", "SELECT 1 FROM rules WHERE tenant_id = $1 AND status = $2 FOR SHARE"),
    ("claims in order", "INSERT INTO rules (tenant_id) SELECT $1 FROM unnest($2) ON CONFLICT DO NOTHING"),
    ("has no time without zone", "SELECT $1::timestamp"),
    ("has no time without zone", "SELECT $1::date"),
]


@pytest.mark.parametrize("rule", RULES)
@each_statement
def test_a_statement_keeps_the_rule(statement: Statement, rule: str) -> None:
    is_exempt = statement.name in EXEMPTIONS.get(rule, {})
    assert bool(RULES[rule](statement.tree)) is is_exempt


@pytest.mark.parametrize(("rule", "text"), BREAKING)
def test_a_rule_finds_what_breaks_it(rule: str, text: str) -> None:
    assert RULES[rule](Statement("breaking", text).tree)


def test_exemptions_are_for_statements_and_tables_that_exist() -> None:
    names = {statement.name for statement in STATEMENTS}
    assert all(set(exempt) <= names for exempt in EXEMPTIONS.values())
    assert set(SHARED_TABLES) <= set(primary_keys())


def test_the_tables_of_a_tenant_have_the_tenant_first_in_their_key() -> None:
    assert len(primary_keys()) > len(SHARED_TABLES)
    for table, key in primary_keys().items():
        assert key[0] == "tenant_id" or table in SHARED_TABLES, table


# --- where SQL is and is not ------------------------------------------------------------------------------------------


def strings(tree: python_ast.Module) -> Iterator[str]:
    """The texts of a module, the fixed parts of an f-string as one; not its docstrings."""
    skipped: set[int] = set()
    for node in python_ast.walk(tree):
        if isinstance(node, python_ast.Expr) and isinstance(node.value, python_ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, python_ast.JoinedStr):
            fixed = [part for part in node.values if isinstance(part, python_ast.Constant)]
            skipped.update(map(id, fixed))
            yield "?".join(str(part.value) for part in fixed)
    for node in python_ast.walk(tree):
        if isinstance(node, python_ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


SQL_TEXT = re.compile(
    r"^\s*(--[^\n]*\n\s*)*"
    r"(select\s+\S+|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|with\s+\w+\s+as\s|merge\s+into\s|truncate\s"
    r"|(create|alter|drop)\s+(table|index|role|extension|policy|view)\s|grant\s|revoke\s|copy\s+\S+\s+(from|to)\s"
    r"|set\s+(local|session)\s|reset\s|lock\s+table\s|begin\b|commit\b|rollback\b|listen\s|notify\s|call\s|do\s+\$)"
    r"|\bfrom\s+(" + "|".join(sorted(primary_keys())) + r")\b"
    r"|\bwhere\s+\w+(\.\w+)?\s*(=|in\s*\()",
    re.IGNORECASE,
)


def sql_in(source: str) -> list[str]:
    """The texts of a module that look like SQL and are not exempt."""
    return [text for text in strings(python_ast.parse(source)) if SQL_TEXT.search(text) and text not in NO_QUERIES]


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.parent != SQL_FOLDER], ids=lambda path: str(path.relative_to(ROOT))
)
def test_sql_is_in_the_sql_modules_only(path: Path) -> None:
    assert sql_in(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        'x = "SELECT a FROM b"',
        'x = "select balance from accounts"',
        'x = """\n-- What for.\nSELECT a\nFROM b\n"""',
        'x = "INSERT INTO a VALUES (1)"',
        'x = "UPDATE a SET b = 1"',
        'x = "DELETE FROM a"',
        'x = f"DELETE FROM {table}"',
        'x = f"SELECT * FROM events WHERE {name} = 1"',
        'x = "TRUNCATE a"',
        'x = "SET LOCAL work_mem = 1"',
        'x = query + " WHERE tenant_id = $1"',
        'x = "SELECT 1; SELECT 2"',
        'async def f():\n    """Read."""\n    await connection.fetch("WITH a AS (SELECT 1) TABLE a")',
    ],
)
def test_sql_elsewhere_is_found(source: str) -> None:
    assert sql_in(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""SELECT a FROM b"""',
        'x = "Update a customer"',
        'x = "Delete a customer from a segment"',
        'x = "Create a segment"',
        'x = "SELECT 1"',
        'x = "What is set: nothing."',
    ],
)
def test_prose_is_not_taken_for_sql(source: str) -> None:
    assert sql_in(source) == []


def test_the_exempt_texts_are_in_use() -> None:
    texts = {text for path in SOURCES for text in strings(python_ast.parse(path.read_text()))}
    assert set(NO_QUERIES) <= texts


def test_statements_are_texts_and_never_built() -> None:
    for path in SQL_FOLDER.glob("*.py"):
        for node in python_ast.parse(path.read_text()).body:
            value = node.value if isinstance(node, python_ast.Expr | python_ast.Assign) else None
            assert isinstance(value, python_ast.Constant), f"{path.name}:{node.lineno}"
            assert isinstance(value.value, str)


def uses(source: str) -> Iterator[str]:
    """The names of the SQL modules' statements that a module uses."""
    tree = python_ast.parse(source)
    modules = {
        alias.asname or alias.name: alias.name
        for node in python_ast.walk(tree)
        if isinstance(node, python_ast.ImportFrom) and node.module == "tallymarks.sql"
        for alias in node.names
    }
    for node in python_ast.walk(tree):
        match node:
            case python_ast.Attribute(value=python_ast.Name(id=name), attr=attribute) if name in modules:
                if attribute.isupper():
                    yield f"{modules[name]}.{attribute}"


def test_every_statement_has_a_use() -> None:
    used = {name for path in SOURCES for name in uses(path.read_text())}
    assert used == {statement.name for statement in STATEMENTS}
