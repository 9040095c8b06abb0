"""Deletion pages: they list what will be deleted, explain refusals, and let admins skip conversations."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx2
import pytest

from shared.database.transactions import SessionFactory
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller, logged
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import ROOT, fill, show, signed_in


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


async def closed(anna: Caller, sam: Caller, subject: str = "Closed") -> str:
    conversation_id = str((await anna.open(subject=subject, body="Hello?"))["id"])
    await sam.edit(conversation_id, reply_body="Bye.", status="CLOSED")
    return conversation_id


async def left(sam: Caller) -> set[str]:
    return {conversation["subject"] for conversation in (await sam.get("/conversations", limit=100))["items"]}


async def test_a_conversation_is_deleted_after_a_confirmation_page(
    browser: Browser, anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation_id = await closed(anna, sam)
    page = await show(browser, (await show(browser, f"{conversation_id}/")).link("Delete this conversation …"))
    assert "Delete this conversation?" in page.text
    assert "Closed Anna Closed 2 messages" in page.text
    assert await left(sam) == {"Closed"}  # nothing is deleted yet

    answer = await fill(browser, page)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}?deleted=1")
    assert await left(sam) == set()
    assert (await logged(conversations))[-1][0] == "conversation.deleted"

    again = await fill(browser, page)
    assert (again.status_code, again.headers["location"]) == (303, f"{ROOT}?deleted=0")
    await show(browser, f"{conversation_id}/delete/", expect=404)


async def test_a_conversation_that_is_not_closed_is_rejected_with_the_reason(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    conversation_id = (await anna.open(subject="Open"))["id"]
    thread = await show(browser, f"{conversation_id}/")
    assert "Only closed conversations can be deleted." in thread.by_id("context").text
    page = await show(browser, f"{conversation_id}/delete/")
    assert "This one is not closed" in page.by_id("refused").text
    answer = await fill(browser, page)
    assert answer.status_code == 409
    assert "Nothing was deleted." in Page(answer).by_id("refused").text
    assert await left(sam) == {"Open"}


async def test_several_conversations_are_deleted_together(browser: Browser, anna: Caller, sam: Caller) -> None:
    ids = [await closed(anna, sam, f"Number {number}") for number in range(3)]
    page = await show(browser, "bulk-delete/", ids=[*ids, ids[0], str(uuid4()), "nonsense"])
    assert "Delete 3 conversations?" in page.text
    assert "6 messages will be deleted" in page.text
    answer = await fill(browser, page)
    assert answer.headers["location"] == f"{ROOT}?deleted=3"
    assert await left(sam) == set()
    assert (await show(browser, answer.headers["location"])).by_id("notice").text == "3 conversations deleted."


async def test_one_open_conversation_rejects_the_deletion_of_all_and_can_be_skipped(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    ids = [await closed(anna, sam, subject) for subject in ("First", "Second")]
    ids.insert(1, (await anna.open(subject="Open <one>"))["id"])
    page = await show(browser, "bulk-delete/", ids=ids)
    answer = await fill(browser, page)
    assert answer.status_code == 409
    refusal = Page(answer)
    assert refusal.by_id("refused").text.startswith(
        "Nothing was deleted. Only closed conversations can be deleted. This one is not closed"
    )
    named = [heading.text for heading in refusal.root.of_class("to-delete")[0].all("h2")]
    assert named == ["Open <one>"]
    assert await left(sam) == {"First", "Open <one>", "Second"}

    assert refusal.by_id("leave-out").text == "Skip it and delete the other 2 conversations"
    rest = await fill(browser, refusal)
    assert rest.headers["location"] == f"{ROOT}?deleted=2"
    assert await left(sam) == {"Open <one>"}


async def test_open_conversations_can_be_skipped_in_advance(browser: Browser, anna: Caller, sam: Caller) -> None:
    ids = [await closed(anna, sam), (await anna.open(subject="Open"))["id"]]
    page = await show(browser, "bulk-delete/", ids=ids)
    rest = await show(browser, page.link("Skip conversations that are not closed"))
    assert not rest.root.all(id="refused")
    assert (await fill(browser, rest)).headers["location"] == f"{ROOT}?deleted=1"
    assert await left(sam) == {"Open"}


async def test_when_all_are_rejected_there_is_nothing_to_skip(browser: Browser, anna: Caller, sam: Caller) -> None:
    ids = [(await anna.open(subject=subject))["id"] for subject in ("One", "Two")]
    answer = await fill(browser, await show(browser, "bulk-delete/", ids=ids))
    assert answer.status_code == 409
    refusal = Page(answer)
    assert "These 2 are not closed" in refusal.text
    assert not refusal.root.all(id="leave-out")
    assert refusal.root.one("main").all("form", method="post") == []
    assert await left(sam) == {"One", "Two"}


async def test_an_empty_selection_and_too_large_ones_are_explained(browser: Browser, anna: Caller, sam: Caller) -> None:
    assert "Nothing selected" in (await show(browser, "bulk-delete/")).text
    page = await show(browser, "bulk-delete/", ids=await closed(anna, sam))
    csrf = page.fields(page.root.one("main").one("form", method="post"))["csrf_token"]
    none = await browser.submit(f"{ROOT}bulk-delete/", csrf_token=csrf)
    assert (none.status_code, "Nothing selected" in none.text) == (422, True)

    many = [str(uuid4()) for _ in range(101)]
    assert (
        "You selected 101 conversations. Select at most 100."
        in (await show(browser, "bulk-delete/", expect=422, ids=many)).text
    )
    answer = await browser.submit(f"{ROOT}bulk-delete/", csrf_token=csrf, ids=many)
    assert (answer.status_code, "You selected 101 conversations" in answer.text) == (422, True)
    gone = await browser.submit(f"{ROOT}bulk-delete/", csrf_token=csrf, ids=many[:100])
    assert gone.headers["location"] == f"{ROOT}?deleted=0"
    assert "Nothing left to delete" in (await show(browser, "bulk-delete/", ids=many[:2])).text
    assert await left(sam) == {"Closed"}


async def test_a_customer_cannot_delete(browser: Browser, anna: Caller, sam: Caller) -> None:
    conversation_id = await closed(anna, sam)
    page = await show(browser, f"{conversation_id}/delete/")
    await browser.sign_in("anna")
    csrf = browser.claims["csrf"]
    for path in (f"{conversation_id}/delete/", "bulk-delete/"):
        assert (await browser.submit(ROOT + path, csrf_token=csrf, ids=conversation_id)).status_code == 403
    assert (await fill(browser, page)).status_code == 403
    assert await left(sam) == {"Closed"}
