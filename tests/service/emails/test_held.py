"""Emails that are held: in the filter, the counts and the page of their conversation, until an admin decides."""

from typing import Any

import httpx2
import pytest

from shared.database.transactions import transaction
from shared.event_log.sequencer import rotate_epoch
from tests.service.conftest import As
from tests.service.emails.test_follower import Following, following
from tests.service.helpers.callers import Caller, logged
from tests.service.helpers.inbox_pages import show, signed_in
from tests.service.inbound.conftest import rig
from tests.service.inbound.rig import SUPPORT_ADDRESS, Rig

__all__ = ["following", "rig"]  # fixtures


@pytest.fixture
def desk(notifications_api: httpx2.AsyncClient, acting_as: As) -> Caller:
    return Caller(notifications_api, "/api/v1/notifications", acting_as("sam", "admin"))


async def held(sam: Caller, value: str = "true") -> list[str]:
    found = await sam.get("/conversations", held=value)
    return [item["id"] for item in found["items"]]


async def test_a_held_email_is_found_counted_and_shown_until_it_is_decided(
    rig: Rig, following: Following, anna: Caller, sam: Caller, desk: Caller
) -> None:
    other = (await anna.open(body="Another"))["id"]
    await rig.send_email()
    await following.follow()
    await rig.deliver(rig.reply("Mine?", From="eve@elsewhere.test"))
    assert await held(sam) == []
    await following.follow()
    assert (await held(sam), await held(sam, "false")) == ([rig.conversation], [other])
    assert (await sam.get("/conversations/counts"))["held"] == 1
    assert (await sam.get("/conversations", held="true", q="Hello"))["items"][0]["id"] == rig.conversation
    [row] = await rig.rows()
    async with signed_in(anna.api) as browser:
        page = (await show(browser, f"{rig.conversation}/?peek=true")).root
        notice = page.of_class("held")[0].attributes
        assert notice["data-held"] == str(row.id)
        assert "refused" not in (notice["class"] or "")  # that floats over the header until a click takes it away
        assert (await show(browser)).by_id("view-held").text == "Held 1"
    told = [payload for type_, payload in await logged(following.sessions) if type_ == "inbound.updated"]
    assert told == [{"conversation_id": rig.conversation}]

    assert (await desk.call("POST", f"/inbound/{row.id}/post")).status_code == 204
    await following.follow()
    assert await held(sam) == []
    assert (await sam.get("/conversations/counts"))["held"] == 0


async def test_after_a_lost_place_in_the_log_held_emails_are_listed_again(
    rig: Rig, following: Following, sam: Caller, desk: Caller
) -> None:
    await rig.send_email()
    await following.follow()
    await rig.deliver(rig.reply("Mine?", From="eve@elsewhere.test"))
    await following.follow()
    [row] = await rig.rows()
    await rig.run("delete from events")  # as if they had been purged
    await desk.call("POST", f"/inbound/{row.id}/discard")
    await rig.deliver(rig.reply("Mine, too?", From="eve@elsewhere.test", **{"Message-ID": "<2@customer.test>"}))
    async with transaction(rig.sweeping.notifications) as session:
        await rotate_epoch(session)
    await following.follow()
    assert await held(sam) == [rig.conversation]
    [_, second] = await rig.rows()
    assert (await desk.call("POST", f"/inbound/{second.id}/discard")).status_code == 204
    await following.follow()
    assert await held(sam) == []


async def test_erasing_the_customer_ends_what_is_held(
    rig: Rig, following: Following, sam: Caller, shop: Caller
) -> None:
    await rig.send_email()
    await following.follow()
    await rig.deliver(rig.reply("Mine?", From="eve@elsewhere.test"))
    await following.follow()
    await shop.call("DELETE", "/users/anna")
    await rig.sweeping.number()
    await rig.sweeping.catch_up_fully()
    await following.follow()
    assert await held(sam) == []


async def test_a_held_email_without_a_conversation_is_under_held_until_an_admin_names_its_customer(
    rig: Rig, following: Following, anna: Caller, sam: Caller, desk: Caller
) -> None:
    await rig.send_email()
    await following.follow()
    await rig.deliver(rig.new_email("<b>Hello</b>", From="eve@elsewhere.test", Subject="A question"), SUPPORT_ADDRESS)
    await following.follow()
    assert (await sam.get("/conversations/counts"))["held"] == 1
    [row] = await rig.rows()
    async with signed_in(anna.api) as browser:
        assert (await show(browser)).by_id("view-held").text == "Held 1"
        unmatched = (await show(browser, "?held=true")).by_id("unmatched")
        assert [element.attributes["data-held"] for element in unmatched.of_class("unmatched")] == [str(row.id)]
    told = [payload for type_, payload in await logged(following.sessions) if type_ == "inbound.updated"]
    assert told == [{"conversation_id": None}]
    detail = await desk.get(f"/inbound/{row.id}")
    assert (detail["subject"], detail["text"], detail["kind"], detail["files"]) == (
        "A question",
        "<b>Hello</b>",
        "conversation",
        [],
    )
    assert [item["id"] for item in (await desk.get("/inbound", kind="conversation", state="held"))["items"]] == [
        str(row.id)
    ]
    assert (await desk.get("/inbound", kind="message"))["items"] == []
    answer = await desk.call("POST", f"/inbound/{row.id}/post", {"user_id": "anna"})
    assert answer.status_code == 204, answer.text
    await following.follow()
    assert (await sam.get("/conversations/counts"))["held"] == 0


async def test_the_timeline_names_the_real_sender_until_a_person_is_erased(rig: Rig, sam: Caller, desk: Caller) -> None:
    await rig.send_email()
    await rig.deliver(rig.reply("From my wife's address", From="Wife <wife@elsewhere.test>"))
    [row] = await rig.rows()
    await desk.call("POST", f"/inbound/{row.id}/post")
    await rig.post()
    [entry] = await posted_emails(rig, sam)
    message = (await rig.messages())[-1]
    assert (entry["from_address"], entry["actor"]["id"]) == ("wife@elsewhere.test", "sam")
    assert (entry["message_id"], entry["number"]) == (message["id"], message["number"])
    async with signed_in(sam.api) as browser:
        page = await show(browser, f"{rig.conversation}/?peek=true")
        assert "posted an email from wife@elsewhere.test" in page.root.text
    customer = await rig.anna.call("GET", f"/conversations/{rig.conversation}/messages")
    assert "wife@" not in customer.text
    await rig.anna.api.delete("/api/v1/store/users/anna", headers=rig.shop_headers)
    assert [entry["from_address"] for entry in await posted_emails(rig, sam)] == [None]


async def posted_emails(rig: Rig, sam: Caller) -> list[Any]:
    items = (await sam.get(f"/conversations/{rig.conversation}/timeline"))["items"]
    return [item for item in items if item["kind"] == "posted-email"]


@pytest.mark.parametrize(("sender", "unmutes"), [("eve@elsewhere.test", False), ("anna@customer.test", True)])
async def test_somebody_elses_email_does_not_send_a_customer_emails_again(
    rig: Rig, desk: Caller, sender: str, unmutes: bool
) -> None:
    await rig.send_email()
    await rig.run(
        f"insert into mutes (user_id, conversation_id) values ('anna', '{rig.conversation}')"  # noqa: S608 - an id
    )
    await rig.run("update reply_addresses set expires_at = now() - interval '1 day'")
    await rig.deliver(rig.reply("Hello?", From=sender))
    [row] = await rig.rows()
    assert row.state == "held"
    await desk.call("POST", f"/inbound/{row.id}/post")
    await rig.post()
    await rig.sweeping.number()
    await rig.sweeping.catch_up_fully()
    assert await rig.column("select count(*) from mutes") == [0 if unmutes else 1]
