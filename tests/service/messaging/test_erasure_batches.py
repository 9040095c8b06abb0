"""Deleting large data: hidden at once, then erased in batches that survive crashes."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import select, text

from services.conversations.event_log.sequencer import number_events
from services.conversations.event_log.snapshot import read_snapshot
from services.conversations.messaging import erasure_batches
from services.conversations.models import Erasure, Message
from services.conversations.privacy.erasure import delete_user
from services.conversations.settings import JobsSettings
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from shared.events import Kind
from tests.service.conftest import As
from tests.service.helpers.callers import Caller, logged, problem
from tests.service.messaging.test_deleting import everything, open_and_set, waiting_for_a_lock

JOBS = JobsSettings(conversations_database_url="postgresql://unused")
MANY = 1200  # more than one transaction erases
STATUS_ENTRY = 1  # a conversation's entry in the timeline, of its closing


async def grow(sessions: SessionFactory, conversation: str, messages: int = MANY) -> None:
    """Add messages to a conversation, and as many events to the log."""
    async with transaction(sessions) as session:
        values = {"id": UUID(conversation), "messages": messages}
        for statement in _GROW:
            await session.execute(text(statement), values)


_GROW = (
    """
    insert into messages (conversation_id, number, sender_id, sender_role, body, created_at)
    select id, message_count + n, user_id, 'customer', 'secret ' || n, clock_timestamp()
    from conversations, generate_series(1, :messages) as n where id = :id
    """,
    """
    insert into events (type, user_id, conversation_id, payload)
    select 'message.posted', user_id, id, jsonb_build_object(
        'message', jsonb_build_object('body', 'secret ' || n),
        'customer', jsonb_build_object('id', user_id, 'name', 'Anna')
    )
    from conversations, generate_series(1, :messages) as n where id = :id
    """,
    """
    update conversations set message_count = message_count + :messages, last_message_preview = 'secret' where id = :id
    """,
)


async def big(anna: Caller, sam: Caller, sessions: SessionFactory) -> str:
    """Return a closed conversation that is too large to be erased at once."""
    conversation = await open_and_set(anna, sam, body="secret question")
    await grow(sessions, conversation)
    return conversation


async def number(sessions: SessionFactory) -> None:
    """Number all events."""
    more = True
    while more:
        async with transaction(sessions) as session:
            more = bool(await number_events(await transaction_driver(session)))


async def messages_of(sessions: SessionFactory, conversation: str) -> int:
    async with sessions() as session:
        return len(
            (await session.scalars(select(Message.id).where(Message.conversation_id == UUID(conversation)))).all()
        )


async def erase(sessions: SessionFactory, size: int = 500) -> int:
    """Erase everything that is pending, as the jobs do; return the number of rounds."""
    rounds = 0
    while await erasure_batches.erase_round(sessions, size=size):
        rounds += 1
    return rounds


async def test_a_large_conversation_is_hidden_at_once_and_erased_afterwards(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await big(anna, sam, conversations)

    answer = await sam.call("DELETE", f"/conversations/{conversation}")

    assert (answer.status_code, answer.content) == (204, b"")
    assert await messages_of(conversations, conversation) == MANY + 1  # answered before any was erased
    await assert_hidden(anna, sam, conversations, conversation)
    assert await erase(conversations) == 3
    left = await everything(conversations)
    assert "secret" not in left
    assert await messages_of(conversations, conversation) == 0
    assert (await logged(conversations))[-1] == ("conversation.deleted", {"conversation_id": conversation})


async def assert_hidden(anna: Caller, sam: Caller, sessions: SessionFactory, conversation: str) -> None:
    assert (await anna.get("/conversations"))["items"] == (await sam.get("/conversations"))["items"] == []
    assert await anna.get("/unread") == {"unread": 0}
    assert set((await sam.get("/conversations/counts"))["by_status"].values()) == {0}
    for caller in (anna, sam):
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/messages", None),
            ("POST", "/messages", {"body": "Still there?"}),
            ("POST", "/read", {"up_to": 1}),
        ):
            answer = await caller.call(method, f"/conversations/{conversation}{path}", body)
            assert problem(answer) == (404, "not-found"), (method, path)
    async with transaction(sessions) as session:  # the snapshot for a reader that has to rebuild
        for kind in (Kind.READS, Kind.MESSAGES):
            assert (await read_snapshot(session, kind, after=None, limit=10)).items == []


async def test_a_retried_post_to_a_conversation_being_erased_is_not_found(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam)
    path = f"/conversations/{conversation}/messages"
    await anna.call("POST", path, {"body": "secret"}, key="once")
    await sam.edit(conversation, status="CLOSED")
    await grow(conversations, conversation)
    await sam.call("DELETE", f"/conversations/{conversation}")

    assert problem(await anna.call("POST", path, {"body": "secret"}, key="once")) == (404, "not-found")


async def test_a_bulk_delete_of_large_conversations_responds_as_usual(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    ids = [await big(anna, sam, conversations), await open_and_set(anna, sam), await big(anna, sam, conversations)]
    answer = await sam.call("POST", "/conversations/bulk-delete", {"ids": ids})
    assert (answer.status_code, answer.json()) == (200, {"deleted": 3})
    assert (await sam.get("/conversations"))["items"] == []
    await erase(conversations)
    assert "secret" not in await everything(conversations)


async def test_an_erasure_continues_after_a_process_died_and_several_relays_share_it(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    one, other = [await big(anna, sam, conversations) for _ in range(2)]
    await sam.call("POST", "/conversations/bulk-delete", {"ids": [one, other]})
    async with transaction(conversations) as session:
        first, second = await erasure_batches.list_unfinished(conversations)
        await erasure_batches.erase_batch(session, first, size=300)
        await session.rollback()  # the process dies before its commit
    async with transaction(conversations) as holder:
        assert await erasure_batches.erase_batch(holder, first, size=300) == 600 + STATUS_ENTRY
        async with transaction(conversations) as concurrent:  # a second process skips what the first has locked
            assert await erasure_batches.erase_batch(concurrent, first, size=300) == 0
            assert await erasure_batches.erase_batch(concurrent, second, size=300) == 600 + STATUS_ENTRY
    assert await messages_of(conversations, one) == await messages_of(conversations, other) == MANY + 1 - 300

    await asyncio.gather(erase(conversations), erase(conversations))

    assert "secret" not in await everything(conversations)
    async with transaction(conversations) as session:
        state = await erasure_batches.read_state(session)
    assert (state.under_way, state.erased) == (0, 0)


async def test_a_conversation_deleted_by_the_previous_release_is_erased_too(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await big(anna, sam, conversations)
    async with transaction(conversations) as session:
        await session.execute(text("delete from conversations where id = :id"), {"id": UUID(conversation)})
    await erase(conversations)
    assert "secret" not in await everything(conversations)


async def test_the_log_is_numbered_and_read_while_a_conversation_is_erased(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await big(anna, sam, conversations)
    await sam.call("DELETE", f"/conversations/{conversation}")
    async with transaction(conversations) as session:
        [erasure_id] = await erasure_batches.list_unfinished(conversations)
        await erasure_batches.erase_batch(session, erasure_id, size=500)
        numbering = await waiting_for_a_lock(conversations, number(conversations))  # on rows that the batch has locked
    await numbering
    await erase(conversations)
    async with conversations() as session:
        positions = list(await session.scalars(text("select position from events order by position")))
    assert positions == list(range(1, len(positions) + 1))


async def test_a_user_with_many_events_is_hidden_at_once_and_erased_afterwards(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam)
    await grow(conversations, conversation)

    answer = await shop.call("DELETE", "/users/anna")

    assert answer.status_code == 202
    started = answer.json()
    assert answer.headers["Location"] == f"/api/v1/store/erasures/{started['id']}"
    assert (started["user_id"], started["state"], started["content"], started["finished_at"]) == (
        "anna",
        "running",
        False,
        None,
    )
    assert problem(await anna.call("GET", "/conversations")) == (401, "unauthenticated")
    assert (await sam.peek(conversation))["user"]["name"] == "Deleted customer"
    assert (await shop.call("DELETE", "/users/anna")).json()["id"] == started["id"]  # a retry gets the same response

    assert await erase(conversations) == 0  # the log is not numbered up to the deletion yet
    await number(conversations)
    assert await erase(conversations) > 1
    left = await everything(conversations)
    assert "Anna" not in left
    assert "secret" in left  # the messages stay
    done = await shop.get(f"/erasures/{started['id']}")
    assert (done["state"], done["erased"] >= MANY) == ("done", True)
    assert (await shop.call("DELETE", "/users/anna")).status_code == 204
    kind, payload = [row for row in await logged(conversations) if row[0] == "user.deleted"][-1]
    assert (kind, payload["person"]["version"]) == ("user.deleted", 2)


async def test_an_admin_with_many_messages_is_erased_from_all_conversations(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam)
    async with transaction(conversations) as session:
        for statement in _GROW:
            by_admin = statement.replace("user_id, 'customer', 'secret", "'sam', 'admin', 'secret")
            by_admin = by_admin.replace("'customer', json", "'sender', json").replace(
                "'id', user_id, 'name', 'Anna'", "'id', 'sam', 'name', 'Sam'"
            )
            await session.execute(text(by_admin), {"id": UUID(conversation), "messages": MANY})

    assert (await shop.call("DELETE", "/users/sam")).status_code == 202
    await number(conversations)
    await erase(conversations)

    left = await everything(conversations)
    assert "Sam" not in left
    assert "secret" in left
    assert (await anna.get(f"/conversations/{conversation}/messages"))["items"][-1]["sender"]["name"] == "Test Store"


@pytest.mark.parametrize("messages", [0, MANY])
async def test_deleting_a_customer_with_content_erases_their_messages_too(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller, conversations: SessionFactory, messages: int
) -> None:
    annas = [(await anna.open(subject="secret subject", body="secret question"))["id"] for _ in range(3)]
    await grow(conversations, annas[0], messages)
    kept = (await ben.open(body="kept question"))["id"]

    answer = await shop.call("DELETE", "/users/anna?content=true")

    assert answer.status_code == (202 if messages else 204)
    assert [item["id"] for item in (await sam.get("/conversations"))["items"]] == [kept]
    assert problem(await sam.call("GET", f"/conversations/{annas[0]}")) == (404, "not-found")
    deletions = [payload for kind, payload in await logged(conversations) if kind == "conversation.deleted"]
    assert sorted(payload["conversation_id"] for payload in deletions) == sorted(annas)
    await erase(conversations)
    if messages:  # the user's own events wait for their numbers, their conversations are erased
        async with transaction(conversations) as session:
            state = await erasure_batches.read_state(session)
        erased = (await shop.get(f"/erasures/{answer.json()['id']}"))["erased"]
        assert (state.under_way, state.erased) == (1, erased)
        assert erased > 2 * messages
    await number(conversations)
    for _ in range(3):  # rounds that only read what is erased already count as idle
        await erase(conversations)
    left = await everything(conversations)
    assert "secret" not in left
    assert "Anna" not in left
    assert "kept question" in left
    if messages:
        progress = await shop.get(f"/erasures/{answer.json()['id']}")
        assert (progress["state"], progress["content"], progress["erased"] > 2 * messages) == ("done", True, True)
    assert (await shop.call("DELETE", "/users/anna?content=true")).status_code == 204


@pytest.mark.parametrize("content", [False, True])
async def test_a_receipt_is_done_when_all_ids_of_the_person_are_erased(
    anna: Caller, ben: Caller, shop: Caller, conversations: SessionFactory, *, content: bool
) -> None:
    await grow(conversations, (await anna.open(body="secret"))["id"])
    await ben.open()
    await shop.call("POST", "/users/anna/merge", {"into": "ben"})

    started = (await shop.call("DELETE", f"/users/ben?content={content}")).json()

    assert (started["user_id"], started["state"]) == ("ben", "running")
    assert (await shop.call("DELETE", "/users/anna")).json()["id"] == started["id"]
    await number(conversations)
    async with transaction(conversations) as holder:  # another process works on the old id
        await holder.execute(text("select from erasures where user_id = 'anna' and conversation_id is null for update"))
        await erase(conversations)
        assert (await shop.get(f"/erasures/{started['id']}"))["state"] == "running"
    for _ in range(5):  # rounds that only read what is erased already count as idle
        await erase(conversations)
    done = await shop.get(f"/erasures/{started['id']}")
    assert (done["state"], done["erased"] >= MANY) == ("done", True)
    left = await everything(conversations)
    assert "Anna" not in left
    assert ("secret" in left) != content


async def test_erasures_that_wait_do_not_keep_others_from_their_turn(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = await big(anna, sam, conversations)
    async with transaction(conversations) as session:  # the event has no number yet
        await session.execute(
            text("""
                insert into erasures (user_id, event_id)
                select n::text, (select id from events limit 1) from generate_series(1, 100) as n
            """)
        )
    await sam.call("DELETE", f"/conversations/{conversation}")
    for _ in range(4):
        await erasure_batches.erase_round(conversations)
    assert await messages_of(conversations, conversation) == 0


async def test_content_can_be_erased_after_the_user_was_deleted(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    await anna.open(body="secret")
    assert (await shop.call("DELETE", "/users/anna")).status_code == 204
    assert "secret" in await everything(conversations)
    assert (await shop.call("DELETE", "/users/anna?content=true")).status_code == 204
    assert "secret" not in await everything(conversations)
    assert (await sam.get("/conversations"))["items"] == []


async def test_conversations_that_a_dead_process_left_visible_are_hidden_by_the_next(
    anna: Caller, sam: Caller, conversations: SessionFactory, shop: Caller
) -> None:
    await anna.open(body="secret")
    async with transaction(conversations) as session:  # everything that an API did before it died
        await delete_user(session, "anna", content=True)
    assert (await shop.call("PUT", "/users/anna", {"name": "Anna again"})).status_code == 201
    kept = (await anna.open(body="hello again"))["id"]
    await erase(conversations)
    assert "secret" not in await everything(conversations)
    assert [item["id"] for item in (await sam.get("/conversations"))["items"]] == [kept]


async def test_a_user_restored_during_their_erasure_keeps_their_new_data(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    conversation = await open_and_set(anna, sam)
    await grow(conversations, conversation)
    assert (await shop.call("DELETE", "/users/anna")).status_code == 202
    await shop.call("PUT", "/users/anna", {"name": "Anna Anew", "email": "anew@customer.test"})
    await number(conversations)
    await erase(conversations)

    left = await everything(conversations)
    assert "anna@customer.test" not in left
    people = [payload["person"] for kind, payload in await logged(conversations) if kind == "user.updated"]
    assert people[-1]["name"] == "Anna Anew"
    assert (await sam.peek(conversation))["user"]["email"] == "anew@customer.test"


async def test_only_the_store_can_read_erasures_and_finished_ones_are_purged(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    await grow(conversations, await open_and_set(anna, sam))
    erasure_id = (await shop.call("DELETE", "/users/anna")).json()["id"]
    for missing_id in (uuid4(), await _of_a_conversation(conversations)):
        assert problem(await shop.call("GET", f"/erasures/{missing_id}")) == (404, "not-found")
    assert (await sam.api.get(f"/api/v1/store/erasures/{erasure_id}", headers=sam.headers)).status_code == 403
    await number(conversations)
    await erase(conversations)
    async with transaction(conversations) as session:
        await session.execute(text("update erasures set finished_at = finished_at - interval '31 days'"))
        assert await erasure_batches.purge_erasures(session, JOBS, size=10) == 1
    receipt = await shop.get(f"/erasures/{erasure_id}")
    assert (receipt["state"], receipt["asked_by"], receipt["counts"]["profile_fields"]) == ("done", "shop", 2)
    async with transaction(conversations) as session:
        await session.execute(text("update erasures set finished_at = finished_at - interval '366 days'"))
        assert await erasure_batches.purge_erasures(session, JOBS, size=10) == 1
    assert problem(await shop.call("GET", f"/erasures/{erasure_id}")) == (404, "not-found")


async def _of_a_conversation(sessions: SessionFactory) -> UUID:
    async with transaction(sessions) as session:
        erasure = Erasure(user_id="ben", conversation_id=uuid4())
        session.add(erasure)
        await session.flush()
        return erasure.id


async def test_a_first_conversation_during_its_customers_deletion_leaves_no_data_of_them(
    api: httpx2.AsyncClient, acting_as: As, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    for round_ in range(10):
        newcomer = Caller(api, "/api/v1", acting_as(f"new-{round_}", name="Newcomer"))
        fields: dict[str, Any] = {"subject": "secret"} | ({"body": "secret"} if round_ % 2 else {})
        created, deleted = await asyncio.gather(
            newcomer.call("POST", "/conversations", fields), shop.call("DELETE", f"/users/new-{round_}")
        )
        assert deleted.status_code == 204
        assert created.status_code in {201, 401}
        async with conversations() as session:
            found = await session.scalar(
                text("select deleted_at is not null and name is null from users where id = :id"),
                {"id": f"new-{round_}"},
            )
        assert found is True
        begun = (await sam.get("/conversations", user_id=f"new-{round_}"))["items"]
        assert len(begun) == (created.status_code == 201)


async def test_opening_a_conversation_waits_for_its_customers_deletion_and_is_rejected(
    anna: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Anna", "email": "anna@customer.test"})
    for caller, more, expected in (
        (anna, {}, (401, "unauthenticated")),
        (sam, {"user_id": "anna", "body": "Hello"}, (422, "validation-failed")),
    ):
        async with transaction(conversations) as session:
            await delete_user(session, "anna")
            fields = {"subject": "secret", **more}
            opening = await waiting_for_a_lock(conversations, caller.call("POST", "/conversations", fields))
        assert problem(await opening) == expected
        await shop.call("PUT", "/users/anna", {"name": "Anna", "email": "anna@customer.test"})
    assert "secret" not in await everything(conversations)


@pytest.mark.parametrize("body", [{}, {"body": "Hello?"}])
async def test_an_unknown_user_who_is_being_deleted_is_rejected(
    anna: Caller, sam: Caller, conversations: SessionFactory, body: dict[str, str]
) -> None:
    async with transaction(conversations) as session:
        await delete_user(session, "anna")
        fields = {"subject": "Where is it?", **body}
        opening = await waiting_for_a_lock(conversations, anna.call("POST", "/conversations", fields))
    assert problem(await opening) == (401, "unauthenticated")
    assert (await sam.get("/conversations"))["items"] == []
