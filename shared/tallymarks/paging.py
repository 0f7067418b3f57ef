"""Keyset paging: the opaque `offsetKey`, bound to its query and signed, so that a forged one is told apart."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from secrets import token_bytes

import orjson

from tallymarks import limits
from tallymarks.errors import InvalidRequest

SIGNATURE_BYTES = 16
PAGING_SECRET_BYTES = 32


def new_paging_secret() -> bytes:
    """Make a tenant's secret for signing."""
    return token_bytes(PAGING_SECRET_BYTES)


def offset_key(secret: bytes, query: object, position: Sequence[str | int]) -> str:
    """Make the key of the page after a position; `query` is all that decides the order and the selection."""
    payload = orjson.dumps(list(position))
    return urlsafe_b64encode(_signature(secret, query, payload) + payload).decode().rstrip("=")


def position_of(secret: bytes, query: object, key: str) -> list[str | int]:
    """Read the position out of a key.

    Raises:
        InvalidRequest: the key was not given out by this service, for this tenant and this very query.
    """
    try:
        signed = urlsafe_b64decode(key + "=" * (-len(key) % 4)) if len(key) <= limits.OFFSET_KEY_LENGTH_MAX else b""
    except (Base64Error, ValueError):
        signed = b""
    if urlsafe_b64encode(signed).decode().rstrip("=") != key:
        # Base64 has other spellings of the same bytes; none of them was given out.
        signed = b""
    signature, payload = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    if not compare_digest(signature, _signature(secret, query, payload)):
        raise InvalidRequest.of("offsetKey", key, "offsetKey was not given out for this query.")
    position: list[str | int] = orjson.loads(payload)
    return position


def _signature(secret: bytes, query: object, payload: bytes) -> bytes:
    return blake2b(orjson.dumps(query, default=str) + b"\n" + payload, key=secret, digest_size=SIGNATURE_BYTES).digest()
