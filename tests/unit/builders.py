"""What the unit tests are made of: events, customers, segments and rules, by hand and generated."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tallymarks import limits
from tallymarks.events import (
    ActionEvent,
    AnniversaryEvent,
    AnyEvent,
    BasketEvent,
    OrderEvent,
    PointsEvent,
    RedemptionEvent,
)
from tallymarks.events import TransactionEvent as Spent
from tallymarks.rules.assessment import Situation, assess
from tallymarks.rules.evaluate import Outcome
from tallymarks.rules.facts import CustomerState, Facts
from tallymarks.rules.rule import Rule
from tallymarks.rules.rule_set import RuleSet
from tallymarks.segments import ExpiryMode, Segment
from tallymarks.values import format_instant
from tests.parts import START

TENANT = UUID("7d444840-9dc0-11d1-b245-5ffdce74fad2")
CUSTOMER = UUID("6f1d2c3b-4a59-4687-8796-a5b4c3d2e1f0")
OTHER_CUSTOMER = UUID("0b6a1d52-3c4f-4e07-9f0e-8f1de7c2a3b4")
SEGMENT = UUID("91a0c6f4-27d8-4f5b-8a35-6f0e2d7c1b58")
OTHER_SEGMENT = UUID("c3e8b7d0-5f16-4b6c-9d4e-1a2b3c4d5e6f")
EVENT = UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479")

generated = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How long an example takes says something about the machine only."""


def id_of(number: int) -> UUID:
    """The same id for the same number, and their order that of the numbers."""
    return UUID(int=(1 << 64) + number)


def ids() -> Callable[[], UUID]:
    """A maker of ids: the same ones in every run."""
    numbers = count(1_000)
    return lambda: id_of(next(numbers))


# --- by hand ----------------------------------------------------------------------------------------------------------


def _event(fields: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": EVENT, "customer_id": CUSTOMER, "created_at": START, **fields}


def action(**fields: Any) -> ActionEvent:
    """An action event."""
    return ActionEvent(**_event(fields))


def order(total: str = "10", **fields: Any) -> OrderEvent:
    """An order event of this total."""
    return OrderEvent(**_event({"order": {"total": total}, **fields}))


def transaction(amount: str = "10", **fields: Any) -> Spent:
    """A transaction event of this amount."""
    return Spent(**_event({"transaction": {"amount": amount}, **fields}))


def points(quantity: int = 1, **fields: Any) -> PointsEvent:
    """A points event of this quantity."""
    return PointsEvent(**_event({"points": {"quantity": quantity}, **fields}))


def redemption(quantity: int = 1, description: str | None = None, **fields: Any) -> RedemptionEvent:
    """A redemption of this many points."""
    return RedemptionEvent(**_event({"redemption": {"points": quantity, "description": description}, **fields}))


def anniversary(years: int = 1, **fields: Any) -> AnniversaryEvent:
    """An anniversary event."""
    return AnniversaryEvent(**_event({"anniversary": {"years": years}, **fields}))


def basket(total: str = "10", **fields: Any) -> BasketEvent:
    """A basket of this total."""
    return BasketEvent(**_event({"basket": {"total": total}, **fields}))


def segment(segment_id: UUID = SEGMENT, **fields: Any) -> Segment:
    """An active segment without expiry."""
    filled = {
        "tenant_id": TENANT,
        "name": f"Segment {segment_id}",
        "display_name": None,
        "description": None,
        "status": "active",
        "expiry": {"mode": "none"},
        "created_at": START,
        "changed_at": START,
    }
    return Segment(**{"segment_id": segment_id, **filled, **fields})


def rule(number: int = 1, **fields: Any) -> Rule:
    """An active rule for actions that gives a point; its number is its id and decides its place among others."""
    filled = {
        "rule_id": id_of(number),
        "tenant_id": TENANT,
        "name": f"Rule {number}",
        "event_type": "action",
        "status": "active",
        "fulfilments": [{"type": "points", "amount": 1}],
        "version": 1,
        "effective_from": None,
        "effective_to": None,
        "created_at": START,
        "changed_at": START,
    }
    return Rule(**{**filled, **fields})


def rule_set(rules: Iterable[Rule], segments: Iterable[Segment] = ()) -> RuleSet:
    """The rule set of a tenant."""
    return RuleSet.of(1, rules, segments)


def customer(
    customer_id: UUID = CUSTOMER,
    *,
    created_at: datetime = START,
    balance: int = 0,
    memberships: dict[UUID, datetime | None] | None = None,
) -> CustomerState:
    """The state of a customer."""
    return CustomerState(customer_id, created_at, balance, memberships or {})


def facts(
    event: AnyEvent | BasketEvent | None = None,
    *,
    state: CustomerState | None = None,
    segments: Sequence[Segment] = (),
    now: datetime = START,
) -> Facts:
    """What a criterion or a fulfilment looks at."""
    looked_at = event or action()
    known = state or customer()
    return Facts(looked_at, looked_at.event_type, known, {one.segment_id: one for one in segments}, now, known.balance)


def evaluate(event: AnyEvent, state: CustomerState, rules_: RuleSet, now: datetime) -> Outcome:
    """What one event does, without what follows from it."""
    first = assess(event, Situation(state, {}, {}), rules_, now).steps[0]
    assert first.outcome is not None
    return first.outcome


# --- generated --------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
optional_texts = st.none() | texts
amounts = st.decimals(min_value=-(10**12) + 1, max_value=10**12 - 1, places=4, allow_nan=False)
optional_amounts = st.none() | amounts
counts = st.none() | st.integers(0, limits.COUNT_MAX)
instants = st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20)
attributes = st.lists(st.fixed_dictionaries({"key": keys, "value": texts}), max_size=3)


def quantities(most: int) -> st.SearchStrategy[int]:
    """Points that are earned or taken: never none."""
    return st.integers(1, most) | st.integers(-most, -1)


def _of_type(event_type: str, body: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "event_id": st.uuids(version=4),
            "customer_id": st.sampled_from([CUSTOMER, OTHER_CUSTOMER]),
            "created_at": instants,
            "name_space": optional_texts,
            "reference": optional_texts,
            "campaign": optional_texts,
            "attributes": attributes,
            event_type: body,
        }
    )


def _orders() -> st.SearchStrategy[dict[str, Any]]:
    items = st.fixed_dictionaries(
        {
            "sku": optional_texts,
            "type": optional_texts,
            "quantity": counts,
            "price": optional_amounts,
            "tags": st.lists(texts, max_size=2),
        }
    )
    payments = st.fixed_dictionaries({"amount": optional_amounts, "method": optional_texts, "bin": optional_texts})
    return st.fixed_dictionaries(
        {
            "total": amounts,
            "tax_total": optional_amounts,
            "currency": optional_texts,
            "items": st.lists(items, max_size=2),
            "payments": st.lists(payments, max_size=2),
        }
    )


def events() -> st.SearchStrategy[AnyEvent]:
    """Events of every type that can reach the assessor, of two customers."""
    counted = st.fixed_dictionaries({"amount": optional_amounts, "count": counts})
    moved = st.fixed_dictionaries({"amount": amounts, "currency": optional_texts})
    earned = st.fixed_dictionaries({"quantity": quantities(limits.POINTS_MAX)})
    redeemed = st.fixed_dictionaries({"points": st.integers(1, limits.POINTS_MAX), "description": optional_texts})
    return st.one_of(
        _of_type("action", counted).map(lambda fields: ActionEvent(**fields)),
        _of_type("order", _orders()).map(lambda fields: OrderEvent(**fields)),
        _of_type("transaction", moved).map(lambda fields: Spent(**fields)),
        _of_type("points", earned).map(lambda fields: PointsEvent(**fields)),
        _of_type("redemption", redeemed).map(lambda fields: RedemptionEvent(**fields)),
    )


def baskets() -> st.SearchStrategy[BasketEvent]:
    """Baskets, which are decided at once and never recorded."""
    return _of_type("basket", _orders()).map(lambda fields: BasketEvent(**fields))


def expiries() -> st.SearchStrategy[dict[str, Any]]:
    """Every mode of expiry."""
    period = st.fixed_dictionaries(
        {
            "mode": st.just(ExpiryMode.PERIOD),
            "count": st.integers(1, 5),
            "unit": st.sampled_from(["days", "months", "years"]),
        }
    )
    date = st.fixed_dictionaries({"mode": st.just(ExpiryMode.DATE), "date": instants.map(format_instant)})
    others = st.sampled_from(
        [ExpiryMode.NONE, ExpiryMode.UNTIL_ANNIVERSARY, ExpiryMode.UNTIL_ANNIVERSARY_PLUS_YEAR]
    ).map(lambda mode: {"mode": mode})
    return st.one_of(others, period, date)


def rules(segments: Sequence[UUID], name_spaces: Sequence[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """The fields of some rules that ask about and change memberships, and give and take points."""
    named = st.sampled_from(segments)
    criteria = st.one_of(
        st.fixed_dictionaries({"type": st.just("nameSpace"), "value": st.sampled_from(name_spaces)}),
        st.fixed_dictionaries({"type": st.sampled_from(["inSegment", "notInSegment"]), "segment_id": named}),
        st.just({"type": "everyEvent"}),
    )
    anywhere = st.one_of(
        st.fixed_dictionaries({"type": st.just("points"), "amount": quantities(1_000)}),
        st.fixed_dictionaries({"type": st.sampled_from(["addToSegment", "removeFromSegment"]), "segment_id": named}),
    )
    per_unit = st.fixed_dictionaries({"type": st.just("pointsPerUnit"), "rate": st.sampled_from(["0.5", "2"])})

    def of(
        event_types: Sequence[str], fulfilments: st.SearchStrategy[dict[str, Any]]
    ) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(
            {
                "event_type": st.sampled_from(event_types),
                "criteria": st.lists(criteria, max_size=2),
                "fulfilments": st.lists(fulfilments, min_size=1, max_size=3),
            }
        )

    any_type = of(["action", "order", "transaction", "points", "redemption"], anywhere)
    return st.lists(any_type | of(["order", "transaction"], anywhere | per_unit), max_size=8)
