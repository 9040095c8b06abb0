"""Pages use their reader's language and time zone, and respect reduced motion."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from playwright.async_api import expect

from tests.browser.helpers.people import HOME, People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import send

KINDS = ["day", "message own", "new", "message other"]  # of the items of a page, which still marks what is new


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


async def test_a_user_without_claims_gets_the_browsers_language_and_zone(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    conversation = await site.open_conversation(dora, "Eine Frage", "Wo ist es?")
    await site.answer(conversation, "Hier.")
    reader = await people.at_browser(
        dora, path=f"{HOME['customer']}{conversation}/", locale="de-AT", timezone_id="Asia/Kathmandu"
    )
    page, times = reader.page, reader.page.locator(".message time")
    await expect(page.get_by_text("Alle Zeiten: Nepal")).to_be_visible()  # fetched again once the zone was known
    moments = await times.evaluate_all("(times) => times.map((time) => time.dateTime)")
    local = [datetime.fromisoformat(moment).astimezone(ZoneInfo("Asia/Kathmandu")) for moment in moments]

    await expect(times).to_have_text([f"{time:%H:%M}" for time in local])
    await expect(page.locator("#messages > li")).to_have_class([re.compile(kind) for kind in KINDS])
    await expect(page.locator(".day")).to_have_id(f"day-{local[0]:%Y-%m-%d}")
    assert await page.locator("html").get_attribute("lang") == "de"
    # Chromium uses the older spelling.
    cookie = next(cookie for cookie in await reader.context.cookies() if cookie["name"] == "chats-zone")
    assert (cookie["value"], cookie["path"], cookie["sameSite"]) == ("Asia/Katmandu", "/", "Lax")

    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await reader.open(conversation)
    await expect(page.locator("#bell")).to_be_visible()  # the scripts have run
    assert not [url for url in requests if "peek" in url]


async def test_a_page_moves_from_the_stored_zone_to_the_browsers(people: People, site: Site) -> None:
    dora = await people.sign_in("dora", timezone_id="Asia/Tokyo")
    await expect(dora.page.locator("#zone")).to_contain_text("All times: Japan")  # its script has written the cookie
    await site.order(dora.id, "7")
    await dora.context.add_cookies([{"name": "chats-zone", "value": "America/Lima", "url": site.origin}])
    page = await dora.go(f"{dora.home}new/")
    await expect(page.locator("#zone")).to_contain_text("All times: Japan")
    await dora.context.add_cookies([{"name": "chats-zone", "value": "Mars/Olympus", "url": site.origin}])
    await dora.go()
    await expect(page.locator("#zone")).to_contain_text("All times: Japan")


async def test_a_page_moves_to_the_zone_that_another_page_stored_meanwhile(people: People, site: Site) -> None:
    dora = await people.sign_in("dora", timezone_id="Asia/Tokyo")
    await expect(dora.page.locator("#zone")).to_contain_text("All times: Japan")
    await dora.context.add_cookies([{"name": "chats-zone", "value": "America/Lima", "url": site.origin}])
    await dora.page.add_init_script("document.cookie = 'chats-zone=Asia/Tokyo; Path=/'")
    page = await dora.go()
    await expect(page.locator("#zone")).to_contain_text("All times: Japan")


async def test_a_users_own_zone_needs_no_cookie(people: People) -> None:
    user = await people.create_user("dora", zoneinfo="Europe/Vienna")
    dora = await people.at_browser(user, timezone_id="Asia/Tokyo", locale="de-AT")
    await expect(dora.page.locator("#zone")).to_contain_text("Alle Zeiten: Österreich")
    await expect(dora.page.locator("#bell")).to_be_visible()  # the scripts have run
    assert "chats-zone" not in [cookie["name"] for cookie in await dora.context.cookies()]


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
