"""Everything works with the keyboard alone, and the focus is always visible."""

import re

from playwright.async_api import Page, Route, expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_thread, submit

FOCUSED = """() => {
    const it = document.activeElement;
    const style = getComputedStyle(it);
    const name = it.getAttribute("aria-label") ?? it.labels?.[0]?.innerText ?? it.innerText ?? "";
    const visible = parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== "none";
    return [it === document.body ? "nothing" : name.trim().split("\\n")[0], visible];
}"""


async def tab(page: Page, back: bool = False) -> str:
    """Move to the next control; return its name. Its focus must be visible."""
    await page.keyboard.press("Shift+Tab" if back else "Tab")
    name, visible = await page.evaluate(FOCUSED)
    assert visible, f"the focus on {name!r} is not visible"
    return str(name)


async def tab_to(page: Page, name: str) -> list[str]:
    """Move on to a control; return the names of the controls on the way, including it."""
    passed: list[str] = []
    while name not in passed:
        passed.append(await tab(page))
        assert len(passed) < 60, f"no way to {name!r}: {passed}"
    return passed


async def test_a_customer_writes_reads_and_signs_out_by_keyboard_alone(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    page, keyboard = dora.page, dora.page.keyboard
    await expect(page.get_by_label("Notifications")).to_be_visible()
    assert await tab(page) == "Skip to content"
    assert (await tab_to(page, "Dora"))[-3:] == ["Messages", "Notifications", "Dora"]
    await tab_to(page, "Write to us")
    await keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="New message")).to_be_visible()
    await tab_to(page, "Subject")
    await keyboard.type("By keyboard")
    assert await tab(page) == "Message"
    await keyboard.type("Hello?")
    await submit(page.locator(":focus"))
    await expect_thread(page, "Hello?")
    [conversation] = [conversation["id"] for conversation in await site.conversations_of(dora.id)]
    await site.answer(conversation, "Hello!")
    await expect_thread(page, "Hello?", "Hello!")
    await tab_to(page, "Your message")
    await keyboard.type("Thanks")
    await tab_to(page, "Send")
    await keyboard.press("Enter")
    await expect_thread(page, "Hello?", "Hello!", "Thanks")
    await expect(page.locator("#body")).to_be_focused()
    await tab(page, back=True)
    assert await page.evaluate("() => document.activeElement.className") == "MessageHistoryPanel"
    await page.reload()
    await tab_to(page, "Dora")
    await keyboard.press("Enter")
    await tab_to(page, "Sign out")
    await keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="The store")).to_be_visible()


async def test_an_admin_replies_resolves_and_marks_unread_by_keyboard_alone(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    page, keyboard = sam.page, sam.page.keyboard
    first, second, _ = [await site.open_conversation(dora, subject) for subject in ("First", "Second", "Third")]
    await sam.go(f"{sam.home}?user_id={dora}")
    await keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    await keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)

    for key in "jjjk":
        await keyboard.press(key)
    await expect(page.locator(f"#open-{second}")).to_be_focused()
    await keyboard.press("Enter")
    await expect_thread(page, "Hello?")
    await keyboard.press("r")
    await expect(page.locator("#reply_body")).to_be_focused()
    await keyboard.type("Just a moment, jkeru/?")
    await keyboard.press("Control+Enter")
    await expect_thread(page, "Hello?", "Just a moment, jkeru/?")
    await expect(page.locator("#status")).to_have_text("Waiting for customer")
    await keyboard.type("It is done.")
    await keyboard.press("Escape")
    await keyboard.press("e")
    await expect(page.get_by_role("dialog", name="Resolve without sending your draft?")).to_be_visible()
    await keyboard.press("Escape")
    await expect(page.locator("#status")).to_have_text("Waiting for customer")
    await keyboard.press("e")
    await page.get_by_role("dialog").get_by_role("button", name="Resolve").press("Enter")
    await expect(page.locator(f"#c-{second}")).to_contain_text("Resolved")
    await expect(page.locator(f"#open-{first}")).to_be_focused()  # the next one
    await keyboard.press("k")
    await expect(page.locator("#status")).to_have_text("Resolved")
    await expect(page.locator("#reply_body")).to_have_value("It is done.")
    await expect_thread(page, "Hello?", "Just a moment, jkeru/?")
    await keyboard.press("u")
    await expect(page.locator(f"#c-{second}.unread")).to_be_visible()
    await expect(page.locator("#toast")).to_contain_text("marked as unread")
    assert not (await site.conversation(second))["is_read_by_admin"]
    assert not (await site.conversation(first))["is_read_by_admin"]


async def test_an_admin_works_through_the_list_by_keyboard_alone(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    page, keyboard = sam.page, sam.page.keyboard
    first, second = [await site.open_conversation(dora, subject) for subject in ("First", "Second")]
    await site.answer(second, "Read, then")
    await sam.go(f"{sam.home}?user_id={dora}")
    await keyboard.press("k")
    await expect(page.locator(f"#open-{first}")).to_be_focused()
    await keyboard.press("e")
    await expect(page.locator(f"#c-{first}")).to_contain_text("Resolved")
    await expect(page.locator(f"#open-{first}")).to_be_focused()  # there is no next one
    await expect(page.locator("#toast")).to_contain_text("is now: Resolved")  # the row may show it before the answer
    await keyboard.press("z")
    await expect(page.locator(f"#c-{first}")).to_contain_text("New")
    await keyboard.press("k")
    await keyboard.press("u")
    await expect(page.locator(f"#c-{second}.unread")).to_be_visible()
    await keyboard.press("Shift+Tab")
    await keyboard.press("Space")
    await expect(page.locator("#selected")).to_have_text("1 selected")

    await keyboard.press("/")
    await expect(page.locator("#filter-search")).to_be_focused()
    await keyboard.press("ControlOrMeta+a")
    await keyboard.type(dora)
    await keyboard.press("Enter")
    await expect(page.locator("#inbox")).to_have_attribute("data-url", re.compile(r"[?&]q="))
    await expect(page.locator(".row")).to_have_count(2)
    await tab_to(page, "New conversation")
    await keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="New conversation")).to_be_visible()
    await tab_to(page, "Choose a customer")
    await keyboard.type(dora)
    await keyboard.press("Enter")
    await expect(page.locator(".row")).to_have_count(1)
    await tab_to(page, "Dora")
    await keyboard.press("Enter")
    await expect(page.get_by_label("Subject")).to_be_visible()
    await tab_to(page, "Subject")
    await keyboard.type("By keyboard")
    await tab_to(page, "Message")
    await keyboard.type("Nothing else.")
    await submit(page.locator(":focus"))
    await expect_thread(page, "Nothing else.")


async def test_resolving_from_a_stale_list_is_rejected_and_the_reason_shown(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    sam.expect_complaints("409", "net::ERR_FAILED")
    page, keyboard = sam.page, sam.page.keyboard
    conversation = await site.open_conversation(dora, "Not yet")
    await sam.go(f"{sam.home}?user_id={dora}")

    async def abort(route: Route) -> None:
        await route.abort()

    refreshes = re.compile(r"/conversation/\?.*peek=true")
    await page.route(refreshes, abort)
    await site.write(conversation, dora, "One more thing")
    await keyboard.press("j")
    await keyboard.press("e")
    await expect(page.get_by_role("alert")).to_contain_text("The customer sent a new message")
    assert (await site.conversation(conversation))["status"] == "AWAITING_ADMIN"

    await page.unroute(refreshes)
    await page.reload()
    await keyboard.press("j")
    await keyboard.press("e")
    await expect(page.locator(f"#c-{conversation}")).to_contain_text("Resolved")
    await expect(page.get_by_role("alert")).to_have_count(0)


async def test_single_key_shortcuts_can_be_turned_off_permanently(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    page, keyboard = sam.page, sam.page.keyboard
    conversation = await site.open_conversation(dora, "Dictated")
    await sam.go(f"{sam.home}?user_id={dora}")
    await keyboard.press("?")
    await page.get_by_label("Enable single-key shortcuts").uncheck()
    await keyboard.press("Escape")
    await page.reload()
    await page.locator(f"#open-{conversation}").focus()
    for key in "euj/?":
        await keyboard.press(key)
    await expect(page.locator(f"#open-{conversation}")).to_be_focused()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("button", name="Keyboard shortcuts").click()
    await page.get_by_label("Enable single-key shortcuts").check()
    await keyboard.press("Escape")
    await page.locator(f"#open-{conversation}").focus()
    await keyboard.press("e")
    await expect(page.locator(f"#c-{conversation}")).to_contain_text("Resolved")
