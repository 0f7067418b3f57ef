"""What a call of the API is: an entry of the route table, which is served and documented from the same lines."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from tallymarks import limits
from tallymarks.broker import Broker
from tallymarks.credentials import Role
from tallymarks.database import Database, Record
from tallymarks.errors import InvalidRequest, Refusal, ResourceNotFound
from tallymarks.rule_sets import RuleSets
from tallymarks.values import Model
from tallymarks_api.balances import Balances
from tallymarks_api.intake import Intake

P = TypeVar("P", bound=Model)
Q = TypeVar("Q", bound=Model)
B = TypeVar("B")


class Nothing(Model):
    """No parameter of this kind."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the credentials tell."""

    tenant_id: UUID
    api_key: str
    role: Role
    paging_secret: bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """What handlers work with; made once, in `main`."""

    database: Database
    broker: Broker
    intake: Intake
    balances: Balances
    committed: asyncio.Event
    """Set after a commit that wrote to the outbox."""
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    rule_sets: RuleSets = field(default_factory=RuleSets)
    """The rules of the tenants that asked about a basket last."""


class Call(NamedTuple, Generic[P, Q, B]):
    """One authenticated request, all of it validated."""

    parts: Parts
    caller: Caller
    path: P
    query: Q
    body: B
    trace_parent: str | None = None
    """The W3C trace context that the request came with; messages carry it on."""

    @property
    def tenant_id(self) -> UUID:
        """The tenant, which only the credentials decide."""
        return self.caller.tenant_id


class Answer(NamedTuple):
    """What a handler answers."""

    body: Model
    status: int = 200


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[P, Q, B]):
    """One call of the API: how it is reached, what it takes, what it answers, and which refusals are its own."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    tag: str
    summary: str
    handle: Callable[[Call[P, Q, B]], Awaitable[Answer]]
    answers: Mapping[int, Any]
    """Status → the type of the body."""
    path_parameters: type[P]
    query: type[Q]
    body: TypeAdapter[Any] | None = None
    """The form of the body, as it is documented."""
    read: Callable[[object], B] | None = None
    """Reads the parsed body where its form alone does not say how; else `body` does."""
    refusals: tuple[type[Refusal], ...] = ()
    role: Role = Role.INTEGRATION
    body_bytes_max: int = limits.BODY_BYTES_MAX


AnyEndpoint = Endpoint[Any, Any, Any]


def found(row: Record | None, param: str, value: object) -> Record:
    """Give the row that the route names.

    Raises:
        ResourceNotFound: there is none.
    """
    if row is None:
        raise ResourceNotFound.of(param, str(value))
    return row


def require_same(param: str, given: UUID | None, expected: UUID) -> None:
    """Hold the id in a body, where there is one, to that of the route.

    Raises:
        InvalidRequest: it is another.
    """
    if given is not None and given != expected:
        raise InvalidRequest.of(param, str(given), f"{param} must be the one of the route.")
