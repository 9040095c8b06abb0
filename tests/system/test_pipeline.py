"""From a message to the email about it, through real processes, broker and SMTP."""

import asyncio
import json
import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import httpx2
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from shared.broker.celery_app import EVENTS_QUEUE, create_celery
from tests.helpers.monitoring import expressions, matches, selectors
from tests.helpers.smtp_server import KEEP_AND_DROP, SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROCESSES, Product


async def emails_about(server: SmtpServer, text: str) -> list[EmailMessage]:
    parsed = [message_from_bytes(email.content, policy=policy.default) for email in server.emails]
    return [email for email in parsed if text in _text(email)]


def _text(email: EmailMessage) -> str:
    body = email.get_body(("plain",))
    return str(body.get_content()) if body else ""


async def _ended(product: Product, conversation: str) -> dict[str, Any] | None:
    emails = [email for email in await product.emails() if email["conversation_id"] == conversation]
    return next((email for email in emails if email["finished_at"]), None)


async def _has_record(product: Product, message: str) -> bool:
    return message in await product.records()


async def _has_no_fault(product: Product) -> bool:
    code, output = await product.chats("status")
    assert code == 0, output
    return True


async def test_a_reply_becomes_a_notification_and_an_email(product: Product, mail_server: SmtpServer) -> None:
    conversation = await product.open_conversation()
    message = await product.reply(conversation, "It arrives on Tuesday.")

    await eventually(lambda: _has_record(product, message))
    [email] = await eventually(lambda: emails_about(mail_server, "It arrives on Tuesday."))

    assert email["To"] == "Anna <anna@customer.test>"
    assert email["Subject"] == "Where is my parcel?"
    assert (await eventually(lambda: _ended(product, conversation)))["state"] == "sent"
    # Under load, the sweeper may have sent the email before the worker has connected to the broker.
    await eventually(lambda: _has_no_fault(product))


async def test_twelve_concurrent_posts_with_one_key_are_one_message_one_notification_one_email(
    product: Product, mail_server: SmtpServer
) -> None:
    conversation = await product.open_conversation()
    ids = await asyncio.gather(*(product.reply(conversation, "Only once.", key="twelve") for _ in range(12)))
    assert len(set(ids)) == 1
    await eventually(lambda: emails_about(mail_server, "Only once."))
    assert (await product.records()).count(ids[0]) == 1
    assert len(await emails_about(mail_server, "Only once.")) == 1


async def test_a_message_that_is_read_before_its_email_is_not_sent(product: Product, mail_server: SmtpServer) -> None:
    await product.chats("emails", "pause")
    conversation = await product.open_conversation()
    await product.reply(conversation, "Read in time.")
    await product.call("GET", f"/api/v1/conversations/{conversation}")
    email = await eventually(lambda: _ended(product, conversation))
    await product.chats("emails", "resume")
    assert (email["state"], email["reason"]) == ("cancelled", "read")
    assert await emails_about(mail_server, "Read in time.") == []


async def test_a_conversation_deleted_before_the_email_leaves_no_email_and_no_notification(
    product: Product, mail_server: SmtpServer
) -> None:
    await product.chats("emails", "pause")
    conversation = await product.open_conversation()
    message = await product.reply(conversation, "Never mind.")
    await eventually(lambda: _has_record(product, message))
    path = f"/api/v1/admin/conversations/{conversation}"
    await product.call("PATCH", path, "sam", "admin", json={"status": "CLOSED"})
    assert (await product.call("DELETE", path, "sam", "admin")).status_code == 204
    email = await eventually(lambda: _ended(product, conversation))
    await product.chats("emails", "resume")
    assert (email["state"], email["reason"]) == ("cancelled", "deleted")
    assert message not in await product.records()
    assert await emails_about(mail_server, "Never mind.") == []


async def test_a_greylisting_server_gets_the_email_at_a_later_attempt(
    product: Product, mail_server: SmtpServer
) -> None:
    mail_server.script["rcpt"] = ["450 4.2.0 greylisted", "450 4.2.0 greylisted"]
    conversation = await product.open_conversation()
    await product.reply(conversation, "Patience.")
    email = await eventually(lambda: _ended(product, conversation), deadline=30)
    assert [attempt["outcome"] for attempt in email["tries"]] == ["deferred", "deferred", "accepted"]
    assert len(await emails_about(mail_server, "Patience.")) == 1


async def test_a_rejected_email_is_shown_as_failed_and_can_be_retried(
    product: Product, mail_server: SmtpServer
) -> None:
    mail_server.script["rcpt"] = ["550 5.1.1 nobody here"]
    conversation = await product.open_conversation()
    await product.reply(conversation, "Refused.")
    email = await eventually(lambda: _ended(product, conversation))
    assert (email["state"], email["reason"], email["tries"][0]["code"]) == ("failed", "rejected", 550)
    _, listed = await product.chats("emails", "list", "--state", "failed")
    assert email["id"] in listed

    code, _ = await product.chats("emails", "retry", email["id"])
    assert code == 0
    await eventually(lambda: emails_about(mail_server, "Refused."))


async def test_a_server_that_disconnects_after_the_final_dot_gets_the_email_once_more(
    product: Product, mail_server: SmtpServer
) -> None:
    mail_server.script["end"] = [KEEP_AND_DROP]
    conversation = await product.open_conversation()
    await product.reply(conversation, "Uncertain.")
    email = await eventually(lambda: _ended(product, conversation), deadline=30)
    assert [attempt["outcome"] for attempt in email["tries"]] == ["uncertain", "accepted"]
    first, second = await emails_about(mail_server, "Uncertain.")
    assert first["Message-ID"] == second["Message-ID"]


async def test_tasks_that_no_worker_understands_are_parked_and_the_others_are_handled(product: Product) -> None:
    celery: Celery = create_celery(product.environment["CHATS_BROKER_URL"], client="tests")
    unknown = celery.send_task("notifications.message_sung", args=[{}], queue=EVENTS_QUEUE)
    invalid = celery.send_task("notifications.message_posted", args=[{"id": "?"}], queue=EVENTS_QUEUE)
    empty = celery.send_task("notifications.message_posted", queue=EVENTS_QUEUE)

    async def listed() -> bool:
        _, output = await product.chats("events", "parked")
        return all(task.id in output for task in (unknown, invalid, empty))

    await eventually(listed, deadline=30)
    message = await product.reply(await product.open_conversation())
    await eventually(lambda: _has_record(product, message))


async def test_logs_trace_a_message_through_every_process_by_ids_without_text_or_address(product: Product) -> None:
    conversation = await product.open_conversation()
    message = await product.reply(conversation, "A very private matter.")
    email = await eventually(lambda: _ended(product, conversation))

    def logged() -> list[str]:
        lines = [line for log in product.directory.glob("*.log") for line in log.read_text().splitlines()]
        assert any('"email attempted"' in line and email["id"] in line for line in lines)  # a moment after the commit
        return lines

    lines = await eventually(logged)
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    of_message = {entry["event"]: entry for entry in entries if entry.get("message_id") == message}
    assert set(of_message) >= {"message posted", "event published", "event handled", "message joined email"}
    request = of_message["message posted"]["request_id"]
    assert any(entry["event"] == "request" and entry.get("request_id") == request for entry in entries)
    assert of_message["message joined email"]["email_id"] == email["id"]
    assert not [line for line in lines if "private matter" in line or "customer.test" in line]


async def test_each_process_exports_what_alerts_and_dashboards_select(product: Product) -> None:
    await product.open_conversation()
    async with httpx2.AsyncClient(timeout=30) as client:
        answers = [
            (process, (await client.get(f"http://127.0.0.1:{product.ports[process]}/metrics")).text)
            for process in PROCESSES
        ]
    families: set[str] = set()
    series: dict[str, list[dict[str, str]]] = {"up": [{"job": f"chats-{process}"} for process in PROCESSES]}
    for process, text in answers:
        for family in text_string_to_metric_families(text):
            families.add(family.name)
            for sample in family.samples:
                series.setdefault(sample.name, []).append({**sample.labels, "job": f"chats-{process}"})
    for name, expression in expressions().items():
        for selector in selectors(expression):
            if selector.name == "ALERTS":  # Prometheus itself exports it
                continue
            samples = series.get(str(selector.name), [])
            assert samples or re.sub("_(total|bucket)$", "", str(selector.name)) in families, name
            conditions = [matcher for matcher in selector.matchers.matchers if matcher.name != "status"]
            passing = [labels for labels in samples if all(matches(matcher, labels) for matcher in conditions)]
            assert passing or not samples, name
