"""Named cases of what assessors meet: events that cannot be assessed, contention, an altered ledger."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from statistics import mean
from uuid import UUID

import asyncpg

from tallymarks.database import TRANSIENT_ERRORS, Database
from tallymarks.events import ActionEvent
from tallymarks.limits import DELIVERIES_MAX
from tallymarks.service import new_id, utc_now
from tallymarks_assessor.assess import Assessor
from tests.acceptance.installation import ASSESSOR
from tests.faults.cases import Case
from tests.faults.faults import DEADLOCK, SERIALIZATION_FAILURE, failing_sometimes
from tests.faults.inside.sitecustomize import KILLING
from tests.faults.record import Sent
from tests.faults.system import System
from tests.faults.trial import Report
from tests.faults.workload import VISIT_POINTS, uuid_of
from tests.parts import sessions_waiting_for_locks, until

RAISING = "Poison.Raise"
RAISE = f"""
CREATE FUNCTION raise_for_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name_space = '{RAISING}' THEN
        RAISE EXCEPTION 'poison';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER raises_for_poison BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION raise_for_poison();
"""
RAISE_NO_MORE = "DROP FUNCTION raise_for_poison() CASCADE"
PUT_ASIDE = "SELECT count(*) FROM events WHERE tenant_id = $1 AND event_type = 'error'"
LETTERS_WAITING = "SELECT count(*) FROM outbox"
ASSESSED = "SELECT count(*) FROM events WHERE tenant_id = $1 AND event_id = ANY($2::uuid[])"
NEIGHBOURS, REJECTED = 100, 1_000
# So many messages around the one that kills are taken with it, and delivered as often.
DRAIN_SECONDS = 180.0
WORKERS, CONTENDED_EVENTS, CONTENDED_BATCH, ATTEMPTS_MAX = 64, 1_000, 5, 50
CONTENDED_FAILING_SHARE, CONTENDING, LOOK_SECONDS = 0.1, "contending", 0.02
LIMITED, LIMITED_POINTS, LIMIT = "Limited", 7, 600
MATCHED = "SELECT count(*) FROM transactions WHERE tenant_id = $1 AND event_id = ANY($2::uuid[])"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
# A superuser passes the wall that there is for the services.
TAMPER = "UPDATE transactions SET amount = amount + 1 WHERE tenant_id = $1 AND event_id = $2 RETURNING transaction_id"
TAMPER_BALANCE = "UPDATE accounts SET balance = balance + 1 WHERE tenant_id = $1 AND customer_id = $2"


async def poison_that_raises(system: System, random: Random) -> Report:
    """One event of a batch always fails: it alone is put aside, once, and the others of its message are assessed."""
    case = await Case.opened("poison-that-raises", system, random)
    before = await system.dead_letters()
    customer_id = uuid_of(random)
    events = [case.visit(customer_id) for _ in range(NEIGHBOURS)]
    async with system.owner() as owner:
        await owner.execute(RAISE)
        poison = poisonous(case, RAISING, customer_id)
        await case.caller.post_batch([*events[:50], poison, *events[50:]])
        await until_put_aside(owner, case, 1)
        await owner.execute(RAISE_NO_MORE)
        put_aside = await owner.fetchval(PUT_ASIDE, case.key.tenant_id)
    letters = await until_letters(system, before + 1) - before
    case.expect((put_aside, letters) == (1, 1), f"{put_aside} put aside, {letters} dead letters")
    # What is put aside is answered for by its letter.
    del case.record.sent[poison.event_id]
    return await case.closed(f"put aside once, 1 dead letter, {len(events)} neighbours assessed")


async def poison_that_kills(system: System, random: Random) -> Report:
    """One message kills every assessor that takes it, which is started again each time, until the queue drains."""
    case = await Case.opened("poison-that-kills", system, random)
    before = await system.dead_letters()
    assessor = system.services[ASSESSOR]
    await assessor.stop()
    customer_id = uuid_of(random)
    neighbours = [case.visit(customer_id) for _ in range(NEIGHBOURS)]
    poison = poisonous(case, KILLING, customer_id)
    for sent in (*neighbours[:50], poison, *neighbours[50:]):
        await case.until_accepted(sent)
    deaths = 0
    assessor.start_again()
    async with system.owner() as owner:
        ids = [UUID(sent.event_id) for sent in neighbours]

        async def is_over() -> bool:
            nonlocal deaths
            if not assessor.is_running:
                deaths += 1
                assessor.start_again()
            assessed = await owner.fetchval(ASSESSED, case.key.tenant_id, ids)
            return bool(assessed + await system.dead_letters() - before >= NEIGHBOURS + 1)

        try:
            await until(is_over, DRAIN_SECONDS)
        except TimeoutError:
            case.problems.append(f"the queue did not drain in {DRAIN_SECONDS:.0f} s")
        assessed = await owner.fetchval(ASSESSED, case.key.tenant_id, ids)
    if not assessor.is_running:
        # The last death is what put the poison aside.
        deaths += 1
        assessor.start_again()
    del case.record.sent[poison.event_id]
    letters = await system.dead_letters() - before
    case.expect(letters == 1, f"{letters} dead letters")
    return await case.closed(
        f"{deaths} deaths of at most {DELIVERIES_MAX + 1}, {assessed} of {NEIGHBOURS} neighbours assessed"
    )


async def dead_letter_target_stopped(system: System, random: Random) -> Report:
    """Nothing takes dead letters for a time: all that were written meanwhile are there afterwards."""
    case = await Case.opened("dead-letter-target", system, random)
    name = system.topology.dead_letters
    before = await system.dead_letters()
    poison = [poisonous(case, RAISING, uuid_of(random)) for _ in range(REJECTED)]
    async with system.channel() as channel, system.owner() as owner:
        queue = await channel.get_queue(name)
        await queue.unbind(name)
        await owner.execute(RAISE)
        await case.caller.post_batch(poison)
        await until_put_aside(owner, case, REJECTED)
        await owner.execute(RAISE_NO_MORE)
        waiting = await owner.fetchval(LETTERS_WAITING)
        await queue.bind(name)
    letters = await until_letters(system, before + REJECTED) - before
    case.expect(letters == REJECTED, f"{letters} dead letters")
    case.record.sent.clear()
    return await case.closed(f"{waiting:,} waited, {letters:,} of {REJECTED:,} dead letters there afterwards")


async def contending_workers(system: System, random: Random) -> Report:
    """Very many assessors on two customers: small batches in any order, of which each event is in two.

    One rule may match so often in all, so that everyone also meets at its row; and some statements are refused as they
    are where transactions are in each other's way.
    """
    case = await Case.opened("contending-workers", system, random)
    await make_limited_rule(case)
    customer_ids = [uuid_of(random) for _ in range(2)]
    visits = [case.visit(random.choice(customer_ids)) for _ in range(CONTENDED_EVENTS)]
    limited = [limited_event(case, random.choice(customer_ids)) for _ in range(CONTENDED_EVENTS)]
    for sent in visits:
        sent.answered(200, {})  # they are handed to assessors right away
    events = [*visits, *limited]
    twice = [*random.sample(events, len(events)), *random.sample(events, len(events))]
    batches = [twice[start : start + CONTENDED_BATCH] for start in range(0, len(twice), CONTENDED_BATCH)]
    database = Database(system.owner_url, pool_size=WORKERS, application_name=CONTENDING)
    await database.open()
    async with system.owner() as owner, system.owner() as injecting:
        before = await owner.fetchval(DEADLOCKS)
        try:
            async with failing_sometimes(injecting, CONTENDED_FAILING_SHARE, DEADLOCK, SERIALIZATION_FAILURE):
                tries = [
                    assess_all(Assessor(database, system.topology, now=utc_now, new_id=new_id), case, share)
                    for share in (batches[number::WORKERS] for number in range(WORKERS))
                ]
                working = asyncio.gather(*tries)
                waiting = await waiting_while(working, owner)
                attempts = sum(await working)
        finally:
            await database.close()
        deadlocks = await owner.fetchval(DEADLOCKS) - before
        matched = await owner.fetchval(MATCHED, case.key.tenant_id, [UUID(sent.event_id) for sent in limited])
    case.expect(max(waiting) > 1, "nobody waited for anybody")
    case.expect(matched == LIMIT, f"a rule that may match {LIMIT} times matched {matched} times")
    return await case.closed(
        f"{WORKERS} workers, {len(batches):,} batches, {attempts - len(batches):,} tried again, 0 given up,"
        f" {deadlocks} real deadlocks; waiting for locks: {max(waiting)} at the most, {mean(waiting):.0f} at a time;"
        f" {matched} of {LIMIT} matches"
    )


async def make_limited_rule(case: Case) -> None:
    """Make a rule that may match so many times, for all customers together."""
    rule = {
        "name": LIMITED,
        "eventType": "action",
        "status": "active",
        "criteria": [{"type": "nameSpace", "operator": "equals", "value": LIMITED}],
        "fulfilments": [{"type": "points", "amount": LIMITED_POINTS}],
        "limits": {"total": LIMIT},
    }
    status, _ = await case.caller.call("POST", "/api/v1/admin/rules", rule)
    case.expect(status == 200, f"the rule was answered {status}")


def limited_event(case: Case, customer_id: str) -> Sent:
    """An event of that rule: whether it gives anything depends on who comes first."""
    return case.sent("action", LIMITED_POINTS, customer_id, nameSpace=LIMITED)


async def waiting_while(working: asyncio.Future[list[int]], owner: asyncpg.Connection) -> list[int]:
    """Count again and again how many wait for somebody's lock, until the work is done."""
    waiting = [0]
    while not working.done():
        waiting.append(await sessions_waiting_for_locks(owner, CONTENDING))
        await asyncio.wait({working}, timeout=LOOK_SECONDS)
    return waiting


async def assess_all(assessor: Assessor, case: Case, batches: Sequence[Sequence[Sent]]) -> int:
    """Assess batches as one worker would; gives how often it tried.

    Raises:
        RuntimeError: one was given up.
    """
    attempts = 0
    for batch in batches:
        events = [event_of(sent) for sent in batch]
        for _ in range(ATTEMPTS_MAX):
            attempts += 1
            try:
                await assessor.assess(case.key.tenant_id, events)
            except TRANSIENT_ERRORS:
                await asyncio.sleep(0.05)
            else:
                break
        else:
            raise RuntimeError("a batch was given up")
    return attempts


def event_of(sent: Sent) -> ActionEvent:
    """The event as a message carries it."""
    return ActionEvent(
        event_id=UUID(sent.event_id),
        customer_id=UUID(sent.customer_id),
        name_space=str(sent.event["nameSpace"]),
        created_at=utc_now(),
    )


async def tampered_ledger(system: System, random: Random) -> Report:
    """A superuser alters one amount, and the balance with it: the proof names the transaction."""
    case = await Case.opened("tampered-ledger", system, random)
    events = [case.visit() for _ in range(20)]
    await case.caller.post_batch(events)
    await system.compared(case.record, case.key)
    altered = random.choice(events)
    async with system.owner() as owner:
        transaction_id = await owner.fetchval(TAMPER, case.key.tenant_id, UUID(altered.event_id))
        await owner.execute(TAMPER_BALANCE, case.key.tenant_id, UUID(altered.customer_id))
        ran = await system.installation.command("ledger", "verify", "--tenant-id", str(case.key.tenant_id))
        named = [line.get("transactionId") for line in ran.lines]
        case.expect(ran.exit_code == 1 and str(transaction_id) in named, f"exit code {ran.exit_code}: {ran.output}")
        await owner.execute(TAMPER.replace("+", "-"), case.key.tenant_id, UUID(altered.event_id))
        await owner.execute(TAMPER_BALANCE.replace("+", "-"), case.key.tenant_id, UUID(altered.customer_id))
    return await case.closed(f"named with exit code {ran.exit_code}, and nothing once it was put right")


def poisonous(case: Case, name_space: str, customer_id: str) -> Sent:
    """An event that cannot be assessed."""
    return case.sent("action", VISIT_POINTS, customer_id, nameSpace=name_space)


async def until_put_aside(owner: asyncpg.Connection, case: Case, count: int) -> None:
    """Wait until so many events are."""

    async def are_put_aside() -> bool:
        return bool(await owner.fetchval(PUT_ASIDE, case.key.tenant_id) >= count)

    await until(are_put_aside)


async def until_letters(system: System, count: int) -> int:
    """Wait until the queue holds so many dead letters, or for long; gives how many it holds."""

    async def are_there() -> bool:
        return await system.dead_letters() >= count

    with suppress(TimeoutError):
        await until(are_there, 30)
    return await system.dead_letters()


CASES = {
    "poison-that-raises": poison_that_raises,
    "poison-that-kills": poison_that_kills,
    "dead-letter-target": dead_letter_target_stopped,
    "contending-workers": contending_workers,
    "tampered-ledger": tampered_ledger,
}
