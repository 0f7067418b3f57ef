"""API keys: how they are made, and how a secret is checked."""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from secrets import compare_digest, token_hex, token_urlsafe


class Role(StrEnum):
    """What a key may do: integration posts events and reads, admin also manages and adjusts points."""

    INTEGRATION = "integration"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A key with its secret, which is shown once and stored nowhere."""

    api_key: str
    secret: str

    @classmethod
    def generate(cls) -> "NewCredential":
        """Make a key to look up by, and 256 bits of secret: no slow hash is needed for so much."""
        return cls(f"key_{token_hex(10)}", f"secret_{token_urlsafe(32)}")

    @property
    def secret_sha256(self) -> bytes:
        """What is stored of the secret."""
        return sha256(self.secret.encode()).digest()


def is_secret(given: str, secret_sha256: bytes) -> bool:
    """Compare in constant time."""
    return compare_digest(sha256(given.encode("utf-8", "surrogateescape")).digest(), secret_sha256)
