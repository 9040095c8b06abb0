"""In wide windows conversations open beside the inbox, which stays; narrow windows show one or the other."""

import asyncio
import re
from contextlib import suppress
from typing import Any

from playwright.async_api import Error, Page, Route, expect

from tests.browser.helpers.late_answer import LateAnswer
from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_thread

WIDE: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
NARROW: dict[str, Any] = {"viewport": {"width": 390, "height": 844}}
SHOWN = """() => {
    const boxes = [...document.querySelectorAll(".row")].map((row) => row.getBoundingClientRect());
    return [boxes[0].top, boxes.filter(({ bottom }) => bottom <= innerHeight).length];
}"""


async def at_inbox(people: People, site: Site, count: int, **options: Any) -> tuple[Person, str, list[str]]:
    """Open the list of one customer's conversations, the newest first."""
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin", **options)
    conversations = [await site.open_conversation(dora, f"Number {number}") for number in range(count)]
    await sam.go(f"{sam.home}?user_id={dora}")
    await expect(sam.page.locator(".row")).to_have_count(count)
    return sam, dora, conversations[::-1]


async def is_first(page: Page) -> bool:
    """Return whether the inbox is the element that the test has marked: nothing has rendered it again."""
    return bool(
        await page.evaluate("document.getElementById('inbox').marked && document.querySelector('.rows').marked")
    )


async def test_many_conversations_are_visible_at_once(people: People, site: Site) -> None:
    sam, _, _ = await at_inbox(people, site, 12, **WIDE)
    for width, height, top, count in ((1440, 900, 180, 9), (390, 844, 200, 4)):
        await sam.page.set_viewport_size({"width": width, "height": height})
        await sam.go()
        await expect(sam.page.locator(".select-all")).to_be_visible()
        first, shown = await sam.page.evaluate(SHOWN)
        assert (first <= top, shown >= count) == (True, True), (width, first, shown)


async def test_conversations_open_beside_the_inbox_which_stays_where_it_is(people: People, site: Site) -> None:
    sam, dora, conversations = await at_inbox(people, site, 20, **WIDE)
    page, listed = sam.page, sam.page.locator("#inbox-list")
    await page.evaluate(
        "for (const it of [document.getElementById('inbox'), document.querySelector('.rows')]) it.marked = true"
    )
    await listed.evaluate("list => { list.scrollTop = 300; }")
    scrolled = await listed.evaluate("list => list.scrollTop")
    for conversation in conversations[5:8]:
        await page.locator(f"#open-{conversation}").click()
        await expect(page.locator(f"[data-thread='{conversation}']")).to_be_visible()
        await expect(page.locator(".row a[aria-current]")).to_have_id(f"open-{conversation}")
        await page.wait_for_url(f"**/{conversation}/?user_id={dora}")
        assert (await site.conversation(conversation))["is_read_by_admin"]
    assert await listed.evaluate("list => list.scrollTop") == scrolled

    await page.go_back()
    await expect(page.locator(f"[data-thread='{conversations[6]}']")).to_be_visible()
    assert await page.evaluate("document.getElementById('inbox').marked")
    await page.reload()
    await expect(page.locator(".row")).to_have_count(20)
    await expect(page.locator(".row a[aria-current]")).to_have_id(f"open-{conversations[6]}")
    await expect_thread(page, "Hello?")


async def test_the_inbox_that_arrives_after_a_change_shows_it(people: People, site: Site) -> None:
    sam, dora, [conversation] = await at_inbox(people, site, 1, **WIDE)
    page, late = sam.page, LateAnswer()
    await page.route(re.compile(r"/conversation/\?.*peek=true"), late.handle, times=1)
    await sam.go(f"{sam.home}{conversation}/?user_id={dora}")
    await page.keyboard.press("e")
    await expect(page.locator("#status")).to_contain_text("Resolved")
    await expect(page.locator(".row")).to_have_count(0)
    late.released.set()
    await expect(page.locator(f"#c-{conversation}")).to_contain_text("Resolved")


async def test_a_filter_beside_an_open_conversation_applies_at_once_and_keeps_it(people: People, site: Site) -> None:
    sam, dora, [closed, still_open] = await at_inbox(people, site, 2, **WIDE)
    await site.set_status(closed, "CLOSED")
    page = sam.page
    await page.locator(f"#open-{still_open}").click()
    await page.locator("#reply_body").fill("Half a thought")
    await page.locator("#filter-menu summary").click()
    await page.get_by_role("link", name="Closed", exact=True).click()
    await expect(page.locator(".row")).to_have_count(1)
    await expect(page.get_by_role("link", name="Remove filter: Closed")).to_be_visible()
    await expect(page.locator("#reply_body")).to_have_value("Half a thought")
    await page.wait_for_url(f"**/{still_open}/?status=CLOSED&user_id={dora}")
    await page.go_back()
    await expect(page.locator(".row")).to_have_count(2)
    await page.go_back()
    await expect(page.get_by_text("Choose a conversation")).to_be_visible()
    assert page.url.endswith(f"{sam.home}?user_id={dora}")


async def test_of_two_filters_in_a_row_the_later_one_applies(people: People, site: Site) -> None:
    sam, _, [closed, _] = await at_inbox(people, site, 2, **WIDE)
    await site.set_status(closed, "CLOSED")
    page, asked, late = sam.page, asyncio.Event(), asyncio.Event()

    async def overtaken(route: Route) -> None:
        asked.set()
        await late.wait()
        with suppress(Error):  # the page does not wait for it any more
            await route.continue_()

    await page.route("**/*status=CLOSED*", overtaken)
    await page.locator("#filter-menu summary").click()
    await page.get_by_role("link", name="Closed", exact=True).click()
    await asked.wait()
    async with page.expect_event("requestfailed", lambda request: "status=CLOSED" in request.url):
        await page.get_by_role("link", name="Longest waiting").click()
    late.set()
    await page.wait_for_url("**/*sort=waiting*")
    await expect(page.locator(".row")).to_have_count(2)


async def test_a_narrow_window_shows_the_list_or_the_conversation(people: People, site: Site) -> None:
    sam, dora, [conversation] = await at_inbox(people, site, 1, **NARROW)
    page = sam.page
    await page.get_by_role("link", name="Number 0").click()
    await expect_thread(page, "Hello?")
    await expect(page.locator("#inbox")).to_be_hidden()
    await page.get_by_role("link", name="Back to the inbox").click()
    await expect(page.locator(f"#c-{conversation}")).to_be_visible()
    assert page.url.endswith(f"{sam.home}?user_id={dora}")
