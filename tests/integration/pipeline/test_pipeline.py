"""The way of an event, each part for real: api, broker, assessor, ledger."""

from uuid import UUID

import pytest

from tallymarks.service import new_id
from tests.parts import ApiClient, Clock, until

CUSTOMER = UUID("6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f0")


@pytest.mark.usefixtures("assessing")
async def test_an_order_becomes_points(api: ApiClient, clock: Clock) -> None:
    rule = {
        "name": "Points per unit",
        "eventType": "order",
        "status": "active",
        "fulfilments": [{"type": "pointsPerUnit", "rate": "1.5"}],
    }
    assert (await api.post("/api/v1/admin/rules", rule)).status == 200
    order = {"eventId": str(new_id()), "customerId": str(CUSTOMER), "order": {"total": "19.99"}}
    assert (await api.post("/api/v1/events/orders", order)).status == 200

    async def is_assessed() -> bool:
        return (await api.get(f"/api/v1/customers/{CUSTOMER}/balance")).status == 200

    await until(is_assessed)
    assert (await api.get(f"/api/v1/customers/{CUSTOMER}/balance")).body["amount"] == 29
    clock.advance(milliseconds=1)
    assert (await api.post("/api/v1/events/orders", order)).status == 208
