"""The page of a conversation: its messages, its form, and whether it fits the window."""

from playwright.async_api import Locator, Page, expect

from tests.browser.helpers.people import Person


def messages(page: Page) -> Locator:
    """Return all message bubbles, pending ones included."""
    return page.locator("#messages > .message")


def message(page: Page, text: str) -> Locator:
    """Return the bubbles that contain a text."""
    return messages(page).filter(has_text=text)


def composer(page: Page) -> Locator:
    """Return the field for a new message, on customers' and admins' pages."""
    return page.locator("#reply textarea")


async def send(page: Page, text: str) -> None:
    """Type a message and send it with the keyboard, once the scripts are ready for it."""
    await expect(page.locator("#reply[data-kept]")).to_be_visible()
    await composer(page).fill(text)
    await composer(page).press("Control+Enter")


async def submit(field: Locator) -> None:
    """Submit a field's form with the keyboard, once the scripts are ready for it."""
    await expect(field.locator("xpath=ancestor::form[@data-kept]")).to_be_visible()
    await field.press("Control+Enter")


async def open_and_announce(admin: Person, conversation: str) -> None:
    """Open a conversation as an admin, and wait until the server knows that the admin is viewing it."""
    async with admin.page.expect_response("**/viewing") as announced:
        await admin.open(conversation)
    await announced.value


async def expect_thread(page: Page, *bodies: str) -> None:
    """Wait until the page shows exactly these messages, in this order."""
    await expect(page.locator("#messages > .message .body")).to_have_text(list(bodies))


async def expect_to_fit(page: Page, *widths: int) -> None:
    """Assert that nothing overflows the window horizontally at any of these widths."""
    for width in widths:
        await page.set_viewport_size({"width": width, "height": 800})
        wide = await page.evaluate(_TOO_WIDE)
        assert not wide, f"{page.url} at {width} px: {wide}"


_TOO_WIDE = """() => {
    const found = [];
    const name = (it) => `${it.tagName.toLowerCase()}#${it.id}.${it.className}`;
    const root = document.documentElement;
    if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide`);
    for (const it of document.querySelectorAll("main *, header *, footer *, dialog *")) {
        if (it.closest("svg, .visually-hidden, .views, .chips")) continue; // the last two are strips that scroll
        const scrolls = ["auto", "scroll"].includes(getComputedStyle(it).overflowX);
        if (scrolls && it.scrollWidth > it.clientWidth) found.push(`${name(it)} scrolls`);
    }
    for (const it of document.querySelectorAll(".body, .message, .row, .card, .button, input, select, textarea")) {
        if (it.closest(".chips")) continue;
        const { left, right, width } = it.getBoundingClientRect();
        if (width && (left < 0 || right > root.clientWidth)) found.push(`${name(it)} is at ${left} to ${right}`);
    }
    return found;
}"""
