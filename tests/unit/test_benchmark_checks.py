"""The benchmarks of the api look at what was answered: a program that leaves out a part of its work has no figure."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import orjson
import pytest
from structlog.testing import capture_logs

from tallymarks.broker import Topology
from tallymarks.database import Database
from tallymarks_api.duplicates import Duplicates
from tests.benchmarks.api import Counter
from tests.benchmarks.client import Answers, Load
from tests.benchmarks.shop import CONNECTIONS, Server, Shop
from tests.unit.builders import EVENT, TENANT, id_of

Answering = Callable[[bytes], object]
"""A request → the JSON that it is answered with."""
BALANCES = {str(id_of(number)): 10 * number for number in range(5)}
CUSTOMER_ID = re.compile(rb"/customers/([0-9a-f-]+)/balance ")


def accounts() -> Any:
    """A connection that gives the accounts of the shop's customers."""
    rows = [{"customer_id": customer_id, "balance": balance} for customer_id, balance in BALANCES.items()]
    return SimpleNamespace(fetch=AsyncMock(return_value=rows))


class AnsweringShop(Shop):
    """A shop whose servers answer as the test says, without any server."""

    def __init__(self, directory: Path, answering: Answering) -> None:
        log = directory / "log"
        log.touch()
        api = SimpleNamespace(pid=os.getpid(), port=0, log=log)
        stack = SimpleNamespace(api=api, client=SimpleNamespace(headers={}), tenant_id=TENANT)
        super().__init__(cast(Any, stack), Topology("bench", 1), "", accounts(), directory)
        self._answering = answering

    async def load(self, server: Server, requests: Sequence[bytes], *_: object) -> Load:
        assert server.pid == os.getpid()
        bodies = [orjson.dumps(self._answering(request)) for request in requests]
        answers = Answers(seconds=1.0, cpu_seconds=0.0, answered_at=[0.0] * len(requests), bodies=bodies)
        return cast(Load, SimpleNamespace(begin=lambda: 0.0, finished=AsyncMock(return_value=answers)))


def counter(directory: Path, answering: Answering) -> Counter:
    return Counter(AnsweringShop(directory, answering), Server("bare", os.getpid(), 0), "")


def balance(request: bytes) -> dict[str, int]:
    found = CUSTOMER_ID.search(request)
    assert found is not None
    return {"amount": BALANCES[found[1].decode()]}


# --- balances --------------------------------------------------------------------------------------------------------


async def test_balances_that_are_those_of_the_accounts_are_counted(tmp_path: Path) -> None:
    asking = counter(tmp_path, balance)
    assert [await asking.balances(40, server) for server in (asking.shop.api, asking.bare)] == [40.0, 40.0]


@pytest.mark.parametrize("which", ["api", "bare"])
@pytest.mark.parametrize("others", [{"amount": 0}, {"amount": 10}], ids=["nothing", "another customer's"])
async def test_a_balance_that_is_not_that_of_its_account_fails_the_benchmark(
    tmp_path: Path, which: str, others: dict[str, int]
) -> None:
    def wrong_once(request: bytes) -> dict[str, int]:
        right = balance(request)
        return others if right == {"amount": 40} else right

    asking = counter(tmp_path, wrong_once)
    with pytest.raises(RuntimeError, match="not those of the accounts"):
        await asking.balances(40, asking.shop.api if which == "api" else asking.bare)


# --- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [208, 400, 503])
async def test_an_event_of_a_batch_that_is_not_taken_in_fails_the_benchmark(tmp_path: Path, status: int) -> None:
    def refused_once(request: bytes) -> object:
        events = orjson.loads(request.partition(b"\r\n\r\n")[2])["events"]
        return {"results": [{"status": 200}] * (len(events) - 1) + [{"status": status}]}

    with pytest.raises(RuntimeError, match=f"were answered .*{status}"):
        await counter(tmp_path, refused_once).batches(1)


async def test_an_event_of_a_batch_that_is_not_answered_fails_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="999 in all"):
        await counter(tmp_path, lambda _: {"results": [{"status": 200}] * 999}).batches(1)


async def test_an_api_that_stops_looking_up_duplicates_has_no_figure(tmp_path: Path) -> None:
    shop = AnsweringShop(tmp_path, lambda _: {})
    await shop.put("", shop.api, [b""], CONNECTIONS)
    shop.stack.api.log.write_text(f'{{"event":"listening"}}\n{{"event":"{await said_without_look_up()}"}}\n')
    with pytest.raises(RuntimeError, match="stopped looking up"):
        await shop.put("", shop.api, [b""], CONNECTIONS)
    # What stands beside the api has none to look up.
    await shop.put("", Server("bare", os.getpid(), 0), [b""], CONNECTIONS)


async def said_without_look_up() -> str:
    """What an api logs whose database is away."""

    away = Database("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1, application_name="test")
    await away.open()  # no connection yet
    with capture_logs() as logs:
        await Duplicates(away, lambda: 0.0).recorded(TENANT, [EVENT])
    await away.close()
    (entry,) = logs
    return str(entry["event"])
