"""Facts are made from the log, one for each conversation and cycle, and may be interrupted and repeated anywhere."""

from typing import Any

import pytest
from sqlalchemy import text

from services.conversations.event_log.sequencer import number_events
from services.conversations.reports import facts
from services.conversations.reports.facts import count_round, read_state
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from tests.service.helpers.callers import Caller
from tests.service.messaging.test_erasure_batches import grow


async def catch_up(sessions: SessionFactory) -> int:
    """Number all events, and count everything; return how many conversations were counted."""
    async with transaction(sessions) as session:
        await number_events(await transaction_driver(session))
    counted = 0
    while round_ := await count_round(sessions):
        counted += round_
    return counted


async def change(sessions: SessionFactory, statement: str) -> None:
    async with transaction(sessions) as session:
        await session.execute(text(statement))


async def told(sessions: SessionFactory) -> list[tuple[Any, ...]]:
    """Return of each fact: cycle, message counted last, who opened, replied, resolved, and whether it is resolved."""
    query = """
        select cycle, number, opened_by, replied_by, resolved_by, resolved_at is not null
        from conversation_facts order by conversation_id, cycle
    """
    async with sessions() as session:
        return [tuple(row) for row in await session.execute(text(query))]


async def test_a_conversation_is_counted_step_by_step(
    anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await catch_up(conversations)
    assert await told(conversations) == [(1, 1, None, None, None, False)]
    await kim.post(conversation, "Hello!")
    await sam.post(conversation, "Hello, too!")
    await catch_up(conversations)
    assert await told(conversations) == [(1, 3, None, "kim", None, False)]
    await sam.edit(conversation, status="RESOLVED")
    await catch_up(conversations)
    assert await told(conversations) == [(1, 3, None, "kim", "sam", True)]
    await anna.post(conversation, "Once more")
    await sam.edit(conversation, reply_body="Done", status="CLOSED")
    await catch_up(conversations)
    both = [(1, 3, None, "kim", "sam", True), (2, 5, None, "sam", "sam", True)]
    assert await told(conversations) == both
    assert await catch_up(conversations) == 0
    # Later work of other kinds changes nothing, and neither does the same log once more.
    await sam.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": "sam"})
    assert await catch_up(conversations) == 1
    await change(conversations, "update report_progress set position = 0")
    assert await catch_up(conversations) == 1
    assert await told(conversations) == both


async def test_first_reply_and_opening_have_the_times_of_the_conversation(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation, "Hello!")
    await catch_up(conversations)
    query = """
        select f.opened_at = c.created_at and f.replied_at = c.first_reply_at
        from conversation_facts as f join conversations as c on c.id = f.conversation_id
    """
    async with conversations() as session:
        assert await session.scalar(text(query)) is True


async def test_what_an_admin_opens_has_no_first_reply(anna: Caller, sam: Caller, conversations: SessionFactory) -> None:
    await anna.get("/conversations")
    body = {"user_id": "anna", "subject": "Your order", "body": "It is late.", "status": "RESOLVED"}
    opened = await sam.call("POST", "/conversations", body)
    empty = (await anna.open())["id"]
    await sam.post(empty, "How can we help?")
    await catch_up(conversations)
    assert opened.json()["first_reply_at"] is None
    assert await told(conversations) == [(1, 1, "sam", None, "sam", True), (1, 1, None, "sam", None, False)]


async def test_an_undone_resolution_does_not_count_and_reopens_nothing(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.edit(conversation, status="RESOLVED")
    await catch_up(conversations)
    await sam.edit(conversation, status="OPEN", expected_status="RESOLVED", seen_number=1)
    await catch_up(conversations)
    assert await told(conversations) == [(1, 1, None, None, None, False)]


async def test_a_removed_message_is_no_reply(anna: Caller, sam: Caller, conversations: SessionFactory) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    message = await sam.post(conversation, "To the wrong one")
    await catch_up(conversations)
    assert await told(conversations) == [(1, 2, None, "sam", None, False)]
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{message['id']}")
    await catch_up(conversations)
    assert await told(conversations) == [(1, 2, None, None, None, False)]


async def test_the_numbers_of_a_deleted_conversation_stay(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.edit(conversation, status="CLOSED")
    await catch_up(conversations)
    before = await told(conversations)
    message = await sam.post(conversation, "Oops")
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{message['id']}")
    await sam.edit(conversation, status="CLOSED")
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
    await catch_up(conversations)
    assert await told(conversations) == before


async def test_what_was_there_before_is_counted_as_far_as_it_can_be_told(
    anna: Caller, sam: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "BATCH", 2)
    for _ in range(3):
        await anna.open(body="Hello?")
    old = (await anna.open(body="Hello?"))["id"]
    await sam.post(old, "Hello!")
    await sam.edit(old, status="RESOLVED")
    # As a release without a timeline leaves it.
    await change(conversations, "delete from conversation_entries")
    await change(conversations, "update conversations set first_reply_at = null")
    async with transaction(conversations) as session:
        await number_events(await transaction_driver(session))
    await change(
        conversations,
        "update report_progress set position = (select head from feed),"
        " fill_before = 'ffffffff-ffff-ffff-ffff-ffffffffffff'",
    )
    assert await count_round(conversations) == 2
    async with transaction(conversations) as session:
        assert await read_state(session) == (0, True, 2, 2)
    assert await catch_up(conversations) == 2
    asked = (1, 1, None, None, None, False)
    assert await told(conversations) == [asked, asked, asked, (1, 2, None, "sam", None, True)]
    assert (await sam.peek(old))["first_reply_at"] is not None
    query = "select resolved_at = changed_at from conversation_facts join conversations on id = conversation_id"
    async with conversations() as session:
        assert await session.scalar(text(f"{query} where resolved_at is not null")) is True
        assert await read_state(session) == (0, False, 4, 0)


async def test_a_log_that_was_cut_makes_everything_count_again(anna: Caller, conversations: SessionFactory) -> None:
    await anna.open(body="Hello?")
    await anna.open(body="Hello?")
    async with transaction(conversations) as session:
        await number_events(await transaction_driver(session))
    await change(conversations, "delete from events where position < 4")
    assert await count_round(conversations) == 0  # it only notices
    assert await catch_up(conversations) == 2 + 1  # all of them, and what is left of the log
    assert len(await told(conversations)) == 2


async def test_messages_that_change_nothing_are_written_once_for_many(
    anna: Caller, sam: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "MAX_BEHIND", 3)
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.edit(conversation, reply_body="Done", status="RESOLVED")
    await sam.edit(conversation, status="OPEN")
    await catch_up(conversations)
    assert await told(conversations) == [(1, 2, None, "sam", None, False)]
    for number, counted in ((3, 2), (4, 2), (5, 5)):
        await anna.post(conversation, f"Message {number}")
        await catch_up(conversations)
        assert await told(conversations) == [(1, counted, None, "sam", None, False)]
    await sam.post(conversation, "Message 6")
    await catch_up(conversations)
    await sam.edit(conversation, status="RESOLVED")
    await anna.post(conversation, "Message 7")
    await catch_up(conversations)
    assert await told(conversations) == [(1, 6, None, "sam", "sam", True), (2, 7, None, None, None, False)]


async def test_a_long_conversation_is_counted_in_parts(
    anna: Caller, sam: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "MAX_MESSAGES", 3)
    monkeypatch.setattr(facts, "MAX_BEHIND", 1)
    conversation = (await anna.open(body="Hello?"))["id"]
    await grow(conversations, conversation, 3)
    await sam.edit(conversation, reply_body="Done", status="RESOLVED")
    await anna.post(conversation, "Once more")
    await anna.post(conversation, "Please")
    await catch_up(conversations)
    assert await told(conversations) == [(1, 5, None, "sam", "sam", True), (2, 7, None, None, None, False)]


async def test_one_process_counts_at_a_time(anna: Caller, conversations: SessionFactory) -> None:
    await anna.open(body="Hello?")
    async with transaction(conversations) as session:
        await number_events(await transaction_driver(session))
    async with transaction(conversations) as first:
        await first.execute(text("select from report_progress for update"))
        assert await count_round(conversations) == 0
    assert await count_round(conversations) == 1
