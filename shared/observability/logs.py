"""Structured logs with request ids, and HTTP metrics for Prometheus."""

import json
import logging
import random
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.observability.tracing import begin_request

REQUEST_ID = b"x-request-id"
QUIET_ROUTES = {"/healthz", "/readyz", "/metrics", "/internal/events"}  # polled by machines
ENDLESS_ROUTES = {"/api/v1/stream"}  # their duration says nothing about speed

REQUESTS = Counter("chats_http_requests_total", "HTTP requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "chats_http_request_seconds", "Seconds from the start of a request to the end of its response", ["method", "route"]
)

log = structlog.get_logger()


def configure_logging(process: str, level: str = "info") -> None:
    """Log JSON lines, or readable lines on a terminal, also for warnings and errors of libraries."""
    terminal = sys.stderr.isatty()

    def describe(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        if (current_id := _origin.get().request_id) is not None:
            event["request_id"] = current_id
        event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return event

    shared: list[Any] = [describe, structlog.processors.add_log_level]
    last: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]  # without local variables, which contain people's text
        if terminal
        else [structlog.processors.format_exc_info, _write_json]
    )
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(
            sys.stderr
        ),  # writes a line at once; a print logger needs two writes
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


_encode_line = msgspec.json.Encoder(enc_hook=repr).encode
_ENCODE_ANY_TEXT = json.JSONEncoder(ensure_ascii=False, default=repr)


def _write_json(_: Any, __: str, event: structlog.typing.EventDict) -> str:
    try:
        return _encode_line(event).decode()  # in a seventh of the time of Python's own encoder
    except Exception:  # noqa: BLE001 - such as a lone surrogate: a line is written in any case
        return _ENCODE_ANY_TEXT.encode(event)


class Origin(NamedTuple):
    """Where a request came from: its id, and the client's address, which a trusted proxy may have forwarded."""

    request_id: str | None = None
    address: str | None = None


_origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 - immutable


def current_origin() -> Origin:
    """Return the origin of the request that this code handles; without any, an empty one."""
    return _origin.get()


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the request id in the headers if it is a UUID, else a new one: other text must not reach the logs."""
    for name, value in headers:
        if name == REQUEST_ID:
            with suppress(ValueError):
                return str(UUID(value.decode("latin-1")))
    # Not a secret. A UUID of version 4, without the system call of `uuid4` and in a quarter of its object's time.
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


# Looking up the labels costs more than counting.
_counter = lru_cache(maxsize=1000)(REQUESTS.labels)
_histogram = lru_cache(maxsize=1000)(SECONDS.labels)


class RequestLoggingMiddleware:
    """ASGI middleware: adds request ids to responses and log lines, logs each request, and updates metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, current_id, status = time.perf_counter(), request_id(scope["headers"]), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, current_id.encode())]
            await send(message)

        trace = begin_request()
        outside = _origin.set(Origin(current_id, scope["client"][0] if scope.get("client") else None))
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            # The route's pattern, because each path with an id would be a time series.
            route = getattr(scope.get("route"), "path", "unmatched")
            _counter(scope["method"], route, status).inc()
            if route not in ENDLESS_ROUTES:
                _histogram(scope["method"], route).observe(seconds)
            if trace is not None and route not in QUIET_ROUTES | ENDLESS_ROUTES:
                trace.end(scope, route, status)
            if route not in QUIET_ROUTES:
                log.info("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))
            _origin.reset(outside)
