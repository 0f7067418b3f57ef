"""PostgreSQL's own benchmark program, doing one transaction per event on the migrations' own tables."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import orjson

from tallymarks.segments import anniversary
from tallymarks.service import utc_now
from tallymarks.sql import customers as customers_sql
from tallymarks.sql import tenancy
from tallymarks_local.postgres import find_binaries
from tests.benchmarks.ground import Ground, settle
from tests.benchmarks.load import Orders

CLIENTS = 8
SCRIPT = Path(__file__).with_name("pgbench.sql")
RATE = re.compile(r"^tps = ([\d.]+) \(without initial connection time\)$", re.MULTILINE)


class Pgbench:
    """A database with a tenant and its customers, with the ids that the script computes."""

    def __init__(self, database_url: str, tenant_id: UUID, customer_count: int) -> None:
        self._database_url = database_url
        self._tenant_id = tenant_id
        self._customer_count = customer_count

    @classmethod
    @asynccontextmanager
    async def on(cls, ground: Ground, customer_count: int) -> AsyncIterator["Pgbench"]:
        """Make them in a database of their own, which is dropped at the end."""
        tenant_id, now = uuid4(), utc_now()
        customer_ids = [UUID(f"00000000-0000-4000-8000-{number:012}") for number in range(1, customer_count + 1)]
        async with ground.database() as database_url:
            database = await asyncpg.connect(database_url)
            try:
                await database.execute(tenancy.INSERT_TENANT, tenant_id, "Benchmark", b"", now)
                await database.execute(customers_sql.INSERT_MISSING, tenant_id, customer_ids, now, anniversary(now, 1))
                await database.execute(customers_sql.INSERT_ACCOUNTS, tenant_id, customer_ids, now)
            finally:
                await database.close()
            yield cls(database_url, tenant_id, customer_count)

    async def measure(self, events: int) -> float:
        """Run so many transactions; gives the events a second that pgbench says, without the time to connect."""
        await settle(self._database_url)
        variables = {"tenant": self._tenant_id, "customers": self._customer_count, "body": _body()}
        process = await asyncio.create_subprocess_exec(
            find_binaries() / "pgbench",
            "--no-vacuum",
            "--protocol=prepared",
            f"--client={CLIENTS}",
            f"--jobs={min(CLIENTS, os.cpu_count() or 1)}",
            f"--transactions={max(1, events // CLIENTS)}",
            f"--file={SCRIPT}",
            *(f"--define={name}={value}" for name, value in variables.items()),
            self._database_url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        found = RATE.search(output.decode())
        if process.returncode or found is None:
            raise RuntimeError(f"pgbench failed: {(output + errors).decode()}")
        return float(found[1])


def _body() -> str:
    """An order as it is recorded."""
    return orjson.dumps(Orders(1).of_any(1)[0]).decode()
