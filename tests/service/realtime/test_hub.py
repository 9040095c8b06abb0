"""Live streams on a real server and a real log: in order, without gaps, and only the client's own events."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import delete, select, text, update

from services.conversations.event_log.position import decode_position, encode_position
from services.conversations.event_log.sequencer import number_events
from services.conversations.models import FeedHead, LoggedEvent
from services.conversations.realtime.connection import BUFFER, Connection, SseEvent
from services.conversations.rules import Side
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from shared.event_log.reading import read_head
from shared.event_log.sequencer import rotate_epoch
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live, log_updates, until_ended, until_received


async def test_both_sides_receive_all_events_in_their_own_view(live: Live, anna: Caller, sam: Caller) -> None:
    async with live.reading(anna) as customer, live.reading(sam) as admin:
        conversation = (await anna.open(body="Hello?"))["id"]
        reply = await sam.post(conversation, "Here it is.")
        await anna.call("POST", f"/conversations/{conversation}/read", {"up_to": 2})
        await sam.edit(conversation, status="CLOSED")
        await sam.call("POST", f"/conversations/{conversation}/unread")
        await live.number()
        expected = ["created", "posted", "posted", "read", "updated", "updated"]
        for reader in (customer, admin):
            await until_received(reader, len(expected))
            assert [event.event.split(".")[1] for event in reader.logged] == expected
            assert {event.data["conversation_id"] for event in reader.logged} == {conversation}
            assert all(decode_position(event.id or "", live.epoch) for event in reader.logged)
            assert reader.data_of("conversation.read") == [{"conversation_id": conversation, "by": "user", "up_to": 2}]
            assert "message" not in reader.data_of("conversation.updated")[0]
        assert customer.data_of("conversation.updated")[-1]["conversation"] == await anna.peek(conversation)
        assert admin.data_of("conversation.updated")[-1]["conversation"] == await sam.peek(conversation)
        assert admin.data_of("message.posted")[1]["message"] == reply
        assert customer.data_of("message.posted")[1]["message"] == reply | {
            "sender": {"id": None, "name": "Sam", "role": "admin"}
        }
        assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
        await live.number()
        for reader in (customer, admin):
            await until_received(reader, len(expected) + 1)
            assert reader.data_of("conversation.deleted") == [{"conversation_id": conversation}]


async def test_a_streams_headers_and_retry_time_are_set(live: Live, anna: Caller) -> None:
    async with live.reading(anna) as first, live.reading(anna) as second:
        await eventually(lambda: first.opened and second.opened)
        assert first.headers["content-type"].startswith("text/event-stream")
        assert first.headers["x-accel-buffering"] == "no"
        assert "no-store" in first.headers["cache-control"]
        assert first.last_id == await live.position(), "even before any event"
        assert 1000 <= (first.retry or 0) <= 4000


async def test_no_customer_receives_events_of_anothers_conversation(
    live: Live, anna: Caller, ben: Caller, sam: Caller
) -> None:
    start = await live.position()
    async with live.reading(ben) as at_once:
        conversation = (await anna.open(body="A secret."))["id"]
        own = (await ben.open())["id"]
        await sam.edit(conversation, reply_body="Hush.", status="CLOSED")
        await sam.call("DELETE", f"/conversations/{conversation}")
        await live.number()
        async with live.reading(ben, after=start) as later:
            for reader in (at_once, later):
                await until_received(reader)
                assert [(event.event, event.data["conversation_id"]) for event in reader.logged] == [
                    ("conversation.created", own)
                ]


async def test_missed_events_are_delivered_in_order_and_in_pages(
    live: Live, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open())["id"]
    await live.number()
    start = await live.position()
    await log_updates(conversations, "anna", conversation, 1200)
    await live.number()
    await live.number()
    for caller in (anna, sam):
        async with live.reading(caller, after=start) as reader:
            await until_received(reader, 1200)
            assert [live.number_of(event.id) for event in reader.logged] == list(range(2, 1202))
        middle = reader.logged[600].id
        async with live.reading(caller, after=start, last_id=middle) as reader:
            await until_received(reader, 599)
            assert live.number_of(reader.logged[0].id) == live.number_of(middle) + 1, "the header wins"
        async with live.reading(caller, after=middle, last_id="") as reader:
            await until_received(reader, 599)
            assert live.number_of(reader.logged[0].id) == live.number_of(middle) + 1, "an empty header counts as none"


async def test_missed_events_of_a_deleted_conversation_are_replaced_by_its_deletion(
    live: Live, anna: Caller, sam: Caller
) -> None:
    start = await live.position()
    conversation = (await anna.open(body="Forget this."))["id"]
    await sam.edit(conversation, reply_body="Forgotten.", status="CLOSED")
    await live.number()
    await sam.call("DELETE", f"/conversations/{conversation}")
    await live.number()
    for caller in (anna, sam):
        async with live.reading(caller, after=start) as reader:
            await until_received(reader)
            assert [event.event for event in reader.logged] == ["conversation.deleted"]
            assert "orgot" not in repr(reader.events)


@pytest.mark.parametrize("position", ["beyond", "elsewhere", "nonsense", "purged"])
async def test_a_client_with_an_invalid_position_gets_a_reset_and_then_new_events(
    live: Live, anna: Caller, conversations: SessionFactory, position: str
) -> None:
    await anna.open()
    await anna.open()
    await live.number()
    async with live.reading(anna) as before:
        await eventually(lambda: before.data_of("unread"))  # the hub has read what is purged next, as everywhere
    async with transaction(conversations) as session:
        epoch, head = await read_head(session)
        await session.execute(delete(LoggedEvent).where(LoggedEvent.position == 1))
    positions = {
        "beyond": encode_position(epoch, head + 1),
        "elsewhere": encode_position(UUID(int=7), head),
        "purged": encode_position(epoch, 0),
    }
    async with live.reading(anna, last_id=positions.get(position, position)) as reader:
        await eventually(lambda: reader.names)
        assert reader.names[0] == "reset"
        assert reader.events[0].id == encode_position(epoch, head)
        conversation = (await anna.open())["id"]
        await live.number()
        await until_received(reader)
        assert [event.data["conversation_id"] for event in reader.logged] == [conversation]


async def test_after_a_restore_of_the_log_all_streams_end_with_a_reset(
    live: Live, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    async with live.reading(anna) as customer, live.reading(sam) as admin:
        await eventually(lambda: customer.events and admin.events)
        async with transaction(conversations) as session:
            await rotate_epoch(session)
        live.hub.wake()
        for reader in (customer, admin):
            await until_ended(reader)
            assert reader.names[-1] == "reset"
            assert reader.last_id == await live.position()


async def test_a_log_head_before_the_readers_position_ends_streams_with_a_reset(
    live: Live, anna: Caller, conversations: SessionFactory
) -> None:
    async with live.reading(anna) as reader:
        await anna.open()
        await anna.open()
        await live.number()
        await eventually(lambda: len(reader.logged) == 2)
        async with transaction(conversations) as session:
            await session.execute(delete(LoggedEvent).where(LoggedEvent.position == 2))
            await session.execute(update(FeedHead).values(head=1))
        live.hub.wake()
        await until_ended(reader)
        assert reader.names[-1] == "reset"


async def test_the_unread_count_comes_first_and_at_every_change(
    live: Live, anna: Caller, ben: Caller, sam: Caller
) -> None:
    conversation = (await anna.open())["id"]
    await live.number()
    async with live.reading(anna) as customer, live.reading(ben) as other, live.reading(sam) as admin:
        await eventually(lambda: customer.events and other.events and admin.events)
        assert [reader.data_of("unread") for reader in (customer, other, admin)] == [
            [{"unread": 0}],
            [{"unread": 0}],
            [{"unread": 1}],
        ]
        await sam.post(conversation)
        await live.number()
        await eventually(lambda: len(customer.data_of("unread")) == 2 and len(admin.data_of("unread")) == 2)
        await anna.call("POST", f"/conversations/{conversation}/read", {"up_to": 1})
        await live.number()
        await eventually(lambda: len(customer.data_of("unread")) == 3)
        assert customer.data_of("unread") == [{"unread": 0}, {"unread": 1}, {"unread": 0}]
        assert admin.data_of("unread") == [{"unread": 1}, {"unread": 0}], (
            "another's reading changes nothing for the admins"
        )
        assert other.data_of("unread") == [{"unread": 0}]
        assert all(event.id is None for event in customer.events if event.event == "unread")


async def test_a_slow_client_is_disconnected_and_misses_nothing_after_resuming(
    live: Live, anna: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open())["id"]
    await live.number()
    async with conversations() as session:
        admitted_at = await read_head(session)
    slow = Connection("anna", Side.CUSTOMER, admitted_at)
    with live.hub.open(slow, None):
        events = live.hub.events(slow, None)
        received = [*await anext(events)]
        await log_updates(conversations, "anna", conversation, BUFFER + 100)
        await live.number()
        await live.number()
        await eventually(lambda: slow.over)
        received += [event async for batch in events for event in batch]
    last = [event.id for event in received if event.id][-1]
    async with live.reading(anna, last_id=last) as reader:
        await eventually(lambda: reader.logged and live.number_of(reader.logged[-1].id) == BUFFER + 101)
        assert [live.number_of(event.id) for event in reader.logged] == list(
            range(live.number_of(last) + 1, BUFFER + 102)
        )


async def test_a_client_ahead_of_the_hub_receives_nothing_twice(
    live: Live, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    async with live.reading(sam) as before:
        await eventually(lambda: before.events)
        await anna.open()
        async with transaction(conversations) as session:
            await number_events(await transaction_driver(session))  # without waking the hub
        async with live.reading(anna) as customer, live.reading(sam) as admin:
            await until_received(before)
            conversation = (await anna.open())["id"]
            await live.number()
            for reader in (customer, admin):
                await until_received(reader)
                assert [event.data["conversation_id"] for event in reader.logged] == [conversation]


async def test_a_client_that_connects_while_the_hub_reads_misses_nothing(
    live: Live, anna: Caller, conversations: SessionFactory
) -> None:
    async with live.reading(anna) as first:
        await eventually(lambda: first.events)
    await eventually(lambda: not live.hub._streams)  # noqa: SLF001 - so that the hub only reads the log's head
    async with conversations() as session:
        stream = Connection("anna", Side.CUSTOMER, await read_head(session))
    conversation = (await anna.open())["id"]
    with live.hub.open(stream, None):
        async with transaction(conversations) as session:
            await session.execute(text("lock table feed"))
            live.hub.wake()
            await eventually(lambda: waits_for_a_lock(conversations))
            events = live.hub.events(stream, None)
            await anext(events)
            received: list[SseEvent] = []

            async def listen() -> None:
                while not any(event.position for event in received):
                    received.extend(await anext(events))

            listening = asyncio.create_task(listen())
            await eventually(lambda: stream.joined)
            await number_events(await transaction_driver(session))
        await asyncio.wait_for(listening, 30)
    [event] = [event for event in received if event.position is not None]
    assert conversation in (event.data or "")


async def test_lists_and_threads_include_the_position_to_start_a_stream_from(
    live: Live, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await live.number()
    before = await live.position()
    async with conversations() as session:
        assert (await session.scalars(select(LoggedEvent.position))).all() == [1, 2]
    paths = ["/conversations", f"/conversations/{conversation}", f"/conversations/{conversation}/messages"]
    for caller in (anna, sam):
        for path in paths:
            answer = await caller.call("GET", path, params={"peek": "true"} if path == paths[1] else {})
            assert answer.headers["x-position"] == before
    await sam.post(conversation, "Here.")
    await live.number()
    async with live.reading(anna, after=before) as reader:
        await until_received(reader)
        assert reader.data_of("message.posted")[0]["message"]["body"] == "Here."


async def waits_for_a_lock(sessions: SessionFactory) -> bool:
    """Return whether the API waits for a lock."""
    ours = text(
        "select count(*) from pg_stat_activity where application_name = 'chats-api' and wait_event_type = 'Lock'"
    )
    async with sessions() as session:
        return bool(await session.scalar(ours))
