"""A conversation as the admins see it, as a browser without scripts uses it: reading, the edit form, giving it back."""

from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx2
import pytest

from services.conversations.rules import Status
from services.notifications.rules import EmailState, Reason
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import ORDER, UNKNOWN_ID, Caller
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import ROOT, fill, show, signed_in

ITEMS = [{"name": "Teapot <b>", "quantity": 2, "unit_price": "29.95"}]


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as made:
        yield made


def bodies(page: Page) -> list[str]:
    return [one.of_class("body")[0].text for one in page.by_id("messages").of_class("message")]


def numbers(page: Page) -> list[int]:
    return [int(one["data-number"]) for one in page.by_id("messages").of_class("message")]


async def opened(anna: Caller, browser: Browser, *more: str) -> tuple[str, Page]:
    """Open a conversation as a customer, and its page as an admin."""
    identity = (await anna.open(subject="Where is it?", body="My parcel is late."))["id"]
    for body in more:
        await anna.post(identity, body)
    return identity, await show(browser, f"{identity}/")


async def test_the_page_holds_the_history_and_what_stands_beside_it(
    browser: Browser, anna: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER | {"url": "https://store.test/1007", "items": ITEMS})
    others = [(await anna.open(subject=f"Number {number}"))["id"] for number in range(7)]
    identity = (await anna.open(subject="Where is it?", body="See https://store.test/?a=1", order_id="A-1"))["id"]
    await sam.edit(identity, reply_body="On its way.\nReally.")

    page = await show(browser, f"{identity}/")

    [panel] = page.root.of_class("MessageHistoryPanel")
    assert panel["data-component"] == "MessageHistoryPanel"
    assert bodies(page) == ["See https://store.test/?a=1", "On its way. Really."]
    assert panel.one("a", href="https://store.test/?a=1")["rel"] == "nofollow noopener noreferrer"
    beside = page.by_id("context")
    for words in ("Anna", "anna@customer.test", "Order 1007", "Teapot <b>", "€29.95", "€59.90"):
        assert words in beside.text
    assert page.link("Open the order") == "https://store.test/1007"
    assert page.link("All conversations with this customer").endswith(f"{ROOT}?user_id=anna")
    assert [one["href"] for one in beside.of_class("others")[0].all("a")] == [f"{ROOT}{one}/" for one in others[:1:-1]]
    thread = page.root.one("div", data_thread=identity)
    assert (thread["data-side"], thread["data-read"]) == ("admin", "2")
    assert page.by_id("reply")["data-send"] == f"/api/v1/admin/conversations/{identity}"
    assert page.answer.headers["x-position"]


async def test_an_id_of_any_visible_characters_leads_to_its_conversations(browser: Browser, shop: Caller) -> None:
    user = "a&b=c#d/?%é"[:-1] + "+<"
    await shop.call("PUT", f"/users/{quote(user, safe='')}", {"name": "Odd"})
    form = await show(browser, "new/", user_id=user)
    where = (await fill(browser, form, subject="Hello", body="Hello")).headers["location"]
    page = await show(browser, where)
    listed = await show(browser, page.link("All conversations with this customer"))
    assert "Conversations with Odd" in listed.text
    assert listed.link("Hello").endswith(where)
    found = await show(browser, "new/", q="Odd")
    assert "Choose another" in (await show(browser, found.link("Odd"))).text


async def test_opening_reads_it_for_the_admins_and_peeking_does_not(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    identity = (await anna.open(body="Hello?"))["id"]
    for path, headers in ((f"{identity}/?peek=true", {}), (f"{identity}/", {"Sec-Purpose": "prefetch"})):
        assert (await browser.get(ROOT + path, headers=headers)).status_code == 200
        assert not (await sam.peek(identity))["is_read_by_admin"]
    await anna.open(subject="Still unread")
    assert (await show(browser)).by_id("unread").one(aria_hidden="true").text == "2"
    page = await show(browser, f"{identity}/")
    assert page.by_id("unread").one(aria_hidden="true").text == "1"
    assert page.by_id("new").text == "New messages"
    assert (await sam.peek(identity))["is_read_by_admin"]
    assert not (await show(browser, f"{identity}/")).root.all(id="new")


async def test_marked_unread_it_is_so_in_the_list_that_follows(browser: Browser, anna: Caller, sam: Caller) -> None:
    identity, page = await opened(anna, browser)
    form = page.by_id("mark-unread")
    answer = await browser.submit(form["action"], **page.fields(form))
    assert (answer.status_code, answer.headers["location"]) == (303, ROOT)
    assert "unread" in (await show(browser)).by_id(f"c-{identity}").classes
    assert not (await sam.peek(identity))["is_read_by_admin"]


async def test_whoever_had_to_sign_in_to_mark_it_unread_comes_back_to_it_unread(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    identity = (await anna.open(body="Hello?"))["id"]
    back = await browser.get(f"{ROOT}{identity}/unread/")
    assert back.status_code == 303
    assert (await show(browser, back.headers["location"])).by_id("mark-unread")
    assert not (await sam.peek(identity))["is_read_by_admin"]


async def test_a_long_history_comes_in_pages_and_earlier_ones_read_nothing(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    identity, page = await opened(anna, browser, *(f"Message {number}" for number in range(2, 121)))
    assert page.by_id("reply")
    await browser.submit(page.by_id("mark-unread")["action"], **page.fields(page.by_id("mark-unread")))
    found = numbers(page)
    while "Show earlier messages" in page.text:
        page = await show(browser, page.link("Show earlier messages"))
        found = numbers(page) + found
        assert not page.root.all(id="reply")  # the newest message is not on the screen
    assert found == list(range(1, 121))
    assert not (await sam.peek(identity))["is_read_by_admin"]
    assert numbers(await show(browser, page.link("Back to the newest messages"))) == list(range(71, 121))


@pytest.mark.parametrize(
    ("typed", "status", "count"),
    [
        ({"reply_body": "Hello!"}, "AWAITING_USER", 2),
        ({"reply_body": "Hello!", "status": ["", "RESOLVED"]}, "RESOLVED", 2),
        ({"reply_body": "Hello!", "status": ["RESOLVED", "CLOSED"]}, "CLOSED", 2),
        ({"reply_body": "Hello!", "status": "OPEN"}, "OPEN", 2),
        ({"reply_body": " ", "status": ["CLOSED", ""]}, "CLOSED", 1),
        ({"status": "AWAITING_ADMIN"}, "AWAITING_ADMIN", 1),
    ],
)
async def test_a_reply_a_status_or_both_are_taken_and_the_last_status_wins(
    browser: Browser, anna: Caller, sam: Caller, typed: dict[str, str], status: str, count: int
) -> None:
    identity, page = await opened(anna, browser)
    answer = await fill(browser, page, **typed)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}{identity}/")
    found = await sam.peek(identity)
    assert (found["status"], found["message_count"]) == (status, count)


async def test_the_form_begins_at_automatic_and_has_a_button_for_each_way_to_send(
    browser: Browser, anna: Caller
) -> None:
    _, page = await opened(anna, browser)
    form = page.by_id("reply")
    options = form.one("select").all("option")
    assert (options[0]["value"], options[0].text) == ("", "automatic")
    assert [one["value"] for one in options[1:]] == [status.value for status in Status]
    assert not [one for one in options if "selected" in one]
    buttons = [(one.text, one.attributes.get("name"), one.attributes.get("value")) for one in form.all("button")]
    assert buttons == [
        ("Send", None, None),
        ("Send and resolve", "status", "RESOLVED"),
        ("Send and close", "status", "CLOSED"),
    ]
    sent = page.fields(form)
    assert set(sent) == {"csrf_token", "idempotency_key", "seen_number", "reply_body", "status"}
    assert sent["seen_number"] == "1"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"reply_body": " "}, "Write a reply, choose a status, or both."),
        ({"reply_body": "x" * 10_001}, "This is too long. Use at most 10000 characters."),
        ({"reply_body": "Fine", "status": "DONE"}, "Input should be"),
        ({"reply_body": "Fine", "subject": "Another"}, "Extra inputs are not permitted"),
    ],
)
async def test_an_edit_that_is_wrong_comes_back_with_what_was_typed_and_changes_nothing(
    browser: Browser, anna: Caller, sam: Caller, typed: dict[str, str], words: str
) -> None:
    identity, page = await opened(anna, browser)
    before = await sam.peek(identity)
    answer = await fill(browser, page, **typed)
    assert answer.status_code == 422
    again = Page(answer)
    assert words in again.text
    assert again.by_id("reply_body").value == typed["reply_body"]
    assert await sam.peek(identity) == before


async def test_the_second_submit_of_a_form_leads_to_the_first_result(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    identity, page = await opened(anna, browser)
    for _ in range(2):
        answer = await fill(browser, page, reply_body="Only once.", status=["", "RESOLVED"])
        assert answer.status_code == 303
    found = await sam.peek(identity)
    assert (found["message_count"], found["status"]) == (2, "RESOLVED")

    other_words = await fill(browser, page, reply_body="Not the same.")
    assert other_words.status_code == 422
    again = Page(other_words)
    assert again.by_id("reply_body").value == "Not the same."
    assert (await fill(browser, again)).status_code == 303
    assert (await sam.peek(identity))["message_count"] == 3


async def test_what_crosses_a_new_message_comes_back_with_it_and_with_the_draft(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    identity, page = await opened(anna, browser)
    await anna.post(identity, "It has just come!")
    answer = await fill(browser, page, reply_body="It will come.", status=["", "CLOSED"])
    assert answer.status_code == 409
    again = Page(answer)
    assert again.by_id("crossed").text.startswith("The customer sent a new message")
    assert bodies(again) == ["My parcel is late.", "It has just come!"]
    assert again.by_id("reply_body").value == "It will come."
    assert "The status “Closed” was not set. If it still applies, choose it again." in again.text
    assert again.fields(again.by_id("reply"))["status"] == ""
    assert (await sam.peek(identity))["status"] == "AWAITING_ADMIN"

    only_status = await fill(browser, page, status="CLOSED")
    assert only_status.status_code == 409
    assert (await sam.peek(identity))["status"] == "AWAITING_ADMIN"

    assert (await fill(browser, again)).status_code == 303
    assert (await sam.peek(identity))["status"] == "AWAITING_USER"


async def test_the_head_sets_the_status_and_nothing_else(browser: Browser, anna: Caller, sam: Caller) -> None:
    identity, page = await opened(anna, browser)
    form = page.by_id("set-status").one("form")
    assert [(one["name"], one["value"]) for one in form.all("button")] == [("status", one.value) for one in Status]
    sent = page.fields(form)
    assert set(sent) == {"csrf_token", "seen_number"}
    for status in Status:
        answer = await browser.submit(form["action"], **sent, status=status.value)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}{identity}/")
        again = await show(browser, f"{identity}/")
        assert again.by_id("status").one("span")["class"] == f"status {status.lower().replace('_', '-')}"
        assert again.fields(again.by_id("reply"))["status"] == ""
    assert (await sam.peek(identity))["message_count"] == 1

    await anna.post(identity, "It has just come!")
    crossed = await browser.submit(form["action"], **sent, status="RESOLVED")
    assert crossed.status_code == 409
    assert "The status “Resolved” was not set." in Page(crossed).text
    assert (await sam.peek(identity))["status"] == "AWAITING_ADMIN"


async def test_beside_earlier_messages_stands_the_status_and_no_way_to_set_it(browser: Browser, anna: Caller) -> None:
    _, page = await opened(anna, browser, *(f"Message {number}" for number in range(2, 53)))
    earlier = await show(browser, page.link("Show earlier messages"))
    assert earlier.by_id("status").text == "Customer replied"
    assert not earlier.root.all(id="set-status")


@pytest.mark.parametrize("status", ["RESOLVED", "DONE"])
async def test_the_status_of_a_refused_form_is_not_chosen_again(browser: Browser, anna: Caller, status: str) -> None:
    _, page = await opened(anna, browser)
    again = Page(await fill(browser, page, reply_body="x" * 10_001, status=["", status]))
    assert again.fields(again.by_id("reply"))["status"] == ""
    assert ("The status “Resolved” was not set." in again.text) is (status == "RESOLVED")


async def test_two_admins_who_answer_at_once_are_both_heard(
    browser: Browser, api: httpx2.AsyncClient, anna: Caller
) -> None:
    identity, page = await opened(anna, browser)
    async with signed_in(api, "kim") as another:
        theirs = await show(another, f"{identity}/")
        assert (await fill(browser, page, reply_body="One.")).status_code == 303
        assert (await fill(another, theirs, reply_body="Two.")).status_code == 303
    assert bodies(await show(browser, f"{identity}/"))[1:] == ["One.", "Two."]


async def test_under_each_own_message_stands_whether_it_was_read(browser: Browser, anna: Caller, sam: Caller) -> None:
    identity, _ = await opened(anna, browser)
    first = await sam.post(identity, "One.")
    await anna.get(f"/conversations/{identity}")
    second = await sam.post(identity, "Two.")
    page = await show(browser, f"{identity}/")
    assert page.root.one(data_message_id=first["id"]).text == "Read"
    assert page.root.one(data_message_id=second["id"]).text == "Not read yet"
    words = page.by_id("delivery-status-texts")
    assert (words["data-zone"], words["data-locale"]) == ("UTC", "en")
    assert "{time}" in words["data-scheduled"]


async def test_every_state_and_reason_of_a_mail_has_its_words(browser: Browser, anna: Caller) -> None:
    _, page = await opened(anna, browser)
    words = page.by_id("delivery-status-texts").attributes
    assert {f"data-{state}" for state in EmailState} | {f"data-why-{reason}" for reason in Reason} <= set(words)


@pytest.mark.parametrize("path", [f"{UNKNOWN_ID}/", "nonsense/", f"{UNKNOWN_ID}/delete/", f"{UNKNOWN_ID}/?earlier=x"])
async def test_what_is_not_there_is_a_page_that_says_so(browser: Browser, path: str) -> None:
    assert "Conversation not found" in (await show(browser, path, expect=404)).text


async def test_a_cursor_of_another_conversation_is_refused(browser: Browser, anna: Caller) -> None:
    identity, _ = await opened(anna, browser)
    await show(browser, f"{identity}/", expect=422, earlier="x")


@pytest.mark.parametrize("suffix", ["", "unread/", "delete/"])
async def test_a_form_without_the_sessions_own_field_changes_nothing(
    browser: Browser, anna: Caller, sam: Caller, suffix: str
) -> None:
    identity, page = await opened(anna, browser)
    await sam.edit(identity, status="CLOSED")
    before = await sam.peek(identity)
    fields = page.fields(page.by_id("reply")) | {"reply_body": "Hello", "csrf_token": "x"}
    assert (await browser.submit(f"{ROOT}{identity}/{suffix}", **fields)).status_code == 403
    assert await sam.peek(identity) == before


async def test_hostile_text_is_text_beside_and_within(browser: Browser, anna: Caller, shop: Caller) -> None:
    hostile = "<script>alert(1)</script> \"' javascript:alert(1) {{7*7}}"
    await shop.call("PUT", "/users/anna", {"name": hostile})
    await shop.call("PUT", "/orders/A-1", ORDER | {"number": hostile, "status": hostile})
    identity = (await anna.open(subject=hostile, body=hostile, order_id="A-1"))["id"]
    await anna.open(subject=hostile)
    page = await show(browser, f"{identity}/")
    assert page.root.one("h1").text == hostile
    assert bodies(page) == [hostile]
    assert hostile in page.by_id("context").text
    assert all("src" in one for one in page.root.all("script"))
    assert not [one for one in page.root.all("a") if one["href"].startswith("javascript")]
    crossed = await fill(browser, page, reply_body="</textarea><b>", status="x")
    assert Page(crossed).by_id("reply_body").value == "</textarea><b>"
