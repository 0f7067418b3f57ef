"""The operator's command: tenants, keys, and the proof that balances are the sum of the ledger."""

import json
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.credentials import is_secret
from tallymarks.database import Database
from tallymarks.service import new_id
from tallymarks.tenants import create_tenant
from tallymarks.verification import altered_transactions
from tallymarks_assessor.assess import Assessor
from tests.integration.pipeline.parts import Ran, points, run_command, seeded_ids
from tests.parts import Clock, Tenant

Command = Callable[..., Awaitable[Ran]]


async def test_a_new_tenant_has_an_admin_key_whose_secret_works_and_is_stored_nowhere(
    tallymarks: Command, owner: asyncpg.Connection
) -> None:
    ran = await tallymarks("tenant", "create", "Café & Co")
    assert ran.code == 0, ran.errors
    created = json.loads(ran.output)
    assert (created["name"], created["role"], created["isEnabled"]) == ("Café & Co", "admin", True)
    tenant_id = UUID(created["tenantId"])
    assert await owner.fetchval("SELECT name FROM tenants WHERE tenant_id = $1", tenant_id) == "Café & Co"
    (key,) = await owner.fetch("SELECT * FROM api_keys WHERE tenant_id = $1", tenant_id)
    assert key["api_key"] == created["apiKey"]
    assert is_secret(created["apiSecret"], key["secret_sha256"])
    assert created["apiSecret"] not in str(dict(key))


@pytest.mark.parametrize(("arguments", "role"), [((), "integration"), (("--role", "admin"), "admin")])
async def test_a_new_key_has_the_role_that_was_asked_for(
    tallymarks: Command, owner: asyncpg.Connection, tenant: Tenant, arguments: tuple[str, ...], role: str
) -> None:
    ran = await tallymarks("api-key", "create", str(tenant.tenant_id), "Shop", *arguments)
    assert ran.code == 0, ran.errors
    created = json.loads(ran.output)
    assert (created["name"], created["role"], created["tenantId"]) == ("Shop", role, str(tenant.tenant_id))
    key = await owner.fetchrow("SELECT * FROM api_keys WHERE api_key = $1", created["apiKey"])
    assert key is not None
    assert key["tenant_id"] == tenant.tenant_id
    assert key["role"] == role
    assert is_secret(created["apiSecret"], key["secret_sha256"])


async def test_a_key_of_a_tenant_that_does_not_exist_is_refused_in_a_sentence(
    tallymarks: Command, owner: asyncpg.Connection
) -> None:
    ran = await tallymarks("api-key", "create", "6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f0", "Shop")
    assert (ran.code, ran.output) == (1, "")
    assert "NotFound" in ran.errors
    assert "Traceback" not in ran.errors
    assert await owner.fetchval("SELECT count(*) FROM api_keys") == 0


@pytest.mark.parametrize("arguments", [("api-key", "create", "no uuid", "Shop"), ("tenant", "create"), ("nothing",)])
async def test_arguments_that_make_no_sense_are_refused(tallymarks: Command, arguments: tuple[str, ...]) -> None:
    ran = await tallymarks(*arguments)
    assert ran.code != 0
    assert "Traceback" not in ran.output + ran.errors


@pytest.mark.parametrize("command", [("tenant", "create", "Shop"), ("ledger", "verify")])
async def test_a_database_that_is_away_is_told_in_a_sentence(command: tuple[str, ...]) -> None:
    ran = await run_command("tallymarks", *command, TALLYMARKS_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert (ran.code, ran.output) == (1, "")
    assert "database is away" in ran.errors
    assert "Traceback" not in ran.errors


async def test_settings_that_are_missing_are_named() -> None:
    ran = await run_command("tallymarks", "ledger", "verify", TALLYMARKS_DATABASE_URL="x", TALLYMARKS_PARTITIONS="0")
    assert ran.code == 2
    assert "TALLYMARKS_PARTITIONS" in ran.errors


# --- ledger verify ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def customer_id(assessor: Assessor, tenant: Tenant, other_tenant: Tenant) -> UUID:
    """A customer with points, among others, also of another tenant."""
    ids = seeded_ids(1)
    customer_id = ids()
    for one in (tenant, other_tenant):
        events = [points(ids(), customer_id, 5), points(ids(), customer_id, -2), points(ids(), ids(), 7)]
        await assessor.assess(one.tenant_id, events)
    return customer_id


@pytest.mark.usefixtures("customer_id")
async def test_a_sound_ledger_is_proved(tallymarks: Command) -> None:
    ran = await tallymarks("ledger", "verify")
    assert ran.code == 0, ran.output
    assert json.loads(ran.output) == {"tenants": 2, "differingCustomers": 0, "alteredTransactions": 0}


TAMPERED = {
    "a balance": ("UPDATE accounts SET balance = 1000", 1000, 3, 0),
    "a transaction": ("UPDATE transactions SET amount = 50 WHERE amount = 5 AND true", 3, 48, 1),
    "a transaction that is gone": ("DELETE FROM transactions WHERE amount = 5 AND true", 3, -2, 0),
    "an account that is gone": ("DELETE FROM accounts WHERE true", 0, 3, 0),
    "all its transactions": ("DELETE FROM transactions WHERE true", 3, 0, 0),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_what_was_tampered_with_is_found_and_named(
    tallymarks: Command, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, customer_id: UUID, what: str
) -> None:
    statement, balance, amount, altered = TAMPERED[what]
    where = " WHERE " if "WHERE" not in statement else " AND "
    await owner.execute(f"{statement}{where}tenant_id = $1 AND customer_id = $2", tenant.tenant_id, customer_id)
    ran = await tallymarks("ledger", "verify")
    assert ran.code == 1
    differing, *named, summary = map(json.loads, ran.output.splitlines())
    assert differing == {
        "tenantId": str(tenant.tenant_id),
        "customerId": str(customer_id),
        "balance": balance,
        "transactions": amount,
    }
    assert len(named) == altered
    assert summary == {"tenants": 2, "differingCustomers": 1, "alteredTransactions": altered}


ALTERED = {
    "the amounts of two, which add up as before": ("amount = amount + CASE WHEN amount > 0 THEN 1 ELSE -1 END", 2),
    "the event": ("event_id = customer_id", 1),
    "the type": ("event_type = 'order'", 1),
    "the rule": ("assessment_rule_id = customer_id", 1),
    "the fulfilment": ("fulfilment_index = 1", 1),
    "the instant": ("created_at = created_at + interval '1 millisecond'", 1),
    "the nameSpace": ("name_space = 'Shop'", 1),
    "the description": ("description = 'Bonus'", 1),
    "the reference": ("external_reference = 'R-1'", 1),
    "the sum itself": ("check_sum = '\\x00'", 1),
    "the amounts of two, their fulfilment made unknown": (
        "fulfilment_index = NULL, amount = amount + CASE WHEN amount > 0 THEN 1 ELSE -1 END",
        2,
    ),
}


@pytest.mark.parametrize("what", ALTERED)
async def test_a_transaction_that_was_altered_is_named_where_balances_agree(
    tallymarks: Command, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, customer_id: UUID, what: str
) -> None:
    change, number = ALTERED[what]
    rows = await owner.fetch(
        f"UPDATE transactions SET {change} WHERE tenant_id = $1 AND customer_id = $2 AND amount = ANY($3)"
        " RETURNING transaction_id",
        tenant.tenant_id,
        customer_id,
        [5, -2][:number],
    )
    await owner.execute(
        "UPDATE accounts SET balance = (SELECT sum(amount) FROM transactions t"
        " WHERE t.tenant_id = accounts.tenant_id AND t.customer_id = accounts.customer_id)"
    )
    ran = await tallymarks("ledger", "verify")
    assert ran.code == 1
    *named, summary = map(json.loads, ran.output.splitlines())
    assert sorted(one.pop("transactionId") for one in named) == sorted(str(row["transaction_id"]) for row in rows)
    assert named == [{"tenantId": str(tenant.tenant_id), "customerId": str(customer_id)}] * number
    assert summary == {"tenants": 2, "differingCustomers": 0, "alteredTransactions": number}


@pytest.mark.usefixtures("customer_id")
async def test_transactions_of_before_fulfilments_were_told_apart_are_proved_too(
    tallymarks: Command, owner: asyncpg.Connection
) -> None:
    await owner.execute("UPDATE transactions SET fulfilment_index = NULL, assessment_rule_version = NULL")
    assert (await tallymarks("ledger", "verify")).code == 0


async def test_every_transaction_is_verified_however_many_there_are(
    assessor: Assessor, database: Database, owner: asyncpg.Connection, tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ids = seeded_ids(3)
    await assessor.assess(tenant.tenant_id, [points(ids(), ids(), number) for number in range(1, 10)])
    await owner.execute("UPDATE transactions SET description = 'altered' WHERE amount % 2 = 1")
    for page in (1, 2, 3, 9, 10):
        monkeypatch.setattr(limits, "VERIFY_TRANSACTIONS_MAX", page)
        found = [row["amount"] async for row in altered_transactions(database, tenant.tenant_id)]
        assert sorted(found) == [1, 3, 5, 7, 9], page


async def test_one_tenants_ledger_is_verified_by_itself(
    tallymarks: Command, owner: asyncpg.Connection, tenant: Tenant, other_tenant: Tenant, customer_id: UUID
) -> None:
    await owner.execute("UPDATE accounts SET balance = 1000 WHERE tenant_id = $1", tenant.tenant_id)
    assert (await tallymarks("ledger", "verify", "--tenant-id", str(tenant.tenant_id))).code == 1
    assert (await tallymarks("ledger", "verify", "--tenant-id", str(other_tenant.tenant_id))).code == 0


async def test_every_tenant_is_verified_however_many_there_are(
    tallymarks: Command, database: Database, owner: asyncpg.Connection, clock: Clock
) -> None:
    number = limits.PAGE_LIMIT_MAX + 1
    made = [await create_tenant(database, "One of many", now=clock(), new_id=new_id) for _ in range(number)]
    ran = await tallymarks("ledger", "verify")
    assert json.loads(ran.output) == {"tenants": number, "differingCustomers": 0, "alteredTransactions": 0}
    customer_id = seeded_ids(2)()
    await owner.execute(
        "INSERT INTO transactions"
        " (tenant_id, transaction_id, customer_id, event_id, event_type, created_at, recorded_at, check_sum, amount)"
        " VALUES ($1, $2, $2, $2, 'points', $3, $3, '\\x00', 1)",
        made[-1].tenant_id,
        customer_id,
        clock(),
    )
    ran = await tallymarks("ledger", "verify")
    assert ran.code == 1
    assert json.loads(ran.output.splitlines()[0])["customerId"] == str(customer_id)
