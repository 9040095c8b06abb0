"""Held emails that belong to no conversation: under "Held", with what they say, until an admin names the customer."""

import asyncpg
from playwright.async_api import expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import expect_to_fit

EMAIL = b"From: Eve <eve@other.test>\r\nSubject: My <b>old</b> address\r\n\r\nPlease answer here.\r\n" + b"x" * 300
ANOTHER = EMAIL.replace(b"My", b"Another")
_HOLD = """
with held as (
    insert into inbound_emails (conversation_id, kind, read_up_to, same_as, from_address, size, original, state, reason)
    values (
        gen_random_uuid(), 'conversation', 0, gen_random_uuid(), 'eve@other.test', $2, $1, 'held', 'unknown-sender'
    )
    returning id
)
insert into events (type, subject_id) select 'inbound.updated', id from held
"""


async def hold(site: Site, original: bytes) -> None:
    """Hold an email, as the notifications service does."""
    connection = await asyncpg.connect(str(site.product.owner_urls["notifications"]))
    try:
        await connection.execute(_HOLD, original, len(original))
    finally:
        await connection.close()


async def test_an_admin_opens_a_held_email_as_a_customers_conversation(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin")
    page = await sam.go()
    await hold(site, EMAIL)
    await page.locator("#view-held").click()
    email = page.locator(".unmatched", has_text="My <b>old</b> address")
    await expect(email).to_contain_text("My <b>old</b> address")
    await expect(email).to_contain_text("eve@other.test: No customer has this address.")
    await expect(email).to_contain_text("Please answer here.")
    for width in (390, 1440):
        await expect_to_fit(page, width)
    sam.expect_complaints("404", "409", "422")
    await email.get_by_placeholder("Name, email or ID").fill("nobody")
    await email.get_by_role("button", name="Open as this customer").click()
    await expect(email).to_contain_text("There is no such customer")
    await hold(site, ANOTHER)  # which replaces the list
    await expect(page.locator(".unmatched", has_text="Another")).to_contain_text("eve@other.test: No customer")
    await expect(email).to_contain_text("There is no such customer")
    await expect(email.get_by_placeholder("Name, email or ID")).to_have_value("nobody")
    await email.get_by_placeholder("Name, email or ID").fill(dora)
    await email.get_by_role("button", name="Open as this customer").click()
    await expect(email).to_have_count(0)
    await page.locator(".unmatched").get_by_role("button", name="Discard").click()
    await expect(page.locator("#view-held .count")).to_have_count(0)
