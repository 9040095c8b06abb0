"""The desk beside a conversation: notes, labels, assignment, removal; a reply that is being written stays."""

from playwright.async_api import Route, expect

from tests.browser.helpers.people import People
from tests.browser.helpers.site import Site

LINES = """element => {
    const range = document.createRange();
    range.selectNodeContents([...element.childNodes].find((node) => node.textContent.trim()));
    return new Set([...range.getClientRects()].map(({ top }) => top)).size;
}"""
"""Return on how many lines the first text of an element stands."""


async def test_notes_and_labels_are_saved_while_a_reply_is_being_written(people: People, site: Site) -> None:
    dora, kim = await people.sign_in("dora"), await people.sign_in("kim", role="admin")
    sam = await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora.id, "Broken teapot")
    for admin in (sam, kim):
        await admin.open(conversation)
    page = sam.page

    async def answer_late(route: Route) -> None:
        response = await route.fetch()
        await expect(page.locator(".label-list li")).to_contain_text("damaged")  # the page is refreshed before
        await route.fulfill(response=response)

    await page.route("**/labels", answer_late)
    await page.locator("#reply_body").fill("We will send")
    await page.locator("#note-form summary").click()
    await page.locator("#note-body").fill("@kim, two left in stock.")
    await expect(page.locator(f".mentions [value='{kim.id}']")).to_be_checked()
    await page.locator("#save-note").click()
    await page.locator("#new-label").fill("damaged")
    await page.locator("#new-label").press("Enter")
    await page.locator("#assignee").select_option(kim.id)
    await page.get_by_role("button", name="Assign", exact=True).click()

    for admin in (sam, kim):  # live for both
        await expect(admin.page.locator(".entry.note .body")).to_have_text("@kim, two left in stock.")
        await expect(admin.page.locator(".entry.note .mentioned")).to_contain_text("Notified: Kim")
        await expect(admin.page.locator(".label-list li")).to_contain_text("damaged")
        await expect(admin.page.locator(".entry.assignment")).to_contain_text("Sam assigned this to Kim")
    await expect(page.locator("#reply_body")).to_have_value("We will send")
    await expect(page.locator("#note-body")).to_have_value("")
    await expect(page.locator("#new-label")).to_have_value("")
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
    await expect(page.get_by_text(f"/{shortcut}", exact=True)).to_be_visible()
    await sam.open(conversation)
    await page.locator("#reply_body").press("/")
    await page.locator("#canned-search").fill("there is no such reply")
    await expect(page.locator("#canned-none")).to_have_text("No canned reply has these words.")
    await page.locator("#canned-search").press("Escape")
    await expect(page.locator("#reply_body")).to_be_focused()
    await page.locator("#reply_body").press("/")
    await page.locator("#canned-search").fill(shortcut)
    await page.locator("#canned-search").press("Enter")
    await expect(page.locator("#reply_body")).to_have_value("Hello Dora, order  is late.")
    await expect(page.locator("#canned-empty")).to_contain_text("the order\u2019s number")
    await page.locator("#reply_body").fill("")
    await expect(page.locator("#canned-empty")).to_be_hidden()


async def test_deleting_a_note_asks_first_and_keeps_the_place(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora, "Where is it?")
    page = await sam.open(conversation)
    await page.locator("#note-form summary").click()
    await page.locator("#note-body").fill("Called her.")
    await page.locator("#save-note").click()
    note = page.locator(".entry.note")
    await expect(note).to_contain_text("Called her.")
    await note.get_by_text("Delete note …").click()
    await note.get_by_role("button", name="Delete note").hover()
    async with page.expect_response(lambda response: "peek=true" in response.url) as refreshed:
        await page.mouse.down()  # the page is refreshed before the button is released
        await site.write(conversation, dora, "It came.")
    await (await refreshed.value).finished()
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
    await page.mouse.up()
    await expect(note).to_contain_text("deleted a note")
    await expect(note).to_be_focused()
    await expect(page.locator("#m-2")).to_contain_text("It came.")
    await expect(page.locator("#set-AWAITING_ADMIN")).to_have_attribute("aria-current", "true")


async def test_on_a_phone_the_composer_leaves_the_screen_to_the_messages_until_it_is_used(
    people: People, site: Site
) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin", viewport={"width": 390, "height": 844})
    page = await sam.open(await site.open_conversation(dora, "Where is it?"))
    await expect(page.locator("#send")).to_be_hidden()
    box = await page.locator(".MessageHistoryPanel").bounding_box()
    assert box is not None
    assert box["height"] >= 480
    await page.locator("#reply_body").focus()
    await expect(page.locator("#send")).to_be_visible()
    await page.locator("#reply_body").fill("A draft")
    await page.locator("#reply_body").blur()
    await expect(page.locator("#send")).to_be_visible()
    await page.locator("#send").click()
    await expect(page.locator(".toast")).to_be_visible()
    toast, head = [await page.locator(it).bounding_box() for it in (".toast", ".thread-head")]
    assert toast is not None
    assert head is not None
    assert toast["y"] >= head["y"] + head["height"], "it covers the buttons of the header"


async def test_what_is_typed_into_an_opened_form_presses_no_shortcuts(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora, "Broken teapot")
    reply = {"shortcut": f"hello-{dora}", "title": "Greeting", "body": "Hello"}
    await site.product.call("POST", "/api/v1/admin/canned-replies", sam.id, "admin", json=reply)
    await sam.open(conversation)
    page = sam.page
    for summary, field in (("#canned summary", "#canned-search"), ("#note-form summary", "#note-body")):
        await page.locator(summary).click()
        await expect(page.locator(field)).to_be_focused()
        await page.keyboard.type("see you")
        await expect(page.locator(field)).to_have_value("see you")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".entry.note .body")).to_have_text("see you")
    await expect(page.locator("#note-form summary")).to_be_focused()
    assert (await site.conversation(conversation))["status"] == "OPEN"


async def test_a_name_behind_an_at_chooses_that_admin_and_no_other(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    short, long, other = [
        await people.create_user("ada", role="admin", shown=name) for name in ("Ike", "Ike Lee", "Ikebana")
    ]
    page = await sam.open(await site.open_conversation(dora, "Broken teapot"))
    await page.locator("#note-form summary").click()

    async def expect_chosen(*expected: str) -> None:
        chosen = "boxes => boxes.filter((box) => box.checked).map((box) => box.value).sort()"
        assert await page.locator(".mentions input").evaluate_all(chosen) == sorted(expected)

    for text, expected in (
        ("@ike", [short]),
        ("@ikebana, please", [other]),
        ("@Ike Lee and @Ike.", [short, long]),
        ("@Ike Lee", [long]),
        ("ike", []),
    ):
        await page.locator("#note-body").fill("")
        await page.keyboard.type(text)
        await expect_chosen(*expected)
    await page.locator("#note-body").fill("@Ike")
    await page.locator(f".mentions [value='{short}']").uncheck()
    await page.locator("#note-body").fill("@Ike, look")
    await expect_chosen()


async def test_no_control_is_broken_within_a_word_on_a_phone(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam = await people.create_user("sam", role="admin", shown="Wilhelmine Hohenstein", locale="de")
    conversation = await site.open_conversation(dora, "Broken teapot")
    admin = await people.at_browser(sam, role="admin", viewport={"width": 390, "height": 844})
    await admin.open(conversation)
    page = admin.page
    await page.locator("#reply_body").focus()
    await page.locator(".top .badge").evaluate("badge => { badge.hidden = false; badge.textContent = '999+'; }")
    for place in (".top nav a", ".top .badge", "#send"):
        assert await page.locator(place).first.evaluate(LINES) == 1, place
    await page.locator("#bell summary").click()
    assert await page.locator("#bell h2").evaluate(LINES) == 1
    await expect(page.locator("#bell-items")).not_to_be_empty()  # its request ends before the page is left
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await admin.go()
    await page.locator("[name=ids]").first.check()
    await page.locator(".bulk-menu summary").click()
    sheet = await page.locator(".bulk-menu .sheet").bounding_box()
    assert sheet is not None
    assert (sheet["x"] >= 0, sheet["x"] + sheet["width"] <= 390) == (True, True)


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


async def test_a_conversation_is_printed_whole_and_without_the_desk(people: People, site: Site) -> None:
    dora, sam = await people.create_user("dora"), await people.sign_in("sam", role="admin")
    conversation = await site.open_conversation(dora, "Where is it?")
    for _ in range(10):
        await site.answer(conversation, "It is on its way.\n" * 5)
    page = await sam.open(conversation)
    await page.emulate_media(media="print")
    for place in (".top", ".composer", ".context", "#inbox", "#mark-unread"):
        await expect(page.locator(place)).to_be_hidden()
    for number in (1, 11):
        await expect(page.locator(f"#m-{number}")).to_be_visible()
    heights = "document.documentElement.scrollHeight, document.getElementById('m-1').getBoundingClientRect().top"
    height, first = await page.evaluate(f"[{heights}]")
    assert height > 720, "it is cut off after the first page"
    assert first > 0, "the beginning is out of reach"


async def test_forced_colours_show_what_is_current(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin", forced_colors="active", viewport={"width": 1440, "height": 900})
    conversation, other = [await site.open_conversation(dora, subject) for subject in ("Current", "Other")]
    page = await sam.open(conversation)
    outline = "id => getComputedStyle(document.getElementById(id)).outlineStyle"
    await expect(page.locator(f"#open-{conversation}[aria-current]")).to_be_visible()
    assert [await page.evaluate(outline, f"c-{row}") for row in (conversation, other)] == ["solid", "none"]
    border = "id => getComputedStyle(document.getElementById(id)).borderBlockEndColor"
    assert await page.evaluate(border, "view-all") != await page.evaluate(border, "view-waiting")


async def test_a_low_window_shows_the_end_of_a_conversation(people: People, site: Site) -> None:
    dora = await people.create_user("dora")
    sam = await people.sign_in("sam", role="admin", viewport={"width": 720, "height": 450})  # a laptop's at 200 %
    conversation = await site.open_conversation(dora, "Where is it?")
    for _ in range(20):
        await site.answer(conversation, "It is on its way.")
    page = await sam.open(conversation)
    await expect(page.locator("#m-21")).to_be_in_viewport()
    box = await page.locator(".MessageHistoryPanel").bounding_box()
    assert box is not None
    assert box["height"] >= 200
