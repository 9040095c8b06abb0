"""Changes to many conversations: one transaction, and nothing over newer messages."""

from typing import Any

from sqlalchemy import text

from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.callers import UNKNOWN_ID, Caller, logged, problem
from tests.service.messaging.test_deleting import waiting_for_a_lock


async def bulk(admin: Caller, seen: dict[str, int], **change: Any) -> Any:
    """Change conversations and return the answer."""
    items = [{"id": key, "seen_number": number} for key, number in seen.items()]
    answer = await admin.call("POST", "/conversations/bulk", {"items": items, **change})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_all_changes_apply_and_what_has_newer_messages_is_left_alone(
    anna: Caller, sam: Caller, kim: Caller
) -> None:
    await kim.get("/admins")
    one, other, newer = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    await anna.post(newer, "One more thing")

    result = await bulk(
        sam,
        {one: 1, other: 1, newer: 1, UNKNOWN_ID: 1},
        status="RESOLVED",
        read=True,
        assignee_id="kim",
        add_labels=["late"],
    )

    assert result == {"changed": 2, "unchanged": 0, "changed_meanwhile": [newer], "missing": [UNKNOWN_ID]}
    for conversation in (one, other):
        found = await sam.peek(conversation)
        assert (found["status"], found["is_read_by_admin"]) == ("RESOLVED", True)
        assert (found["assignee"]["id"], found["labels"]) == ("kim", ["late"])
    left = await sam.peek(newer)
    assert (left["status"], left["assignee"], left["labels"]) == ("AWAITING_ADMIN", None, [])


async def test_a_change_that_was_rolled_back_in_a_deadlock_is_made_again(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    first, second = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    lock = text("select from conversations where id = :id for update")
    async with transaction(conversations) as other:
        await other.execute(lock, {"id": second})
        # It has the first and waits for the second, so it finds the deadlock before the other one does.
        changing = await waiting_for_a_lock(conversations, bulk(sam, {first: 1, second: 1}, status="RESOLVED"))
        await other.execute(lock, {"id": first})
    assert (await changing)["changed"] == 2


async def test_a_repeat_changes_nothing(anna: Caller, sam: Caller, conversations: SessionFactory) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    change: dict[str, Any] = {"status": "CLOSED", "read": True, "add_labels": ["late"], "remove_labels": ["x"]}
    assert (await bulk(sam, {conversation: 1}, **change))["changed"] == 1
    before = await logged(conversations)
    assert (await bulk(sam, {conversation: 1}, **change))["unchanged"] == 1
    assert await logged(conversations) == before
    assert (await bulk(sam, {conversation: 1}, assignee_id=None))["unchanged"] == 1
    assert (await bulk(sam, {conversation: 1}, read=False))["changed"] == 1
    assert (await sam.peek(conversation))["is_read_by_admin"] is False


async def test_an_invalid_change_changes_nothing(anna: Caller, sam: Caller) -> None:
    one, full = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    await sam.call("PATCH", f"/conversations/{full}/labels", {"add": [f"label {n}" for n in range(20)]})
    before = [await sam.peek(conversation) for conversation in (one, full)]
    items = [{"id": one, "seen_number": 1}, {"id": full, "seen_number": 1}]
    for change in (
        {"add_labels": ["one more"], "status": "CLOSED"},
        {"assignee_id": "anna", "status": "CLOSED"},
        {"status": "KEEP"},
        {"read": "yes"},
        {},
        {"subject": "x"},
    ):
        assert problem(await sam.call("POST", "/conversations/bulk", {"items": items, **change}))[0] == 422
    for wrong in ([], items * 51, [{"id": one}]):
        assert problem(await sam.call("POST", "/conversations/bulk", {"items": wrong, "read": True}))[0] == 422
    assert [await sam.peek(conversation) for conversation in (one, full)] == before


async def test_a_repeated_id_counts_once_with_its_smallest_number(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await anna.post(conversation)
    items = [{"id": conversation, "seen_number": number} for number in (2, 1)]
    answer = await sam.call("POST", "/conversations/bulk", {"items": items, "read": True})
    assert answer.json()["changed_meanwhile"] == [conversation]
