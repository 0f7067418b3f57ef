"""The statements that must stay fast use their indexes: as the services' roles, with custom and with generic plans.

A session plans a statement for its arguments at first and may turn to one plan for all arguments later, so both are
looked at. Nothing here is timed: what is asked is how the planner would go about it, on tables of some size.
"""

import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tallymarks.sql import (
    anniversaries,
    assessments,
    customers,
    events,
    ledger,
    memberships,
    reversals,
    rule_uses,
    simulations,
    tenancy,
    triggers,
)
from tests.servers import copy_database, drop_database

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CUSTOMERS = 100_000
TENANT, SMALL_TENANT, SEGMENT = (UUID(int=number) for number in (1, 2, 3))
NIL = "'00000000-0000-0000-0000-000000000000'"
PERIOD = "'1900-01-01Z', '2200-01-01Z'"

FILL = f"""
INSERT INTO tenants SELECT id::uuid, '', '', 0, now(), true FROM unnest(ARRAY['{TENANT}', '{SMALL_TENANT}']) id;
INSERT INTO segments VALUES ('{TENANT}', '{SEGMENT}', 'one', NULL, NULL, 'active', '{{}}', now(), now());
INSERT INTO customers (
    tenant_id, customer_id, optin_sms, optin_email, accept_terms, attributes, search_text, created_at, changed_at,
    next_anniversary_at
)
SELECT
    CASE WHEN n % 10 = 0 THEN '{SMALL_TENANT}' ELSE '{TENANT}' END::uuid, md5(n::text)::uuid, false, false, false, '[]',
    md5('a' || n) || E'\\n' || md5('b' || n) || '@example.com', now(), now(),
    now() + random() * interval '1 year'
FROM generate_series(1, {CUSTOMERS}) n;
INSERT INTO accounts
SELECT tenant_id, customer_id, 0, NULL, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, created_at FROM customers;
INSERT INTO events
SELECT
    tenant_id, md5(customer_id::text)::uuid, customer_id, 'action', 'Shop.Visit', md5('c' || customer_id),
    now() - random() * interval '1 year', now(), now(), '{{}}'
FROM customers;
INSERT INTO transactions
SELECT
    tenant_id, event_id, customer_id, event_id, event_type, NULL, created_at, recorded_at, uuid_send(event_id), NULL,
    NULL, 1, reference
FROM events;
INSERT INTO reversals SELECT tenant_id, event_id, customer_id, 1, now() FROM events;
INSERT INTO segment_memberships
SELECT tenant_id, customer_id, '{SEGMENT}', now(), now(), NULL, now() + random() * interval '100 days'
FROM customers WHERE tenant_id = '{TENANT}' LIMIT 50000;
INSERT INTO segment_lapses
SELECT tenant_id, customer_id, '{SEGMENT}', now() - interval '2 days', now() - random() * interval '1 day', now()
FROM customers;
INSERT INTO triggers
SELECT tenant_id, customer_id, customer_id, now() + random() * interval '1 year', 'Due', NULL, customer_id, 1, now()
FROM customers;
INSERT INTO assessments SELECT tenant_id, event_id, now() - random() * interval '1 year', '{{}}' FROM events;
INSERT INTO rule_uses SELECT tenant_id, customer_id, 1, 1 FROM customers LIMIT 2000;
INSERT INTO customer_rule_uses SELECT tenant_id, customer_id, customer_id, 'life', '1900-01-01Z', 1 FROM customers;
ANALYZE;
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(postgres_url: str, template_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with a large tenant and a small one."""
    name = f"test_{os.urandom(6).hex()}"
    connection = await asyncpg.connect(await copy_database(postgres_url, template_database, name))
    await connection.execute(FILL, timeout=110)
    yield connection
    await connection.close()
    await drop_database(postgres_url, name)


@dataclass(frozen=True)
class Planned:
    """A statement with arguments, the role that runs it, and the indexes that it must go by."""

    statement: str
    arguments: str
    indexes: frozenset[str]
    role: str = "tallymarks_service"


def planned(statement: str, arguments: str, *indexes: str, role: str = "tallymarks_service") -> Planned:
    return Planned(statement, arguments, frozenset(indexes), role)


TENANT_ID = f"'{TENANT}'"
IDS = "'{" + ",".join(str(UUID(int=number << 100)) for number in range(200)) + "}'"
ONE_ID = f"'{UUID(bytes=bytes(range(16)))}'"
SEARCH = f"{PERIOD}, {NIL}, 51"

EACH = f"'{{1,2}}', '{{{UUID(int=1 << 100)},{UUID(int=2 << 100)}}}'"
"""Two questions about two customers."""
TWO_IDS = EACH.split(", ")[1]
TWO_TIMES = "'{2026-01-01Z,2026-01-01Z}'"

STATEMENTS = {
    "the next events of a simulation": planned(
        simulations.FIND_NEXT, f"{TENANT_ID}, '2026-01-01Z', {NIL}, '2200-01-01Z', 'order', 10000, 500",
        "events_created_at_idx",
    ),
    "the events of a simulation": planned(
        simulations.SELECT_EVENTS, f"{TENANT_ID}, {IDS}", "events_pkey", "customers_pkey"
    ),
    "what customers did before": planned(
        simulations.SUM_EVENTS, f"{TENANT_ID}, {EACH}, {TWO_TIMES}, {TWO_IDS}, {TWO_TIMES}, {TWO_IDS}, false, ''",
        "events_customer_idx",
    ),
    "reversals before an event": planned(
        simulations.FIND_REVERSALS,
        f"{TENANT_ID}, {EACH}, {TWO_TIMES}, {TWO_IDS}, {TWO_TIMES}, {TWO_IDS}, false",
        "events_customer_idx",
    ),
    "what reversals took back": planned(
        simulations.SELECT_TAKEN, f"{TENANT_ID}, {EACH}, {TWO_IDS}, {NIL}", "reversals_pkey", "events_pkey"
    ),
    "points that customers had before": planned(
        simulations.SUM_TRANSACTIONS, f"{TENANT_ID}, {EACH}, {TWO_TIMES}, {TWO_TIMES}, {NIL}",
        "transactions_customer_idx",
    ),
    "windows before an event": planned(
        simulations.COUNT_IN_WINDOWS,
        f"{TENANT_ID}, {EACH}, '{{action,action}}', '{{a,b}}', {TWO_TIMES}, {TWO_TIMES}, '{{5,5}}', {TWO_IDS}, ''",
        "events_customer_idx",
    ),
    "memberships of another time": planned(
        simulations.SELECT_STAYS, f"{TENANT_ID}, {IDS}, '2026-01-01Z', '2026-01-01Z'", "segment_memberships_pkey",
        "segment_lapses_pkey",
    ),
    "a rare keyword": planned(
        customers.SEARCH_IDS_BY_TRIGRAMS, f"{TENANT_ID}, {NIL}, 51, '%abcdef%'", "customers_search_text_idx",
        role="tallymarks_searcher",
    ),
    "a rare keyword, a later page": planned(
        customers.SEARCH_IDS_BY_TRIGRAMS, f"{TENANT_ID}, {ONE_ID}, 51, '%abcdef%'", "customers_search_text_idx",
        role="tallymarks_searcher",
    ),
    "a rare keyword of two characters": planned(
        customers.SEARCH_IDS_BY_PIECES, f"{TENANT_ID}, {NIL}, 51, '%zq%', '{{zq}}'", "customers_search_pieces_idx",
        role="tallymarks_searcher",
    ),
    "a rare keyword without a letter": planned(
        customers.SEARCH_IDS_BY_PIECES, f"{TENANT_ID}, {ONE_ID}, 51, '%(-)%', '{{(-,-)}}'",
        "customers_search_pieces_idx", role="tallymarks_searcher",
    ),
    "a common keyword": planned(
        customers.SEARCH_NEARBY, f"{TENANT_ID}, {NIL}, 51, '%example%', 1000", "customers_pkey"
    ),
    "customers that were found": planned(customers.SELECT_FOUND, f"{TENANT_ID}, {IDS}", "customers_pkey"),
    "a page of customers": planned(customers.SELECT_PAGE, f"{TENANT_ID}, {NIL}, 51", "customers_pkey"),
    "a customer": planned(customers.SELECT_CUSTOMER, f"{TENANT_ID}, {ONE_ID}", "customers_pkey", "accounts_pkey"),
    "events of a customer": planned(
        events.SEARCH_OF_CUSTOMER, f"{TENANT_ID}, {ONE_ID}, NULL, NULL, {SEARCH}", "events_customer_idx"
    ),
    "events of a customer, filtered": planned(
        events.SEARCH_OF_CUSTOMER, f"{TENANT_ID}, {ONE_ID}, 'action', '%visit%', {SEARCH}", "events_customer_idx"
    ),
    "events of an event": planned(
        events.SEARCH_OF_EVENT, f"{TENANT_ID}, {ONE_ID}, NULL, NULL, {SEARCH}, NULL", "events_pkey"
    ),
    "all events": planned(events.SEARCH_ALL, f"{TENANT_ID}, NULL, NULL, NULL, {SEARCH}", "events_created_at_idx"),
    "transactions of a customer": planned(
        ledger.SEARCH_OF_CUSTOMER, f"{TENANT_ID}, {ONE_ID}, NULL, NULL, {SEARCH}", "transactions_customer_idx"
    ),
    "transactions of an event": planned(
        ledger.SEARCH_OF_EVENT, f"{TENANT_ID}, {ONE_ID}, NULL, NULL, {SEARCH}, NULL", "transactions_event_idx"
    ),
    "all transactions": planned(
        ledger.SEARCH_ALL, f"{TENANT_ID}, NULL, NULL, NULL, {SEARCH}", "transactions_created_at_idx"
    ),
    "the account lock": planned(ledger.LOCK_ACCOUNTS, f"{TENANT_ID}, {IDS}", "accounts_pkey"),
    "accounts that are only read": planned(ledger.SELECT_ACCOUNTS, f"{TENANT_ID}, {IDS}", "accounts_pkey"),
    "balances that are asked for together": planned(customers.SELECT_BALANCES, f"{TENANT_ID}, {IDS}", "accounts_pkey"),
    "new balances": planned(ledger.UPDATE_BALANCES, f"{TENANT_ID}, {IDS}, '{{1,2}}', now()", "accounts_pkey"),
    "unknown customers": planned(customers.INSERT_MISSING, f"{TENANT_ID}, {IDS}, now(), now()", "customers_pkey"),
    "what a batch begins with: accounts": planned(ledger.LOCK_BATCH, f"{TENANT_ID}, {IDS}, {IDS}", "accounts_pkey"),
    "what a batch begins with: events": planned(ledger.LOCK_BATCH, f"{TENANT_ID}, {IDS}, {IDS}", "events_pkey"),
    "events that were taken in before": planned(
        events.SELECT_RECORDED, f"{TENANT_ID}, {IDS}", "events_pkey", role="tallymarks_doorkeeper"
    ),
    "an event that is reversed": planned(
        reversals.SELECT_REVERSED_EVENT, f"{TENANT_ID}, {ONE_ID}", "events_pkey"
    ),
    "what an event gave": planned(reversals.SELECT_GIVEN, f"{TENANT_ID}, {IDS}", "transactions_event_idx"),
    "earlier reversals": planned(reversals.SELECT_REVERSALS, f"{TENANT_ID}, {ONE_ID}, 1000", "reversals_pkey"),
    "a page of transactions to verify": planned(
        ledger.SELECT_TO_VERIFY, f"{TENANT_ID}, {ONE_ID}, 5000", "transactions_pkey"
    ),
    "memberships of a batch": planned(
        memberships.SELECT_OF_CUSTOMERS, f"{TENANT_ID}, {IDS}, now()", "segment_memberships_pkey"
    ),
    "lapsed memberships": planned(
        memberships.LOCK_LAPSED, f"{TENANT_ID}, now() + interval '50 days', 1000", "segment_memberships_expiry_idx"
    ),
    "removing lapsed memberships": planned(
        memberships.DELETE_LOCKED, f"{TENANT_ID}, {IDS}, {IDS}", "segment_memberships_pkey"
    ),
    "tenants with lapsed memberships": planned(
        memberships.SELECT_TENANTS_WITH_LAPSED, f"{NIL}, now(), 100", "segment_memberships_expiry_idx",
        role="tallymarks_housekeeper",
    ),
    "anniversaries that have come": planned(
        anniversaries.LOCK_DUE, f"{TENANT_ID}, now() + interval '100 days', 1000", "customers_next_anniversary_idx"
    ),
    "moving on to the next anniversary": planned(
        anniversaries.MOVE_ON, f"{TENANT_ID}, {IDS}, '{{}}'", "customers_pkey"
    ),
    "tenants with anniversaries that have come": planned(
        anniversaries.SELECT_TENANTS_WITH_DUE, f"{NIL}, now(), 100", "customers_next_anniversary_idx",
        role="tallymarks_housekeeper",
    ),
    "how many events lie in a window": planned(
        events.COUNT_IN_WINDOWS,
        f"{TENANT_ID}, {IDS}, '{{1}}', ARRAY[{ONE_ID}]::uuid[], '{{order}}', '{{Shop}}', '{{2026-01-01}}',"
        " '{2026-02-01}', '{10}'",
        "events_customer_idx",
    ),
    "uses of rules by customers": planned(
        rule_uses.SELECT_OF_CUSTOMERS, f"{TENANT_ID}, {IDS}, {IDS}, '{{1900-01-01Z}}'", "customer_rule_uses_pkey"
    ),
    "rules with a limit for all": planned(
        rule_uses.LOCK, f"{TENANT_ID}, ARRAY[{ONE_ID}]::uuid[]", "rule_uses_pkey"
    ),
    "how an event was assessed": planned(assessments.SELECT, f"{TENANT_ID}, {ONE_ID}", "assessments_pkey"),
    "old explanations": planned(
        assessments.LOCK_OLD, f"{TENANT_ID}, now() - interval '100 days', 1000", "assessments_recorded_at_idx"
    ),
    "removing old explanations": planned(assessments.DELETE, f"{TENANT_ID}, {IDS}", "assessments_pkey"),
    "tenants with old explanations": planned(
        assessments.SELECT_TENANTS_WITH_OLD, f"{NIL}, now(), 100", "assessments_recorded_at_idx",
        role="tallymarks_housekeeper",
    ),
    "due triggers": planned(
        triggers.LOCK_DUE, f"{TENANT_ID}, now() + interval '100 days', 1000", "triggers_due_at_idx"
    ),
    "removing due triggers": planned(triggers.DELETE_LOCKED, f"{TENANT_ID}, {IDS}", "triggers_pkey"),
    "tenants with due triggers": planned(
        triggers.SELECT_TENANTS_WITH_DUE, f"{NIL}, now(), 100", "triggers_due_at_idx", role="tallymarks_housekeeper"
    ),
}  # fmt: skip


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


async def plan_of(connection: asyncpg.Connection, planned: Planned, mode: str) -> list[dict[str, Any]]:
    """How the server would run the statement, as the services send it."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(tenancy.BIND_TENANT.format(tenant_id=TENANT))
        await connection.execute(f"SET LOCAL ROLE {planned.role}")
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE looked_at AS {planned.statement}")
        explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE looked_at({planned.arguments})")
        await connection.execute("DEALLOCATE looked_at")
        return list(nodes(json.loads(explained)[0]["Plan"]))
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("what", STATEMENTS)
async def test_a_statement_goes_by_its_index(filled: asyncpg.Connection, what: str, mode: str) -> None:
    planned = STATEMENTS[what]
    plan = await plan_of(filled, planned, mode)
    assert planned.indexes <= {node.get("Index Name") for node in plan}
    scanned = {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}
    assert scanned <= {"tenants"}
