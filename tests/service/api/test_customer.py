"""The customers' API: their conversations, linked orders, reading, the badge."""

from typing import Any
from uuid import uuid4

import pytest

from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import ORDER, Caller, logged, problem


async def test_a_new_conversation_is_open_unread_by_admins_and_read_by_its_customer(anna: Caller) -> None:
    answer = await anna.call("POST", "/conversations", {"subject": "  Where is it?  ", "body": "  Hello?\n"})

    assert answer.status_code == 201
    found = answer.json()
    assert answer.headers["location"] == f"/api/v1/conversations/{found['id']}"
    assert found["last_message"].pop("id")
    assert found["last_message"].pop("created_at") == found["last_activity_at"]
    assert found.pop("id")
    assert found["created_at"] == found["waiting_since"] <= found.pop("last_activity_at")
    assert found.pop("created_at").endswith("Z")
    assert found.pop("waiting_since")
    assert found == {
        "subject": "Where is it?",
        "status": "OPEN",
        "user": {"id": "anna", "name": "Anna", "email": "anna@customer.test"},
        "order": None,
        "is_read_by_admin": False,
        "is_read_by_user": True,
        "message_count": 1,
        "last_message": {"number": 1, "sender_role": "customer", "preview": "Hello?"},
    }


async def test_a_conversation_without_messages_stays_open_after_the_first_one(anna: Caller) -> None:
    created = await anna.open()
    assert (created["message_count"], created["last_message"], created["status"]) == (0, None, "OPEN")

    first = await anna.post(created["id"])

    found = await anna.peek(created["id"])
    assert (first["number"], found["status"], found["waiting_since"]) == (1, "OPEN", created["created_at"])
    assert (found["is_read_by_admin"], found["is_read_by_user"]) == (False, True)


@pytest.mark.parametrize(
    "text", ["👩🏽‍💻 e\u0301 שלום", "<script>alert(1)</script>", "a\n\n  b\tc\u200b\u202e", "\u0001a\x7f", "x" * 10_000]
)
async def test_a_message_keeps_every_character_between_its_trimmed_ends(anna: Caller, text: str) -> None:
    conversation = (await anna.open(body=f" \n{text} \t"))["id"]
    (message,) = (await anna.get(f"/conversations/{conversation}/messages"))["items"]
    assert message["body"] == text
    assert message["sender"] == {"id": "anna", "name": "Anna", "role": "customer"}


@pytest.mark.parametrize("body", ["", " \n\t\u00a0", "x" * 10_001, "a\0b", None])
async def test_an_invalid_body_is_rejected(anna: Caller, body: str | None) -> None:
    conversation = (await anna.open())["id"]
    answer = await anna.call("POST", f"/conversations/{conversation}/messages", {"body": body})
    assert problem(answer) == (422, "validation-failed")
    assert answer.json()["errors"][0]["loc"] == ["body", "body"]
    assert (await anna.peek(conversation))["message_count"] == 0


@pytest.mark.parametrize("subject", ["", "   ", "x" * 201, "two\nlines", "two\r\nlines", "a\0b"])
async def test_a_subject_is_one_line_of_1_to_200_characters(anna: Caller, subject: str) -> None:
    answer = await anna.call("POST", "/conversations", {"subject": subject})
    assert problem(answer) == (422, "validation-failed")
    assert (await anna.open(subject=" " + "é" * 200 + "\n"))["subject"] == "é" * 200


async def test_length_errors_count_characters_and_files(anna: Caller, sam: Caller) -> None:
    fields = {"subject": "x" * 201, "attachments": [str(uuid4()) for _ in range(11)], "body": "\n" + "y" * 10_001}
    answer = await anna.call("POST", "/conversations", fields)
    assert [error["msg"] for error in answer.json()["errors"]] == [
        "must have at most 200 characters, not 201",
        "must have at most 10 items, not 11",
        "must have at most 10000 characters, not 10001",
    ]
    answer = await anna.call("POST", "/conversations", {"subject": " \n"})
    assert answer.json()["errors"] == [{"loc": ["body", "subject"], "msg": "must not be empty"}]
    for ids, message in (([], "must not be empty"), ([str(uuid4()) for _ in range(101)], "at most 100 items, not 101")):
        answer = await sam.call("POST", "/conversations/bulk-delete", {"ids": ids})
        assert answer.json()["errors"][0]["msg"].endswith(message)


async def test_a_customer_links_only_their_own_order(anna: Caller, ben: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    conversation = await anna.open(order_id="A-1")
    assert conversation["order"].pop("synced_at")
    expected: dict[str, Any] = {**ORDER, "id": "A-1", "url": None, "items": [], "deleted": False}
    assert conversation["order"] == {name: value for name, value in expected.items() if name != "user_id"}

    for caller, order in ((ben, "A-1"), (anna, "A-2")):
        answer = await caller.call("POST", "/conversations", {"subject": "Mine?", "order_id": order})
        assert problem(answer) == (422, "validation-failed")
        assert answer.json()["errors"] == [{"loc": ["body", "order_id"], "msg": "The customer has no such order."}]
    assert (await ben.get("/conversations"))["items"] == []


async def test_a_customer_sees_their_own_orders_newest_first_without_deleted_ones(
    anna: Caller, ben: Caller, shop: Caller
) -> None:
    for day in (1, 3, 2):
        await shop.call("PUT", f"/orders/A-{day}", ORDER | {"placed_at": f"2026-01-0{day}T00:00:00Z"})
    await shop.call("DELETE", "/orders/A-3")
    assert [order["id"] for order in (await anna.get("/orders"))["items"]] == ["A-2", "A-1"]
    assert (await ben.get("/orders"))["items"] == []


async def test_viewing_a_conversation_marks_it_as_read_and_prefetching_does_not(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open())["id"]
    await sam.post(conversation, "Here it is.")
    path = f"/conversations/{conversation}"

    assert (await anna.peek(conversation))["is_read_by_user"] is False
    for purpose in ("prefetch", "prefetch;prerender"):
        answer = await anna.call("GET", path, headers={"Sec-Purpose": purpose})
        assert answer.json()["is_read_by_user"] is False
    await anna.get(f"{path}/messages")
    assert (await anna.get("/unread")) == {"unread": 1}

    found = await anna.get(path)

    assert (found["is_read_by_user"], found["status"]) == (True, "AWAITING_USER")
    assert (await anna.get("/unread")) == {"unread": 0}
    assert (await sam.peek(conversation)).items() >= found.items()
    read = {"conversation_id": conversation, "by": "user", "up_to": 1}
    assert (await logged(conversations))[-1] == ("conversation.read", read)


async def test_the_read_number_only_rises_and_the_flag_is_set_at_the_newest_message(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open())["id"]
    for _ in range(3):
        await sam.post(conversation)

    seen = []
    for up_to in (2, 1, 2, 0, 3, 3, 2_000_000_000):
        answer = await anna.call("POST", f"/conversations/{conversation}/read", {"up_to": up_to})
        assert (answer.status_code, answer.content) == (204, b"")
        seen.append((await anna.peek(conversation))["is_read_by_user"])

    assert seen == [False, False, False, False, True, True, True]
    reads = [payload["up_to"] for kind, payload in await logged(conversations) if kind == "conversation.read"]
    assert reads == [2, 3]


async def test_a_read_that_changes_nothing_writes_nothing(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.get(f"/conversations/{conversation}")
    await anna.get(f"/conversations/{conversation}")
    before = await logged(conversations)

    for caller in (anna, sam):
        await caller.get(f"/conversations/{conversation}")
        await caller.call("POST", f"/conversations/{conversation}/read", {"up_to": 1})

    assert await logged(conversations) == before


async def test_sending_sets_the_flag_but_does_not_mark_messages_as_read(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open())["id"]
    await sam.post(conversation)
    await anna.post(conversation)
    assert (await anna.peek(conversation))["is_read_by_user"] is True
    assert not [kind for kind, _ in await logged(conversations) if kind == "conversation.read"]

    await anna.get(f"/conversations/{conversation}")

    assert (await logged(conversations))[-1][1]["up_to"] == 2


async def test_a_customer_sees_an_admin_by_name_or_as_the_store_and_never_an_id_or_address(
    api: Any, acting_as: Any, anna: Caller, sam: Caller
) -> None:
    conversation = (await anna.open())["id"]
    await sam.post(conversation)
    await Caller(api, "/api/v1/admin", acting_as("nameless", "admin")).post(conversation)

    answer = await anna.call("GET", f"/conversations/{conversation}/messages")

    assert [message["sender"] for message in answer.json()["items"]] == [
        {"id": None, "name": "Sam", "role": "admin"},
        {"id": None, "name": "Test Store", "role": "admin"},
    ]
    assert "sam@store.test" not in answer.text
    senders = [m["sender"] for m in (await sam.get(f"/conversations/{conversation}/messages"))["items"]]
    assert senders == [
        {"id": "sam", "name": "Sam", "role": "admin"},
        {"id": "nameless", "name": "nameless", "role": "admin"},
    ]


async def test_a_customers_post_is_rejected_after_a_new_message_by_an_admin(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await anna.post(conversation, seen_number=0)  # the customer's own messages do not count
    await sam.post(conversation)
    before = await anna.peek(conversation)

    answer = await anna.call("POST", f"/conversations/{conversation}/messages", {"body": "Well?", "seen_number": 2})

    assert problem(answer) == (409, "newer-messages")
    assert await anna.peek(conversation) == before
    assert (await anna.post(conversation, seen_number=3))["number"] == 4


async def test_a_customers_message_reopens_a_resolved_or_closed_conversation(anna: Caller, sam: Caller) -> None:
    for status in ("RESOLVED", "CLOSED"):
        conversation = (await anna.open(body="Hello?"))["id"]
        await sam.edit(conversation, status=status)
        assert (await anna.peek(conversation))["waiting_since"] is None
        await anna.post(conversation)
        assert (await anna.peek(conversation))["status"] == "AWAITING_ADMIN"


@pytest.mark.parametrize("text", ["\u200b", "\u3164\n\u2800", "\ufe0f\u200d ", "\U000e0041"])
async def test_text_without_a_visible_character_is_rejected(anna: Caller, sam: Caller, text: str) -> None:
    conversation = (await anna.open())["id"]
    for caller, method, path, fields in (
        (anna, "POST", "/conversations", {"subject": text}),
        (anna, "POST", "/conversations", {"subject": "x", "body": text}),
        (anna, "POST", f"/conversations/{conversation}/messages", {"body": text}),
        (sam, "PATCH", f"/conversations/{conversation}", {"reply_body": text, "status": "CLOSED"}),
    ):
        assert problem(await caller.call(method, path, fields)) == (422, "validation-failed")
    assert (await anna.peek(conversation))["message_count"] == 0


async def test_a_message_keeps_the_indentation_of_its_first_line(anna: Caller) -> None:
    conversation = (await anna.open(body=" \n\n    if x:\n        y\n "))["id"]
    [message] = (await anna.get(f"/conversations/{conversation}/messages"))["items"]
    assert message["body"] == "    if x:\n        y"


async def test_an_unusual_line_separator_in_a_subject_becomes_a_space(anna: Caller) -> None:
    for separator in "\u2028\u2029\x85\v\f":
        assert (await anna.open(subject=f"Where{separator}is it?"))["subject"] == "Where is it?"
