"""The page of the reports."""

from pathlib import Path

from playwright.async_api import expect

from tests.browser.helpers.axe import expect_accessible
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.helpers.waiting import eventually

PATH = "/admin/reports/"


async def test_an_admin_sees_what_happened_as_charts_and_as_a_table(people: People, site: Site, tmp_path: Path) -> None:
    await site.sync("users/tom", name="Tom")
    conversation = await site.open_conversation("tom", "A lamp")
    await site.answer(conversation, "Which one?")
    await site.set_status(conversation, "RESOLVED")
    sam = await people.sign_in("sam", role="admin")
    page = sam.page
    resolved = page.locator(".totals .card").nth(2).locator("dd")

    async def is_counted() -> bool:
        await sam.go(PATH)
        await expect(resolved).to_be_visible()
        return await resolved.inner_text() != "0"

    assert await eventually(is_counted)
    await expect(page.locator(".chart .plot")).to_have_count(3)
    await page.get_by_text("The numbers as a table").click()
    await expect(page.get_by_role("row")).to_have_count(32)
    await expect_accessible(page, "a report by day")
    await page.get_by_role("link", name="By admin").click()
    await expect(page.get_by_role("rowheader", name="Operator")).to_be_visible()
    await expect_accessible(page, "a report by admin")
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Download CSV").click()
    download = await downloading.value
    assert download.suggested_filename.endswith("-by-admin.csv")
    await download.save_as(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text().startswith("admin_id,admin_name,opened")

    await page.get_by_role("link", name="7 days", exact=True).click()
    await page.get_by_label("First day").fill("2001-01-01")
    await page.get_by_label("Last day").fill("2001-01-31")
    await page.get_by_role("button", name="Show").click()
    await expect(page.get_by_text("Nothing happened in these days")).to_be_visible()
    await expect_accessible(page, "a report without numbers")


async def test_the_audit_says_who_did_what(people: People, site: Site) -> None:
    await site.sync("users/tom", name="Tom")
    conversation = await site.open_conversation("tom", "A lamp")
    await site.set_status(conversation, "CLOSED")
    sam = await people.sign_in("sam", role="admin", viewport={"width": 390, "height": 844})
    await sam.page.locator(".person summary").click()
    await sam.page.get_by_role("link", name="Audit").click()
    await expect(sam.page.get_by_role("row").filter(has_text="set the status New → Closed").first).to_be_visible()
    assert await sam.page.evaluate("document.documentElement.scrollWidth") <= 390
    await expect_accessible(sam.page, "the audit")
    await sam.page.get_by_label("What").select_option("signed in")
    await sam.page.get_by_role("button", name="Show").click()
    await expect(sam.page.get_by_role("row").filter(has_text="Sam").filter(has_text="signed in").first).to_be_visible()
    await expect(sam.page.get_by_role("row").filter(has_text="set the status")).to_have_count(0)
    await sam.page.get_by_label("Conversation, by id").fill("nonsense")
    await sam.page.get_by_role("button", name="Show").click()
    sam.expect_complaints("422")
    await expect(sam.page.get_by_role("alert")).to_be_visible()
    await expect_accessible(sam.page, "the audit, with an error")


async def test_the_page_fits_a_phone(people: People, site: Site) -> None:
    await site.sync("users/tom", name="Tom")
    await site.open_conversation("tom", "A lamp")
    sam = await people.sign_in("sam", role="admin", path=PATH, viewport={"width": 390, "height": 844})
    await expect(sam.page.get_by_role("heading", name="Reports")).to_be_visible()
    assert await sam.page.evaluate("document.documentElement.scrollWidth") <= 390
    await sam.go()
    await sam.page.locator(".person summary").click()
    await sam.page.get_by_role("link", name="Reports").click()
    await expect(sam.page.get_by_role("heading", name="Reports")).to_be_visible()
