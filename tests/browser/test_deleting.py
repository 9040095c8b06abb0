"""Only closed conversations can be deleted, one or many, and they disappear everywhere."""

from playwright.async_api import expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site


async def test_a_rejected_bulk_delete_names_the_open_conversation_and_can_skip_it(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    closed = [await site.open_conversation(dora, f"Closed {number}") for number in range(2)]
    still_open = await site.open_conversation(dora, "Open, as it happens")
    for conversation in [*closed, still_open]:
        await site.set_status(conversation, "CLOSED")
    page = await sam.go(f"{sam.home}?user_id={dora}")
    await page.get_by_role("checkbox", name="Select all").check()
    await expect(page.locator("#selected")).to_have_text("3 selected")
    await page.locator(".bulk-menu summary").click()
    await page.get_by_role("button", name="Delete selected").click()
    await expect(page.get_by_role("heading", name="Delete 3 conversations?")).to_be_visible()
    await site.write(still_open, dora, "One more thing")

    sam.expect_complaints("409")
    await page.get_by_role("button", name="Delete 3 conversations").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nothing was deleted.")
    await expect(page.locator("#refused + .rows .subject")).to_have_text(["Open, as it happens"])
    assert len(await site.conversations_of(dora)) == 3
    await page.get_by_role("button", name="Skip it and delete the other 2 conversations").click()
    await expect(page.get_by_text("2 conversations deleted.")).to_be_visible()
    assert [conversation["id"] for conversation in await site.conversations_of(dora)] == [still_open]


async def test_a_deleted_conversation_leaves_every_screen_that_shows_it(people: People, site: Site) -> None:
    dora, sam = await people.sign_in("dora"), await people.sign_in("sam", role="admin")
    for user in (dora, sam):  # whose pages may be refreshed before they have left the deleted conversation
        user.expect_complaints("404")
    conversation = await site.open_conversation(dora.id, "To be forgotten")
    await site.set_status(conversation, "CLOSED")
    await dora.open(conversation)
    listed = await dora.context.new_page()
    await listed.goto(site.origin + dora.home)
    await expect(listed.locator(f"#c-{conversation}")).to_be_visible()

    await sam.open(conversation)
    await sam.page.get_by_role("link", name="Delete this conversation").click()
    await expect(sam.page.get_by_text("This cannot be undone.")).to_be_visible()
    await sam.page.get_by_role("button", name="Delete conversation").click()
    await expect(sam.page.get_by_text("1 conversation deleted.")).to_be_visible()
    await expect(listed.locator(f"#c-{conversation}")).to_have_count(0)
    await expect(dora.page.get_by_role("heading", name="Conversation not found")).to_be_visible()
