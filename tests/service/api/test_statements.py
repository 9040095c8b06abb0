"""The number of statements in a request once its caller is known: one round trip each, without a transaction."""

import asyncio

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.service.conftest import As
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import ORDER, UNKNOWN_ID, Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.recorded_statements import statements


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("customer", "/conversations"),
        ("customer", "/conversations?status=OPEN&unread=false&limit=1"),
        ("customer", "/conversations/{}/messages"),
        ("customer", "/unread"),
        ("customer", "/orders"),
        ("admin", "/admin/conversations"),
        ("admin", "/admin/conversations?status=OPEN&status=AWAITING_ADMIN&unread=true&sort=waiting"),
        ("admin", "/admin/conversations?order_number=1007"),
        ("admin", "/admin/conversations/counts"),
        ("admin", "/admin/conversations/{}/messages?order=desc"),
        ("admin", "/admin/users"),
        ("admin", "/admin/users?q=an"),
        ("admin", "/unread"),
    ],
)
async def test_reading_is_one_statement_and_no_transaction(
    conversations_engine: AsyncEngine,
    anna: Caller,
    acting_as: As,
    api: httpx2.AsyncClient,
    role: str,
    path: str,
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    reader = Caller(api, "/api/v1", acting_as("anna" if role == "customer" else "sam", role))
    await reader.get("/unread")
    async with statements(conversations_engine) as recorded:
        await reader.get(path.format(conversation))
    assert len(recorded) == 1, recorded


async def test_posting_is_one_statement(conversations_engine: AsyncEngine, anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    for caller in (anna, sam):
        await caller.post(conversation)
        async with statements(conversations_engine) as recorded:
            answer = await caller.call("POST", f"/conversations/{conversation}/messages", {"body": "Again."}, key="k")
        assert answer.status_code == 201
        assert len(recorded) == 1, recorded


async def test_creating_a_conversation_is_one_statement(
    conversations_engine: AsyncEngine, anna: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    for caller, fields in (
        (anna, {}),
        (anna, {"body": "Hello?"}),
        (anna, {"attachments": [(await anna.upload())["id"]]}),
        (sam, {"body": "Hello.", "user_id": "anna", "status": "RESOLVED"}),
    ):
        new = {"subject": "Hi", "order_id": "A-1", **fields}
        await caller.get("/conversations")
        await caller.call("POST", "/conversations", {**new, "attachments": [UNKNOWN_ID]})  # the caller is known now
        async with statements(conversations_engine) as recorded:
            opened = await caller.open(**new, key=f"of {fields}")
        assert len(recorded) == 1, recorded
        assert opened == await caller.peek(opened["id"])


async def test_a_badge_in_a_browser_is_one_statement_too(
    conversations_engine: AsyncEngine, api: httpx2.AsyncClient
) -> None:
    async with httpx2.AsyncClient(transport=api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in("anna")
        async with statements(conversations_engine) as recorded:
            answer = await browser.call("GET", "/api/v1/unread")
        assert answer.json() == {"unread": 0}
        assert len(recorded) == 1, recorded


async def test_reading_creates_a_new_user_and_updates_a_known_one_from_the_token(
    api: httpx2.AsyncClient, acting_as: As, sam: Caller, shop: Caller
) -> None:
    await Caller(api, "/api/v1", acting_as("carl", name="Carl")).get("/conversations")
    assert [user["name"] for user in (await sam.get("/users"))["items"]] == ["Carl"]
    await shop.call("PUT", "/users/carl", {"email": "carl@customer.test"})
    await Caller(api, "/api/v1", acting_as("carl", name="Carl the Second", email="other@customer.test")).get("/unread")
    [known] = (await sam.get("/users"))["items"]
    assert (known["name"], known["email"]) == ("Carl the Second", "carl@customer.test")


async def test_many_new_users_at_once_do_not_deadlock_on_connections(api: httpx2.AsyncClient, acting_as: As) -> None:
    """There are more requests than connections: one that held a connection while waiting for another would deadlock."""
    newcomers = [Caller(api, "/api/v1", acting_as(f"new-{number}", name="New")) for number in range(40)]
    async with asyncio.TaskGroup() as group:
        for newcomer in newcomers:
            group.create_task(newcomer.get("/conversations"))
