"""The faults: what each does to the system, and takes back again. Recovery is the system's own affair."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import asyncpg

from tests.acceptance.installation import API, ASSESSOR, SERVICES
from tests.faults.system import BROKER, CLIENT, DATABASE, System
from tests.proxy import Direction, Proxy

DO = Callable[[System, Random], Awaitable[None]]
DELAY_SECONDS = 0.2
CLOCK_STEP_SECONDS = 3600.0
# Of the statements that write: so many fail that no batch of halves is spared, and not all.
FAILING_SHARE = 0.3
DEADLOCK, SERIALIZATION_FAILURE = "40P01", "40001"
FAIL_SOMETIMES = """
CREATE FUNCTION fail_sometimes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < {share} THEN
        RAISE EXCEPTION 'injected' USING ERRCODE = (ARRAY[{codes}])[1 + floor(random() * {count})::int];
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER fails_sometimes BEFORE INSERT ON transactions FOR EACH STATEMENT EXECUTE FUNCTION fail_sometimes();
CREATE TRIGGER fails_sometimes BEFORE UPDATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION fail_sometimes();
"""
FAIL_NO_MORE = "DROP FUNCTION IF EXISTS fail_sometimes() CASCADE"
MEMORY_ALARM = ("set_vm_memory_high_watermark", "absolute", "1MB"), ("set_vm_memory_high_watermark", "absolute", "1GB")
DISK_ALARM = ("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")


@dataclass(frozen=True)
class Fault:
    """A fault by name; `needs_servers` where it is one of a server that is this run's own."""

    name: str
    do: DO
    needs_servers: bool = False


async def kill(name: str, system: System, random: Random) -> None:
    """End a service in the middle of whatever it does, and start it again."""
    await asyncio.sleep(random.uniform(0, 0.5))
    system.services[name].kill()
    system.services[name].start_again()


async def terminate(name: str, system: System, random: Random) -> None:
    """Ask a service to stop, and start it again when it has, gracefully."""
    await asyncio.sleep(random.uniform(0, 0.5))
    code = await system.services[name].stop()
    system.services[name].start_again()
    if code != 0:
        raise RuntimeError(f"{name} ended with {code} on SIGTERM")


async def cut(pairs: Iterable[tuple[str, str]], system: System, random: Random) -> None:
    """Break the connections, again and again."""
    for _ in range(3):
        await asyncio.sleep(random.uniform(0, 0.5))
        for pair in pairs:
            system.proxies[pair].cut()


async def stall(pairs: Iterable[tuple[str, str]], system: System, random: Random) -> None:
    """Let nothing through for a time, in one direction or in both."""
    directions = random.choice([[Direction.TO_SERVER], [Direction.TO_CLIENT], list(Direction)])
    proxies = [system.proxies[pair] for pair in pairs]
    for proxy in proxies:
        for direction in directions:
            proxy.hold(direction)
    await asyncio.sleep(random.uniform(1, 4))
    for proxy in proxies:
        proxy.release()


async def delay(pairs: Iterable[tuple[str, str]], system: System, random: Random) -> None:
    """Let everything arrive later for a time."""
    proxies = [system.proxies[pair] for pair in pairs]
    set_delay(proxies, DELAY_SECONDS)
    await asyncio.sleep(random.uniform(2, 3))
    set_delay(proxies, 0)


def set_delay(proxies: Iterable[Proxy], seconds: float) -> None:
    """Let proxies forward so much later."""
    for proxy in proxies:
        proxy.delay_seconds = seconds


async def stop_rabbitmq(system: System, random: Random) -> None:
    """Stop the broker for a time."""
    assert system.rabbitmq is not None
    await asyncio.to_thread(system.rabbitmq.stop)
    await asyncio.sleep(random.uniform(0.5, 2))
    await system.start_again(system.rabbitmq)


async def crash_rabbitmq(system: System, random: Random) -> None:
    """End the broker in the middle of whatever it does, and start it again after a time."""
    assert system.rabbitmq is not None
    await asyncio.to_thread(system.rabbitmq.crash)
    await asyncio.sleep(random.uniform(0.5, 2))
    await system.start_again(system.rabbitmq)


async def crash_postgresql(system: System, random: Random) -> None:
    """End the database without a checkpoint, and start it again after a time."""
    assert system.postgres is not None
    await asyncio.to_thread(system.postgres.crash)
    await asyncio.sleep(random.uniform(0.5, 2))
    await system.start_again(system.postgres)


async def alarm(orders: tuple[tuple[str, ...], tuple[str, ...]], system: System, random: Random) -> None:
    """Let the broker block its publishers for longer than a confirm is waited for."""
    assert system.rabbitmq is not None
    raised, lowered = orders
    await asyncio.to_thread(system.rabbitmq.control, *raised)
    await asyncio.sleep(random.uniform(5, 7))
    await asyncio.to_thread(system.rabbitmq.control, *lowered)


async def two_assessors(system: System, random: Random) -> None:
    """Let another assessor share the customers for a time; it is killed."""
    second = system.start(ASSESSOR)
    await second.ready()
    await asyncio.sleep(random.uniform(1, 2))
    second.kill()
    system.installation.services.remove(second)


async def fail_statements(code: str, system: System, random: Random) -> None:
    """Let the database refuse some of the statements that write, with this SQLSTATE."""
    async with system.owner() as owner, failing_sometimes(owner, FAILING_SHARE, code):
        await asyncio.sleep(random.uniform(2, 3))


@asynccontextmanager
async def failing_sometimes(owner: asyncpg.Connection, share: float, *codes: str) -> AsyncIterator[None]:
    """Let this share of the statements that write the ledger fail with one of these SQLSTATEs."""
    quoted = ", ".join(f"'{code}'" for code in codes)
    await owner.execute(FAIL_SOMETIMES.format(share=share, codes=quoted, count=len(codes)))
    try:
        yield
    finally:
        await owner.execute(FAIL_NO_MORE)


async def step_clock(seconds: float, system: System, random: Random) -> None:
    """Let every service's clock be wrong for a time, and then right again: a step each way."""
    system.installation.clock_file.write_text(str(seconds))
    await asyncio.sleep(random.uniform(1, 2))
    system.installation.clock_file.unlink()


def all_faults() -> list[Fault]:
    """Every fault."""
    faults = [Fault(f"kill-{name}", partial(kill, name)) for name in SERVICES]
    faults += [Fault(f"terminate-{name}", partial(terminate, name)) for name in SERVICES]
    pairs = [(name, part) for name in SERVICES for part in (BROKER, DATABASE)] + [(CLIENT, API)]
    for does, do in (("cut", cut), ("stall", stall), ("delay", delay)):
        faults += [Fault(f"{does}-{'-'.join(pair)}", partial(do, [pair])) for pair in pairs]
    return [
        *faults,
        Fault("two-assessors", two_assessors),
        Fault("deadlocks", partial(fail_statements, DEADLOCK)),
        Fault("serialization-failures", partial(fail_statements, SERIALIZATION_FAILURE)),
        Fault("clock-forward", partial(step_clock, CLOCK_STEP_SECONDS)),
        Fault("clock-back", partial(step_clock, -CLOCK_STEP_SECONDS)),
        Fault("crash-postgresql", crash_postgresql, needs_servers=True),
        Fault("stop-rabbitmq", stop_rabbitmq, needs_servers=True),
        Fault("crash-rabbitmq", crash_rabbitmq, needs_servers=True),
        Fault("memory-alarm", partial(alarm, MEMORY_ALARM), needs_servers=True),
        Fault("disk-alarm", partial(alarm, DISK_ALARM), needs_servers=True),
    ]
