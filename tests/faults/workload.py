"""Clients that post mixed events, repeat some, redeem, reverse and change a rule; they write down what is answered."""

import asyncio
import time
from collections.abc import Sequence
from random import Random
from uuid import UUID

import aiohttp

from tests.acceptance.installation import Json
from tests.faults.record import Outcome, Record, Sent
from tests.parts import ApiClient

CALLS = {
    "action": "actions",
    "order": "orders",
    "transaction": "transactions",
    "points": "points",
    "redemption": "redemptions",
    "reversal": "reversals",
}
VISIT, CHANGING = "Visit", "Changing"
VISIT_POINTS, TRANSACTION_POINTS = 1, 2
# Every call is answered before this, whatever is away.
DEADLINE_SECONDS = 30.0
RETRY_SECONDS = 0.1
# An event is given up after so many attempts: what became of it is then unknown.
ATTEMPTS_MAX = 300
GIVE_UP_CHANCE = 0.02
REPEAT_CHANCE = 0.15
BATCH_CHANCE = 0.3
BATCH_EVENTS_MAX = 40
# Between two changes of a rule: each makes a version.
CHANGE_SECONDS = 0.2
UNAVAILABLE = 503
ERRORS = (aiohttp.ClientError, OSError, asyncio.IncompleteReadError)


def uuid_of(random: Random) -> str:
    """An id that the seed decides."""
    return str(UUID(int=random.getrandbits(128), version=4))


class Caller:
    """Posts, and notes what comes of it."""

    def __init__(self, client: ApiClient, record: Record) -> None:
        self.client = client
        self.record = record

    async def call(self, method: str, path: str, body: object) -> tuple[int, Json]:
        """Call once; status 0 where no answer came."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                answered = await self.client.call(method, path, body)
        except TimeoutError:
            self.record.overdue += 1
            return 0, {}
        except ERRORS:
            return 0, {}
        finally:
            self.record.slowest_seconds = max(self.record.slowest_seconds, time.monotonic() - started)
        return answered.status, answered.body if isinstance(answered.body, dict) else {}

    async def post(self, sent: Sent) -> int:
        """Post one event once."""
        status, body = await self.call("POST", f"/api/v1/events/{CALLS[sent.kind]}", sent.event)
        sent.answered(status, body)
        return status

    async def post_batch(self, batch: Sequence[Sent]) -> int:
        """Post events as one batch once; each of them has an answer of its own."""
        events = [{"eventType": sent.kind} | sent.event for sent in batch]
        status, body = await self.call("POST", "/api/v1/events", {"events": events})
        results = body.get("results")
        if not isinstance(results, list):
            for sent in batch:
                sent.answered(status, {})
            return status
        for sent, result in zip(batch, results, strict=True):
            sent.answered(
                result["status"], {name: value for name, value in result.items() if name not in {"status", "error"}}
            )
        return status


class Workload:
    """Several clients at once, until they are told to stop."""

    def __init__(self, client: ApiClient, random: Random, *, clients: int = 4, customers: int = 12) -> None:
        self.record = Record()
        self.caller = Caller(client, self.record)
        self._randoms = [Random(random.getrandbits(64)) for _ in range(clients + 1)]
        self._customer_ids = [uuid_of(random) for _ in range(customers)]
        self._changed_rule: Json = {}
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """Make the rules.

        Raises:
            RuntimeError: one is refused, or not answered.
        """
        rules: list[tuple[str, str | None, Json]] = [
            ("action", VISIT, {"type": "points", "amount": VISIT_POINTS}),
            ("order", None, {"type": "pointsPerUnit", "rate": "1"}),
            ("transaction", None, {"type": "points", "amount": TRANSACTION_POINTS}),
            ("action", CHANGING, {"type": "points", "amount": 1}),
        ]
        for event_type, name_space, fulfilment in rules:
            criteria = [{"type": "nameSpace", "operator": "equals", "value": name_space}] if name_space else []
            rule = {
                "name": name_space or event_type,
                "eventType": event_type,
                "status": "active",
                "criteria": criteria,
                "fulfilments": [fulfilment],
            }
            status, body = await self.caller.call("POST", "/api/v1/admin/rules", rule)
            if status != 200:
                raise RuntimeError(f"the rule was answered {status}: {body}")
            self._changed_rule = rule | {"ruleId": body["ruleId"]}
        self.record.amounts[1] = 1

    def start(self) -> None:
        """Let the clients post."""
        *clients, changing = self._randoms
        self._tasks = [asyncio.create_task(self._post(random)) for random in clients]
        self._tasks.append(asyncio.create_task(self._change_rules(changing)))

    async def stop(self) -> None:
        """Let each client finish what it is about."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def mark(self, random: Random, count: int = 20) -> None:
        """Post one last event for each of so many customers: they reach every partition after all others."""
        for _ in range(count):
            await self._until_known([self._action(random, uuid_of(random), VISIT)], random, gives_up=False)

    async def _post(self, random: Random) -> None:
        mine: list[Sent] = []
        while not self._stop.is_set():
            if mine and random.random() < REPEAT_CHANCE:
                await self.caller.post(random.choice(mine[-200:]))
                continue
            if random.random() < BATCH_CHANCE:
                batch = [self._recorded(random) for _ in range(random.randint(2, BATCH_EVENTS_MAX))]
            else:
                batch = [self._decided(random, mine) if random.random() < 0.4 else self._recorded(random)]
            await self._until_known(batch, random)
            mine += batch

    async def _until_known(self, batch: Sequence[Sent], random: Random, *, gives_up: bool = True) -> None:
        """Post again and again until it is answered with more than "not now"; sometimes leave it at that."""
        for _ in range(ATTEMPTS_MAX):
            status = await (self.caller.post(batch[0]) if len(batch) == 1 else self.caller.post_batch(batch))
            if 0 < status < UNAVAILABLE or (gives_up and random.random() < GIVE_UP_CHANCE):
                return
            await asyncio.sleep(RETRY_SECONDS)

    # --- what is posted -----------------------------------------------------------------------------------------------

    def _recorded(self, random: Random) -> Sent:
        """An event that is taken in and assessed later, or one that is refused because of its form."""
        customer_id = random.choice(self._customer_ids)
        kind = random.choice(["action", "action", "changing", "order", "transaction", "points", "refused"])
        match kind:
            case "action":
                return self._action(random, customer_id, VISIT)
            case "changing":
                return self._action(random, customer_id, CHANGING)
            case "order":
                total = random.randint(1, 50)
                return self._sent(random, "order", customer_id, total, order={"total": f"{total}.50"})
            case "transaction":
                return self._sent(
                    random, "transaction", customer_id, TRANSACTION_POINTS, transaction={"amount": "9.99"}
                )
            case "points":
                quantity = random.randint(1, 20)
                return self._sent(random, "points", customer_id, quantity, points={"quantity": quantity})
        return self._sent(random, "order", customer_id, None, order={"total": "much"})

    def _decided(self, random: Random, mine: Sequence[Sent]) -> Sent:
        """A redemption, of which some ask too much, or a reversal of an order that was taken in."""
        orders = [sent for sent in mine[-200:] if sent.kind == "order" and sent.outcome is Outcome.ACCEPTED]
        if orders and random.random() < 0.4:
            order = random.choice(orders)
            return self._sent(random, "reversal", order.customer_id, None, reverses=order.event_id)
        quantity = random.choice([1, 5, 20, 100, 1_000_000])
        customer_id = random.choice(self._customer_ids)
        return self._sent(random, "redemption", customer_id, -quantity, redemption={"points": quantity})

    def _action(self, random: Random, customer_id: str, name_space: str) -> Sent:
        amount = VISIT_POINTS if name_space == VISIT else None
        return self._sent(random, "action", customer_id, amount, nameSpace=name_space)

    def _sent(self, random: Random, kind: str, customer_id: str, amount: int | None, **parts: object) -> Sent:
        event: Json = {"eventId": uuid_of(random), "customerId": customer_id, **parts}
        return self.record.add(Sent(kind, event, amount))

    # --- rules that change under way ----------------------------------------------------------------------------------

    async def _change_rules(self, random: Random) -> None:
        """Make version after version of one rule; what each gives is what its events must have been worth."""
        path = f"/api/v1/admin/rules/{self._changed_rule['ruleId']}"
        while not self._stop.is_set():
            amount = random.randint(1, 1000)
            rule = self._changed_rule | {"fulfilments": [{"type": "points", "amount": amount}]}
            status, body = await self.caller.call("PUT", path, rule)
            version = body.get("version")
            if status == 200 and isinstance(version, int):
                self.record.amounts[version] = amount
            elif status not in range(400, 500):
                self.record.amounts_unknown.add(amount)
            await asyncio.sleep(CHANGE_SECONDS)
