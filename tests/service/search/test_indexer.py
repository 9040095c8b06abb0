"""The indexer reads the log with a cursor of its own, and may be stopped, killed and doubled at any point."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from services.conversations.event_log.sequencer import number_events
from services.conversations.search import indexer
from services.conversations.search.documents import build
from services.conversations.search.indexer import index_round, read_state
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from tests.service.helpers.callers import Caller
from tests.service.messaging.test_deleting import open_and_set, waiting_for_a_lock
from tests.service.messaging.test_erasure_batches import grow
from tests.service.search.test_finding import catch_up_with_log, found


async def documents(sessions: SessionFactory) -> list[tuple[int, int]]:
    """Return the first and last number of each document."""
    query = "select first_number, last_number from conversation_search order by conversation_id, first_number"
    return [tuple(row) for row in await read(sessions, query)]


async def read(sessions: SessionFactory, query: str) -> Any:
    """Return the rows of a query."""
    async with sessions() as session:
        return (await session.execute(text(query))).all()


async def change(sessions: SessionFactory, statement: str) -> None:
    """Change something behind the indexer's back."""
    async with transaction(sessions) as session:
        await session.execute(text(statement))


async def number(sessions: SessionFactory) -> None:
    async with transaction(sessions) as session:
        await number_events(await transaction_driver(session))


async def test_a_burst_is_indexed_once_when_it_has_settled(anna: Caller, conversations: SessionFactory) -> None:
    conversation = await anna.open(subject="Hoodie", body="first")
    await number(conversations)
    assert await index_round(conversations, settle=60) == 0
    await anna.post(conversation["id"], "second")
    await number(conversations)
    assert await index_round(conversations, settle=-1) == 1
    assert await documents(conversations) == [(1, 2)]
    await anna.post(conversation["id"], "third")
    await number(conversations)
    assert await found(anna, "first second third") == ["Hoodie"]
    assert await index_round(conversations, settle=-1) == 1
    assert await documents(conversations) == [(1, 3)]
    assert await found(anna, "first second third") == ["Hoodie"]
    assert await index_round(conversations, settle=-1) == 0


async def test_many_waiting_events_are_indexed_before_they_have_settled(
    anna: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "MAX_WAITING", 4)
    conversation = await anna.open(body="first")
    await anna.post(conversation["id"], "second")
    await number(conversations)
    assert await index_round(conversations, settle=60) == 0  # created, and two messages
    await anna.post(conversation["id"], "third")
    await number(conversations)
    assert await index_round(conversations, settle=60) == 1


async def test_a_long_conversation_has_several_documents_and_new_messages_change_the_last_one(
    anna: Caller, sam: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "MAX_MESSAGES", 300)
    conversation = await open_and_set(anna, sam, body="begin")
    await grow(conversations, conversation, 1_000)
    await catch_up_with_log(conversations)
    firsts = [1, 201, 401, 601, 801, 1001]
    assert [first for first, _ in await documents(conversations)] == firsts
    before = await read(conversations, "select first_number, xmin::text from conversation_search order by 1")
    await anna.post(conversation, "finally")
    await catch_up_with_log(conversations)
    after = await read(conversations, "select first_number, xmin::text from conversation_search order by 1")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]
    for q, number_found in (("begin", 1), ('"secret 500"', 501), ("finally", 1002)):
        [item] = (await sam.get("/conversations", q=q))["items"]
        assert item["match"]["number"] == number_found


async def test_a_conversation_with_more_terms_than_a_document_holds_is_found_by_each(
    anna: Caller, conversations: SessionFactory
) -> None:
    conversation = await anna.open(subject="Huge", body="start")
    for block in range(5):
        await anna.post(conversation["id"], "".join(chr(0x4E00 + block * 4_000 + n) for n in range(4_000)))
    await catch_up_with_log(conversations)
    assert len(await documents(conversations)) > 1
    for q in ("start", chr(0x4E00 + 3_999), chr(0x4E00 + 16_500), "huge"):
        assert await found(anna, q) == ["Huge"]


async def test_conversations_from_before_are_indexed_backwards_and_an_interrupted_fill_goes_on(
    anna: Caller, sam: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "BATCH", 2)
    for count in range(5):
        await anna.open(subject=f"Hoodie {count}", body="Hello")
    await number(conversations)
    await change(
        conversations,
        "update search_progress set position = (select head from feed),"
        " fill_before = 'ffffffff-ffff-ffff-ffff-ffffffffffff'",
    )
    assert await index_round(conversations) == 2
    assert await found(sam, "hoodie") == ["Hoodie 4", "Hoodie 3"]
    async with transaction(conversations) as session:
        state = await read_state(session)
    assert (state.is_filling, state.filled, state.left) == (True, 2, 3)

    async def fail(*_: object) -> None:
        raise OSError("no disk")

    with monkeypatch.context() as broken:
        broken.setattr(indexer, "index_conversations", fail)
        with pytest.raises(OSError, match="no disk"):
            await index_round(conversations)
    assert [await index_round(conversations) for _ in range(3)] == [2, 1, 0]
    assert len(await found(sam, "hoodie")) == 5
    async with transaction(conversations) as session:
        state = await read_state(session)
    assert (state.is_filling, state.filled, state.left) == (False, 5, 0)


async def test_events_purged_before_they_were_indexed_make_a_new_fill(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await anna.open(subject="Hoodie", body="lost")
    await number(conversations)
    await change(conversations, "delete from events")
    await anna.post(conversation["id"], "kept")
    await anna.open(subject="Jacket", body="kept")
    await catch_up_with_log(conversations)
    assert await found(sam, "lost") == ["Hoodie"]
    assert await found(sam, "kept") == ["Jacket", "Hoodie"]


async def test_a_conversation_that_cannot_be_indexed_is_parked_and_delays_no_other(
    anna: Caller, sam: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await anna.open(subject="Before", body="hello")
    bad = await anna.open(subject="Bad", body="hello")
    await anna.open(subject="After", body="hello")

    def fail(heading: str, *others: Any) -> Any:
        if heading.startswith("Bad"):
            raise ValueError(heading)
        return build(heading, *others)

    with monkeypatch.context() as broken:
        broken.setattr(indexer, "build", fail)
        await catch_up_with_log(conversations)
    assert await found(sam, "hello") == ["After", "Before"]
    assert [tuple(row) for row in await read(conversations, "select conversation_id, reason from search_parked")] == [
        (UUID(bad["id"]), "ValueError")
    ]
    async with transaction(conversations) as session:
        assert (await read_state(session)).parked == 1
    await anna.post(bad["id"], "again")
    await catch_up_with_log(conversations)
    assert await found(sam, "hello") == ["Bad", "After", "Before"]
    assert await read(conversations, "select * from search_parked") == []


async def test_a_second_process_stands_by(anna: Caller, conversations: SessionFactory) -> None:
    await anna.open(subject="Hoodie", body="hello")
    await number(conversations)
    async with transaction(conversations) as first:
        await first.execute(text("select position from search_progress for update"))
        assert await index_round(conversations, settle=-1) == 0
    assert await index_round(conversations, settle=-1) == 1


async def test_a_deleted_conversation_is_out_of_sight_at_once_and_its_terms_are_gone(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam, body="hello")
    await anna.open(subject="Jacket", body="hello")
    await catch_up_with_log(conversations)
    assert len(await found(sam, "hello")) == 2
    await sam.edit(conversation, status="CLOSED")
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
    assert await found(sam, "hello") == ["Jacket"]
    assert len(await documents(conversations)) == 1
    await catch_up_with_log(conversations)
    assert len(await documents(conversations)) == 1


async def test_a_conversation_deleted_while_it_is_indexed_leaves_nothing(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam, body="hello")
    await number(conversations)
    async with transaction(conversations) as deleting:
        await deleting.execute(text("delete from conversations where id = :id"), {"id": conversation})
        indexing = await waiting_for_a_lock(conversations, index_round(conversations, settle=-1))
    assert await indexing == 1
    assert await documents(conversations) == []
    assert await found(sam, "hello") == []


async def test_conversations_are_locked_in_the_order_of_changes_in_bulk(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    """Else each could wait for the other."""
    first, second = [(await anna.open(body="hello"))["id"] for _ in range(2)]
    [message] = (await anna.get(f"/conversations/{second}/messages"))["items"]
    assert (await sam.call("DELETE", f"/conversations/{second}/messages/{message['id']}")).status_code == 204
    await number(conversations)
    lock = text("select from conversations where id = :id for update nowait")
    async with transaction(conversations) as changing:
        await changing.execute(lock, {"id": first})
        indexing = await waiting_for_a_lock(conversations, index_round(conversations, settle=-1))
        await changing.execute(lock, {"id": second})
    assert await indexing == 2


async def test_terms_of_a_message_and_all_later_ones_can_be_removed_at_once(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam, body="begin")
    await grow(conversations, conversation, 300)
    await catch_up_with_log(conversations)
    await change(conversations, "update messages set body = 'Removed' where body = 'secret 250'")
    async with transaction(conversations) as session:
        await indexer.forget_message(session, UUID(conversation), 251)
        await session.execute(
            text(
                "insert into events (type, user_id, conversation_id, payload)"
                " values ('message.posted', 'anna', :id, '{}')"
            ),
            {"id": conversation},
        )
    assert await documents(conversations) == [(1, 200)]
    assert await found(sam, '"secret 250"') == []
    assert len(await found(sam, '"secret 260"')) == 1
    await catch_up_with_log(conversations)
    assert await documents(conversations) == [(1, 200), (201, 301)]
    assert await found(sam, '"secret 250"') == []
    assert len(await found(sam, '"secret 260"')) == 1


async def test_a_large_backlog_is_indexed_in_several_transactions(
    anna: Caller, sam: Caller, conversations: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "BATCH", 2)
    monkeypatch.setattr(indexer, "CHUNK", 1)
    monkeypatch.setattr(indexer, "MAX_CHARACTERS", 0)
    opened = [await anna.open(subject=f"Hoodie {count}", body="Hello") for count in range(5)]
    await anna.post(opened[0]["id"], "again")
    await number(conversations)
    assert [await index_round(conversations, settle=-1) for _ in range(4)] == [2, 2, 2, 0]
    assert len(await found(sam, "hello")) == 5
    assert await found(sam, "again") == ["Hoodie 0"]
