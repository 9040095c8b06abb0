"""Emails that are held: in the filter, the counts and the page of their conversation, until an admin decides."""

import httpx2
import pytest

from shared.database import transaction
from shared.event_log.sequencer import rotate_epoch
from tests.service.conftest import As
from tests.service.emails.test_follower import Following, following
from tests.service.helpers.callers import Caller, logged
from tests.service.helpers.inbox_pages import show, signed_in
from tests.service.inbound.conftest import rig
from tests.service.inbound.rig import Rig

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
