"""Files in forms and pages, as browsers without scripts send and show them."""

from typing import Any

import httpx2
import pytest

from services.conversations.attachments.file_store import FileStore
from services.conversations.attachments.picture_process import PictureProcess
from services.conversations.attachments.thumbnails import make_next_thumbnail
from shared.api.body_size import MAX_BODY_BYTES
from shared.database.transactions import SessionFactory
from tests.helpers.awkward_files import picture
from tests.service.attachments.test_uploading import application, rows, set_settings
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.html import Element, Page

ROOT, ADMIN_ROOT = "/dashboard/messages/", "/admin/dashboard/conversation/"


@pytest.fixture
def browser(api: httpx2.AsyncClient) -> Browser:
    return Browser(api)


def form_of(page: Page) -> Element:
    return page.root.one("form", enctype="multipart/form-data")


async def send(browser: Browser, page: Page, url: str, *files: Any, **fields: Any) -> httpx2.Response:
    """Submit the page's form with files."""
    values = page.fields(form_of(page)) | fields
    sent = [("file", file) for file in files] or [("file", ("", b""))]
    return await browser.client.post(url, data=values, files=sent, headers={"Origin": HOST})


async def test_a_customer_sends_files_with_a_form_and_both_sides_see_them(
    browser: Browser, anna: Caller, conversations: SessionFactory, files_url: str
) -> None:
    path = f"{ROOT}{(await anna.open())['id']}/"
    await browser.sign_in()
    page = Page(await browser.get(path))
    answer = await send(browser, page, path, ("photo.png", picture("PNG")), ("a & b.txt", b"A text"))
    assert answer.status_code == 303, answer.text
    worker = PictureProcess()
    await make_next_thumbnail(conversations, FileStore(files_url), worker)
    await worker.close()
    for who, role, where in (("anna", "customer", path), ("sam", "admin", path.replace(ROOT, ADMIN_ROOT))):
        await browser.sign_in(who, role)
        shown = Page(await browser.get(where))
        message = shown.by_id("m-1")
        assert [link.text for link in message.all("a") if "download" in link] == ["photo.png", "a & b.txt"]
        [image] = message.all("img")
        assert image["alt"] == "photo.png"
        for address in (image["src"], *(link["href"] for link in message.all("a"))):
            assert (await browser.get(address)).status_code == 200
    await browser.sign_in("ben")
    assert (await browser.get(message.all("a")[0]["href"])).status_code == 404


async def test_a_second_submit_of_the_same_form_sends_nothing_more(
    browser: Browser, anna: Caller, conversations: SessionFactory
) -> None:
    path = f"{ROOT}{(await anna.open())['id']}/"
    await browser.sign_in()
    page = Page(await browser.get(path))
    for _ in range(2):
        assert (await send(browser, page, path, ("a.txt", b"A text"))).status_code == 303
    assert await rows(conversations) == 1
    assert (await anna.peek(path.split("/")[-2]))["message_count"] == 1


async def test_files_start_conversations_on_both_sides(browser: Browser, anna: Caller, sam: Caller) -> None:
    await anna.open()
    await browser.sign_in()
    page = Page(await browser.get(f"{ROOT}new/"))
    answer = await send(browser, page, f"{ROOT}new/", ("a.txt", b"A"), subject="Look")
    assert answer.status_code == 303, answer.text
    await browser.sign_in("sam", "admin")
    page = Page(await browser.get(f"{ADMIN_ROOT}new/?user_id=anna"))
    answer = await send(browser, page, f"{ADMIN_ROOT}new/", ("b.txt", b"B"), subject="Look, too")
    assert answer.status_code == 303, answer.text
    previews = [item["last_message"] for item in (await sam.get("/conversations"))["items"]]
    assert [last and last["preview"] for last in previews] == ["b.txt", "a.txt", None]


async def test_a_rejected_form_keeps_its_files_which_can_be_left_out(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    path = f"{ROOT}{conversation}/"
    await browser.sign_in()
    page = Page(await browser.get(path))
    await sam.post(conversation)
    answer = await send(browser, page, path, ("a.txt", b"A"), ("b.txt", b"B"))
    assert answer.status_code == 409
    again = Page(answer)
    kept = again.fields(form_of(again))["attachments"]
    assert len(kept) == 2
    assert (await send(browser, again, path, attachments=kept[1:])).status_code == 303
    last = (await anna.get(f"/conversations/{conversation}/messages", order="desc"))["items"][0]
    assert [file["name"] for file in last["attachments"]] == ["b.txt"]


@pytest.mark.parametrize(
    ("files", "limits", "text"),
    [
        ([("a.txt", b"")], {}, "The file is empty."),
        ([("a.txt", b"x" * 101)], {"attachment_max_bytes": 100}, "The file is too large."),
        ([("a.txt", b"x")], {"limit_attachment_bytes_per_day": 1}, "The limit of files for today is reached."),
        ([(f"{n}.txt", b"x") for n in range(25)], {}, "Attach at most 10 files to a message."),
    ],
)
async def test_a_file_that_cannot_be_sent_is_an_error_of_the_form(
    browser: Browser, anna: Caller, files: Any, limits: dict[str, int], text: str
) -> None:
    path = f"{ROOT}{(await anna.open())['id']}/"
    await browser.sign_in()
    page = Page(await browser.get(path))
    set_settings(anna, **limits)
    answer = await send(browser, page, path, *files, body="What I typed")
    assert answer.status_code == 422
    assert text in answer.text
    assert "What I typed" in answer.text
    assert (await anna.peek(path.split("/")[-2]))["message_count"] == 0


async def test_files_that_are_too_large_together_are_named_as_the_reason(browser: Browser, anna: Caller) -> None:
    path = f"{ROOT}{(await anna.open())['id']}/"
    await browser.sign_in()
    half = b"x" * (10 * 2**20 + MAX_BODY_BYTES)
    answer = await send(browser, Page(await browser.get(path)), path, ("a.txt", half), ("b.txt", half), body="Look")
    assert answer.status_code == 413
    assert "choose fewer or smaller files, at most 21 MB together" in answer.text


async def test_a_form_without_text_and_file_asks_for_one(browser: Browser, anna: Caller) -> None:
    path = f"{ROOT}{(await anna.open())['id']}/"
    await browser.sign_in()
    answer = await send(browser, Page(await browser.get(path)), path)
    assert answer.status_code == 422
    assert "Please fill this in." in answer.text


async def test_files_go_only_where_they_belong(browser: Browser, anna: Caller) -> None:
    path = f"{ROOT}{(await anna.open())['id']}/"
    await browser.sign_in()
    token = browser.claims["csrf"]
    files: Any = {"body": ("hello.txt", b"Hello?"), "csrf_token": (None, token)}
    assert (await browser.client.post(path, files=files, headers={"Origin": HOST})).status_code == 400
    large = {"file": ("x", b"x" * 100_000), "csrf_token": (None, token)}
    assert (await browser.client.post("/session/end", files=large)).status_code == 413


async def test_a_link_to_a_file_leads_to_the_sign_in(
    browser: Browser, anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await anna.upload()
    state = application(anna).state
    monkeypatch.setattr(
        state.pages, "_settings", state.settings.model_copy(update={"login_url": "https://store.test/in"})
    )
    answer = await browser.get(f"/attachments/{file['id']}")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"https://store.test/in?next=%2Fattachments%2F{file['id']}"


@pytest.mark.parametrize("size", [10, 2 * 1024 * 1024])
async def test_a_form_of_a_customer_who_was_merged_is_read_again_or_to_be_sent_again(
    browser: Browser, anna: Caller, ben: Caller, shop: Caller, size: int
) -> None:
    path = f"{ROOT}{(await anna.open())['id']}/"
    await ben.open()
    await browser.sign_in()
    page = Page(await browser.get(path))
    await shop.call("POST", "/users/anna/merge", {"into": "ben"})
    first, second = [await send(browser, page, path, ("a.txt", b"x" * size)) for _ in range(2)]
    assert (first.status_code, second.status_code) == (303 if size == 10 else 503, 303)
    assert (await ben.peek(path.split("/")[-2]))["message_count"] == 1
