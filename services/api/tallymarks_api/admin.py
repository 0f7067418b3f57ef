"""Administration, with a key of role admin: segments and API keys."""

from uuid import UUID

import asyncpg
from pydantic import TypeAdapter

from tallymarks import tenants
from tallymarks.credentials import Role
from tallymarks.errors import AlreadyExists, OwnKey, ResourceNotFound
from tallymarks.rule_sets import segment_of
from tallymarks.segments import NewSegment, Segment, require_near
from tallymarks.sql import rules as sql
from tallymarks.sql import tenancy
from tallymarks.tenants import ApiKey, CreatedApiKey
from tallymarks.values import Flag, Model, RequiredText, Text
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing, found, require_same
from tallymarks_api.paged import PageQuery, last_id, last_text, read_page

TAG = "Administration"


class SegmentPath(Model):
    """One segment."""

    segment_id: UUID


class ApiKeyPath(Model):
    """One API key."""

    api_key: Text


class SegmentsPage(Model):
    """A page of segments, in the order of their ids."""

    segments: tuple[Segment, ...]
    offset_key: str | None


class NewApiKey(Model):
    """The body that makes a key."""

    name: RequiredText
    """The integration that uses it."""
    role: Role = Role.INTEGRATION


class ApiKeyChange(NewApiKey):
    """The body that replaces what is said of a key."""

    is_enabled: Flag = True
    """A disabled key is refused within 2 seconds."""


class ApiKeysPage(Model):
    """A page of keys."""

    api_keys: tuple[ApiKey, ...]
    offset_key: str | None


async def list_segments(call: Call[Nothing, PageQuery, None]) -> Answer:
    """Answer a page of the segments, of every status."""
    after = last_id(call.caller, "segments", call.query)
    rows, offset_key = await read_page(call, sql.SELECT_SEGMENTS_PAGE, after, scope="segments", column="segment_id")
    return Answer(SegmentsPage(segments=tuple(map(segment_of, rows)), offset_key=offset_key))


async def get_segment(call: Call[SegmentPath, Nothing, None]) -> Answer:
    """Answer one segment."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await connection.fetchrow(sql.SELECT_SEGMENT, call.tenant_id, call.path.segment_id)
    return Answer(segment_of(found(row, "segmentId", call.path.segment_id)))


async def create_segment(call: Call[Nothing, Nothing, NewSegment]) -> Answer:
    """Make a segment."""
    require_near(call.body.expiry, call.parts.now())
    segment_id = call.body.segment_id or call.parts.new_id()
    try:
        async with call.parts.database.transaction(call.tenant_id) as connection:
            row = await connection.fetchrow(sql.INSERT_SEGMENT, call.tenant_id, segment_id, *_segment_columns(call))
            if row is None:
                raise AlreadyExists.of("segmentId", str(segment_id))
            await connection.execute(sql.BUMP_REVISION, call.tenant_id)
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists.of("name", call.body.name) from error
    return Answer(segment_of(row))


async def replace_segment(call: Call[SegmentPath, Nothing, NewSegment]) -> Answer:
    """Replace a segment; who is a member stays so, until the lapse that was computed on joining."""
    require_same("segmentId", call.body.segment_id, call.path.segment_id)
    require_near(call.body.expiry, call.parts.now())
    segment_id = call.path.segment_id
    try:
        async with call.parts.database.transaction(call.tenant_id) as connection:
            row = await connection.fetchrow(sql.UPDATE_SEGMENT, call.tenant_id, segment_id, *_segment_columns(call))
            replaced = found(row, "segmentId", segment_id)
            await connection.execute(sql.BUMP_REVISION, call.tenant_id)
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists.of("name", call.body.name) from error
    return Answer(segment_of(replaced))


async def list_api_keys(call: Call[Nothing, PageQuery, None]) -> Answer:
    """Answer a page of the keys, without their secrets."""
    after = last_text(call.caller, "api-keys", call.query)
    rows, offset_key = await read_page(call, tenancy.SELECT_API_KEYS, after, scope="api-keys", column="api_key")
    keys = tuple(ApiKey.model_validate(dict(row)) for row in rows)
    return Answer(ApiKeysPage(api_keys=keys, offset_key=offset_key))


async def get_api_key(call: Call[ApiKeyPath, Nothing, None]) -> Answer:
    """Answer one key, without its secret."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await connection.fetchrow(tenancy.SELECT_API_KEY, call.tenant_id, call.path.api_key)
    return Answer(ApiKey.model_validate(dict(found(row, "apiKey", call.path.api_key))))


async def create_api_key(call: Call[Nothing, Nothing, NewApiKey]) -> Answer:
    """Make a key; its secret is in this answer and nowhere else."""
    body, parts = call.body, call.parts
    return Answer(await tenants.create_api_key(parts.database, call.tenant_id, body.name, body.role, parts.now()))


async def replace_api_key(call: Call[ApiKeyPath, Nothing, ApiKeyChange]) -> Answer:
    """Rename, disable or enable a key, or change its role."""
    body, api_key = call.body, call.path.api_key
    if api_key == call.caller.api_key and not (body.is_enabled and body.role is Role.ADMIN):
        raise OwnKey.of("apiKey", api_key)
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await connection.fetchrow(
            tenancy.UPDATE_API_KEY, call.tenant_id, api_key, body.name, body.role, body.is_enabled, call.parts.now()
        )
    return Answer(ApiKey.model_validate(dict(found(row, "apiKey", api_key))))


def _segment_columns(
    call: Call[SegmentPath, Nothing, NewSegment] | Call[Nothing, Nothing, NewSegment],
) -> tuple[object, ...]:
    segment = call.body
    expiry = segment.expiry.model_dump_json(exclude_none=True)
    return (segment.name, segment.display_name, segment.description, segment.status, expiry, call.parts.now())


SEGMENTS, API_KEYS = "/api/v1/admin/segments", "/api/v1/admin/api-keys"

ENDPOINTS = (
    Endpoint(
        "GET", SEGMENTS, TAG, "List segments", list_segments,
        answers={200: SegmentsPage}, path_parameters=Nothing, query=PageQuery, role=Role.ADMIN,
    ),
    Endpoint(
        "POST", SEGMENTS, TAG, "Create a segment", create_segment,
        answers={200: Segment}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(NewSegment), role=Role.ADMIN,
        refusals=(AlreadyExists,),
    ),
    Endpoint(
        "GET", f"{SEGMENTS}/{{segmentId}}", TAG, "Get a segment", get_segment,
        answers={200: Segment}, path_parameters=SegmentPath, query=Nothing, role=Role.ADMIN,
        refusals=(ResourceNotFound,),
    ),
    Endpoint(
        "PUT", f"{SEGMENTS}/{{segmentId}}", TAG, "Replace a segment", replace_segment,
        answers={200: Segment}, path_parameters=SegmentPath, query=Nothing, body=TypeAdapter(NewSegment),
        role=Role.ADMIN, refusals=(ResourceNotFound, AlreadyExists),
    ),
    Endpoint(
        "GET", API_KEYS, TAG, "List API keys", list_api_keys,
        answers={200: ApiKeysPage}, path_parameters=Nothing, query=PageQuery, role=Role.ADMIN,
    ),
    Endpoint(
        "POST", API_KEYS, TAG, "Create an API key", create_api_key,
        answers={200: CreatedApiKey}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(NewApiKey),
        role=Role.ADMIN,
    ),
    Endpoint(
        "GET", f"{API_KEYS}/{{apiKey}}", TAG, "Get an API key", get_api_key,
        answers={200: ApiKey}, path_parameters=ApiKeyPath, query=Nothing, role=Role.ADMIN,
        refusals=(ResourceNotFound,),
    ),
    Endpoint(
        "PUT", f"{API_KEYS}/{{apiKey}}", TAG, "Change an API key", replace_api_key,
        answers={200: ApiKey}, path_parameters=ApiKeyPath, query=Nothing, body=TypeAdapter(ApiKeyChange),
        role=Role.ADMIN, refusals=(ResourceNotFound, OwnKey),
    ),
)  # fmt: skip
