"""Live streams: who may open one, how many, what ends them, and what does not."""

from contextlib import AsyncExitStack
from datetime import timedelta

import httpx2
from sqlalchemy import text

from services.conversations.identity.sessions import begin, end
from services.conversations.realtime.connection import Connection
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON
from services.conversations.rules import Side
from shared.auth.cookies import cookie_name
from shared.auth.tokens import issue_session_token, issue_token
from shared.database.transactions import SessionFactory, transaction
from shared.event_log.reading import read_head
from shared.settings import Role
from tests.helpers.sse_client import STREAM, Reader, reading
from tests.helpers.waiting import eventually
from tests.service.conftest import As
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.live_api import Live, until_ended, until_received


async def test_a_users_sixth_stream_is_rejected_until_another_one_ends(live: Live, anna: Caller, ben: Caller) -> None:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(live.reading(anna)) for _ in range(STREAMS_PER_PERSON - 1)]
        async with live.reading(anna), httpx2.AsyncClient(base_url=live.origin, timeout=30) as client:
            refused = await client.get(STREAM, headers=anna.headers)
            assert problem(refused) == (429, "too-many-streams")
            assert int(refused.headers["retry-after"]) > 0
            async with live.reading(ben) as another:
                await eventually(lambda: another.opened)
        await eventually(lambda: len(live.hub._streams["anna"]) == len(opened))  # noqa: SLF001 - once the end is noticed
        async with live.reading(anna) as reader:
            await eventually(lambda: reader.events)


async def test_a_stream_ends_with_its_token_and_delivers_nothing_more(live: Live, anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open())["id"]
    token = issue_token(
        live.settings, {"sub": "anna", "role": "customer"}, timedelta(seconds=-26)
    )  # within the leeway of 30
    async with reading(live.origin, {"Authorization": f"Bearer {token}"}) as reader, live.reading(anna) as other:
        await until_ended(reader)
        await sam.post(conversation, "A secret.")
        await live.number()
        await eventually(lambda: "A secret." in repr(other))
        assert "A secret." not in repr(reader)
        assert not other.ended


async def test_a_browsers_stream_ends_with_its_session(live: Live, anna: Caller, conversations: SessionFactory) -> None:
    await anna.open()
    async with transaction(conversations) as session:
        going, staying = [await begin(session, "anna", Side.CUSTOMER) for _ in range(2)]
    cookies = [
        {"Cookie": f"{cookie_name(live.settings)}={issue_session_token(live.settings, 'anna', Role.CUSTOMER, *known)}"}
        for known in ((going.id, going.csrf), (staying.id, staying.csrf))
    ]
    async with reading(live.origin, cookies[0]) as ending, reading(live.origin, cookies[1]) as other:
        await eventually(lambda: ending.events and other.events)
        async with transaction(conversations) as session:
            await end(session, going.id)
        await until_ended(ending)
        assert not other.ended
        async with httpx2.AsyncClient(base_url=live.origin, timeout=30) as client:
            assert problem(await client.get(STREAM, headers=cookies[0]))[0] == 401


async def test_a_stream_ends_when_its_user_is_deleted(
    live: Live, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    async with live.reading(anna) as customer, live.reading(sam) as admin, live.reading(ben) as other:
        await eventually(lambda: customer.events and admin.events and other.events)
        for person in ("anna", "sam"):
            assert (await shop.call("DELETE", f"/users/{person}")).status_code == 204
        await live.number()
        await until_ended(customer, admin)
        assert not other.ended
        async with httpx2.AsyncClient(base_url=live.origin, timeout=30) as client:
            assert problem(await client.get(STREAM, headers=anna.headers))[0] == 401
    assert (await shop.call("PUT", "/users/anna", {})).status_code == 201
    await live.number()
    async with live.reading(anna, after=customer.last_id) as again:
        conversation = (await anna.open())["id"]
        await live.number()
        await until_received(again)
        assert again.logged[0].data["conversation_id"] == conversation, "an earlier deletion does not end it"


async def test_a_user_deleted_while_their_stream_opens_receives_nothing(
    live: Live, anna: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    await anna.open()
    await live.number()
    async with conversations() as session:
        admitted_at = await read_head(session)
    await shop.call("DELETE", "/users/anna")
    await live.number()
    async with live.reading(Caller(anna.api, "", {"Authorization": admin_token(live)})) as admin:
        await eventually(lambda: admin.events)  # so the hub has passed the deletion
        stream = Connection("anna", Side.CUSTOMER, admitted_at)
        with live.hub.open(stream, None):
            received = [event async for events in live.hub.events(stream, None) for event in events]
    assert [event.event for event in received] == [None]


def admin_token(live: Live) -> str:
    return f"Bearer {issue_token(live.settings, {'sub': 'tom', 'role': 'admin'}, timedelta(hours=1))}"


async def test_streams_are_for_customers_and_admins(live: Live, shop: Caller) -> None:
    async with httpx2.AsyncClient(base_url=live.origin, timeout=30) as client:
        assert problem(await client.get(STREAM, headers=shop.headers)) == (403, "forbidden")
        assert problem(await client.get(STREAM)) == (401, "unauthenticated")


async def test_an_open_stream_holds_no_database_connection(
    live: Live, acting_as: As, conversations: SessionFactory
) -> None:
    async with AsyncExitStack() as stack:
        readers: list[Reader] = []
        for n in range(15):  # more than the pool has connections
            headers = acting_as(f"reader-{n}", "admin" if n % 2 else "customer")
            readers.append(await stack.enter_async_context(reading(live.origin, headers)))
        await eventually(lambda: all(reader.events for reader in readers))
        busy = text("select count(*) from pg_stat_activity where application_name = 'chats-api' and state <> 'idle'")

        async def is_idle() -> bool:  # the hub itself reads now and then
            async with conversations() as session:
                return bool((await session.execute(busy)).scalar_one() == 0)

        assert await eventually(is_idle)


async def test_a_stream_survives_the_loss_of_the_database_connections(
    live: Live, anna: Caller, conversations: SessionFactory
) -> None:
    async with live.reading(anna) as reader:
        await eventually(lambda: reader.events)
        async with conversations() as session:
            ours = text(
                "select pg_terminate_backend(pid, 30000) from pg_stat_activity where application_name = 'chats-api'"
            )
            assert (await session.execute(ours)).all()
        conversation = (await anna.open())["id"]
        await live.number()
        await until_received(reader)
        assert reader.logged[0].data["conversation_id"] == conversation
