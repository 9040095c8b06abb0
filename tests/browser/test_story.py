"""The main story, with a customer and an admin in two browsers, live on both sides."""

import re

import asyncpg
from playwright.async_api import Page, expect

from tests.browser.helpers.people import HOME, People
from tests.browser.helpers.site import Site, address_of
from tests.browser.helpers.thread_page import expect_thread, message, send, submit
from tests.helpers.waiting import eventually

LATE = 40_000  # ms: emails follow by and by, and the bell is reloaded up to 20 s after a message


async def shown_unread(page: Page, number: int) -> None:
    """Wait until the badge and the tab's title show the unread count."""
    if number:
        await expect(page.locator("#unread > [aria-hidden]")).to_have_text(str(number))
        await eventually(lambda: has_title(page, f"({number}) "))
    else:
        await expect(page.locator("#unread")).to_be_hidden()
        await eventually(lambda: has_title(page, ""))


async def has_title(page: Page, beginning: str) -> bool:
    title = await page.title()
    return title.startswith(beginning) if beginning else not title.startswith("(")


SUPPRESS = """
    with suppressed as (
        insert into suppressions (address_hash, user_id, email_id, reason, status)
        select sha256(leave_key || convert_to('suppressed address ' || $2, 'UTF8')), $1, gen_random_uuid(),
            'mailbox-unknown', '5.1.1'
        from gate returning id
    )
    insert into events (type, subject_id) select 'stop.updated', id from suppressed
"""


async def test_a_question_is_answered_resolved_and_reopened_live_on_both_sides(people: People, site: Site) -> None:
    dora = await people.sign_in("dora", shown="Dora Lind")
    # A list without rows, into which new ones come at once.
    sam = await people.sign_in("sam", role="admin", shown="Sam Okafor", path=f"{HOME['admin']}?user_id={dora.id}")
    order = await site.order(dora.id, "R-1001")
    before = await site.unread_by_admins()
    await sam.page.evaluate("window.stayed = true")

    # The customer writes about an order; the inbox shows it without a reload.
    await dora.page.get_by_role("link", name="Write to us").click()
    await dora.page.get_by_label("Subject").fill("The lid is missing")
    await dora.page.get_by_label("Is it about an order?").select_option(order)
    await dora.page.get_by_label("Message", exact=True).fill("There was no lid in the box.")
    await submit(dora.page.get_by_label("Message", exact=True))
    await expect(dora.page.locator("#status")).to_have_text("Sent")
    await expect(dora.page.get_by_role("heading", name="Order R-1001")).to_be_visible()
    [conversation] = [item["id"] for item in await site.conversations_of(dora.id)]
    row = sam.page.locator(f"#c-{conversation}")
    await expect(row).to_contain_text(re.compile("Dora Lind.*Order R-1001"))
    await shown_unread(sam.page, before + 1)
    assert await sam.page.evaluate("window.stayed")

    # The admin opens it and replies; the customer sees both.
    await row.get_by_role("link", name="The lid is missing").click()
    await expect(message(dora.page, "There was no lid")).to_contain_text("Seen")
    for page in (dora.page, sam.page):
        await page.evaluate("window.stayed = true")
    await send(sam.page, "A lid is on its way.")
    await expect_thread(dora.page, "There was no lid in the box.", "A lid is on its way.")
    await expect(dora.page.locator("#status")).to_have_text("Answered")
    await expect(sam.page.locator("#status")).to_have_text("Waiting for customer")
    await expect(message(sam.page, "A lid is on its way.").locator(".delivery-status")).to_contain_text("Read")

    # A reply while the customer is on another page: badge, title, bell, and an email.
    await dora.go()
    await dora.page.evaluate("window.stayed = true")
    await send(sam.page, "It has left the house.")
    await expect(dora.page.locator(f"#c-{conversation}")).to_contain_text("It has left the house.")
    await shown_unread(dora.page, 1)
    await expect(dora.page.locator("#bell-dot")).to_be_visible(timeout=LATE)
    [email] = await eventually(
        lambda: [received for received in site.emails_to(dora.id) if "left the house" in received.as_string()]
    )
    assert email["To"] == f"Dora Lind <{address_of(dora.id)}>"
    await expect(message(sam.page, "It has left the house.").locator(".delivery-status")).to_contain_text(
        "Email sent", timeout=LATE
    )
    assert await dora.page.evaluate("window.stayed")
    await dora.page.get_by_label("Notifications").click()
    await dora.page.locator("#bell-items").get_by_role("link").filter(has_text="It has left the house.").click()
    await expect(message(dora.page, "It has left the house.")).to_be_visible()
    await shown_unread(dora.page, 0)

    # The admin resolves it, and a new message reopens it.
    await sam.page.locator("#reply_body").fill("Enjoy your tea!")
    await sam.page.get_by_role("button", name="Send and resolve").click()
    await expect(dora.page.locator("#status")).to_have_text("Solved")
    await expect(sam.page.locator("#status")).to_have_text("Resolved")
    await send(dora.page, "It is the wrong lid.")
    await expect(dora.page.locator("#status")).to_have_text("Waiting for our reply")
    await expect(sam.page.locator("#status")).to_have_text("Customer replied")
    everything = ["There was no lid in the box.", "A lid is on its way.", "It has left the house.", "Enjoy your tea!"]
    for person in (dora, sam):
        await expect_thread(person.page, *everything, "It is the wrong lid.")
    assert await sam.page.evaluate("window.stayed")


async def test_a_conversation_opened_by_an_admin_appears_in_the_customers_list(people: People) -> None:
    dora, sam = await people.sign_in("dora", shown="Dora of the Hill"), await people.sign_in("sam", role="admin")
    await sam.page.get_by_role("link", name="New conversation").click()
    await sam.page.get_by_label("Choose a customer").fill(dora.id)
    await sam.page.get_by_label("Choose a customer").press("Enter")
    await sam.page.get_by_role("link", name="Dora of the Hill").click()
    await sam.page.get_by_label("Subject").fill("About your teapot")
    await sam.page.get_by_label("Message", exact=True).fill("It has a crack. We send another one.")
    await sam.page.get_by_role("button", name="Send", exact=True).click()
    await expect_thread(sam.page, "It has a crack. We send another one.")
    await dora.page.get_by_role("link", name="About your teapot").click()
    await expect_thread(dora.page, "It has a crack. We send another one.")
    await expect(sam.page.locator(".delivery-status").first).to_contain_text("Read")


async def test_the_delivery_status_of_a_reply_is_shown_even_if_its_email_is_late(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    sam = await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora.id, "Late")
    await sam.open(conversation)
    for process in ("worker", "sweeper"):
        site.product.freeze(process)
    try:
        await send(sam.page, "It has left the house.")
        await expect(message(sam.page, "It has left the house.").locator(".delivery-status")).to_have_text(
            "Not read yet"
        )
    finally:
        for process in ("worker", "sweeper"):
            site.product.thaw(process)
    status = message(sam.page, "It has left the house.").locator(".delivery-status")
    await expect(status).to_contain_text("Email sent", timeout=LATE)


async def test_a_failed_email_says_why_and_is_sent_again_from_the_thread(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    sam = await people.sign_in("sam", role="admin")
    site.mail_server.script[f"rcpt {address_of(dora.id)}"] = ["550 5.1.1 nobody here"]
    conversation = await site.open_conversation(dora.id, "Refused")
    await sam.open(conversation)
    await send(sam.page, "It has left the house.")
    status = message(sam.page, "It has left the house.").locator(".delivery-status")
    await expect(status).to_contain_text("The email failed. The mail server rejected it.", timeout=LATE)
    await status.get_by_role("button", name="Send again").click()
    await expect(status).to_contain_text("Email sent", timeout=LATE)


async def test_an_admin_has_a_suppressed_address_tried_again(people: People, site: Site) -> None:
    dora, sam = await people.sign_in("dora"), await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora.id, "Bounced")
    database = await asyncpg.connect(site.product.owner_urls["notifications"])
    try:
        await database.execute(SUPPRESS, dora.id, address_of(dora.id))
        await sam.open(conversation)
        notice = sam.page.locator("#no-email")

        async def shown() -> bool:
            await sam.page.reload()
            return await notice.is_visible()

        await eventually(shown)
        await expect(notice).to_contain_text("Earlier emails to this address came back.")
        await notice.get_by_role("button", name="Try this address again").click()
        await expect(notice).to_be_hidden()
        assert await database.fetchval("select count(*) from suppressions where user_id = $1", dora.id) == 0
    finally:
        await database.close()


async def test_the_stores_badge_counts_unread_conversations_live(people: People, site: Site) -> None:
    dora = await people.sign_in("dora")
    first = await site.open_conversation(dora.id, "First")
    second = await site.open_conversation(dora.id, "Second")
    await site.answer(first, "Yes")
    page = dora.page
    await page.goto(f"{site.store.url}/?sub={dora.id}")
    await dora.context.clear_cookies()  # the store's page has a token of its own
    count = page.locator("chats-badge [part=count]")
    await expect(count).to_have_text("1")
    await site.answer(second, "No")
    await expect(count).to_have_text("2")
    for conversation in (first, second):
        await site.product.call("GET", f"/api/v1/conversations/{conversation}", dora.id)
    await expect(count).to_be_hidden()
