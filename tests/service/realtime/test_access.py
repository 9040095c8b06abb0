"""Whose events a live stream tells, whatever place in the log it begins from."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2

from services.conversations.event_log.position import encode_position
from services.conversations.event_log.reader import read_head
from shared.database import SessionFactory
from tests.helpers.sse_client import Reader, reading
from tests.helpers.waiting import eventually
from tests.service.helpers.browser import HOST, Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.live_api import Live, until_received

MARK = "canary-anna"


async def tell(live: Live, anna: Caller, sam: Caller, shop: Caller) -> str:
    """Let everything happen in a customer's conversation that streams tell of; return its id."""
    await shop.call("PUT", "/users/anna", {"name": f"{MARK} name", "email": f"{MARK}@customer.test"})
    talk = str((await anna.open(subject=f"{MARK} subject", body=f"{MARK} body"))["id"])
    await sam.edit(talk, reply_body=f"{MARK} reply", status="CLOSED")
    await anna.call("POST", f"/conversations/{talk}/read", {"up_to": 2})
    await sam.call("POST", f"/conversations/{talk}/unread")
    await live.number()
    return talk


@asynccontextmanager
async def cookie_of(api: httpx2.AsyncClient, who: str) -> AsyncIterator[dict[str, str]]:
    """Sign somebody in, and return the header of their browser."""
    async with httpx2.AsyncClient(transport=api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in(who)
        yield {"Cookie": f"chats={browser.token}"}


async def test_a_stream_tells_nothing_of_another_customer_from_wherever_it_begins(
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
    talk = await tell(live, anna, sam, shop)
    admins = (await sam.call("GET", "/conversations")).headers["x-position"]
    async with conversations() as session:
        epoch, head = await read_head(session)
    begins = [start, admins, encode_position(epoch, 0), encode_position(epoch, head + 9), f"{talk}", MARK, "0", ""]
    async with AsyncExitStack() as stack, cookie_of(api, "ben") as cookie:
        for begin in begins:
            async with (
                live.reading(ben, after=begin) as by_query,
                live.reading(ben, last_id=begin) as by_header,
                reading(live.origin, cookie, last_id=begin) as by_cookie,
            ):
                for reader in (by_query, by_header, by_cookie):
                    await joined(reader)
                    assert {event.data["conversation_id"] for event in reader.logged} <= {own}
                    assert reader.data_of("unread") == [{"unread": 0}]
                    assert MARK not in repr(reader)
                    assert talk not in repr(reader)
        watching = await stack.enter_async_context(live.reading(ben))
        admin = await stack.enter_async_context(live.reading(sam, after=start))
        owner = await stack.enter_async_context(live.reading(anna, after=start))
        await joined(watching)
        await sam.post(talk, f"{MARK} once more")
        await ben.open(subject="The last of all")
        await live.number()
        await until_received(watching)
        await until_received(admin, 6)
        assert [event.data["conversation"]["subject"] for event in watching.logged] == ["The last of all"]
        assert MARK not in repr(watching)
        for reader in (admin, owner):
            assert f"{MARK} once more" in repr(reader)
        assert "The last of all" in repr(admin)
        assert "The last of all" not in repr(owner)


async def joined(reader: Reader) -> None:
    """Wait until a client has all that it missed: the number of unread conversations comes behind it."""
    await eventually(lambda: "unread" in reader.names)
