"""Events of messages name the message, and are read with what it says; a log from before 0.3 still holds copies."""

from typing import Any

import pytest
from sqlalchemy import select, text

from services.conversations.event_log.reader import read_feed, read_page
from services.conversations.event_log.sequencer import number_events
from services.conversations.models import LoggedEvent
from shared.database.transactions import SessionFactory, driver_connection, transaction, transaction_driver
from shared.event_log.reading import read_head
from shared.events import Event, EventType, MessagePosted
from tests.service.helpers.callers import Caller


async def numbered(sessions: SessionFactory) -> list[Event]:
    """Number all events; return those of messages, as the relay publishes them."""
    async with transaction(sessions) as session:
        return [
            event
            for event in await number_events(await transaction_driver(session))
            if event.type == EventType.MESSAGE_POSTED
        ]


async def read(sessions: SessionFactory) -> list[dict[str, Any] | None]:
    """Return the payloads of all messages' events, as the feed and live streams have them."""
    async with sessions() as session:
        feed = await read_feed(session, after=0, limit=100)
        epoch, _ = await read_head(session)
        page = await read_page(await driver_connection(session), epoch, 0, limit=100)
    payloads = [event.payload for event in feed.items if event.type == EventType.MESSAGE_POSTED]
    assert [entry.payload for entry in page.entries if entry.type == EventType.MESSAGE_POSTED] == payloads
    return payloads


async def stored(sessions: SessionFactory) -> list[dict[str, Any] | None]:
    async with sessions() as session:
        query = select(LoggedEvent.payload).where(LoggedEvent.type == EventType.MESSAGE_POSTED)
        return list(await session.scalars(query.order_by(LoggedEvent.seq)))


@pytest.fixture(params=[True, False], ids=["references", "copies"])
async def by_reference(request: pytest.FixtureRequest, conversations: SessionFactory) -> bool:
    async with transaction(conversations) as session:
        await session.execute(text("update feed set by_reference = :value"), {"value": request.param})
    return bool(request.param)


async def test_every_reader_gets_the_whole_event(
    anna: Caller, sam: Caller, conversations: SessionFactory, by_reference: bool
) -> None:
    file = await anna.upload(b"A receipt", "receipt.txt")
    conversation = (await anna.open(body="Where is it?"))["id"]
    await sam.post(conversation, "On its way.")
    await anna.post(conversation, "Thanks!", attachments=[file["id"]])
    published = [event.payload for event in await numbered(conversations)]
    assert await read(conversations) == published
    first, second, third = (MessagePosted.model_validate(payload) for payload in published)
    assert [each.message.number for each in (first, second, third)] == [1, 2, 3]
    assert (second.message.body, second.sender.id, second.customer.id) == ("On its way.", "sam", "anna")
    assert (first.assignee_id, second.assignee_id, third.assignee_id) == (None, None, "sam")
    assert [each.name for each in third.message.attachments] == ["receipt.txt"]
    if by_reference:
        assert await stored(conversations) == [{"number": 1}, {"number": 2}, {"number": 3, "assignee_id": "sam"}]
    else:
        assert await stored(conversations) == published


async def test_the_assignee_is_that_of_the_moment(
    anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory, by_reference: bool
) -> None:
    conversation = (await anna.open(body="Where is it?"))["id"]
    await sam.post(conversation)
    await anna.post(conversation)
    await kim.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": "kim"})
    await numbered(conversations)
    assignees = [payload and payload.get("assignee_id") for payload in await read(conversations)]
    assert assignees == [None, None, "sam"], by_reference


async def test_of_a_removed_message_or_a_deleted_conversation_nothing_is_read(
    anna: Caller, sam: Caller, conversations: SessionFactory, by_reference: bool
) -> None:
    conversation, other = [(await anna.open(body="Where is it?"))["id"] for _ in range(2)]
    message = await sam.post(conversation, "A mistake")
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{message['id']}")
    await sam.edit(other, status="CLOSED")
    await sam.call("DELETE", f"/conversations/{other}")
    [first, *rest] = [event.payload for event in await numbered(conversations)]
    assert first is not None
    assert rest == [None, None], by_reference
    assert await read(conversations) == [first, None, None]


async def test_of_an_erased_person_no_name_is_read(
    anna: Caller, sam: Caller, conversations: SessionFactory, shop: Caller, by_reference: bool
) -> None:
    conversation = (await anna.open(body="Where is it?"))["id"]
    await sam.post(conversation)
    await numbered(conversations)
    assert "anna@" in str(await read(conversations)), by_reference
    assert (await shop.call("DELETE", "/users/anna")).status_code in {202, 204}
    for payload in await read(conversations):
        customer = MessagePosted.model_validate(payload).customer
        assert (customer.name, customer.email, customer.deleted) == (None, None, True)
