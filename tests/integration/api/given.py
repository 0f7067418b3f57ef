"""What a test starts from: bodies as a caller posts them, and things made through the api or the assessor."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from tallymarks.events import ActionEvent, PointsEvent, PointsQuantity
from tallymarks.service import new_id
from tallymarks_api.calls import AnyEndpoint
from tallymarks_assessor.assess import Assessor
from tests.parts import START, ApiClient, Tenant

Json = dict[str, Any]

CUSTOMERS = "/api/v1/customers"
EVENTS = "/api/v1/events"
ACTIONS = "/api/v1/events/actions"
ORDERS = "/api/v1/events/orders"
TRANSACTIONS = "/api/v1/events/transactions"
POINTS = "/api/v1/events/points"
REDEMPTIONS = "/api/v1/events/redemptions"
REVERSALS = "/api/v1/events/reversals"
BASKETS = "/api/v1/events/baskets"
EVENT_SEARCH = "/api/v1/customers/events"
TRANSACTION_SEARCH = "/api/v1/customers/transactions"
RULES = "/api/v1/admin/rules"
RULE_TRIALS = "/api/v1/admin/rules/test"
SEGMENTS = "/api/v1/admin/segments"
API_KEYS = "/api/v1/admin/api-keys"
SETTINGS = "/api/v1/admin/settings"
SIMULATIONS = "/api/v1/admin/simulations"

ALL_FIELDS: Json = {
    "firstName": "Ada",
    "lastName": "Lovelace",
    "displayName": "Countess",
    "emailAddress": "Ada@Example.org",
    "mobileNumber": "+44 7700 900123",
    "optinSms": True,
    "optinEmail": True,
    "acceptTerms": True,
    "attributes": [{"key": "tier", "value": "gold"}, {"name": "shoe", "value": ""}],
    "dateOfBirth": "1915-12-10T00:00:00.000Z",
    "contactPhone": "+44 20 7946 0000",
    "externalReference": "crm-1",
    "externalStatus": "active",
}
"""Every field that a caller may set when a customer is created."""


def filled(endpoint: AnyEndpoint) -> str:
    """The path of an endpoint, with some id for each of its places."""
    names = [part for part in endpoint.path.split("/") if part.startswith("{")]
    return endpoint.path.format(**{name.strip("{}"): fresh_id() for name in names})


def fresh_id() -> str:
    """An id that nothing has yet."""
    return str(new_id())


def action(customer_id: object, **fields: object) -> Json:
    """An action event."""
    return {"eventId": fresh_id(), "customerId": str(customer_id), **fields}


def order(customer_id: object, total: object = "10", **fields: object) -> Json:
    """An order event."""
    return {"eventId": fresh_id(), "customerId": str(customer_id), "order": {"total": total}, **fields}


def transaction(customer_id: object, amount: object = "10", **fields: object) -> Json:
    """A transaction event."""
    return {"eventId": fresh_id(), "customerId": str(customer_id), "transaction": {"amount": amount}, **fields}


def points(customer_id: object, quantity: object = 10, **fields: object) -> Json:
    """A points event."""
    return {"eventId": fresh_id(), "customerId": str(customer_id), "points": {"quantity": quantity}, **fields}


def redemption(customer_id: object, quantity: object = 10, **fields: object) -> Json:
    """A redemption."""
    return {"eventId": fresh_id(), "customerId": str(customer_id), "redemption": {"points": quantity}, **fields}


def reversal(customer_id: object, reverses: object, amount: object = None, **fields: object) -> Json:
    """A reversal, of all that is left unless an amount is given."""
    body = {"eventId": fresh_id(), "customerId": str(customer_id), "reverses": str(reverses), **fields}
    return body if amount is None else {**body, "amount": amount}


def basket(customer_id: object, total: object = "10", **fields: object) -> Json:
    """A basket."""
    return {"eventId": fresh_id(), "customerId": str(customer_id), "basket": {"total": total}, **fields}


def batch(*events: Json) -> Json:
    """A batch of events; each without an eventType gets the one that its content tells."""
    return {"events": [{"eventType": _event_type(event), **event} for event in events]}


def _event_type(event: Json) -> str:
    return next((kind for kind in ("order", "transaction", "points") if kind in event), "action")


async def made(api: ApiClient, path: str, body: Json) -> Json:
    """Create something; gives the answer's body."""
    answered = await api.post(path, body)
    assert answered.status == 200, answered.body
    created: Json = answered.body
    return created


async def a_customer(api: ApiClient, **fields: object) -> Json:
    """A registered customer."""
    return await made(api, CUSTOMERS, dict(fields))


async def a_segment(api: ApiClient, **fields: object) -> Json:
    """A segment, active unless said otherwise."""
    return await made(api, SEGMENTS, {"name": f"Segment {fresh_id()}", **fields})


async def a_rule(api: ApiClient, event_type: str, *fulfilments: Json, **fields: object) -> Json:
    """An active rule."""
    body = {"name": "Rule", "eventType": event_type, "status": "active", "fulfilments": list(fulfilments), **fields}
    return await made(api, RULES, body)


async def earned(assessor: Assessor, tenant: Tenant, customer_id: object, quantity: int) -> None:
    """Points on a customer's account, assessed already; creates the customer where there is none."""
    event = PointsEvent(
        event_id=new_id(),
        customer_id=UUID(str(customer_id)),
        created_at=START,
        points=PointsQuantity(quantity=quantity),
    )
    await assessor.assess(tenant.tenant_id, [event])


async def bare_customers(assessor: Assessor, tenant: Tenant, customer_ids: Iterable[UUID]) -> None:
    """Customers that an event has made and nobody has registered (an action of each who is known already)."""
    events = [ActionEvent(event_id=new_id(), customer_id=each, created_at=START) for each in customer_ids]
    await assessor.assess(tenant.tenant_id, events)


def a_rule_for(event_type: str, *fulfilments: Json, **fields: object) -> Json:
    """The body of a rule."""
    return {"name": "Rule", "eventType": event_type, "fulfilments": list(fulfilments), **fields}


def give(amount: int) -> Json:
    """A fulfilment: points for each event."""
    return {"type": "points", "amount": amount}


async def tried(api: ApiClient, event: Json, **fields: object) -> Json:
    """What a trial is answered."""
    answered = await api.post(RULE_TRIALS, {"event": event, **fields})
    assert answered.status == 200, answered.body
    outcome: Json = answered.body
    return outcome
