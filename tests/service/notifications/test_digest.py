"""Quiet hours and daily digests: what waits for how long, what a digest contains, and what ends the wait."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from services.notifications.delivery.claiming import claim_emails
from services.notifications.models import Email, EmailMessage
from shared.database.transactions import transaction
from tests.service.conftest import As
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.sweeping import Sweeper
from tests.service.notifications.test_admin_emails import addresses, body, catch_up, sent, to_admins
from tests.service.notifications.test_admins import assign, bell, conversation, note

__all__ = ["addresses", "bell", "conversation"]  # fixtures

SETTINGS = email_settings("postgresql://unused")


@pytest.fixture
def kims(notifications_api: Any, acting_as: As) -> Caller:
    """Kim's API of notifications."""
    return Caller(notifications_api, "/api/v1/notifications", acting_as("kim", "admin"))


def hours_from_now(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%H:%M")


async def choose(kims: Caller, **wish: Any) -> None:
    assert (await kims.call("PUT", "/preferences", wish)).status_code == 200


async def let_pass(sweeping: Sweeper, days: int) -> None:
    """Make the emails that wait older by some days."""
    earlier = {name: getattr(Email, name) - timedelta(days=days) for name in ("created_at", "next_attempt_at")}
    async with transaction(sweeping.notifications) as session:
        await session.execute(update(Email).where(Email.state == "scheduled").values(earlier))


QUIET = {"quiet_hours": {"start": hours_from_now(-1), "end": hours_from_now(2)}}


async def test_preferences_have_the_times_and_refuse_what_is_none(kims: Caller) -> None:
    before = await kims.get("/preferences")
    assert (before["quiet_hours"], before["digest_at"]) == (None, None)
    await choose(kims, quiet_hours={"start": "22:00", "end": "07:00"}, digest_at="08:30")
    await choose(kims, MENTION={"bell": True, "email": True})
    after = await kims.get("/preferences")
    assert (after["quiet_hours"], after["digest_at"]) == ({"start": "22:00", "end": "07:00"}, "08:30")
    await choose(kims, quiet_hours=None)
    after = await kims.get("/preferences")
    assert (after["quiet_hours"], after["digest_at"]) == (None, "08:30")
    for wrong in (
        {"digest_at": "24:00"},
        {"digest_at": "8:30"},
        {"quiet_hours": {"start": "22:00", "end": "22:00"}},
        {"quiet_hours": {"start": "22:00"}},
        {"quiet_hours": {"start": "22:00", "end": "noon"}},
    ):
        assert (await kims.call("PUT", "/preferences", wrong)).status_code == 422


async def test_quiet_hours_delay_an_email_which_leaves_out_what_was_read_by_then(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, kim: Caller, kims: Caller
) -> None:
    await choose(kims, **QUIET)
    await note(sam, conversation, "Please look", "kim")
    other = (await anna.open(body="Another"))["id"]
    await note(sam, other, "And here", "kim")
    await catch_up(sweeping)
    for _ in range(2):
        assert await sent(sweeping) == []
        assert await to_admins(sweeping) == [("kim", "scheduled", "quiet-hours")] * 2
    await note(sam, other, "Once more", "kim")
    assert await to_admins(sweeping) == [("kim", "scheduled", "quiet-hours")] * 2, "it joins, and is not due again"
    await kim.get(f"/conversations/{conversation}")
    await catch_up(sweeping)
    await choose(kims, quiet_hours={"start": hours_from_now(3), "end": hours_from_now(4)})
    [email] = await sent(sweeping)
    assert [text in body(email) for text in ("Please look", "And here", "Once more")] == [False, True, True]
    assert [state for _, state, _ in await to_admins(sweeping)] == ["cancelled", "sending"]


async def test_what_an_admin_wants_no_emails_about_leaves_those_that_wait(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, kims: Caller
) -> None:
    both, no_emails = {"bell": True, "email": True}, {"bell": True, "email": False}
    await choose(kims, digest_at=hours_from_now(5), CUSTOMER_REPLIED=both)
    await note(sam, conversation, "Please look", "kim")
    await anna.post(conversation, "Where is it?")
    await catch_up(sweeping)
    assert await sent(sweeping) == []
    await choose(kims, digest_at=None, CUSTOMER_REPLIED=no_emails)
    [email] = await sent(sweeping)
    assert ("Please look" in body(email), "Where is it?" in body(email)) == (True, False)
    await choose(kims, quiet_hours=QUIET["quiet_hours"])
    await note(sam, conversation, "Once more", "kim")
    await catch_up(sweeping)
    await choose(kims, quiet_hours=None, MENTION=no_emails)
    assert await sent(sweeping) == []
    assert (await to_admins(sweeping))[-1] == ("kim", "cancelled", "muted")


async def test_quiet_hours_are_those_of_the_admins_zone_also_when_it_changes(
    sweeping: Sweeper, conversation: str, sam: Caller, kims: Caller, shop: Caller
) -> None:
    await choose(kims, **QUIET)
    await note(sam, conversation, "Please look", "kim")
    await catch_up(sweeping)
    assert await sent(sweeping) == []
    profile = {"name": "Kim", "email": "kim@store.test", "role": "admin", "zoneinfo": "Asia/Tokyo"}
    await shop.call("PUT", "/users/kim", profile)
    await catch_up(sweeping)
    assert len(await sent(sweeping)) == 1


async def test_a_digest_is_one_email_at_its_hour_with_what_is_still_unread(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, kim: Caller, kims: Caller
) -> None:
    await choose(kims, digest_at=hours_from_now(5))
    other = (await anna.open(body="Another"))["id"]
    third = (await anna.open(body="A third"))["id"]
    await note(sam, conversation, f"Please look. {'Long. ' * 100}The end.", "kim")
    await note(sam, other, "Read by then", "kim")
    await assign(sam, third, "kim")
    await note(sam, conversation, "Once more", "kim")
    await catch_up(sweeping)
    assert await sent(sweeping) == []
    assert await to_admins(sweeping) == [("kim", "scheduled", "digest")]
    await kim.get(f"/conversations/{other}")
    await catch_up(sweeping)
    await let_pass(sweeping, 1)
    claimed = await asyncio.gather(sent(sweeping), sent(sweeping))  # two senders at once
    [email] = [email for emails in claimed for email in emails]
    assert email["Subject"] == "Neues in 2 Unterhaltungen"
    assert (email["From"], email["Reply-To"]) == ("Test Store <support@store.test>", None)
    plain, html = body(email), body(email, "html")
    root = "https://store.test/admin/dashboard/conversation/"
    for content in (plain, html):
        positions = [content.rindex(part) for part in (f"{root}{conversation}/", "Please look.", "Once more", third)]
        assert positions == sorted(positions), "grouped by conversation, in the order of time"
        assert "The end." not in content
        assert "Read by then" not in content
        assert f"{root}notifications/" in content
    assert "Kim" not in email["Subject"]

    await note(sam, conversation, "On the next day", "kim")
    await catch_up(sweeping)
    assert await sent(sweeping) == []
    assert [reason for _, _, reason in await to_admins(sweeping)] == [None, "digest"]


async def test_nothing_unread_makes_no_digest(
    sweeping: Sweeper, conversation: str, sam: Caller, kim: Caller, kims: Caller
) -> None:
    await choose(kims, digest_at=hours_from_now(5))
    await note(sam, conversation, "Please look", "kim")
    await catch_up(sweeping)
    assert await sent(sweeping) == []
    await kim.get(f"/conversations/{conversation}")
    await catch_up(sweeping)
    await let_pass(sweeping, 3)
    assert await sent(sweeping) == []
    assert await to_admins(sweeping) == [("kim", "cancelled", "read")]


async def test_without_a_digest_again_it_is_sent_at_once(
    sweeping: Sweeper, conversation: str, sam: Caller, kims: Caller
) -> None:
    await choose(kims, digest_at=hours_from_now(5))
    await note(sam, conversation, "Please look", "kim")
    await catch_up(sweeping)
    assert await sent(sweeping) == []
    [listed] = [email for email in (await kims.get("/emails"))["items"] if email["audience"] == "admin"]
    assert (listed["conversation_id"], listed["reason"]) == (None, "digest")
    await choose(kims, digest_at=None)
    [email] = await sent(sweeping)
    assert email["Subject"] == "Neues in 1 Unterhaltung"


async def test_what_is_deleted_leaves_a_digest_also_one_that_is_being_sent(
    sweeping: Sweeper, conversation: str, anna: Caller, sam: Caller, kims: Caller
) -> None:
    await choose(kims, digest_at=hours_from_now(5))
    other = (await anna.open(body="Another"))["id"]
    await note(sam, conversation, "Please look", "kim")
    first = await note(sam, other, "Deleted note", "kim")
    await note(sam, other, "Kept note", "kim")
    await catch_up(sweeping)
    await let_pass(sweeping, 1)
    assert len(await sent(sweeping)) == 1
    await sam.call("DELETE", f"/conversations/{other}/notes/{first}")
    await catch_up(sweeping)
    [email] = await sent(sweeping)
    assert [text in body(email) for text in ("Please look", "Deleted note", "Kept note")] == [True, False, True]
    await sam.call("PATCH", f"/conversations/{other}", {"status": "CLOSED"})
    await sam.call("DELETE", f"/conversations/{other}")
    await catch_up(sweeping)
    async with sweeping.notifications() as session:
        assert list(await session.scalars(select(EmailMessage.body))) == ["Please look"]
    [email] = await sent(sweeping)
    assert "Kept note" not in body(email)


async def test_a_digest_has_a_hundred_items_and_says_that_there_is_more(
    sweeping: Sweeper, conversation: str, sam: Caller, kims: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notifications.delivery.message_selection.MAX_MESSAGES", 2)
    await choose(kims, digest_at=hours_from_now(5))
    for number in range(4):
        await note(sam, conversation, f"Note {number}", "kim")
    await catch_up(sweeping)
    await let_pass(sweeping, 1)
    [email] = await sent(sweeping)
    assert [f"Note {number}" in body(email) for number in range(4)] == [True, True, False, False]
    assert "Es gibt noch mehr im Posteingang:\nhttps://store.test/admin/dashboard/conversation/\n" in body(email)
    assert await sent(sweeping) == []
    async with sweeping.notifications() as session:
        assert len((await session.scalars(select(Email).where(Email.audience == "admin"))).all()) == 1
    async with transaction(sweeping.notifications) as session:
        assert not await claim_emails(session, SETTINGS)
