"""Administration of rules, with a key of role admin: their life, and their versions."""

from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter

from tallymarks import limits
from tallymarks.credentials import Role
from tallymarks.database import Connection
from tallymarks.errors import (
    AlreadyExists,
    LimitReached,
    ResourceNotFound,
    RuleNotEditable,
    SegmentNotFound,
    StatusChangeNotAllowed,
)
from tallymarks.rule_sets import rule_of, rule_version_of, segment_of
from tallymarks.rules.rule import NewRule, Rule, RuleContent, RuleVersion
from tallymarks.rules.rule_life import RuleChange, change_of, require_first_status
from tallymarks.segments import Segment, Status
from tallymarks.sql import rules as sql
from tallymarks.values import Model
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing, found, require_same
from tallymarks_api.paged import PageQuery, last_id, last_number, read_page

TAG = "Administration"


class RulePath(Model):
    """One rule."""

    rule_id: UUID


class RulesPage(Model):
    """A page of rules, in the order of their ids."""

    rules: tuple[Rule, ...]
    offset_key: str | None


class RuleVersionsPage(Model):
    """A page of a rule's versions, oldest first; one that never was active has none."""

    versions: tuple[RuleVersion, ...]
    offset_key: str | None


async def list_rules(call: Call[Nothing, PageQuery, None]) -> Answer:
    """Answer a page of the rules, of every status."""
    after = last_id(call.caller, "rules", call.query)
    rows, offset_key = await read_page(call, sql.SELECT_RULES_PAGE, after, scope="rules", column="rule_id")
    return Answer(RulesPage(rules=tuple(map(rule_of, rows)), offset_key=offset_key))


async def get_rule(call: Call[RulePath, Nothing, None]) -> Answer:
    """Answer one rule, with what its newest version says."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        return Answer(await _read(connection, call.tenant_id, call.path.rule_id))


async def list_rule_versions(call: Call[RulePath, PageQuery, None]) -> Answer:
    """Answer a page of what a rule has said since it became active."""
    rule_id = call.path.rule_id
    async with call.parts.database.transaction(call.tenant_id) as connection:
        await _read(connection, call.tenant_id, rule_id)
    scope = f"rules/{rule_id}/versions"
    after = last_number(call.caller, scope, call.query)
    rows, offset_key = await read_page(
        call, sql.SELECT_RULE_VERSIONS_PAGE, rule_id, after, scope=scope, column="version"
    )
    return Answer(RuleVersionsPage(versions=tuple(map(rule_version_of, rows)), offset_key=offset_key))


async def create_rule(call: Call[Nothing, Nothing, NewRule]) -> Answer:
    """Make a rule; an active one counts from the next batch on."""
    body, now = call.body, call.parts.now()
    require_first_status(body.status)
    async with call.parts.database.transaction(call.tenant_id) as connection:
        await connection.fetchval(sql.LOCK_TENANT, call.tenant_id)
        if await connection.fetchval(sql.COUNT_RULES, call.tenant_id) >= limits.RULES_PER_TENANT_MAX:
            raise LimitReached
        await require_segments(connection, call.tenant_id, body)
        rule_id = body.rule_id or call.parts.new_id()
        row = await connection.fetchrow(
            sql.INSERT_RULE, call.tenant_id, rule_id, body.status, body.event_type, _definition(body), now
        )
        if row is None:
            raise AlreadyExists.of("ruleId", str(rule_id))
        rule = rule_of(row)
        if rule.status is Status.ACTIVE:
            await _keep_version(connection, rule, now)
        await connection.execute(sql.BUMP_REVISION, call.tenant_id)
    return Answer(rule)


async def replace_rule(call: Call[RulePath, Nothing, RuleChange]) -> Answer:
    """Change what a rule says or its status; an active one gets another version. What it has done stays."""
    body, rule_id = call.body, call.path.rule_id
    require_same("ruleId", body.rule_id, rule_id)
    async with call.parts.database.transaction(call.tenant_id) as connection:
        await connection.fetchval(sql.LOCK_TENANT, call.tenant_id)
        rule, now = await _read(connection, call.tenant_id, rule_id), call.parts.now()
        change = change_of(rule, body, now)
        if change is None:
            return Answer(rule)
        await require_segments(connection, call.tenant_id, body)
        if change.ends_versions_at is not None:
            await connection.execute(sql.END_RULE_VERSIONS, call.tenant_id, rule_id, change.ends_versions_at)
        row = await connection.fetchrow(
            sql.UPDATE_RULE, call.tenant_id, rule_id, body.status, body.event_type, _definition(body),
            change.version, change.effective_from, change.effective_to, now,
        )  # fmt: skip
        changed = rule_of(found(row, "ruleId", rule_id))
        if change.makes_version:
            await _keep_version(connection, changed, now)
        await connection.execute(sql.BUMP_REVISION, call.tenant_id)
    return Answer(changed)


async def require_segments(
    connection: Connection, tenant_id: UUID, rule: RuleContent, within: str = ""
) -> list[Segment]:
    """Give the segments that a rule names.

    Args:
        connection: in a transaction of the tenant.
        tenant_id: the tenant.
        rule: the rule.
        within: what stands before the rule's own places in the body, such as `rule.`.

    Raises:
        SegmentNotFound: it names one that there is not, at the place that the error tells.
    """
    named = list(rule.segments_named())
    rows = await connection.fetch(sql.SELECT_SEGMENTS_NAMED, tenant_id, sorted({segment for _, segment in named}))
    segments = list(map(segment_of, rows))
    known = {segment.segment_id for segment in segments}
    for place, segment_id in named:
        if segment_id not in known:
            raise SegmentNotFound.of(within + place, str(segment_id))
    return segments


async def _read(connection: Connection, tenant_id: UUID, rule_id: UUID) -> Rule:
    return rule_of(found(await connection.fetchrow(sql.SELECT_RULE, tenant_id, rule_id), "ruleId", rule_id))


async def _keep_version(connection: Connection, rule: Rule, now: datetime) -> None:
    """Keep what the rule, which is active now, says.

    Raises:
        LimitReached: the tenant's active rules have as many versions as they may have.
    """
    content = rule.model_dump_json(include=set(RuleContent.model_fields))
    await connection.execute(
        sql.INSERT_RULE_VERSION, rule.tenant_id, rule.rule_id, rule.version, content, rule.effective_from, now
    )
    kept = await connection.fetchval(sql.COUNT_ACTIVE_RULE_VERSIONS, rule.tenant_id)
    if kept > limits.RULE_VERSIONS_PER_TENANT_MAX:
        raise LimitReached.of("ruleId", str(rule.rule_id), "The active rules have as many versions as they may have.")


def _definition(rule: NewRule) -> str:
    return rule.model_dump_json(exclude={"rule_id", "effective_from"})


RULES = "/api/v1/admin/rules"

ENDPOINTS = (
    Endpoint(
        "GET", RULES, TAG, "List rules", list_rules,
        answers={200: RulesPage}, path_parameters=Nothing, query=PageQuery, role=Role.ADMIN,
    ),
    Endpoint(
        "POST", RULES, TAG, "Create a rule", create_rule,
        answers={200: Rule}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(NewRule), role=Role.ADMIN,
        refusals=(SegmentNotFound, AlreadyExists, LimitReached, StatusChangeNotAllowed),
    ),
    Endpoint(
        "GET", f"{RULES}/{{ruleId}}", TAG, "Get a rule", get_rule,
        answers={200: Rule}, path_parameters=RulePath, query=Nothing, role=Role.ADMIN, refusals=(ResourceNotFound,),
    ),
    Endpoint(
        "PUT", f"{RULES}/{{ruleId}}", TAG, "Replace a rule", replace_rule,
        answers={200: Rule}, path_parameters=RulePath, query=Nothing, body=TypeAdapter(RuleChange), role=Role.ADMIN,
        refusals=(ResourceNotFound, SegmentNotFound, StatusChangeNotAllowed, RuleNotEditable, LimitReached),
    ),
    Endpoint(
        "GET", f"{RULES}/{{ruleId}}/versions", TAG, "List a rule's versions", list_rule_versions,
        answers={200: RuleVersionsPage}, path_parameters=RulePath, query=PageQuery, role=Role.ADMIN,
        refusals=(ResourceNotFound,),
    ),
)  # fmt: skip
