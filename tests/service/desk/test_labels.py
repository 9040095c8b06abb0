"""Labels of conversations: created when used, compared without case, renamed and deleted everywhere."""

import asyncio
import base64
import json

import pytest

from shared.database.transactions import SessionFactory
from shared.paging import encode_cursor
from tests.service.helpers.callers import UNKNOWN_ID, Caller, logged, problem


async def labelled(admin: Caller, conversation: str, **changes: list[str]) -> list[str]:
    """Change the labels of a conversation; return them."""
    answer = await admin.call("PATCH", f"/conversations/{conversation}/labels", changes)
    assert answer.status_code == 200, answer.text
    labels: list[str] = answer.json()["labels"]
    return labels


async def test_labels_are_added_removed_and_compared_without_case(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    assert await labelled(sam, conversation, add=["Späte Lieferung", "VIP", "vip"]) == ["Späte Lieferung", "VIP"]
    events = len(await logged(conversations))
    assert await labelled(sam, conversation, add=["vip"], remove=["unknown"]) == ["Späte Lieferung", "VIP"]
    assert len(await logged(conversations)) == events  # nothing changed
    assert await labelled(sam, conversation, add=["Refund"], remove=["SPA\u0308TE LIEFERUNG"]) == ["Refund", "VIP"]
    assert [item["name"] for item in (await sam.get("/labels"))["items"]] == ["Refund", "Späte Lieferung", "VIP"]


async def test_a_renamed_or_deleted_label_changes_on_all_conversations(anna: Caller, sam: Caller) -> None:
    one, other = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    for conversation in (one, other):
        await labelled(sam, conversation, add=["a/b", "late"])
    assert (await sam.call("PATCH", "/labels/a%2Fb", {"name": "A & B"})).json() == {"name": "A & B"}
    assert problem(await sam.call("PATCH", "/labels/late", {"name": "a & b"})) == (409, "label-taken")
    assert (await sam.call("PATCH", "/labels/late", {"name": "Late"})).status_code == 200  # its own name
    assert (await sam.peek(one))["labels"] == ["A & B", "Late"]
    assert (await sam.call("DELETE", "/labels/LATE")).status_code == 204
    assert problem(await sam.call("DELETE", "/labels/late")) == (404, "not-found")
    assert problem(await sam.call("PATCH", "/labels/late", {"name": "x"})) == (404, "not-found")
    assert (await sam.peek(other))["labels"] == ["A & B"]
    assert await labelled(sam, other, add=["late"]) == ["A & B", "late"]  # a new one
    assert (await sam.peek(one))["labels"] == ["A & B"]


async def test_a_conversation_has_at_most_twenty_labels(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    names = [f"label {n:02}" for n in range(21)]
    await labelled(sam, conversation, add=names[:20])
    path = f"/conversations/{conversation}/labels"
    answer = await sam.call("PATCH", path, {"add": [names[20]]})
    assert problem(answer) == (422, "validation-failed")
    assert (await sam.peek(conversation))["labels"] == names[:20]
    assert problem(await sam.call("PATCH", path, {"add": names}))[0] == 422
    assert problem(await sam.call("PATCH", path, {"add": ["x" * 51]}))[0] == 422
    assert problem(await sam.call("PATCH", path, {"add": [" "]}))[0] == 422
    assert await labelled(sam, conversation, add=[names[20]], remove=[names[0]]) == names[1:]
    await sam.call("DELETE", f"/labels/{names[1]}")
    assert await labelled(sam, conversation, add=["another"]) == ["another", *names[2:]]  # a deleted one does not count


async def test_concurrent_changes_create_a_label_once(anna: Caller, sam: Caller, kim: Caller) -> None:
    talks = [(await anna.open(body="Hello?"))["id"] for _ in range(6)]
    orders = [["a", "b"], ["b", "a"]] * 3
    await asyncio.gather(
        *(labelled(admin, talk, add=add) for talk, add in zip(talks, orders, strict=True) for admin in (sam, kim))
    )
    assert [item["name"] for item in (await sam.get("/labels"))["items"]] == ["a", "b"]
    assert [(await sam.peek(talk))["labels"] for talk in talks] == [["a", "b"]] * 6


async def test_lists_filter_by_label(anna: Caller, sam: Caller) -> None:
    talks = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    for talk in talks[:2]:
        await labelled(sam, talk, add=["late"])
    await sam.edit(talks[0], status="RESOLVED")
    pages = await sam.pages("/conversations", limit=1, label="LATE")
    assert [item["id"] for page in pages for item in page] == [talks[1], talks[0]]
    found = await sam.get("/conversations", label="late", status="RESOLVED", assigned="none")
    assert [item["id"] for item in found["items"]] == [talks[0]]
    assert (await sam.get("/conversations", label="unknown")) == {"items": [], "next_cursor": None}


async def test_labels_are_listed_in_pages(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await labelled(sam, conversation, add=["c", "B", "a"])
    pages = await sam.pages("/labels", limit=2)
    assert [[item["name"] for item in page] for page in pages] == [["a", "B"], ["c"]]


async def test_a_label_cannot_be_added_and_removed_at_once(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    both = {"add": ["zz"], "remove": ["ZZ"]}
    assert problem(await sam.call("PATCH", f"/conversations/{conversation}/labels", both))[0] == 422
    bulk = {"items": [{"id": conversation, "seen_number": 1}], "add_labels": ["zz"], "remove_labels": ["ZZ"]}
    refused = await sam.call("POST", "/conversations/bulk", bulk)
    assert (problem(refused)[0], refused.json()["errors"][0]["loc"]) == (422, ["body", "remove_labels"])
    missing = {"items": [{"id": UNKNOWN_ID, "seen_number": 1}], "add_labels": ["zz"]}
    assert (await sam.call("POST", "/conversations/bulk", missing)).json()["missing"] == [UNKNOWN_ID]
    assert (await sam.get("/labels"))["items"] == []


@pytest.mark.parametrize(
    ("path", "binding", "key"),
    [
        ("/labels", "labels", ["\x00"]),
        ("/labels", "labels", ["\ud800"]),
        ("/canned-replies", "canned", ["\x00", ""]),
    ],
)
async def test_a_cursor_with_text_that_cannot_be_stored_is_rejected(
    sam: Caller, path: str, binding: str, key: list[str]
) -> None:
    [fingerprint] = json.loads(base64.urlsafe_b64decode(f"{encode_cursor(binding, [])}=="))
    cursor = base64.urlsafe_b64encode(json.dumps([fingerprint, *key]).encode()).decode()
    answer = await sam.call("GET", path, params={"cursor": cursor})
    assert problem(answer) == (422, "validation-failed")
