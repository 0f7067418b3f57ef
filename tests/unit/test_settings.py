"""The settings: TALLYMARKS_* variables, and a sentence for whoever sets them wrong."""

import asyncio
import os

import pytest

from tallymarks.service import load_settings, run_service
from tallymarks.settings import Settings

DATABASE_URL = "postgresql://user:word@host/name"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing but the one variable that must be set."""
    for name in os.environ:
        if name.startswith("TALLYMARKS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TALLYMARKS_DATABASE_URL", DATABASE_URL)
    return monkeypatch


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What is said before the program ends with 2."""
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tallymarks: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


def test_only_the_database_must_be_named() -> None:
    assert load_settings() == Settings(database_url=DATABASE_URL)
    assert load_settings().model_dump() == {
        "database_url": DATABASE_URL,
        "amqp_url": "",
        "host": "127.0.0.1",
        "port": None,
        "log_format": "auto",
        "partitions": 1,
        "topology_prefix": "tallymarks",
        "database_pool_size": 10,
        "confirm_timeout_seconds": 5.0,
        "rate_limit_per_second": None,
        "explanations": True,
        "explanation_days": 90,
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("amqp_url", "amqp://host/", "amqp://host/"),
        ("host", "0.0.0.0", "0.0.0.0"),  # noqa: S104 - a word here, no socket
        ("port", "0", 0),
        ("port", "65535", 65_535),
        ("log_format", "json", "json"),
        ("partitions", "256", 256),
        ("topology_prefix", "a.b-c_9", "a.b-c_9"),
        ("database_pool_size", "2", 2),
        ("confirm_timeout_seconds", "0.5", 0.5),
        ("rate_limit_per_second", "100", 100),
        ("explanations", "false", False),
        ("explanation_days", "1", 1),
    ],
)
def test_every_setting_is_a_variable(environment: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    environment.setenv(f"TALLYMARKS_{name.upper()}", text)
    assert getattr(load_settings(), name) == value


def test_other_variables_are_left_to_others(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TALLYMARKS_TEST_DATABASE_URL", "x")
    environment.setenv("PORT", "x")
    assert load_settings() == Settings(database_url=DATABASE_URL)


def test_a_missing_variable_is_named(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.delenv("TALLYMARKS_DATABASE_URL")
    assert "TALLYMARKS_DATABASE_URL: " in sentence(capsys)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "http"),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "tcp://10.0.0.1:8080"),
        ("LOG_FORMAT", "xml"),
        ("PARTITIONS", "0"),
        ("PARTITIONS", "257"),
        ("PARTITIONS", "1.5"),
        ("TOPOLOGY_PREFIX", ""),
        ("TOPOLOGY_PREFIX", "a b"),
        ("TOPOLOGY_PREFIX", "a" * 65),
        ("TOPOLOGY_PREFIX", "a\n"),
        ("DATABASE_POOL_SIZE", "1"),
        ("DATABASE_POOL_SIZE", "101"),
        ("CONFIRM_TIMEOUT_SECONDS", "0"),
        ("CONFIRM_TIMEOUT_SECONDS", "61"),
        ("CONFIRM_TIMEOUT_SECONDS", "nan"),
        ("CONFIRM_TIMEOUT_SECONDS", "inf"),
        ("RATE_LIMIT_PER_SECOND", "0"),
        ("RATE_LIMIT_PER_SECOND", "1.5"),
        ("RATE_LIMIT_PER_SECOND", "1000001"),
    ],
)
def test_a_bad_value_is_named_by_its_variable(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    environment.setenv(f"TALLYMARKS_{name}", text)
    assert f"TALLYMARKS_{name}: " in sentence(capsys)


def test_all_that_is_wrong_is_said_at_once(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.setenv("TALLYMARKS_PORT", "x")
    environment.setenv("TALLYMARKS_PARTITIONS", "x")
    told = sentence(capsys)
    assert "TALLYMARKS_PORT: " in told
    assert "TALLYMARKS_PARTITIONS: " in told


def test_a_service_needs_the_broker_too(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(settings: Settings, stop: asyncio.Event) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(SystemExit) as ended:
        run_service("test", serve)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "tallymarks: TALLYMARKS_AMQP_URL is not set\n"
