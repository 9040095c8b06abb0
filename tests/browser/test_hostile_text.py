"""Text is text, whatever is in it: it does not run, and stays where it belongs."""

from playwright.async_api import Page, expect

from tests.browser.hostile import LINE, TEXT
from tests.browser.people import People
from tests.browser.site import Site
from tests.browser.thread import composer, expect_to_fit, message, messages, send

WIDTHS = (320, 390, 1280, 2560)


async def expect_nothing_ran(page: Page) -> None:
    assert "run" not in (await page.title()).split()


async def test_in_a_customers_thread_hostile_text_is_shown_as_it_is_and_fits(people: People, site: Site) -> None:
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


async def test_in_a_customers_list_hostile_subjects_fit_and_lead_to_their_conversations(
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


async def test_a_form_comes_back_with_hostile_text_as_it_was_typed(people: People, site: Site) -> None:
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


async def test_hostile_text_arrives_live_and_on_its_way_as_it_is(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    page = await dora.open(await site.open_conversation(dora.id, "Live"))
    for name in ("markup", "template", "10,000 characters"):
        await send(page, TEXT[name])
        await expect(message(page, TEXT[name][:50]).locator(".body")).to_have_text(TEXT[name])
    await expect(page.locator(".pending")).to_have_count(0)
    await expect(composer(page)).to_have_value("")
    await expect_to_fit(page, *WIDTHS)
    await expect_nothing_ran(page)
