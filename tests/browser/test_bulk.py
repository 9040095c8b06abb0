"""Changes of several conversations at once, without leaving the inbox, and their undo."""

from playwright.async_api import Route, expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site


async def test_selected_conversations_are_resolved_and_the_undo_spares_those_with_newer_messages(
    people: People, site: Site
) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    talks = [await site.open_conversation(dora, f"Question {number}") for number in range(2)]
    page = sam.page

    async def answer_late(route: Route) -> None:
        response = await route.fetch()
        await expect(page.locator(f"#c-{talks[1]} .status")).to_have_text("Resolved")  # the list is refreshed before
        await route.fulfill(response=response)

    await page.route("**/bulk", answer_late)
    await sam.go(f"{sam.home}?user_id={dora}")
    await expect(page.locator(".rows .row")).to_have_count(2)
    await page.locator("#select-all").check()
    await expect(page.locator("#selected")).to_have_text("2 selected")
    await page.get_by_role("button", name="Resolve", exact=True).click()
    await expect(page.locator("#toast")).to_contain_text("2 changed.")
    await expect(page.locator("#selected")).to_have_text("")
    for talk in talks:
        await expect(page.locator(f"#c-{talk} .status")).to_have_text("Resolved")
    await site.write(talks[0], dora, "Wait!")
    await expect(page.locator(f"#c-{talks[0]} .status")).to_have_text("Customer replied")
    sam.expect_complaints("409")
    await page.locator("#toast").get_by_role("button", name="Undo").click()
    await expect(page.locator(f"#c-{talks[1]} .status")).to_have_text("New")
    await expect(page.locator("#toast")).to_contain_text("Undone: 1. 1 have changed since")
    assert (await site.conversation(talks[0]))["status"] == "AWAITING_ADMIN"
