"""A collector of OpenTelemetry that keeps the spans it gets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.local.ports import free_ports


@dataclass(frozen=True)
class Received:
    """A span as the collector got it."""

    service: str
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    seconds: float
    has_failed: bool
    attributes: dict[str, Any]
    links: list[bytes]
    """The ids of the traces that it links to."""


@dataclass
class TraceCollector:
    """The spans of all processes that send to `url`."""

    url: str
    spans: list[Received] = field(default_factory=list)

    def about(self, message_id: str) -> dict[str, Received]:
        """Return the spans of a message, by process and name."""
        found = [span for span in self.spans if span.attributes.get("chats.message_id") == message_id]
        return {f"{span.service}: {span.name}": span for span in found}


@contextmanager
def trace_collector() -> Iterator[TraceCollector]:
    """Run a collector on a free port."""
    [port] = free_ports([0])
    collector = TraceCollector(f"http://127.0.0.1:{port}/v1/traces")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.spans += _read(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _read(body: bytes) -> Iterator[Received]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    service,
                    span.name,
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    _values(span.attributes),
                    [link.trace_id for link in span.links],
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
