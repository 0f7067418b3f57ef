"""The audit of dependencies fails for an advisory, and claims nothing where no advisories were told."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.audit import audit, told

VULNERABLE, CLEAN = "weak-package", "strong-package"
ADVISORY = {
    "id": "PYSEC-2026-1",
    "summary": "It can be broken into.",
    "affected": [
        {
            "package": {"name": VULNERABLE, "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """Answers as OSV does."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        told: Mapping[str, Any] = {"vulns": [ADVISORY]} if asked["package"]["name"] == VULNERABLE else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Silent(BaseHTTPRequestHandler):
    """Answers when the test is over."""

    is_over = threading.Event()

    def do_POST(self) -> None:
        self.is_over.wait()


@pytest.fixture
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A service of advisories, which pip-audit asks."""
    Silent.is_over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), getattr(request, "param", Advisories)) as service:
        monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{service.server_port}/v1/query")
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service
        Silent.is_over.set()
        service.shutdown()
        thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a lock file."""

    def write(*packages: str, hashed: str = f" --hash=sha256:{'0' * 64}") -> list[str]:
        path = tmp_path / "requirements.lock"
        path.write_text("".join(f"{package}==1.0{hashed}\n" for package in packages))
        return [str(path)]

    return write


@pytest.mark.usefixtures("service")
def test_an_advisory_fails_and_is_told_with_its_package(
    lock: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(lock(CLEAN, VULNERABLE)) == 1
    said = capsys.readouterr().out
    assert f"{VULNERABLE} 1.0: PYSEC-2026-1, mended in 1.1" in said
    assert CLEAN not in said


@pytest.mark.usefixtures("service")
def test_without_an_advisory_the_number_of_the_audited_is_told(
    lock: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(lock(CLEAN)) == 0
    assert capsys.readouterr().out == "1 dependencies audited, no advisory\n"


@pytest.mark.usefixtures("service")
def test_an_advisory_that_is_accepted_does_not_fail(
    lock: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.audit.ACCEPTED", {"PYSEC-2026-1": "The package is not used for it."})
    assert audit(lock(VULNERABLE)) == 0


@pytest.mark.parametrize("service", [Silent], indirect=True)
@pytest.mark.usefixtures("service")
def test_a_service_that_does_not_answer_is_told_and_nothing_is_claimed(
    lock: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(lock(VULNERABLE), timeout_seconds=3) == 0
    said = capsys.readouterr().out
    assert said.startswith("NOT AUDITED: the dependencies; no answer within 3 seconds")
    assert "no advisory" not in said


def test_a_service_that_is_away_is_told_and_nothing_is_claimed(
    lock: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/query")
        assert audit(lock(VULNERABLE)) == 0
    said = capsys.readouterr().out
    assert said.startswith("NOT AUDITED: the dependencies; requests.exceptions.ConnectionError")
    assert "no advisory" not in said


@pytest.mark.usefixtures("service")
def test_a_lock_without_hashes_fails(lock: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(lock(CLEAN, hashed="")) == 1
    assert CLEAN in capsys.readouterr().out


def test_packages_that_the_service_does_not_know_are_not_claimed_to_be_audited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    unknown: Mapping[str, Any] = {"name": VULNERABLE, "skip_reason": "It is not known."}
    assert told([{"name": CLEAN, "version": "1.0", "vulns": []}, unknown]) == 0
    assert capsys.readouterr().out == (
        "NOT AUDITED: 1 of 2 dependencies; It is not known.\n1 dependencies audited, no advisory\n"
    )
    assert told([unknown]) == 0
    assert capsys.readouterr().out == "NOT AUDITED: 1 of 1 dependencies; It is not known.\n"
