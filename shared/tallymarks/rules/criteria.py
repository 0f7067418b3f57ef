"""The registry of criteria: each is a small class that tells what it wants, what it saw, and whether they agree.

A new criterion is one class, its name in `Criterion`, its row in docs/rules.md, and its tests.
"""

from typing import Annotated

from pydantic import Field

from tallymarks.rules.criteria_expression import Expression
from tallymarks.rules.criteria_measures import (
    ActionAmount,
    ActionCount,
    Balance,
    LifetimePoints,
    PointsQuantityIs,
    PreviousBalance,
    TransactionAmount,
    YearsSinceJoining,
)
from tallymarks.rules.criteria_memory import (
    CountInPeriod,
    CountSince,
    EveryNthEvent,
    LifetimeEventThreshold,
    LifetimeEventValue,
    LifetimeSpend,
    NthEvent,
)
from tallymarks.rules.criteria_purchase import (
    Bank,
    Bin,
    Category,
    DiscountTotal,
    OrderTotal,
    PaymentAmount,
    ProductQuantity,
    ProductType,
    Scheme,
    ShippingTotal,
    Sku,
    Tag,
    TagCount,
    TaxTotal,
    Vendor,
)
from tallymarks.rules.criteria_shared import (
    AttributeEquals,
    Campaign,
    EveryEvent,
    InSegment,
    NameSpace,
    NotInSegment,
    Reference,
)
from tallymarks.rules.criterion import Check, CriterionBase, FoundBy

__all__ = ["Check", "Criterion", "CriterionBase", "FoundBy"]

SharedCriterion = EveryEvent | NameSpace | Reference | Campaign | AttributeEquals | InSegment | NotInSegment
"""On what every event has."""

MemoryCriterion = (
    NthEvent | EveryNthEvent | CountInPeriod | CountSince | LifetimeEventValue | LifetimeEventThreshold | LifetimeSpend
)
"""On what the customer has done so far."""

PurchaseCriterion = (
    OrderTotal
    | TaxTotal
    | ShippingTotal
    | DiscountTotal
    | Sku
    | Vendor
    | Category
    | ProductType
    | ProductQuantity
    | PaymentAmount
    | Bin
    | Bank
    | Scheme
    | Tag
    | TagCount
)
"""On orders and baskets."""

MeasureCriterion = (
    ActionAmount
    | ActionCount
    | TransactionAmount
    | PointsQuantityIs
    | PreviousBalance
    | Balance
    | LifetimePoints
    | YearsSinceJoining
)
"""On actions, transactions, points events and anniversaries."""

Criterion = Annotated[
    SharedCriterion | MemoryCriterion | PurchaseCriterion | MeasureCriterion | Expression,
    Field(discriminator="type"),
]
"""The registry of criteria."""
