"""Who may call: tenant, key, secret and role."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.credentials import Role
from tallymarks.database import Database
from tallymarks.errors import Unauthorized, Unavailable
from tallymarks.service import listening, new_id
from tallymarks.settings import Settings
from tallymarks_api.admission import Admission
from tallymarks_api.auth import Authenticator, _Known
from tallymarks_api.balances import Balances
from tallymarks_api.calls import Parts
from tallymarks_api.duplicates import Duplicates
from tallymarks_api.intake import Intake
from tallymarks_api.main import ENDPOINTS, application
from tests.integration.api.answers import contents, queued, refused
from tests.integration.api.given import API_KEYS, CUSTOMERS, POINTS, RULES, Json, filled, fresh_id, made, points
from tests.parts import Answered, ApiClient, Clock, Tenant, credentials, until


class Seconds:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
async def api_url(
    database: Database, door: Database, broker: Broker, clock: Clock, database_url: str, seconds: Seconds
) -> AsyncIterator[str]:
    """The api, which tells the age of what it remembers of a key by the test's clock."""
    intake = Intake(broker, Duplicates(door, seconds), now=clock, new_id=new_id)
    parts = Parts(database, broker, intake, Balances(database), asyncio.Event(), now=clock, new_id=new_id)
    app = application(parts, Authenticator(database, seconds), Admission(None, seconds), database)
    async with listening(app, Settings(database_url=database_url), 0) as port:
        yield f"http://127.0.0.1:{port}"


def as_client(api: ApiClient, key: Json, tenant: Tenant) -> ApiClient:
    """A client with a key that was made over HTTP."""
    headers = {"x-tenant-id": str(tenant.tenant_id), "x-api-key": key["apiKey"], "x-api-secret": key["apiSecret"]}
    return ApiClient(api.session, api.base_url, headers)


async def changed(api: ApiClient, key: Json, **change: object) -> Answered:
    """Replace what is said of a key."""
    body = {"name": key["name"], "role": key["role"], **change}
    answered = await api.put(f"{API_KEYS}/{key['apiKey']}", body)
    assert answered.status == 200, answered.body
    return answered


async def test_every_call_needs_credentials_and_looks_at_nothing_before(
    api: ApiClient, owner: asyncpg.Connection, broker: Broker
) -> None:
    before = await contents(owner)
    for endpoint in ENDPOINTS:
        raw = b"no json" if endpoint.body is not None else None
        answered = await api.call(endpoint.method, filled(endpoint), raw=raw, query={"surprise": 1}, headers={})
        refused(answered, 401, "Unauthorized")
        assert answered.body["errors"] == []
    assert (await contents(owner), await queued(broker)) == (before, 0)


async def test_what_is_wrong_with_credentials_is_not_told(api: ApiClient, tenant: Tenant, other_tenant: Tenant) -> None:
    right = credentials(tenant.integration)
    assert (await api.call("GET", CUSTOMERS, headers=right)).status == 200
    others = credentials(other_tenant.integration)
    wrong: list[dict[str, str]] = [
        *({name: value for name, value in right.items() if name != left_out} for left_out in right),
        *({**right, name: ""} for name in right),
        *({**right, name: others[name]} for name in right),
        {**others, "x-tenant-id": right["x-tenant-id"]},
        {**right, "x-tenant-id": fresh_id()},
        {**right, "x-tenant-id": "no uuid"},
        {**right, "x-api-key": "key_unknown"},
        {**right, "x-api-key": "ключ"},
        {**right, "x-api-key": right["x-api-key"].upper()},
        {**right, "x-api-secret": right["x-api-secret"] + "x"},
        {**right, "x-api-secret": right["x-api-secret"][:-1]},
        {**right, "x-api-secret": tenant.admin.api_secret},
        {**right, "x-api-secret": "é"},
        {**right, "x-api-secret": "x" * 4000},
    ]
    answers = [await api.call("GET", CUSTOMERS, headers=headers) for headers in wrong]
    for answered in answers:
        refused(answered, 401, "Unauthorized")
        assert answered.body == answers[0].body


async def test_the_tenant_may_be_spelled_in_any_case(api: ApiClient, tenant: Tenant) -> None:
    spelled = {**credentials(tenant.integration), "x-tenant-id": str(tenant.tenant_id).upper()}
    assert (await api.call("GET", CUSTOMERS, headers=spelled)).status == 200


async def test_calls_of_admins_are_refused_to_integrations_and_leave_nothing(
    integration: ApiClient, owner: asyncpg.Connection, broker: Broker
) -> None:
    await integration.get(CUSTOMERS)
    before = await contents(owner)
    of_admins = [endpoint for endpoint in ENDPOINTS if endpoint.role is Role.ADMIN]
    assert len(of_admins) == 22
    for endpoint in of_admins:
        raw = b"no json" if endpoint.body is not None else None
        refused(await integration.call(endpoint.method, filled(endpoint), raw=raw), 403, "Forbidden")
    refused(await integration.post(POINTS, points(fresh_id())), 403, "Forbidden")
    refused(await integration.post(API_KEYS, {"name": "mine", "role": "admin"}), 403, "Forbidden")
    assert (await contents(owner), await queued(broker)) == (before, 0)


async def test_a_disabled_key_stops_within_its_time_and_no_other_does(
    api: ApiClient, integration: ApiClient, tenant: Tenant, seconds: Seconds
) -> None:
    key = await made(api, API_KEYS, {"name": "shop"})
    shop = as_client(api, key, tenant)
    assert (await shop.get(CUSTOMERS)).status == 200
    await changed(api, key, isEnabled=False)
    seconds.now += limits.API_KEY_FRESH_SECONDS
    refused(await shop.get(CUSTOMERS), 401, "Unauthorized")
    refused(await shop.post(POINTS, points(fresh_id())), 401, "Unauthorized")
    for client in (api, integration):
        assert (await client.get(CUSTOMERS)).status == 200


async def test_a_disabled_key_works_again_when_it_is_enabled(api: ApiClient, tenant: Tenant, seconds: Seconds) -> None:
    key = await made(api, API_KEYS, {"name": "shop"})
    await changed(api, key, isEnabled=False)
    refused(await as_client(api, key, tenant).get(CUSTOMERS), 401, "Unauthorized")
    await changed(api, key, isEnabled=True)
    seconds.now += limits.API_KEY_FRESH_SECONDS
    assert (await as_client(api, key, tenant).get(CUSTOMERS)).status == 200


async def test_another_role_counts_within_the_same_time(api: ApiClient, tenant: Tenant, seconds: Seconds) -> None:
    key = await made(api, API_KEYS, {"name": "shop", "role": "admin"})
    shop = as_client(api, key, tenant)
    assert (await shop.get(RULES)).status == 200
    await changed(api, key, role="integration")
    seconds.now += limits.API_KEY_FRESH_SECONDS
    refused(await shop.get(RULES), 403, "Forbidden")
    await changed(api, key, role="admin")
    seconds.now += limits.API_KEY_FRESH_SECONDS
    assert (await shop.get(RULES)).status == 200


async def test_a_key_that_is_gone_from_the_database_stops_too(
    api: ApiClient, integration: ApiClient, owner: asyncpg.Connection, tenant: Tenant, seconds: Seconds
) -> None:
    assert (await integration.get(CUSTOMERS)).status == 200
    await owner.execute("DELETE FROM api_keys WHERE api_key = $1", tenant.integration.api_key)
    seconds.now += limits.API_KEY_FRESH_SECONDS
    refused(await integration.get(CUSTOMERS), 401, "Unauthorized")


async def test_a_known_key_is_not_read_again_while_it_is_fresh(
    integration: ApiClient, owner: asyncpg.Connection, seconds: Seconds
) -> None:
    assert (await integration.get(CUSTOMERS)).status == 200
    await owner.execute("UPDATE api_keys SET is_enabled = false")
    seconds.now += limits.API_KEY_FRESH_SECONDS - 0.001
    assert (await integration.get(CUSTOMERS)).status == 200
    seconds.now += 0.001
    refused(await integration.get(CUSTOMERS), 401, "Unauthorized")


async def test_a_known_key_is_known_however_its_tenant_is_spelled(
    integration: ApiClient, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    """Else one key could take the place of all others in what is held in memory."""
    assert (await integration.get(CUSTOMERS)).status == 200
    await owner.execute("UPDATE api_keys SET is_enabled = false")
    tenant_id = str(tenant.tenant_id)
    for spelling in (tenant_id.upper(), tenant_id.replace("-", ""), f"{{{tenant_id}}}"):
        headers = {**integration.headers, "x-tenant-id": spelling}
        assert (await integration.call("GET", CUSTOMERS, headers=headers)).status == 200


async def test_while_a_key_is_read_again_it_is_trusted_no_longer_than_that_may_take(
    database: Database, tenant: Tenant, owner: asyncpg.Connection, seconds: Seconds
) -> None:
    class Stalled(Authenticator):
        """The second look at the database takes as long as the test likes."""

        def __init__(self) -> None:
            super().__init__(database, seconds)
            self.looks = 0
            self.may_end = asyncio.Event()

        async def _read(self, tenant_id: UUID, api_key: str) -> _Known | None:
            self.looks += 1
            known = await super()._read(tenant_id, api_key)
            if self.looks == 2:
                await self.may_end.wait()
            return known

        async def is_looking(self) -> bool:
            return self.looks == 2

    authenticator, right = Stalled(), credentials(tenant.integration)
    await authenticator.authenticate(right)
    seconds.now += limits.API_KEY_FRESH_SECONDS
    looking = asyncio.create_task(authenticator.authenticate(right))
    await until(authenticator.is_looking)
    await owner.execute("UPDATE api_keys SET is_enabled = false")
    await authenticator.authenticate(right)
    assert authenticator.looks == 2
    seconds.now += limits.LOOKUP_TIMEOUT_SECONDS
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(right)
    authenticator.may_end.set()
    # It is answered by what was so when it looked, and nobody after it is.
    await asyncio.gather(looking, return_exceptions=True)
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(right)


async def test_a_secret_is_shown_once_and_kept_nowhere(
    api: ApiClient, owner: asyncpg.Connection, tenant: Tenant
) -> None:
    key = await made(api, API_KEYS, {"name": "shop", "role": "integration"})
    assert key["tenantId"] == str(tenant.tenant_id)
    secrets = [tenant.admin.api_secret, tenant.integration.api_secret, key["apiSecret"]]
    assert all(len(secret) >= 32 for secret in secrets)
    stored = str(await contents(owner))
    shown = [await api.get(API_KEYS), await api.get(f"{API_KEYS}/{key['apiKey']}"), await changed(api, key)]
    for secret in secrets:
        for text in (secret, secret.encode().hex()):
            assert text not in stored
            assert all(text not in str(answered.body) for answered in shown)


async def test_made_up_keys_do_not_keep_a_disabled_one_trusted(
    database_url: str, tenant: Tenant, owner: asyncpg.Connection, seconds: Seconds
) -> None:
    class Asked(Authenticator):
        """Looking up keys that were made up takes as long as the test likes, and a connection each."""

        def __init__(self, database: Database) -> None:
            super().__init__(database, seconds)
            self.of_strangers = database
            self.looking, self.may_end = asyncio.Event(), asyncio.Event()

        async def _read(self, tenant_id: UUID, api_key: str) -> _Known | None:
            if not api_key.startswith("made-up"):
                return await super()._read(tenant_id, api_key)
            async with self.of_strangers.connection():
                self.looking.set()
                await self.may_end.wait()
            return None

    keys = Database(database_url, pool_size=2, application_name="keys")
    await keys.open()
    try:
        authenticator = Asked(keys)
        right = credentials(tenant.integration)
        assert (await authenticator.authenticate(right)).tenant_id == tenant.tenant_id
        await owner.execute("UPDATE api_keys SET is_enabled = false")
        seconds.now += limits.API_KEY_FRESH_SECONDS
        made_up = [
            asyncio.create_task(authenticator.authenticate({**right, "x-api-key": f"made-up-{number}"}))
            for number in range(10)
        ]
        await authenticator.looking.wait()
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(right)
        authenticator.may_end.set()
        outcomes = await asyncio.gather(*made_up, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {Unauthorized, Unavailable}
    finally:
        await keys.close()
