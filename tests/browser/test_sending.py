"""A message that could not be sent is kept, and sent exactly once later."""

from playwright.async_api import Route, expect

from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import composer, expect_thread, message, send
from tests.helpers.waiting import eventually

POSTS = "**/api/v1/**/messages"
STREAM = "**/api/v1/stream*"
CUT = (r"net::ERR_FAILED", r"net::ERR_INTERNET_DISCONNECTED")


async def abort(route: Route) -> None:
    await route.abort()


async def at_thread(people: People, site: Site, *, live: bool = True) -> tuple[Person, str]:
    """Open a thread. Without a live stream, unsent messages wait for a click; an opening stream sends them."""
    dora = await people.sign_in("dora")
    dora.expect_complaints(*CUT)
    if not live:
        await dora.page.route(STREAM, abort)
    conversation = await site.open_conversation(dora.id, "On the train")
    await dora.open(conversation)
    return dora, conversation


async def has(site: Site, conversation: str, *bodies: str) -> bool:
    return await site.bodies(conversation) == list(bodies)


async def test_messages_written_offline_are_sent_once_when_the_network_is_back(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    await dora.context.set_offline(True)
    await send(dora.page, "In the tunnel")
    await expect(message(dora.page, "In the tunnel")).to_contain_text("Not sent.")
    await send(dora.page, "Still in it")
    await expect(composer(dora.page)).to_have_value("")
    await dora.context.set_offline(False)
    await eventually(lambda: has(site, conversation, "Hello?", "In the tunnel", "Still in it"))
    await expect_thread(dora.page, "Hello?", "In the tunnel", "Still in it")
    await expect(dora.page.locator(".pending")).to_have_count(0)


async def test_a_double_click_sends_once_and_reloads_nothing(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    reloads = list[str]()
    dora.page.on("request", lambda request: reloads.append(request.url) if request.is_navigation_request() else None)
    await expect(dora.page.locator("#reply[data-kept]")).to_be_visible()
    await composer(dora.page).fill("Twice")
    await dora.page.get_by_role("button", name="Send", exact=True).dblclick()
    await expect_thread(dora.page, "Hello?", "Twice")
    await expect(dora.page.locator(".pending")).to_have_count(0)
    assert await has(site, conversation, "Hello?", "Twice")
    assert reloads == []


async def test_an_unsent_message_survives_a_reload_and_is_sent_by_its_button(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site, live=False)
    await dora.page.route(POSTS, abort)
    await send(dora.page, "Do you hear me?")
    unsent = message(dora.page, "Do you hear me?")
    await expect(unsent).to_contain_text("Not sent.")
    await dora.page.reload()
    await expect(unsent).to_contain_text("Not sent.")
    assert await has(site, conversation, "Hello?")
    await dora.page.unroute(POSTS)
    await unsent.get_by_role("button", name="Try again").click()
    await expect_thread(dora.page, "Hello?", "Do you hear me?")
    await expect(dora.page.locator(".pending")).to_have_count(0)
    await dora.page.reload()
    await expect_thread(dora.page, "Hello?", "Do you hear me?")
    await eventually(lambda: has(site, conversation, "Hello?", "Do you hear me?"))


async def test_a_message_whose_response_was_lost_is_not_sent_twice(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site, live=False)

    async def lose_the_response(route: Route) -> None:
        await route.fetch()
        await route.abort()

    async def lose_half_of_the_response(route: Route) -> None:
        await route.fulfill(response=await route.fetch(), body='{"id":')

    await dora.page.route(POSTS, lose_half_of_the_response)
    await dora.page.route(POSTS, lose_the_response, times=1)
    await send(dora.page, "Only once")
    unsent = message(dora.page, "Only once").filter(has_text="Not sent.")
    await expect(unsent).to_be_visible()
    await eventually(lambda: has(site, conversation, "Hello?", "Only once"))
    async with dora.page.expect_response(POSTS):
        await dora.page.get_by_role("button", name="Try again").click()
    await expect(unsent).to_be_visible()
    await dora.page.unroute(POSTS)
    await dora.page.get_by_role("button", name="Try again").click()
    await expect(dora.page.locator(".pending")).to_have_count(0)
    await expect_thread(dora.page, "Hello?", "Only once")
    await eventually(lambda: has(site, conversation, "Hello?", "Only once"))


async def test_an_unsent_message_can_be_discarded(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    await dora.page.route(POSTS, abort)
    await send(dora.page, "Better not")
    await message(dora.page, "Better not").get_by_role("button", name="Discard").click()
    await expect_thread(dora.page, "Hello?")
    await dora.page.unroute(POSTS)
    await dora.page.reload()
    await expect_thread(dora.page, "Hello?")
    assert await has(site, conversation, "Hello?")


async def test_a_message_that_is_much_too_long_comes_back_with_the_reason(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    dora.expect_complaints("413")
    await send(dora.page, "long " * 14_000)
    await expect(dora.page.get_by_role("alert")).to_contain_text("This is too long. Use at most 10000 characters.")
    await expect(composer(dora.page)).to_have_value("long " * 13_999 + "long")
    await send(dora.page, "short")
    await expect_thread(dora.page, "Hello?", "short")
    await eventually(lambda: has(site, conversation, "Hello?", "short"))

    await dora.go(f"{dora.home}new/")
    await dora.page.get_by_label("Message", exact=True).fill("long " * 14_000)
    await dora.page.get_by_role("button", name="Send").click()
    await expect(dora.page.get_by_role("heading", name="Your message is too long")).to_be_visible()
    await dora.page.go_back()
    await expect(dora.page.get_by_label("Message", exact=True)).to_have_value("long " * 14_000)


async def test_a_reply_that_crosses_an_unsent_message_is_shown_before_sending_again(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site)
    dora.expect_complaints("409")
    await dora.context.set_offline(True)
    await send(dora.page, "And the blue one?")
    await expect(message(dora.page, "And the blue one?")).to_contain_text("Not sent.")
    await site.answer(conversation, "The red one is sold out.")
    await dora.context.set_offline(False)
    await expect(dora.page.get_by_role("alert")).to_contain_text("There is a new message")
    await expect(composer(dora.page)).to_have_value("And the blue one?")
    await expect_thread(dora.page, "Hello?", "The red one is sold out.")
    await dora.page.get_by_role("button", name="Send", exact=True).click()
    await expect_thread(dora.page, "Hello?", "The red one is sold out.", "And the blue one?")
    await eventually(lambda: has(site, conversation, "Hello?", "The red one is sold out.", "And the blue one?"))
