"""The admins' API: all conversations, editing, unread flags, counts, customers."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import insert

from services.conversations.messaging import listing
from services.conversations.models import Conversation, User
from services.conversations.rules import Status
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.callers import ORDER, Caller, logged, problem

NEW_AT_THE_DESK: dict[str, Any] = {"assignee": None, "labels": [], "first_reply_at": None}
"""What admins see besides of a customer's new conversation."""


async def test_an_admin_opens_a_conversation_with_any_known_customer(anna: Caller, sam: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)  # makes Anna known

    answer = await sam.call(
        "POST",
        "/conversations",
        {"user_id": "anna", "subject": "Your order", "body": "It is on its way.", "order_id": "A-1"},
    )

    assert answer.status_code == 201
    conversation = answer.json()
    assert answer.headers["location"] == f"/api/v1/admin/conversations/{conversation['id']}"
    assert (conversation["status"], conversation["waiting_since"]) == ("AWAITING_USER", None)
    assert (conversation["is_read_by_admin"], conversation["is_read_by_user"]) == (True, False)
    assert (conversation["user"]["name"], conversation["order"]["id"]) == ("anna", "A-1")
    assert conversation["last_message"]["sender_role"] == "admin"
    assert (await anna.get("/unread")) == {"unread": 1}


@pytest.mark.parametrize("status", Status)
async def test_an_admin_may_give_a_new_conversation_any_status(anna: Caller, sam: Caller, status: Status) -> None:
    await anna.get("/unread")
    found = await sam.open(user_id="anna", body="Solved by phone.", status=status)
    assert (found["status"], found["waiting_since"]) == (status, None)


async def test_an_admin_needs_a_known_customer_and_a_first_message_to_open_a_conversation(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/orders/B-1", ORDER | {"user_id": "ben"})
    await anna.get("/unread")
    valid = {"user_id": "anna", "subject": "Hello", "body": "Hello"}
    invalid: list[tuple[dict[str, Any], str]] = [
        ({"user_id": "nobody"}, "user_id"),
        ({"user_id": "sam"}, "user_id"),  # an admin
        ({"body": " "}, "body"),
        ({"body": None}, "body"),
        ({"order_id": "B-1"}, "order_id"),  # ben's
        ({"status": "DONE"}, "status"),
    ]
    for change, field in invalid:
        answer = await sam.call("POST", "/conversations", valid | change)
        assert problem(answer) == (422, "validation-failed")
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
    assert (await sam.get("/conversations"))["items"] == (await ben.get("/conversations"))["items"] == []


@pytest.mark.parametrize("before", Status)
async def test_an_admin_may_change_any_status_to_any_other_and_nothing_else_changes(
    anna: Caller, sam: Caller, before: Status
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.edit(conversation, status=before)
    found = await sam.peek(conversation)

    for after in Status:
        waits = found["created_at"] if after in {"OPEN", "AWAITING_ADMIN"} else None
        assert await sam.edit(conversation, status=after) == found | {"status": after, "waiting_since": waits}
        await sam.edit(conversation, status=before)


async def test_setting_the_same_status_writes_nothing(anna: Caller, sam: Caller, conversations: SessionFactory) -> None:
    conversation = (await anna.open())["id"]
    await sam.edit(conversation, status="RESOLVED")
    before = await logged(conversations)
    await sam.edit(conversation, status="RESOLVED")
    assert await logged(conversations) == before
    assert before[-1] == (
        "conversation.updated",
        {"conversation_id": conversation, "status": "RESOLVED", "status_before": "OPEN"},
    )


@pytest.mark.parametrize("status", Status)
async def test_a_reply_and_a_status_are_saved_together(anna: Caller, sam: Caller, status: Status) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    found = await sam.edit(conversation, status=status, reply_body=" Done. ", seen_number=1)
    assert (found["status"], found["message_count"], found["waiting_since"]) == (status, 2, None)
    assert (found["is_read_by_admin"], found["is_read_by_user"]) == (True, False)
    assert found["last_message"]["preview"] == "Done."


@pytest.mark.parametrize("status", Status)
async def test_a_reply_can_keep_the_status(anna: Caller, sam: Caller, status: Status) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.edit(conversation, status=status)
    found = await sam.edit(conversation, status="KEEP", reply_body="Done.")
    assert (found["status"], found["message_count"], found["waiting_since"]) == (status, 2, None)
    assert (found["is_read_by_admin"], found["is_read_by_user"]) == (True, False)


@pytest.mark.parametrize("reply", [{}, {"reply_body": "Done."}])
async def test_an_edit_that_expects_another_status_changes_nothing(
    anna: Caller, sam: Caller, reply: dict[str, str]
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    before = await sam.edit(conversation, status="RESOLVED")
    fields = {"status": "CLOSED", "seen_number": 1, **reply}
    refused = await sam.call("PATCH", f"/conversations/{conversation}", {**fields, "expected_status": "OPEN"})
    assert problem(refused) == (409, "status-changed")
    assert await sam.peek(conversation) == before
    assert (await sam.edit(conversation, **fields, expected_status="RESOLVED"))["status"] == "CLOSED"


async def test_undoing_a_status_never_undoes_over_a_newer_message(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.edit(conversation, status="RESOLVED")
    undo = {"status": "OPEN", "expected_status": "RESOLVED", "seen_number": 1}
    await sam.edit(conversation, status="KEEP", reply_body="By the way")  # still resolved
    refused = await sam.call("PATCH", f"/conversations/{conversation}", undo)
    assert problem(refused) == (409, "newer-messages")
    assert (await sam.edit(conversation, **undo | {"seen_number": 2}))["status"] == "OPEN"

    await anna.post(conversation, "Really?")
    expects_both = {"reply_body": "Yes", "expected_status": "OPEN", "seen_number": 1}
    refused = await sam.call("PATCH", f"/conversations/{conversation}", expects_both)
    assert problem(refused) == (409, "newer-messages")  # the more important reason


async def test_concurrent_replies_that_expect_one_status_succeed_once(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    replies = [{"reply_body": f"Number {number}", "expected_status": "OPEN"} for number in range(5)]
    answers = await asyncio.gather(*(sam.call("PATCH", f"/conversations/{conversation}", reply) for reply in replies))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert (await sam.peek(conversation))["message_count"] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seen_number": 1},
        {"status": None, "reply_body": None},
        {"reply_body": "  "},
        {"status": "RESOLVED", "reply_body": ""},
        {"status": "resolved"},
        {"status": "KEEP"},
        {"status": "KEEP", "reply_body": " "},
        {"status": "RESOLVED", "expected_status": "KEEP"},
        {"expected_status": "OPEN"},
        {"status": "RESOLVED", "subject": "Another"},
        {"reply_body": "Hi", "order_id": None},
        {"status": "RESOLVED", "user_id": "ben"},
        {"status": "RESOLVED", "is_read_by_admin": False},
    ],
)
async def test_an_empty_edit_and_other_fields_are_rejected(anna: Caller, sam: Caller, fields: dict[str, Any]) -> None:
    conversation = await anna.open(body="Hello?")
    answer = await sam.call("PATCH", f"/conversations/{conversation['id']}", fields)
    assert problem(answer) == (422, "validation-failed")
    assert await sam.peek(conversation["id"]) == conversation | NEW_AT_THE_DESK


async def test_waiting_begins_with_the_first_unanswered_message(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.post(conversation)
    assert (await sam.peek(conversation))["waiting_since"] is None

    first = await anna.post(conversation)
    await anna.post(conversation)
    await sam.get(f"/conversations/{conversation}")

    found = await sam.peek(conversation)
    assert found["waiting_since"] == first["created_at"] < found["last_activity_at"]


async def test_marking_a_conversation_unread_keeps_the_number_of_the_last_read_message(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.get(f"/conversations/{conversation}")
    unread = f"/conversations/{conversation}/unread"

    for _ in range(2):
        assert (await sam.call("POST", unread)).status_code == 204

    found = await sam.peek(conversation)
    assert (found["is_read_by_admin"], found["is_read_by_user"]) == (False, True)
    assert (await sam.get("/conversations", unread="true"))["items"] == [found]
    updates = [payload for kind, payload in await logged(conversations) if kind == "conversation.updated"]
    assert updates == [{"conversation_id": conversation, "is_read_by_admin": False}]
    async with conversations() as session:
        stored = await session.get_one(Conversation, conversation)
    assert stored.read_by_admin_number == 1
    assert (await sam.get(f"/conversations/{conversation}"))["is_read_by_admin"] is True


async def test_an_admins_view_marks_the_conversation_as_read_for_admins_only(anna: Caller, sam: Caller) -> None:
    conversation = await anna.open(body="Hello?")
    path = f"/conversations/{conversation['id']}"
    assert await sam.peek(conversation["id"]) == conversation | NEW_AT_THE_DESK
    seen = conversation | NEW_AT_THE_DESK
    assert (await sam.call("GET", path, headers={"Sec-Purpose": "prefetch"})).json() == seen
    assert await sam.get(path) == seen | {"is_read_by_admin": True}


async def test_an_admin_reads_a_conversation_that_has_no_message_yet(anna: Caller, sam: Caller) -> None:
    conversation = await anna.open()
    await sam.call("POST", f"/conversations/{conversation['id']}/read", {"up_to": 0})
    assert await sam.peek(conversation["id"]) == conversation | NEW_AT_THE_DESK | {"is_read_by_admin": True}


async def test_the_filters_of_the_admins_list_combine(anna: Caller, ben: Caller, sam: Caller, shop: Caller) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    ordered = (await anna.open(order_id="A-1"))["id"]
    resolved = (await anna.open(body="Thanks"))["id"]
    await sam.edit(resolved, status="RESOLVED")
    bens = (await ben.open())["id"]
    await sam.get(f"/conversations/{bens}")

    async def found(**params: Any) -> list[str]:
        return [item["id"] for item in (await sam.get("/conversations", **params))["items"]]

    assert await found() == [bens, resolved, ordered]
    assert await found(user_id="anna") == [resolved, ordered]
    assert await found(user_id="anna", status="OPEN") == [ordered]
    assert await found(status=["OPEN", "RESOLVED"], unread="true") == [resolved, ordered]
    assert await found(unread="false") == [bens]
    assert await found(order_id="A-1") == await found(order_number=" 1007 ") == [ordered]
    assert await found(order_id="A-2") == await found(order_number="A-1") == await found(user_id="carl") == []
    for empty in ("order_number", "order_id", "user_id"):
        assert problem(await sam.call("GET", "/conversations", params={empty: ""})) == (422, "validation-failed")
    assert [item["id"] for item in (await anna.get("/conversations", status="RESOLVED"))["items"]] == [resolved]
    assert (await anna.get("/conversations", unread="true", order_id="A-1"))["items"] == []


async def test_the_longest_waiting_conversations_come_first_when_sorted_by_waiting(anna: Caller, sam: Caller) -> None:
    answered, early, late = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    await sam.post(answered)
    await anna.post(early)  # moves the activity, not the waiting
    found = (await sam.get("/conversations", sort="waiting"))["items"]
    assert [item["id"] for item in found] == [early, late, answered]


async def test_one_customers_conversations_have_the_order_of_all_by_waiting_time(
    anna: Caller, ben: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_SIZES", (2, 501))  # two that wait fill a page
    statuses = ("RESOLVED", "AWAITING_ADMIN", "CLOSED", None, "OPEN", "AWAITING_USER", None)
    for status in statuses:  # in the middle, waiting ones between those that wait for nobody
        await ben.open(body="Hello?")
        opened = (await anna.open(body="Hello?"))["id"]
        if status:
            await sam.post(opened)  # with nothing to answer, not even OPEN waits
            await sam.edit(opened, status=status)
    everyones = (await sam.get("/conversations", sort="waiting"))["items"]
    hers = [item for item in everyones if item["user"]["id"] == "anna"]
    assert [item["status"] for item in hers if item["waiting_since"]] == ["OPEN", "OPEN"]

    async def found(**filters: Any) -> list[str]:
        pages = await sam.pages("/conversations", sort="waiting", user_id="anna", limit=1, **filters)
        return [item["id"] for page in pages for item in page]

    assert await found() == [item["id"] for item in hers]
    assert await found(unread="false") == [item["id"] for item in hers if item["is_read_by_admin"]]
    some = ["OPEN", "CLOSED"]
    assert await found(status=some) == [item["id"] for item in hers if item["status"] in some]


async def test_counts_stop_at_a_thousand_and_are_marked_as_partial(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    read = (await anna.open())["id"]
    await sam.get(f"/conversations/{read}")
    await anna.open()
    assert await sam.get("/conversations/counts") == {
        "by_status": {"OPEN": 2, "AWAITING_ADMIN": 0, "AWAITING_USER": 0, "RESOLVED": 0, "CLOSED": 0},
        "unread": 1,
        "mine": 0,
        "unassigned": 2,
        "held": 0,
    }
    async with transaction(conversations) as session:
        stored = await session.get_one(Conversation, read)
        row = {
            c.name: getattr(stored, c.name) for c in Conversation.__table__.c if c.name not in {"id", "waiting_since"}
        }
        await session.execute(insert(Conversation), [row | {"is_read_by_admin": False}] * 1001)

    counts = await sam.get("/conversations/counts")

    assert (counts["by_status"]["OPEN"], counts["unread"], counts["more"]) == (1000, 1000, True)
    everyone = await sam.api.get("/api/v1/unread", headers=sam.headers)
    assert everyone.json() == {"unread": 1000, "more": True}
    assert await anna.get("/unread") == {"unread": 0}


async def test_customers_are_found_by_a_part_of_name_address_or_id(
    anna: Caller, ben: Caller, sam: Caller, shop: Caller, conversations: SessionFactory
) -> None:
    async with transaction(conversations) as session:
        session.add_all(User(id=f"u{n}", role="customer", name=f"50%_{n}\\") for n in range(2))
    await anna.get("/unread")
    await ben.get("/unread")
    await shop.call("PUT", "/users/gone", {"name": "Gone"})
    await shop.call("DELETE", "/users/gone")

    async def found(**params: Any) -> list[str]:
        return [user["id"] for user in (await sam.get("/users", **params))["items"]]

    assert await found() == ["anna", "ben", "u0", "u1"]
    assert await found(q=" ANNA@cust ") == await found(q="@cust") == ["anna"]
    assert await found(q="somebody anna@cust") == []
    assert await found(q="en") == ["ben"]
    assert await found(q="%_") == ["u0", "u1"]
    assert await found(q="_1\\") == ["u1"]
    assert await found(q="sam") == await found(q="gone") == await found(q="/") == []
    assert (await sam.get("/users", q="ben"))["items"] == [{"id": "ben", "name": "ben", "email": None}]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("Zo\u00eb M\u00fcller", ["Zo\u00eb", "Zoe\u0308", "zoe muller", "ZOE"]),
        ("Zoe\u0308 Mu\u0308ller", ["Zo\u00eb", "m\u00fcller", "Zoe"]),
        ("Siobh\u00e1n O\u2019Brien", ["O'Brien", "o\u2019brien", "o\u02bcbrien", "siobhan o'b"]),
        ("Anna\u00a0Beck", ["anna beck", "anna  beck", "anna\u00a0beck", "ANNA\u202fBECK"]),
        ("Jean\u2011Luc", ["jean-luc", "Jean\u2013Luc"]),
        ("\u0141ukasz \u00d8deg\u00e5rd", ["lukasz", "\u0142ukasz", "odegard"]),
        ("Stra\u00dfe", ["strasse", "STRASSE", "stra\u00dfe"]),
        ("\u7530\u4e2d \u592a\u90ce", ["\u7530\u4e2d", "\u592a\u90ce"]),
        ("\uff21\uff4e\uff4e\uff41", ["anna"]),
    ],
)
async def test_customers_are_found_regardless_of_case_accents_and_quotes(
    sam: Caller, shop: Caller, name: str, typed: list[str]
) -> None:
    await shop.call("PUT", "/users/C-1", {"name": name})
    for q in typed:
        assert [user["id"] for user in (await sam.get("/users", q=q))["items"]] == ["C-1"], q


async def test_an_order_is_found_by_its_number_regardless_of_hash_and_case(
    anna: Caller, sam: Caller, shop: Caller
) -> None:
    for order_id, number in (("A-1", "#SO-1007"), ("A-2", "so-1008"), ("A-3", "\ufdfa" * 200)):
        await shop.call("PUT", f"/orders/{order_id}", ORDER | {"number": number})
    conversation_ids = {order_id: (await anna.open(order_id=order_id))["id"] for order_id in ("A-1", "A-2", "A-3")}
    for order_id, typed in (
        ("A-1", ["#SO-1007", "so-1007", "# so-1007", "SO\u20111007"]),
        ("A-2", ["#SO-1008", "so-1008"]),
        ("A-3", ["\ufdfa" * 200]),  # each is as long as 18 others when it is decomposed
    ):
        for number in typed:
            found = (await sam.get("/conversations", order_number=number))["items"]
            assert [item["id"] for item in found] == [conversation_ids[order_id]], number


async def test_concurrent_views_by_admins_mark_a_conversation_as_read_once(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    responses = await asyncio.gather(*(sam.get(f"/conversations/{conversation}") for _ in range(8)))
    assert {response["is_read_by_admin"] for response in responses} == {True}
    reads = [payload for kind, payload in await logged(conversations) if kind == "conversation.read"]
    assert reads == [{"conversation_id": conversation, "by": "admin", "up_to": 1}]
