"""Files in a conversation: chosen, dropped and pasted; shown to both sides; uploaded again after an interruption."""

from playwright.async_api import FilePayload, Page, Route, expect

from tests.browser.helpers.axe import expect_accessible
from tests.browser.helpers.people import People, Person
from tests.browser.helpers.site import Site
from tests.browser.helpers.thread_page import composer, expect_to_fit, messages, send
from tests.helpers.awkward_files import MARKER, exif, picture

UPLOADS = "**/api/v1/attachments"
CUT = (r"net::ERR_FAILED", r"net::ERR_CONNECTION_RESET")
PHOTO = picture("JPEG", (900, 600), exif=exif())


async def choose(page: Page, *files: FilePayload) -> None:
    """Choose files, once the scripts are ready for them."""
    await expect(page.locator(".attach.live")).to_be_visible()
    await page.get_by_label("Attach files").set_input_files(list(files))


def file(name: str, content: bytes = b"A text") -> FilePayload:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


async def at_thread(people: People, site: Site, subject: str) -> tuple[Person, str]:
    dora = await people.sign_in("dora")
    conversation = await site.open_conversation(dora.id, subject)
    await dora.open(conversation)
    return dora, conversation


async def test_a_photo_and_a_file_are_sent_and_seen_by_both_sides(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site, "A cracked cup")
    sam = await people.sign_in("sam", role="admin")
    await sam.open(conversation)
    await choose(dora.page, file("photo.jpg", PHOTO), file(f"notes <i>{MARKER}.txt"))
    await expect(dora.page.locator(".uploads [data-file]")).to_have_count(2)
    await expect(dora.page.locator(".uploads progress")).to_have_count(0)
    await send(dora.page, "Look at this")
    for person in (dora, sam):
        last = messages(person.page).last
        await expect(last.locator(".files a[download]")).to_have_text(["photo.jpg", f"notes <i>{MARKER}.txt"])
        image = last.locator(".files img")  # appears by itself, once it is made
        await expect(image).to_be_visible()
        await expect(image).to_have_js_property("complete", value=True)
        assert await image.evaluate("image => image.naturalWidth") == 512
        await expect_to_fit(person.page, 390, 1440)
        await expect_accessible(person.page, "files")
    await expect(dora.page.locator(".uploads li")).to_have_count(0)
    async with sam.page.expect_download() as download:
        await messages(sam.page).last.get_by_role("link", name="photo.jpg").last.click()
    assert (await download.value).suggested_filename == "photo.jpg"


async def test_an_interrupted_upload_starts_again_and_the_message_waits_for_it(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site, "On the train")
    dora.expect_complaints(*CUT)
    broken = True

    async def handle(route: Route) -> None:
        await (route.abort() if broken else route.continue_())

    await dora.page.route(UPLOADS, handle)
    await choose(dora.page, file("ticket.pdf"))
    await expect(dora.page.locator(".uploads .state")).to_have_text("Interrupted, starting again …")
    await composer(dora.page).fill("My ticket")
    await composer(dora.page).press("Control+Enter")
    await expect(dora.page.get_by_text("Your message will be sent when the files are uploaded.")).to_be_visible()
    assert await site.bodies(conversation) == ["Hello?"]
    broken = False
    await expect(messages(dora.page).last.locator(".files a[download]")).to_have_text(["ticket.pdf"])
    assert await site.bodies(conversation) == ["Hello?", "My ticket"]


async def test_a_file_that_is_removed_while_the_message_waits_for_it_ends_the_wait(people: People, site: Site) -> None:
    dora, conversation = await at_thread(people, site, "The wrong file")
    dora.expect_complaints(*CUT)
    await dora.page.route(UPLOADS, lambda route: route.abort())
    await choose(dora.page, file("diary.pdf"))
    await composer(dora.page).fill("See the file")
    await composer(dora.page).press("Control+Enter")
    waiting = dora.page.get_by_text("Your message will be sent when the files are uploaded.")
    await expect(waiting).to_be_visible()
    await dora.page.get_by_role("button", name="Remove diary.pdf").click()
    await expect(waiting).to_be_hidden()
    await expect(composer(dora.page)).to_have_value("See the file")
    await composer(dora.page).fill("Without a file")
    await composer(dora.page).press("Control+Enter")
    await expect(messages(dora.page).last).to_contain_text("Without a file")
    assert await site.bodies(conversation) == ["Hello?", "Without a file"]


async def test_files_are_dropped_pasted_removed_and_survive_a_reload(people: People, site: Site) -> None:
    dora, _ = await at_thread(people, site, "Many files")
    await expect(dora.page.locator(".attach.live")).to_be_visible()
    await dora.page.evaluate(_GIVE, ["drop", "dropped.txt"])
    await dora.page.evaluate(_GIVE, ["paste", "pasted.txt"])
    names = dora.page.locator(".uploads [data-file] .name")
    await expect(names).to_have_count(2)
    assert sorted(await names.all_text_contents()) == ["dropped.txt", "pasted.txt"]
    await dora.page.get_by_role("button", name="Remove dropped.txt").click()
    await expect(names).to_have_text(["pasted.txt"])
    await dora.page.reload()
    await expect(names).to_have_text(["pasted.txt"])
    await choose(dora.page, file("empty.txt", b""))
    await expect(dora.page.locator(".uploads .refused .state")).to_have_text("The file is empty.")
    await dora.page.get_by_role("button", name="Send").click()  # the file alone
    await expect(messages(dora.page).last.locator(".files a[download]")).to_have_text(["pasted.txt"])
    await dora.page.reload()
    await expect(dora.page.locator(".attach.live")).to_be_visible()
    await expect(dora.page.locator(".uploads li")).to_have_count(0)


_GIVE = """([type, name]) => {
  const given = new DataTransfer();
  given.items.add(new File(["A text"], name));
  const options = { bubbles: true, cancelable: true, dataTransfer: given, clipboardData: given };
  const event = type === "drop" ? new DragEvent(type, options) : new ClipboardEvent(type, options);
  document.querySelector("#reply textarea").dispatchEvent(event);
}"""
