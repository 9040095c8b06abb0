"""The live stream on a real server and a real log: in order, without gap, and nobody hears what is not theirs."""

from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import delete, insert, select, text, update

from services.conversations.live import STREAMS_PER_PERSON
from services.conversations.log import begin_epoch, decode_position, encode_position, read_head
from services.conversations.models import FeedHead, LoggedEvent
from services.conversations.rules import Side
from services.conversations.streams import BUFFER, Stream
from shared.auth import issue_token
from shared.database import Sessions, transaction
from shared.events import EventType
from tests.live import STREAM, Reader, reading
from tests.service.conftest import As
from tests.service.live_api import Live, place
from tests.service.store import Caller, problem
from tests.support import eventually


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
            await hears(reader, len(expected))
            assert [told.event.split(".")[1] for told in reader.logged] == expected
            assert {told.data["conversation_id"] for told in reader.logged} == {talk}
            assert all(decode_position(told.id or "") for told in reader.logged)
            assert reader.of("conversation.read") == [{"conversation_id": talk, "by": "user", "up_to": 2}]
            assert "message" not in reader.of("conversation.updated")[0]
        assert customer.of("conversation.updated")[-1]["conversation"] == await anna.peek(talk)
        assert admin.of("conversation.updated")[-1]["conversation"] == await sam.peek(talk)
        assert admin.of("message.posted")[1]["message"] == reply
        assert customer.of("message.posted")[1]["message"] == reply | {
            "sender": {"id": None, "name": "Sam", "role": "admin"}
        }
        assert (await sam.call("DELETE", f"/conversations/{talk}")).status_code == 204
        await live.number()
        for reader in (customer, admin):
            await hears(reader, len(expected) + 1)
            assert reader.of("conversation.deleted") == [{"conversation_id": talk}]


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
                await hears(reader)
                assert [(told.event, told.data["conversation_id"]) for told in reader.logged] == [
                    ("conversation.created", own)
                ]


async def test_what_was_missed_comes_in_order_and_by_pages(
    live: Live, anna: Caller, sam: Caller, conversations: Sessions
) -> None:
    talk = (await anna.open())["id"]
    await live.number()
    start = await live.position()
    await log_updates(conversations, "anna", talk, 1200)
    await live.number()
    await live.number()
    for caller in (anna, sam):
        async with live.reading(caller, after=start) as reader:
            await hears(reader, 1200)
            assert [place(told.id) for told in reader.logged] == list(range(2, 1202))
        middle = reader.logged[600].id
        async with live.reading(caller, after=start, last_id=middle) as reader:
            await hears(reader, 599)
            assert place(reader.logged[0].id) == place(middle) + 1, "the header wins"


async def test_what_was_deleted_since_is_told_as_deleted_only(live: Live, anna: Caller, sam: Caller) -> None:
    start = await live.position()
    talk = (await anna.open(body="Forget this."))["id"]
    await sam.edit(talk, reply_body="Forgotten.", status="CLOSED")
    await live.number()
    await sam.call("DELETE", f"/conversations/{talk}")
    await live.number()
    for caller in (anna, sam):
        async with live.reading(caller, after=start) as reader:
            await hears(reader)
            assert [told.event for told in reader.logged] == ["conversation.deleted"]
            assert "orgot" not in repr(reader.told)


@pytest.mark.parametrize("given", ["beyond", "elsewhere", "nonsense", "", "purged"])
async def test_a_client_whose_place_is_gone_is_told_and_then_hears_what_comes(
    live: Live, anna: Caller, conversations: Sessions, given: str
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
        assert reader.told[0].id == encode_position(epoch, head)
        talk = (await anna.open())["id"]
        await live.number()
        await hears(reader)
        assert [told.data["conversation_id"] for told in reader.logged] == [talk]


async def test_a_log_that_was_restored_sends_everybody_back_to_load_anew(
    live: Live, anna: Caller, sam: Caller, conversations: Sessions
) -> None:
    async with live.reading(anna) as customer, live.reading(sam) as admin:
        await eventually(lambda: customer.told and admin.told)
        async with transaction(conversations) as session:
            await begin_epoch(session)
        live.hub.wake()
        for reader in (customer, admin):
            await ends(reader)
            assert reader.names[-1] == "reset"
            assert reader.last_id == await live.position()


async def test_the_head_of_a_restored_log_lies_behind_its_readers(
    live: Live, anna: Caller, conversations: Sessions
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
        await ends(reader)
        assert reader.names[-1] == "reset"


async def test_the_number_unread_comes_first_and_whenever_it_is_another(
    live: Live, anna: Caller, ben: Caller, sam: Caller
) -> None:
    talk = (await anna.open())["id"]
    await live.number()
    async with live.reading(anna) as customer, live.reading(ben) as other, live.reading(sam) as admin:
        await eventually(lambda: customer.told and other.told and admin.told)
        assert [reader.of("unread") for reader in (customer, other, admin)] == [
            [{"unread": 0}],
            [{"unread": 0}],
            [{"unread": 1}],
        ]
        await sam.post(talk)
        await live.number()
        await eventually(lambda: len(customer.of("unread")) == 2 and len(admin.of("unread")) == 2)
        await anna.call("POST", f"/conversations/{talk}/read", {"up_to": 1})
        await live.number()
        await eventually(lambda: len(customer.of("unread")) == 3)
        assert customer.of("unread") == [{"unread": 0}, {"unread": 1}, {"unread": 0}]
        assert admin.of("unread") == [{"unread": 1}, {"unread": 0}], "another's reading changes nothing for the admins"
        assert other.of("unread") == [{"unread": 0}]
        assert all(told.id is None for told in customer.told if told.event == "unread")


async def test_a_client_that_is_too_slow_has_to_resume_and_misses_nothing(
    live: Live, anna: Caller, conversations: Sessions
) -> None:
    talk = (await anna.open())["id"]
    await live.number()
    async with conversations() as session:
        admitted_at = await read_head(session)
    slow = Stream("anna", Side.CUSTOMER, admitted_at)
    with live.hub.open(slow, None):
        events = live.hub.events(slow, None)
        heard = [await anext(events), await anext(events)]
        await log_updates(conversations, "anna", talk, BUFFER + 100)
        await live.number()
        await live.number()
        await eventually(lambda: slow.over)
        heard += [shown async for shown in events]
    last = [shown.id for shown in heard if shown.id][-1]
    async with live.reading(anna, last_id=last) as reader:
        await eventually(lambda: reader.logged and place(reader.logged[-1].id) == BUFFER + 101)
        assert [place(told.id) for told in reader.logged] == list(range(place(last) + 1, BUFFER + 102))


async def test_a_sixth_stream_of_a_person_waits_for_a_place(live: Live, anna: Caller, ben: Caller) -> None:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(live.reading(anna)) for _ in range(STREAMS_PER_PERSON - 1)]
        async with live.reading(anna), httpx2.AsyncClient(base_url=live.origin) as client:
            refused = await client.get(STREAM, headers=anna.headers)
            assert problem(refused) == (429, "too-many-streams")
            assert int(refused.headers["retry-after"]) > 0
            async with live.reading(ben) as another:
                await eventually(lambda: another.opened)
        await eventually(lambda: len(live.hub._streams["anna"]) == len(opened))  # noqa: SLF001 - when it has noticed
        async with live.reading(anna) as reader:
            await eventually(lambda: reader.told)


async def test_a_stream_ends_with_its_token(live: Live, anna: Caller) -> None:
    token = issue_token(live.settings, {"sub": "anna", "role": "customer"}, timedelta(seconds=-29))  # 30 are forgiven
    async with reading(live.origin, {"Authorization": f"Bearer {token}"}) as reader, live.reading(anna) as other:
        await ends(reader)
        assert not other.ended


async def test_a_stream_ends_when_its_person_is_deleted(
    live: Live, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    async with live.reading(anna) as customer, live.reading(sam) as admin, live.reading(ben) as other:
        await eventually(lambda: customer.told and admin.told and other.told)
        for person in ("anna", "sam"):
            assert (await shop.call("DELETE", f"/users/{person}")).status_code == 204
        await live.number()
        await ends(customer, admin)
        assert not other.ended
        async with httpx2.AsyncClient(base_url=live.origin) as client:
            assert problem(await client.get(STREAM, headers=anna.headers))[0] == 401
    assert (await shop.call("PUT", "/users/anna", {})).status_code == 201
    await live.number()
    async with live.reading(anna, after=customer.last_id) as again:
        talk = (await anna.open())["id"]
        await live.number()
        await hears(again)
        assert again.logged[0].data["conversation_id"] == talk, "an earlier deletion does not end it"


async def test_a_person_deleted_while_their_stream_opens_hears_nothing(
    live: Live, anna: Caller, shop: Caller, conversations: Sessions
) -> None:
    await anna.open()
    await live.number()
    async with conversations() as session:
        admitted_at = await read_head(session)
    await shop.call("DELETE", "/users/anna")
    await live.number()
    async with live.reading(Caller(anna.api, "", {"Authorization": shop_admin(live)})) as admin:
        await eventually(lambda: admin.told)  # so the hub is behind the deletion
        stream = Stream("anna", Side.CUSTOMER, admitted_at)
        with live.hub.open(stream, None):
            heard = [shown async for shown in live.hub.events(stream, None)]
    assert [shown.event for shown in heard] == [None]


def shop_admin(live: Live) -> str:
    return f"Bearer {issue_token(live.settings, {'sub': 'tom', 'role': 'admin'}, timedelta(hours=1))}"


async def test_streams_are_for_customers_and_admins(live: Live, shop: Caller) -> None:
    async with httpx2.AsyncClient(base_url=live.origin) as client:
        assert problem(await client.get(STREAM, headers=shop.headers)) == (403, "forbidden")
        assert problem(await client.get(STREAM)) == (401, "unauthenticated")


async def test_an_open_stream_holds_no_connection(live: Live, acting_as: As, conversations: Sessions) -> None:
    async with AsyncExitStack() as stack:
        readers: list[Reader] = []
        for n in range(15):  # more than the pool has
            headers = acting_as(f"reader-{n}", "admin" if n % 2 else "customer")
            readers.append(await stack.enter_async_context(reading(live.origin, headers)))
        await eventually(lambda: all(reader.told for reader in readers))
        busy = text("select count(*) from pg_stat_activity where application_name = 'chats-api' and state <> 'idle'")
        async with conversations() as session:
            assert (await session.execute(busy)).scalar_one() == 0


async def test_a_database_that_ends_its_connections_ends_no_stream(
    live: Live, anna: Caller, conversations: Sessions
) -> None:
    async with live.reading(anna) as reader:
        await eventually(lambda: reader.told)
        async with conversations() as session:
            ours = text("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'chats-api'")
            assert (await session.execute(ours)).all()
        talk = (await anna.open())["id"]
        await live.number()
        await hears(reader)
        assert reader.logged[0].data["conversation_id"] == talk


async def test_lists_and_threads_say_where_the_stream_goes_on_from(
    live: Live, anna: Caller, sam: Caller, conversations: Sessions
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
        await hears(reader)
        assert reader.of("message.posted")[0]["message"]["body"] == "Here."


async def hears(reader: Reader, count: int = 1) -> None:
    """Wait until a client has heard so much of the log."""
    await eventually(lambda: len(reader.logged) >= count)


async def ends(*readers: Reader) -> None:
    """Wait until streams have ended."""
    await eventually(lambda: all(reader.ended for reader in readers))


async def log_updates(sessions: Sessions, user_id: str, conversation: str, count: int) -> None:
    """Log many changes of a conversation at once."""
    row = {
        "type": EventType.CONVERSATION_UPDATED,
        "user_id": user_id,
        "conversation_id": conversation,
        "payload": {"conversation_id": conversation},
    }
    async with transaction(sessions) as session:
        await session.execute(insert(LoggedEvent), [row] * count)
