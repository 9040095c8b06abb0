"""Admins' notifications end to end: what customers and admins do, the log, the sweeper, and the API."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.notifications.retention import purge_admin_notifications
from shared.database.transactions import SessionFactory, transaction
from shared.event_log.sequencer import rotate_epoch
from shared.events import Event
from tests.service.conftest import As
from tests.service.helpers.callers import Caller, logged, problem
from tests.service.helpers.event_factory import email_settings, posted, read, receive
from tests.service.helpers.recorded_statements import statements
from tests.service.helpers.sweeping import Sweeper
from tests.service.messaging.test_deleting import waiting_for_a_lock

Bell = Callable[..., Any]


@pytest.fixture
def bell(notifications_api: httpx2.AsyncClient, acting_as: As) -> Callable[[str], Caller]:
    """Return a function that makes an admin's client of the notifications API."""
    return lambda admin_id: Caller(notifications_api, "/api/v1/notifications", acting_as(admin_id, "admin"))


async def entries(sweeping: Sweeper, caller: Caller, **params: Any) -> list[tuple[str, str, bool]]:
    """Catch up with the log; return type, preview and state of a caller's notifications."""
    await sweeping.number()
    await sweeping.catch_up_fully()
    items = (await caller.get("", **params))["items"]
    unread = sum(not item["is_read"] for item in items)
    if not params:
        assert await caller.get("/unread") == {"unread": unread}
    return [(item["type"], item["preview"], item["is_read"]) for item in items]


async def note(caller: Caller, conversation: str, body: str, *mentions: str) -> str:
    answer = await caller.call(
        "POST", f"/conversations/{conversation}/notes", {"body": body, "mentions": list(mentions)}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def assign(caller: Caller, conversation: str, admin_id: str | None) -> None:
    answer = await caller.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": admin_id})
    assert answer.status_code == 200, answer.text


@pytest.fixture
async def conversation(anna: Caller, sam: Caller, kim: Caller) -> str:
    """A conversation that has been read; both admins are known."""
    created = await anna.open(body="Where is it?")
    for admin in (sam, kim):
        await admin.get(f"/conversations/{created['id']}")
    return str(created["id"])


async def test_all_admins_hear_of_a_new_conversation_and_one_entry_follows_its_replies(
    sweeping: Sweeper, anna: Caller, sam: Caller, bell: Bell
) -> None:
    conversation = (await anna.open(body="Where is it?"))["id"]
    for admin in ("sam", "kim"):
        assert await entries(sweeping, bell(admin)) == [("CONVERSATION_CREATED", "Where is it?", False)]
    for body in ("One", "Two", "Three"):
        message = await anna.post(conversation, body)
    expected = [("CUSTOMER_REPLIED", "Three", False), ("CONVERSATION_CREATED", "Where is it?", False)]
    assert await entries(sweeping, bell("sam")) == expected
    [newest, _] = (await bell("kim").get(""))["items"]
    created_at = newest.pop("created_at")
    assert created_at == message["created_at"]
    assert newest.pop("id")
    assert newest == {
        "type": "CUSTOMER_REPLIED",
        "conversation_id": conversation,
        "message_id": message["id"],
        "subject": "Where is my parcel?",
        "sender_name": "Anna",
        "preview": "Three",
        "is_read": False,
    }
    await sam.get(f"/conversations/{conversation}")  # a colleague takes care of it
    assert {is_read for *_, is_read in await entries(sweeping, bell("kim"))} == {True}
    await anna.post(conversation, "Four")
    assert (await entries(sweeping, bell("kim")))[0] == ("CUSTOMER_REPLIED", "Four", False)
    async with sweeping.notifications() as session:
        assert (await session.execute(text("select count(*) from admin_notifications"))).scalar_one() == 2


async def test_a_conversation_without_a_message_is_read_when_an_admin_opens_it(
    sweeping: Sweeper, anna: Caller, sam: Caller, bell: Bell
) -> None:
    conversation = (await anna.open())["id"]
    assert await entries(sweeping, bell("kim")) == [("CONVERSATION_CREATED", "", False)]
    [item] = (await bell("kim").get(""))["items"]
    assert (item["message_id"], item["sender_name"]) == (None, "Anna")
    await sam.get(f"/conversations/{conversation}")
    assert await entries(sweeping, bell("kim")) == [("CONVERSATION_CREATED", "", True)]
    await anna.post(conversation, "Here I am")
    assert await entries(sweeping, bell("kim")) == [("CONVERSATION_CREATED", "Here I am", False)]


async def test_a_conversation_without_a_message_is_read_when_an_admin_reads_a_later_one(
    sweeping: Sweeper, anna: Caller, sam: Caller, bell: Bell
) -> None:
    conversation = (await anna.open())["id"]
    await sam.post(conversation, "How can we help?")
    assert await entries(sweeping, bell("kim")) == [("CONVERSATION_CREATED", "", False)]
    await sam.get(f"/conversations/{conversation}")
    assert await entries(sweeping, bell("kim")) == [("CONVERSATION_CREATED", "", True)]


async def test_a_mention_is_read_by_its_own_reader_only(
    sweeping: Sweeper, conversation: str, sam: Caller, kim: Caller, bell: Bell
) -> None:
    await entries(sweeping, bell("kim"))
    await note(sam, conversation, "Nobody", "sam")
    await note(sam, conversation, "Please look", "kim", "sam")
    assert (await entries(sweeping, bell("kim")))[0] == ("MENTION", "Please look", False)
    assert [type_ for type_, *_ in await entries(sweeping, bell("sam"))] == ["CONVERSATION_CREATED"]
    await sam.get(f"/conversations/{conversation}")
    await kim.peek(conversation)
    assert (await entries(sweeping, bell("kim")))[0] == ("MENTION", "Please look", False)
    before = len(await logged(sweeping.conversations))
    for _ in range(2):  # the second time moves nothing
        await kim.get(f"/conversations/{conversation}")
    events = (await logged(sweeping.conversations))[before:]
    assert events == [
        (
            "conversation.read",
            {"conversation_id": conversation, "by": "admin", "up_to": 1, "reader_id": "kim"},
        )
    ]
    assert (await entries(sweeping, bell("kim")))[0] == ("MENTION", "Please look", True)


async def test_the_reading_may_be_handled_before_what_was_read(
    sweeping: Sweeper, conversation: str, sam: Caller, kim: Caller, bell: Bell
) -> None:
    await note(sam, conversation, "Please look", "kim")
    assert (await kim.call("POST", f"/conversations/{conversation}/read", {"up_to": 1})).status_code == 204
    await sweeping.number()
    feed = (await sweeping.feed.get("/internal/events", params={"after": 0})).json()["items"]
    early = [Event.model_validate(item) for item in feed if item["type"] == "conversation.read"]
    await receive(sweeping.notifications, sweeping.settings, *early)
    assert (await entries(sweeping, bell("kim")))[0] == ("MENTION", "Please look", True)


async def test_an_assignment_is_for_the_assignee_and_not_for_who_claims(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, kim: Caller, bell: Bell
) -> None:
    await assign(kim, conversation, "kim")
    assert [type_ for type_, *_ in await entries(sweeping, bell("kim"))] == ["CONVERSATION_CREATED"]
    await assign(kim, conversation, "sam")
    assert (await entries(sweeping, bell("sam")))[0] == ("ASSIGNED", "", False)
    [assigned, _] = (await bell("sam").get(""))["items"]
    assert (assigned["sender_name"], assigned["message_id"]) == ("Kim", None)
    await sam.get(f"/conversations/{conversation}")
    assert (await entries(sweeping, bell("sam")))[0] == ("ASSIGNED", "", True)
    # From now on the customer's messages are for the assignee, and a colleague's reading does not count.
    await anna.post(conversation, "More")
    await kim.get(f"/conversations/{conversation}")
    assert (await entries(sweeping, bell("sam")))[0] == ("CUSTOMER_REPLIED", "More", False)
    assert "CUSTOMER_REPLIED" not in {type_ for type_, *_ in await entries(sweeping, bell("kim"))}
    await sam.get(f"/conversations/{conversation}")
    assert (await entries(sweeping, bell("sam")))[0] == ("CUSTOMER_REPLIED", "More", True)


async def test_a_reply_that_assigns_makes_no_notification(
    sweeping: Sweeper, conversation: str, sam: Caller, bell: Bell
) -> None:
    await sam.post(conversation, "Here it is")
    assert [type_ for type_, *_ in await entries(sweeping, bell("sam"))] == ["CONVERSATION_CREATED"]


async def test_what_is_deleted_while_it_is_marked_as_read_is_not_found(
    sweeping: Sweeper, anna: Caller, bell: Bell, notifications: SessionFactory
) -> None:
    await anna.open(body="Where is it?")
    assert len(await entries(sweeping, bell("sam"))) == 1
    [item] = (await bell("sam").get(""))["items"]
    async with transaction(notifications) as deleting:
        await deleting.execute(text("delete from admin_notifications"))
        marking = await waiting_for_a_lock(notifications, bell("sam").call("POST", f"/{item['id']}/read"))
    assert problem(await marking) == (404, "not-found")


async def test_each_admin_reads_one_or_all_of_their_own(sweeping: Sweeper, anna: Caller, bell: Bell) -> None:
    for body in ("One", "Two"):
        await anna.open(body=body)
    await entries(sweeping, bell("sam"))
    [two, _] = (await bell("sam").get("", limit=100))["items"]
    for _ in range(2):
        assert (await bell("sam").call("POST", f"/{two['id']}/read")).status_code == 204
    assert [is_read for *_, is_read in await entries(sweeping, bell("sam"))] == [True, False]
    assert [is_read for *_, is_read in await entries(sweeping, bell("kim"))] == [False, False]
    assert await entries(sweeping, bell("sam"), unread="true") == [("CONVERSATION_CREATED", "One", False)]
    assert await entries(sweeping, bell("sam"), unread="false") == [("CONVERSATION_CREATED", "Two", True)]
    assert [len(page) for page in await bell("sam").pages("", limit=1)] == [1, 1]
    assert (await bell("sam").call("POST", "/read-all")).status_code == 204
    await anna.open(body="Three")
    assert [is_read for *_, is_read in await entries(sweeping, bell("sam"))] == [False, True, True]
    assert [is_read for *_, is_read in await entries(sweeping, bell("kim"))] == [False, False, False]


async def test_another_admins_notification_does_not_exist(
    sweeping: Sweeper, conversation: str, sam: Caller, bell: Bell
) -> None:
    await note(sam, conversation, "Please look", "kim")
    await entries(sweeping, bell("kim"))
    [mention, _] = (await bell("kim").get(""))["items"]
    assert problem(await bell("sam").call("POST", f"/{mention['id']}/read")) == (404, "not-found")
    assert problem(await bell("sam").call("POST", f"/{uuid4()}/read")) == (404, "not-found")


async def test_preferences_are_exact_and_decide_about_the_bell(
    sweeping: Sweeper, anna: Caller, conversation: str, bell: Bell
) -> None:
    on, off = {"bell": True, "email": True}, {"bell": False, "email": False}
    silent = {"bell": True, "email": False}
    defaults = {"MENTION": on, "ASSIGNED": on, "CONVERSATION_CREATED": silent, "CUSTOMER_REPLIED": silent}
    defaults |= {"quiet_hours": None, "digest_at": None}  # type: ignore[dict-item]
    assert await bell("sam").get("/preferences") == defaults
    answer = await bell("sam").call("PUT", "/preferences", {"CUSTOMER_REPLIED": off})
    assert answer.json() == await bell("sam").get("/preferences") == defaults | {"CUSTOMER_REPLIED": off}
    assert await bell("kim").get("/preferences") == defaults
    await anna.post(conversation, "More")
    assert [type_ for type_, *_ in await entries(sweeping, bell("sam"))] == ["CONVERSATION_CREATED"]
    assert len(await entries(sweeping, bell("kim"))) == 2
    for wrong in ({"NEW_MESSAGE": on}, {"MENTION": {"bell": True}}, {"MENTION": on | {"sms": True}}, {"MENTION": 1}):
        assert problem(await bell("sam").call("PUT", "/preferences", wrong)) == (422, "validation-failed")


async def test_a_deleted_note_and_a_removed_message_leave_the_bell(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, bell: Bell
) -> None:
    written = await note(sam, conversation, "Please look", "kim")
    message = await anna.post(conversation, "By mistake")
    assert len(await entries(sweeping, bell("kim"))) == 3
    assert (await sam.call("DELETE", f"/conversations/{conversation}/notes/{written}")).status_code == 204
    path = f"/conversations/{conversation}/messages/{message['id']}"
    assert (await sam.call("DELETE", path)).status_code == 204
    shown = await entries(sweeping, bell("kim"))
    assert [entry[:2] for entry in shown] == [("CUSTOMER_REPLIED", ""), ("CONVERSATION_CREATED", "Where is it?")]
    late = await note(sam, conversation, "Never seen", "kim")  # deleted before the sweeper reads it
    assert (await sam.call("DELETE", f"/conversations/{conversation}/notes/{late}")).status_code == 204
    assert await entries(sweeping, bell("kim")) == shown
    payloads = [payload for type_, payload in await logged(sweeping.conversations) if type_ == "note.posted"]
    assert payloads == [{"conversation_id": conversation, "note_id": key} for key in (written, late)]


async def test_a_note_without_mentions_leaves_no_text_in_the_log(
    sweeping: Sweeper, conversation: str, sam: Caller
) -> None:
    written = await note(sam, conversation, "Nobody", "sam")
    assert (await logged(sweeping.conversations))[-1] == (
        "note.posted",
        {"conversation_id": conversation, "note_id": written},
    )


async def test_admins_cost_a_message_of_a_customer_two_statements_and_an_answer_none(
    notifications_engine: AsyncEngine, notifications: SessionFactory
) -> None:
    settings, conversation = email_settings("postgresql://unused"), uuid4()
    for by, expected in (("customer", 2), ("admin", 0)):
        async with statements(notifications_engine) as recorded:
            await receive(notifications, settings, posted(conversation, 2, by=by))
        queries = [statement.query for statement in recorded]
        assert sum("into admin_notifications" in query or "FROM bells" in query for query in queries) == expected


async def test_older_events_arrive_late_without_effect(sweeping: Sweeper, bell: Bell) -> None:
    conversation = uuid4()
    older, newer = (posted(conversation, number, by="customer", body=f"No. {number}") for number in (2, 3))
    await receive(sweeping.notifications, sweeping.settings, newer, older)
    await receive(sweeping.notifications, sweeping.settings, newer)
    assert await entries(sweeping, bell("sam")) == [("CUSTOMER_REPLIED", "No. 3", False)]
    await receive(sweeping.notifications, sweeping.settings, read(conversation, 3, by="admin"))
    assert await entries(sweeping, bell("sam")) == [("CUSTOMER_REPLIED", "No. 3", True)]


async def test_admins_notifications_are_purged_after_the_retention(sweeping: Sweeper, bell: Bell) -> None:
    for _ in range(2):
        await receive(sweeping.notifications, sweeping.settings, posted(uuid4(), 2, by="customer"))
    async with transaction(sweeping.notifications) as session:
        oldest = "(select turn from admin_notifications order by turn limit 1)"
        await session.execute(
            text(f"update admin_notifications set turn = uuidv7(interval '-31 days') where turn = {oldest}")  # noqa: S608 - a constant
        )
    async with transaction(sweeping.notifications) as session:
        assert await purge_admin_notifications(session, sweeping.settings, size=10) == 1
        assert await purge_admin_notifications(session, sweeping.settings, size=10) == 0
    assert len(await entries(sweeping, bell("sam"))) == 1


async def test_a_rebuild_brings_back_what_an_admin_has_not_seen(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, kim: Caller, bell: Bell
) -> None:
    seen = (await anna.open(body="Another"))["id"]
    await note(sam, seen, "Seen", "kim")
    await entries(sweeping, bell("kim"))
    await kim.get(f"/conversations/{seen}")
    await note(sam, conversation, "Not seen", "kim", "sam")
    await note(kim, conversation, "By herself", "kim")
    await assign(sam, conversation, "kim")
    async with transaction(sweeping.conversations) as session:
        await rotate_epoch(session)  # the events are never read
    shown = [entry for entry in await entries(sweeping, bell("kim")) if entry[0] in {"MENTION", "ASSIGNED"}]
    assert sorted(shown) == [("ASSIGNED", "", False), ("MENTION", "Not seen", False)]
    assert {type_ for type_, *_ in await entries(sweeping, bell("sam"))} == {"CONVERSATION_CREATED"}
    async with transaction(sweeping.conversations) as session:
        await rotate_epoch(session)
    await kim.get(f"/conversations/{conversation}")
    assert {type_ for type_, *_ in await entries(sweeping, bell("kim"))} == {"CONVERSATION_CREATED"}
