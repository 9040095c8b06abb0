"""Searching in the inbox: a message is found as soon as it is sent, and the words are marked."""

from typing import Any

from playwright.async_api import expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site

WIDE: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}


async def test_a_message_is_found_as_soon_as_it_is_sent(site: Site, people: People) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin", **WIDE)
    conversation = await site.open_conversation(dora, "A zipper")
    await site.write(conversation, dora, "The zipfastener of my Größenwahn jacket is broken")
    page = sam.page
    await sam.go(sam.home)
    await page.keyboard.press("/")
    await page.keyboard.type("grossenwahn zipfa")
    await page.keyboard.press("Enter")
    await expect(page.locator(".row h2 a")).to_have_text(["A zipper"])
    await expect(page.locator(".row mark")).to_have_text(["zipfastener", "Größenwahn"])
    await page.locator(f"#open-{conversation}").click()
    await page.wait_for_url(f"**/{conversation}/?q=grossenwahn+zipfa")
    await expect(page.locator(".MessageHistoryPanel")).to_contain_text("Größenwahn")
    await expect(page.locator("#filter-search")).to_have_value("grossenwahn zipfa")

    await page.locator("#filter-search").fill("zipfasteners of gold")
    await page.keyboard.press("Enter")
    await expect(page.locator("#nothing-found")).to_contain_text("Nothing found")
    await page.get_by_role("link", name="Clear search").click()
    await expect(page.locator(f"#c-{conversation}")).to_be_visible()
