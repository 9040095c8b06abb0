"""Two admins in one conversation see each other, until they leave."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
from sqlalchemy import select, update

from services.conversations.models import Presence
from services.conversations.realtime.presence import purge_presence
from services.conversations.settings import StoreSettings
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.waiting import eventually
from tests.service.conftest import As, running_api
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.live_api import Live
from tests.service.helpers.valkey_process import Valkey

LONG_AGO = timedelta(seconds=61)


async def view(admin: Caller, conversation: str, **fields: Any) -> Any:
    answer = await admin.call("POST", f"/conversations/{conversation}/viewing", fields or None)
    assert answer.status_code == 200, answer.text
    return answer.json()["others"]


async def age(sessions: SessionFactory, by: timedelta) -> None:
    async with transaction(sessions) as session:
        await session.execute(update(Presence).values(seen_at=Presence.seen_at - by))


def another(sam: Caller, acting_as: As, sub: str = "kim", **claims: Any) -> Caller:
    return Caller(sam.api, sam.prefix, acting_as(sub, "admin", **claims))


async def test_an_admin_sees_who_else_is_viewing_the_conversation(anna: Caller, sam: Caller, acting_as: As) -> None:
    here, elsewhere = (await anna.open())["id"], (await anna.open())["id"]
    kim, nameless = another(sam, acting_as, name="Kim"), another(sam, acting_as, "a-7")

    assert await view(sam, here) == []
    assert await view(sam, elsewhere) == []
    assert await view(kim, here) == [{"id": "sam", "name": "Sam"}]
    assert await view(nameless, elsewhere) == [{"id": "sam", "name": "Sam"}]
    assert await view(sam, here) == [{"id": "kim", "name": "Kim"}]
    assert await view(sam, elsewhere) == [{"id": "a-7", "name": "a-7"}]


async def test_an_admin_who_left_or_was_silent_for_30_seconds_is_not_listed(
    anna: Caller, sam: Caller, acting_as: As, conversations: SessionFactory
) -> None:
    conversation = (await anna.open())["id"]
    kim = another(sam, acting_as)
    await view(kim, conversation)

    assert await view(kim, conversation, gone=True) == []
    assert await view(sam, conversation) == []

    await view(kim, conversation)
    await age(conversations, timedelta(seconds=31))
    assert await view(sam, conversation) == []


async def test_presence_is_for_admins_and_for_existing_conversations(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open())["id"]
    as_customer = Caller(anna.api, sam.prefix, anna.headers)
    answer = await as_customer.call("POST", f"/conversations/{conversation}/viewing")
    assert problem(answer) == (403, "forbidden")

    await sam.edit(conversation, status="CLOSED")
    await sam.call("DELETE", f"/conversations/{conversation}")
    answer = await sam.call("POST", f"/conversations/{conversation}/viewing")
    assert problem(answer) == (404, "not-found")


async def test_an_erased_name_is_not_shown(anna: Caller, sam: Caller, shop: Caller, acting_as: As) -> None:
    conversation = (await anna.open())["id"]
    await view(another(sam, acting_as, name="Kim"), conversation)
    await shop.call("DELETE", "/users/kim")
    assert await view(sam, conversation) == []


async def test_expired_presence_is_purged(anna: Caller, sam: Caller, conversations: SessionFactory) -> None:
    old, new = (await anna.open())["id"], (await anna.open())["id"]
    await view(sam, old)
    await age(conversations, LONG_AGO)
    await view(sam, new)

    settings = StoreSettings.model_construct()
    async with transaction(conversations) as session:
        assert await purge_presence(session, settings, size=10) == 1
        assert [str(row) for row in await session.scalars(select(Presence.conversation_id))] == [new]


@asynccontextmanager
async def at(live: Live, admin: Caller) -> AsyncIterator[Caller]:
    """Call a running API over HTTP."""
    async with httpx2.AsyncClient(base_url=live.origin, timeout=30) as client:
        yield Caller(client, admin.prefix, admin.headers)


async def test_admins_streams_get_who_is_viewing_and_writing_and_customers_do_not(
    live: Live, anna: Caller, sam: Caller, acting_as: As
) -> None:
    conversation = (await anna.open())["id"]
    await live.number()
    async with live.reading(anna) as customer, live.reading(sam) as admin:
        await eventually(lambda: "unread" in admin.names and "unread" in customer.names)
        async with at(live, another(sam, acting_as, name="Kim")) as kim:
            for fields in ({}, {}, {"writing": True}, {"writing": True}, {"writing": False}, {"gone": True}):
                await view(kim, conversation, **fields)
            await view(kim, conversation, gone=True)  # not there any more: no change
        await anna.post(conversation)
        await live.number()
        await eventually(lambda: "message.posted" in customer.names and "message.posted" in admin.names)
        base = {"conversation_id": conversation, "admin": {"id": "kim", "name": "Kim"}}
        states = [(True, None), (True, True), (True, True), (True, False), (False, False)]
        assert admin.data_of("presence") == [
            base | {"viewing": viewing, "writing": writing} for viewing, writing in states
        ]
        assert all(event.id is None for event in admin.events if event.event == "presence")
        assert "presence" not in customer.names
        assert "Kim" not in str([event.data for event in customer.events])


async def test_presence_reaches_the_streams_of_other_processes_and_survives_without_redis(
    anna: Caller,
    sam: Caller,
    acting_as: As,
    conversations: SessionFactory,
    databases: dict[str, str],
    valkey: Valkey,
) -> None:
    conversation = (await anna.open())["id"]
    async with (
        running_api(conversations, databases["conversations"], valkey.url) as here,
        running_api(conversations, databases["conversations"], valkey.url) as there,
        here.reading(sam) as near,
        there.reading(sam) as far,
        at(here, another(sam, acting_as, name="Kim")) as kim,
    ):
        await eventually(lambda: "unread" in near.names and "unread" in far.names)

        reports = 0

        async def has_arrived() -> bool:  # the subscription takes a moment
            nonlocal reports
            reports += 1
            await view(kim, conversation, writing=True)
            return "presence" in far.names

        await eventually(has_arrived)
        await eventually(lambda: len(near.data_of("presence")) == reports)
        assert far.data_of("presence")[-1] == near.data_of("presence")[-1]

        await valkey.kill()
        await view(kim, conversation, writing=False)
        await eventually(lambda: len(near.data_of("presence")) == reports + 1)
