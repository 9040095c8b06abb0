"""Changes of the selected conversations in a browser without scripts."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import ROOT, show, signed_in


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


async def choose(browser: Browser, page: Page, ids: list[str], **fields: Any) -> Page:
    """Select conversations and submit the form; return the page that it leads to."""
    for conversation_id in ids:
        page.by_id(f"pick-{conversation_id}").attributes["checked"] = ""
    bulk = page.by_id("bulk")
    answer = await browser.submit(bulk["action"], **{**page.fields(bulk), **fields})
    assert answer.status_code == 303, answer.text
    return Page(await browser.get(answer.headers["location"]))


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"do": "resolve"}, {"status": "RESOLVED"}),
        ({"do": "close"}, {"status": "CLOSED"}),
        ({"do": "read"}, {"is_read_by_admin": True}),
        ({"do": "mine"}, {"assignee": {"id": "sam", "name": "Sam"}}),
        ({"do": "label", "label": "late"}, {"labels": ["late"]}),
    ],
)
async def test_the_selected_conversations_are_changed(
    browser: Browser, anna: Caller, sam: Caller, fields: dict[str, str], changed: dict[str, Any]
) -> None:
    one, other, third = [(await anna.open(body="Hello?"))["id"] for _ in range(3)]
    page = await choose(browser, await show(browser, "?status=OPEN"), [one, other], **fields)
    assert page.by_id("notice").text == "2 conversations changed."
    assert "status=OPEN" in str(page.answer.url)  # the list that they were selected in
    for conversation in (one, other):
        assert (await sam.peek(conversation)).items() >= changed.items()
    assert not (await sam.peek(third)).items() >= changed.items()


async def test_a_conversation_with_a_message_after_the_list_was_shown_is_left_alone(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    older, newer = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    page = await show(browser)
    await anna.post(older, "One more thing")
    page = await choose(browser, page, [older, newer], do="resolve")
    assert page.by_id("notice").text == "1 conversation changed. 1 has newer messages and was left alone."
    assert (await sam.peek(older))["status"] == "AWAITING_ADMIN"
    assert (await sam.peek(newer))["status"] == "RESOLVED"


async def test_invalid_choices_are_rejected(browser: Browser, anna: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    page = await show(browser)
    fields = page.fields(page.by_id("bulk")) | {"ids": [conversation]}
    for wrong in ({"do": "sing"}, {"do": "label", "label": " "}, {"do": "read", "as_of": "now"}):
        answer = await browser.submit(f"{ROOT}bulk/", **{**fields, **wrong})
        assert answer.status_code == 422
    without_zone = await browser.submit(f"{ROOT}bulk/", **{**fields, "do": "read", "as_of": "2026-01-01"})
    assert without_zone.status_code == 303
