"""Other callers than the one of the `api` fixture."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.parts import ApiClient, Tenant, credentials


@pytest.fixture
async def integration(api: ApiClient, tenant: Tenant) -> ApiClient:
    """A client with the tenant's integration key."""
    return ApiClient(api.session, api.base_url, credentials(tenant.integration))


@pytest.fixture
async def other(api_url: str, other_tenant: Tenant) -> AsyncIterator[ApiClient]:
    """A client with another tenant's admin key."""
    async with aiohttp.ClientSession() as session:
        yield ApiClient(session, api_url, credentials(other_tenant.admin))
