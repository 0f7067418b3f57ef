"""The operator's command: how the database's address is told to the migration tool."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tallymarks.cli import app, dbmate_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:word@host:5433/name", "postgres://user:word@host:5433/name?sslmode=disable"),
        ("postgres://host/name", "postgres://host/name?sslmode=disable"),
        (
            "postgresql://user:p%40ss%2Fword@host/name?sslmode=verify-full&connect_timeout=5",
            "postgres://user:p%40ss%2Fword@host/name?sslmode=verify-full&connect_timeout=5",
        ),
        ("postgresql://[::1]:5432/name", "postgres://[::1]:5432/name?sslmode=disable"),
    ],
)
def test_keeps_what_both_understand(url: str, expected: str) -> None:
    assert dbmate_url(url, encrypted=False) == expected


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("postgresql://user@/name?host=/run/postgres dir", "user@"),
        ("postgresql://user@/name?host=%2Frun%2Fpostgres%20dir&port=5433", "user@"),
        ("postgresql:///name?host=/run/postgres+dir", ""),
    ],
)
def test_names_a_socket_in_the_tools_way(url: str, user: str) -> None:
    parts = urlsplit(dbmate_url(url, encrypted=False))
    query = parse_qs(parts.query)
    assert (parts.scheme, parts.netloc, parts.path) == ("postgres", user, "/name")
    assert query["socket"] == ["/run/postgres dir"]
    assert query.get("port", ["5433"]) == ["5433"]
    assert "host" not in query


@pytest.mark.parametrize(("encrypted", "mode"), [(True, "require"), (False, "disable")])
def test_encrypts_where_our_own_connection_is_encrypted(encrypted: bool, mode: str) -> None:
    assert parse_qs(urlsplit(dbmate_url("postgresql://host/name", encrypted=encrypted)).query) == {"sslmode": [mode]}


@pytest.mark.parametrize("encrypted", [True, False])
def test_what_the_operator_says_of_encryption_counts(encrypted: bool) -> None:
    url = "postgresql://host/name?sslmode=prefer"
    assert parse_qs(urlsplit(dbmate_url(url, encrypted=encrypted)).query) == {"sslmode": ["prefer"]}


def test_refuses_a_host_that_only_libpq_would_find() -> None:
    with pytest.raises(ValueError, match="socket's directory"):
        dbmate_url("postgresql:///name?host=database.example", encrypted=False)


@pytest.mark.parametrize(
    "command",
    [
        ["migrate"],
        ["tenant", "create"],
        ["api-key", "create"],
        ["ledger", "verify"],
        ["dead-letters", "list"],
        ["dead-letters", "replay"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    app([*command, "--help"], result_action="return_value")
    assert f"tallymarks {' '.join(command)}" in capsys.readouterr().out
