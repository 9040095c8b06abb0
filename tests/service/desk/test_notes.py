"""Notes for other admins, and the timeline that shows them between the messages."""

import asyncio
from typing import Any

from sqlalchemy import func, select

from services.conversations.models import ConversationEntry
from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import UNKNOWN_ID, Caller, logged, problem

SAM, KIM = {"id": "sam", "name": "Sam"}, {"id": "kim", "name": "Kim"}


async def note(admin: Caller, conversation: str, body: str = "Done.", *, key: str | None = None, **more: Any) -> Any:
    """Add a note and return it."""
    answer = await admin.call("POST", f"/conversations/{conversation}/notes", {"body": body, **more}, key=key)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def timeline(admin: Caller, conversation: str, **params: Any) -> list[Any]:
    """Return all entries of a timeline, read in small pages."""
    pages = await admin.pages(f"/conversations/{conversation}/timeline", limit=2, **params)
    return [item for page in pages for item in page]


async def test_a_note_moves_nothing_and_customers_never_see_it(
    anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory
) -> None:
    await kim.get("/admins")
    conversation = (await anna.open(body="Hello?"))["id"]
    before = await sam.peek(conversation)
    added = await note(sam, conversation, "  Called her.\n", mentions=["kim", "kim"])
    assert (added["body"], added["actor"], added["mentions"], added["deleted"]) == ("  Called her.", SAM, [KIM], False)
    assert await sam.peek(conversation) == before
    assert (await anna.get(f"/conversations/{conversation}/messages"))["items"][-1]["body"] == "Hello?"
    kind, payload = (await logged(conversations))[-1]
    ids = {"conversation_id": conversation, "note_id": added["id"]}
    assert (kind, ids.items() <= payload.items()) == ("note.posted", True)
    assert (payload["body"], payload["mentions"]) == ("  Called her.", ["kim"])  # for her notification
    await note(sam, conversation, "Nobody else", mentions=["sam"])
    assert (await logged(conversations))[-1][1].keys() == ids.keys()


async def test_a_note_is_added_once_for_each_key(anna: Caller, sam: Caller) -> None:
    conversation, other = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    first, second = await asyncio.gather(*(note(sam, conversation, key="k") for _ in range(2)))
    assert first == second
    assert (await note(sam, other, key="k"))["id"] != first["id"]  # another path
    changed = await sam.call("POST", f"/conversations/{conversation}/notes", {"body": "Other"}, key="k")
    assert problem(changed) == (422, "idempotency-key-reused")
    assert [item["kind"] for item in await timeline(sam, conversation)] == ["message", "note"]


async def test_only_its_author_deletes_a_note_and_a_placeholder_stays(
    anna: Caller, sam: Caller, kim: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    added = await note(sam, conversation, "Secret")
    path = f"/conversations/{conversation}/notes/{added['id']}"
    assert problem(await kim.call("DELETE", path)) == (403, "forbidden")
    assert (await sam.call("DELETE", path)).status_code == (await sam.call("DELETE", path)).status_code == 204
    assert (await timeline(sam, conversation))[-1] == added | {"body": "", "deleted": True}
    assert [kind for kind, _ in await logged(conversations)].count("note.deleted") == 1
    assert "Secret" not in str(await logged(conversations))
    assert problem(await sam.call("DELETE", f"/conversations/{conversation}/notes/{UNKNOWN_ID}")) == (404, "not-found")


async def test_invalid_notes_are_rejected(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    path = f"/conversations/{conversation}/notes"
    for body in ({"body": " "}, {"body": "x" * 10_001}, {"body": "x", "mentions": ["anna"]}, {"body": "x", "to": 1}):
        assert problem(await sam.call("POST", path, body))[0] == 422
    assert problem(await sam.call("POST", f"/conversations/{UNKNOWN_ID}/notes", {"body": "x"})) == (404, "not-found")


async def test_the_timeline_has_everything_in_one_order(anna: Caller, sam: Caller, kim: Caller) -> None:
    conversation = (await anna.open(body="One"))["id"]
    written = await note(sam, conversation, "Before the reply")
    await kim.post(conversation, "Two")  # which also assigns it
    await sam.edit(conversation, status="RESOLVED")
    await sam.edit(conversation, status="RESOLVED")  # changes nothing
    await sam.call("PATCH", f"/conversations/{conversation}/labels", {"add": ["late"]})
    await anna.post(conversation, "Three")
    await sam.edit(conversation, reply_body="Four", status="CLOSED")

    items = await timeline(sam, conversation)

    shown = [(item["kind"], item["actor"]["id"], item.get("message", {}).get("body")) for item in items]
    assert shown == [
        ("message", "anna", "One"),
        ("note", "sam", None),
        ("message", "kim", "Two"),
        ("assignment", "kim", None),
        ("status", "sam", None),
        ("labels", "sam", None),
        ("message", "anna", "Three"),
        ("message", "sam", "Four"),
        ("status", "sam", None),
    ]
    assert items[1] == written
    assert (items[3]["previous_assignee"], items[3]["assignee"]) == (None, KIM)
    assert [(item["previous_status"], item["status"]) for item in items if item["kind"] == "status"] == [
        ("AWAITING_USER", "RESOLVED"),
        ("AWAITING_ADMIN", "CLOSED"),
    ]
    assert (items[5]["added"], items[5]["removed"]) == (["late"], [])
    assert [item["at"] for item in items] == sorted(item["at"] for item in items)
    assert await timeline(sam, conversation, order="desc") == items[::-1]


async def test_the_timeline_of_a_conversation_without_messages(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open())["id"]
    assert await timeline(sam, conversation) == []
    added = await note(sam, conversation)
    assert await timeline(sam, conversation) == [added]
    assert problem(await sam.call("GET", f"/conversations/{UNKNOWN_ID}/timeline")) == (404, "not-found")
    cursor = (await sam.get("/labels"))["next_cursor"] or "eA"
    answer = await sam.call("GET", f"/conversations/{conversation}/timeline", params={"cursor": cursor})
    assert problem(answer) == (422, "validation-failed")


async def test_deleting_a_conversation_deletes_its_notes(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await note(sam, conversation, "Secret")
    await sam.edit(conversation, status="CLOSED")
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
    assert problem(await sam.call("GET", f"/conversations/{conversation}/timeline")) == (404, "not-found")
    async with conversations() as session:
        assert await session.scalar(select(func.count()).select_from(ConversationEntry)) == 0
