"""Making tenants and API keys: the secret of a key is known to its maker alone, and only then."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from tallymarks.credentials import NewCredential, Role
from tallymarks.database import Connection, Database
from tallymarks.errors import ResourceNotFound
from tallymarks.paging import new_paging_secret
from tallymarks.sql import tenancy
from tallymarks.values import Instant, Model


class ApiKey(Model):
    """A key; its secret is never shown again."""

    api_key: str
    name: str
    role: Role
    is_enabled: bool
    created_at: Instant
    changed_at: Instant


class CreatedApiKey(ApiKey):
    """A new key with its secret, which is shown this once."""

    tenant_id: UUID
    api_secret: str


async def create_tenant(database: Database, name: str, *, now: datetime, new_id: Callable[[], UUID]) -> CreatedApiKey:
    """Make a tenant with a first key, of role admin."""
    tenant_id = new_id()
    async with database.transaction(tenant_id) as connection:
        await connection.execute(tenancy.INSERT_TENANT, tenant_id, name, new_paging_secret(), now)
        return await _insert_key(connection, tenant_id, "admin", Role.ADMIN, now)


async def create_api_key(database: Database, tenant_id: UUID, name: str, role: Role, now: datetime) -> CreatedApiKey:
    """Make a key of a tenant.

    Raises:
        ResourceNotFound: there is no such tenant.
    """
    async with database.transaction(tenant_id) as connection:
        if not await connection.fetchval(tenancy.SELECT_TENANT_EXISTS, tenant_id):
            raise ResourceNotFound.of("tenantId", str(tenant_id))
        return await _insert_key(connection, tenant_id, name, role, now)


async def _insert_key(connection: Connection, tenant_id: UUID, name: str, role: Role, now: datetime) -> CreatedApiKey:
    credential = NewCredential.generate()
    await connection.execute(
        tenancy.INSERT_API_KEY, tenant_id, credential.api_key, name, role, credential.secret_sha256, now
    )
    return CreatedApiKey(
        tenant_id=tenant_id,
        api_key=credential.api_key,
        api_secret=credential.secret,
        name=name,
        role=role,
        is_enabled=True,
        created_at=now,
        changed_at=now,
    )
