"""The admins' page of a conversation in a browser without scripts: reading, the edit form, marking as unread."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from sqlalchemy import text

from services.conversations.emails.status import write_statuses
from services.conversations.rules import Status
from services.notifications.rules import EmailState, Reason
from shared.database.transactions import SessionFactory, transaction
from shared.notifications_feed import EmailStatus
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import ORDER, UNKNOWN_ID, Caller
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import ROOT, fill, show, signed_in

ITEMS = [{"name": "Teapot <b>", "quantity": 2, "unit_price": "29.95"}]

EMAIL = "01920000-0000-7000-8000-000000000001"


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


def bodies(page: Page) -> list[str]:
    return [message.of_class("body")[0].text for message in page.by_id("messages").of_class("message")]


def numbers(page: Page) -> list[int]:
    return [int(message["data-number"]) for message in page.by_id("messages").of_class("message")]


async def opened(anna: Caller, browser: Browser, *more: str) -> tuple[str, Page]:
    """Open a conversation as a customer; return its id and an admin's page of it."""
    conversation_id = (await anna.open(subject="Where is it?", body="My parcel is late."))["id"]
    for body in more:
        await anna.post(conversation_id, body)
    return conversation_id, await show(browser, f"{conversation_id}/")


async def test_the_page_shows_the_history_the_customer_and_the_order(
    browser: Browser, anna: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER | {"url": "https://store.test/1007", "items": ITEMS})
    others = [(await anna.open(subject=f"Number {number}"))["id"] for number in range(7)]
    conversation_id = (await anna.open(subject="Where is it?", body="See https://store.test/?a=1", order_id="A-1"))[
        "id"
    ]
    await sam.edit(conversation_id, reply_body="On its way.\nReally.")

    page = await show(browser, f"{conversation_id}/")

    [panel] = page.root.of_class("MessageHistoryPanel")
    assert panel["data-component"] == "MessageHistoryPanel"
    assert bodies(page) == ["See https://store.test/?a=1", "On its way. Really."]
    assert panel.one("a", href="https://store.test/?a=1")["rel"] == "nofollow noopener noreferrer"
    context = page.by_id("context")
    for words in ("Anna", "anna@customer.test", "Order 1007", "Teapot <b>", "€29.95", "€59.90"):
        assert words in context.text
    assert page.link("Open the order") == "https://store.test/1007"
    assert page.link("All conversations with this customer").endswith(f"{ROOT}?user_id=anna")
    assert [link["href"] for link in context.of_class("others")[0].all("a")] == [
        f"{ROOT}{other}/" for other in others[:1:-1]
    ]
    thread = page.root.one("div", data_thread=conversation_id)
    assert (thread["data-side"], thread["data-read"]) == ("admin", "2")
    assert page.by_id("reply")["data-send"] == f"/api/v1/admin/conversations/{conversation_id}"
    assert page.answer.headers["x-position"]


async def test_the_stores_own_fields_stand_beside_the_thread_as_text_and_safe_links(
    browser: Browser, anna: Caller, shop: Caller
) -> None:
    custom = {
        "VIP <b>": True,
        "Phone": "+43 1 234567",
        "Profile": "https://store.test/c?a=1&b",
        "Bad": "javascript:alert(1)",
        "Note": "<script>x</script>",
        "Empty": None,
    }
    await shop.call("PUT", "/users/anna", {"name": "Anna", "email": "anna@store.test", "custom": custom})
    _, page = await opened(anna, browser)
    context = page.by_id("context")
    assert "anna@<wbr>store.test" in page.answer.text  # a narrow card breaks the line there
    for words in ("VIP <b>", "Yes", "<script>x</script>", "javascript:alert(1)"):
        assert words in context.text
    assert "Empty" not in context.text
    links = {link["href"]: link for link in context.all("a")}
    assert links["tel:+431234567"].text == "+43 1 234567"
    assert links["mailto:anna%40store.test"].text == "anna@store.test"
    assert links["https://store.test/c?a=1&b"]["rel"] == "nofollow noopener noreferrer"
    assert not [href for href in links if href.startswith("javascript")]


async def test_an_id_of_any_visible_characters_leads_to_its_conversations(browser: Browser, shop: Caller) -> None:
    user = "a&b=c#d/?%é"[:-1] + "+<"
    await shop.call("PUT", f"/users/{quote(user, safe='')}", {"name": "Odd"})
    form = await show(browser, "new/", user_id=user)
    where = (await fill(browser, form, subject="Hello", body="Hello")).headers["location"]
    page = await show(browser, where)
    listed = await show(browser, page.link("All conversations with this customer"))
    assert "Conversations with Odd" in listed.text
    assert where in listed.link("Hello")
    found = await show(browser, "new/", q="Odd")
    assert "Choose another" in (await show(browser, found.link("Odd"))).text


async def test_opening_marks_it_as_read_for_admins_and_peeking_does_not(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation_id = (await anna.open(body="Hello?"))["id"]
    for path, headers in ((f"{conversation_id}/?peek=true", {}), (f"{conversation_id}/", {"Sec-Purpose": "prefetch"})):
        assert (await browser.get(ROOT + path, headers=headers)).status_code == 200
        assert not (await sam.peek(conversation_id))["is_read_by_admin"]
    await anna.open(subject="Still unread")
    assert (await show(browser)).by_id("unread").one(aria_hidden="true").text == "2"
    page = await show(browser, f"{conversation_id}/")
    assert page.by_id("unread").one(aria_hidden="true").text == "1"
    assert page.by_id("new").text == "New messages"
    assert (await sam.peek(conversation_id))["is_read_by_admin"]
    assert not (await show(browser, f"{conversation_id}/")).root.all(id="new")


async def test_a_conversation_marked_unread_is_unread_in_the_following_list(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation_id, page = await opened(anna, browser)
    form = page.by_id("mark-unread")
    answer = await browser.submit(form["action"], **page.fields(form))
    assert (answer.status_code, answer.headers["location"]) == (303, ROOT)
    assert "unread" in (await show(browser)).by_id(f"c-{conversation_id}").classes
    assert not (await sam.peek(conversation_id))["is_read_by_admin"]


async def test_after_a_sign_in_on_the_way_to_marking_unread_the_conversation_is_still_unread(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation_id = (await anna.open(body="Hello?"))["id"]
    back = await browser.get(f"{ROOT}{conversation_id}/unread/")
    assert back.status_code == 303
    assert (await show(browser, back.headers["location"])).by_id("mark-unread")
    assert not (await sam.peek(conversation_id))["is_read_by_admin"]


async def test_a_long_history_is_paged_and_earlier_pages_mark_nothing_as_read(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation_id, page = await opened(anna, browser, *(f"Message {number}" for number in range(2, 121)))
    assert page.by_id("reply")
    await browser.submit(page.by_id("mark-unread")["action"], **page.fields(page.by_id("mark-unread")))
    found = numbers(page)
    while "Show earlier messages" in page.text:
        page = await show(browser, page.link("Show earlier messages"))
        found = numbers(page) + found
        assert not page.root.all(id="reply")  # the newest message is not shown
    assert found == list(range(1, 121))
    assert not (await sam.peek(conversation_id))["is_read_by_admin"]
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
        ({"reply_body": "Hello!", "status": ["", "KEEP"]}, "OPEN", 2),
    ],
)
async def test_a_reply_and_a_status_are_saved_and_the_last_status_wins(
    browser: Browser, anna: Caller, sam: Caller, typed: dict[str, str], status: str, count: int
) -> None:
    conversation_id, page = await opened(anna, browser)
    answer = await fill(browser, page, **typed)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}{conversation_id}/")
    found = await sam.peek(conversation_id)
    assert (found["status"], found["message_count"]) == (status, count)


async def test_the_form_starts_with_an_automatic_status_and_a_button_for_each_way_to_send(
    browser: Browser, anna: Caller
) -> None:
    _, page = await opened(anna, browser)
    form = page.by_id("reply")
    options = form.one("select").all("option")
    assert (options[0]["value"], options[0].text) == ("", "Status: automatic")
    assert [option["value"] for option in options[1:]] == [status.value for status in Status]
    assert not [option for option in options if "selected" in option]
    buttons = [
        (
            button.attributes.get("aria-label", button.text),
            button.attributes.get("name"),
            button.attributes.get("value"),
        )
        for button in form.all("button")
    ]
    assert buttons == [
        ("Send", None, None),
        ("Send and resolve", "status", "RESOLVED"),
        ("Send and close", "status", "CLOSED"),
        ("Send, keep status", "status", "KEEP"),
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
        ({"reply_body": " ", "status": "KEEP"}, "Write a reply, or choose another status."),
        ({"reply_body": "Fine", "subject": "Another"}, "Extra inputs are not permitted"),
    ],
)
async def test_an_invalid_edit_comes_back_with_what_was_typed_and_changes_nothing(
    browser: Browser, anna: Caller, sam: Caller, typed: dict[str, str], words: str
) -> None:
    conversation_id, page = await opened(anna, browser)
    before = await sam.peek(conversation_id)
    answer = await fill(browser, page, **typed)
    assert answer.status_code == 422
    again = Page(answer)
    assert words in again.text
    assert again.by_id("reply_body").value == typed["reply_body"]
    assert await sam.peek(conversation_id) == before


async def test_the_second_submit_of_a_form_leads_to_the_first_result(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation_id, page = await opened(anna, browser)
    for _ in range(2):
        answer = await fill(browser, page, reply_body="Only once.", status=["", "RESOLVED"])
        assert answer.status_code == 303
    found = await sam.peek(conversation_id)
    assert (found["message_count"], found["status"]) == (2, "RESOLVED")

    other_words = await fill(browser, page, reply_body="Not the same.")
    assert other_words.status_code == 422
    again = Page(other_words)
    assert again.by_id("reply_body").value == "Not the same."
    assert (await fill(browser, again)).status_code == 303
    assert (await sam.peek(conversation_id))["message_count"] == 3


async def test_an_edit_that_crosses_a_new_message_comes_back_with_the_message_and_the_draft(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation_id, page = await opened(anna, browser)
    await anna.post(conversation_id, "It has just come!")
    answer = await fill(browser, page, reply_body="It will come.", status=["", "CLOSED"])
    assert answer.status_code == 409
    again = Page(answer)
    assert again.by_id("crossed").text.startswith("The customer sent a new message")
    assert bodies(again) == ["My parcel is late.", "It has just come!"]
    assert again.by_id("reply_body").value == "It will come."
    assert "The status “Closed” was not set. If it still applies, choose it again." in again.text
    assert again.fields(again.by_id("reply"))["status"] == ""
    assert (await sam.peek(conversation_id))["status"] == "AWAITING_ADMIN"

    only_status = await fill(browser, page, status="CLOSED")
    assert only_status.status_code == 409
    assert (await sam.peek(conversation_id))["status"] == "AWAITING_ADMIN"

    assert (await fill(browser, again)).status_code == 303
    assert (await sam.peek(conversation_id))["status"] == "AWAITING_USER"


async def test_a_form_that_expects_another_status_comes_back(browser: Browser, anna: Caller, sam: Caller) -> None:
    conversation_id, page = await opened(anna, browser)
    await sam.edit(conversation_id, status="CLOSED")
    answer = await fill(browser, page, reply_body="Well.", status="RESOLVED", expected_status="OPEN")
    assert answer.status_code == 409
    again = Page(answer)
    assert "Somebody else has changed the status" in again.text
    assert again.by_id("reply_body").value == "Well."
    assert (await sam.peek(conversation_id))["status"] == "CLOSED"


async def test_the_header_form_sets_only_the_status(browser: Browser, anna: Caller, sam: Caller) -> None:
    conversation_id, page = await opened(anna, browser)
    form = page.by_id("set-status").one("form")
    assert [(button["name"], button["value"]) for button in form.all("button")] == [
        ("status", status.value) for status in Status
    ]
    sent = page.fields(form)
    assert set(sent) == {"csrf_token", "seen_number"}
    for status in Status:
        answer = await browser.submit(form["action"], **sent, status=status.value)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}{conversation_id}/")
        again = await show(browser, f"{conversation_id}/")
        assert again.by_id("status").one("span")["class"] == f"status {status.lower().replace('_', '-')}"
        assert again.fields(again.by_id("reply"))["status"] == ""
    assert (await sam.peek(conversation_id))["message_count"] == 1

    await anna.post(conversation_id, "It has just come!")
    crossed = await browser.submit(form["action"], **sent, status="RESOLVED")
    assert crossed.status_code == 409
    assert "The status “Resolved” was not set." in Page(crossed).text
    assert (await sam.peek(conversation_id))["status"] == "AWAITING_ADMIN"


async def test_pages_of_earlier_messages_show_the_status_but_cannot_set_it(browser: Browser, anna: Caller) -> None:
    _, page = await opened(anna, browser, *(f"Message {number}" for number in range(2, 53)))
    earlier = await show(browser, page.link("Show earlier messages"))
    assert earlier.by_id("status").text == "Customer replied"
    assert not earlier.root.all(id="set-status")


@pytest.mark.parametrize("status", ["RESOLVED", "DONE"])
async def test_a_rejected_forms_status_is_not_chosen_again(browser: Browser, anna: Caller, status: str) -> None:
    _, page = await opened(anna, browser)
    again = Page(await fill(browser, page, reply_body="x" * 10_001, status=["", status]))
    assert again.fields(again.by_id("reply"))["status"] == ""
    assert ("The status “Resolved” was not set." in again.text) is (status == "RESOLVED")


async def test_two_admins_who_reply_at_once_both_succeed(
    browser: Browser, api: httpx2.AsyncClient, anna: Caller
) -> None:
    conversation_id, page = await opened(anna, browser)
    async with signed_in(api, "kim") as another:
        theirs = await show(another, f"{conversation_id}/")
        assert (await fill(browser, page, reply_body="One.")).status_code == 303
        assert (await fill(another, theirs, reply_body="Two.")).status_code == 303
    assert bodies(await show(browser, f"{conversation_id}/"))[1:] == ["One.", "Two."]


async def test_each_own_message_shows_whether_it_was_read(browser: Browser, anna: Caller, sam: Caller) -> None:
    conversation_id, _ = await opened(anna, browser)
    first = await sam.post(conversation_id, "One.")
    await anna.get(f"/conversations/{conversation_id}")
    second = await sam.post(conversation_id, "Two.")
    page = await show(browser, f"{conversation_id}/")
    assert status_of(page, first) == "Read"
    assert status_of(page, second) == "Not read yet"
    [root] = page.root.all("html")
    assert (root["data-zone"], root["data-locale"]) == ("UTC", "en")


def status_of(page: Page, message: dict[str, str]) -> str:
    """Return what a message's line says of reading and email."""
    [line] = page.root.one(data_id=message["id"]).of_class("delivery-status")
    return line.text


async def tell(sessions: SessionFactory, conversation_id: str, **status: Any) -> None:
    """Write what became of an email with the message number 2."""
    values = {"email_id": EMAIL, "to": "customer", "numbers": [2], "reason": None, "at": "2026-11-29T10:04:00Z"}
    async with transaction(sessions) as session:
        told = EmailStatus.model_validate({**values, "conversation_id": conversation_id, **status})
        await write_statuses(session, [told], live=True)


async def test_a_message_shows_what_became_of_its_email(
    browser: Browser, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation_id, _ = await opened(anna, browser)
    second = await sam.post(conversation_id, "Two.")

    async def shown(state: str, reason: str | None = None) -> str:
        await tell(conversations, conversation_id, state=state, reason=reason)
        return status_of(await show(browser, f"{conversation_id}/"), second)

    assert (await shown("sent")).startswith("Not read yet. Email sent")
    assert await shown("suppressed", "no-address") == (
        "Not read yet. No email will be sent. The customer has no email address."
    )
    reasons = [await shown("failed", reason) for reason in Reason]
    assert len({*reasons}) == len(Reason), "each has a text of its own"
    assert all(text.startswith("The email failed. ") and text.endswith(" Send again") for text in reasons)
    assert len({await shown(state) for state in EmailState}) == len(EmailState)
    assert await shown("scheduled", "rate-limited") == (
        "Not read yet. This address has reached its email limit. The email will be sent later."
    )
    assert await shown("unknown-yet") == "Not read yet"
    await anna.get(f"/conversations/{conversation_id}")
    assert await shown("failed", "rejected") == "Read"
    assert (await shown("sent")).startswith("Read. Email sent")


async def test_an_email_is_told_under_its_messages_only(
    browser: Browser, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation_id, _ = await opened(anna, browser)
    second, third = await sam.post(conversation_id, "Two."), await sam.post(conversation_id, "Three.")
    await tell(conversations, conversation_id, state="sent", to="support")
    page = await show(browser, f"{conversation_id}/")
    assert status_of(page, second) == "Not read yet", "the email to the support inbox is another one"
    await tell(conversations, conversation_id, email_id=UNKNOWN_ID, state="failed", reason="rejected")
    page = await show(browser, f"{conversation_id}/")
    assert status_of(page, second).startswith("The email failed.")
    await tell(conversations, conversation_id, email_id=UNKNOWN_ID, state="bounced", reason="mailbox-unknown")
    page = await show(browser, f"{conversation_id}/")
    assert status_of(page, second) == "The email bounced. The mailbox does not exist. Send again"
    assert status_of(page, third) == "Not read yet"
    assert not page.root.of_class("email")
    assert page.by_id("emails-known").text == ""


async def test_removing_a_message_says_that_it_was_emailed(
    browser: Browser, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation_id, _ = await opened(anna, browser)
    second = await sam.post(conversation_id, "Two.")
    for state, is_said in (("scheduled", False), ("sent", True)):
        await tell(conversations, conversation_id, state=state)
        message = (await show(browser, f"{conversation_id}/")).root.one(data_id=second["id"])
        assert ("already been emailed" in message.of_class("message-menu")[0].text) is is_said
    await sam.call("DELETE", f"/conversations/{conversation_id}/messages/{second['id']}")
    message = (await show(browser, f"{conversation_id}/")).root.one(data_id=second["id"])
    assert message.of_class("removed")[0].text == "Removed"
    assert message.of_class("removed-late")[0].text == "It had already been emailed."


async def test_the_composer_says_that_the_next_email_will_not_go_out_either(
    browser: Browser, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation_id, _ = await opened(anna, browser)
    await sam.post(conversation_id, "Two.")
    for state, reason, said in (
        ("suppressed", "no-smtp", ""),  # until the sweeper says that it is over: `emails/test_stops.py`
        ("suppressed", "read", ""),
        ("failed", "rejected", ""),
        ("suppressed", "own-address", "No email will be sent. This address belongs to the store."),
        ("suppressed", "muted", ""),
    ):
        await tell(conversations, conversation_id, state=state, reason=reason)
        text = (await show(browser, f"{conversation_id}/")).by_id("no-email").text
        assert text.startswith(said)
        assert bool(text) is bool(said)


async def test_a_page_says_until_when_emails_are_known(
    browser: Browser, anna: Caller, conversations: SessionFactory
) -> None:
    conversation_id, _ = await opened(anna, browser)
    async with transaction(conversations) as session:
        await session.execute(text("update notifications_cursor set caught_up_at = '2026-01-02 10:04Z'"))
    page = await show(browser, f"{conversation_id}/")
    assert page.by_id("emails-known").text.startswith("The status of emails is known until")


@pytest.mark.parametrize("path", [f"{UNKNOWN_ID}/", "nonsense/", f"{UNKNOWN_ID}/delete/", f"{UNKNOWN_ID}/?earlier=x"])
async def test_a_missing_conversation_gives_an_error_page(browser: Browser, path: str) -> None:
    assert "Conversation not found" in (await show(browser, path, expect=404)).text


async def test_a_cursor_of_another_conversation_is_rejected(browser: Browser, anna: Caller) -> None:
    conversation_id, _ = await opened(anna, browser)
    await show(browser, f"{conversation_id}/", expect=422, earlier="x")


@pytest.mark.parametrize("suffix", ["", "unread/", "delete/"])
async def test_a_form_without_the_csrf_token_changes_nothing(
    browser: Browser, anna: Caller, sam: Caller, suffix: str
) -> None:
    conversation_id, page = await opened(anna, browser)
    await sam.edit(conversation_id, status="CLOSED")
    before = await sam.peek(conversation_id)
    fields = page.fields(page.by_id("reply")) | {"reply_body": "Hello", "csrf_token": "x"}
    assert (await browser.submit(f"{ROOT}{conversation_id}/{suffix}", **fields)).status_code == 403
    assert await sam.peek(conversation_id) == before


async def test_hostile_text_is_escaped_in_messages_and_context(browser: Browser, anna: Caller, shop: Caller) -> None:
    hostile = "<script>alert(1)</script> \"' javascript:alert(1) {{7*7}}"
    await shop.call("PUT", "/users/anna", {"name": hostile})
    await shop.call("PUT", "/orders/A-1", ORDER | {"number": hostile, "status": hostile})
    conversation_id = (await anna.open(subject=hostile, body=hostile, order_id="A-1"))["id"]
    await anna.open(subject=hostile)
    page = await show(browser, f"{conversation_id}/")
    assert page.root.one("h1").text == hostile
    assert bodies(page) == [hostile]
    assert hostile in page.by_id("context").text
    assert all("src" in script for script in page.root.all("script"))
    assert not [link for link in page.root.all("a") if link["href"].startswith("javascript")]
    crossed = await fill(browser, page, reply_body="</textarea><b>", status="x")
    assert Page(crossed).by_id("reply_body").value == "</textarea><b>"
