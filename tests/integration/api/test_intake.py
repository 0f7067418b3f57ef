"""Taking events in: what is looked up, beside what is published."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import pytest

from tallymarks.broker import Broker
from tallymarks.database import Database
from tallymarks.errors import Unavailable
from tallymarks.events import ActionEvent
from tallymarks.service import new_id
from tallymarks_api.duplicates import Duplicates
from tallymarks_api.intake import Intake, Posted
from tallymarks_assessor.assess import Assessor
from tests.parts import START, Clock, Tenant, until


def an_action() -> ActionEvent:
    return ActionEvent(event_id=new_id(), customer_id=new_id())


class LateDuplicates(Duplicates):
    """Looks events up when they are recorded: later than any database would be."""

    def __init__(self, database: Database, owner: asyncpg.Connection) -> None:
        super().__init__(database, time.monotonic)
        self._owner = owner

    async def recorded(self, tenant_id: UUID, event_ids: Sequence[UUID]) -> Mapping[UUID, datetime]:
        async def are_recorded() -> bool:
            found = await self._owner.fetchval("SELECT count(*) FROM events WHERE event_id = ANY($1)", event_ids)
            return bool(found == len(event_ids))

        await until(are_recorded)
        return await super().recorded(tenant_id, event_ids)


@pytest.mark.usefixtures("assessing")
async def test_an_event_that_is_assessed_before_it_is_looked_up_is_not_taken_for_a_duplicate(
    broker: Broker, door: Database, owner: asyncpg.Connection, tenant: Tenant, clock: Clock
) -> None:
    intake = Intake(broker, LateDuplicates(door, owner), now=clock, new_id=new_id)
    event = an_action()
    assert await intake.accept(Posted(tenant.tenant_id, [event], None)) == [False]
    clock.advance(milliseconds=1)
    assert await intake.accept(Posted(tenant.tenant_id, [event], None)) == [True]


async def test_what_is_known_is_told_while_the_broker_is_away_and_what_is_not_is_refused(
    broker: Broker, door: Database, assessor: Assessor, tenant: Tenant, clock: Clock
) -> None:
    away = Broker("amqp://127.0.0.1:1/", broker.topology, confirm_timeout_seconds=1, name="test")  # never opened
    intake = Intake(away, Duplicates(door, time.monotonic), now=clock, new_id=new_id)
    event = an_action()
    await assessor.assess(tenant.tenant_id, [event.model_copy(update={"created_at": START})])
    clock.advance(milliseconds=1)
    assert await intake.accept(Posted(tenant.tenant_id, [event], None)) == [True]
    for events in ([an_action()], [event, an_action()]):
        with pytest.raises(Unavailable):
            await intake.accept(Posted(tenant.tenant_id, events, None))
