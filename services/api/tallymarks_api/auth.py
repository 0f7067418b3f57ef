"""Who calls: tenant, key and secret from the headers, checked against a small cache of keys.

A cached key is read anew every few seconds, so a disabled one stops working; while PostgreSQL is away a known key
goes on working, so that ingestion does.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from uuid import UUID

import structlog
from cachetools import LRUCache

from tallymarks import limits
from tallymarks.credentials import Role, is_secret
from tallymarks.database import TIMED_LOOKUP_ERRORS, Database
from tallymarks.errors import Unauthorized, Unavailable
from tallymarks.logs import reason_of
from tallymarks.sql import tenancy
from tallymarks_api.calls import Caller

log = structlog.get_logger(__name__)

TENANT_HEADER = "x-tenant-id"
KEY_HEADER = "x-api-key"
SECRET_HEADER = "x-api-secret"  # noqa: S105 - the name of a header


@dataclass(frozen=True, slots=True)
class _Known:
    secret_sha256: bytes
    is_enabled: bool
    caller: Caller


@dataclass(slots=True)
class _Cached:
    known: _Known
    read_at: float
    fresh_until: float


class Authenticator:
    """Checks credentials."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """Take the database and a monotonic clock in seconds.

        The database's connections are to be for this alone: were they those that requests hold, a caller who keeps them
        busy could make it seem away, and his disabled key go on working.
        """
        self._database = database
        self._clock = clock
        # With the tenant as most callers write it: a known key is found before anything of it is looked at. And in that
        # way only, or another's key could be made to drop out by writing one's own in many.
        self._cache: LRUCache[tuple[str, str], _Cached] = LRUCache(limits.API_KEYS_CACHED_MAX)
        # Keys that nobody has used here yet are looked up one at a time: whoever makes keys up leaves a connection for
        # those that are known, which would else be trusted unread for want of one.
        self._strangers = asyncio.Semaphore(1)

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Give the caller.

        Raises:
            Unauthorized: a credential is missing, wrong or disabled.
            Unavailable: the database is away, and the key was never seen by this process.
        """
        tenant = headers.get(TENANT_HEADER, "")
        api_key = headers.get(KEY_HEADER, "")
        secret = headers.get(SECRET_HEADER, "")
        cached = self._cache.get((tenant, api_key))
        if cached is not None and self._clock() < cached.fresh_until:
            known: _Known | None = cached.known
        else:
            known = await self._known(_tenant_id(tenant, api_key, secret), api_key)
        if known is None or not is_secret(secret, known.secret_sha256) or not known.is_enabled:
            raise Unauthorized
        return known.caller

    async def _known(self, tenant_id: UUID, api_key: str) -> _Known | None:
        key = str(tenant_id), api_key
        cached = self._cache.get(key)
        now = self._clock()
        if cached is not None and now < cached.fresh_until:
            return cached.known
        if cached is not None:
            # One request looks; those that arrive meanwhile need not wait for it.
            cached.fresh_until = now + limits.LOOKUP_TIMEOUT_SECONDS
        try:
            async with (
                asyncio.timeout(limits.LOOKUP_TIMEOUT_SECONDS),
                self._strangers if cached is None else nullcontext(),
            ):
                known = await self._read(tenant_id, api_key)
        except TIMED_LOOKUP_ERRORS as error:
            if cached is None or now > cached.read_at + limits.API_KEY_STALE_SECONDS:
                raise Unavailable("The credentials cannot be checked now.") from error
            log.warning("a cached key is trusted while the database is away", reason=reason_of(error))
            cached.fresh_until = self._clock() + limits.API_KEY_FRESH_SECONDS
            return cached.known
        if known is None:
            self._cache.pop(key, None)
        else:
            self._cache[key] = _Cached(known, now, now + limits.API_KEY_FRESH_SECONDS)
        return known

    async def _read(self, tenant_id: UUID, api_key: str) -> _Known | None:
        async with self._database.transaction(tenant_id) as connection:
            row = await connection.fetchrow(tenancy.SELECT_CREDENTIAL, tenant_id, api_key)
        if row is None:
            return None
        caller = Caller(tenant_id, api_key, Role(row["role"]), row["paging_secret"])
        return _Known(row["secret_sha256"], row["is_enabled"], caller)


def _tenant_id(tenant: str, api_key: str, secret: str) -> UUID:
    """Read the tenant's id, where all three can be what they are to be.

    Raises:
        Unauthorized: one of them cannot.
    """
    if not (tenant and api_key and secret) or max(map(len, (tenant, api_key, secret))) > limits.CREDENTIAL_LENGTH_MAX:
        raise Unauthorized
    if not api_key.isascii() or not api_key.isprintable():
        raise Unauthorized
    try:
        return UUID(tenant)
    except ValueError:
        raise Unauthorized from None
