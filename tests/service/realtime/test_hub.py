"""The live stream on a real server and a real log: in order, without gap, and nobody hears what is not theirs."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import delete, select, text, update

from services.conversations.event_log.position import decode_position, encode_position
from services.conversations.event_log.reader import read_head
from services.conversations.event_log.sequencer import number_events, rotate_epoch
from services.conversations.models import FeedHead, LoggedEvent
from services.conversations.realtime.connection import BUFFER, Connection, SseEvent
from services.conversations.rules import Side
from shared.database import SessionFactory, transaction
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live, log_updates, until_ended, until_received


async def test_both_sides_hear_of_all_that_happens_as_each_may_see_it(live: Live, anna: Caller, sam: Caller) -> None:
    async with live.reading(anna) as customer, live.reading(sam) as admin:
        talk = (await anna.open(body="Hello?"))["id"]
        reply = await sam.post(talk, "Here it is.")
        await anna.call("POST", f"/conversations/{talk}/read", {"up_to": 2})
        await sam.edit(talk, status="CLOSED")
        await sam.call("POST", f"/conversations/{talk}/unread")
        await live.number()
        expected = ["created", "posted", "posted", "read", "updated", "updated"]
        for reader in (customer, admin):
            await until_received(reader, len(expected))
            assert [event.event.split(".")[1] for event in reader.logged] == expected
            assert {event.data["conversation_id"] for event in reader.logged} == {talk}
            assert all(decode_position(event.id or "", live.epoch) for event in reader.logged)
            assert reader.data_of("conversation.read") == [{"conversation_id": talk, "by": "user", "up_to": 2}]
            assert "message" not in reader.data_of("conversation.updated")[0]
        assert customer.data_of("conversation.updated")[-1]["conversation"] == await anna.peek(talk)
        assert admin.data_of("conversation.updated")[-1]["conversation"] == await sam.peek(talk)
        assert admin.data_of("message.posted")[1]["message"] == reply
        assert customer.data_of("message.posted")[1]["message"] == reply | {
            "sender": {"id": None, "name": "Sam", "role": "admin"}
        }
        assert (await sam.call("DELETE", f"/conversations/{talk}")).status_code == 204
        await live.number()
        for reader in (customer, admin):
            await until_received(reader, len(expected) + 1)
            assert reader.data_of("conversation.deleted") == [{"conversation_id": talk}]


async def test_a_stream_says_that_it_is_one_and_how_to_come_back(live: Live, anna: Caller) -> None:
    async with live.reading(anna) as first, live.reading(anna) as second:
        await eventually(lambda: first.opened and second.opened)
        assert first.headers["content-type"].startswith("text/event-stream")
        assert first.headers["x-accel-buffering"] == "no"
        assert "no-store" in first.headers["cache-control"]
        assert first.last_id == await live.position(), "also before anything has happened"
        assert 1000 <= (first.retry or 0) <= 4000


async def test_nobody_hears_of_another_customers_conversation(
    live: Live, anna: Caller, ben: Caller, sam: Caller
) -> None:
    start = await live.position()
    async with live.reading(ben) as at_once:
        talk = (await anna.open(body="A secret."))["id"]
        own = (await ben.open())["id"]
        await sam.edit(talk, reply_body="Hush.", status="CLOSED")
        await sam.call("DELETE", f"/conversations/{talk}")
        await live.number()
        async with live.reading(ben, after=start) as later:
            for reader in (at_once, later):
                await until_received(reader)
                assert [(event.event, event.data["conversation_id"]) for event in reader.logged] == [
                    ("conversation.created", own)
                ]


async def test_what_was_missed_comes_in_order_and_by_pages(
    live: Live, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    talk = (await anna.open())["id"]
    await live.number()
    start = await live.position()
    await log_updates(conversations, "anna", talk, 1200)
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


async def test_what_was_deleted_since_is_told_as_deleted_only(live: Live, anna: Caller, sam: Caller) -> None:
    start = await live.position()
    talk = (await anna.open(body="Forget this."))["id"]
    await sam.edit(talk, reply_body="Forgotten.", status="CLOSED")
    await live.number()
    await sam.call("DELETE", f"/conversations/{talk}")
    await live.number()
    for caller in (anna, sam):
        async with live.reading(caller, after=start) as reader:
            await until_received(reader)
            assert [event.event for event in reader.logged] == ["conversation.deleted"]
            assert "orgot" not in repr(reader.events)


@pytest.mark.parametrize("given", ["beyond", "elsewhere", "nonsense", "", "purged"])
async def test_a_client_whose_place_is_gone_is_told_and_then_hears_what_comes(
    live: Live, anna: Caller, conversations: SessionFactory, given: str
) -> None:
    await anna.open()
    await anna.open()
    await live.number()
    async with transaction(conversations) as session:
        epoch, head = await read_head(session)
        await session.execute(delete(LoggedEvent).where(LoggedEvent.position == 1))
    places = {
        "beyond": encode_position(epoch, head + 1),
        "elsewhere": encode_position(UUID(int=7), head),
        "purged": encode_position(epoch, 0),
    }
    async with live.reading(anna, last_id=places.get(given, given)) as reader:
        await eventually(lambda: reader.names)
        assert reader.names[0] == "reset"
        assert reader.events[0].id == encode_position(epoch, head)
        talk = (await anna.open())["id"]
        await live.number()
        await until_received(reader)
        assert [event.data["conversation_id"] for event in reader.logged] == [talk]


async def test_a_log_that_was_restored_sends_everybody_back_to_load_anew(
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


async def test_the_head_of_a_restored_log_lies_behind_its_readers(
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


async def test_the_number_unread_comes_first_and_whenever_it_is_another(
    live: Live, anna: Caller, ben: Caller, sam: Caller
) -> None:
    talk = (await anna.open())["id"]
    await live.number()
    async with live.reading(anna) as customer, live.reading(ben) as other, live.reading(sam) as admin:
        await eventually(lambda: customer.events and other.events and admin.events)
        assert [reader.data_of("unread") for reader in (customer, other, admin)] == [
            [{"unread": 0}],
            [{"unread": 0}],
            [{"unread": 1}],
        ]
        await sam.post(talk)
        await live.number()
        await eventually(lambda: len(customer.data_of("unread")) == 2 and len(admin.data_of("unread")) == 2)
        await anna.call("POST", f"/conversations/{talk}/read", {"up_to": 1})
        await live.number()
        await eventually(lambda: len(customer.data_of("unread")) == 3)
        assert customer.data_of("unread") == [{"unread": 0}, {"unread": 1}, {"unread": 0}]
        assert admin.data_of("unread") == [{"unread": 1}, {"unread": 0}], (
            "another's reading changes nothing for the admins"
        )
        assert other.data_of("unread") == [{"unread": 0}]
        assert all(event.id is None for event in customer.events if event.event == "unread")


async def test_a_client_that_is_too_slow_has_to_resume_and_misses_nothing(
    live: Live, anna: Caller, conversations: SessionFactory
) -> None:
    talk = (await anna.open())["id"]
    await live.number()
    async with conversations() as session:
        admitted_at = await read_head(session)
    slow = Connection("anna", Side.CUSTOMER, admitted_at)
    with live.hub.open(slow, None):
        events = live.hub.events(slow, None)
        heard = [*await anext(events)]
        await log_updates(conversations, "anna", talk, BUFFER + 100)
        await live.number()
        await live.number()
        await eventually(lambda: slow.over)
        heard += [shown async for some in events for shown in some]
    last = [shown.id for shown in heard if shown.id][-1]
    async with live.reading(anna, last_id=last) as reader:
        await eventually(lambda: reader.logged and live.number_of(reader.logged[-1].id) == BUFFER + 101)
        assert [live.number_of(event.id) for event in reader.logged] == list(
            range(live.number_of(last) + 1, BUFFER + 102)
        )


async def test_a_client_that_is_ahead_of_the_hub_hears_nothing_twice(
    live: Live, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    async with live.reading(sam) as before:
        await eventually(lambda: before.events)
        await anna.open()
        async with transaction(conversations) as session:
            await number_events(session)  # and the hub is not told
        async with live.reading(anna) as customer, live.reading(sam) as admin:
            await until_received(before)
            talk = (await anna.open())["id"]
            await live.number()
            for reader in (customer, admin):
                await until_received(reader)
                assert [event.data["conversation_id"] for event in reader.logged] == [talk]


async def test_a_client_that_comes_while_the_hub_looks_up_misses_nothing(
    live: Live, anna: Caller, conversations: SessionFactory
) -> None:
    async with live.reading(anna) as first:
        await eventually(lambda: first.events)
    await eventually(lambda: not live.hub._streams)  # noqa: SLF001 - so that the hub only looks where the log ends
    async with conversations() as session:
        stream = Connection("anna", Side.CUSTOMER, await read_head(session))
    talk = (await anna.open())["id"]
    with live.hub.open(stream, None):
        async with transaction(conversations) as session:
            await session.execute(text("lock table feed"))
            live.hub.wake()
            await eventually(lambda: waits_for_a_lock(conversations))
            events = live.hub.events(stream, None)
            await anext(events)
            heard: list[SseEvent] = []

            async def listen() -> None:
                while not any(shown.position for shown in heard):
                    heard.extend(await anext(events))

            listening = asyncio.create_task(listen())
            await eventually(lambda: stream.joined)
            await number_events(session)
        await asyncio.wait_for(listening, 30)
    [event] = [shown for shown in heard if shown.position is not None]
    assert talk in (event.data or "")


async def test_lists_and_threads_say_where_the_stream_goes_on_from(
    live: Live, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    talk = (await anna.open(body="Hello?"))["id"]
    await live.number()
    before = await live.position()
    async with conversations() as session:
        assert (await session.scalars(select(LoggedEvent.position))).all() == [1, 2]
    paths = ["/conversations", f"/conversations/{talk}", f"/conversations/{talk}/messages"]
    for caller in (anna, sam):
        for path in paths:
            answer = await caller.call("GET", path, params={"peek": "true"} if path == paths[1] else {})
            assert answer.headers["x-position"] == before
    await sam.post(talk, "Here.")
    await live.number()
    async with live.reading(anna, after=before) as reader:
        await until_received(reader)
        assert reader.data_of("message.posted")[0]["message"]["body"] == "Here."


async def waits_for_a_lock(sessions: SessionFactory) -> bool:
    """Tell whether the API waits for somebody's lock."""
    ours = text(
        "select count(*) from pg_stat_activity where application_name = 'chats-api' and wait_event_type = 'Lock'"
    )
    async with sessions() as session:
        return bool(await session.scalar(ours))
