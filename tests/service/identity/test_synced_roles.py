"""The store's role limits what older tokens and cookies with another role may do."""

import asyncio
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import text

from services.conversations.identity import sessions
from services.conversations.identity.provisioning import provision_user
from services.conversations.messaging.posting import Post, post_message
from services.conversations.rules import Side
from shared.auth.principal import Principal
from shared.database.transactions import SessionFactory, driver_connection, transaction
from shared.problems import Forbidden, Unauthenticated
from shared.settings import Role
from tests.helpers.waiting import eventually
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.live_api import Live, until_ended

FORBIDDEN = (403, "forbidden")


async def test_an_admins_token_is_rejected_everywhere_after_the_store_made_them_a_customer(
    anna: Caller, sam: Caller, shop: Caller
) -> None:
    conversation = (await anna.open())["id"]
    await sam.post(conversation)  # now this process has cached that Sam may post
    await shop.call("PUT", "/users/sam", {"name": "Sam", "role": "customer"})

    one = f"/conversations/{conversation}"
    for method, path, body in (
        ("GET", "/conversations", None),
        ("GET", one, None),
        ("GET", f"{one}/messages", None),
        ("GET", "/users", None),
        ("GET", "/conversations/counts", None),
        ("POST", f"{one}/messages", {"body": "Still here"}),
        ("PATCH", one, {"status": "CLOSED"}),
        ("PATCH", one, {"reply_body": "Still here"}),
        ("POST", "/conversations", {"user_id": "anna", "subject": "Hi", "body": "Hi"}),
        ("POST", f"{one}/read", {"up_to": 1}),
        ("POST", f"{one}/unread", None),
        ("DELETE", one, None),
        ("POST", "/conversations/bulk-delete", {"ids": [conversation]}),
    ):
        assert problem(await sam.call(method, path, body)) == FORBIDDEN, (method, path)
    for path in ("/api/v1/unread", "/api/v1/stream"):
        answer = await sam.api.get(path, headers=sam.headers)
        assert problem(answer) == FORBIDDEN, path
    assert [message["sender"]["id"] for message in (await anna.get(f"{one}/messages"))["items"]] == [None]

    await shop.call("PUT", "/users/sam", {"name": "Sam", "role": "admin"})
    await sam.post(conversation)


async def test_without_a_synced_role_the_tokens_role_is_used(sam: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/users/sam", {"name": "Sam"})
    await sam.get("/conversations")
    await shop.call("PUT", "/users/sam", {"role": "customer"})
    await shop.call("PUT", "/users/sam", {"name": "Sam"})  # the role stays as it was
    assert problem(await sam.call("GET", "/conversations")) == FORBIDDEN


async def test_an_imported_role_has_the_same_effect(sam: Caller, shop: Caller) -> None:
    await sam.get("/conversations")
    line = '{"type": "user", "id": "sam", "role": "customer"}'
    answer = await shop.call("POST", "/import", content=line, headers={"Content-Type": "application/x-ndjson"})
    assert answer.json()["status"] == 200
    assert problem(await sam.call("GET", "/conversations")) == FORBIDDEN


async def test_a_synced_admin_may_act_as_a_customer(anna: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/users/anna", {"role": "admin"})
    await anna.open()


async def test_an_admins_session_ends_and_none_begins_once_they_are_a_customer(
    api: httpx2.AsyncClient, shop: Caller
) -> None:
    browser = Browser(api)
    assert (await browser.sign_in("sam", "admin")).status_code == 303
    assert (await browser.get("/api/v1/admin/conversations")).status_code == 200
    await shop.call("PUT", "/users/sam", {"role": "customer"})
    for path in ("/api/v1/admin/conversations", "/admin/dashboard/conversation/"):
        assert (await browser.get(path)).status_code == 401, path
    assert (await browser.sign_in("sam", "admin")).status_code == 403
    assert (await browser.sign_in("sam", "customer")).status_code == 303


async def test_a_session_that_begins_during_the_role_change_is_invalid(
    conversations: SessionFactory, shop: Caller
) -> None:
    async with transaction(conversations) as session:
        await provision_user(session, Principal("sam", Role.ADMIN))
    async with transaction(conversations) as session:
        begun = await sessions.begin(session, "sam", Side.ADMIN)
        # The change cannot see the session, which is not committed.
        await asyncio.wait_for(shop.call("PUT", "/users/sam", {"role": "customer"}), 10)
    principal = Principal("sam", Role.ADMIN, session_id=begun.id)
    for look in (sessions.check_session, sessions.load_page_context, sessions.require_session):
        async with transaction(conversations) as session:
            with pytest.raises(Unauthenticated):
                await look(await driver_connection(session), principal)


async def test_an_admins_post_during_the_role_change_is_rejected(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open())["id"]
    await sam.post(conversation)
    await shop.call("PUT", "/users/sam", {"role": "customer"})
    async with transaction(conversations) as session:
        await session.execute(text("select"))
        with pytest.raises(Forbidden):
            await post_message(session, Post(UUID(conversation), "sam", Side.ADMIN, "Still here"))


async def test_an_admins_stream_ends_when_the_store_makes_them_a_customer(
    live: Live, anna: Caller, sam: Caller, shop: Caller
) -> None:
    await sam.get("/conversations")
    async with live.reading(sam) as reader, live.reading(anna) as other:
        await eventually(lambda: reader.events and other.events)
        await shop.call("PUT", "/users/sam", {"role": "customer"})
        await shop.call("PUT", "/users/anna", {"role": "customer"})
        await live.number()
        await until_ended(reader)
        assert not other.ended
