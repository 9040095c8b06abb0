"""Drafts are kept until they are sent, and only for their author."""

from playwright.async_api import Page, expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import composer, expect_thread, send, submit
from tests.helpers.waiting import eventually

KEPT = "() => JSON.stringify({ ...sessionStorage, ...localStorage })"


async def stored_texts(page: Page) -> str:
    return str(await page.evaluate(KEPT))


async def test_a_draft_survives_a_reload_and_is_gone_after_sending(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    page = await dora.open(await site.open_conversation(dora.id, "A draft"))
    await composer(page).fill("Half a thou")
    await page.reload()
    await expect(composer(page)).to_have_value("Half a thou")
    await send(page, "Half a thought.")
    await expect_thread(page, "Hello?", "Half a thought.")
    await expect(page.locator(".pending")).to_have_count(0)
    await page.reload()
    await expect(composer(page)).to_have_value("")
    assert "thou" not in await stored_texts(page)


async def test_the_draft_of_a_new_conversation_survives_a_reload_and_is_gone_after_sending(
    people: People, site: Site
) -> None:
    dora = await people.sign_in("dora")
    order = await site.order(dora.id, "R-7")
    page = await dora.go("/dashboard/messages/new/")
    await page.get_by_label("Subject").fill("A lid is missing")
    await page.get_by_label("Is it about an order?").select_option(order)
    await page.get_by_label("Message", exact=True).fill("Where is it?")
    await page.reload()
    await expect(page.get_by_label("Subject")).to_have_value("A lid is missing")
    await expect(page.get_by_label("Is it about an order?")).to_have_value(order)
    await submit(page.get_by_label("Message", exact=True))
    await expect_thread(page, "Where is it?")
    await expect(page.locator("#reply[data-kept]")).to_be_visible()  # its scripts remove the draft
    await dora.go("/dashboard/messages/new/")
    await expect(page.get_by_label("Subject")).to_have_value("")
    assert "lid" not in await stored_texts(page)


async def test_what_was_typed_replaces_the_subject_proposed_for_an_order(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    first, second = await site.order(dora.id, "R-7"), await site.order(dora.id, "R-8")
    page = await dora.go(f"/dashboard/messages/new/?order_id={first}")
    subject = page.get_by_label("Subject")
    await expect(subject).to_have_value("Order R-7")
    await subject.fill("A lid is missing")
    await page.reload()
    await expect(subject).to_have_value("A lid is missing")
    await dora.go(f"/dashboard/messages/new/?order_id={second}")
    await expect(subject).to_have_value("Order R-8")


async def test_after_signing_out_the_next_user_of_a_browser_finds_no_drafts(people: People, site: Site) -> None:
    dora, emil = await people.sign_in("dora"), await people.create_user("emil")
    conversation = await site.open_conversation(dora.id, "Between us", "A secret")
    page = await dora.open(conversation)
    await composer(page).fill("More of the secret")
    await eventually(lambda: stores(page, "More of the secret"))
    await page.locator(".person summary").click()
    await page.get_by_role("button", name="Sign out", exact=True).click()
    await page.wait_for_url(f"{site.store.url}/")
    await page.goto(site.origin + "/chats-static/icon.svg")
    assert "secret" not in await stored_texts(page)

    await page.go_back()
    await page.go_back()
    await expect(page.get_by_role("heading", name="Sign in to the store")).to_be_visible()

    await page.goto(site.store.entry_url(emil, "customer", f"/dashboard/messages/{conversation}/"))
    await page.get_by_role("button", name="To my messages").click()
    await expect(page.get_by_role("heading", name="Conversation not found")).to_be_visible()
    dora.expect_complaints("404")


async def stores(page: Page, words: str) -> bool:
    return words in await stored_texts(page)


async def lacks(page: Page, words: str) -> bool:
    return words not in await stored_texts(page)


async def test_without_a_sign_out_the_next_user_finds_no_drafts(people: People, site: Site) -> None:
    dora, emil = await people.sign_in("dora"), await people.create_user("emil")
    page = await dora.open(await site.open_conversation(dora.id, "Between us"))
    await composer(page).fill("A secret")
    await page.goto(site.store.entry_url(emil, "customer", "/dashboard/messages/"))
    await page.get_by_role("button", name="To my messages").click()
    await expect(page.get_by_text("No conversations yet")).to_be_visible()
    await eventually(lambda: lacks(page, "secret"))
