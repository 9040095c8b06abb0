"""The page of the audit, without scripts."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.conversations.web.routes import audit
from tests.service.audit.test_recording import empty_audit
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import signed_in
from tests.service.helpers.recorded_statements import statements, without_transactions

__all__ = ["empty_audit"]
ROOT = "/admin/audit/"


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser, whose sign-in is the first entry."""
    async with signed_in(api) as new:
        yield new


def rows(page: Page) -> list[str]:
    return [row.text for row in page.root.one("tbody").all("tr")]


async def test_entries_are_shown_in_words_and_found_by_filters(
    browser: Browser, anna: Caller, sam: Caller, kim: Caller
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await kim.edit(conversation, status="CLOSED")
    await sam.call("DELETE", f"/conversations/{conversation}")
    deleted, closed, begun = rows(Page(await browser.get(ROOT)))
    assert "Sam sam deleted a conversation" in deleted
    assert "Kim kim set the status New → Closed" in closed
    assert "signed in" in begun
    for query, count in (
        ("actor=kim", 1),
        (f"conversation_id={conversation}", 2),
        ("action=session.begun", 1),
        ("action=unknown", 3),
    ):
        assert len(rows(Page(await browser.get(f"{ROOT}?{query}")))) == count
    page = Page(await browser.get(f"{ROOT}?actor=nobody"))
    assert "Nothing is recorded" in page.text


async def test_people_are_named_beside_their_ids_until_they_are_erased(
    browser: Browser, anna: Caller, sam: Caller, kim: Caller, shop: Caller
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    await kim.get("/conversations")
    await sam.call("PUT", f"/conversations/{conversation}/assignee", {"admin_id": "kim"})
    await shop.call("DELETE", "/users/anna/sessions")
    query = f"{ROOT}?conversation_id={conversation}"
    assert "→ Kim kim" in rows(Page(await browser.get(query)))[0]
    assert "signed a user out Anna anna" in Page(await browser.get(ROOT)).text
    await shop.call("DELETE", "/users/kim")
    assert "Kim" not in rows(Page(await browser.get(query)))[0]


async def test_what_is_no_id_is_said(browser: Browser) -> None:
    assert "<tbody" not in (await browser.get(f"{ROOT}?actor=%00")).text
    answer = await browser.get(f"{ROOT}?conversation_id=nonsense")
    assert answer.status_code == 422
    assert "not the id of a conversation" in Page(answer).root.one(role="alert").text


async def test_older_entries_are_on_further_pages_with_the_same_filter(
    browser: Browser, anna: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)
    conversation = (await anna.open(body="Hello?"))["id"]
    for status in ("CLOSED", "OPEN", "CLOSED"):
        await sam.edit(conversation, status=status)
    page = Page(await browser.get(f"{ROOT}?action=conversation.status"))
    assert len(rows(page)) == 2
    older = Page(await browser.get(page.link("Older")))
    assert len(rows(older)) == 1
    assert "Older" not in older.text


async def test_the_page_takes_three_statements(browser: Browser, conversations_engine: AsyncEngine) -> None:
    async with statements(conversations_engine) as recorded:
        await browser.get(ROOT)
    assert len(without_transactions(recorded)) == 3, recorded
