"""The example shop in a real browser, under its own security policies."""

from collections.abc import AsyncIterator

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from deploy.local.processes import Spawn
from tests.helpers.waiting import eventually
from tests.system.helpers.shop import Store, running_store


@pytest.fixture(scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory, fork: Spawn) -> AsyncIterator[Store]:
    async with running_store(tmp_path_factory.mktemp("store"), fork) as store:
        await store.chats.start("api", "relay")
        yield store


@pytest.fixture
async def page(browser: Browser, store: Store) -> AsyncIterator[Page]:
    """A page in a new browser context; console errors fail the test."""
    complaints: list[str] = []
    context = await browser.new_context(base_url=store.url)
    page = await context.new_page()
    page.on("console", lambda message: complaints.append(f"{message.text} {message.location['url']}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    await context.close()
    # There is no proxy in this test, so the chats' pages cannot reach the notifications service.
    assert [complaint for complaint in complaints if "/api/v1/notifications" not in complaint] == []


async def sign_in(page: Page, name: str) -> None:
    await page.goto("/login")
    await page.get_by_role("button", name=name).click()


async def test_one_click_leads_from_an_order_to_a_question_about_it(page: Page, store: Store) -> None:
    async def is_synced() -> bool:
        return "A-1007" in await store.orders("anna")

    await eventually(is_synced, 30)
    await sign_in(page, "Anna")
    link = page.get_by_role("link", name="Ask about this order A-1007")
    await expect(page.get_by_role("button", name="Messages")).to_be_visible()  # the messenger's script has run
    await link.click()
    frame = page.frame_locator("chats-messenger iframe")
    await expect(frame.get_by_label("Subject")).to_have_value("Order A-1007")
    await frame.get_by_label("Message", exact=True).fill("Is it blue?")
    await frame.get_by_role("button", name="Send").click()
    await expect(frame.get_by_text("Is it blue?")).to_be_visible()
    # Without the messenger it is a link to the form.
    path = await link.get_attribute("href")
    await page.goto(f"{store.url}{path}")
    await page.wait_for_url(f"{store.chats_url}/dashboard/messages/new/?order_id=A-1007")
    await expect(page.get_by_label("Subject")).to_have_value("Order A-1007")


async def test_the_header_shows_new_replies_live(page: Page, store: Store) -> None:
    conversation = await store.chats.open_conversation("ben")
    await sign_in(page, "Ben")
    messages = page.get_by_role("link", name="Messages")
    await expect(messages).to_have_accessible_name("Messages 0 unread")
    await store.chats.reply(conversation)
    await expect(messages).to_have_accessible_name("Messages 1 unread")


async def test_the_shops_pages_have_no_accessibility_violations(page: Page) -> None:
    await page.goto("/")
    await expect_no_violations(page)
    await page.goto("/login")
    await expect_no_violations(page)
    await sign_in(page, "Anna")
    for path in ("/orders", "/orders/A-1001", "/"):
        await page.goto(path)
        await expect_no_violations(page)
    await page.get_by_role("button", name="Sign out").click()
    await sign_in(page, "Sam")
    await expect_no_violations(page)


async def expect_no_violations(page: Page) -> None:
    report = await Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
