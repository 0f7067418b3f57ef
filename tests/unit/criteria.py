"""What the tests of criteria share: a criterion from its JSON, a look at an event, a customer with a past."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tallymarks import limits
from tallymarks.events import AnyEvent, BasketEvent
from tallymarks.rules.comparison import Operator
from tallymarks.rules.criteria import Check, Criterion
from tallymarks.rules.facts import COUNTED_TYPES, CustomerState, Totals, Window
from tests.parts import START
from tests.unit.builders import (
    OTHER_SEGMENT,
    SEGMENT,
    amounts,
    anniversary,
    customer,
    events,
    facts,
    instants,
    keys,
    texts,
)

FORM: TypeAdapter[Criterion] = TypeAdapter(Criterion)

TYPES = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(Criterion)[0])}
"""The names of all criteria of the registry."""


def criterion(**fields: Any) -> Criterion:
    """A criterion, by the names of its JSON or of its fields."""
    read: Criterion = FORM.validate_python(fields)
    return read


def is_refused(**fields: Any) -> bool:
    """Whether this is no criterion."""
    try:
        criterion(**fields)
    except ValidationError:
        return True
    return False


def check(
    event: AnyEvent | BasketEvent,
    state: CustomerState | None = None,
    windows: Mapping[Window, int] | None = None,
    **fields: Any,
) -> Check:
    """How the criterion of these fields looks at the event."""
    return criterion(**fields).check(replace(facts(event, state=state), windows=windows or {}))


def matches(event: AnyEvent | BasketEvent, state: CustomerState | None = None, **fields: Any) -> bool:
    """Whether the criterion of these fields matches the event."""
    return check(event, state, **fields).matched


def with_past(
    counts: Mapping[str, int] | None = None,
    values: Mapping[str, str] | None = None,
    *,
    points_earned: int = 0,
    balance: int = 0,
    recent: tuple[tuple[str, str | None, datetime], ...] = (),
) -> CustomerState:
    """A customer who has done so much."""
    sums = {event_type: Decimal(value) for event_type, value in (values or {}).items()}
    return replace(customer(balance=balance), totals=Totals(counts or {}, sums, points_earned), recent=recent)


# --- generated --------------------------------------------------------------------------------------------------------

_operators = st.sampled_from(Operator)
_near_amounts = st.integers(-200_000, 200_000).map(lambda number: Decimal(number).scaleb(-4)) | amounts
_some_texts = st.sampled_from(["A", "A.B", "b"]) | keys


def _fields(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(dict(strategies))


def _compared(values: st.SearchStrategy[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return _fields(operator=_operators, value=values, **more)


def _periods() -> st.SearchStrategy[dict[str, Any]]:
    spans = [_fields(count=st.integers(1, most), unit=st.just(unit)) for unit, most in limits.WINDOW_PERIOD_MAX.items()]
    return st.one_of(spans)


_counts = st.integers(0, 20) | st.integers(0, limits.COUNT_MAX)
_points = st.integers(-20, 20) | st.integers(-limits.POINTS_MAX, limits.POINTS_MAX)
_nths = st.integers(1, 20) | st.integers(1, limits.NTH_MAX)
_windows = st.integers(1, 5) | st.integers(1, limits.WINDOW_EVENTS_MAX)
_segments = _fields(segmentId=st.sampled_from([str(SEGMENT), str(OTHER_SEGMENT)]))
_purchase_texts = _fields(operator=st.sampled_from(["equals", "beginsWith", "notEquals"]), value=_some_texts)
_filters = st.none() | _some_texts

EXPRESSIONS = (
    "true",
    "event.nameSpace.startsWith('A') || has(event.campaign)",
    "event.attributes.exists(a, a.key == 'A' && double(a.value) > 0.0)",
    "event.createdAt.getFullYear('Europe/Berlin') > 2000 && now - customer.createdAt >= duration('1s')",
    "customer.balance / totals.counts.order > totals.pointsEarned % totals.counts.points",
    "totals.spend + totals.values.order * 2.0 > 10.0 || segments.exists(s, s.endsWith('8'))",
    "event.action.amount / event.action.amount == 1.0",
    "event.action.count * 9223372036854775807 > 0",
    "event.order.items.all(i, i.price * double(i.quantity) > 1.0 && i.tags.size() < 2 && i.sku.matches('^[A-Z]+'))",
    "event.order.items[1].tags[0] == event.order.payments.map(p, p.bin)[1]",
    "event.basket.items.exists_one(i, i.tags.exists(t, t > i.sku)) && has(event.basket.taxTotal)",
    "string(event.transaction.amount).contains('e') || int(event.transaction.amount) == 1",
    "event.points.quantity + 9223372036854775807 > customer.balance",
    "event.redemption.points > 100 && timestamp(event.redemption.description) > now",
    "event.anniversary.years in [1, 2, 5]",
)

GENERATED: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "everyEvent": st.just({}),
    "nameSpace": _fields(operator=st.sampled_from(["equals", "beginsWith"]), value=_some_texts),
    "reference": _fields(value=_some_texts),
    "campaign": _fields(value=_some_texts),
    "attribute": _fields(key=_some_texts, value=texts),
    "inSegment": _segments,
    "notInSegment": _segments,
    "nthEvent": _fields(n=_nths),
    "everyNthEvent": _fields(n=_nths),
    "countInPeriod": _fields(count=_windows, period=_periods()),
    "countSince": _fields(count=_windows, since=instants),
    "lifetimeEventValue": _compared(_near_amounts),
    "lifetimeEventThreshold": _fields(value=_near_amounts.map(abs).filter(bool)),
    "lifetimeSpend": _compared(_near_amounts),
    "orderTotal": _compared(_near_amounts),
    "taxTotal": _compared(_near_amounts),
    "shippingTotal": _compared(_near_amounts),
    "discountTotal": _compared(_near_amounts),
    "sku": _purchase_texts,
    "vendor": _purchase_texts,
    "category": _purchase_texts,
    "productType": _purchase_texts,
    "productQuantity": _compared(_counts, sku=_filters),
    "paymentAmount": _compared(_near_amounts, scheme=_filters, bank=_filters, bin=_filters),
    "bin": _purchase_texts,
    "bank": _purchase_texts,
    "scheme": _purchase_texts,
    "tag": _purchase_texts,
    "tagCount": _compared(_counts),
    "actionAmount": _compared(_near_amounts),
    "actionCount": _compared(_counts),
    "transactionAmount": _compared(_near_amounts),
    "pointsQuantity": _compared(_points),
    "previousBalance": _compared(_points),
    "balance": _compared(_points),
    "lifetimePoints": _compared(_points),
    "yearsSinceJoining": _compared(_counts),
    "expression": _fields(expression=st.sampled_from(EXPRESSIONS)),
}
"""Criterion → its fields but for the type."""


def criteria_fields() -> st.SearchStrategy[dict[str, Any]]:
    """The JSON of a criterion of any kind."""
    return st.sampled_from(sorted(GENERATED)).flatmap(
        lambda kind: GENERATED[kind].map(lambda fields: {"type": kind, **fields})
    )


def recorded_events() -> st.SearchStrategy[AnyEvent]:
    """Events of every type that rules assess."""
    return events() | st.integers(1, 300).map(anniversary)


def states() -> st.SearchStrategy[CustomerState]:
    """Customers with any past."""
    types = [str(event_type) for event_type in COUNTED_TYPES]
    return st.builds(
        lambda counts, values, earned, balance, memberships: replace(
            customer(balance=balance, memberships=memberships), totals=Totals(counts, values, earned)
        ),
        st.dictionaries(st.sampled_from(types), st.integers(0, 30)),
        st.dictionaries(st.sampled_from(types), amounts),
        st.integers(0, limits.POINTS_MAX),
        _points,
        st.dictionaries(
            st.sampled_from([SEGMENT, OTHER_SEGMENT]),
            st.sampled_from([None, START - timedelta(days=1), START + timedelta(days=1)]),
        ),
    )
