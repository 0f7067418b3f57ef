"""What all benchmarks have in common: ours and what stands beside it are measured in turn, and one table tells both."""

import asyncio
import os
import platform
import re
import statistics
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import aio_pika
import asyncpg

from tests.benchmarks.ground import Ground

ROUND_TIMEOUT_SECONDS = 300.0
"""A round that takes longer hangs: the run ends then."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: what the command line says."""

    rounds: int = 3
    """Rounds of each, in turn."""
    scale: float = 1.0
    """What the sizes that README.md tells are multiplied by: less than 1 is a trial, whose figures say little."""
    profile: bool = False
    """Whether services tell where their time went, in a round more, which is not counted."""

    def of(self, size: int) -> int:
        """Give a size of this plan, at least 1."""
        return max(1, round(size * self.scale))


@dataclass(frozen=True)
class Figures:
    """What was measured of one thing: a figure of each round."""

    name: str
    unit: str
    rounds: Sequence[float]

    @property
    def median(self) -> float:
        """The figure that stands for all."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Row:
    """One line of the table: ours, what stands beside it, and what their ratio should be."""

    name: str
    ours: Figures
    ceiling: Figures
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        """Ours as a multiple of the ceiling, medians of the rounds."""
        return self.ours.median / self.ceiling.median

    @property
    def is_reached(self) -> bool:
        """Whether the ratio is what it should be."""
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    @property
    def reach(self) -> str:
        """What the ratio should be, in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"


@dataclass(frozen=True)
class Report:
    """What a benchmark tells: lines of the table, and what else it has seen."""

    rows: Sequence[Row]
    besides: Sequence[Figures] = field(default=())
    """Figures without a bound, such as processor time."""
    notes: Sequence[str] = field(default=())
    """Text as it is, such as a profile."""


Benchmark = Callable[[Ground, Plan], Awaitable[Report]]


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


async def in_turn(plan: Plan, unit: str, measures: Mapping[str, Callable[[], Awaitable[float]]]) -> list[Figures]:
    """Measure each once a round, in the order given; gives the figures of each in that order.

    Raises:
        TimeoutError: a round of one hangs.
    """
    rounds: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(1, plan.rounds + 1):
        for name, measure in measures.items():
            async with asyncio.timeout(ROUND_TIMEOUT_SECONDS):
                figure = await measure()
            rounds[name].append(figure)
            say(f"  round {number} of {plan.rounds}: {name} {shown(figure)} {unit}")
    return [Figures(name, unit, of_one) for name, of_one in rounds.items()]


# --- the report -------------------------------------------------------------------------------------------------------

HEAD = ("benchmark", "ours", "", "ceiling", "beside", "ratio", "to reach", "")


def table(reports: Sequence[Report]) -> str:
    """Tell every line: medians of the rounds, their ratio, and whether it is what it should be; then each round."""
    rows = [row for report in reports for row in report.rows]
    lines = aligned([HEAD, *(_cells(row) for row in rows)], right=(1, 3, 5))
    figures = [one for row in rows for one in (row.ours, row.ceiling)]
    figures += [one for report in reports for one in report.besides]
    lines += [
        "",
        *aligned([("rounds", "", "median", ""), *map(_rounds, dict.fromkeys(map(_key, figures)))], right=(2,)),
    ]
    lines += [line for report in reports for note in report.notes for line in ("", note)]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if not row.reach else "reached" if row.is_reached else "NOT reached"
    return (
        row.name,
        shown(row.ours.median),
        row.ours.unit,
        shown(row.ceiling.median),
        row.ceiling.name,
        f"{row.ratio:.2f}",
        row.reach,
        verdict,
    )


def _key(figures: Figures) -> tuple[str, str, tuple[float, ...]]:
    """What is beside several lines was measured once, and is told once."""
    return figures.name, figures.unit, tuple(figures.rounds)


def _rounds(key: tuple[str, str, tuple[float, ...]]) -> tuple[str, ...]:
    name, unit, rounds = key
    return name, unit, shown(statistics.median(rounds)), "  ".join(map(shown, rounds))


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Give lines of cells that stand in columns; those of the places `right` end together, the others begin so."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def shown(figure: float) -> str:
    """Give a figure as people read it: three digits of a small one, all of a large one."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


# --- the circumstances ------------------------------------------------------------------------------------------------


async def circumstances_of(ground: Ground) -> str:
    """Tell what the figures depend on."""
    database = await asyncpg.connect(ground.server_url)
    postgresql = await database.fetchval("SHOW server_version")
    fsync = await database.fetchval("SHOW fsync")
    await database.close()
    async with await aio_pika.connect(ground.amqp_url) as connection:
        properties = connection.transport.connection.server_properties if connection.transport else {}
    return (
        f"{platform.python_implementation()} {platform.python_version()} ({build_flags()})"
        f"\nPostgreSQL {postgresql} (fsync {fsync}), RabbitMQ {as_text(properties.get('version'))}"
        f"\n{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}"
    )


def build_flags() -> str:
    """How the interpreter was optimized when it was built, which is worth up to a factor of two."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    flags = re.findall(r"-O\w+", sysconfig.get_config_var("OPT") or "")
    flags += [name for name in ("--enable-optimizations", "--with-lto") if name in arguments]
    return " ".join(flags) or "built without optimizations"


def as_text(value: object) -> str:
    """A string that the broker sent, which may come as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
