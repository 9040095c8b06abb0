"""Setting a status in a conversation's header; replies never repeat the status of an earlier one."""

from typing import Any

import pytest
from playwright.async_api import Route, expect

from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import composer, expect_thread, expect_to_fit, send
from tests.helpers.waiting import eventually


async def at_thread(people: People, site: Site, **options: Any) -> tuple[Person, str, str]:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin", **options)
    conversation = await site.open_conversation(dora, "Which status?")
    await sam.open(conversation)
    return sam, conversation, dora


async def has_status(site: Site, conversation: str, status: str) -> bool:
    return bool((await site.conversation(conversation))["status"] == status)


async def test_the_header_sets_a_status_at_once_and_keeps_the_draft(people: People, site: Site) -> None:
    sam, conversation, _ = await at_thread(people, site)
    page = sam.page
    await composer(page).fill("Half a thought")
    await page.locator("#choose-status").select_option("OPEN")
    await page.locator("#set-status summary").click()
    await page.get_by_role("button", name="Resolved", exact=True).click()
    await expect(page.locator("#status")).to_have_text("Resolved")
    await expect(page.locator("#set-status summary")).to_be_focused()
    assert await has_status(site, conversation, "RESOLVED")
    await expect(composer(page)).to_have_value("Half a thought")
    await expect(page.locator("#choose-status")).to_have_value("OPEN")
    assert await site.bodies(conversation) == ["Hello?"]


async def test_the_status_menu_fits_the_window(people: People, site: Site) -> None:
    sam, _, _ = await at_thread(people, site)
    await sam.page.locator("#set-status summary").click()
    for width in (320, 390, 768, 1440):
        await expect_to_fit(sam.page, width)
        boxes = [
            await item.bounding_box() for item in await sam.page.locator("#set-status .sheet, #set-status button").all()
        ]
        assert all(box and 0 <= box["x"] <= box["x"] + box["width"] <= width for box in boxes), (width, boxes)
        assert len({box["x"] for box in boxes[1:] if box}) == 1  # left-aligned


async def test_by_keyboard_only_enter_applies_a_status_and_escape_closes_the_menu(people: People, site: Site) -> None:
    sam, conversation, _ = await at_thread(people, site)
    page, keyboard = sam.page, sam.page.keyboard
    await page.locator("#set-status summary").focus()
    await keyboard.press("Enter")
    for key in ("Tab", "ArrowDown", "ArrowDown", "ArrowUp", "Tab", "Escape"):
        await keyboard.press(key)
    await expect(page.locator("#set-status[open]")).to_have_count(0)
    await expect(page.locator("#set-status summary")).to_be_focused()
    assert await has_status(site, conversation, "OPEN")
    await keyboard.press("Enter")
    for _ in range(5):
        await keyboard.press("Tab")
    await keyboard.press("Enter")
    await expect(page.locator("#status")).to_have_text("Closed")
    assert await has_status(site, conversation, "CLOSED")


async def test_a_status_is_not_set_when_a_newer_message_is_not_shown(people: People, site: Site) -> None:
    sam, conversation, dora = await at_thread(people, site)
    sam.expect_complaints("409")
    page = sam.page

    async def post_first_as_customer(route: Route) -> None:
        await site.write(conversation, dora, "Never mind")
        await route.continue_()

    await page.route(f"**/api/v1/admin/conversations/{conversation}", post_first_as_customer, times=1)
    await page.locator("#set-status summary").click()
    await page.get_by_role("button", name="Closed", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("The customer sent a new message")
    await expect_thread(page, "Hello?", "Never mind")
    assert await has_status(site, conversation, "AWAITING_ADMIN")
    await page.locator("#set-status summary").click()
    await page.get_by_role("button", name="Closed", exact=True).click()
    await expect(page.locator("#status")).to_have_text("Closed")


async def test_a_reply_does_not_set_the_status_of_the_previous_reply_again(people: People, site: Site) -> None:
    sam, conversation, dora = await at_thread(people, site)
    sam.expect_complaints("409")
    page = sam.page
    await page.locator("#choose-status").select_option("RESOLVED")
    await send(page, "First")
    await expect(page.locator("#status")).to_have_text("Resolved")
    await expect(page.locator("#choose-status")).to_have_value("")
    await send(page, "Second")
    await expect(page.locator("#status")).to_have_text("Waiting for customer")

    async def post_first_as_customer(route: Route) -> None:
        await site.write(conversation, dora, "Never mind")
        await route.continue_()

    await page.route(f"**/api/v1/admin/conversations/{conversation}", post_first_as_customer, times=1)
    await composer(page).fill("Third")
    await page.get_by_role("button", name="Send and close").click()
    await expect(page.get_by_text("The status “Closed” was not set.")).to_be_visible()
    await expect(page.locator("#choose-status")).to_have_value("")
    await expect_thread(page, "Hello?", "First", "Second", "Never mind")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect_thread(page, "Hello?", "First", "Second", "Never mind", "Third")
    await eventually(lambda: has_status(site, conversation, "AWAITING_USER"))
    await expect(page.get_by_text("was not set")).to_have_count(0)


async def test_a_rejected_reply_comes_back_with_its_text_and_without_a_status(people: People, site: Site) -> None:
    sam, conversation, _ = await at_thread(people, site)
    sam.expect_complaints("422")
    page = sam.page
    await composer(page).fill("long " * 2_001)
    await page.get_by_role("button", name="Send and resolve").click()
    await expect(page.get_by_text("This is too long. Use at most 10000 characters.")).to_be_visible()
    await expect(page.get_by_text("The status “Resolved” was not set.")).to_be_visible()
    await expect(page.locator("#choose-status")).to_have_value("")
    assert await has_status(site, conversation, "OPEN")


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
async def test_returning_to_a_page_resets_its_status_field(people: People, site: Site, scripts: bool) -> None:
    narrow = {"width": 1024, "height": 768}
    sam, conversation, _ = await at_thread(people, site, java_script_enabled=scripts, viewport=narrow)
    page = sam.page
    await composer(page).fill("Half a thought")
    await page.locator("#choose-status").select_option("CLOSED")
    await page.reload()
    await expect(page.locator("#choose-status")).to_have_value("")
    await page.locator("#choose-status").select_option("CLOSED")
    await page.get_by_role("link", name="Back to the inbox").click()
    await expect(page.get_by_role("heading", name="Inbox")).to_be_visible()
    await page.go_back()
    await expect(page.locator("#choose-status")).to_have_value("")
    if scripts:
        await expect(composer(page)).to_have_value("Half a thought")
    await composer(page).fill("A whole one")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.locator("#status")).to_have_text("Waiting for customer")
    assert await has_status(site, conversation, "AWAITING_USER")
