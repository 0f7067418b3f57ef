"""Every call of the served document, with ids of another tenant: answered as with ids of nobody, to the byte.

Two tenants who are alike send the same requests in the same order. Where one names what a third tenant has, the other
names what nobody has.
"""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from uuid import UUID

import aiohttp
import asyncpg
import orjson
import pytest

from tallymarks.broker import Broker
from tallymarks.database import Database
from tallymarks.service import new_id
from tallymarks.tenants import create_tenant
from tallymarks_assessor.assess import Assessor
from tests.integration.api.answers import contents, queued, refused
from tests.integration.api.document import Document, Request
from tests.integration.api.given import ALL_FIELDS, API_KEYS, CUSTOMERS, a_customer, fresh_id, made
from tests.integration.pipeline.parts import working
from tests.integration.possessions import Possessions, rows_of
from tests.parts import Answered, ApiClient, Clock, Tenant, credentials, until

KINDS = ("apiKey", "offsetKey", "keyword", "emailAddress")
"""What may be named beside ids."""
NEW = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|key_[0-9a-f]{20}|secret_[\w-]{43}")
"""What is made anew for each request."""
SELECT_IS_WAITING = """
SELECT EXISTS (SELECT FROM outbox) OR EXISTS (SELECT FROM events WHERE assessed_at IS NULL)
"""
INDIFFERENT = {"Date"}
"""Headers that differ between two answers in any case."""


@pytest.fixture
async def twins(api_url: str, database: Database, clock: Clock) -> AsyncIterator[tuple[ApiClient, ApiClient]]:
    """Clients of two tenants who have nothing but a key."""
    keys = [await create_tenant(database, "Alike", now=clock(), new_id=new_id) for _ in range(2)]
    async with aiohttp.ClientSession() as session:
        first, second = (ApiClient(session, api_url, credentials(key)) for key in keys)
        yield first, second


@pytest.fixture
def assess_all(
    database: Database, broker: Broker, assessor: Assessor, clock: Clock, owner: asyncpg.Connection
) -> Callable[[], Awaitable[None]]:
    """Assesses everything that was accepted."""

    async def assess() -> None:
        async with working(database, broker, assessor, clock):
            await until(is_over)

    async def is_over() -> bool:
        return await queued(broker) == 0 and not await owner.fetchval(SELECT_IS_WAITING)

    return assess


@pytest.fixture
async def document(api: ApiClient) -> Document:
    return await Document.served(api, KINDS)


@pytest.fixture
async def theirs(api: ApiClient, tenant: Tenant, possessions: Possessions) -> dict[str, str]:
    """The names of what a tenant has, by kind."""
    await a_customer(api, firstName="Ada")
    page = (await api.get(CUSTOMERS, limit=1)).body
    return {
        "customerId": possessions.customer_id,
        "segmentId": possessions.segment_id,
        "ruleId": possessions.rule_id,
        "eventId": possessions.event_id,
        "reverses": possessions.order_id,
        "simulationId": possessions.simulation_id,
        "tenantId": str(tenant.tenant_id),
        "apiKey": possessions.api_key,
        "offsetKey": page["offsetKey"],
        "keyword": ALL_FIELDS["lastName"],
        "emailAddress": ALL_FIELDS["emailAddress"],
    }


def nobodys(theirs: Mapping[str, str]) -> dict[str, str]:
    """Names as long, of things that there are nowhere."""
    return {kind: fresh_id() if _is_id(name) else name[:4] + name[4:][::-1] for kind, name in theirs.items()}


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


async def answered(client: ApiClient, names: Mapping[str, str], request: Request) -> tuple[int, str, str]:
    """Send a request with these names; gives status, headers and body, in which each name is told by its kind."""
    path, query, body = request.filled(names)
    sent = None if body is None else orjson.dumps(body)
    headers = client.headers if sent is None else {**client.headers, "content-type": "application/json"}
    url = client.base_url + path
    async with client.session.request(request.method, url, params=query, data=sent, headers=headers) as response:
        text = (await response.read()).decode()
        heads = "\n".join(f"{name}: {value}" for name, value in response.headers.items() if name not in INDIFFERENT)
    for kind, name in names.items():
        text, heads = text.replace(name, f"<{kind}>"), heads.replace(name, f"<{kind}>")
    return response.status, NEW.sub("<new>", heads), NEW.sub("<new>", text)


async def test_ids_of_another_tenant_are_answered_as_ids_of_nobody(
    twins: tuple[ApiClient, ApiClient],
    assess_all: Callable[[], Awaitable[None]],
    owner: asyncpg.Connection,
    tenant: Tenant,
    document: Document,
    theirs: Mapping[str, str],
) -> None:
    await assess_all()
    before, names = await rows_of(owner, tenant), (theirs, nobodys(theirs))
    looked_at: defaultdict[str, set[bool]] = defaultdict(set)
    for request in document.requests():
        first, second = [await answered(*asking, request) for asking in zip(twins, names, strict=True)]
        assert first == second, request
        assert first[0] < 500, (request, first)
        # Another's place in a listing is refused as no place.
        if request.has_slots and "offsetKey" not in request.query:
            looked_at[request.call].add('"code":"InvalidRequest"' not in first[2])
    assert len(looked_at) > 25
    # Each was looked up at least once, and not refused for its form alone.
    assert {call for call, were_looked_at in looked_at.items() if True not in were_looked_at} == set()
    await assess_all()
    assert await rows_of(owner, tenant) == before


async def test_every_call_is_refused_without_the_secret_of_the_key_that_it_names(
    api: ApiClient, owner: asyncpg.Connection, broker: Broker, tenant: Tenant, other_tenant: Tenant, document: Document
) -> None:
    ours, others = credentials(tenant.admin), credentials(other_tenant.admin)
    wrong = [{}, *({**ours, header: others[header]} for header in ours), *({**others, h: ours[h]} for h in ours)]
    before = await contents(owner)
    bodies = set()
    for request in document.requests():
        path, query, body = request.filled(defaultdict(fresh_id))
        for headers in wrong:
            refusal = await api.call(request.method, path, body, query=query, headers=headers)
            refused(refusal, 401, "Unauthorized")
            bodies.add(str(refusal.body))
    assert len(bodies) == 1
    assert (await contents(owner), await queued(broker)) == (before, 0)


async def test_every_call_that_the_document_gives_to_admins_is_refused_to_integrations_and_no_other_is(
    integration: ApiClient, owner: asyncpg.Connection, broker: Broker, document: Document
) -> None:
    await integration.get(CUSTOMERS)
    before = await contents(owner)
    of_admins = {
        (method, path) for method, path, operation in document.operations() if "`admin`" in operation["description"]
    }
    assert of_admins >= {(method, path) for method, path, _ in document.operations() if "/admin/" in path}
    for request in document.requests():
        path, query, body = request.filled(defaultdict(fresh_id))
        if (request.method, request.path) in of_admins:
            refused(await integration.call(request.method, path, body, query=query), 403, "Forbidden")
    assert (await contents(owner), await queued(broker)) == (before, 0)
    for request in document.requests():
        path, query, body = request.filled(defaultdict(fresh_id))
        if (request.method, request.path) not in of_admins:
            answer: Answered = await integration.call(request.method, path, body, query=query)
            assert answer.status not in {401, 403}, request


async def test_every_call_is_refused_to_a_disabled_key(
    api: ApiClient, owner: asyncpg.Connection, broker: Broker, tenant: Tenant, document: Document
) -> None:
    key = await made(api, API_KEYS, {"name": "shop", "role": "admin"})
    headers = {"x-tenant-id": str(tenant.tenant_id), "x-api-key": key["apiKey"], "x-api-secret": key["apiSecret"]}
    assert (await api.call("GET", CUSTOMERS, headers=headers)).status == 200
    disabled = {"name": "shop", "role": "admin", "isEnabled": False}
    assert (await api.put(f"{API_KEYS}/{key['apiKey']}", disabled)).status == 200

    async def is_known_to_be_disabled() -> bool:
        return (await api.call("GET", CUSTOMERS, headers=headers)).status == 401

    await until(is_known_to_be_disabled)
    before = await contents(owner)
    for request in document.requests():
        path, query, body = request.filled(defaultdict(fresh_id))
        refused(await api.call(request.method, path, body, query=query, headers=headers), 401, "Unauthorized")
    assert (await contents(owner), await queued(broker)) == (before, 0)
