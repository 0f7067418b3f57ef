"""What the programs have in common: servers for the time that they run, and what is printed at the end."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tests.benchmarks.frame import Report, circumstances_of, say, table
from tests.benchmarks.ground import Ground
from tests.servers import ServersOfRun


def run(
    measure: Callable[[Ground], Awaitable[Sequence[Report]]], postgres_settings: Mapping[str, str] | None = None
) -> int:
    """Measure, and print the table and the circumstances; gives the exit code, which no speed changes.

    The settings are those of a PostgreSQL that is started for it; one that the environment names keeps its own.
    """
    servers = ServersOfRun.open(postgres_settings)
    try:
        asyncio.run(_measure_and_print(measure, servers))
    except TimeoutError:
        print("a round did not end in time", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        servers.stop()
    return 0


async def _measure_and_print(measure: Callable[[Ground], Awaitable[Sequence[Report]]], servers: ServersOfRun) -> None:
    say("starting PostgreSQL and RabbitMQ")
    ground = await Ground.of(servers)
    reports = await measure(ground)
    print(table(reports))
    print(f"\n{await circumstances_of(ground)}")
