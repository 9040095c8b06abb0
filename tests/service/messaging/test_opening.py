"""A conversation is opened in one statement, which leaves what a first message to an empty conversation would."""

import re
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.opening import NewConversation, create_conversation
from services.conversations.messaging.posting import Post, post_message
from services.conversations.rules import Side, Status
from shared.database.transactions import SessionFactory
from shared.observability.logs import current_origin
from tests.service.helpers.callers import ORDER, UNKNOWN_ID, Caller, problem
from tests.service.messaging.test_deleting import everything, waiting_for_a_lock

# Every row that opening and posting write.
ROWS = {
    "conversations": "select * from conversations where id = :id",
    "messages": "select * from messages where conversation_id = :id",
    "conversation_entries": "select * from conversation_entries where conversation_id = :id",
    "events": "select type, user_id, audience, payload from events where conversation_id = :id order by seq",
    "audit_entries": "select * from audit_entries where conversation_id = :id",
    "attachments": "select name, position, message_id is null as unsent from attachments where conversation_id = :id",
}


@pytest.mark.parametrize(
    ("opener", "status", "files"),
    [
        ("anna", None, 0),
        ("anna", None, 2),
        ("sam", None, 0),
        ("sam", Status.OPEN, 0),
        ("sam", Status.RESOLVED, 1),
    ],
)
async def test_it_is_as_if_opened_without_a_message_and_then_written_to(
    conversations: SessionFactory, anna: Caller, sam: Caller, opener: str, status: Status | None, files: int
) -> None:
    caller, side = {"anna": (anna, Side.CUSTOMER), "sam": (sam, Side.ADMIN)}[opener]
    await anna.get("/conversations")  # creates their users
    await sam.get("/conversations")
    body = "" if files else "Hello?"

    async def uploaded() -> tuple[UUID, ...]:
        return tuple([UUID((await caller.upload(name=f"{number}.txt"))["id"]) for number in range(files)])

    async with conversations.begin() as session:
        at_once = NewConversation("anna", "Hi", opener, side, None, body, status, await uploaded())
        one, _ = await create_conversation(session, at_once)
    async with conversations.begin() as session:
        two, _ = await create_conversation(session, NewConversation("anna", "Hi", opener, side))
        origin = current_origin() if status is not None else None
        await post_message(
            session,
            Post(two, opener, side, body, chosen_status=status, attachments=await uploaded(), origin=origin),
        )
    rows, expected = await written(conversations, one), await written(conversations, two)
    assert rows["events"][0].pop("payload") == "{'conversation_id': 'ID'}"
    assert expected["events"][0].pop("payload")  # of a customer's: tells admins about it, which its message does above
    assert rows == expected


async def written(sessions: SessionFactory, conversation_id: UUID) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a conversation, with names for ids and times."""
    async with sessions() as session:
        return {
            table: [
                {column: _without_chance(value) for column, value in row.items()}
                for row in (await session.execute(text(query), {"id": conversation_id})).mappings()
            ]
            for table, query in ROWS.items()
        }


def _without_chance(value: Any) -> Any:
    shown = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", repr(value))
    shown = re.sub(r"UUID\('ID'\)", "ID", shown)
    return re.sub(r"datetime\.datetime\(.*?tzinfo=.*?\)|\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME", shown)


async def test_what_is_refused_leaves_no_trace(
    conversations: SessionFactory, anna: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/orders/B-1", ORDER | {"user_id": "ben"})
    await anna.get("/conversations")
    await sam.get("/conversations")
    await shop.call("PUT", "/users/kim", {"role": "admin"})
    file = (await anna.upload())["id"]
    mine, ours = {"subject": "Hi", "body": "Hello?"}, {"subject": "Hi", "body": "Hello?", "user_id": "anna"}
    before = await everything(conversations)
    for caller, fields, place in (
        (anna, mine | {"order_id": "B-1"}, "order_id"),
        (anna, mine | {"attachments": [UNKNOWN_ID]}, "attachments"),
        (anna, mine | {"attachments": [file, UNKNOWN_ID]}, "attachments"),
        (sam, ours | {"order_id": "B-1"}, "order_id"),
        (sam, ours | {"attachments": [file]}, "attachments"),
        (sam, ours | {"user_id": "nobody", "order_id": "B-1"}, "user_id"),
        (sam, ours | {"user_id": "kim"}, "user_id"),
    ):
        answer = await caller.call("POST", "/conversations", fields, key="once")
        assert problem(answer) == (422, "validation-failed")
        assert answer.json()["errors"][0]["loc"][:2] == ["body", place]
    assert await everything(conversations) == before


@pytest.mark.parametrize("is_saved", [True, False])
async def test_a_request_waits_for_an_earlier_one_with_its_key(
    conversations: SessionFactory, anna: Caller, *, is_saved: bool
) -> None:
    await anna.get("/conversations")
    fields = {"subject": "Hi", "body": "Hello?"}
    key = IdempotencyKey.of("once", "create", fields)
    async with conversations() as session:
        earlier, _ = await create_conversation(
            session, NewConversation("anna", "Hi", "anna", Side.CUSTOMER, body="Hello?"), key
        )
        later = await waiting_for_a_lock(conversations, anna.call("POST", "/conversations", fields, key="once"))
        await (session.commit() if is_saved else session.rollback())
    answer = await later
    assert answer.status_code == 201
    assert (answer.json()["id"] == str(earlier)) is is_saved
    assert ("idempotency-replayed" in answer.headers) is is_saved


async def test_a_conversation_with_a_merged_id_is_the_persons(anna: Caller, sam: Caller, shop: Caller) -> None:
    for user in ("anna", "guest"):
        await shop.call("PUT", f"/users/{user}", {"name": user})
    merged = await shop.call("POST", "/users/guest/merge", {"into": "anna"})
    assert merged.is_success, merged.text
    opened = await sam.open(user_id="guest", body="Hello", key="once")
    assert opened["user"]["id"] == "anna"
    assert await sam.open(user_id="guest", body="Hello", key="once") == opened
    assert [each["id"] for each in (await anna.get("/conversations"))["items"]] == [opened["id"]]
