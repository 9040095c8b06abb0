"""Pages use their reader's language and time zone, and respect reduced motion."""

from datetime import datetime
from zoneinfo import ZoneInfo

from playwright.async_api import expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import send


async def test_a_german_user_gets_german_pages_with_times_of_their_zone(people: People, site: Site) -> None:
    dora = await people.create_user("dora", locale="de-AT", zoneinfo="Asia/Kathmandu")
    conversation = await site.open_conversation(dora, "Eine Frage", "Wo ist es?")
    reader = await people.at_browser(dora)
    page = reader.page
    assert await page.locator("html").get_attribute("lang") == "de"
    await expect(page.get_by_role("heading", name="Ihre Nachrichten")).to_be_visible()
    await expect(page.get_by_text("Alle Zeiten: Nepal")).to_be_visible()

    await page.get_by_role("link", name="Eine Frage").click()
    created = datetime.fromisoformat((await site.conversation(conversation))["last_message"]["created_at"])
    local = created.astimezone(ZoneInfo("Asia/Kathmandu"))
    await expect(page.locator("#m-1 time")).to_have_text(f"{local:%H:%M}")
    await send(page, "Noch etwas.")
    await expect(page.locator("#m-2 .author")).to_have_text("Sie")
    await expect(page.locator("#m-2 time")).to_have_text(f"{datetime.now(ZoneInfo('Asia/Kathmandu')):%H:%M}")


async def test_nothing_moves_with_reduced_motion(people: People, site: Site) -> None:
    dora = await people.sign_in("dora", reduced_motion="reduce")
    await dora.open(await site.open_conversation(dora.id, "Calm"))
    await send(dora.page, "No haste.")
    await expect(dora.page.locator("#m-2")).to_be_visible()
    moving = """() => [...document.querySelectorAll("*")].map((it) => getComputedStyle(it)).filter((style) =>
        style.animationName !== "none" || !["0s", ""].includes(style.transitionDuration)).length"""
    assert await dora.page.evaluate(moving) == 0
    await dora.page.emulate_media(reduced_motion="no-preference")
    assert await dora.page.evaluate(moving) > 0
