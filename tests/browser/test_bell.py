"""The bell: new messages by conversation, with their times."""

import asyncio

from playwright.async_api import Route, expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_thread
from tests.helpers.waiting import eventually

LATE = 40_000  # ms: the bell is reloaded up to 20 s after a message


async def test_the_bell_groups_new_messages_by_conversation_and_shows_their_times(people: People, site: Site) -> None:
    dora = await people.sign_in("dora", timezone_id="Asia/Tokyo")
    first, second = [await site.open_conversation(dora.id, subject) for subject in ("The lid", "The invoice")]
    page = dora.page
    for count, (conversation, body) in enumerate(((first, "One"), (second, "Two"), (first, "Three")), 1):
        await site.answer(conversation, body)  # a worker may record answers of the same moment in any order
        await eventually(lambda count=count: site.has_notifications(dora.id, count), deadline=60)  # type: ignore[misc]
    await dora.go()
    await page.get_by_label("Notifications").click()
    items = page.locator("#bell-items > li")
    await expect(items).to_have_count(2)
    await expect(page.locator("#bell-items").get_by_text("2 new messages")).to_have_count(1)
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


async def test_an_open_bell_shows_a_notification_that_comes_later_than_its_message(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation, lists = await site.open_conversation(dora.id, "The lid"), 0

    async def behind(route: Route) -> None:
        nonlocal lists
        lists += 1
        await (route.fulfill(json={"items": [], "next_cursor": None}) if lists <= 2 else route.continue_())

    await dora.page.route("**/api/v1/notifications?*", behind)
    await dora.page.get_by_label("Notifications").click()
    items = dora.page.locator("#bell-items")
    await expect(items).to_contain_text("Nothing new")
    await site.answer(conversation, "Two")
    await expect(items).to_contain_text("Two", timeout=LATE)


async def test_a_late_answer_does_not_replace_a_newer_list(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation, newer, late = await site.open_conversation(dora.id, "The lid"), asyncio.Event(), asyncio.Event()

    async def overtaken(route: Route) -> None:
        if late.is_set():
            await route.continue_()
        else:
            late.set()
            await newer.wait()
            await route.fulfill(json={"items": [], "next_cursor": None})

    await dora.page.route("**/api/v1/notifications?*", overtaken)
    await dora.page.get_by_label("Notifications").click()
    await site.answer(conversation, "Two")
    items = dora.page.locator("#bell-items")
    await expect(items).to_contain_text("Two", timeout=LATE)
    async with dora.page.expect_request_finished(lambda request: "/notifications?" in request.url):
        newer.set()
    await expect(items).to_contain_text("Two")
    assert "Nothing new" not in await items.inner_text()


async def test_a_click_on_a_notification_is_not_lost_when_the_list_changes(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation, page, lists = await site.open_conversation(dora.id, "The lid"), dora.page, 0
    await site.answer(conversation, "One")
    await eventually(lambda: site.has_notifications(dora.id, 1), deadline=60)

    async def change(route: Route) -> None:
        nonlocal lists
        lists += 1
        content = await (await route.fetch()).json()
        content["items"][0]["preview"] = f"List {lists}"
        await route.fulfill(json=content)

    await page.route("**/api/v1/notifications?limit=100", change)
    await dora.go()
    await page.get_by_label("Notifications").click()
    await page.locator("#bell-items a").hover()
    async with page.expect_response(lambda response: "/notifications?limit" in response.url) as reloaded:
        await page.mouse.down()
        await page.evaluate(f"new BroadcastChannel('chats:{dora.id}').postMessage({{ kind: 'missed' }})")
    await (await reloaded.value).finished()
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
    await page.mouse.up()
    await expect_thread(page, "Hello?", "One")


async def test_the_bell_is_reloaded_when_the_page_may_have_missed_events(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation, page = await site.open_conversation(dora.id, "The lid"), dora.page
    await page.route("**/api/v1/stream?*", lambda route: route.abort())
    dora.expect_complaints("ERR_FAILED")
    await dora.go()
    await site.answer(conversation, "Two")
    await page.evaluate(f"new BroadcastChannel('chats:{dora.id}').postMessage({{ kind: 'missed' }})")
    await expect(page.locator("#bell-dot")).to_be_visible(timeout=LATE)
