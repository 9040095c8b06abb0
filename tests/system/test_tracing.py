"""A message's trace by OpenTelemetry, from its request to its email, through real processes."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from deploy.local.processes import Spawn
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.trace_collector import Received, TraceCollector, trace_collector
from tests.helpers.waiting import eventually
from tests.system.helpers.product import Product, headers_of, running_product

STEPS = {
    "chats-api: POST /api/v1/admin/conversations/{conversation_id}/messages",
    "chats-relay: publish event",
    "chats-worker: handle event",
    "chats-worker: send email",
}


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    """A collector for the processes of this file."""
    with trace_collector() as collector:
        yield collector


async def test_one_trace_joins_the_request_the_log_the_task_and_the_email(
    tmp_path: Path, fork: Spawn, mail_server: SmtpServer, collector: TraceCollector
) -> None:
    settings = {
        "CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "CHATS_EMAIL_DELAY_SECONDS": "0",
        "CHATS_TRACES_URL": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    async with running_product(tmp_path, fork, **settings) as product:
        await product.start("api", "relay", "worker")
        conversation = await product.open_conversation()
        message = await product.reply(conversation, "It arrives on Tuesday.")

        spans = await eventually(lambda: _all_of(collector, message, *STEPS))
        [first] = [span for span in spans.values() if not span.parent_id]
        assert first.name.startswith("POST ")
        assert {span.trace_id for span in spans.values()} == {first.trace_id}
        assert {span.parent_id for span in spans.values()} == {b"", first.span_id}
        assert spans["chats-worker: send email"].attributes["chats.outcome"] == "accepted"
        assert not any(span.has_failed for span in spans.values())

        await _check_caller(product, collector, conversation)


async def _check_caller(product: Product, collector: TraceCollector, conversation: str) -> None:
    caller = "4bf92f3577b34da6a3ce929d0e0e4736"
    url = f"http://127.0.0.1:{product.ports['api']}/api/v1/admin/conversations/{conversation}/messages"
    headers = headers_of("sam", "admin") | {"traceparent": f"00-{caller}-00f067aa01020304-01"}
    async with httpx2.AsyncClient(timeout=30) as client:
        answer = await client.post(url, headers=headers, json={"body": "Or on Monday."})
    message = answer.json()["id"]

    spans = await eventually(lambda: _all_of(collector, message, "chats-api: post message"))
    assert spans["chats-api: post message"].links == [bytes.fromhex(caller)]


def _all_of(collector: TraceCollector, message: str, *names: str) -> dict[str, Received] | None:
    spans = collector.about(message)
    return spans if spans.keys() >= set(names) else None
