"""Hostile text is shown as text: it does not run, and does not break the layout."""

from urllib.parse import quote

from playwright.async_api import Page, expect

from tests.browser.helpers.hostile_text import LINE, TEXT
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import composer, expect_to_fit, message, messages, send
from tests.helpers.waiting import eventually

WIDTHS = (320, 390, 1280, 2560)


async def expect_nothing_ran(page: Page) -> None:
    assert "run" not in (await page.title()).split()


async def test_hostile_text_in_a_customers_thread_is_shown_unchanged_and_fits(people: People, site: Site) -> None:
    dora = await people.sign_in("dora", shown=LINE["without a space"])
    conversation = await site.open_conversation(dora.id, LINE["markup"], TEXT["markup"])
    for text in TEXT.values():
        await site.write(conversation, dora.id, text)
    await site.answer(conversation, TEXT["zalgo"])
    page = await dora.open(conversation)
    await expect(messages(page)).to_have_count(len(TEXT) + 2)
    await expect(page.get_by_role("heading", level=1)).to_have_text(LINE["markup"])
    shown = await page.locator("#messages .own .body").evaluate_all("all => all.map((it) => it.textContent)")
    assert shown[1:] == list(TEXT.values())
    await expect_to_fit(page, *WIDTHS)
    await expect_nothing_ran(page)


async def test_hostile_subjects_in_a_customers_list_fit_and_link_to_their_conversations(
    people: People, site: Site
) -> None:
    dora = await people.sign_in("dora", shown=LINE["markup"])
    for name, line in LINE.items():
        await site.open_conversation(dora.id, line, TEXT[name])
    page = await dora.go()
    await expect(page.locator(".row")).to_have_count(len(LINE))
    await expect_to_fit(page, *WIDTHS)
    await page.get_by_role("link", name=LINE["markup"]).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(LINE["markup"])
    await expect_nothing_ran(page)


async def test_a_form_comes_back_with_hostile_text_unchanged(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("422")
    number, status = LINE["without a space"][:100], LINE["markup"][:100]
    await site.order(dora.id, number, status=status)
    page = await dora.go("/dashboard/messages/new/")
    await page.get_by_label("Message", exact=True).fill(TEXT["markup"])
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(page.get_by_label("Message", exact=True)).to_have_value(TEXT["markup"])
    await expect_to_fit(page, *WIDTHS)
    await expect_nothing_ran(page)


async def test_hostile_text_in_live_and_pending_messages_is_shown_unchanged(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    page = await dora.open(await site.open_conversation(dora.id, "Live"))
    for name in ("markup", "template", "10,000 characters"):
        await send(page, TEXT[name])
        await expect(message(page, TEXT[name][:50]).locator(".body")).to_have_text(TEXT[name])
    await expect(page.locator(".pending")).to_have_count(0)
    await expect(composer(page)).to_have_value("")
    await expect_to_fit(page, *WIDTHS)
    await expect_nothing_ran(page)


async def test_hostile_text_fits_on_every_page_of_an_admin(people: People, site: Site) -> None:
    dora = await people.create_user("dora", shown=LINE["without a space"])
    sam = await people.sign_in("sam", role="admin", shown=LINE["right to left"])
    order = await site.order(dora, LINE["without a space"][:100], status=LINE["markup"][:100])
    conversations = [
        await site.open_conversation(dora, line, TEXT[name], order_id=order) for name, line in LINE.items()
    ]
    for text in TEXT.values():
        await site.write(conversations[0], dora, text)
    for conversation in conversations:
        await site.set_status(conversation, "CLOSED")
    ids = "&".join(f"ids={conversation}" for conversation in conversations)
    for path in (
        f"?user_id={dora}",
        f"?user_id={quote(LINE['markup'])}",
        f"{conversations[0]}/",
        f"{conversations[1]}/delete/",
        f"bulk-delete/?{ids}",
        f"new/?q={dora}",
        f"new/?user_id={dora}",
    ):
        page = await sam.go(sam.home + path)
        await expect(page.get_by_role("heading", level=1).last).to_be_visible()
        await expect_to_fit(page, *WIDTHS)
        await expect_nothing_ran(page)


async def test_hostile_text_fits_into_the_bell(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    for line in (LINE["markup"], LINE["without a space"]):
        await site.answer(await site.open_conversation(dora.id, line), TEXT["markup"])
    await eventually(lambda: rings(dora.page))
    for width in WIDTHS:
        await expect_to_fit(dora.page, width)
        await dora.page.get_by_label("Notifications").click()
        await expect(dora.page.locator("#bell-items > li")).to_have_count(2)
        await expect(dora.page.locator("#bell-items")).to_contain_text(LINE["markup"])
        await expect_to_fit(dora.page, width)
        panel = await dora.page.locator("#bell .sheet").bounding_box()
        assert panel is not None
        assert 0 <= panel["x"] <= panel["x"] + panel["width"] <= width, (
            "it reaches out of the window, where nobody can scroll"
        )
        await dora.page.get_by_label("Notifications").click()
    await expect_nothing_ran(dora.page)


async def rings(page: Page) -> bool:
    """Open and close the bell; return whether both replies are in it."""
    await page.locator("#bell summary").click()
    count = await page.locator("#bell-items > li.unread").count()
    await page.locator("#bell summary").click()
    return count == 2
