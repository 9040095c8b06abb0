"""Sends spans to a collector by OTLP over HTTP, in batches, from a thread of their own.

A collector that is away costs spans, never a request: the SDK drops what does not fit into its queue.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.observability.tracing import SpanName

Ids = tuple[int, int]  # of a trace, and of its first span

_given_ids: ContextVar[Ids | None] = ContextVar("given_ids", default=None)
_KINDS = {
    SpanName.PUBLISH: SpanKind.PRODUCER,
    SpanName.HANDLE: SpanKind.CONSUMER,
    SpanName.SEND: SpanKind.CLIENT,
}
_CALLERS = TraceContextTextMapPropagator()
_SERVER_ERROR = 500
RELEASE = version("customer-chats")


class _IdGenerator(RandomIdGenerator):
    """Gives the first span of a message's trace its ids, and all others random ones."""

    def generate_trace_id(self) -> int:
        given = _given_ids.get()
        return given[0] if given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        given = _given_ids.get()
        return given[1] if given else super().generate_span_id()


class TraceExporter:
    """The spans of this process."""

    def __init__(self, process: str, url: str, ratio: float) -> None:
        """`ratio` of the traces are recorded; it is the same for all spans of a trace."""
        self._sampler = TraceIdRatioBased(ratio)
        self._provider = TracerProvider(
            sampler=ParentBased(self._sampler),
            resource=Resource.create({"service.name": f"chats-{process}", "service.version": RELEASE}),
            id_generator=_IdGenerator(),
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("customer-chats")

    def flush(self) -> None:
        """Send what is waiting, for a few seconds at most."""
        self._provider.force_flush(3_000)

    def record(self, name: SpanName, ids: Ids, start: int, failed: bool, attributes: Mapping[str, Any]) -> None:
        """Record a span below the first one of a trace, from `start` until now."""
        span = self._start(name, self._below(ids), _KINDS[name], start, attributes)
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def record_request(
        self,
        method: str,
        route: str,
        status: int,
        start: int,
        headers: Iterable[tuple[bytes, bytes]],
        messages: Sequence[tuple[UUID, Ids]],
    ) -> None:
        """Record a request, which begins the trace of the message that it posted.

        If the caller has a trace, the request belongs to that one. Then the message's trace begins with a span of its
        own, and the two are linked.
        """
        caller = _CALLERS.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        name, kind = f"{method} {route}", SpanKind.SERVER
        attributes = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        if messages and not caller:
            span = self._first(name, messages[0], kind, start, attributes)
        else:
            links = [Link(self._context(ids)) for _, ids in messages]
            span = self._start(name, caller, kind, start, attributes, links)
            for message in messages:
                link = Link(span.get_span_context())
                self._first("post message", message, SpanKind.INTERNAL, start, {}, [link]).end()
        if status >= _SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _first(
        self,
        name: str,
        message: tuple[UUID, Ids],
        kind: SpanKind,
        start: int,
        attributes: Mapping[str, Any],
        links: Sequence[Link] = (),
    ) -> Span:
        given = _given_ids.set(message[1])
        try:
            values = {"message_id": str(message[0]), **attributes}
            return self._start(name, Context(), kind, start, values, links)
        finally:
            _given_ids.reset(given)

    def _start(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        start: int,
        attributes: Mapping[str, Any],
        links: Sequence[Link] = (),
    ) -> Span:
        named = {key if "." in key else f"chats.{key}": value for key, value in attributes.items()}
        return self._tracer.start_span(name, context, kind, named, links, start_time=start)

    def _below(self, ids: Ids) -> Context:
        return set_span_in_context(NonRecordingSpan(self._context(ids)), Context())

    def _context(self, ids: Ids) -> SpanContext:
        is_sampled = self._sampler.should_sample(None, ids[0], "").decision is Decision.RECORD_AND_SAMPLE
        return SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(is_sampled))
