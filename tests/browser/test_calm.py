"""Nothing moves under the hand: rows change in place, new ones wait, and an open conversation never jumps."""

import asyncio
from typing import Any

from playwright.async_api import Page, Route, expect

from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import composer, expect_thread, send
from tests.helpers.waiting import eventually

WIDE: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}


async def at_inbox(people: People, site: Site, query: str, count: int) -> tuple[Person, str, list[str]]:
    """Open a list of one customer's conversations, the newest first."""
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin", **WIDE)
    conversations = [await site.open_conversation(dora, f"Number {number}") for number in range(count)]
    await sam.go(f"{sam.home}?user_id={dora}{query}")
    await connected(sam.page)
    return sam, dora, conversations[::-1]


async def connected(page: Page) -> None:
    await page.wait_for_function("() => navigator.locks.query().then(({ held }) => held.length > 0)")


def rows(page: Page) -> Any:
    return expect(page.locator(".row h2 a"))


async def test_rows_change_in_place_and_new_ones_wait(people: People, site: Site) -> None:
    sam, dora, [third, second, first] = await at_inbox(people, site, "&status=OPEN", 3)
    page = sam.page
    in_order = [f"Number {number}" for number in (2, 1, 0)]
    await site.write(second, dora, "One more thing")
    await expect(page.locator(f"#c-{second}.gone")).to_contain_text("One more thing")
    await expect(page.locator(f"#c-{second}")).to_contain_text("no longer matches the filter")
    await site.open_conversation(dora, "Number 3")
    await site.open_conversation(dora, "Number 4")
    await expect(page.get_by_role("button", name="2 new")).to_be_visible()
    await rows(page).to_have_text(in_order)

    await page.locator(f"#pick-{third}").check()
    new, head = [await page.locator(it).bounding_box() for it in ("#new-rows", ".rows")]
    assert new is not None
    assert head is not None
    assert new["y"] + new["height"] <= head["y"], "it covers a row"
    await page.get_by_role("button", name="2 new").click()
    await rows(page).to_have_text(["Number 4", "Number 3", "Number 2", "Number 0"])
    await expect(page.locator("#new-rows")).to_be_hidden()
    await expect(page.locator(f"#pick-{third}")).to_be_checked()
    await expect(page.locator("#selected")).to_have_text("1 selected")
    await site.set_status(third, "CLOSED")
    await site.set_status(first, "CLOSED")
    await site.product.call("DELETE", f"/api/v1/admin/conversations/{first}", "operator", "admin")
    await expect(page.locator(f"#c-{third}.gone")).to_be_visible()
    await expect(page.locator(f"#c-{first}.deleted")).to_have_text("")


async def test_an_open_thread_stays_in_place_when_messages_arrive(people: People, site: Site) -> None:
    sam, dora, [conversation] = await at_inbox(people, site, "", 1)
    for number in range(40):
        await site.answer(conversation, f"A line, number {number}")
    page = sam.page
    await page.locator(f"#open-{conversation}").click()
    await expect(page.locator("#m-41")).to_be_in_viewport()
    await page.locator(".MessageHistoryPanel").evaluate("panel => { panel.scrollTop = -800; }")
    top = "() => document.querySelector('#m-20').getBoundingClientRect().top"
    before = await page.evaluate(top)
    await site.write(conversation, dora, "Many\nlines\n" * 20)
    await expect(page.locator("#to-newest")).to_be_visible()
    await expect(page.locator("#announcer")).to_have_text("New message from Dora")
    assert await page.evaluate(top) == before


async def test_keys_show_conversations_without_reading_them(people: People, site: Site) -> None:
    sam, _, [third, second, first] = await at_inbox(people, site, "", 3)
    page = sam.page
    await page.evaluate("document.hasFocus = () => false")  # nobody looks, so time on the screen does not count
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await expect(page.locator(f"[data-thread='{second}']")).to_be_visible()
    await expect(page.locator(f"#open-{second}[aria-current]")).to_be_focused()
    await page.locator("#reply_body").press_sequentially("H")  # typing opens it
    await expect(page.locator(f"#c-{second}.unread")).to_have_count(0)
    await page.keyboard.press("Backspace")
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await expect(page.locator(f"[data-thread='{first}']")).to_be_visible()
    await expect(page.locator(f"#c-{first}.unread")).to_be_visible()
    await page.keyboard.press("Enter")
    await expect(page.locator(f"#c-{first}.unread")).to_have_count(0)
    assert not (await site.conversation(third))["is_read_by_admin"]

    await page.evaluate("document.hasFocus = () => true")
    await page.keyboard.press("k")
    await page.keyboard.press("k")
    await expect(page.locator(f"#c-{third}.unread")).to_have_count(0)  # after two seconds


async def test_a_status_is_undone_unless_there_is_a_newer_message(people: People, site: Site) -> None:
    sam, dora, [second, first] = await at_inbox(people, site, "", 2)
    sam.expect_complaints("409")
    page = sam.page
    await page.keyboard.press("j")
    await page.keyboard.press("e")
    await expect(page.locator("#toast")).to_contain_text("“Number 1” is now: Resolved")
    await expect(page.locator(f"[data-thread='{first}']")).to_be_visible()
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator("#toast")).to_contain_text("“Number 1” is again: New")
    assert (await site.conversation(second))["status"] == "OPEN"
    assert not (await site.conversation(first))["is_read_by_admin"]

    await expect(page.locator(f"#c-{second}")).to_contain_text("New")
    await page.keyboard.press("k")
    await page.keyboard.press("e")
    await expect(page.locator("#toast")).to_contain_text("“Number 1” is now: Resolved")
    await site.write(second, dora, "Not yet")
    await page.keyboard.press("z")
    await expect(page.locator("#toast")).to_contain_text("nothing was undone")
    assert (await site.conversation(second))["status"] == "AWAITING_ADMIN"


async def test_each_way_to_send_has_a_key_and_says_what_was_done(people: People, site: Site) -> None:
    sam, _, [conversation] = await at_inbox(people, site, "", 1)
    page = sam.page
    await page.locator(f"#open-{conversation}").click()
    for keys, says, status in (
        ("Control+Shift+Enter", "Sent. Status: Resolved", "RESOLVED"),
        ("Alt+Enter", "Sent. The status is still: Resolved", "RESOLVED"),
        ("Alt+Shift+Enter", "Sent. Status: Closed", "CLOSED"),
        ("Control+Enter", "Sent. Status: Waiting for customer", "AWAITING_USER"),
    ):
        await composer(page).fill(keys)
        await composer(page).press(keys)
        await expect(page.locator("#toast [data-text]")).to_have_text(says)
        assert (await site.conversation(conversation))["status"] == status


async def test_a_reply_to_a_conversation_that_was_left_is_sent_or_becomes_its_draft(people: People, site: Site) -> None:
    sam, dora, [second, first] = await at_inbox(people, site, "", 2)
    sam.expect_complaints("409")
    page, left = sam.page, asyncio.Event()

    async def wait_until_left(route: Route) -> None:
        await left.wait()
        await route.continue_()

    await page.route(f"**/api/v1/admin/conversations/{first}", wait_until_left)

    async def send_and_leave(text: str) -> None:
        left.clear()
        await page.locator(f"#open-{first}").click()
        await expect(page.locator(f"[data-thread='{first}']")).to_be_visible()
        await send(page, text)
        await page.locator(f"#open-{second}").click()
        await expect(page.locator(f"[data-thread='{second}']")).to_be_visible()

    await send_and_leave("On its way.")
    left.set()
    await eventually(lambda: has(site, first, "Hello?", "On its way."))
    await expect(page.locator("#toast")).to_contain_text("Sent.")

    await send_and_leave("Tomorrow.")
    await site.write(first, dora, "Never mind")
    left.set()
    await expect(page.locator("#toast")).to_contain_text("A reply was not sent")
    await page.locator(f"#open-{first}").click()
    await expect_thread(page, "Hello?", "On its way.", "Never mind")
    await expect(composer(page)).to_have_value("Tomorrow.")


async def has(site: Site, conversation: str, *bodies: str) -> bool:
    return await site.bodies(conversation) == list(bodies)
