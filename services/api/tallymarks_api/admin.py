"""Administration, with a key of role admin: rules, segments and API keys."""

from uuid import UUID

import asyncpg
from pydantic import TypeAdapter

from tallymarks import limits, tenants
from tallymarks.credentials import Role
from tallymarks.database import Connection, Record
from tallymarks.errors import AlreadyExists, InvalidRequest, LimitReached, OwnKey, ResourceNotFound, SegmentNotFound
from tallymarks.rule_sets import rule_of, segment_of
from tallymarks.rules.rule import NewRule, Rule
from tallymarks.segments import NewSegment, Segment, require_near
from tallymarks.sql import rules as sql
from tallymarks.sql import tenancy
from tallymarks.tenants import ApiKey, CreatedApiKey
from tallymarks.values import Flag, Model, RequiredText, Text
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing
from tallymarks_api.paged import PageQuery, last_id, last_text, next_by_id

TAG = "Administration"


class RulePath(Model):
    """One rule."""

    rule_id: UUID


class SegmentPath(Model):
    """One segment."""

    segment_id: UUID


class ApiKeyPath(Model):
    """One API key."""

    api_key: Text


class RulesPage(Model):
    """A page of rules, in the order of their ids."""

    rules: tuple[Rule, ...]
    offset_key: str | None


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


async def list_rules(call: Call[Nothing, PageQuery, None]) -> Answer:
    """Answer a page of the rules, of every status."""
    after = last_id(call.caller, "rules", call.query)
    rows, offset_key = await _page(call, sql.SELECT_RULES_PAGE, after, "rules", "rule_id")
    return Answer(RulesPage(rules=tuple(map(rule_of, rows)), offset_key=offset_key))


async def get_rule(call: Call[RulePath, Nothing, None]) -> Answer:
    """Answer one rule."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await connection.fetchrow(sql.SELECT_RULE, call.tenant_id, call.path.rule_id)
    return Answer(rule_of(_found(row, "ruleId", call.path.rule_id)))


async def create_rule(call: Call[Nothing, Nothing, NewRule]) -> Answer:
    """Make a rule; an active one counts from the next batch on."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        await connection.fetchval(sql.LOCK_TENANT, call.tenant_id)
        if await connection.fetchval(sql.COUNT_RULES, call.tenant_id) >= limits.RULES_PER_TENANT_MAX:
            raise LimitReached
        await _require_segments(connection, call.tenant_id, call.body)
        rule_id = call.body.rule_id or call.parts.new_id()
        row = await connection.fetchrow(sql.INSERT_RULE, call.tenant_id, rule_id, *_rule_columns(call))
        if row is None:
            raise AlreadyExists.of("ruleId", str(rule_id))
        await connection.execute(sql.BUMP_REVISION, call.tenant_id)
    return Answer(rule_of(row))


async def replace_rule(call: Call[RulePath, Nothing, NewRule]) -> Answer:
    """Replace a rule; what it has done stays."""
    _same("ruleId", call.body.rule_id, call.path.rule_id)
    async with call.parts.database.transaction(call.tenant_id) as connection:
        await connection.fetchval(sql.LOCK_TENANT, call.tenant_id)
        await _require_segments(connection, call.tenant_id, call.body)
        row = await connection.fetchrow(sql.UPDATE_RULE, call.tenant_id, call.path.rule_id, *_rule_columns(call))
        found = _found(row, "ruleId", call.path.rule_id)
        await connection.execute(sql.BUMP_REVISION, call.tenant_id)
    return Answer(rule_of(found))


async def list_segments(call: Call[Nothing, PageQuery, None]) -> Answer:
    """Answer a page of the segments, of every status."""
    after = last_id(call.caller, "segments", call.query)
    rows, offset_key = await _page(call, sql.SELECT_SEGMENTS_PAGE, after, "segments", "segment_id")
    return Answer(SegmentsPage(segments=tuple(map(segment_of, rows)), offset_key=offset_key))


async def get_segment(call: Call[SegmentPath, Nothing, None]) -> Answer:
    """Answer one segment."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await connection.fetchrow(sql.SELECT_SEGMENT, call.tenant_id, call.path.segment_id)
    return Answer(segment_of(_found(row, "segmentId", call.path.segment_id)))


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
    _same("segmentId", call.body.segment_id, call.path.segment_id)
    require_near(call.body.expiry, call.parts.now())
    segment_id = call.path.segment_id
    try:
        async with call.parts.database.transaction(call.tenant_id) as connection:
            row = await connection.fetchrow(sql.UPDATE_SEGMENT, call.tenant_id, segment_id, *_segment_columns(call))
            found = _found(row, "segmentId", segment_id)
            await connection.execute(sql.BUMP_REVISION, call.tenant_id)
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists.of("name", call.body.name) from error
    return Answer(segment_of(found))


async def list_api_keys(call: Call[Nothing, PageQuery, None]) -> Answer:
    """Answer a page of the keys, without their secrets."""
    after = last_text(call.caller, "api-keys", call.query)
    rows, offset_key = await _page(call, tenancy.SELECT_API_KEYS, after, "api-keys", "api_key")
    keys = tuple(ApiKey.model_validate(dict(row)) for row in rows)
    return Answer(ApiKeysPage(api_keys=keys, offset_key=offset_key))


async def get_api_key(call: Call[ApiKeyPath, Nothing, None]) -> Answer:
    """Answer one key, without its secret."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        row = await connection.fetchrow(tenancy.SELECT_API_KEY, call.tenant_id, call.path.api_key)
    return Answer(ApiKey.model_validate(dict(_found(row, "apiKey", call.path.api_key))))


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
    return Answer(ApiKey.model_validate(dict(_found(row, "apiKey", api_key))))


async def _page(
    call: Call[Nothing, PageQuery, None], statement: str, after: UUID | str, scope: str, column: str
) -> tuple[list[Record], str | None]:
    async with call.parts.database.transaction(call.tenant_id) as connection:
        rows = await connection.fetch(statement, call.tenant_id, after, call.query.rows_wanted)
    return rows[: call.query.limit], next_by_id(call.caller, scope, call.query, rows, column)


async def _require_segments(connection: Connection, tenant_id: UUID, rule: NewRule) -> None:
    named = list(rule.segments_named())
    rows = await connection.fetch(sql.SELECT_SEGMENTS_NAMED, tenant_id, sorted({segment for _, segment in named}))
    known = {row["segment_id"] for row in rows}
    for place, segment_id in named:
        if segment_id not in known:
            raise SegmentNotFound.of(place, str(segment_id))


def _found(row: Record | None, param: str, value: object) -> Record:
    if row is None:
        raise ResourceNotFound.of(param, str(value))
    return row


def _same(name: str, given: UUID | None, expected: UUID) -> None:
    if given is not None and given != expected:
        raise InvalidRequest.of(name, str(given), f"{name} must be the one of the route.")


def _rule_columns(call: Call[RulePath, Nothing, NewRule] | Call[Nothing, Nothing, NewRule]) -> tuple[object, ...]:
    rule = call.body
    definition = rule.model_dump_json(exclude={"rule_id"})
    return (rule.status, rule.event_type, definition, call.parts.now())


def _segment_columns(
    call: Call[SegmentPath, Nothing, NewSegment] | Call[Nothing, Nothing, NewSegment],
) -> tuple[object, ...]:
    segment = call.body
    expiry = segment.expiry.model_dump_json(exclude_none=True)
    return (segment.name, segment.display_name, segment.description, segment.status, expiry, call.parts.now())


RULES, SEGMENTS, API_KEYS = "/api/v1/admin/rules", "/api/v1/admin/segments", "/api/v1/admin/api-keys"

ENDPOINTS = (
    Endpoint(
        "GET", RULES, TAG, "List rules", list_rules,
        answers={200: RulesPage}, path_parameters=Nothing, query=PageQuery, role=Role.ADMIN,
    ),
    Endpoint(
        "POST", RULES, TAG, "Create a rule", create_rule,
        answers={200: Rule}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(NewRule), role=Role.ADMIN,
        refusals=(SegmentNotFound, AlreadyExists, LimitReached),
    ),
    Endpoint(
        "GET", f"{RULES}/{{ruleId}}", TAG, "Get a rule", get_rule,
        answers={200: Rule}, path_parameters=RulePath, query=Nothing, role=Role.ADMIN, refusals=(ResourceNotFound,),
    ),
    Endpoint(
        "PUT", f"{RULES}/{{ruleId}}", TAG, "Replace a rule", replace_rule,
        answers={200: Rule}, path_parameters=RulePath, query=Nothing, body=TypeAdapter(NewRule), role=Role.ADMIN,
        refusals=(ResourceNotFound, SegmentNotFound),
    ),
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
