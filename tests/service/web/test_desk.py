"""The desk in a browser without scripts: notes, assignment, labels, and removing a message."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import ROOT, listed, show, signed_in


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


async def submit(browser: Browser, page: Page, act: str, **typed: str) -> Page:
    """Submit the first form of a kind; return the page that it leads to."""
    form = page.root.all("form", **{"data-act": act})[0]
    answer = await browser.submit(form["action"], **{**page.fields(form), **typed})
    assert answer.status_code == 303, answer.text
    return Page(await browser.get(answer.headers["location"]))


def entries(page: Page) -> list[str]:
    return [entry.text for entry in page.by_id("messages").of_class("entry")]


async def test_a_conversation_is_assigned_labelled_and_noted_without_scripts(
    browser: Browser, anna: Caller, kim: Caller
) -> None:
    await kim.get("/admins")
    conversation = (await anna.open(body="Hello?"))["id"]
    page = await show(browser, f"{conversation}/?status=OPEN&unread=false")
    page = await submit(browser, page, "assign", admin_id="kim")
    assert str(page.answer.url).endswith("?status=OPEN&unread=false")  # the list that the conversation was opened from
    page = await submit(browser, page, "add-label", add="<b>late")
    page = await submit(browser, page, "note", body="Called her. See https://store.test/?a=1", mentions="kim")
    chosen = [option["value"] for option in page.by_id("assignee").all("option") if "selected" in option]
    assert chosen == ["kim"]
    assert [item.text for item in page.root.of_class("label-list")[0].all("bdi")] == ["<b>late"]
    assigned, labelled, note = entries(page)
    assert "assigned this to Kim" in assigned
    assert "added the label <b>late" in labelled
    assert "Called her." in note
    assert "Notified: Kim" in note
    page = await submit(browser, page, "remove-label")
    assert not page.root.of_class("label-list")
    page = await submit(browser, page, "delete-note")
    assert "deleted a note" in entries(page)[2]
    assert "Called her." not in page.answer.text


@pytest.mark.parametrize(
    ("act", "field", "text", "words"),
    [
        ("note", "body", " ", "Please fill this in."),
        ("note", "body", "  1 < 2\n" + "x" * 10_000, "This is too long. Use at most 10000 characters."),
        ("add-label", "add", "<b>" + "x" * 48, "This is too long. Use at most 50 characters."),
        ("add-label", "add", "one too many", "A conversation can have up to 20 labels; this one would have 21."),
    ],
)
async def test_a_wrong_note_or_label_comes_back_with_what_to_correct(
    browser: Browser, anna: Caller, sam: Caller, kim: Caller, act: str, field: str, text: str, words: str
) -> None:
    await kim.get("/admins")
    conversation = (await anna.open(body="Hello?"))["id"]
    await sam.call("PATCH", f"/conversations/{conversation}/labels", {"add": [f"label {n}" for n in range(20)]})
    page = await show(browser, f"{conversation}/?status=OPEN")
    form = page.root.all("form", **{"data-act": act})[0]
    typed = {**page.fields(form), field: text} | ({"mentions": ["kim"]} if act == "note" else {})
    answer = await browser.submit(form["action"], **typed)
    assert answer.status_code == 422
    page = Page(answer)
    form = page.root.all("form", **{"data-act": act})[0]
    assert page.by_id(f"{field}-error").text == words
    assert page.fields(form)[field].strip("\n") == text.strip("\n")
    assert page.fields(form).get("mentions") == typed.get("mentions")
    corrected = await submit(browser, page, act, **{field: "label 1" if act == "add-label" else "Correct"})
    assert str(corrected.answer.url).endswith("?status=OPEN")
    listed = (await sam.get("/labels"))["items"]
    assert len(listed) == 20, "nothing of what was rejected was saved"


async def test_a_wrong_assignee_is_said_on_a_page(browser: Browser, anna: Caller) -> None:
    page = await show(browser, f"{(await anna.open(body='Hello?'))['id']}/")
    form = page.root.all("form", **{"data-act": "assign"})[0]
    answer = await browser.submit(form["action"], **{**page.fields(form), "admin_id": "nobody"})
    assert answer.status_code == 422
    assert "Nothing was saved" in answer.text
    assert "Go back, correct what you entered, and try again." in answer.text


async def test_of_two_admins_who_claim_a_conversation_on_its_page_the_first_gets_it(
    browser: Browser, anna: Caller, kim: Caller
) -> None:
    await kim.get("/admins")
    conversation = (await anna.open(body="Hello?"))["id"]
    page = await show(browser, f"{conversation}/")
    await kim.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": "kim", "expected": None})
    assert "hidden" in page.by_id("assignee-changed")
    form = page.root.all("form", **{"data-act": "assign"})[0]
    page = Page(await browser.submit(form["action"], **{**page.fields(form), "admin_id": "sam"}))
    assert page.answer.status_code == 409
    assert "hidden" not in page.by_id("assignee-changed")
    assert [option["value"] for option in page.by_id("assignee").all("option") if "selected" in option] == ["kim"]
    page = await submit(browser, page, "assign", admin_id="sam")
    assert [option["value"] for option in page.by_id("assignee").all("option") if "selected" in option] == ["sam"]


async def test_the_composer_says_why_no_email_will_go_out(browser: Browser, anna: Caller, shop: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    assert "hidden" in (await show(browser, f"{conversation}/")).by_id("no-email")
    await shop.call("PUT", "/users/anna", {"name": "Anna", "email": None})
    hint = (await show(browser, f"{conversation}/")).by_id("no-email")
    assert hint.text == "No email will be sent. The customer has no email address."
    await shop.call("DELETE", "/users/anna")
    hint = (await show(browser, f"{conversation}/")).by_id("no-email")
    assert hint.text == "No email will be sent. The customer was deleted."


async def test_a_second_submit_of_a_note_adds_nothing(browser: Browser, anna: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    page = await show(browser, f"{conversation}/")
    for _ in range(2):
        shown = await submit(browser, page, "note", body="Only once")
    assert len(entries(shown)) == 1


async def test_in_a_large_team_the_others_are_in_a_list(browser: Browser, anna: Caller, shop: Caller) -> None:
    for number in range(52):
        await shop.call("PUT", f"/users/admin{number:02}", {"name": f"Admin {number:02}", "role": "admin"})
    conversation = (await anna.open(body="Hello?"))["id"]
    page = await show(browser, f"{conversation}/")
    group = page.root.of_class("mentions")[0]
    assert len(group.all("input", type="checkbox")) == 50
    assert [option["value"] for option in group.all("option")] == ["admin50", "admin51"]
    page = await submit(browser, page, "note", body="Look", mentions="admin51")
    assert "Notified: Admin 51" in entries(page)[0]


async def test_invalid_forms_say_what_is_wrong(browser: Browser, anna: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    page = await show(browser, f"{conversation}/")
    csrf = page.fields(page.by_id("reply"))["csrf_token"]
    forms: dict[str, dict[str, Any]] = {
        "labels/": {"add": "x" * 51},
        "assignee/": {"admin_id": "anna"},
        "notes/": {"body": " "},
    }
    for path, typed in forms.items():
        answer = await browser.submit(f"{ROOT}{conversation}/{path}", csrf_token=csrf, **typed)
        assert answer.status_code == 422
        assert "<h1" in answer.text


async def test_a_removed_message_shows_as_removed_on_both_sides(browser: Browser, anna: Caller) -> None:
    conversation = (await anna.open(body="4242 4242 4242 4242"))["id"]
    page = await submit(browser, await show(browser, f"{conversation}/"), "remove-message")
    [message] = page.by_id("messages").of_class("message")
    assert message.of_class("removed")[0].text == "Removed"
    assert "4242" not in page.answer.text
    assert not message.of_class("message-menu")


async def test_entries_stand_after_their_message_also_among_earlier_ones(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation = (await anna.open(body="1"))["id"]
    await sam.call("POST", f"/conversations/{conversation}/notes", {"body": "after 1"})
    for number in range(2, 54):
        await anna.post(conversation, str(number))
    await sam.call("POST", f"/conversations/{conversation}/notes", {"body": "after 53"})
    page = await show(browser, f"{conversation}/")
    assert [("53" in entry, "after 1" in entry) for entry in entries(page)] == [(True, False)]
    earlier = Page(await browser.get(page.by_id("earlier").one("a")["href"]))
    assert len(entries(earlier)) == 1
    items = [item["id"][0] for item in earlier.by_id("messages").all("li") if item["id"][0] in "me"]
    assert items == ["m", "e", "m", "m"]


async def test_the_inbox_filters_by_assignee_and_label_and_shows_both(
    browser: Browser, anna: Caller, sam: Caller, kim: Caller
) -> None:
    talks = {name: (await anna.open(subject=name, body="Hello?"))["id"] for name in ("Mine", "Kim's", "Nobody's")}
    await sam.call("PUT", f"/conversations/{talks['Mine']}/assignee", {"admin_id": "sam"})
    await kim.post(talks["Kim's"], "I am looking into it.")
    await sam.call("PATCH", f"/conversations/{talks['Mine']}/labels", {"add": ["late"]})

    page = await show(browser, "")
    rows = {row.one("h2").one("a").text: row.text for row in page.root.of_class("row")}
    assert "late" in rows["Mine"]
    assert "Assigned to you" in rows["Mine"]
    assert "Assigned to Kim" in rows["Kim's"]
    assert "Assigned to" not in rows["Nobody's"]
    for link, expected in (("view-mine", ["Mine"]), ("view-unassigned", ["Nobody's"]), ("assigned-me", ["Mine"])):
        assert listed(Page(await browser.get(page.by_id(link)["href"]))) == expected
    filtered = Page(await browser.get(page.by_id("assigned-to-kim")["href"]))
    assert listed(filtered) == ["Kim's"]
    assert "Assigned to Kim" in filtered.by_id("without-assignee").text
    assert listed(Page(await browser.get(filtered.by_id("without-assignee")["href"]))) == ["Kim's", "Nobody's", "Mine"]
    assert listed(Page(await browser.get(filtered.by_id("assigned-me")["href"]))) == ["Mine"]
    assert listed(await show(browser, "", label="LATE")) == ["Mine"]
    assert listed(await show(browser, "", label="unknown")) == []
