"""Thousands of generated requests, good and bad: no fault of the service, no answer that its document does not tell.

Schemathesis reads the served document and makes requests out of it: the bounds of every field one by one (coverage),
random ones (fuzzing), and sequences that use what earlier answers gave (stateful).
"""

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import events, from_schema

from tallymarks.database import Database
from tallymarks.sql import ledger as ledger_sql
from tallymarks_api.main import ENDPOINTS
from tallymarks_assessor.batches import AssessmentFailed
from tests.integration.api.answers import listed
from tests.integration.api.given import EVENT_SEARCH, EVENTS, a_customer, a_rule, a_segment, action, batch, fresh_id
from tests.parts import ApiClient, Tenant, until

EXAMPLES_PER_CALL = 10
SEQUENCES = 15
NEVER_FITTING = {"POST /api/v1/events/reversals"}
"""Calls that name something which no answer has given: an order that was assessed, of the same customer."""


def settings(api: ApiClient) -> dict[str, Any]:
    """What Schemathesis is told: always the same requests, every check but those named here."""
    off = {"enabled": False}
    return {
        "base-url": api.base_url,
        "headers": api.headers,
        "seed": 1,
        "continue-on-failure": True,
        "generation": {
            "mode": "all",
            "max-examples": EXAMPLES_PER_CALL,
            "deterministic": True,
            "database": "none",
            "no-shrink": True,
        },
        "phases": {"stateful": {"generation": {"max-examples": SEQUENCES}}},
        # A request may be refused although it fits the document: for a taken address, an unknown segment, a date out of
        # range, two fields that exclude each other. Such a 400 is documented, and is not a failure.
        "checks": {"positive_data_acceptance": off},
        "operations": [
            # A batch is answered 200 as a whole; what is wrong with one of its events stands in that event's result.
            {"include-name": "POST /api/v1/events", "checks": {"negative_data_rejection": off}},
            # To the routes these last words could be a customerId, which PATCH takes, and refuses as no uuid.
            # Likewise a ruleId, which GET and PUT take.
            *(
                {"include-name": call, "checks": {check: off}}
                for call in (
                    "GET /api/v1/customers/events",
                    "GET /api/v1/customers/transactions",
                    "POST /api/v1/admin/rules/test",
                )
                for check in ("unsupported_method", "allow_header_conformance")
            ),
            # This one's last word could likewise be a ruleId.
            *(
                {"include-name": "POST /api/v1/admin/rules/simulate", "checks": {check: off}}
                for check in ("unsupported_method", "allow_header_conformance")
            ),
        ],
    }


@dataclass
class Report:
    """What came of a run."""

    failures: set[str] = field(default_factory=set)
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Call → status → how often it was answered."""

    def add(self, finished: events.ScenarioFinished) -> None:
        """Take in what one scenario sent, was answered, and found wrong."""
        recorder = finished.recorder
        for case_id, interaction in recorder.interactions.items():
            if interaction.response is not None:
                self.statuses[recorder.cases[case_id].value.operation.label][interaction.response.status_code] += 1
        for checked in recorder.checks.values():
            for check in checked:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    found = f"{recorder.label}: {failure.title}\n{failure.message}\n{check.failure_info.code_sample}"
                    self.failures.add(found)


def run(api: ApiClient) -> Report:
    """Send everything; this blocks, so it has a thread of its own."""
    config = schemathesis.Config.from_dict(settings(api))
    schema = schemathesis.openapi.from_url(f"{api.base_url}/swagger/v1/swagger.json", config=config)
    report = Report()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            report.add(event)
        elif isinstance(event, events.NonFatalError):
            report.failures.add(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return report


async def until_all_is_assessed(api: ApiClient) -> None:
    """Wait for what was accepted: events that come after it, of enough customers for every partition, are recorded."""
    last = [action(fresh_id()) for _ in range(20)]
    assert (await api.post(EVENTS, batch(*last))).status == 200

    async def are_recorded() -> bool:
        return all([await listed(api, EVENT_SEARCH, "events", eventId=event["eventId"]) for event in last])

    await until(are_recorded)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("assessing")
async def test_every_answer_is_one_that_the_document_tells_and_nothing_accepted_fails_later(
    api: ApiClient, database: Database, tenant: Tenant
) -> None:
    await a_customer(api, emailAddress="ada@example.org")
    segment_id = (await a_segment(api))["segmentId"]
    await a_rule(api, "order", {"type": "addToSegment", "segmentId": segment_id})
    report = await asyncio.to_thread(run, api)
    assert not report.failures, "\n\n".join(sorted(report.failures))
    assert set(report.statuses) == {f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS}
    for call, statuses in report.statuses.items():
        assert {status // 100 for status in statuses} == ({4} if call in NEVER_FITTING else {2, 4}), call
    await until_all_is_assessed(api)
    assert await listed(api, EVENT_SEARCH, "events", eventType="error", keyword=AssessmentFailed.code) == []
    async with database.transaction(tenant.tenant_id) as connection:
        assert await connection.fetch(ledger_sql.SELECT_DIFFERING_BALANCES, tenant.tenant_id, 10) == []
