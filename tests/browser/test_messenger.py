"""<chats-messenger> in a real browser, on a strict page of a store on another site."""

import asyncio
import re
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

from playwright.async_api import FilePayload, FrameLocator, Page, Request, Route, ViewportSize, expect

from shared.auth.tokens import issue_token
from tests.browser.helpers.axe import expect_accessible
from tests.browser.helpers.late_answer import LateAnswer
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.helpers.awkward_files import picture
from tests.helpers.waiting import eventually

DOCUMENT = Path(__file__).parents[2] / "docs" / "embedding.md"
PHONE: ViewportSize = {"width": 390, "height": 844}
HOSTILE = '<img src=x onerror="alert(1)"> "tea" & \'cups\''


def panel(page: Page) -> FrameLocator:
    return page.frame_locator("chats-messenger iframe")


async def open_panel(page: Page) -> FrameLocator:
    """Open the panel with its button; return its list of conversations."""
    await page.get_by_role("button", name="Messages").click()
    await expect(panel(page).get_by_role("heading", name="Your messages")).to_be_visible()
    return panel(page)


async def test_a_customer_reads_and_writes_in_the_panel_over_one_stream(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    conversation = await site.open_conversation(anna.id, HOSTILE)
    await site.answer(conversation, "It is on its way.")
    page, ended = anna.page, list[str]()

    def note(request: Request) -> None:
        ended.append(request.url.removeprefix(site.origin))

    other = await anna.context.new_page()
    other.on("requestfailed", note)
    await other.goto(site.store.shop_url(anna.id))
    await expect(other.get_by_role("button", name="Messages")).to_have_accessible_name("Messages 1 unread")
    await page.goto(site.store.shop_url(anna.id))
    button = page.get_by_role("button", name="Messages")
    await expect(button).to_have_accessible_name("Messages 1 unread")
    await expect(button).to_have_attribute("aria-expanded", "false")
    frame = await open_panel(page)
    await expect(button).to_have_attribute("aria-expanded", "true")
    await expect(page.locator("iframe")).to_be_focused()
    await frame.get_by_role("link", name=HOSTILE).click()
    await expect(frame.get_by_text("It is on its way.")).to_be_visible()
    await expect(button).to_have_accessible_name("Messages 0 unread")
    # The frame's stream brings the number, also to the other tab, whose own may just have begun.
    await eventually(lambda: "/api/v1/stream" in ended)
    assert set(ended) <= {"/api/v1/stream", "/api/v1/unread"}
    await expect(other.get_by_role("button", name="Messages")).to_have_accessible_name("Messages 0 unread")
    await expect(page.locator("main chats-badge #words")).to_have_text("0 unread")
    await expect(frame.locator("#new")).to_be_visible()
    await frame.locator("#body").fill("Thank you!")
    await frame.get_by_role("button", name="Send").click()
    await expect(frame.locator(".message.own", has_text="Thank you!").locator(".pending")).to_have_count(0)
    await expect(frame.locator("#new")).to_have_count(0)

    await frame.locator("#body").press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await expect(button).to_be_focused()
    # What comes while the panel is closed is unread, although its conversation is open in it.
    await site.answer(conversation, "You are welcome.")
    await expect(button).to_have_accessible_name("Messages 1 unread")
    await expect(page.locator("main chats-badge [part=count]")).to_have_text("1")
    assert not (await site.conversation(conversation))["is_read_by_user"]
    await button.press("Enter")
    await expect(frame.get_by_text("You are welcome.")).to_be_visible()
    await expect(button).to_have_accessible_name("Messages 0 unread")


async def test_pictures_and_links_of_a_conversation_open_where_they_can(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    order = await site.order(anna.id, "1007")
    await site.open_conversation(anna.id, "A cup", "See https://example.com/cup", order_id=order)
    page = anna.page
    await page.goto(site.store.shop_url(anna.id))
    frame = await open_panel(page)
    await frame.get_by_role("link", name="A cup").click()
    await expect(frame.locator(".attach.live")).to_be_visible()
    photo: FilePayload = {"name": "cup.jpg", "mimeType": "image/jpeg", "buffer": picture("JPEG", (900, 600))}
    await frame.get_by_label("Attach files").set_input_files(photo)
    await expect(frame.locator(".uploads [data-file]")).to_have_count(1)
    await frame.get_by_role("button", name="Send").click()
    await frame.locator(".thumbnail").click()
    shown = frame.get_by_role("dialog", name="cup.jpg").get_by_role("img")
    await expect(shown).to_have_js_property("naturalWidth", 900)
    await shown.press("Escape")
    await expect(shown).to_be_hidden()
    await expect(page.get_by_role("dialog")).to_be_visible()
    async with page.expect_download() as download:
        await frame.locator(".files").get_by_role("link", name="cup.jpg").last.click()
    assert (await download.value).suggested_filename == "cup.jpg"

    elsewhere = frame.get_by_role("link", name="https://example.com/cup")
    click = "link => { link.onclick = () => false; link.click(); return link.target; }"
    assert await elsewhere.evaluate(click) == "_blank"
    await frame.locator(".fold summary").click()
    await frame.get_by_role("link", name="Open the order").click()
    await page.wait_for_url(f"{site.store.url}/orders/1007")


async def test_the_panel_is_accessible_and_fills_a_phone(people: People, site: Site) -> None:
    anna = await people.sign_in("anna", timezone_id="Europe/Vienna")
    page = anna.page
    await site.open_conversation(anna.id, "Teapots")
    await page.set_viewport_size(PHONE)
    await page.goto(site.store.shop_url(anna.id))
    frame = await open_panel(page)
    box = await page.get_by_role("dialog").bounding_box()
    assert box == {"x": 0, "y": 0, **PHONE}
    await expect_accessible(page, "the messenger's panel")
    await expect_accessible(page, "the messenger's list", page.frames[1])
    await frame.get_by_role("link", name="Teapots").click()
    await expect(frame.locator("#body")).to_be_visible()
    await expect(frame.locator("html")).to_have_attribute("data-zone", "Europe/Vienna")
    await expect_accessible(page, "a conversation in the messenger", page.frames[1])
    await page.get_by_role("button", name="Close").click()
    await expect(page.get_by_role("button", name="Messages")).to_be_focused()
    await expect_accessible(page, "a store's page with the messenger's button")
    await page.set_viewport_size({"width": 1280, "height": 800})
    await page.get_by_role("button", name="Messages").click()
    box = await page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["y"] >= 80, "it covers the header of the store's page"


async def test_the_messenger_opens_about_an_order(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    order = await site.order(anna.id, "1007")
    page = anna.page
    await page.goto(site.store.shop_url(anna.id, order))
    await page.get_by_role("link", name="Ask about this order").click()
    await expect(panel(page).get_by_label("Subject")).to_have_value("Order 1007")
    await panel(page).get_by_label("Message", exact=True).fill("Is it blue?")
    await page.evaluate("document.querySelector('chats-messenger').open({subject: 'Something else'})")
    await expect(panel(page).get_by_label("Subject")).to_have_value("Something else")
    # The frame is between two pages, and the next one does not listen yet.
    script = LateAnswer()
    await page.route(re.compile(r"/frame\b.*\.js"), script.handle)
    await panel(page).locator("html").evaluate("() => location.assign('/messenger/')")
    await script.fetched.wait()
    await page.evaluate("document.querySelector('chats-messenger').open({subject: 'In between'})")
    script.released.set()
    await expect(panel(page).get_by_label("Subject")).to_have_value("In between")
    await page.reload()
    await page.get_by_role("button", name="Messages").click()  # which has the order as an attribute
    await expect(panel(page).get_by_label("Is it about an order?")).to_have_value(order)
    await expect(panel(page).get_by_label("Message", exact=True)).to_have_value("Is it blue?")


async def test_without_a_token_there_are_links_only(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    anna.expect_complaints("401")
    page = anna.page
    await page.context.clear_cookies()
    await page.goto(site.store.shop_url(""))
    link = page.get_by_role("link", name="Messages")
    await expect(link).to_have_attribute("href", f"{site.origin}/dashboard/messages/")
    await expect(page.get_by_role("button", name="Messages")).to_be_hidden()
    await expect_accessible(page, "a store's page without a token")
    await page.get_by_role("link", name="Ask about this order").click()
    await page.wait_for_url("**/orders/7")  # the store's own link
    await page.go_back()
    await page.evaluate("document.querySelector('chats-messenger').open({subject: 'A question & more'})")
    encoded = "%2Fdashboard%2Fmessages%2Fnew%2F%3Fsubject%3DA%2Bquestion%2B%2526%2Bmore"
    await page.wait_for_url(f"{site.store.url}/login?next={encoded}")
    await page.go_back()
    await link.click()
    await page.wait_for_url(f"{site.store.url}/login?next=%2Fdashboard%2Fmessages%2F")


async def test_a_token_is_asked_for_when_it_is_needed_and_again_when_it_expired(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    anna.expect_complaints("401")
    claims = {"sub": anna.id, "role": "customer"}
    expired = issue_token(site.store.settings, claims, timedelta(seconds=-60))
    page = anna.page
    await page.goto(site.store.shop_url(""))
    await page.evaluate(
        """(tokens) => {
            asked = 0;
            const messenger = document.querySelector("chats-messenger");
            messenger.toggleAttribute("no-badge", true);
            messenger.getToken = async () => tokens[asked++];
            messenger.style.colorScheme = "dark";
            addEventListener("chats-unread", ({ detail }) => (unread = detail.unread));
        }""",
        [expired, site.store.token(anna.id, "customer")],
    )
    assert await page.evaluate("asked") == 0
    frame = await open_panel(page)
    await page.wait_for_function("window.unread === 0")  # the frame tells it a moment later
    assert await page.evaluate("asked") == 2
    await expect(frame.locator("body")).to_have_css("background-color", "rgb(18, 20, 25)")


async def test_a_slow_sign_in_is_waited_for(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    page, asked, waited = anna.page, asyncio.Event(), asyncio.Event()

    async def delay(route: Route) -> None:
        asked.set()
        await waited.wait()
        await route.continue_()

    await page.route("**/messenger/session", delay)
    await page.clock.install()
    await page.goto(site.store.shop_url(anna.id))
    await page.get_by_role("button", name="Messages").click()
    await asked.wait()
    # Browsers differ in which comes first, the frame's first word or its load.
    await page.locator("chats-messenger iframe").dispatch_event("load")
    await page.clock.run_for(10_000)
    waited.set()
    await expect(panel(page).get_by_role("heading", name="Your messages")).to_be_visible()


async def test_signing_out_of_the_store_in_another_tab_ends_the_panel(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    anna.expect_complaints("401")
    page = anna.page
    await page.goto(site.store.shop_url(""))
    await page.evaluate(
        """(token) => {
            let asked = 0;
            document.querySelector("chats-messenger").getToken = async () => (asked++ ? null : token);
        }""",
        site.store.token(anna.id, "customer"),
    )
    frame = await open_panel(page)
    await site.end_sessions_of(anna.id)
    await frame.get_by_role("link", name="New message").click()
    await expect(page.get_by_role("dialog").get_by_role("link", name="Sign in")).to_be_visible()


async def test_a_page_of_an_origin_that_is_not_listed_gets_a_link_instead(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    anna.expect_complaints(".")
    page = anna.page
    await page.goto(site.store.shop_url(anna.id).replace("localhost", "127.0.0.1"))
    warnings = list[str]()
    page.on("console", lambda message: warnings.append(message.text))
    bases = await page.evaluate(
        """() => ["chats.test", "//chats.test:8443/", "HTTPS://chats.test", "https://", ""].map((base) => {
            const element = Object.assign(document.createElement("chats-messenger"), { hidden: true });
            element.setAttribute("base", base);
            document.body.append(element);
            const { href } = element.shadowRoot.querySelector("a");
            element.remove();
            return new URL(href).origin;
        })"""
    )
    origin = site.origin
    assert bases == ["https://chats.test", "https://chats.test:8443", "https://chats.test", origin, origin]
    await page.evaluate("() => { heard = []; addEventListener('message', ({data}) => heard.push(data)) }")
    await page.get_by_role("button", name="Messages").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("link", name="Open your messages")).to_have_attribute(
        "href", f"{site.origin}/dashboard/messages/"
    )
    await expect(dialog.get_by_text("Your messages cannot be shown here.")).to_be_visible()
    assert await page.evaluate("heard") == []
    [wrong_base, warning] = [text for text in warnings if "chats-messenger" in text]
    assert 'base="https://" is not' in wrong_base
    assert "in CHATS_STORE_ORIGINS?" in warning
    assert "docs/embedding.md#messenger" in warning


async def test_the_snippets_of_the_documentation_work(people: People, site: Site) -> None:
    anna = await people.sign_in("anna")
    order = await site.order(anna.id, "1007")
    await site.answer(await site.open_conversation(anna.id, "Teapots"), "Hello!")
    section = DOCUMENT.read_text().partition("## Messenger")[2].partition("\n## ")[0]
    section = section.replace("https://chats.example", site.origin).replace("A-1007", order)
    snippets = defaultdict[str, str](str)
    for language, snippet in re.findall(r"^ *```(\w+)\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL):
        snippets[language] += snippet
    site.store.documented, site.store.visitor = dict(snippets), anna.id
    page = anna.page
    await page.goto(f"{site.store.url}/documented")
    button = page.get_by_role("button", name="Messages")
    await expect(button).to_have_accessible_name("Messages 1 unread")
    await expect(page.get_by_role("link", name="Messages")).to_have_accessible_name("Messages 1 unread")
    await expect(button).to_have_css("background-color", "rgb(10, 107, 69)")
    await expect(button).to_have_css("left", "20px")
    await page.get_by_role("link", name="Ask about this order").click()
    await expect(panel(page).get_by_label("Subject")).to_have_value("Order 1007")
    await page.get_by_role("button", name="Write to us").press("Enter")  # beneath the panel
    await expect(panel(page).get_by_label("Subject")).to_have_value("A question about delivery")
    await expect(panel(page).get_by_role("button", name="Send")).to_have_css("background-color", "rgb(10, 107, 69)")
    await page.get_by_role("button", name="Close").click()
    await page.evaluate(snippets["js"])
    await expect(page).to_have_title("(1) Store")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await button.click()
    await expect(panel(page).get_by_label("Subject")).to_have_value("Is it blue?")
