"""The HTTP server of every service: aiohttp's, but a client cannot hold it up or fill its memory.

aiohttp bounds single lines and their number, but neither connections nor its patience: it waits for ever for the rest
of a head, and for a client to take its answer. What cannot be read is answered in the one format of errors, where the
client is still there to read it.
"""

import asyncio
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from tallymarks import limits
from tallymarks.errors import ErrorBody, HeadTooLarge, InvalidRequest, Refusal, RequestTimeout, Unavailable

log = structlog.get_logger(__name__)

TOO_MANY_HEADERS = "Too many headers received"
"""How aiohttp says it: it has no class for it."""


class Connection(RequestHandler):
    """A connection whose client has a bounded time for each head and each answer, and a bounded head.

    Besides the callbacks of a protocol it looks at a few attributes of aiohttp's own: `_request_count` and `_messages`
    (the requests whose heads are whole), `_waiter` (set while the connection waits for the next one), `_close` and
    `_force_close` (set when it takes no more), `_reading_paused` (set while a body is read less fast than it comes),
    and `_manager` (the server).
    """

    __slots__ = ("_answer_timer", "_body", "_head_bytes", "_head_timer", "_wire")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **settings: Any) -> None:
        """Take what aiohttp's own takes."""
        super().__init__(manager, loop=loop, **settings)
        self._wire: asyncio.Transport | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        """Of the last request whose head is whole: what follows it begins the next head."""
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has come that was not answered."""
        return self._waiter is not None and not (self._messages or self._head_bytes or self._force_close)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head, where there is room for one more connection."""
        self._wire = cast(asyncio.Transport, transport)
        if not cast(_Server, self._manager).has_room():
            self._wire.write(_answer(Unavailable("Too many connections at once.")))
            self._wire.close()
            return
        super().connection_made(transport)
        # Writing is paused, and timed, from the first byte on that the client does not take: by default that would
        # begin at 64 KiB, and a connection with less could not even be closed before its client has read.
        self._wire.set_write_buffer_limits(high=0)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clocks."""
        self._stop_awaiting_head()
        self._stop_awaiting_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read, and hold the head of the next request to its bounds."""
        is_head, before = self._body.is_eof(), self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._body = self._messages[-1][1]
            self._head_bytes = 0
            self._stop_awaiting_head()
        elif is_head and data and not (self._close or self._force_close):
            self._head_bytes += len(data)
            if self._head_bytes > limits.HEAD_BYTES_MAX:
                self._cut_off(HeadTooLarge(f"They may have {limits.HEAD_BYTES_MAX} bytes together."))
            elif self._head_timer is None:
                self._await_head()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on where reading was paused: aiohttp asks for it with each body, and has the parser look at nothing."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """The client does not take what it is sent as fast as it comes."""
        super().pause_writing()
        self._answer_timer = self._loop.call_later(limits.ANSWER_TIMEOUT_SECONDS, self._abort)

    def resume_writing(self) -> None:
        """It has taken everything."""
        self._stop_awaiting_reader()
        super().resume_writing()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what cannot be read in the one format of errors; only a fault of ours is worth a line in the log."""
        if status != InvalidRequest.status or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        refusal: Refusal
        if isinstance(exc, LineTooLong):
            refusal = HeadTooLarge(f"A line of them may have {limits.HEAD_LINE_BYTES_MAX} bytes.")
        elif message == TOO_MANY_HEADERS:
            refusal = HeadTooLarge(f"There may be {limits.HEADERS_MAX} headers.")
        else:
            refusal = InvalidRequest("This is not HTTP/1.1.")
        response = web.Response(body=_body_of(refusal), status=refusal.status, content_type="application/json")
        response.force_close()
        return response

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(limits.HEAD_TIMEOUT_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._waiter is None:
            # The request before is still under way: its answer goes first.
            self._await_head()
        elif self._head_bytes:
            self._cut_off(RequestTimeout("The head of the request did not arrive in time."))
        else:
            self.force_close()

    def _cut_off(self, refusal: Refusal) -> None:
        """Close, with an answer where no other is under way."""
        self._stop_awaiting_head()
        if self._wire is not None and self._waiter is not None and not self.writing_paused:
            self._wire.write(_answer(refusal))
        self.force_close()

    def _abort(self) -> None:
        """Close without waiting for what was not taken."""
        if self._wire is not None:
            log.info("a client that does not take its answer is cut off")
            self._wire.abort()

    def _stop_awaiting_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_awaiting_reader(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None


def _answer(refusal: Refusal) -> bytes:
    """Give a whole answer for a connection on which nothing else is answered."""
    body = _body_of(refusal)
    retry_after = f"Retry-After: {limits.RETRY_AFTER_SECONDS}\r\n" if isinstance(refusal, Unavailable) else ""
    head = f"HTTP/1.1 {refusal.status} {refusal.code}\r\nContent-Type: application/json\r\n{retry_after}"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _body_of(refusal: Refusal) -> bytes:
    return ErrorBody.of(refusal).model_dump_json().encode()


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def has_room(self) -> bool:
        """Tell whether one more connection may be open; the first that lies idle is closed where it must."""
        if len(self._connections) < limits.CONNECTIONS_MAX:
            return True
        idle = next((one for one in self._connections if cast(Connection, one).is_idle), None)
        if idle is not None:
            idle.force_close()
        return idle is not None


class BoundedRunner(web.AppRunner):
    """Runs an application on connections that are bounded."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        """Take the application, and how many seconds requests under way may take once it is stopped."""
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=shutdown_timeout,
            keepalive_timeout=limits.KEEP_ALIVE_TIMEOUT_SECONDS,
            lingering_time=limits.UNREAD_BODY_TIMEOUT_SECONDS,
            max_line_size=limits.HEAD_LINE_BYTES_MAX,
            max_field_size=limits.HEAD_LINE_BYTES_MAX,
            max_headers=limits.HEADERS_MAX,
            read_bufsize=limits.READ_BUFFER_BYTES,
            # A thousand times as much as was sent would be unpacked, also for who is refused.
            auto_decompress=False,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler, request_factory=made.request_factory, loop=asyncio.get_running_loop(), **self._kwargs
        )
