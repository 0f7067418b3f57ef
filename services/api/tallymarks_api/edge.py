"""The edge of the service: an HTTP request becomes a call, an answer or an error becomes an HTTP response."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from functools import cache, partial
from typing import TypeVar
from uuid import UUID

import jiter
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, TypeAdapter, ValidationError

from tallymarks import health, limits
from tallymarks.credentials import Role
from tallymarks.database import TRANSIENT_ERRORS
from tallymarks.errors import (
    BodyTooLarge,
    ErrorBody,
    FieldError,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    Refusal,
    RequestTimeout,
    RouteNotFound,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
    shown,
)
from tallymarks.logs import reason_of
from tallymarks_api.admission import Admission, Allowance
from tallymarks_api.auth import Authenticator
from tallymarks_api.calls import Answer, AnyEndpoint, B, Call, Caller, Endpoint, P, Parts, Q

log = structlog.get_logger(__name__)

REQUESTS = Counter("tallymarks_requests", "Requests answered", ["method", "path", "status"])
REQUEST_SECONDS = Histogram("tallymarks_request_seconds", "Time to the answer", ["method", "path"])
TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
DISCRIMINATORS = ("type", "eventType")
RETRY_AFTER_SECONDS = {
    Unavailable.status: limits.RETRY_AFTER_SECONDS,
    TooManyRequests.status: limits.RATE_LIMIT_WINDOW_SECONDS,
}

M = TypeVar("M", bound=BaseModel)


def handler_of(
    endpoint: Endpoint[P, Q, B], parts: Parts, authenticator: Authenticator, admission: Admission
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make the aiohttp handler of an entry of the route table."""
    seconds = REQUEST_SECONDS.labels(endpoint.method, endpoint.path)
    answered = cache(partial(REQUESTS.labels, endpoint.method, endpoint.path))
    is_for_admins = endpoint.role is Role.ADMIN
    is_large = endpoint.body_bytes_max > limits.BODY_BYTES_MAX
    large_bodies = asyncio.Semaphore(limits.LARGE_BODIES_AT_ONCE)
    # Values are frozen, so what nothing is said of is read once.
    path_of_none = cache(partial(validated, endpoint.path_parameters, {}))
    query_of_none = cache(partial(validated, endpoint.query, {}))

    async def answer_to(request: web.Request, hold: Callable[[int], None]) -> Answer:
        caller = await authenticator.authenticate(request.headers)
        _require_allowance(request, caller, admission)
        if is_for_admins and caller.role is not Role.ADMIN:
            raise Forbidden
        path = validated(endpoint.path_parameters, dict(request.match_info)) if request.match_info else path_of_none()
        query = (
            validated(endpoint.query, _single_values(request)) if request.rel_url.raw_query_string else query_of_none()
        )
        raw = await _read(endpoint, request, hold)
        if not is_large:
            body = _body(endpoint, raw)
            return await endpoint.handle(Call(parts, caller, path, query, body, _trace_parent(request)))
        async with _one_of(large_bodies):
            body = _body(endpoint, raw)
            return await endpoint.handle(Call(parts, caller, path, query, body, _trace_parent(request)))

    async def handle(request: web.Request) -> web.Response:
        started = time.perf_counter()
        try:
            with admission.body() as hold:
                answer = await answer_to(request, hold)
        finally:
            seconds.observe(time.perf_counter() - started)
        answered(answer.status).inc()
        return _json(answer.body, answer.status)

    return handle


def _require_allowance(request: web.Request, caller: Caller, admission: Admission) -> None:
    """Count the request as one of its key's, and have its answer tell how many are left, whatever it will be.

    Raises:
        TooManyRequests: none was left.
    """
    allowance = admission.allowance((caller.tenant_id, caller.api_key))
    if allowance is None:
        return
    request[ALLOWANCE] = allowance
    if not allowance.is_allowed:
        raise TooManyRequests(f"The key may make {allowance.per_second} requests a second.")


def admission_middleware(admission: Admission) -> Middleware:
    """Make the outermost middleware: a request is under way until its client has taken the answer."""

    @web.middleware
    async def admit(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path in health.PATHS:
            return await handler(request)
        try:
            with admission.place():
                response = await handler(request)
                if (allowance := request.get(ALLOWANCE)) is not None:
                    response.headers.update(allowance.headers)
                if isinstance(response, web.Response):
                    # Written here and not by aiohttp after this, which tells the connection that its client is gone. A
                    # file is not: it is sent piece by piece, so nothing of it is held.
                    with suppress(ConnectionError):
                        await response.prepare(request)
                        await response.write_eof()
                return response
        except Unavailable as refusal:
            return _refuse(request, refusal)

    return admit


@web.middleware
async def errors_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer whatever is raised in the one format of errors; what nobody expected is logged, and told by id only."""
    try:
        return await handler(request)
    except Refusal as refusal:
        error = refusal
    except web.HTTPNotFound:
        error = RouteNotFound.of("path", request.path)
    except web.HTTPMethodNotAllowed as refused:
        error = MethodNotAllowed.of("method", request.method)
        return _refuse(request, error, {"Allow": ", ".join(sorted(refused.allowed_methods))})
    except web.HTTPError as refused:
        return _json(_other_error(refused), refused.status)
    except TRANSIENT_ERRORS as failed:
        log.warning("the database is away or busy", route=_route(request), reason=reason_of(failed))
        error = Unavailable("The database is away or busy.")
    except Exception:
        request_id = str(request.app[REQUEST_ID]())
        log.exception("a request failed", request_id=request_id, method=request.method, route=_route(request))
        error = InternalError(f"Request {request_id} failed.")
    return _refuse(request, error)


ALLOWANCE = web.RequestKey("allowance", Allowance)
REQUEST_ID: web.AppKey[Callable[[], UUID]] = web.AppKey("request_id", Callable[[], UUID])  # type: ignore[arg-type]


def _other_error(refused: web.HTTPError) -> ErrorBody:
    """Tell what the HTTP server itself refuses in the one format of errors."""
    return ErrorBody(code=refused.reason.replace(" ", ""), message=f"{refused.reason}.", detail="", errors=())


def _route(request: web.Request) -> str:
    """Give the path without what the caller has put into its places."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "-"


def _trace_parent(request: web.Request) -> str | None:
    given = request.headers.get("traceparent")
    return given if given and TRACE_PARENT.fullmatch(given) else None


def _refuse(request: web.Request, error: Refusal, headers: Mapping[str, str] | None = None) -> web.Response:
    REQUESTS.labels(request.method, _route(request), error.status).inc()
    response = _json(ErrorBody.of(error), error.status)
    response.headers.update(headers or {})
    if error.status in RETRY_AFTER_SECONDS:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS[error.status])
    if not request.content.at_eof():
        # What is left of a refused body is not read, so nothing can follow it on this connection.
        response.force_close()
    return response


def _json(body: BaseModel, status: int) -> web.Response:
    return web.Response(body=body.__pydantic_serializer__.to_json(body), status=status, content_type="application/json")


@asynccontextmanager
async def _one_of(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for a place.

    Raises:
        Unavailable: none became free in time.
    """
    try:
        async with asyncio.timeout(limits.LARGE_BODY_WAIT_SECONDS):
            await places.acquire()
    except TimeoutError:
        raise Unavailable("Too many batches at once.") from None
    try:
        yield
    finally:
        places.release()


async def _read(endpoint: AnyEndpoint, request: web.Request, hold: Callable[[int], None]) -> bytes | None:
    if endpoint.body is None:
        # The page says "no body"; one that comes all the same is left unread.
        return None
    content_type = request.headers.get("content-type")
    # As most say it, it need not be taken apart.
    if content_type != "application/json" and request.content_type != "application/json":
        raise UnsupportedMediaType.of("content-type", content_type)
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedMediaType.of("content-encoding", encoding)
    pieces: list[bytes] = []
    size = 0
    try:
        if request.content.is_eof():
            # It came with its head, as most do: there is nothing to wait for.
            body = request.content.read_nowait()
            _require_fits(len(body), endpoint)
            hold(len(body))
            return body
        _require_fits(request.content_length or 0, endpoint)
        async with asyncio.timeout(limits.BODY_TIMEOUT_SECONDS):
            async for piece in request.content.iter_any():
                size += len(piece)
                _require_fits(size, endpoint)
                hold(len(piece))
                pieces.append(piece)
    except TimeoutError:
        raise RequestTimeout("The body did not arrive in time.") from None
    except (ConnectionError, web.RequestPayloadError) as error:
        raise InvalidRequest.of("body", None, f"The body cannot be read: {error}") from None
    return b"".join(pieces)


def _require_fits(size: int, endpoint: AnyEndpoint) -> None:
    if size > endpoint.body_bytes_max:
        raise BodyTooLarge(f"The body may have {endpoint.body_bytes_max} bytes.")


def _body(endpoint: Endpoint[P, Q, B], raw: bytes | None) -> B:
    if endpoint.body is None or raw is None:
        return None  # type: ignore[return-value]
    data = parse_json(raw)
    return endpoint.read(data) if endpoint.read else validated(endpoint.body, data)


def parse_json(raw: bytes) -> object:
    """Parse JSON exactly: decimals as Decimal, neither NaN nor infinity, no key twice.

    Raises:
        InvalidRequest: it is not JSON.
    """
    try:
        data: object = jiter.from_json(
            raw, float_mode="decimal", allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys"
        )
    except ValueError as error:
        detail = f"The body is not valid JSON: {error}"
        raise InvalidRequest(detail, errors=[FieldError(message=detail, param="body")]) from None
    # An object has a colon for each of its keys: where the whole body has fewer there is nothing to look for.
    if raw.count(b":") > limits.OBJECT_KEYS_MAX:
        _require_slim(data)
    return data


def _require_slim(data: object) -> None:
    """Refuse objects with more keys than any of the contract has, before each of them is looked at."""
    waiting = [data]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict):
            if len(part) > limits.OBJECT_KEYS_MAX:
                raise InvalidRequest.of("body", None, f"An object of the body has {len(part)} fields.")
            waiting.extend(part.values())


def validated(form: type[M] | TypeAdapter[B], data: object, *, under: Sequence[int | str] = ()) -> M | B:
    """Validate against the form, by the names of the contract only; `under` is the place of the data in the request.

    Raises:
        InvalidRequest: with each field that is wrong.
    """
    try:
        # The validators themselves: what is around them costs an event of a batch a tenth more.
        validator = form.validator if isinstance(form, TypeAdapter) else form.__pydantic_validator__
        read: M | B = validator.validate_python(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidRequest(
            f"{error.error_count()} of the request's fields are not valid.",
            errors=list(_field_errors(error, data, under)),
        ) from None
    return read


def _field_errors(error: ValidationError, data: object, under: Sequence[int | str]) -> Iterable[FieldError]:
    for one in error.errors(include_url=False, include_context=False)[: limits.FIELD_ERRORS_SHOWN_MAX]:
        is_missing = one["type"] == "missing"
        param = ".".join(map(str, (*under, *_place(one["loc"], data, is_missing=is_missing))))
        value = None if is_missing else _as_sent(one["input"])
        yield FieldError(message=one["msg"].removeprefix("Value error, "), param=param or "body", value=value)


def _as_sent(value: object) -> str | None:
    """Give a refused value as the caller wrote it, not as Python would."""
    if isinstance(value, str | Decimal) or value is None:
        return shown(None if value is None else str(value))
    return shown(json.dumps(value, default=str, ensure_ascii=False))


def _place(loc: tuple[int | str, ...], data: object, *, is_missing: bool) -> Iterable[int | str]:
    """Give a place as the caller wrote it: pydantic puts the kind of a part (its discriminator) between."""
    for index, step in enumerate(loc, start=1):
        if isinstance(data, dict) and step in [data.get(name) for name in DISCRIMINATORS]:
            # A field may have the name of the kind: then the place ends with it, or leads into it.
            is_end = index == len(loc)
            is_field = (is_missing or step in data) if is_end else isinstance(data.get(step), dict | list)
            if not is_field:
                continue
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        yield step


def _single_values(request: web.Request) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise InvalidRequest.of(name, value, f"{name} is given more than once.")
        values[name] = value
    return values
