"""Traces by OpenTelemetry, an optional extra: one trace has a message's request, log, Celery task and SMTP dialogues.

The ids of a message's trace are made from the message's id (ADR 0020). So nothing about traces is stored or passed on
between processes, and an email that is sent a day later, or a task that runs twice, is in the trace of its message.
Spans are recorded when their work has ended. Without `configure_tracing` nothing is recorded.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from shared.settings import Settings, SettingsError

if TYPE_CHECKING:  # an optional extra, which takes time and memory to import
    from shared.observability.trace_exporter import TraceExporter

_exporter: "TraceExporter | None" = None
_request_messages: ContextVar[list[UUID] | None] = ContextVar("request_messages", default=None)


class SpanName(StrEnum):
    """The steps of a message that are spans in its trace, below the request that posted it."""

    PUBLISH = "publish event"
    """From the commit of the message until its event is in the broker."""
    HANDLE = "handle event"
    """The notification and the email are recorded; by a worker, or the sweeper."""
    SEND = "send email"
    """One attempt: the dialogue with the mail server."""


def configure_tracing(process: str, settings: Settings) -> None:
    """Send this process's spans to the collector of the settings, if there is one. Call it after a fork.

    Raises `SettingsError` if the extra is not installed.
    """
    global _exporter  # noqa: PLW0603 - set once for each process, as with logs
    if settings.traces_url is None:
        return
    try:
        from shared.observability.trace_exporter import TraceExporter  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        msg = f'CHATS_TRACES_URL needs {error.name}: install the extra, for example with pip install ".[traces]"'
        raise SettingsError(msg) from None
    _exporter = TraceExporter(process, settings.traces_url, settings.traces_ratio)


def flush_traces() -> None:
    """Send the spans that are waiting, before the process ends without its `atexit` functions."""
    if _exporter is not None:
        _exporter.flush()


def span_start(at: datetime | None = None) -> int:
    """Return the time at which a span starts, now by default, in nanoseconds."""
    return time.time_ns() if at is None else int(at.timestamp() * 1e6) * 1_000


def record_span(
    name: SpanName, message_ids: Iterable[UUID | str], start: int, *, failed: bool = False, **attributes: str | int
) -> None:
    """Record a step of messages that ends now, as a span in the trace of each."""
    if _exporter is not None:
        for message_id in message_ids:
            _exporter.record(name, trace_ids(message_id), start, failed, {"message_id": str(message_id), **attributes})


def note_message(message_id: UUID) -> None:
    """Note that the current request has posted a message, so that its span begins the message's trace."""
    if (messages := _request_messages.get()) is not None:
        messages.append(message_id)


def begin_request() -> "RequestTrace | None":
    """Begin the span of a request; None if nothing is recorded."""
    return RequestTrace() if _exporter is not None else None


class RequestTrace:
    """The span of the current request, and the messages that it posts."""

    def __init__(self) -> None:
        self._start = span_start()
        self._messages = list[UUID]()
        _request_messages.set(self._messages)  # of this task, which handles one request

    def end(self, scope: Mapping[str, Any], route: str, status: int) -> None:
        """Record the span, in the caller's trace if the request names one, else in that of the message it posted."""
        if _exporter is not None:
            traces = [(each, trace_ids(each)) for each in self._messages]
            _exporter.record_request(scope["method"], route, status, self._start, scope["headers"], traces)


def trace_ids(message_id: UUID | str) -> tuple[int, int]:
    """Return the id of a message's trace, and the id of its first span.

    Hashes, because samplers compare the last bits of an id, which in a UUID are not all random.
    """
    digest = hashlib.blake2b(UUID(str(message_id)).bytes, digest_size=24).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:])
