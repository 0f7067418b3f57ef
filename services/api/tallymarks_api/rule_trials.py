"""Trying rules: what they make of a made-up event, and what would be written were it posted. Nothing is."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from tallymarks import ledger, memberships, situations
from tallymarks.credentials import Role
from tallymarks.database import Connection
from tallymarks.errors import (
    AccountLocked,
    BalanceOutOfRange,
    CustomerNotFound,
    InsufficientPoints,
    InvalidRequest,
    SegmentNotFound,
    TooManyEffects,
    Unauthorized,
)
from tallymarks.events import AnyEvent, BasketEvent, EventType, RedemptionEvent
from tallymarks.ledger import Transaction
from tallymarks.rule_sets import with_rules_in_test
from tallymarks.rules.assessment import Situation, Step, assess
from tallymarks.rules.basket import assess_basket, order_of
from tallymarks.rules.explanation import Explanation, explain
from tallymarks.rules.rule import NewRule, Rule, RuleContent
from tallymarks.rules.rule_set import RuleSet
from tallymarks.triggers import Trigger, triggers_of
from tallymarks.values import Instant, Model
from tallymarks_api.baskets import BasketOffer, offer_of
from tallymarks_api.calls import Answer, Call, Endpoint, Nothing, Parts
from tallymarks_api.edge import validated
from tallymarks_api.made_up import MADE_UP_FORMS, NOT_GIVEN, MadeUpEvent, TriedCustomer, posted
from tallymarks_api.redemptions import require_redeemable
from tallymarks_api.rules import RULES, TAG, require_segments


class Trial(Model):
    """What is tried, and on what."""

    event: MadeUpEvent
    customer: TriedCustomer | None = None
    """Null: the event's customer, as he is."""
    rule: NewRule | None = None
    """Tried alone, whatever its status; null: the saved rules that are active or in status test."""


TrialCall = Call[Nothing, Nothing, Trial]


class _TrialForm(Trial):
    """A trial, its event unread."""

    event: Any


def read_trial(data: object) -> Trial:
    """Read a trial, its event by its type first, so that what is wrong is named by its place in the request alone.

    Raises:
        InvalidRequest: with each field that is wrong.
    """
    trial = validated(_TrialForm, data)
    event_type = trial.event.get("eventType") if isinstance(trial.event, dict) else None
    form = MADE_UP_FORMS.get(event_type) if isinstance(event_type, str) else None
    if form is None:
        types = ", ".join(MADE_UP_FORMS)
        raise InvalidRequest.of("event.eventType", event_type, f"eventType must be one of {types}.")
    return trial.model_copy(update={"event": validated(form, trial.event, under=["event"])})


class ExplainedEvent(Explanation):
    """How the event, or a points event that would follow from it, would be assessed; no transaction has an id."""

    event_id: UUID
    event_type: EventType


class TriedTransaction(Model):
    """A points transaction that would be written."""

    event_id: UUID
    event_type: EventType
    assessment_rule_id: UUID | None
    """Null for what the event itself does: a redemption, or an adjustment by hand."""
    assessment_rule_version: int | None
    created_at: Instant
    name_space: str | None
    description: str | None
    amount: int
    external_reference: str | None


class TriedBalance(Model):
    """The balance before and after."""

    before: int
    after: int


class JoinedSegment(Model):
    """A segment that the customer would join, or where the lapse would be written anew."""

    segment_id: UUID
    expiry_date_time: Instant | None
    """When the membership would lapse; null is never."""


class LeftSegment(Model):
    """A segment that the customer would leave."""

    segment_id: UUID


class TriedTrigger(Model):
    """An action event that would come."""

    event_id: UUID
    due_at: Instant
    name_space: str
    reference: str | None


class WouldWrite(Model):
    """What would be written were the event posted now; nothing for a basket."""

    transactions: tuple[TriedTransaction, ...]
    balance: TriedBalance
    joined: tuple[JoinedSegment, ...]
    left: tuple[LeftSegment, ...]
    """Left before what is joined: a segment that is in both is joined anew."""
    triggers: tuple[TriedTrigger, ...]


class TrialOutcome(Model):
    """What the rules make of the event."""

    tenant_id: UUID
    customer_id: UUID
    explanation: tuple[ExplainedEvent, ...]
    """Of the event, and of each points event that would follow; of a basket, then of the order that it would be."""
    would_write: WouldWrite
    offer: BasketOffer | None
    """What a basket would be answered; null for other events."""


async def try_rules(call: TrialCall) -> Answer:
    """Answer what rules make of a made-up event, and what would be written were it posted now. Nothing is written.

    A redemption that the account does not cover is refused as when it is posted, and so is an event that could not be
    assessed.
    """
    now, trial = call.parts.now(), call.body
    made_up, customer_id = _customer(trial, call.parts)
    event = posted(trial.event, event_id=call.parts.new_id(), customer_id=customer_id, now=now)
    async with call.parts.database.reading(call.tenant_id) as connection:
        rule_set = await _rules(connection, call, now)
        accounts = {} if made_up else await ledger.read_accounts(connection, call.tenant_id, [customer_id])
        account = accounts.get(customer_id)
        if account is None and trial.customer is not None and not made_up:
            raise CustomerNotFound.of("customer.customerId", str(customer_id))
        assessed = order_of(event) if isinstance(event, BasketEvent) else event
        state = made_up.state(customer_id, now) if made_up else None
        situation = await situations.look(connection, call.tenant_id, assessed, rule_set, now, state)
    if isinstance(event, BasketEvent):
        return Answer(_tried_basket(call.tenant_id, event, situation, rule_set, now))
    if isinstance(event, RedemptionEvent):
        is_locked = account is not None and account.is_locked
        require_redeemable(event, situation.customer.balance, is_locked=is_locked)
    return Answer(_tried(call, event, situation, rule_set, now))


def _customer(trial: Trial, parts: Parts) -> tuple[TriedCustomer | None, UUID]:
    """Give the customer where one is made up, and whose event it is.

    Raises:
        InvalidRequest: the event is another customer's.
    """
    named = trial.customer.customer_id if trial.customer else None
    of_event = None if trial.event.customer_id == NOT_GIVEN else trial.event.customer_id
    if named is not None and of_event not in (None, named):
        raise InvalidRequest.of("event.customerId", str(of_event), "The event is another customer's.")
    return None if named else trial.customer, named or of_event or parts.new_id()


async def _rules(connection: Connection, call: TrialCall, now: datetime) -> RuleSet:
    """Give the rule of the body, or those that are saved.

    Raises:
        SegmentNotFound: the rule of the body names a segment that there is not.
    """
    wanted = call.body.rule
    if wanted is None:
        active = await call.parts.rule_sets.current(connection, call.tenant_id)
        if active is None:
            raise Unauthorized
        return await with_rules_in_test(connection, call.tenant_id, active)
    segments = await require_segments(connection, call.tenant_id, wanted, "rule.")
    rule = Rule(
        **{name: getattr(wanted, name) for name in RuleContent.model_fields},
        rule_id=wanted.rule_id or call.parts.new_id(),
        tenant_id=call.tenant_id,
        version=1,
        effective_from=None,
        effective_to=None,
        status=wanted.status,
        created_at=now,
        changed_at=now,
    )
    return RuleSet.of_any_status(0, [rule], segments)


def _tried(call: TrialCall, event: AnyEvent, situation: Situation, rule_set: RuleSet, now: datetime) -> TrialOutcome:
    """Assess the event as the assessor would, and gather what it would write."""
    tenant_id, new_id = call.tenant_id, call.parts.new_id
    before = situation.customer.balance
    transactions: list[Transaction] = []
    if isinstance(event, RedemptionEvent):
        transactions.append(ledger.debit(tenant_id, event, new_id()))
        debited = replace(situation.customer, balance=before - event.redemption.points)
        situation = situation._replace(customer=debited)
    assessment = assess(event, situation, rule_set, now)
    changes, triggers = memberships.Changes(), list[Trigger]()
    for step in assessment.steps:
        effects = step.outcome.effects if step.outcome else ()
        transactions.extend(ledger.transactions_of(tenant_id, step.event, effects, new_id))
        changes.add(event.customer_id, step.event.event_id, effects)
        triggers.extend(triggers_of(step.event, effects))
    return TrialOutcome(
        tenant_id=tenant_id,
        customer_id=event.customer_id,
        explanation=_explained(assessment.steps),
        would_write=WouldWrite(
            transactions=tuple(map(_tried_transaction, transactions)),
            balance=TriedBalance(before=before, after=assessment.customer.balance),
            joined=tuple(
                JoinedSegment(segment_id=segment_id, expiry_date_time=lapses_at)
                for (_, segment_id), (_, lapses_at) in sorted(changes.joined.items())
            ),
            left=tuple(
                LeftSegment(segment_id=segment_id)
                for _, segment_id in sorted(changes.left)
                if segment_id in situation.customer.memberships
            ),
            triggers=tuple(map(_tried_trigger, triggers)),
        ),
        offer=None,
    )


def _tried_basket(
    tenant_id: UUID, basket: BasketEvent, situation: Situation, rule_set: RuleSet, now: datetime
) -> TrialOutcome:
    assessment = assess_basket(basket, situation, rule_set, now)
    balance = situation.customer.balance
    of_basket = ExplainedEvent(
        event_id=basket.event_id,
        event_type=EventType.BASKET,
        **dict(explain(basket.event_id, assessment.offered)),
    )
    return TrialOutcome(
        tenant_id=tenant_id,
        customer_id=basket.customer_id,
        explanation=(of_basket, *_explained(assessment.ordered.steps)),
        would_write=WouldWrite(
            transactions=(), balance=TriedBalance(before=balance, after=balance), joined=(), left=(), triggers=()
        ),
        offer=offer_of(tenant_id, basket, assessment),
    )


def _explained(steps: Iterable[Step]) -> tuple[ExplainedEvent, ...]:
    return tuple(
        ExplainedEvent(
            event_id=step.event.event_id,
            event_type=EventType(step.event.event_type),
            **dict(explain(step.event.event_id, step.outcome, depth=step.depth, source_event_id=step.source_event_id)),
        )
        for step in steps
    )


def _tried_transaction(row: Transaction) -> TriedTransaction:
    return TriedTransaction.model_validate({name: getattr(row, name) for name in TriedTransaction.model_fields})


def _tried_trigger(trigger: Trigger) -> TriedTrigger:
    return TriedTrigger(
        event_id=trigger.trigger_id,
        due_at=trigger.due_at,
        name_space=trigger.name_space,
        reference=trigger.reference,
    )


ENDPOINTS = (
    Endpoint(
        "POST", f"{RULES}/test", TAG, "Try rules on a made-up event", try_rules,
        answers={200: TrialOutcome}, path_parameters=Nothing, query=Nothing, body=TypeAdapter(Trial), read=read_trial,
        role=Role.ADMIN,
        refusals=(CustomerNotFound, SegmentNotFound, AccountLocked, InsufficientPoints, BalanceOutOfRange,
                  TooManyEffects),
    ),
)  # fmt: skip
