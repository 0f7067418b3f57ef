"""Where a service's time went, as cProfile saw it."""

import pstats
from pathlib import Path
from typing import Any, cast

from tests.benchmarks.frame import aligned

Place = tuple[str, int, str]
FUNCTIONS = 10
PACKAGES = "site-packages/"


def top_ten(name: str, path: Path) -> str:
    """Give the functions that took most of a process's time in themselves, without those that they called.

    Waiting for others counts as the time of a coroutine that waits, not always of the one that is waited for.
    """
    found: dict[Place, tuple[int, int, float, float, object]] = cast("Any", pstats.Stats(str(path))).stats
    total = sum(own for _, _, own, _, _ in found.values())
    most = sorted(found.items(), key=lambda item: -item[1][2])[:FUNCTIONS]
    rows = [
        (f"{own / total:.1%}", f"{own:.2f} s", f"{calls:,}", _shown(place)) for place, (_, calls, own, _, _) in most
    ]
    lines = aligned([("", "", "calls", "function"), *rows], right=(0, 1, 2))
    return "\n".join((f"{name}: where {total:.1f} s went, start and waiting included", *lines))


def _shown(place: Place) -> str:
    file, line, function = place
    if file == "~":
        return function
    parts = file.rpartition(PACKAGES)[2] if PACKAGES in file else "/".join(Path(file).parts[-2:])
    return f"{parts}:{line} {function}"
