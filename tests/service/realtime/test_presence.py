"""Two admins in one conversation see each other, until they leave."""

from datetime import timedelta
from typing import Any

from sqlalchemy import select, update

from services.conversations.models import Presence
from services.conversations.realtime.presence import purge_presence
from services.conversations.settings import StoreSettings
from shared.database import SessionFactory, transaction
from tests.service.conftest import As
from tests.service.helpers.callers import Caller, problem

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
