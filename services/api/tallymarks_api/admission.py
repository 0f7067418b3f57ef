"""Whether one more request is taken on: by the rate of its key, and by what the process has under way already.

Everything here is counted per process and decided at once: nothing waits, so nothing piles up.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from cachetools import LRUCache

from tallymarks import limits
from tallymarks.errors import Unavailable

KeyName = tuple[UUID, str]
"""A tenant and one of its API keys."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key has left once a request was counted."""

    per_second: int
    remaining: int
    """Whole requests."""
    full_in_seconds: float
    is_allowed: bool

    @property
    def headers(self) -> Mapping[str, str]:
        """The fields of the IETF's draft "RateLimit header fields for HTTP" (draft-ietf-httpapi-ratelimit-headers)."""
        return {
            "RateLimit-Policy": f'"key";q={self.per_second};w={limits.RATE_LIMIT_WINDOW_SECONDS}',
            "RateLimit": f'"key";r={self.remaining};t={math.ceil(self.full_in_seconds)}',
        }


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """A token bucket per key: it fills at the rate, holds one second's worth, and each request takes one."""

    def __init__(self, per_second: int, clock: Callable[[], float]) -> None:
        """Take the rate and a monotonic clock in seconds."""
        self._per_second = per_second
        self._clock = clock
        # A key that drops out begins anew with a full bucket: it was the one that was used least lately.
        self._buckets: LRUCache[KeyName, _Bucket] = LRUCache(limits.API_KEYS_CACHED_MAX)

    def take(self, key: KeyName) -> Allowance:
        """Count a request of the key, if it is allowed one; a refused one costs nothing."""
        now = self._clock()
        capacity = self._per_second * limits.RATE_LIMIT_WINDOW_SECONDS
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(capacity, now)
        bucket.tokens = min(capacity, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        is_allowed = bucket.tokens >= 1
        if is_allowed:
            bucket.tokens -= 1
        return Allowance(
            self._per_second,
            remaining=int(bucket.tokens),
            full_in_seconds=(capacity - bucket.tokens) / self._per_second,
            is_allowed=is_allowed,
        )


class Admission:
    """What one process takes on."""

    def __init__(self, rate_limit_per_second: int | None, clock: Callable[[], float]) -> None:
        """Take how many requests a second a key may make (None: any number), and a monotonic clock in seconds."""
        self._rate_limit = None if rate_limit_per_second is None else RateLimit(rate_limit_per_second, clock)
        self.requests = 0
        """Under way."""
        self.body_bytes = 0
        """Held of their bodies."""
        self._place = _Place(self)

    def allowance(self, key: KeyName) -> Allowance | None:
        """Count a request of the key; gives what is left to it, or None where no rate is limited."""
        return None if self._rate_limit is None else self._rate_limit.take(key)

    def place(self) -> "_Place":
        """Be one of the requests under way, for as long as what comes back is entered.

        Entering it raises Unavailable where there are as many as there may be.
        """
        return self._place

    def body(self) -> "_Body":
        """Give what, entered, gives what is to be called with each number of bytes that arrives of a body.

        They are held until it is left. The call raises Unavailable where the bodies of all requests have as many bytes
        as they may have.
        """
        return _Body(self)


# Both are entered by every request, and cost a fifth of what generators as context managers would.


class _Place:
    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        if self._admission.requests >= limits.REQUESTS_AT_ONCE_MAX:
            raise Unavailable("Too many requests at once.")
        self._admission.requests += 1

    def __exit__(self, *_: object) -> None:
        self._admission.requests -= 1


class _Body:
    __slots__ = ("_admission", "_held")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held = 0

    def __enter__(self) -> Callable[[int], None]:
        return self._hold

    def __exit__(self, *_: object) -> None:
        self._admission.body_bytes -= self._held

    def _hold(self, count: int) -> None:
        if self._admission.body_bytes + count > limits.BODY_BYTES_AT_ONCE_MAX:
            raise Unavailable("Too many bytes of requests at once.")
        self._admission.body_bytes += count
        self._held += count
