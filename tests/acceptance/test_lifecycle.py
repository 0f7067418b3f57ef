"""How a service starts, stops and fails: exit 0 when asked to stop, 1 when a part fails, 2 on wrong settings."""

import asyncio
from random import Random

import asyncpg
import orjson
import pytest

from tallymarks.broker import Broker
from tallymarks.service import new_id
from tests.acceptance.counting import (
    Load,
    action,
    actions_of,
    assert_each_counted_once,
    make_rules,
    messages_waiting,
    points,
    post,
    post_batch,
    redemption,
    times_counted,
    until_consumed,
    until_counted,
    until_waiting_for_a_lock,
)
from tests.acceptance.installation import API, ASSESSOR, CALENDAR, SEGMENT_EXPIRY, Installation, ServiceProcess, Stack
from tests.parts import Tenant, until
from tests.proxy import Direction, proxy_to


async def until_it_listens_no_more(service: ServiceProcess) -> None:
    async def listens_no_more() -> bool:
        return not await service.answers()

    await until(listens_no_more)


async def test_an_api_told_to_stop_answers_the_requests_under_way(
    installation: Installation, tenant: Tenant, owner: asyncpg.Connection, broker: Broker, amqp_url: str
) -> None:
    async with proxy_to(amqp_url) as proxy:
        api = installation.start(API, AMQP_URL=proxy.url, CONFIRM_TIMEOUT_SECONDS="60")
        assessor = installation.start(ASSESSOR)
        await asyncio.gather(api.ready("broker", "database"), assessor.ready(), until_consumed(broker))
        client, customer_id = installation.client(api, tenant.admin), new_id()
        earned = points(customer_id, 100)
        assert (await post(client, earned)).status == 200
        await until_counted(owner, tenant.tenant_id, 1)
        assert await assessor.stop() == 0

        proxy.hold(Direction.TO_CLIENT)
        events = [action(new_id()) for _ in range(20)]
        redemptions = [redemption(customer_id, 1) for _ in range(5)]
        posting = asyncio.gather(*(post(client, one) for one in events))
        # The broker holds what is under way, and only the confirms are missing; the other events make up the next lot.
        await until_messages_wait(broker)
        async with owner.transaction():
            await owner.execute("SELECT FROM accounts WHERE customer_id = $1 FOR UPDATE", customer_id)
            redeeming = asyncio.gather(*(post(client, one) for one in redemptions))
            await until_waiting_for_a_lock(owner, len(redemptions), API)
            api.terminate()
            await until_it_listens_no_more(api)
        proxy.release()
        assert {answered.status for answered in await posting} == {200}
        redeemed = [answered.status for answered in await redeeming]
        assert await api.ended() == 0
    # On a busy machine they may have waited for the account longer than a request does.
    assert set(redeemed) <= {200, 503}
    assert await owner.fetchval("SELECT balance FROM accounts") == 100 - redeemed.count(200)


async def until_messages_wait(broker: Broker) -> None:
    async def do_wait() -> bool:
        return await messages_waiting(broker) > 0

    await until(do_wait)


async def test_an_assessor_told_to_stop_finishes_and_acknowledges_its_batch(
    stack: Stack, owner: asyncpg.Connection, broker: Broker
) -> None:
    await make_rules(stack.client)
    events = actions_of(customer_count=20, event_count=100)
    async with owner.transaction():
        await owner.execute("LOCK TABLE transactions IN SHARE MODE")
        assert (await post_batch(stack.client, events)).status == 200
        await until_waiting_for_a_lock(owner, 1, ASSESSOR)
        stack.assessor.terminate()
        waiting_for_its_end = asyncio.create_task(stack.assessor.ended())
    assert await waiting_for_its_end == 0
    counted = len(await times_counted(owner, stack.tenant_id))
    assert counted > 0
    stack.assessor.start_again()
    await assert_each_counted_once(stack.installation, stack.client, owner, events)
    assert await stack.assessor.metric("tallymarks_events_duplicate") == 0


async def test_services_restarted_in_turn_under_load_end_with_zero_and_count_each_event_once(
    stack: Stack, owner: asyncpg.Connection
) -> None:
    await make_rules(stack.client)
    customer_ids = [new_id() for _ in range(10)]
    loads = [Load(stack.client, customer_ids, Random(seed)) for seed in (1, 2)]
    for service in stack.services:
        counted = len(await times_counted(owner, stack.tenant_id))
        posting = asyncio.gather(*(load.post(400) for load in loads))
        await until_counted(owner, stack.tenant_id, counted + 200)
        assert await service.stop() == 0
        service.start_again()
        await posting
    await stack.ready()
    events = [event for load in loads for event in load.events]
    await assert_each_counted_once(stack.installation, stack.client, owner, events)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        (API, {"PORT": "99999"}, "TALLYMARKS_PORT: Input should be less than or equal to 65535"),
        (API, {"DATABASE_URL": None}, "TALLYMARKS_DATABASE_URL: Field required"),
        (API, {"AMQP_URL": ""}, "TALLYMARKS_AMQP_URL is not set"),
        (ASSESSOR, {"DATABASE_URL": "mysql://127.0.0.1/"}, "TALLYMARKS_DATABASE_URL: String should match pattern"),
        (ASSESSOR, {"AMQP_URL": "http://127.0.0.1/"}, "TALLYMARKS_AMQP_URL: String should match pattern"),
        (SEGMENT_EXPIRY, {"PARTITIONS": "many"}, "TALLYMARKS_PARTITIONS: Input should be a valid integer"),
        (SEGMENT_EXPIRY, {"DATABASE_URL": ""}, "TALLYMARKS_DATABASE_URL: String should match pattern"),
        (CALENDAR, {"AMQP_URL": None}, "TALLYMARKS_AMQP_URL is not set"),
    ],
)
async def test_a_service_with_wrong_settings_ends_with_two_and_one_sentence(
    installation: Installation, name: str, settings: dict[str, str | None], sentence: str
) -> None:
    service = installation.start(name, **settings)
    assert await service.ended() == 2
    (line,) = service.log.read_text().splitlines()
    assert line.startswith(f"tallymarks: {sentence}")


async def test_a_service_of_which_a_part_fails_ends_with_one_and_says_so(
    stack: Stack, owner: asyncpg.Connection
) -> None:
    await owner.execute("REVOKE ALL ON outbox FROM tallymarks_service")
    for service in stack.services:
        assert await service.ended() == 1
        last = orjson.loads(service.log.read_text().splitlines()[-1])
        assert (last["service"], last["event"]) == (service.name, "the service failed")
        assert "permission denied for table outbox" in last["exception"]


async def test_services_tell_how_they_are_and_log_json_lines(stack: Stack) -> None:
    for service in stack.services:
        client = stack.installation.client(service)
        assert (await client.get("/health/live")).body == {"status": "live"}
        assert (await client.get("/health/ready")).body["status"] == "ready"
        assert "process_cpu_seconds_total" in (await client.get("/metrics")).body
    assert await asyncio.gather(*(service.stop() for service in stack.services)) == [0, 0, 0, 0]
    for service in stack.services:
        lines = [orjson.loads(line) for line in service.log.read_text().splitlines()]
        assert {line["service"] for line in lines} == {service.name}
        assert [line["event"] for line in lines][-1] == "stopped"
