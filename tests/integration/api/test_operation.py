"""What an operator and a reader of the documentation meet: health, metrics, the OpenAPI document and its page."""

import re

from openapi_spec_validator import OpenAPIV31SpecValidator

from tallymarks_api.main import ENDPOINTS
from tests.integration.api.answers import refused
from tests.integration.api.given import CUSTOMERS, fresh_id
from tests.parts import Answered, ApiClient

PAGE = "/swagger/index.html"
DOCUMENT = "/swagger/v1/swagger.json"


async def open_to_all(api: ApiClient, path: str, method: str = "GET") -> Answered:
    """Call without credentials."""
    return await api.call(method, path, headers={})


async def test_health_and_readiness_are_told_without_credentials(api: ApiClient) -> None:
    live, ready = await open_to_all(api, "/health/live"), await open_to_all(api, "/health/ready")
    assert (live.status, live.body) == (200, {"status": "live"})
    assert (ready.status, ready.body) == (200, {"status": "ready", "parts": {"broker": "up", "database": "up"}})


async def test_metrics_count_requests_by_route_and_never_by_what_a_caller_wrote(api: ApiClient) -> None:
    unknown = fresh_id()

    async def counted() -> dict[str, float]:
        text = (await open_to_all(api, "/metrics")).body
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("tallymarks_requests_total{"))
        return {sample: float(value) for sample, value in samples}

    before = await counted()
    await api.get(CUSTOMERS)
    await api.get(f"{CUSTOMERS}/{unknown}")
    await open_to_all(api, f"/nowhere/{unknown}")
    after = await counted()
    for labels in (
        'method="GET",path="/api/v1/customers",status="200"',
        'method="GET",path="/api/v1/customers/{customerId}",status="404"',
        'method="GET",path="-",status="404"',
    ):
        sample = f"tallymarks_requests_total{{{labels}}}"
        assert after[sample] == before.get(sample, 0) + 1
    assert unknown not in str(after)


async def test_the_document_is_valid_and_has_every_call(api: ApiClient) -> None:
    answered = await open_to_all(api, DOCUMENT)
    assert (answered.status, answered.headers["Content-Type"]) == (200, "application/json")
    OpenAPIV31SpecValidator(answered.body).validate()
    documented = {(method, path) for path, item in answered.body["paths"].items() for method in item}
    assert documented == {(endpoint.method.lower(), endpoint.path) for endpoint in ENDPOINTS}


async def test_the_page_loads_nothing_from_elsewhere(api: ApiClient) -> None:
    page = await open_to_all(api, PAGE)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    references = re.findall(r'(?:src|href)="([^"]*)"', page.body)
    start = await open_to_all(api, "/swagger/start.js")
    assert len(references) == 4
    assert "/swagger/start.js" in references
    assert DOCUMENT in start.body
    for text in (page.body, start.body):
        assert not re.search(r"https?:|[\"'(]//", text)
    for reference in references:
        assert reference.startswith("/swagger/"), reference
        async with api.session.get(api.base_url + reference) as response:
            assert (response.status, len(await response.read()) > 100) == (200, True), reference


async def test_no_other_file_is_served_as_an_asset(api: ApiClient) -> None:
    for name in ("nothing.js", "..", "%2e%2e%2fpackage.json", "", "..%2f..%2f__init__.py"):
        answered = await open_to_all(api, f"/swagger/assets/{name}")
        refused(answered, 404, "NotFound")


async def test_what_is_only_read_takes_no_other_method(api: ApiClient) -> None:
    for path in (PAGE, DOCUMENT, "/health/live", "/health/ready", "/metrics"):
        answered = await open_to_all(api, path, "POST")
        refused(answered, 405, "MethodNotAllowed", "method", "POST")
        assert "GET" in answered.headers["Allow"].split(", ")
