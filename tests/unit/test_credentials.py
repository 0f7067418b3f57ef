"""API keys: made of randomness, stored as a hash."""

import hmac
from hashlib import sha256

import pytest

from tallymarks import credentials, limits
from tallymarks.credentials import NewCredential, is_secret


def test_keys_and_secrets_are_never_the_same() -> None:
    made = [NewCredential.generate() for _ in range(100)]
    assert len({one.api_key for one in made}) == 100
    assert len({one.secret for one in made}) == 100


def test_a_secret_has_256_bits_and_goes_into_a_header() -> None:
    made = NewCredential.generate()
    assert len(made.secret.removeprefix("secret_")) == 43
    for text in (made.api_key, made.secret):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text


def test_what_is_stored_is_the_hash_and_says_nothing_of_the_secret() -> None:
    made = NewCredential.generate()
    assert made.secret_sha256 == sha256(made.secret.encode()).digest()
    assert made.secret.encode() not in made.secret_sha256


@pytest.mark.parametrize("wrong", ["", "x", " ", "é", "\udce9", "名前", "\x00"])
def test_only_the_secret_is_the_secret(wrong: str) -> None:
    made = NewCredential.generate()
    assert is_secret(made.secret, made.secret_sha256)
    for given in (wrong, made.secret + wrong, made.secret.upper(), made.secret[:-1], made.api_key):
        assert is_secret(given, made.secret_sha256) is (given == made.secret)


def test_no_secret_is_that_of_another() -> None:
    one, other = NewCredential.generate(), NewCredential.generate()
    assert not is_secret(one.secret, other.secret_sha256)


def test_secrets_are_compared_in_constant_time_whatever_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare_digest` takes as long for any two of the same length; of others it may tell how long they are."""
    assert vars(credentials)["compare_digest"] is hmac.compare_digest
    compared: list[tuple[int, int]] = []

    def watched(given: bytes, stored: bytes) -> bool:
        compared.append((len(given), len(stored)))
        return hmac.compare_digest(given, stored)

    monkeypatch.setattr(credentials, "compare_digest", watched)
    made = NewCredential.generate()
    wrong = ["", "x", made.secret[:-1], made.secret + "x", "x" + made.secret[1:], made.secret[:-1] + "x", "é" * 4000]
    assert [is_secret(given, made.secret_sha256) for given in (*wrong, made.secret)] == [False] * len(wrong) + [True]
    assert compared == [(sha256().digest_size, sha256().digest_size)] * (len(wrong) + 1)


def test_a_disabled_key_stops_within_two_seconds_also_while_it_is_read_again() -> None:
    assert limits.API_KEY_FRESH_SECONDS + limits.LOOKUP_TIMEOUT_SECONDS <= 2
