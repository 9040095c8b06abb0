"""Deleting closed conversations, all or none, without leaving text; deleting users, whose conversations stay."""

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

from sqlalchemy import text

from services.conversations.event_log.sequencer import number_events
from services.conversations.messaging.commands import delete_conversations
from services.conversations.messaging.posting import Post, post_message
from services.conversations.privacy.erasure import delete_user
from services.conversations.rules import Side
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from tests.helpers.waiting import eventually
from tests.service.helpers.callers import Caller, logged, problem

NOWHERE = "01900000-0000-7000-8000-000000000000"
NOT_CLOSED = (409, "conversation-not-closed")


async def open_and_set(anna: Caller, sam: Caller, status: str = "CLOSED", body: str = "Hello?") -> str:
    conversation: str = (await anna.open(body=body))["id"]
    await sam.edit(conversation, status=status)
    return conversation


async def waiting_for_a_lock(sessions: SessionFactory, work: Awaitable[Any]) -> "asyncio.Task[Any]":
    """Start work, and return when the database makes it wait for a lock."""
    task = asyncio.ensure_future(work)

    async def waits() -> bool:
        async with sessions() as session:
            found = await session.scalar(text("select count(*) from pg_locks where not granted"))
        return bool(found)

    await eventually(waits)
    assert not task.done()
    return task


async def everything(sessions: SessionFactory) -> str:
    """Return the content of all tables as one text."""
    async with sessions() as session:
        rows = [
            await session.scalars(text(f"select t::text from {table} as t"))  # noqa: S608 - our own tables
            for table in ("users", "orders", "conversations", "messages", "events", "create_keys")
        ]
        return "\n".join(line for table in rows for line in table)


async def test_only_a_closed_conversation_can_be_deleted_and_the_response_says_why(anna: Caller, sam: Caller) -> None:
    for status in ("OPEN", "AWAITING_ADMIN", "AWAITING_USER", "RESOLVED"):
        conversation = await open_and_set(anna, sam, status)
        answer = await sam.call("DELETE", f"/conversations/{conversation}")
        assert problem(answer) == NOT_CLOSED
        assert "CLOSED" in answer.json()["detail"]
        assert answer.json()["conversation_ids"] == [conversation]
        assert (await sam.peek(conversation))["status"] == status


async def test_a_deleted_conversation_is_gone_for_everybody(anna: Caller, sam: Caller) -> None:
    conversation = await open_and_set(anna, sam)
    answer = await sam.call("DELETE", f"/conversations/{conversation}")
    assert (answer.status_code, answer.content) == (204, b"")

    assert (await anna.get("/conversations"))["items"] == (await sam.get("/conversations"))["items"] == []
    assert await anna.get("/unread") == {"unread": 0}
    for caller in (anna, sam):
        assert problem(await caller.call("GET", f"/conversations/{conversation}")) == (404, "not-found")
        answer = await caller.call("POST", f"/conversations/{conversation}/messages", {"body": "Still there?"})
        assert problem(answer) == (404, "not-found")
    assert problem(await sam.call("DELETE", f"/conversations/{conversation}")) == (404, "not-found")


async def test_a_deleted_conversations_text_is_erased_and_its_events_stay(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(subject="secret subject", body="secret question", key="once"))["id"]
    await anna.open(subject="kept subject", body="kept question")
    async with transaction(conversations) as session:
        assert len(await number_events(await transaction_driver(session))) == 4
    await sam.call("PATCH", f"/conversations/{conversation}", {"reply_body": "secret answer"}, key="once")
    await sam.edit(conversation, status="CLOSED")
    assert "secret" in await everything(conversations)

    await sam.call("DELETE", f"/conversations/{conversation}")

    left = await everything(conversations)
    assert "secret" not in left
    assert "kept question" in left
    events = await logged(conversations)
    assert events[-1] == ("conversation.deleted", {"conversation_id": conversation})
    assert [payload for _, payload in events if payload is None] == [None] * 4
    remaining = [kind for kind, payload in events if payload is not None]
    assert remaining == ["conversation.created", "message.posted", "conversation.deleted"]


async def test_a_bulk_delete_with_a_conversation_that_is_not_closed_deletes_none_and_lists_those(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    closed = [await open_and_set(anna, sam) for _ in range(2)]
    refused = [await open_and_set(anna, sam, status) for status in ("OPEN", "RESOLVED")]
    before = await everything(conversations)

    answer = await sam.call("POST", "/conversations/bulk-delete", {"ids": [closed[0], *refused, closed[1], refused[0]]})

    assert problem(answer) == NOT_CLOSED
    assert sorted(answer.json()["conversation_ids"]) == sorted(refused)
    assert await everything(conversations) == before


async def test_a_bulk_delete_ignores_repeated_and_missing_ids(anna: Caller, sam: Caller) -> None:
    closed = [await open_and_set(anna, sam) for _ in range(3)]
    await sam.call("DELETE", f"/conversations/{closed[2]}")
    ids = [*closed, closed[0], closed[1].upper(), NOWHERE]
    for deleted in (2, 0):
        answer = await sam.call("POST", "/conversations/bulk-delete", {"ids": ids})
        assert (answer.status_code, answer.json()) == (200, {"deleted": deleted})


async def test_concurrent_bulk_deletes_of_the_same_conversations_delete_each_once(anna: Caller, sam: Caller) -> None:
    closed = [await open_and_set(anna, sam) for _ in range(6)]
    answers = await asyncio.gather(
        *(sam.call("POST", "/conversations/bulk-delete", {"ids": ids}) for ids in (closed, closed[::-1], closed[2:]))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert sum(answer.json()["deleted"] for answer in answers) == 6


async def test_a_message_posted_before_the_deletion_prevents_it(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam)
    async with transaction(conversations) as session:
        await session.execute(text("select"))  # the post is a part of this transaction
        await post_message(session, Post(UUID(conversation), "anna", Side.CUSTOMER, "One more thing"))
        deletion = await waiting_for_a_lock(conversations, sam.call("DELETE", f"/conversations/{conversation}"))
    assert problem(await deletion) == NOT_CLOSED
    assert (await sam.peek(conversation))["message_count"] == 2


async def test_a_message_posted_after_the_deletion_is_not_found_and_leaves_nothing(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam)
    async with transaction(conversations) as session:
        await delete_conversations(session, [UUID(conversation)], actor_id="sam")
        path = f"/conversations/{conversation}/messages"
        post = await waiting_for_a_lock(conversations, anna.call("POST", path, {"body": "One more thing"}))
    assert problem(await post) == (404, "not-found")
    assert "One more thing" not in await everything(conversations)


async def test_a_deleted_customer_is_erased_everywhere_and_the_conversations_stay(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation, "Yes?")
    await shop.call("PUT", "/users/anna", {"name": "Anna Berg", "email": "berg@customer.test"})
    for _ in range(2):
        assert (await shop.call("DELETE", "/users/anna")).status_code == 204

    left = await everything(conversations)
    for erased in ("Anna", "Berg", "anna@customer.test", "berg@customer.test"):
        assert erased not in left
    for kept in ("Hello?", "Yes?", "sam@store.test"):
        assert kept in left
    nobody = {"id": "anna", "name": "Deleted customer", "email": None}
    assert (await sam.peek(conversation))["user"] == nobody
    question, answer = (await sam.get(f"/conversations/{conversation}/messages"))["items"]
    assert question["sender"] == {"id": "anna", "name": "Deleted customer", "role": "customer"}
    assert answer["sender"]["name"] == "Sam"
    kind, payload = (await logged(conversations))[-1]
    assert (kind, payload["person"]["id"], payload["person"]["deleted"]) == ("user.deleted", "anna", True)
    assert [kind for kind, _ in await logged(conversations)].count("user.deleted") == 1
    assert (
        problem(await sam.call("POST", "/conversations", {"user_id": "anna", "subject": "Hi", "body": "Hi"}))[0] == 422
    )


async def test_a_deleted_admin_is_erased_and_shown_as_the_store(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory, api: Any, acting_as: Any
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation)
    await shop.call("DELETE", "/users/sam")

    left = await everything(conversations)
    assert "sam@store.test" not in left
    assert "Sam" not in left
    assert "anna@customer.test" in left
    shown = (await anna.get(f"/conversations/{conversation}/messages"))["items"][1]["sender"]
    assert shown == {"id": None, "name": "Test Store", "role": "admin"}
    kim = Caller(api, "/api/v1/admin", acting_as("kim", "admin"))
    shown = (await kim.get(f"/conversations/{conversation}/messages"))["items"][1]["sender"]
    assert shown == {"id": "sam", "name": "Deleted admin", "role": "admin"}


async def test_a_post_during_the_deletion_of_its_customer_or_sender_logs_no_personal_data(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation)
    path = f"/conversations/{conversation}/messages"

    async with transaction(conversations) as session:
        await delete_user(session, "anna")
        answer = await waiting_for_a_lock(conversations, sam.call("POST", path, {"body": "Are you there?"}))
    assert (await answer).status_code == 201
    async with transaction(conversations) as session:
        await delete_user(session, "sam")
        answer = await waiting_for_a_lock(conversations, sam.call("POST", path, {"body": "No?"}))
    assert problem(await answer) == (401, "unauthenticated")

    left = await everything(conversations)
    for erased in ("Anna", "Sam", "anna@customer.test", "sam@store.test", "No?"):
        assert erased not in left
    assert "Are you there?" in left


async def test_the_erasure_of_a_user_waits_for_a_post_in_progress(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.get(f"/conversations/{conversation}")
    async with transaction(conversations) as session:
        await session.execute(text("select"))
        await post_message(session, Post(UUID(conversation), "sam", Side.ADMIN, "Yes?"))
        erasure = await waiting_for_a_lock(conversations, shop.call("DELETE", "/users/anna"))
    assert (await erasure).status_code == 204
    assert "Anna" not in await everything(conversations)


async def test_deleting_a_conversation_and_then_its_customer_leaves_the_log_readable(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    await sam.call("DELETE", f"/conversations/{await open_and_set(anna, sam)}")
    await shop.call("DELETE", "/users/anna")

    async with transaction(conversations) as session:
        events = await number_events(await transaction_driver(session))

    assert [event.payload for event in events if event.type == "message.posted"] == [None]
    assert events[-1].type == "user.deleted"
