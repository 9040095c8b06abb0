"""An open conversation updates live, in order, with nothing missing or shown twice, even after disconnects."""

import asyncio
from collections.abc import Sequence

from playwright.async_api import Page, Request, Route, expect

from tests.browser.helpers.late_answer import LateAnswer
from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import composer, expect_thread, send
from tests.helpers.waiting import eventually

OUTAGE = (r"net::ERR_", r"the server responded with a status of 503", r"server error: 503")


async def at_thread(people: People, site: Site) -> tuple[Person, str]:
    dora = await people.sign_in("dora")
    dora.expect_complaints(*OUTAGE)
    conversation = await site.open_conversation(dora.id, "Live")
    await dora.open(conversation)
    await connected(dora.page)
    return dora, conversation


async def connected(page: Page) -> None:
    """Wait until the page follows the stream, on which new tabs rely as well."""
    await page.wait_for_function("() => navigator.locks.query().then(({ held }) => held.length > 0)")


async def test_messages_arrive_in_order_and_below_the_new_messages_line(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation = await site.open_conversation(dora.id, "Live")
    await site.answer(conversation, "One")
    page = await dora.open(conversation)
    await expect(page.locator("#new")).to_be_visible()
    await site.answer(conversation, "Two")
    await expect_thread(page, "Hello?", "One", "Two")
    await site.answer(conversation, "Three")
    await expect_thread(page, "Hello?", "One", "Two", "Three")
    order = await page.locator("#messages > li").evaluate_all(
        "all => all.map((it) => it.id.split('-')[0] + (it.dataset.number ?? ''))"
    )
    assert order == ["day", "m1", "new", "m2", "m3", "m4"]


async def test_after_a_network_failure_missed_messages_appear_once_and_in_order(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    async with site.without("proxy"):
        await expect(dora.page.locator("#connection")).to_have_text("Connection lost. Reconnecting …")
        await site.answer(conversation, "One")
        await site.answer(conversation, "Two")
    await expect_thread(dora.page, "Hello?", "One", "Two")
    await expect(dora.page.locator("#connection")).to_be_hidden()
    await site.answer(conversation, "Three")
    await expect_thread(dora.page, "Hello?", "One", "Two", "Three")


async def test_after_a_restart_of_the_api_the_thread_continues(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    await site.answer(conversation, "One")
    async with site.without("api"):
        await dora.page.evaluate("window.stayed = true")
        await composer(dora.page).fill("Are you there?")
        async with dora.page.expect_response(lambda answer: answer.status == 503 and "/session/renew" in answer.url):
            pass  # the page checks its session, and gets no definite response
    await site.answer(conversation, "Two")
    await expect_thread(dora.page, "Hello?", "One", "Two")
    await expect(composer(dora.page)).to_have_value("Are you there?")
    await send(dora.page, "Yes.")
    await expect_thread(dora.page, "Hello?", "One", "Two", "Yes.")
    assert await dora.page.evaluate("window.stayed")


async def test_a_failed_refresh_is_retried_and_the_page_stays_meanwhile(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    requested: list[str] = []

    async def be_unavailable(route: Route) -> None:
        requested.append(route.request.url)
        await route.fulfill(status=503, content_type="application/problem+json", body="{}")

    await dora.page.route("**/*peek=true", be_unavailable)
    await dora.page.evaluate("window.stayed = true")
    await site.answer(conversation, "One")
    await eventually(lambda: requested)
    await dora.page.unroute("**/*peek=true")
    await expect_thread(dora.page, "Hello?", "One")
    assert await dora.page.evaluate("window.stayed")


async def test_more_messages_than_a_page_holds_may_be_missed(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    await composer(dora.page).fill("A draft")
    await dora.context.set_offline(True)
    async with site.without("proxy"):
        for number in range(55):
            await site.answer(conversation, f"Message {number}")
    await dora.context.set_offline(False)
    newest = [f"Message {number}" for number in range(5, 55)]
    await expect_thread(dora.page, *newest)
    await expect(composer(dora.page)).to_have_value("A draft")
    await dora.page.get_by_role("link", name="Show earlier messages").click()
    await expect_thread(dora.page, "Hello?", *(f"Message {number}" for number in range(5)), *newest)


async def test_a_hidden_thread_is_not_marked_as_read_until_it_is_visible(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    await set_hidden(dora.page, hidden=True)
    await site.answer(conversation, "For later")
    await expect(dora.page.locator("#unread")).to_contain_text("1")
    assert not (await site.conversation(conversation))["is_read_by_user"]
    await set_hidden(dora.page, hidden=False)
    await expect_thread(dora.page, "Hello?", "For later")
    await eventually(lambda: is_read(site, conversation))
    await expect(dora.page.locator("#unread")).to_be_hidden()


async def test_a_thread_is_marked_as_read_although_the_first_attempt_fails(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)

    async def be_unavailable(route: Route) -> None:
        await route.fulfill(status=503, content_type="application/problem+json", body="{}")

    await dora.page.route("**/read", be_unavailable, times=1)
    await site.answer(conversation, "One")
    await eventually(lambda: is_read(site, conversation))
    await expect(dora.page.locator("#unread")).to_be_hidden()


async def test_a_page_fetched_before_does_not_replace_a_newer_unread_count(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    late = LateAnswer()
    await dora.page.route("**/*peek=true", late.handle, times=1)
    await site.answer(conversation, "One")
    await late.fetched.wait()
    await expect(dora.page.locator("#unread")).to_contain_text("1")
    await site.read(conversation, dora.id, up_to=2)
    await expect(dora.page.locator("#unread")).to_be_hidden()
    late.released.set()
    await expect_thread(dora.page, "Hello?", "One")
    await expect(dora.page.locator("#unread")).to_be_hidden()


async def set_hidden(page: Page, *, hidden: bool) -> None:
    """Make a page believe that it is in the background; in these tests all pages are in the foreground."""
    await page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


async def is_read(site: Site, conversation: str) -> bool:
    return bool((await site.conversation(conversation))["is_read_by_user"])


async def test_a_prerendered_thread_is_marked_as_read_once_it_is_shown(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation = await site.open_conversation(dora.id, "Fetched ahead")
    await site.answer(conversation, "One")
    reads: list[str] = []
    dora.page.on("request", lambda request: reads.append(request.url) if request.url.endswith("/read") else None)

    async def ahead(route: Route) -> None:
        fetched = await route.fetch(headers={**route.request.headers, "sec-purpose": "prefetch;prerender"})
        await route.fulfill(response=fetched)

    await dora.page.route(f"**{dora.home}{conversation}/", ahead)
    await dora.page.add_init_script("Object.defineProperty(document, 'prerendering', { writable: true, value: true })")
    page = await dora.open(conversation)
    await connected(page)
    assert not reads
    assert not await is_read(site, conversation)
    await page.evaluate("document.prerendering = false; document.dispatchEvent(new Event('prerenderingchange'))")
    await eventually(lambda: is_read(site, conversation))
    await expect(page.locator("#unread")).to_be_hidden()
    assert len(reads) == 1


async def test_tabs_share_one_stream_and_another_tab_takes_over_when_one_is_closed(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    streams: list[Request] = []
    dora.context.on("request", lambda request: streams.append(request) if "/api/v1/stream" in request.url else None)
    second, third = [await dora.context.new_page() for _ in range(2)]
    for page in (second, third):
        await page.goto(dora.page.url)
        await expect_thread(page, "Hello?")
    await site.answer(conversation, "One")
    for page in (dora.page, second, third):
        await expect_thread(page, "Hello?", "One")
    assert not streams
    await dora.page.close()
    await site.answer(conversation, "Two")
    for page in (second, third):
        await expect_thread(page, "Hello?", "One", "Two")
    assert len(streams) == 1
    assert pages_of(streams) <= {second, third}


async def test_a_tab_whose_hello_nobody_answered_misses_nothing(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation = await site.open_conversation(dora.id, "Live")
    keeper, ahead, behind = dora.page, await dora.context.new_page(), await dora.context.new_page()
    late = LateAnswer()
    await keeper.goto(f"{site.origin}/chats-static/icon.svg")
    lock = f"navigator.locks.request('chats:{dora.id}', () => new Promise((resolve) => (release = resolve)))"
    await keeper.evaluate(f"() => {{ {lock}; }}")  # no tab leads
    path = f"{site.origin}{dora.home}{conversation}/"
    await behind.route(path, late.handle)
    opening = asyncio.create_task(behind.goto(path))
    await late.fetched.wait()
    await site.answer(conversation, "One")
    await eventually(lambda: site.has_notifications(dora.id, 1), deadline=60)  # so it is in the log
    await ahead.goto(path)
    late.released.set()
    await opening
    await keeper.evaluate("release()")
    for page in (ahead, behind):
        await expect_thread(page, "Hello?", "One")


def pages_of(requests: Sequence[Request]) -> set[Page]:
    return {request.frame.page for request in requests}


async def test_a_message_below_the_visible_part_is_marked_as_read_once_it_is_seen(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    conversation = await site.open_conversation(dora.id, "Long", "line\n" * 200)
    page = await dora.open(conversation)
    await connected(page)
    await page.locator(".MessageHistoryPanel").evaluate("panel => { panel.scrollTop = -panel.scrollHeight; }")
    await site.answer(conversation, "Down here")
    await expect(page.locator("#to-newest")).to_be_visible()
    assert not (await site.conversation(conversation))["is_read_by_user"]
    await page.locator("#to-newest").click()
    await expect(page.get_by_text("Down here", exact=True)).to_be_in_viewport()

    async def is_read() -> bool:
        return bool((await site.conversation(conversation))["is_read_by_user"])

    await eventually(is_read)
    await expect(page.locator("#to-newest")).to_be_hidden()


async def test_a_page_in_the_back_forward_cache_leads_no_other_tab_and_is_reloaded(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    kept, other = dora.page, await dora.context.new_page()
    await other.goto(kept.url)
    await expect_thread(other, "Hello?")
    # Simulated: Chromium itself does not cache pages with no-store.
    await kept.evaluate("() => dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    await site.answer(conversation, "One")
    await expect_thread(other, "Hello?", "One")
    await expect_thread(kept, "Hello?")
    await kept.evaluate("() => dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    await expect_thread(kept, "Hello?", "One")
    await connected(kept)
    await site.answer(conversation, "Two")
    for page in (kept, other):
        await expect_thread(page, "Hello?", "One", "Two")
