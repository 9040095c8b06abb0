"""Conversations that have been closed for long are deleted by retention, as an admin deletes them."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from services.conversations.messaging.expiry import Preview, count_due, expire_closed, is_erasing_many, preview_expiry
from services.conversations.messaging.posting import Post, post_message
from services.conversations.rules import Side
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.callers import Caller, logged
from tests.service.helpers.inbox_pages import signed_in
from tests.service.messaging.test_quiet import age

DAYS = 30


async def expire(conversations: SessionFactory, *, size: int = 100) -> int:
    async with transaction(conversations) as session:
        return await expire_closed(session, DAYS, size=size)


async def preview(conversations: SessionFactory, days: float = DAYS) -> Preview:
    async with conversations() as session:
        return await preview_expiry(session, days, limit=2)


async def closed(anna: Caller, sam: Caller) -> str:
    conversation = str((await anna.open(body="Where is the secret parcel?"))["id"])
    await sam.edit(conversation, reply_body="It is secret.", status="CLOSED")
    return conversation


async def test_a_conversation_closed_long_ago_is_deleted_with_its_text_an_event_and_an_entry_of_the_audit(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await closed(anna, sam)
    assert await expire(conversations) == 0
    await age(conversations, DAYS + 1, "last_activity_at", "changed_at")

    assert await expire(conversations) == 1
    assert await expire(conversations) == 0

    assert (await anna.get("/conversations"))["items"] == []
    assert (await logged(conversations))[-1] == ("conversation.deleted", {"conversation_id": conversation})
    async with conversations() as session:
        tables = [
            await session.scalars(text(f"select t::text from {table} as t"))  # noqa: S608 - our own tables
            for table in ("conversations", "messages", "events", "conversation_entries", "erasures")
        ]
        assert "secret" not in "".join(row for rows in tables for row in rows)
    [entry] = (await sam.get("/audit", conversation_id=conversation, action="conversation.deleted"))["items"]
    assert (entry["actor_role"], entry["actor_id"], entry["conversation_id"], entry["data"], entry["address"]) == (
        "system",
        "retention",
        conversation,
        {"retention_days": DAYS},
        None,
    )
    async with signed_in(sam.api) as browser:
        page = (await browser.get("/admin/audit/", params={"conversation_id": conversation})).text
    assert "automatically, by retention" in page


@pytest.mark.parametrize("columns", [("last_activity_at",), ()])
async def test_what_was_closed_lately_stays_however_old_its_messages_are(
    columns: tuple[str, ...], anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    await closed(anna, sam)
    if columns:
        await age(conversations, DAYS + 1, *columns)
    assert await expire(conversations) == 0
    assert await preview(conversations) == Preview(0, 0, [])


async def test_other_statuses_and_what_has_a_held_email_stay(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    held = await closed(anna, sam)
    for status in ("OPEN", "AWAITING_ADMIN", "AWAITING_USER", "RESOLVED"):
        await sam.edit((await anna.open(body="Hello?"))["id"], status=status)
    await age(conversations, DAYS + 1, "last_activity_at", "changed_at")
    await _hold(conversations, held, [uuid4()])
    assert await expire(conversations) == 0
    await _hold(conversations, held, None)
    assert await expire(conversations) == 1
    assert len((await anna.get("/conversations"))["items"]) == 4


async def test_copies_share_the_work_and_a_customer_who_writes_meanwhile_keeps_the_conversation(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    ids = [await closed(anna, sam) for _ in range(9)]
    await age(conversations, DAYS + 1, "last_activity_at", "changed_at")
    async with transaction(conversations) as session:
        await session.execute(text("select"))  # the post is a part of this transaction
        await post_message(session, Post(UUID(ids[0]), "anna", Side.CUSTOMER, "It is lost again."))
        assert await expire(conversations, size=3) == 3  # without waiting
    paths = [f"/conversations/{conversation}/messages" for conversation in ids[1:]]
    posts = (anna.call("POST", path, {"body": "It is lost again."}) for path in paths)
    codes, *deleted = await asyncio.gather(asyncio.gather(*posts), *(expire(conversations, size=2) for _ in range(3)))
    kept = {each["id"] for each in (await anna.get("/conversations", limit=100))["items"]}
    assert kept == {ids[0]} | {each for each, answer in zip(ids[1:], codes, strict=True) if answer.status_code == 201}
    assert {answer.status_code for answer in codes} <= {201, 404}
    assert len(kept) + sum(deleted) + 3 == len(ids)
    assert await expire(conversations) == 0


async def test_what_will_be_deleted_is_counted_and_listed_and_nothing_is_changed(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    ids = [await closed(anna, sam) for _ in range(3)]
    await age(conversations, DAYS - 3, "last_activity_at", "changed_at")
    assert await preview(conversations) == Preview(0, 3, [])
    await age(conversations, 4, "last_activity_at", "changed_at")
    found = await preview(conversations)
    assert (found.due, found.soon, [str(each.id) for each in found.first]) == (3, 0, ids[:2])
    assert await preview(conversations, 365) == Preview(0, 0, [])
    async with conversations() as session:
        assert await count_due(session, DAYS) == 3
        assert await is_erasing_many(session) is False
    assert len((await anna.get("/conversations"))["items"]) == 3


async def _hold(conversations: SessionFactory, conversation: str, ids: Any) -> None:
    async with transaction(conversations) as session:
        values = {"id": conversation, "ids": ids}
        await session.execute(text("update conversations set held_ids = cast(:ids as uuid[]) where id = :id"), values)
