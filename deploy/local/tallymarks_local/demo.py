"""The demo tenant of `make run`: a tenant with a segment and two rules, and the curl lines that show it."""

import asyncio
import json
import os
import shlex
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from tallymarks_local.servers import LocalServerError

TENANT_NAME = "Demo"
REQUEST_TIMEOUT_SECONDS = 15.0


@dataclass(slots=True)
class Demo:
    """The demo tenant's key and what it holds; the ids of rules are chosen before they are made.

    Kept in a file, because the secret is shown only once and a second run finds its tenant again.
    """

    tenant_id: str
    api_key: str
    api_secret: str
    registration_rule_id: str
    spend_rule_id: str
    segment_id: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"x-tenant-id": self.tenant_id, "x-api-key": self.api_key, "x-api-secret": self.api_secret}


async def run_command(environment: Mapping[str, str], *arguments: str) -> str:
    """Run the `tallymarks` command; gives what it prints.

    Raises:
        LocalServerError: it failed; the message holds what it said.
    """
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "tallymarks",
        *arguments,
        env=environment,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = (output + errors).decode(errors="replace").strip()
        raise LocalServerError(f"tallymarks {' '.join(arguments)} ended with code {process.returncode}:\n{said}")
    return output.decode()


def write_private(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that only its owner reads, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    unfinished.replace(path)


async def prepare_demo(path: Path, base_url: str, environment: Mapping[str, str]) -> Demo:
    """The demo tenant as it is on the running api; makes what is missing of it.

    `path` holds the tenant of an earlier run; one that the api does not know (the database was replaced) is made anew.

    Raises:
        LocalServerError: the api or the `tallymarks` command refused.
    """
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(base_url, timeout=timeout) as session:
        demo = _read(path)
        if demo is None or not await _is_known(session, demo):
            demo = await _create_tenant(environment)
            _write(path, demo)
        if not demo.segment_id or not await _exists(session, demo, f"/api/v1/admin/segments/{demo.segment_id}"):
            segment = {
                "name": "demo",
                "displayName": "Demo members",
                "description": "Customers who registered",
                "status": "active",
                "expiry": {"mode": "none"},
            }
            demo.segment_id = str((await _post(session, demo, "/api/v1/admin/segments", segment))["segmentId"])
            _write(path, demo)
        for rule in _rules(demo):
            if not await _exists(session, demo, f"/api/v1/admin/rules/{rule['ruleId']}"):
                await _post(session, demo, "/api/v1/admin/rules", rule)
    return demo


def curl_lines(base_url: str, demo: Demo) -> list[str]:
    """Commands to type: an order for a new customer, and what became of it."""
    customer_id = str(uuid.uuid4())
    credentials = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in demo.headers.items())
    order = {
        "eventId": str(uuid.uuid4()),
        "customerId": customer_id,
        "nameSpace": "Shop.Order",
        "reference": "1001",
        "order": {
            "total": "19.99",
            "currency": "EUR",
            "items": [{"sku": "A-1", "name": "Mug", "quantity": 1, "price": "19.99"}],
        },
    }
    body = f"-H 'content-type: application/json' -d {shlex.quote(json.dumps(order))}"
    return [
        f"curl -sS {credentials} {body} '{base_url}/api/v1/events/orders'",
        f"curl -sS {credentials} '{base_url}/api/v1/customers/{customer_id}/balance'",
        f"curl -sS {credentials} '{base_url}/api/v1/customers/events?customerId={customer_id}'",
        f"curl -sS {credentials} '{base_url}/api/v1/customers/transactions?customerId={customer_id}'",
        f"curl -sS {credentials} '{base_url}/api/v1/customers/{customer_id}/segments'",
    ]


def _rules(demo: Demo) -> list[dict[str, Any]]:
    registration = {
        "ruleId": demo.registration_rule_id,
        "name": "Registration bonus",
        "eventType": "action",
        "status": "active",
        "criteria": [{"type": "nameSpace", "operator": "equals", "value": "Customer.Registration"}],
        "fulfilments": [{"type": "points", "amount": 5}, {"type": "addToSegment", "segmentId": demo.segment_id}],
    }
    spend = {
        "ruleId": demo.spend_rule_id,
        "name": "One and a half points per unit of spend",
        "eventType": "order",
        "status": "active",
        "criteria": [],
        "fulfilments": [{"type": "pointsPerUnit", "rate": "1.5"}],
    }
    return [registration, spend]


def _read(path: Path) -> Demo | None:
    try:
        return Demo(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(path: Path, demo: Demo) -> None:
    write_private(path, asdict(demo))


async def _create_tenant(environment: Mapping[str, str]) -> Demo:
    tenant = json.loads(await run_command(environment, "tenant", "create", TENANT_NAME))
    return Demo(tenant["tenantId"], tenant["apiKey"], tenant["apiSecret"], str(uuid.uuid4()), str(uuid.uuid4()))


async def _is_known(session: aiohttp.ClientSession, demo: Demo) -> bool:
    async with session.get("/api/v1/admin/segments", headers=demo.headers) as response:
        return response.status != HTTPStatus.UNAUTHORIZED


async def _exists(session: aiohttp.ClientSession, demo: Demo, path: str) -> bool:
    async with session.get(path, headers=demo.headers) as response:
        return response.status == HTTPStatus.OK


async def _post(session: aiohttp.ClientSession, demo: Demo, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(path, headers=demo.headers, json=body) as response:
        answer = await response.text()
        if response.status != HTTPStatus.OK:
            raise LocalServerError(f"The demo's POST {path} was answered {response.status}: {answer}")
    content: dict[str, Any] = json.loads(answer)
    return content
