"""A live stream delivers only its user's events, from any position in the log."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2

from services.conversations.event_log.position import encode_position
from shared.database.transactions import SessionFactory
from shared.event_log.reading import read_head
from tests.helpers.sse_client import Reader, reading
from tests.helpers.waiting import eventually
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.live_api import Live, until_received

CANARY = "canary-anna"


async def change_everything(live: Live, anna: Caller, sam: Caller, shop: Caller) -> str:
    """Cause every kind of event in a customer's conversation; return its id."""
    await shop.call("PUT", "/users/anna", {"name": f"{CANARY} name", "email": f"{CANARY}@customer.test"})
    conversation = str((await anna.open(subject=f"{CANARY} subject", body=f"{CANARY} body"))["id"])
    await sam.edit(conversation, reply_body=f"{CANARY} reply", status="CLOSED")
    await anna.call("POST", f"/conversations/{conversation}/read", {"up_to": 2})
    await sam.call("POST", f"/conversations/{conversation}/unread")
    await live.number()
    return conversation


@asynccontextmanager
async def cookie_of(api: httpx2.AsyncClient, user_id: str) -> AsyncIterator[dict[str, str]]:
    """Sign a user in, and yield their browser's cookie header."""
    async with httpx2.AsyncClient(transport=api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in(user_id)
        yield {"Cookie": f"chats={browser.token}"}


async def test_a_stream_reveals_nothing_of_another_customer_from_any_position(
    live: Live,
    api: httpx2.AsyncClient,
    anna: Caller,
    ben: Caller,
    sam: Caller,
    shop: Caller,
    conversations: SessionFactory,
) -> None:
    own = (await ben.open())["id"]
    await live.number()
    start = await live.position()
    conversation = await change_everything(live, anna, sam, shop)
    admins = (await sam.call("GET", "/conversations")).headers["x-position"]
    async with conversations() as session:
        epoch, head = await read_head(session)
    positions = [
        start,
        admins,
        encode_position(epoch, 0),
        encode_position(epoch, head + 9),
        f"{conversation}",
        CANARY,
        "0",
        "",
    ]
    async with AsyncExitStack() as stack, cookie_of(api, "ben") as cookie:
        for position in positions:
            async with (
                live.reading(ben, after=position) as by_query,
                live.reading(ben, last_id=position) as by_header,
                reading(live.origin, cookie, last_id=position) as by_cookie,
            ):
                for reader in (by_query, by_header, by_cookie):
                    await joined(reader)
                    assert {event.data["conversation_id"] for event in reader.logged} <= {own}
                    assert reader.data_of("unread") == [{"unread": 0}]
                    assert CANARY not in repr(reader)
                    assert conversation not in repr(reader)
        watching = await stack.enter_async_context(live.reading(ben))
        admin = await stack.enter_async_context(live.reading(sam, after=start))
        owner = await stack.enter_async_context(live.reading(anna, after=start))
        await joined(watching)
        await sam.post(conversation, f"{CANARY} once more")
        await ben.open(subject="The last of all")
        await live.number()
        await until_received(watching)
        await until_received(admin, 6)
        assert [event.data["conversation"]["subject"] for event in watching.logged] == ["The last of all"]
        assert CANARY not in repr(watching)
        for reader in (admin, owner):
            assert f"{CANARY} once more" in repr(reader)
        assert "The last of all" in repr(admin)
        assert "The last of all" not in repr(owner)


async def joined(reader: Reader) -> None:
    """Wait until a client has received all missed events: the unread count comes after them."""
    await eventually(lambda: "unread" in reader.names)
