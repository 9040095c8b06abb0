"""Structured logs with request ids, and HTTP metrics for Prometheus."""

import logging
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
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

    def name_process(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    shared: list[Any] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]  # without local variables, which contain people's text
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
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


def request_id(headers: Headers) -> str:
    """Return the request id in the headers if it is a UUID, else a new one: other text must not reach the logs."""
    with suppress(ValueError):
        return str(UUID(headers.get(REQUEST_ID, "")))
    return str(uuid4())


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
        started, current_id, status = time.perf_counter(), request_id(Headers(scope=scope)), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = current_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=current_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started
                # The route's pattern, because each path with an id would be a time series.
                route = getattr(scope.get("route"), "path", "unmatched")
                _counter(scope["method"], route, status).inc()
                if route not in ENDLESS_ROUTES:
                    _histogram(scope["method"], route).observe(seconds)
                if route not in QUIET_ROUTES:
                    log.info(
                        "request",
                        method=scope["method"],
                        route=route,
                        status=status,
                        ms=round(seconds * 1000, 1),
                    )
