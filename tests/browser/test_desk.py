"""The desk beside a conversation: notes, labels, assignment, removal; a reply that is being written stays."""

from playwright.async_api import expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site


async def test_notes_and_labels_are_saved_while_a_reply_is_being_written(people: People, site: Site) -> None:
    dora, kim = await people.sign_in("dora"), await people.sign_in("kim", role="admin")
    sam = await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora.id, "Broken teapot")
    for admin in (sam, kim):
        await admin.open(conversation)
    page = sam.page
    await page.locator("#reply_body").fill("We will send")
    await page.locator("#note-form summary").click()
    await page.locator("#note-body").fill("Two left in stock.")
    await page.locator("#save-note").click()
    await page.locator("#new-label").fill("damaged")
    await page.locator("#new-label").press("Enter")
    await page.locator("#assignee").select_option(kim.id)
    await page.get_by_role("button", name="Assign", exact=True).click()

    for admin in (sam, kim):  # live for both
        await expect(admin.page.locator(".entry.note .body")).to_have_text("Two left in stock.")
        await expect(admin.page.locator(".label-list li")).to_contain_text("damaged")
        await expect(admin.page.locator(".entry.assignment")).to_contain_text("Sam assigned this to Kim")
    await expect(page.locator("#reply_body")).to_have_value("We will send")
    await expect(page.locator("#note-body")).to_have_value("")
    await dora.open(conversation)
    await expect(dora.page.locator("#m-1")).to_be_visible()
    await expect(dora.page.locator(".entry")).to_have_count(0)


async def test_a_removed_message_disappears_on_both_sides(people: People, site: Site) -> None:
    dora, sam = await people.sign_in("dora"), await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora.id, "My card", "4242 4242 4242 4242")
    await dora.open(conversation)
    await expect(dora.page.locator("#m-1")).to_contain_text("4242")
    await sam.open(conversation)
    await sam.page.locator("#m-1").hover()
    await sam.page.get_by_label("Message 1: more").click()
    await sam.page.get_by_role("button", name="Remove this message").click()
    for person in (sam, dora):
        await expect(person.page.locator("#m-1 .body")).to_have_text("Removed")


async def test_a_slash_in_an_empty_reply_inserts_a_canned_reply(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora, "Where is it?")
    shortcut = f"late-{dora}"
    await sam.go(f"{sam.home}canned-replies/")
    page = sam.page
    await page.locator("#shortcut-new").fill(shortcut)
    await page.locator("#title-new").fill("Parcel is late")
    await page.locator("#body-new").fill("Hello {{customer.first_name}}, order {{order.number}} is late.")
    await page.locator("#new-canned-reply button").click()
    await expect(page.get_by_text(f"/{shortcut}")).to_be_visible()
    await sam.open(conversation)
    await page.locator("#reply_body").press("/")
    await page.locator("#canned-search").fill(shortcut)
    await page.locator("#canned-search").press("Enter")
    await expect(page.locator("#reply_body")).to_have_value("Hello Dora, order  is late.")
    await expect(page.locator("#toast")).to_contain_text("order.number")


async def test_a_sent_reply_is_taken_back(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora, "Where is it?")
    page = await sam.open(conversation)
    await page.locator("#reply_body").fill("In the wrong window")
    await page.locator("#send").click()
    await page.locator("#toast").get_by_role("button", name="Undo").click()
    await expect(page.locator("#m-2 .body")).to_have_text("Removed")
    await expect(page.locator("#reply_body")).to_have_value("In the wrong window")
    await expect(page.locator("#toast")).to_contain_text("taken back")
    assert (await site.conversation(conversation))["status"] == "OPEN"
