"""An admin's bell: what is for them, alerts while they look elsewhere, and their preferences."""

from playwright.async_api import expect

from tests.browser.helpers.axe import expect_accessible
from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site
from tests.helpers.waiting import eventually

LATE = 40_000  # ms: the bell is reloaded up to 20 s after an event
RECORD = """
    window.shown = [];
    window.Notification = class {
        static permission = "default";
        static async requestPermission() {
            return (Notification.permission = sessionStorage.getItem("answer") ?? "granted");
        }
        constructor(title, { body }) { window.shown.push(`${title} | ${body}`); }
    };
    document.hasFocus = () => !sessionStorage.getItem("elsewhere");
"""


async def test_an_admin_sees_a_mention_until_they_open_its_conversation(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin")
    subject = f"The lid of {dora}"  # other tests' conversations are in the bell of all admins
    conversation = await site.open_conversation(dora, subject, "It is broken")
    await site.mention(conversation, sam.id, "Please look")
    page = sam.page
    await expect(page.locator("#bell-dot")).to_be_visible(timeout=LATE)
    await page.get_by_label("Notifications").click()
    entry = page.locator("#bell-items > li", has_text=subject)
    await expect(entry).to_contain_text(f"mentioned you: {subject}", timeout=LATE)
    await expect(entry).to_contain_text("Please look")
    await expect(entry).to_have_class("unread")
    await entry.get_by_role("link").click()
    await expect(page.locator(".MessageHistoryPanel")).to_contain_text("Please look")
    await page.get_by_label("Notifications").click()
    await expect(entry).not_to_have_class("unread", timeout=LATE)


async def test_alerts_are_off_until_turned_on_and_only_while_nobody_looks(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin")
    conversation, page = await site.open_conversation(dora, "The lid"), sam.page
    await sam.context.add_init_script(RECORD)
    await sam.go()
    await page.get_by_label("Notifications").click()
    popup, sound = page.get_by_label("Show a browser notification"), page.get_by_label("Play a sound")
    await expect(popup).not_to_be_checked()
    await expect(sound).not_to_be_checked()
    await expect_accessible(page, "an admin's bell")
    await page.evaluate("sessionStorage.setItem('answer', 'denied')")
    await popup.click()
    await expect(page.locator("#alert-hint")).to_contain_text("does not allow this")
    await expect(popup).not_to_be_checked()
    await page.evaluate("sessionStorage.setItem('answer', 'granted')")
    await popup.click()
    await sound.check()
    await expect(page.locator("#alert-hint")).to_be_hidden()
    await page.evaluate("sessionStorage.setItem('elsewhere', '1')")
    await site.mention(conversation, sam.id, "Please look")
    await eventually(lambda: page.evaluate("window.shown.length === 1"), deadline=40)
    [shown] = await page.evaluate("window.shown")
    assert shown.endswith("mentioned you: The lid | The lid")
    await page.get_by_role("link", name="Choose what you get").click()
    await expect(page.get_by_role("heading", name="Your notifications")).to_be_visible()
    await expect_accessible(page, "an admin's preferences")


async def test_preferences_work_without_scripts(people: People, site: Site) -> None:
    sam = await people.sign_in("sam", role="admin", java_script_enabled=False)
    page = sam.page
    await page.locator(".person summary").click()
    await page.get_by_role("link", name="Notifications").click()
    await expect(page.get_by_role("heading", name="Your notifications")).to_be_visible()
    mention = page.get_by_label("A colleague mentions you in a note: by email")
    await expect(mention).to_be_checked()
    await mention.uncheck()
    await page.get_by_label("A customer replies: by email").check()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status")).to_have_text("Saved.")
    await expect(mention).not_to_be_checked()
    await sam.go("/notifications/preferences")
    await expect(mention).not_to_be_checked()
    await expect(page.get_by_label("A customer replies: by email")).to_be_checked()
    await expect(page.get_by_label("A customer replies: in the bell")).to_be_checked()
    assert site.origin in page.url
