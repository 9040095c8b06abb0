"""Processes are killed, the broker is emptied or stopped; nothing acknowledged is lost or duplicated."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx2
import pytest
import redis.asyncio

from services.notifications.delivery.leases import LEASE
from shared.broker.celery_app import EVENTS_QUEUE, TASKS, create_celery
from shared.broker.publisher import Publisher
from shared.events import Event, Feed
from tests.helpers.amqp_peer import amqp_peer
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.poisoned import POISON
from tests.system.helpers.product import SECRET, Product

CAUGHT_UP = 40  # seconds
MAILED = LEASE.total_seconds() + CAUGHT_UP  # a killed process keeps its email until the lease expires

pytestmark = pytest.mark.timeout(240)  # two leases, or a dozen process starts


async def all_recorded_once(product: Product, messages: list[str]) -> bool:
    """Return whether every message has its notification; fail at once on a duplicate."""
    records = await product.records()
    assert len(records) == len(set(records)), "a notification twice"
    return set(messages) <= set(records)


async def all_mailed(product: Product, messages: list[str]) -> bool:
    """Return whether every message was in an email that the server accepted."""
    sent_ids = [
        identity for email in await product.emails() if email["state"] == "sent" for identity in email["message_ids"]
    ]
    return set(messages) <= set(sent_ids)


async def drained(product: Product, messages: list[str]) -> None:
    await eventually(lambda: all_recorded_once(product, messages), deadline=CAUGHT_UP)
    await eventually(lambda: all_mailed(product, messages), deadline=MAILED)


async def replies(product: Product, count: int) -> list[str]:
    """Reply in several conversations, so that posts run concurrently."""
    conversations = [await product.open_conversation() for _ in range(4)]
    return [await product.reply(conversations[number % 4], f"Answer {number}") for number in range(count)]


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")
async def test_emptying_the_broker_before_the_worker_starts_loses_nothing(product: Product) -> None:
    await product.stop("worker")
    messages = await replies(product, 8)
    await empty_broker(product)
    await product.start("worker")
    await drained(product, messages)


async def test_without_a_broker_posting_works_and_the_email_arrives(product: Product) -> None:
    await product.kill("broker")
    messages = await replies(product, 4)
    await drained(product, messages)
    await product.start("broker")
    again = await replies(product, 2)
    await drained(product, again)


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")
async def test_a_long_broker_outage_delays_by_seconds_and_its_old_hints_are_harmless(
    product: Product, mail_server: SmtpServer
) -> None:
    await product.stop("worker")
    # Tasks that a worker held when an earlier test killed the broker stay there for the visibility timeout.
    await empty_broker(product)
    messages = await replies(product, 6)
    await eventually(lambda: a_hint_waits(product))
    await product.kill("broker")
    await product.start("worker")
    conversation = await product.open_conversation()
    for number in range(4):
        messages.append(await product.reply(conversation, f"Without hints {number}"))
        await eventually(lambda: all_recorded_once(product, messages), deadline=CAUGHT_UP)
    await drained(product, messages)

    taken = len(mail_server.emails)
    product.freeze("worker")  # or it takes them at once
    await product.start("broker")
    assert await a_hint_waits(product), "the broker kept the hints"
    product.thaw("worker")
    await eventually(lambda: no_hint_waits(product), deadline=CAUGHT_UP)
    await drained(product, [*messages, *await replies(product, 1)])
    assert len(mail_server.emails) == taken + 1


async def test_a_demoted_broker_is_reported_and_used_again_after_its_promotion(product: Product) -> None:
    async with redis.asyncio.from_url(product.environment["CHATS_BROKER_URL"]) as broker:
        await broker.slaveof("127.0.0.1", 1)
        await eventually(lambda: status_shows(product, "(read_only)   <- the broker", "(read_only)   <- the broker"))
        messages = await replies(product, 2)
        await drained(product, messages)
        await broker.slaveof()
    assert not product.ended()
    await eventually(lambda: the_worker_handles(product), deadline=CAUGHT_UP)
    await eventually(lambda: status_shows(product, "broker usable", "broker usable"))


async def test_a_worker_that_the_broker_rejects_later_exits_and_reports_the_reason(product: Product) -> None:
    await product.stop("worker")
    async with amqp_peer(None) as peer:
        product.overrides["worker"] = {"CHATS_BROKER_URL": f"amqp://user:hunter2@127.0.0.1:{peer.port}/shop"}
        await product.launch("worker")
        await eventually(lambda: peer.connections, deadline=60)
        peer.refuses = "login"
        await eventually(product.ended, deadline=60)
    log = product.log_of("worker")
    assert "chats: the broker refuses the user or the password" in log.splitlines()[-1]
    assert "Traceback" not in log
    assert "hunter2" not in log
    assert "the broker refuses the user or the password" in (await product.chats("status"))[1]
    del product.overrides["worker"]
    await product.kill("worker")
    await product.start("worker")


async def status_shows(product: Product, of_publisher: str, of_consumer: str) -> bool:
    """Return whether `chats status` shows these states of the relay and of the worker."""
    lines = (await product.chats("status"))[1].splitlines()
    shown = {line.split()[0]: line for line in lines if line.startswith(("publisher", "consumer"))}
    return of_publisher in shown["publisher"] and of_consumer in shown["consumer"]


async def test_processes_killed_while_posting_lose_nothing(product: Product) -> None:
    posting = asyncio.create_task(replies(product, 60))
    for name in ("worker", "relay", "sweeper", "relay", "worker"):
        await product.kill(name)
        await product.start(name)
    await drained(product, await posting)


async def test_chatting_works_while_notifications_are_stopped_and_they_catch_up(product: Product) -> None:
    await product.stop("worker", "sweeper", "notifications-api")
    messages = await replies(product, 6)
    await product.start("worker", "sweeper", "notifications-api")
    await drained(product, messages)


async def test_two_relays_and_two_sweepers_have_the_effect_of_one(product: Product, mail_server: SmtpServer) -> None:
    await product.start("relay-2", "sweeper-2")
    before = len(mail_server.emails)
    messages = await replies(product, 20)
    await drained(product, messages)
    ids = [email.content.split(b"Message-ID: ")[1].split(b"\r\n")[0] for email in mail_server.emails[before:]]
    assert len(ids) == len(set(ids)), "an email twice"
    await product.stop("relay-2", "sweeper-2")


async def test_without_worker_and_hints_the_sweeper_handles_everything(product: Product) -> None:
    await product.stop("worker")
    messages = await replies(product, 3)
    await drained(product, messages)
    await product.start("worker")


async def test_the_events_of_a_frozen_worker_are_handled(product: Product) -> None:
    product.freeze("worker")
    messages = await replies(product, 3)
    await drained(product, messages)
    product.thaw("worker")
    # Stopped now, it would wait for child processes that wait for it to read their results (billiard: 30 s).
    await eventually(lambda: the_worker_handles(product), deadline=CAUGHT_UP)


async def test_duplicated_and_reversed_events_take_effect_once(product: Product, mail_server: SmtpServer) -> None:
    await product.stop("worker", "sweeper")
    conversation = await product.open_conversation()
    message = await product.reply(conversation, "Backwards.")
    await product.call("GET", f"/api/v1/conversations/{conversation}")
    events = await eventually(lambda: logged_about(product, conversation, "conversation.read"))
    await empty_broker(product)
    celery = create_celery(product.environment["CHATS_BROKER_URL"], client="tests")
    assert Publisher(celery).publish_events([*reversed(events), *reversed(events)])

    # Two child processes handle the events at the same time, so the message may come first: its email has to wait.
    product.overrides["worker"] = {"CHATS_EMAIL_DELAY_SECONDS": "300"}
    await product.start("worker")
    await eventually(lambda: all_recorded_once(product, [message]), deadline=CAUGHT_UP)
    await product.start("sweeper")

    assert await eventually(lambda: emails_about(product, conversation), CAUGHT_UP) == [("cancelled", "read")]
    assert not [email for email in mail_server.emails if b"Backwards." in email.content]
    product.overrides.clear()


@pytest.mark.skipif(
    "EVERY_CASE" not in os.environ,
    reason="service/event_consumer/test_consumer shows it in one process; set EVERY_CASE=1",
)
async def test_an_event_that_kills_its_process_is_parked_and_the_others_are_handled(product: Product) -> None:
    await product.stop("worker", "sweeper")
    healthy, product.command = product.command, [sys.executable, "-m", "tests.system.helpers.poisoned"]
    await product.start("worker", "sweeper")
    async with supervised(product, "sweeper"):
        poison = await product.reply(await product.open_conversation(), POISON)
        others = [await product.reply(await product.open_conversation()) for _ in range(5)]
        await eventually(lambda: all_recorded_once(product, others), deadline=CAUGHT_UP)
        event = await eventually(lambda: parked(product), deadline=120)
        assert event in (await product.chats("events", "parked"))[1]
        later = await product.reply(await product.open_conversation())
        await drained(product, [*others, later])
    assert poison not in await product.records()
    assert not product.ended(), "no process dies of it any more"

    await product.stop("worker", "sweeper")
    product.command = healthy
    await product.start("worker", "sweeper")
    code, output = await product.chats("events", "retry", event)
    assert (code, output.splitlines()[-1]) == (0, "Handled.")
    await drained(product, [poison])
    assert await parked(product) is None


async def logged_about(product: Product, conversation: str, last: str) -> list[Event] | None:
    """Return the numbered events of a conversation that workers handle, once one has the type `last`."""
    url = f"{product.environment['CHATS_CONVERSATIONS_URL']}/internal/events"
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {SECRET}"}, timeout=30) as client:
        answer = await client.get(url, params={"limit": 1000})
    found = [event for event in Feed.model_validate(answer.json()).items if event.type in TASKS]
    theirs = [event for event in found if (event.payload or {}).get("conversation_id") == conversation]
    return theirs if last in {event.type for event in theirs} else None


async def emails_about(product: Product, conversation: str) -> list[tuple[str, str | None]]:
    """Return the states and reasons of a conversation's emails, once none waits."""
    emails = [email for email in await product.emails() if email["conversation_id"] == conversation]
    waiting = [email for email in emails if email["state"] in ("scheduled", "sending")]
    return [] if waiting else [(email["state"], email["reason"]) for email in emails]


async def the_worker_handles(product: Product) -> bool:
    """Return whether the worker, not a sweeper, creates the notification of a new message."""
    message = await product.reply(await product.open_conversation())
    await eventually(lambda: all_recorded_once(product, [message]))
    return message in product.log_of("worker")


async def waiting_hints(product: Product) -> tuple[int, int]:
    """Count the hints at the broker: in the event queue, and taken but unacknowledged."""
    async with redis.asyncio.from_url(product.environment["CHATS_BROKER_URL"]) as broker:
        return int(await broker.llen("chats:" + EVENTS_QUEUE)), int(await broker.hlen("chats:unacked"))


async def a_hint_waits(product: Product) -> bool:
    return await waiting_hints(product) != (0, 0)


async def no_hint_waits(product: Product) -> bool:
    assert await waiting_hints(product) == (0, 0)
    return True


async def empty_broker(product: Product) -> None:
    async with redis.asyncio.from_url(product.environment["CHATS_BROKER_URL"]) as broker:
        await broker.flushall()


@asynccontextmanager
async def supervised(product: Product, name: str) -> AsyncIterator[None]:
    """Restart a process whenever it has ended, as a supervisor does."""

    async def keep() -> None:
        while True:
            if name in product.ended():
                await product.kill(name)  # its child processes
                await product.launch(name)
            await asyncio.sleep(0.1)

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])


async def parked(product: Product) -> str | None:
    """Return the id of an event that was parked after its last attempt."""
    connection = await asyncpg.connect(product.owner_urls["notifications"])
    try:
        return await connection.fetchval("select event_id::text from inbox where reason = 'failed 5 times'")  # type: ignore[no-any-return]
    finally:
        await connection.close()
