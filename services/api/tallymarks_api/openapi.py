"""The OpenAPI 3.1 document, made from the route table that serves the API, and the page that shows it."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path

import orjson
from aiohttp import web
from openapi_pydantic import OpenAPI
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from tallymarks.credentials import Role
from tallymarks.errors import (
    BodyTooLarge,
    ErrorBody,
    Forbidden,
    InternalError,
    InvalidRequest,
    Refusal,
    RequestTimeout,
    RouteNotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from tallymarks_api.auth import KEY_HEADER, SECRET_HEADER, TENANT_HEADER
from tallymarks_api.calls import AnyEndpoint
from tallymarks_api.edge import RETRY_AFTER_SECONDS

DOCUMENT_PATH = "/swagger/v1/swagger.json"
PAGE_PATH = "/swagger/index.html"
REF_TEMPLATE = "#/components/schemas/{model}"
EVERYWHERE: tuple[type[Refusal], ...] = (InvalidRequest, Unauthorized, TooManyRequests, InternalError, Unavailable)
WITH_A_BODY: tuple[type[Refusal], ...] = (BodyTooLarge, UnsupportedMediaType, RequestTimeout)

RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}, "required": True}}
RATE_LIMIT_HEADERS = {
    "RateLimit-Policy": 'How many requests (q) the key may make in how many seconds (w), such as "key";q=100;w=1.',
    "RateLimit": 'How many (r) are left of them, and in how many seconds (t) all are again, such as "key";r=42;t=1.',
}
"""Of the IETF's draft "RateLimit header fields for HTTP", where an operator limits the rate."""

Json = dict[str, object]
Key = tuple[str, JsonSchemaMode]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Tallymarks Customer API</title>
<link rel="icon" href="/swagger/assets/favicon-32x32.png">
<link rel="stylesheet" href="/swagger/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/swagger/assets/swagger-ui-bundle.js"></script>
<script src="/swagger/start.js"></script>
</body>
</html>
"""
START_SCRIPT = """SwaggerUIBundle({
  url: "/swagger/v1/swagger.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"


def document(endpoints: Sequence[AnyEndpoint]) -> Json:
    """Make the document; raises when it is no valid OpenAPI 3.1."""
    adapters: dict[Key, TypeAdapter[object]] = {("error", "serialization"): TypeAdapter(ErrorBody)}
    for endpoint in endpoints:
        adapters.update(_adapters(endpoint))
    schemas, definitions = TypeAdapter.json_schemas(
        [(name, mode, adapter) for (name, mode), adapter in adapters.items()], ref_template=REF_TEMPLATE
    )
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas, definitions)
    made: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tallymarks Customer API",
            "version": version("tallymarks"),
            "description": "Post customer events, read points balances, transactions, segments and customers. "
            "Every error has the same form; a 5xx is safe to send again.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "headers": {
                name: {"description": description, "schema": {"type": "string"}}
                for name, description in RATE_LIMIT_HEADERS.items()
            },
            "securitySchemes": {
                header: {"type": "apiKey", "in": "header", "name": header}
                for header in (TENANT_HEADER, KEY_HEADER, SECRET_HEADER)
            },
        },
        "security": [{header: [] for header in (TENANT_HEADER, KEY_HEADER, SECRET_HEADER)}],
    }
    OpenAPI.model_validate(made)
    return made


def _name(endpoint: AnyEndpoint, part: str) -> str:
    return f"{endpoint.method} {endpoint.path} {part}"


def _adapters(endpoint: AnyEndpoint) -> Iterable[tuple[Key, TypeAdapter[object]]]:
    yield (_name(endpoint, "path"), "validation"), TypeAdapter(endpoint.path_parameters)
    yield (_name(endpoint, "query"), "validation"), TypeAdapter(endpoint.query)
    if endpoint.body is not None:
        yield (_name(endpoint, "body"), "validation"), endpoint.body
    for status, body in endpoint.answers.items():
        yield (_name(endpoint, str(status)), "serialization"), TypeAdapter(body)


def _operation(endpoint: AnyEndpoint, schemas: Mapping[Key, Json], definitions: Json) -> Json:
    parameters = [
        *_parameters("path", schemas[_name(endpoint, "path"), "validation"], definitions),
        *_parameters("query", schemas[_name(endpoint, "query"), "validation"], definitions),
    ]
    operation: Json = {
        "operationId": endpoint.handle.__name__ if endpoint.handle.__name__ != "post_event" else _posting(endpoint),
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": (endpoint.handle.__doc__ or "")
        + ("\n\nNeeds a key of role `admin`." if endpoint.role is Role.ADMIN else ""),
        "responses": _responses(endpoint, schemas),
    }
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        content = {"application/json": {"schema": schemas[_name(endpoint, "body"), "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _posting(endpoint: AnyEndpoint) -> str:
    return "post_" + endpoint.path.rsplit("/", 1)[1]


def _parameters(place: str, schema: Json, definitions: Json) -> Iterable[Json]:
    """Turn the fields of a model into parameters."""
    resolved = _resolve(schema, definitions)
    properties, required = resolved.get("properties", {}), resolved.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise TypeError("a model's schema has properties")
    for name, form in properties.items():
        described = {"description": form["description"]} if "description" in form else {}
        yield {"name": name, "in": place, "required": name in required, **described, "schema": _not_null(form)}


def _not_null(form: Json) -> Json:
    """Leave null out: a query string has no way to say it."""
    given = {key: value for key, value in form.items() if key != "description"}
    options = given.get("anyOf")
    if not isinstance(options, list) or {"type": "null"} not in options:
        return given
    rest: Json
    (rest,) = [option for option in options if option != {"type": "null"}]
    return rest


def _resolve(schema: Json, definitions: Json) -> Json:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    known = definitions["$defs"]
    if not isinstance(known, dict):
        raise TypeError("definitions are by name")
    found: Json = known[reference.rsplit("/", 1)[1]]
    return found


def _responses(endpoint: AnyEndpoint, schemas: Mapping[Key, Json]) -> Json:
    responses: Json = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "headers": _headers(status),
            "content": {"application/json": {"schema": schemas[_name(endpoint, str(status)), "serialization"]}},
        }
        for status in endpoint.answers
    }
    refusals = [*endpoint.refusals, *EVERYWHERE]
    if endpoint.body is not None:
        refusals.extend(WITH_A_BODY)
    if endpoint.role is Role.ADMIN:
        refusals.append(Forbidden)
    for status in sorted({refusal.status for refusal in refusals}):
        codes = sorted({refusal.code for refusal in refusals if refusal.status == status})
        responses[str(status)] = {
            "description": "Refused: " + ", ".join(codes),
            "headers": _headers(status),
            "content": {"application/json": {"schema": schemas["error", "serialization"]}},
        }
    return responses


def _headers(status: int) -> Json:
    """Give the headers of an answer; who cannot be told from his credentials has no rate."""
    of_rate = {} if status == Unauthorized.status else RATE_LIMIT_HEADERS
    to_wait = RETRY_AFTER if status in RETRY_AFTER_SECONDS else {}
    return {**{name: {"$ref": f"#/components/headers/{name}"} for name in of_rate}, **to_wait}


def add_swagger_routes(app: web.Application, endpoints: Sequence[AnyEndpoint]) -> None:
    """Serve the document and the page, whose scripts come out of an installed package: nothing is fetched elsewhere."""
    body = orjson.dumps(document(endpoints))
    assets = {path.name: path for path in swagger_ui_files().iterdir()}

    async def serve_document(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def serve_page(_: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return web.Response(text=PAGE, content_type="text/html", headers=headers)

    async def serve_script(_: web.Request) -> web.Response:
        return web.Response(text=START_SCRIPT, content_type="text/javascript")

    async def serve_asset(request: web.Request) -> web.FileResponse:
        if (name := request.match_info["name"]) not in assets:
            raise RouteNotFound.of("path", request.path)
        return web.FileResponse(assets[name])

    app.router.add_route("GET", DOCUMENT_PATH, serve_document)
    app.router.add_route("GET", PAGE_PATH, serve_page)
    app.router.add_route("GET", "/swagger/start.js", serve_script)
    app.router.add_route("GET", "/swagger/assets/{name}", serve_asset)


def swagger_ui_files() -> Path:
    """Find the packaged Swagger UI 5 (the version that knows OpenAPI 3.1).

    Only its files are wanted: importing the package would ask for the web framework that it was made for.
    """
    spec = importlib.util.find_spec("drf_spectacular_sidecar")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("drf_spectacular_sidecar, which carries Swagger UI, is not installed")
    return Path(spec.submodule_search_locations[0]) / "static" / "drf_spectacular_sidecar" / "swagger-ui-dist"
