"""Axe finds no violation on any page, in any state."""

from playwright.async_api import Route, expect

from tests.browser.helpers.axe import expect_accessible
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_thread, message, open_and_announce, send
from tests.browser.test_sending import abort


async def test_axe_finds_nothing_in_a_customers_list_and_new_conversation(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("422", "404", "401")
    await expect_accessible(dora.page, "no conversations")
    await dora.go("/dashboard/messages/new/")
    await expect_accessible(dora.page, "new, without orders")

    order = await site.order(dora.id, "R-7")
    for number in range(9):
        await site.order(dora.id, f"R-{number + 10}")
    await dora.page.reload()
    await expect_accessible(dora.page, "new, with many orders")
    await dora.page.get_by_role("button", name="Send").click()
    await expect(dora.page.get_by_role("alert")).to_be_visible()
    await expect_accessible(dora.page, "new, with errors")

    statuses = ["AWAITING_ADMIN", "AWAITING_USER", "RESOLVED", "CLOSED"]
    for status in statuses:
        await site.set_status(await site.open_conversation(dora.id, status, order_id=order), status)
    await site.answer(await site.open_conversation(dora.id, "Answered"), "Yes?")
    await site.open_conversation(dora.id, "New", None)
    await dora.go()
    await expect_accessible(dora.page, "a list")
    await dora.page.locator(".person summary").click()
    await expect_accessible(dora.page, "the user's menu")
    await dora.page.locator(".person summary").click()
    await dora.page.get_by_label("Notifications").click()
    await expect(dora.page.locator("#bell-items li")).not_to_have_count(0)
    await expect_accessible(dora.page, "the bell")

    await dora.go("/dashboard/messages/00000000-0000-7000-8000-000000000000/")
    await expect_accessible(dora.page, "no such conversation")


async def test_axe_finds_nothing_in_a_customers_thread(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    dora.expect_complaints("net::ERR_FAILED", "409")
    empty = await site.open_conversation(dora.id, "Nothing yet", None)
    await dora.open(empty)
    await expect_accessible(dora.page, "a thread without messages")

    order = await site.order(dora.id, "R-7")
    conversation = await site.open_conversation(dora.id, "A teapot", "See https://example.com/ please", order_id=order)
    await site.answer(conversation, "Seen, thank you.")
    await dora.open(conversation)
    await expect_accessible(dora.page, "a thread with an order")
    await dora.page.set_viewport_size({"width": 390, "height": 900})
    await dora.page.locator(".fold summary").click()
    await expect_accessible(dora.page, "a thread with its order unfolded")

    await dora.page.route("**/messages", abort)
    await send(dora.page, "Not to be sent")
    await expect(message(dora.page, "Not to be sent")).to_contain_text("Not sent.")
    await expect_accessible(dora.page, "a message that was not sent")
    await site.answer(conversation, "Something else.")
    await dora.page.unroute("**/messages")
    await dora.page.get_by_role("button", name="Try again").click()
    await expect(dora.page.get_by_role("alert")).to_be_visible()
    await expect_thread(dora.page, "See https://example.com/ please", "Seen, thank you.", "Something else.")
    await expect_accessible(dora.page, "a reply that crossed")

    await site.set_status(conversation, "CLOSED")
    await dora.page.reload()
    await expect(dora.page.get_by_text("Still have a question?")).to_be_visible()
    await expect_accessible(dora.page, "a thread that is closed")


async def test_axe_finds_nothing_in_the_admins_inbox(people: People, site: Site) -> None:
    await site.delete_everything()
    sam = await people.sign_in("sam", role="admin")
    sam.expect_complaints("409", "404")
    page = sam.page
    await expect(page.get_by_text("No conversations yet")).to_be_visible()
    await expect_accessible(page, "no conversations at all")

    dora = await people.create_user("dora")
    order = await site.order(dora, "R-7")
    conversations = [
        await site.open_conversation(dora, f"About {status}", order_id=order)
        for status in ("OPEN", "AWAITING_ADMIN", "AWAITING_USER", "RESOLVED", "CLOSED")
    ]
    for conversation, status in zip(
        conversations[1:], ("AWAITING_ADMIN", "AWAITING_USER", "RESOLVED", "CLOSED"), strict=True
    ):
        await site.answer(conversation, "Yes?")
        await site.set_status(conversation, status)
    await sam.go()
    await page.locator(f"#pick-{conversations[0]}").check()
    await page.locator(f"#pick-{conversations[-1]}").check()
    await expect_accessible(page, "an inbox with some selected")
    await page.keyboard.press("?")
    await expect_accessible(page, "the shortcuts")
    await page.keyboard.press("Escape")
    await page.locator(".bulk-menu summary").click()
    await page.get_by_role("button", name="Delete selected").click()
    await expect_accessible(page, "a deletion that is not allowed")
    await page.get_by_role("button", name="Delete 2 conversations").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nothing was deleted.")
    await expect_accessible(page, "rejected")
    await page.get_by_role("button", name="Skip it").click()
    await expect(page.get_by_text("1 conversation deleted.")).to_be_visible()
    await expect_accessible(page, "deleted")

    for state, path in {
        "no match": "?status=CLOSED",
        "one customer's": f"?user_id={dora}&sort=waiting",
        "which customer": "?user_id=dora",
        "no such customer": "?user_id=nobody-at-all",
        "what a search found": "?q=yes",
        "nothing found": "?q=qzx",
        "nothing to delete": "bulk-delete/",
        "to delete one": f"{conversations[3]}/delete/",
        "no such conversation": "00000000-0000-7000-8000-000000000000/",
    }.items():
        await sam.go(sam.home + path)
        await expect_accessible(page, state)


async def test_axe_finds_nothing_in_an_admins_thread_and_new_conversation(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam, kim = await people.sign_in("sam", role="admin"), await people.sign_in("kim", role="admin")
    sam.expect_complaints("422", "409")
    page = sam.page
    order = await site.order(dora, "R-7")
    await site.open_conversation(dora, "Another one")
    conversation = await site.open_conversation(dora, "A teapot", "See https://example.com/ please", order_id=order)
    await site.answer(conversation, "Seen, thank you.")
    await open_and_announce(kim, conversation)
    await sam.open(conversation)
    await expect(page.locator("#viewing")).to_be_visible()
    await expect_accessible(page, "a thread that another admin is viewing")
    await page.set_viewport_size({"width": 390, "height": 900})
    await page.locator(".fold summary").click()
    await expect_accessible(page, "a thread with its context unfolded")

    async def post_first_as_customer(route: Route) -> None:
        await site.write(conversation, dora, "Never mind")
        await route.continue_()

    await page.route(f"**/api/v1/admin/conversations/{conversation}", post_first_as_customer, times=1)
    await send(page, "Not yet")
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect_accessible(page, "a reply that crossed")
    await page.goto(f"{site.origin}{sam.home}{conversation}/?earlier=x")
    await expect_accessible(page, "a page with an invalid query")

    await sam.go(f"{sam.home}new/")
    await expect_accessible(page, "choosing a customer")
    await sam.go(f"{sam.home}new/?user_id={dora}")
    await expect_accessible(page, "a new conversation")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect_accessible(page, "a new conversation with errors")
