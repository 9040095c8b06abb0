"""Sampling of traces: all processes decide the same."""

import sys
from uuid import uuid4

import pytest

from shared.observability.trace_exporter import TraceExporter
from shared.observability.tracing import SpanName, configure_tracing, span_start, trace_ids
from shared.settings import Settings, SettingsError
from tests.helpers.trace_collector import trace_collector

MESSAGES = 200


def test_processes_record_the_same_traces_and_about_their_ratio() -> None:
    messages = [uuid4() for _ in range(MESSAGES)]
    with trace_collector() as collector:
        api, worker = (TraceExporter(process, collector.url, 0.5) for process in ("api", "worker"))
        for message in messages:
            api.record_request("POST", "/messages", 201, span_start(), [], [(message, trace_ids(message))])
            values = {"message_id": str(message)}
            worker.record(SpanName.HANDLE, trace_ids(message), span_start(), failed=False, attributes=values)
        api.flush()
        worker.flush()

    traces = {service: set[bytes]() for service in ("chats-api", "chats-worker")}
    for span in collector.spans:
        traces[span.service].add(span.trace_id)
    assert traces["chats-api"] == traces["chats-worker"]
    # Fewer than 60 or more than 140 of 200 happen once in a hundred million runs.
    assert 60 <= len(traces["chats-api"]) <= 140


def test_a_request_that_failed_is_an_error_of_its_own_trace() -> None:
    with trace_collector() as collector:
        api = TraceExporter("api", collector.url, 1)
        api.record_request("GET", "/unread", 503, span_start(), [], [])
        api.flush()

    [span] = collector.spans
    assert span.has_failed
    assert span.name == "GET /unread"
    assert span.attributes["http.response.status_code"] == 503


def test_without_the_extra_the_process_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shared.observability.trace_exporter")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)

    with pytest.raises(SettingsError, match=r"CHATS_TRACES_URL needs opentelemetry\.sdk.*traces"):
        configure_tracing("api", Settings(traces_url="http://127.0.0.1:4318/v1/traces"))
