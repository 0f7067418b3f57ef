"""The routes that tell an orchestrator how a service is: alive, ready, and its metrics."""

from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

LIVE_PATH, READY_PATH, METRICS_PATH = PATHS = ("/health/live", "/health/ready", "/metrics")

Check = Callable[[], Awaitable[bool]]
Verdict = Callable[[Mapping[str, bool]], bool]


def add_health_routes(app: web.Application, checks: Mapping[str, Check], is_ready: Verdict) -> None:
    """Serve /health/live (the process answers), /health/ready (503 unless `is_ready` of the parts) and /metrics."""

    async def live(_: web.Request) -> web.Response:
        return _json({"status": "live"})

    async def ready(_: web.Request) -> web.Response:
        parts = {name: await check() for name, check in checks.items()}
        ok = is_ready(parts)
        return _json(
            {
                "status": "ready" if ok else "not ready",
                "parts": {name: "up" if up else "down" for name, up in parts.items()},
            },
            status=200 if ok else 503,
        )

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.add_routes([web.get(LIVE_PATH, live), web.get(READY_PATH, ready), web.get(METRICS_PATH, metrics)])


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def all_up(parts: Mapping[str, bool]) -> bool:
    """Ready when every part is."""
    return all(parts.values())
