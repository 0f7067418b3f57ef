"""What services log while all goes wrong that may: no secret, no password, and nothing that tells who a customer is."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from tallymarks import limits
from tallymarks.broker import Broker, OutgoingMessage
from tallymarks.service import new_id
from tallymarks_local.postgres import PostgresServer
from tallymarks_local.servers import running, wait_until_ready
from tests.acceptance.counting import action, connected, order, points, post, post_batch
from tests.acceptance.installation import API, ASSESSOR, Installation, Json, Stack, installed, start_stack
from tests.parts import ApiClient, until

DATABASE = "tallymarks"
EMAIL, PHONE, NAME = "mark.email@example.org", "+447700900123", "Markname"
PASSWORD, SECRET = "markpassword", "secret_markmarkmarkmarkmarkmarkmarkmarkmarkmark"
PERSON: Json = {"emailAddress": EMAIL, "mobileNumber": PHONE, "contactPhone": PHONE, "lastName": NAME}
TELLING: Json = {"reference": f"{EMAIL} {PHONE}", "attributes": [{"key": EMAIL, "value": PHONE}]}
"""What a caller may write into an event, although he should not."""
POISON = "Poison"
FAULTS = (
    # Whatever breaks a constraint is shown by the server as it is, the whole row.
    f"ALTER TABLE customers ADD CHECK (first_name <> '{POISON}')",
    f"ALTER TABLE events ADD CHECK (name_space <> '{POISON}')",
)
FAULTY_REQUEST, FAULTY_EVENT = "a request failed", "an event is put aside"
UNREADABLE, OUTAGE = "an unreadable message is put aside", "the database is away"


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that this test alone uses, in a directory that its own user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="tallymarks-test-logs-"))
    with running(PostgresServer(directory / "postgres")) as server:
        server.create_database(DATABASE)
        yield server
    shutil.rmtree(directory)


def with_password(url: str) -> str:
    """The address with a password: the server may not ask for it, and nobody may tell it."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()


@pytest.fixture
async def private_installation(
    postgres: PostgresServer, amqp_url: str, topology_prefix: str, broker: Broker, tmp_path: Path
) -> AsyncIterator[Installation]:
    """An installation on the test's own PostgreSQL, migrated, whose processes log what they can."""
    url = with_password(postgres.url(DATABASE))
    async with installed(url, amqp_url, topology_prefix, tmp_path) as installation:
        assert (await installation.command("migrate")).exit_code == 0
        yield installation


def logged(installation: Installation) -> str:
    """Everything that every process has logged."""
    return "\n".join(service.log.read_text() for service in installation.services)


async def until_logged(installation: Installation, *texts: str) -> None:
    """Wait until the services have said these things."""

    async def are_logged() -> bool:
        said = logged(installation)
        return all(text in said for text in texts)

    await until(are_logged)


async def raw_request(client: ApiClient, lines: str) -> None:
    """Send what is no HTTP, and wait for the connection's end."""
    address = urlsplit(client.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(lines.encode())
    await reader.read(limits.BODY_BYTES_MAX)
    writer.close()
    await writer.wait_closed()


async def be_refused(client: ApiClient) -> None:
    """Send what callers send who are mistaken, or who try."""
    headers = client.headers
    for wrong in ({"x-api-secret": SECRET}, {"x-api-key": EMAIL}, {"x-tenant-id": PHONE}):
        assert (await client.call("GET", "/api/v1/customers", headers={**headers, **wrong})).status == 401
    for path in (f"/api/v1/customers/{EMAIL}", f"/api/v1/customers?keyword={EMAIL}&x={PHONE}", f"/{EMAIL}/{SECRET}"):
        assert (await client.get(path)).status in {400, 404}
    body = orjson.dumps(PERSON)
    for raw in (body[:-1], body + b"\xff", body.replace(b"emailAddress", EMAIL.encode()), b"[" * 10_000 + body):
        assert (await client.call("POST", "/api/v1/customers", raw=raw)).status == 400
    secret = f"x-api-secret: {SECRET}\r\nx-e\x00mail: {EMAIL}\r\n"
    await raw_request(client, f"GET /{EMAIL} HTTP/1.1\r\nhost: api\r\n{secret}\r\n")
    await raw_request(client, f"GET /{EMAIL}\x00 {SECRET}\r\n\r\n")
    await raw_request(client, f"{SECRET} {EMAIL}\r\n\r\n")


async def be_faulty(stack: Stack, broker: Broker, postgres: PostgresServer) -> None:
    """Meet faults of ours, in each part, with data of customers in their hands."""
    async with connected(postgres.url(DATABASE)) as owner:
        for fault in FAULTS:
            await owner.execute(fault)
    client, customer_id = stack.client, new_id()
    assert (await client.post("/api/v1/customers", {**PERSON, "firstName": POISON})).status == 500
    assert (await client.post("/api/v1/customers", {**PERSON, "customerId": str(customer_id)})).status == 200
    assert (await client.post("/api/v1/customers", PERSON)).status == 400
    poison: list[Json] = [{**action(customer_id, POISON), **TELLING}, {**points(customer_id, limits.POINTS_MAX)}]
    assert (await post_batch(client, [{**order(customer_id, "1"), **TELLING}, *poison])).status == 200
    assert (await post(client, {**points(customer_id, limits.POINTS_MAX), **TELLING})).status == 200
    event = {**action(customer_id), "eventType": "action", "createdAt": "2026-03-14T09:26:53.589Z"}
    for body in (
        orjson.dumps({"schemaVersion": 1, "tenantId": str(stack.tenant_id), "events": [{**event, EMAIL: PHONE}]}),
        orjson.dumps({"schemaVersion": 1, "tenantId": EMAIL, "events": [{**event, "eventType": PHONE}]}),
        f"no JSON of {EMAIL}, {PHONE}".encode(),
    ):
        await broker.publish(OutgoingMessage(broker.topology.events_exchange, "0", body, {}, new_id()))


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_nothing_that_is_logged_tells_a_secret_or_who_a_customer_is(
    private_installation: Installation, postgres: PostgresServer, broker: Broker, amqp_url: str, log_format: str
) -> None:
    key = await private_installation.create_tenant()
    stack = await start_stack(private_installation, key, LOG_FORMAT=log_format)
    await be_refused(stack.client)
    await be_faulty(stack, broker, postgres)
    await until_logged(private_installation, FAULTY_REQUEST, FAULTY_EVENT, UNREADABLE)

    await asyncio.to_thread(postgres.stop)
    assert (await stack.client.get(f"/api/v1/admin/api-keys/{SECRET}")).status == 503
    assert (await stack.client.get("/api/v1/customers", keyword=EMAIL)).status == 503
    assert (await stack.client.post("/api/v1/customers", PERSON)).status == 503
    assert (await post(stack.client, {**action(new_id()), **TELLING})).status == 200
    await until_logged(private_installation, OUTAGE, "a batch waits", "a round waits", "the outbox waits")
    verified = await private_installation.command("ledger", "verify")
    postgres.start()
    await asyncio.to_thread(wait_until_ready, postgres)
    await stack.ready()

    stranger = private_installation.start(API, LOG_FORMAT=log_format, AMQP_URL=with_password(amqp_url))
    strange = private_installation.start(
        ASSESSOR, LOG_FORMAT=log_format, DATABASE_URL=f"postgresql://mark:{PASSWORD}@127.0.0.1:1/{DATABASE}"
    )
    await until_logged(private_installation, "the broker is away")
    await private_installation.stop()
    assert stranger.log.read_text()
    assert strange.log.read_text()

    said = logged(private_installation) + verified.output + verified.errors
    telling = [EMAIL, PHONE, PHONE[3:], NAME, PASSWORD, SECRET, key.api_secret, "guest:guest"]
    assert [mark for mark in telling if mark in said] == []
