"""Audits the pinned dependencies: `python -m tests.audit LOCK...`, a part of `make lint`.

pip-audit asks PyPI about each pin, or the service that its variables PIP_AUDIT_VULNERABILITY_SERVICE and
PIP_AUDIT_OSV_URL name. A package that the service does not know counts there as one without advisories, and a service
that is away ends it as an advisory does. So its report is read here: an advisory fails, and so does a lock without
hashes; what was not audited is said aloud, and does not fail.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60.0
ACCEPTED: Mapping[str, str] = {}
"""Advisory → why it does not concern us."""


def audit(locks: Iterable[str], timeout_seconds: float = TIMEOUT_SECONDS) -> int:
    """Audit lock files and say what was found; gives the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
        command += ["--format=json", f"--output={report}", *(f"--ignore-vuln={advisory}" for advisory in ACCEPTED)]
        command += [f"--requirement={lock}" for lock in locks]
        read = subprocess.run([*command, "--dry-run"], check=False, capture_output=True, text=True)
        if read.returncode != 0:
            return said(1, f"The lock files cannot be read: {read.stderr.strip()}")
        report.unlink()
        try:
            asked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return said(0, f"NOT AUDITED: the dependencies; no answer within {timeout_seconds:g} seconds")
        if not report.exists():
            return said(0, f"NOT AUDITED: the dependencies; {asked.stderr.strip().rpartition(chr(10))[2]}")
        return told(json.loads(report.read_text())["dependencies"])


def told(dependencies: Sequence[Mapping[str, Any]]) -> int:
    """Say what pip-audit reports of each dependency; gives the exit code."""
    unknown = [one for one in dependencies if "skip_reason" in one]
    audited = len(dependencies) - len(unknown)
    found = [
        f"{one['name']} {one['version']}: {advisory['id']}, mended in {', '.join(advisory['fix_versions']) or 'none'}"
        for one in dependencies
        for advisory in one.get("vulns", ())
    ]
    if unknown:
        said(0, f"NOT AUDITED: {len(unknown)} of {len(dependencies)} dependencies; {unknown[0]['skip_reason']}")
    if found:
        return said(1, "Dependencies with advisories:", *found)
    return said(0, f"{audited} dependencies audited, no advisory") if audited else 0


def said(code: int, *lines: str) -> int:
    """Print lines; gives the code."""
    print(*lines, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1:]))
