"""Processes are killed, the broker is emptied or gone; nothing that was acknowledged is lost, nothing doubled."""

import asyncio

import httpx2
import redis.asyncio

from shared.broker import TASKS, create_celery, publish_events
from shared.events import Event, Feed
from tests.smtp_server import SmtpServer
from tests.support import eventually
from tests.system.product import SECRET, Product

CAUGHT_UP = 40  # seconds


async def all_recorded_once(product: Product, messages: list[str]) -> bool:
    """Tell whether every message has its record; fail at once when one has two."""
    records = await product.records()
    assert len(records) == len(set(records)), "a record twice"
    return set(messages) <= set(records)


async def all_mailed(product: Product, messages: list[str]) -> bool:
    """Tell whether every message was in a mail that the server took."""
    sent = [
        identity for email in await product.emails() if email["state"] == "sent" for identity in email["message_ids"]
    ]
    return set(messages) <= set(sent)


async def drained(product: Product, messages: list[str]) -> None:
    await eventually(lambda: all_recorded_once(product, messages), deadline=CAUGHT_UP)
    await eventually(lambda: all_mailed(product, messages), deadline=CAUGHT_UP)


async def replies(product: Product, count: int) -> list[str]:
    """Answer in a few conversations, so that posts run side by side."""
    conversations = [await product.open_conversation() for _ in range(4)]
    return [await product.reply(conversations[number % 4], f"Answer {number}") for number in range(count)]


async def test_the_broker_emptied_between_post_and_worker_loses_nothing(product: Product) -> None:
    await product.stop("worker")
    messages = await replies(product, 8)
    await empty_broker(product)
    await product.start("worker")
    await drained(product, messages)


async def test_the_broker_away_is_201_and_the_mail_arrives(product: Product) -> None:
    await product.kill("broker")
    messages = await replies(product, 4)
    await drained(product, messages)
    await product.start("broker")
    again = await replies(product, 2)
    await drained(product, again)


async def test_processes_killed_while_posting_lose_nothing(product: Product) -> None:
    posting = asyncio.create_task(replies(product, 60))
    for name in ("worker", "relay", "sweeper", "relay", "worker"):
        await product.kill(name)
        await product.start(name)
    await drained(product, await posting)


async def test_chatting_goes_on_while_notifications_are_stopped_and_is_made_up_for(product: Product) -> None:
    await product.stop("worker", "sweeper", "notifications-api")
    messages = await replies(product, 6)
    await product.start("worker", "sweeper", "notifications-api")
    await drained(product, messages)


async def test_two_relays_and_two_sweepers_do_no_more_than_one(product: Product, mail_server: SmtpServer) -> None:
    await product.start("relay-2", "sweeper-2")
    before = len(mail_server.mails)
    messages = await replies(product, 20)
    await drained(product, messages)
    ids = [mail.content.split(b"Message-ID: ")[1].split(b"\r\n")[0] for mail in mail_server.mails[before:]]
    assert len(ids) == len(set(ids)), "a mail twice"
    await product.stop("relay-2", "sweeper-2")


async def test_without_worker_and_relay_hints_the_sweeper_does_it_all(product: Product) -> None:
    await product.stop("worker")
    messages = await replies(product, 3)
    await drained(product, messages)
    await product.start("worker")


async def test_a_frozen_worker_is_made_up_for(product: Product) -> None:
    product.freeze("worker")
    messages = await replies(product, 3)
    await drained(product, messages)
    product.thaw("worker")


async def test_events_that_come_twice_and_backwards_have_their_effect_once(
    product: Product, mail_server: SmtpServer
) -> None:
    await product.stop("worker", "sweeper")
    conversation = await product.open_conversation()
    message = await product.reply(conversation, "Backwards.")
    await product.call("GET", f"/api/v1/conversations/{conversation}")
    events = await eventually(lambda: logged_about(product, conversation, "conversation.read"))
    await empty_broker(product)
    celery = create_celery(product.environment["CHATS_BROKER_URL"], client="tests")
    publish_events(celery, [*reversed(events), *reversed(events)])

    await product.start("worker")
    await eventually(lambda: all_recorded_once(product, [message]), deadline=CAUGHT_UP)
    await product.start("sweeper")

    [email] = [email for email in await product.emails() if email["conversation_id"] == conversation]
    assert (email["state"], email["reason"]) == ("cancelled", "read")
    assert not [mail for mail in mail_server.mails if b"Backwards." in mail.content]


async def logged_about(product: Product, conversation: str, last: str) -> list[Event] | None:
    """Return the numbered events of a conversation that workers handle, once there is one of the type `last`."""
    url = f"{product.environment['CHATS_CONVERSATIONS_URL']}/internal/events"
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {SECRET}"}) as client:
        answer = await client.get(url, params={"limit": 1000})
    found = [event for event in Feed.model_validate(answer.json()).items if event.type in TASKS]
    theirs = [event for event in found if (event.payload or {}).get("conversation_id") == conversation]
    return theirs if last in {event.type for event in theirs} else None


async def empty_broker(product: Product) -> None:
    async with redis.asyncio.from_url(product.environment["CHATS_BROKER_URL"]) as broker:
        await broker.flushall()
