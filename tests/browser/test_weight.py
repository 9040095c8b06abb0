"""A page is small, is painted from its first response, and does not shift afterwards."""

import asyncio
from functools import partial

from playwright.async_api import Page, Response, Route, expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site

LIMIT = 100_000  # bytes transferred, headers included
SHIFTS = """
    window.shifts = [];
    const box = ({ x, y, width, height }) => `${x},${y} ${width}x${height}`;
    const describe = ({ node, previousRect: was, currentRect: is }) =>
        `${node?.nodeName}.${node?.className} went from ${box(was)} to ${box(is)}`;
    const describeAll = (list) => list.getEntries().flatMap((it) => it.sources.map(describe));
    new PerformanceObserver((list) => window.shifts.push(...describeAll(list)))
        .observe({ type: "layout-shift", buffered: true });
"""
PAINTED = """async () => {
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const isPainted = () => performance.getEntriesByName("first-contentful-paint").length > 0;
    while (document.readyState === "loading" || !isPainted()) await frame();
    await frame();
    window.shifts = [];  // while a page comes in it grows
}"""


async def pages_of(site: Site, people: People) -> list[tuple[str, str, str]]:
    """Return pages with content, each as user id, role and path."""
    dora, sam = await people.create_user("dora"), await people.create_user("sam", role="admin")
    order = await site.order(dora, "R-1001")
    for number in range(30):
        conversation = await site.open_conversation(dora, f"Subject {number}", order_id=order)
    for number in range(30):
        await site.answer(conversation, f"A sentence of some length, as people write them in a thread, {number}. " * 2)
        await site.write(conversation, dora, "And an answer to that, shorter.")
    customer, admin = "/dashboard/messages/", "/admin/dashboard/conversation/"
    return [
        *((dora, "customer", path) for path in (customer, f"{customer}new/", f"{customer}{conversation}/")),
        *((sam, "admin", path) for path in (admin, f"{admin}new/", f"{admin}new/?user_id={dora}")),
        *((sam, "admin", path) for path in (f"{admin}{conversation}/", f"{admin}{conversation}/delete/")),
    ]


async def bytes_of(response: Response) -> int:
    """Return the bytes transferred for a response; a live stream counts as 0."""
    if "event-stream" in response.headers.get("content-type", ""):
        return 0
    sizes = await response.request.sizes()
    return sizes["responseHeadersSize"] + sizes["responseBodySize"]


async def test_a_first_visit_loads_less_than_100_kb_and_scripts_shift_nothing(people: People, site: Site) -> None:
    for user_id, role, path in await pages_of(site, people):
        person = await people.at_browser(user_id, role=role, path="/chats-static/icon.svg")
        person.expect_complaints("favicon.ico")  # the first path is a file, not a page
        await person.context.add_init_script(SHIFTS)
        painted = asyncio.Event()
        await person.page.route("**/page.js", partial(after, painted))
        responses: list[Response] = []
        person.page.on("response", partial(list.append, responses))
        await person.page.goto(site.origin + path, wait_until="commit")
        await person.page.evaluate(PAINTED)
        painted.set()
        await connected(person.page)
        total = sum([await bytes_of(response) for response in responses])
        assert 5_000 < total < LIMIT, f"{path}: {total} bytes"
        assert await person.page.evaluate("window.shifts") == [], path
        await person.context.close()


async def after(happened: asyncio.Event, route: Route) -> None:
    """Delay the scripts until an event happened."""
    await happened.wait()
    await route.continue_()


async def connected(page: Page) -> None:
    """Wait until the last script runs: it holds the lock for the tabs' shared stream."""
    await page.wait_for_function("() => navigator.locks.query().then(({ held }) => held.length > 0)")


async def test_the_first_paint_needs_nothing_but_the_page(people: People) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("net::ERR_FAILED")

    async def only_the_page(route: Route) -> None:
        await (route.continue_() if route.request.is_navigation_request() else route.abort())

    await dora.page.route("**/*", only_the_page)
    await dora.go()
    paint = "() => performance.getEntriesByName('first-contentful-paint').length"
    await dora.page.wait_for_function(paint)
    await expect(dora.page.get_by_role("link", name="Write to us")).to_have_css("font-weight", "600")
    assert await dora.page.locator("link[rel=stylesheet], script:not([type=module])").count() == 0
