"""The page of the operators."""

from uuid import uuid4

import asyncpg
from playwright.async_api import expect

from tests.browser.helpers.axe import expect_accessible
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site, address_of
from tests.helpers.waiting import eventually

PATH = "/admin/operations/"


async def test_an_operator_sees_both_services_and_retries_failed_emails(people: People, site: Site) -> None:
    site.mail_server.script = {f"rcpt {address_of('tom')}": "550 5.1.1 no such mailbox"}
    await site.sync("users/tom", name="Tom", email=address_of("tom"))
    await site.answer(await site.open_conversation("tom", "A lamp"), "Which one?")
    olga = await people.sign_in("olga", role="admin")
    await olga.page.get_by_role("link", name="Operations").click()

    log = olga.page.locator("#log")
    await expect(log).to_contain_text("up to date")
    await expect(log).to_contain_text("can use the broker")
    emails = olga.page.locator('[data-fact="emails"]')
    await expect(emails).to_contain_text("1 failed")
    await expect(olga.page.locator('[data-fact="consumers"]')).to_contain_text("can use the broker")
    await expect_accessible(olga.page, "operations")

    await olga.page.get_by_label("Reply contains").fill("another text.*")
    await olga.page.get_by_role("button", name="Retry").click()
    await expect(olga.page.locator("#retried")).to_contain_text("0 emails are due again")
    site.mail_server.script = {}
    await olga.page.get_by_label("Reply contains").fill("NO SUCH mailbox")
    await olga.page.get_by_role("button", name="Retry").click()
    await expect(olga.page.locator("#retried")).to_contain_text("1 emails are due again")
    await expect(emails).not_to_contain_text("failed")
    assert await eventually(lambda: _received(site))


async def test_what_does_not_work_is_said_where_it_is(people: People, site: Site) -> None:
    await site.product.chats("emails", "pause")
    olga = await people.sign_in("olga", role="admin", path=PATH, viewport={"width": 390, "height": 844})
    await expect(olga.page.locator('[data-fact="sending"]')).to_contain_text("paused")
    await site.product.chats("emails", "resume")
    await expect(olga.page.locator('[data-fact="sending"] dd')).to_have_text("on")
    olga.expect_complaints("502", "503", "ERR_", "failed")
    await site.product.stop("notifications-api")
    await expect(olga.page.get_by_text("The notifications service does not answer.")).to_be_visible()
    await site.product.start("notifications-api")
    await expect(olga.page.get_by_text("The notifications service does not answer.")).to_be_hidden()


async def test_an_operator_retries_a_parked_event_and_discards_it(people: People, site: Site) -> None:
    database = await asyncpg.connect(site.product.owner_urls["notifications"])
    await database.execute(
        "insert into inbox (event_id, type, parked_at, reason) values ($1, 'x', now(), 'y')", uuid4()
    )
    await database.close()
    olga = await people.sign_in("olga", role="admin", path=PATH)
    row = olga.page.locator("#parked-events tr")
    await expect_accessible(olga.page, "parked events")

    await row.get_by_role("button", name="Retry").click()
    await expect(olga.page.get_by_text("It is handled again within seconds.")).to_be_visible()
    await expect(row).to_contain_text("This event's content is no longer available.", timeout=40_000)
    olga.page.on("dialog", lambda dialog: dialog.accept())
    await row.get_by_role("button", name="Discard").click()
    await expect(olga.page.locator("#parked")).to_be_hidden()


async def test_other_admins_have_neither_the_link_nor_the_page(people: People) -> None:
    sam = await people.sign_in("sam", role="admin")
    await expect(sam.page.get_by_role("link", name="Operations")).to_have_count(0)
    sam.expect_complaints("403")
    await sam.go(PATH)
    await expect(sam.page.get_by_role("heading", name="Access denied")).to_be_visible()
    await expect(sam.page.get_by_text("You need the permission “operations”.")).to_be_visible()


async def _received(site: Site) -> bool:
    return bool(site.emails_to("tom"))
