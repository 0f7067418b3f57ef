"""Answering page by page."""

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field

from tallymarks import limits
from tallymarks.database import Record
from tallymarks.errors import InvalidRequest
from tallymarks.paging import offset_key, position_of
from tallymarks.values import Model, parse_instant
from tallymarks_api.calls import Call, Caller

NIL = UUID(int=0)


def _digits(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise ValueError("must be a whole number")
    return value


class PageQuery(Model):
    """Which page, and how long."""

    limit: Annotated[int, Field(ge=1, le=limits.PAGE_LIMIT_MAX), BeforeValidator(_digits)] = limits.PAGE_LIMIT_DEFAULT
    """How many to answer."""
    offset_key: Annotated[str, Field(max_length=limits.OFFSET_KEY_LENGTH_MAX)] | None = None
    """The offsetKey of the page before; good for the same query only."""

    @property
    def rows_wanted(self) -> int:
        """One more than is answered tells whether there is a next page."""
        return self.limit + 1

    def selection(self) -> dict[str, object]:
        """Give all that decides what is found, which is what an offsetKey is bound to."""
        return self.model_dump(mode="json", exclude={"limit", "offset_key"})


def last_id(caller: Caller, scope: str, query: PageQuery) -> UUID:
    """Give the id after which the page begins, of a listing in the order of ids."""
    return UUID(last_text(caller, scope, query) or NIL.hex)


def last_text(caller: Caller, scope: str, query: PageQuery) -> str:
    """Give the text after which the page begins, of a listing in the order of a text."""
    if query.offset_key is None:
        return ""
    (position,) = position_of(caller.paging_secret, [scope, query.selection()], query.offset_key)
    return str(position)


def next_by_id(caller: Caller, scope: str, query: PageQuery, rows: list[Record], column: str) -> str | None:
    """Give the offsetKey of the page after these rows, where there is one."""
    if len(rows) <= query.limit:
        return None
    return offset_key(caller.paging_secret, [scope, query.selection()], [str(rows[query.limit - 1][column])])


def last_number(caller: Caller, scope: str, query: PageQuery) -> int:
    """Give the number after which the page begins, of a listing in the order of numbers from 1 on."""
    return int(last_text(caller, scope, query) or 0)


async def read_page(
    call: Call[Any, PageQuery, None], statement: str, *arguments: object, scope: str, column: str
) -> tuple[list[Record], str | None]:
    """Read the rows of a page, and the offsetKey of the next; the statement takes the tenant first, the limit last."""
    async with call.parts.database.transaction(call.tenant_id) as connection:
        rows = await connection.fetch(statement, call.tenant_id, *arguments, call.query.rows_wanted)
    return rows[: call.query.limit], next_by_id(call.caller, scope, call.query, rows, column)


def last_instant(caller: Caller, scope: str, query: PageQuery, to_at: datetime | None) -> tuple[datetime, UUID]:
    """Give the instant and id before which the page begins, of a listing from the newest on; `to_at` is included."""
    if query.offset_key is None:
        end = limits.INSTANT_MAX if to_at is None else to_at
        return end + timedelta(milliseconds=1), NIL
    at, last = position_of(caller.paging_secret, [scope, query.selection()], query.offset_key)
    instant = parse_instant(at)
    if not isinstance(instant, datetime):
        raise InvalidRequest.of("offsetKey", query.offset_key)
    return instant, UUID(str(last))


def next_by_instant(caller: Caller, scope: str, query: PageQuery, rows: list[Record], column: str) -> str | None:
    """Give the offsetKey of the page after these rows, where there is one."""
    if len(rows) <= query.limit:
        return None
    last = rows[query.limit - 1]
    return offset_key(
        caller.paging_secret, [scope, query.selection()], [last["created_at"].isoformat(), str(last[column])]
    )


def containing(keyword: str) -> str:
    """Give the LIKE pattern of texts that contain the keyword, in which %, _ and the backslash are ordinary."""
    return "%" + keyword.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
