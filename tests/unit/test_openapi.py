"""The OpenAPI document: valid, whole, and with every field of the page that the API follows.

The names below are written out from that page, so that no rename in the models can change both.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tallymarks import limits
from tallymarks.credentials import Role
from tallymarks_api import openapi
from tallymarks_api.calls import AnyEndpoint
from tallymarks_api.main import ENDPOINTS

DOCUMENT: dict[str, Any] = openapi.document(ENDPOINTS)
endpoints = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NAMED = words(
    "customerId tenantId firstName lastName displayName emailAddress contactPhone externalReference externalStatus"
)
ATTRIBUTES = words("attributes attributes[].key attributes[].name attributes[].value")
OPTIONS = words("mobileNumber optinSms optinEmail acceptTerms dateOfBirth")
CUSTOMER = NAMED | ATTRIBUTES | OPTIONS | words("isAccountLocked createdAt changedAt")
SEARCHED = words("customerId eventId eventType keyword fromAt toAt limit offsetKey")
MEMBERSHIP = words("segmentId tenantId name description displayName createdAt changedAt sourceEventId expiryDateTime")


@dataclass(frozen=True)
class PageCall:
    """One call of the page: what its tables and samples list."""

    method: str
    path: str
    route: frozenset[str] = frozenset()
    query: frozenset[str] = frozenset()
    request: frozenset[str] = frozenset()
    answer: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def listed(name: str, fields: frozenset[str]) -> frozenset[str]:
    """The fields of a page of results."""
    return frozenset({name, "offsetKey", *(f"{name}[].{field}" for field in fields)})


REGISTRATION = (NAMED - {"tenantId"}) | ATTRIBUTES | OPTIONS
PAGE = (
    PageCall("GET", "/api/v1/customers/{customerId}", route=words("customerId"), answer=CUSTOMER),
    PageCall(
        "PATCH",
        "/api/v1/customers/{customerId}",
        route=words("customerId"),
        request=NAMED | ATTRIBUTES | OPTIONS | {"isAccountLocked"},
        answer=CUSTOMER,
    ),
    PageCall(
        "GET",
        "/api/v1/customers",
        query=words("keyword limit offsetKey"),
        answer=listed("customers", NAMED | words("createdAt changedAt")),
    ),
    PageCall("POST", "/api/v1/customers", request=REGISTRATION, answer=CUSTOMER),
    PageCall("POST", "/api/v1/events/redemptions", request=REGISTRATION, answer=CUSTOMER),
    PageCall(
        "GET",
        "/api/v1/customers/{customerId}/balance",
        route=words("customerId"),
        answer=words("tenantId customerId pointsSegment amount changedAt"),
    ),
    PageCall(
        "GET",
        "/api/v1/customers/events",
        query=SEARCHED,
        answer=listed("events", words("eventId tenantId customerId createdAt eventType nameSpace reference")),
    ),
    PageCall(
        "GET",
        "/api/v1/customers/transactions",
        query=SEARCHED,
        answer=listed(
            "customerTransactions",
            words(
                "transactionId eventId tenantId customerId assessmentRuleId createdAt checkSum nameSpace description"
                " amount externalReference"
            ),
        ),
    ),
    PageCall(
        "GET",
        "/api/v1/customers/{customerId}/segments",
        route=words("customerId"),
        query=words("limit offsetKey"),
        answer=listed("segments", MEMBERSHIP),
    ),
    PageCall(
        "PUT",
        "/api/v1/customers/{customerId}/segments",
        route=words("customerId"),
        request=words("segmentId"),
        answer=MEMBERSHIP,
    ),
    PageCall("DELETE", "/api/v1/customers/{customerId}/segments/{segmentId}", route=words("customerId segmentId")),
)
calls = pytest.mark.parametrize("call", PAGE, ids=str)


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def operations() -> Iterator[dict[str, Any]]:
    for of_path in DOCUMENT["paths"].values():
        yield from of_path.values()


def fields(schema: dict[str, Any], prefix: str = "") -> set[str]:
    """The names of all fields of a schema, those of a list's items behind `[].`."""
    if "$ref" in schema:
        return fields(DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], prefix)
    found = {name for option in schema.get("anyOf", []) for name in fields(option, prefix)}
    if "items" in schema:
        found |= fields(schema["items"], f"{prefix}[]")
    for name, form in schema.get("properties", {}).items():
        place = f"{prefix}.{name}" if prefix else name
        found |= {place} | fields(form, place)
    return found


def body_of(content: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body, which is JSON and nothing else."""
    assert list(content["content"]) == ["application/json"]
    schema: dict[str, Any] = content["content"]["application/json"]["schema"]
    return schema


def parameters(method: str, path: str, place: str) -> dict[str, dict[str, Any]]:
    return {
        parameter["name"]: parameter
        for parameter in operation(method, path).get("parameters", [])
        if parameter["in"] == place
    }


def parts(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object within a part of the document."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from parts(child)


def resolved(form: dict[str, Any]) -> dict[str, Any]:
    """A schema with all that it refers to."""
    if "$ref" in form:
        name = form["$ref"].rsplit("/", 1)[1]
        return resolved(DOCUMENT["components"]["schemas"][name])
    return {key: resolved_all(value) for key, value in form.items()}


def resolved_all(value: Any) -> Any:
    if isinstance(value, dict):
        return resolved(value)
    return [resolved_all(one) for one in value] if isinstance(value, list) else value


class TestDocument:
    def test_is_valid_openapi_3_1(self) -> None:
        assert DOCUMENT["openapi"].startswith("3.1.")
        OpenAPIV31SpecValidator(DOCUMENT).validate()

    def test_has_every_endpoint_and_nothing_else(self) -> None:
        served = {(endpoint.path, endpoint.method.lower()) for endpoint in ENDPOINTS}
        assert len(served) == len(ENDPOINTS)
        assert {(path, method) for path, of_path in DOCUMENT["paths"].items() for method in of_path} == served

    def test_operation_ids_are_there_once(self) -> None:
        names = Counter(one["operationId"] for one in operations())
        assert set(names.values()) == {1}
        assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)

    def test_every_operation_is_described(self) -> None:
        for one in operations():
            assert one["tags"]
            assert one["summary"]
            assert one["description"]

    def test_every_reference_leads_somewhere(self) -> None:
        names = {part["$ref"] for part in parts(DOCUMENT) if "$ref" in part}
        parts_named = [(kind, name) for kind in ("schemas", "headers") for name in DOCUMENT["components"][kind]]
        assert names <= {f"#/components/{kind}/{name}" for kind, name in parts_named}

    def test_every_call_needs_the_three_credentials_together(self) -> None:
        names = {"x-tenant-id", "x-api-key", "x-api-secret"}
        schemes = DOCUMENT["components"]["securitySchemes"]
        assert {(scheme["type"], scheme["in"], scheme["name"]) for scheme in schemes.values()} == {
            ("apiKey", "header", name) for name in names
        }
        assert [set(one) for one in DOCUMENT["security"]] == [names]
        assert all("security" not in one for one in operations())

    def test_requests_refuse_unknown_fields(self) -> None:
        for one in operations():
            if "requestBody" in one:
                for part in parts(resolved(body_of(one["requestBody"]))):
                    if part.get("type") == "object":
                        assert part["additionalProperties"] is False

    def test_no_object_has_as_many_fields_as_are_refused(self) -> None:
        schemas = DOCUMENT["components"]["schemas"].values()
        assert max(len(schema.get("properties", {})) for schema in schemas) <= limits.OBJECT_KEYS_MAX

    def test_names_are_camel_case_everywhere(self) -> None:
        for schema in DOCUMENT["components"]["schemas"].values():
            assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name) for name in schema.get("properties", {}))


@endpoints
class TestEndpoint:
    def test_every_answer_and_every_refusal_is_documented(self, endpoint: AnyEndpoint) -> None:
        responses = operation(endpoint.method, endpoint.path)["responses"]
        expected = {400, 401, 429, 500, 503, *endpoint.answers, *(refusal.status for refusal in endpoint.refusals)}
        if endpoint.body is not None:
            expected |= {408, 413, 415}
        if endpoint.role is Role.ADMIN:
            expected |= {403}
        assert set(responses) == {str(status) for status in expected}
        for refusal in endpoint.refusals:
            assert refusal.code in responses[str(refusal.status)]["description"]

    def test_every_refusal_has_the_one_form_of_errors(self, endpoint: AnyEndpoint) -> None:
        for status, response in operation(endpoint.method, endpoint.path)["responses"].items():
            if int(status) not in endpoint.answers:
                assert fields(body_of(response)) == words(
                    "code message detail errors errors[].message errors[].param errors[].value"
                )

    def test_tells_when_to_try_again_and_the_rate_of_the_key(self, endpoint: AnyEndpoint) -> None:
        rate = {"RateLimit", "RateLimit-Policy"}
        for status, response in operation(endpoint.method, endpoint.path)["responses"].items():
            headers = response["headers"]
            assert set(headers) == (set() if status == "401" else rate) | (
                {"Retry-After"} if status in {"429", "503"} else set()
            )
            assert all(header["required"] for name, header in headers.items() if name == "Retry-After")
        assert "TooManyRequests" in operation(endpoint.method, endpoint.path)["responses"]["429"]["description"]

    def test_the_route_is_documented_as_it_is_served(self, endpoint: AnyEndpoint) -> None:
        in_route = parameters(endpoint.method, endpoint.path, "path")
        assert set(in_route) == set(re.findall(r"{(\w+)}", endpoint.path))
        assert all(parameter["required"] for parameter in in_route.values())

    def test_no_parameter_can_be_null_and_none_of_the_query_is_required(self, endpoint: AnyEndpoint) -> None:
        for parameter in operation(endpoint.method, endpoint.path).get("parameters", []):
            for part in parts(resolved(parameter["schema"])):
                assert part.get("type") != "null"
                assert part.get("const", "") is not None
                assert None not in part.get("enum", [])
                assert part.get("default", "") is not None
            assert parameter["required"] is (parameter["in"] == "path")

    def test_a_body_is_documented_where_one_is_read(self, endpoint: AnyEndpoint) -> None:
        documented = operation(endpoint.method, endpoint.path)
        assert ("requestBody" in documented) is (endpoint.body is not None)
        if endpoint.body is not None:
            assert documented["requestBody"]["required"] is True
            assert fields(body_of(documented["requestBody"]))


OURS = {"customerTransactions[].assessmentRuleVersion"}
"""What we answer beyond the page."""


@calls
class TestPage:
    def test_has_its_parameters(self, call: PageCall) -> None:
        assert set(parameters(call.method, call.path, "path")) == call.route
        assert set(parameters(call.method, call.path, "query")) == call.query

    def test_takes_every_field(self, call: PageCall) -> None:
        documented = operation(call.method, call.path)
        assert ("requestBody" in documented) is bool(call.request)
        if call.request:
            assert call.request <= fields(body_of(documented["requestBody"]))

    def test_answers_every_field(self, call: PageCall) -> None:
        answered = fields(body_of(operation(call.method, call.path)["responses"]["200"]))
        assert call.answer <= answered
        if call.path != "/api/v1/events/redemptions":
            assert answered - OURS == call.answer

    def test_can_refuse_as_the_page_says(self, call: PageCall) -> None:
        told = operation(call.method, call.path)["responses"]["400"]["description"]
        if call.request == REGISTRATION or call.method == "PATCH":
            assert "EmailAlreadyExists" in told
        if call.method == "PATCH":
            assert "CustomerNotFound" in told


def test_limits_of_a_page_are_documented() -> None:
    limit = parameters("GET", "/api/v1/customers", "query")["limit"]["schema"]
    assert {name: limit[name] for name in ("type", "minimum", "maximum", "default")} == {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "default": 50,
    }


class TestSwaggerUi:
    def test_the_files_of_the_page_are_in_the_package(self) -> None:
        named = re.findall(r'"/swagger/assets/([^"]+)"', openapi.PAGE)
        assert set(named) == {"favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js"}
        for name in named:
            assert (openapi.swagger_ui_files() / name).stat().st_size > 0

    def test_is_version_5_which_knows_openapi_3_1(self) -> None:
        bundle = (openapi.swagger_ui_files() / "swagger-ui-bundle.js").read_text()
        versions = set(re.findall(r'PACKAGE_VERSION:"([0-9.]+)"', bundle))
        assert [version.split(".")[0] for version in versions] == ["5"]

    def test_the_page_fetches_nothing_from_elsewhere(self) -> None:
        assert "//" not in openapi.PAGE + openapi.START_SCRIPT
        assert openapi.CONTENT_SECURITY_POLICY.startswith("default-src 'self';")
        assert f'url: "{openapi.DOCUMENT_PATH}"' in openapi.START_SCRIPT
        assert (openapi.DOCUMENT_PATH, openapi.PAGE_PATH) == ("/swagger/v1/swagger.json", "/swagger/index.html")
