"""The bell: new messages by conversation, with their times."""

from playwright.async_api import expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.helpers.waiting import eventually


async def test_the_bell_groups_new_messages_by_conversation_and_shows_their_times(people: People, site: Site) -> None:
    dora = await people.sign_in("dora", timezone_id="Asia/Tokyo")
    first, second = [await site.open_conversation(dora.id, subject) for subject in ("The lid", "The invoice")]
    for conversation, body in ((first, "One"), (second, "Two"), (first, "Three")):
        await site.answer(conversation, body)
    page = dora.page

    async def rings() -> bool:
        await dora.go()
        await page.get_by_label("Notifications").click()
        await expect(page.locator("#bell-items > li")).not_to_have_count(0)
        return await page.locator("#bell-items").get_by_text("2 new messages").count() == 1

    await eventually(rings)
    items = page.locator("#bell-items > li")
    await expect(items).to_have_count(2)
    await expect(items.nth(0)).to_contain_text("The lid")
    await expect(items.nth(0)).to_contain_text("Three")
    await expect(items.nth(1)).to_contain_text("The invoice")
    await expect(items.nth(1).locator(".several")).to_have_count(0)
    shown = (
        await items.nth(0)
        .locator("time")
        .evaluate(
            "(it) => [it.textContent, new Intl.DateTimeFormat('en', { timeStyle: 'short', timeZone: 'Asia/Tokyo' })"
            ".format(new Date(it.dateTime))]"
        )
    )
    assert shown[0] == shown[1]
    await page.evaluate("document.querySelector('[data-zone]').dataset.zone = 'Europe/New_Zone'")
    await page.get_by_label("Notifications").click()
    await page.get_by_label("Notifications").click()
    await expect(items.nth(0).locator("time")).not_to_be_empty()  # even with a zone that the browser does not know
    await page.get_by_role("button", name="Mark all as read").click()
    await expect(page.locator("#bell-items > li.unread")).to_have_count(0)
    await expect(items).to_have_count(2)
    await expect(page.locator(".several")).to_have_count(0)
