"""Emails to admins: whom, when, about what, and when not."""

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text

from services.notifications.delivery.claiming import claim_emails
from services.notifications.models import Email
from services.notifications.rules import Audience
from shared.database.transactions import transaction
from tests.service.conftest import As
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.sweeping import Sweeper
from tests.service.notifications.test_admins import Bell, assign, bell, conversation, note

__all__ = ["bell", "conversation"]  # fixtures


@pytest.fixture(autouse=True)
async def addresses(sam: Caller, shop: Caller, sweeping: Sweeper) -> None:
    """Kim is synced with an address; Sam's is known from a token."""
    profile = {"name": "Kim", "email": "kim@store.test", "role": "admin", "locale": "de"}
    await sam.get("/conversations")
    await shop.call("PUT", "/users/kim", profile)
    await catch_up(sweeping)


async def catch_up(sweeping: Sweeper) -> None:
    await sweeping.number()
    await sweeping.catch_up_fully()


async def to_admins(sweeping: Sweeper) -> list[tuple[str, str, str | None]]:
    """Catch up with the log; return recipient, state and reason of the emails to admins, in order."""
    await catch_up(sweeping)
    query = select(Email.recipient_id, Email.state, Email.reason).where(Email.audience == Audience.ADMIN)
    async with sweeping.notifications() as session:
        return [(*row,) for row in await session.execute(query.order_by(Email.id))]


async def sent(sweeping: Sweeper, **settings: Any) -> list[EmailMessage]:
    """Claim what is due; return the emails to admins as they would be sent."""
    async with transaction(sweeping.notifications) as session:
        claimed = await claim_emails(session, email_settings("postgresql://unused", **settings)) or []
    parsed = [message_from_bytes(email.content, policy=policy.default) for email in claimed]
    return [email for email in parsed if "admin-messages" in str(email["List-Id"])]


def body(email: EmailMessage, kind: str = "plain") -> str:
    part = email.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


async def test_a_note_that_mentions_twice_and_an_assignment_are_one_email(
    sweeping: Sweeper, conversation: str, sam: Caller
) -> None:
    await note(sam, conversation, "Please look,\n@Kim, @Kim <b>now</b>", "kim", "kim")
    await assign(sam, conversation, "kim")
    assert await to_admins(sweeping) == [("kim", "scheduled", None)]
    [email] = await sent(sweeping)
    assert email["To"] == "Kim <kim@store.test>"
    assert email["From"] == '"Sam (Test Store)" <support@store.test>'
    assert email["Subject"] == "Where is my parcel?"
    assert (email["Auto-Submitted"], email["List-Id"]) == ("auto-generated", "<admin-messages.store.test>")
    assert str(email["In-Reply-To"]) in str(email["References"])
    plain, link = body(email), f"https://store.test/admin/dashboard/conversation/{conversation}/"
    assert plain.startswith("Sam hat Sie in einer Notiz erwähnt\n")
    assert plain.count("Please look,\n@Kim, @Kim <b>now</b>") == 1
    assert "Sam, in einer Notiz," in plain
    assert "Sam hat Ihnen diese Unterhaltung zugewiesen," in plain
    assert link in plain
    assert "https://store.test/admin/dashboard/conversation/notifications/" in plain
    html = body(email, "html")
    assert "@Kim &lt;b&gt;now&lt;/b&gt;" in html
    assert link in html


async def test_an_email_to_an_admin_has_no_address_for_customers_replies_and_no_link_to_unsubscribe(
    sweeping: Sweeper, conversation: str, sam: Caller
) -> None:
    await note(sam, conversation, "Please look", "kim")
    await catch_up(sweeping)
    [email] = await sent(sweeping, inbound_domain="in.store.test", inbound_secret=SecretStr("i" * 32))
    assert (email["Reply-To"], email["List-Unsubscribe"]) == (None, None)


async def test_several_mentioned_admins_get_the_same_note(
    sweeping: Sweeper, conversation: str, anna: Caller, kim: Caller, api: Any, acting_as: As
) -> None:
    lea = Caller(api, "/api/v1/admin", acting_as("lea", "admin", name="Lea", email="lea@store.test"))
    await lea.get("/conversations")
    await note(kim, conversation, "Please look", "sam", "lea")
    assert await to_admins(sweeping) == [("sam", "scheduled", None), ("lea", "scheduled", None)]
    emails = await sent(sweeping)
    assert {str(email["To"]) for email in emails} == {"Sam <sam@store.test>", "Lea <lea@store.test>"}
    assert all(body(email).startswith("Kim mentioned you in a note\n") for email in emails)
    answer = await anna.call("GET", "/admin/conversations")
    assert answer.status_code == 403


async def test_own_reading_stops_the_email_and_a_colleagues_does_not(
    sweeping: Sweeper, conversation: str, sam: Caller, kim: Caller
) -> None:
    await note(sam, conversation, "Please look", "kim")
    await sam.get(f"/conversations/{conversation}")
    await kim.peek(conversation)
    assert await to_admins(sweeping) == [("kim", "scheduled", None)]
    await kim.get(f"/conversations/{conversation}")
    assert await to_admins(sweeping) == [("kim", "cancelled", "read")]
    await note(sam, conversation, "Once more", "kim")
    assert (await to_admins(sweeping))[1:] == [("kim", "scheduled", None)]
    [email] = await sent(sweeping)
    assert "Please look" not in body(email)


async def test_marking_it_as_read_in_the_bell_stops_the_email(
    sweeping: Sweeper, conversation: str, sam: Caller, bell: Bell
) -> None:
    for mark in ("one", "all"):
        await note(sam, conversation, "Please look", "kim")
        await to_admins(sweeping)
        newest = (await bell("kim").get(""))["items"][0]
        await bell("kim").call("POST", f"/{newest['id']}/read" if mark == "one" else "/read-all")
    assert await to_admins(sweeping) == [("kim", "cancelled", "read")] * 2


async def test_a_deleted_note_is_in_no_email(sweeping: Sweeper, conversation: str, sam: Caller) -> None:
    first, second = [await note(sam, conversation, body, "kim") for body in ("Wrong", "Right")]
    await to_admins(sweeping)
    assert (await sam.call("DELETE", f"/conversations/{conversation}/notes/{first}")).status_code == 204
    assert await to_admins(sweeping) == [("kim", "scheduled", None)]
    [email] = await sent(sweeping)
    assert "Right" in body(email)
    assert "Wrong" not in email.as_string()
    assert (await sam.call("DELETE", f"/conversations/{conversation}/notes/{second}")).status_code == 204
    assert await to_admins(sweeping) == [("kim", "cancelled", "deleted")]


async def test_preferences_decide_about_emails(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, kim: Caller, bell: Bell
) -> None:
    off, on = {"bell": True, "email": False}, {"bell": True, "email": True}
    await bell("kim").call("PUT", "/preferences", {"MENTION": off, "CUSTOMER_REPLIED": on, "CONVERSATION_CREATED": on})
    await note(sam, conversation, "Please look", "kim")
    await anna.post(conversation, "One")
    removed = await anna.post(conversation, "Two")
    await sam.call("DELETE", f"/conversations/{conversation}/messages/{removed['id']}")
    other = (await anna.open(body="Another"))["id"]
    assert await to_admins(sweeping) == [("kim", "scheduled", None)] * 2
    replied, created = sorted(await sent(sweeping), key=lambda email: "Another" in body(email))
    assert body(replied).startswith("Anna hat an Test Store geschrieben\n")
    assert "One" in body(replied)
    assert "Two" not in body(replied)
    assert other in body(created)
    listed = (await bell("sam").get("/emails", conversation_id=other))["items"]
    assert [(item["audience"], item["user_id"], len(item["message_ids"])) for item in listed] == [("admin", "kim", 1)]
    await assign(kim, other, "sam")  # then replies are for the assignee only
    await anna.post(other, "Three")
    assert [entry for entry in await to_admins(sweeping) if entry[0] == "kim"] == [("kim", "sending", None)] * 2


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"name": "Kim", "role": "customer", "email": "kim@store.test"}, "not-an-admin"),
        ({"name": "Kim", "role": "admin", "email": None}, "no-address"),
    ],
)
async def test_who_is_no_admin_or_has_no_address_gets_no_email(
    sweeping: Sweeper, conversation: str, sam: Caller, shop: Caller, profile: dict[str, Any], reason: str
) -> None:
    await note(sam, conversation, "Please look", "kim")
    assert await to_admins(sweeping) == [("kim", "scheduled", None)]
    await shop.call("PUT", "/users/kim", profile)
    await catch_up(sweeping)
    assert await sent(sweeping) == []
    assert await to_admins(sweeping) == [("kim", "suppressed", reason)]


async def test_a_deleted_admin_leaves_no_notification_no_preference_and_no_email(
    sweeping: Sweeper, conversation: str, sam: Caller, kim: Caller, shop: Caller, bell: Bell
) -> None:
    await bell("kim").call("PUT", "/preferences", {"ASSIGNED": {"bell": True, "email": True}})
    await kim.get(f"/conversations/{conversation}")
    await note(sam, conversation, "Please look", "kim")
    await catch_up(sweeping)
    await kim.get(f"/conversations/{conversation}")
    await note(sam, conversation, "Once more", "kim")
    await catch_up(sweeping)
    await shop.call("DELETE", "/users/kim")
    assert {state for _, state, _ in await to_admins(sweeping)} == {"cancelled"}
    async with sweeping.notifications() as session:
        for table, column in (
            ("admin_notifications", "recipient_id"),
            ("admin_reads", "admin_id"),
            ("admin_marks", "admin_id"),
            ("bells", "admin_id"),
        ):
            count = text(f"select count(*) from {table} where {column} = 'kim'")  # noqa: S608 - constants
            assert (await session.execute(count)).scalar_one() == 0
