"""What a tenant decides for itself, with a key of role admin."""

from pydantic import TypeAdapter

from tallymarks.credentials import Role
from tallymarks.sql import tenancy
from tallymarks.values import Flag, Model
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing

TAG = "Administration"


class TenantSettings(Model):
    """The settings of a tenant, which are replaced as a whole."""

    reversals_may_go_below_zero: Flag
    """Whether a reversal takes all that was given, even from who has spent it; else no more than the balance."""


async def get_settings(call: Call[Nothing, Nothing, None]) -> Answer:
    """Answer the settings."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        may_go_below_zero = await connection.fetchval(tenancy.SELECT_TENANT_SETTINGS, call.tenant_id)
    return Answer(TenantSettings(reversals_may_go_below_zero=may_go_below_zero))


async def replace_settings(call: Call[Nothing, Nothing, TenantSettings]) -> Answer:
    """Replace the settings; they count from the next reversal on."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        may_go_below_zero = await connection.fetchval(
            tenancy.UPDATE_TENANT_SETTINGS, call.tenant_id, call.body.reversals_may_go_below_zero
        )
    return Answer(TenantSettings(reversals_may_go_below_zero=may_go_below_zero))


SETTINGS = "/api/v1/admin/settings"

ENDPOINTS = (
    Endpoint(
        "GET", SETTINGS, TAG, "Get the tenant's settings", get_settings,
        answers={200: TenantSettings}, path_parameters=Nothing, query=Nothing, role=Role.ADMIN,
    ),
    Endpoint(
        "PUT", SETTINGS, TAG, "Replace the tenant's settings", replace_settings,
        answers={200: TenantSettings}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(TenantSettings),
        role=Role.ADMIN,
    ),
)  # fmt: skip
