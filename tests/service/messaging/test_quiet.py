"""Conversations whose customer stays quiet become resolved by themselves."""

import pytest
from sqlalchemy import text

from services.conversations.messaging.quiet import resolve_quiet
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.callers import Caller, logged
from tests.service.helpers.inbox_pages import show, signed_in

DAYS = 14


async def resolve(conversations: SessionFactory, *, size: int = 100) -> int:
    async with transaction(conversations) as session:
        return await resolve_quiet(session, DAYS, size=size)


async def age(conversations: SessionFactory, days: int, *columns: str) -> None:
    """Move all conversations into the past."""
    past = ", ".join(f"{column} = {column} - interval '{days} days'" for column in columns)
    async with transaction(conversations) as session:
        await session.execute(text(f"update conversations set {past}"))  # noqa: S608 - our own


async def answered(anna: Caller, sam: Caller) -> str:
    conversation = str((await anna.open(body="Hello?"))["id"])
    await sam.post(conversation, "Does this help?")
    return conversation


async def test_a_conversation_that_waits_for_its_customer_is_resolved_and_a_message_reopens_it(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await answered(anna, sam)
    assert await resolve(conversations) == 0
    await age(conversations, DAYS + 1, "last_activity_at", "changed_at")
    before = await sam.peek(conversation)
    log = await logged(conversations)

    assert await resolve(conversations) == 1
    assert await resolve(conversations) == 0

    assert await sam.peek(conversation) == before | {"status": "RESOLVED"}
    assert (await logged(conversations))[len(log) :] == [
        (
            "conversation.updated",
            {"conversation_id": conversation, "status": "RESOLVED", "status_before": "AWAITING_USER"},
        )
    ]
    [entry] = [
        item for item in (await sam.get(f"/conversations/{conversation}/timeline"))["items"] if item["kind"] == "status"
    ]
    assert (entry["actor"], entry["previous_status"], entry["status"]) == (None, "AWAITING_USER", "RESOLVED")
    async with signed_in(sam.api) as browser:
        page = await show(browser, f"{conversation}/", peek="true")
    assert "The customer did not reply: the status became “Resolved”" in page.by_id(f"e-{entry['id']}").text
    await anna.post(conversation, "It did not.")
    assert (await sam.peek(conversation))["status"] == "AWAITING_ADMIN"


@pytest.mark.parametrize("columns", [("last_activity_at",), ("changed_at",)])
async def test_a_recent_message_or_status_keeps_it_waiting(
    columns: tuple[str, ...], anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    await answered(anna, sam)
    await age(conversations, DAYS + 1, *columns)
    assert await resolve(conversations) == 0


async def test_other_statuses_stay(anna: Caller, sam: Caller, conversations: SessionFactory) -> None:
    statuses = ("OPEN", "AWAITING_ADMIN", "CLOSED")
    ids = [(await anna.open(body="Hello?"))["id"] for _ in statuses]
    for conversation, status in zip(ids, statuses, strict=True):
        await sam.edit(conversation, status=status)
    await age(conversations, DAYS + 1, "last_activity_at", "changed_at")
    assert await resolve(conversations) == 0
    assert [(await sam.peek(conversation))["status"] for conversation in ids] == list(statuses)


async def test_batches_are_small_and_leave_what_others_have_locked(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    ids = [await answered(anna, sam) for _ in range(4)]
    await sam.call("POST", f"/conversations/{ids[0]}/unread")
    await age(conversations, DAYS + 1, "last_activity_at", "changed_at")
    async with conversations() as other:  # as a message that is being posted
        await other.execute(text("select from conversations where id = :id for update"), {"id": ids[0]})
        assert await resolve(conversations, size=2) == 2
        assert await resolve(conversations, size=2) == 1
        assert await resolve(conversations, size=2) == 0
    assert await resolve(conversations, size=2) == 1
    found = [await sam.peek(conversation) for conversation in ids]
    assert [(item["status"], item["is_read_by_admin"]) for item in found] == [
        ("RESOLVED", False),
        *[("RESOLVED", True)] * 3,
    ]
