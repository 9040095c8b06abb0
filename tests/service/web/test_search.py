"""The search fields of the inbox and of the customer's list."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.conversations.search import finding
from services.conversations.search.excerpts import Match
from services.conversations.search.query import Span
from services.conversations.web.searching import marked
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import ORDER, Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import listed, show, signed_in
from tests.service.helpers.recorded_statements import statements, without_transactions
from tests.service.search.test_finding import catch_up_with_log

LIST = "/dashboard/messages/"


@pytest.fixture
async def desk(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """A browser with a signed-in admin."""
    async with signed_in(api) as browser:
        yield browser


@pytest.fixture
async def customer(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """A browser with a signed-in customer."""
    async with httpx2.AsyncClient(transport=api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in("anna")
        yield browser


async def show_list(browser: Browser, **params: str) -> Page:
    answer = await browser.get(LIST, params=params)
    assert answer.status_code == 200
    return Page(answer)


async def test_an_admin_searches_within_the_filters_and_sees_where_the_words_are(
    desk: Browser, anna: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/users/anna", {"name": "Anna Berg"})
    await shop.call("PUT", "/orders/A-1", ORDER)
    first = await anna.open(subject="Blue hoodie", body="It is torn <b> & wet", order_id="A-1")
    await anna.open(subject="Jacket", body="It is torn, too")
    await sam.edit(first["id"], status="RESOLVED")
    inbox = await show(desk, status="RESOLVED", sort="waiting")
    form = inbox.by_id("filters")
    page = await show(desk, **(inbox.fields(form) | {"q": "torn wet"}))
    assert listed(page) == ["Blue hoodie"]
    [preview] = page.root.of_class("preview")
    assert preview.text == "It is torn <b> & wet"
    assert [mark.text for mark in preview.all("mark")] == ["torn", "wet"]
    assert page.by_id("filter-search")["value"] == "torn wet"
    assert listed(await show(desk, page.by_id("status-OPEN")["href"])) == ["Blue hoodie"]
    for q, shown in (("hood", "hoodie"), ("#1007", "1007"), ("berg", "Berg")):
        page = await show(desk, q=q, status="RESOLVED")
        [row] = page.root.of_class("row")
        assert [mark.text for mark in row.all("mark")] == [shown]


async def test_a_customer_searches_and_pages_keep_the_search(
    customer: Browser, anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.conversations.web.routes.customer.PAGE", 2)
    assert (await show_list(customer)).root.all(id="search") == []
    for count in range(5):
        await anna.open(subject=f"Hoodie {count}", body="It is torn")
    await anna.open(subject="Jacket", body="It is fine")
    page = await show_list(customer)
    answer = await customer.get(LIST, params=page.fields(page.root.one("form", role="search")) | {"q": "hoodie torn"})
    found, page = [], Page(answer)
    while True:
        found += listed(page)
        links = page.root.all("a", rel="next")
        if not links:
            break
        page = Page(await customer.get(LIST + links[0]["href"]))
        assert page.by_id("search")["value"] == "hoodie torn"
    assert found == [f"Hoodie {count}" for count in reversed(range(5))]


@pytest.mark.parametrize(
    ("q", "words"),
    [
        ("zz<b>top", "No conversation has “zz<b>top”."),
        ("a b c d e f g h i", "at most 8 words"),
        ("x" * 201, "at most 200 characters"),
    ],
)
async def test_a_search_without_results_says_what_to_try(
    desk: Browser, customer: Browser, anna: Caller, q: str, words: str
) -> None:
    await anna.open(subject="Hoodie", body="It is torn")
    inbox = await show(desk, q=q, unread="true")
    mine = await show_list(customer, q=q)
    for page in (inbox, mine):
        assert words in page.by_id("nothing-found").text
    assert listed(await show(desk, inbox.link("Clear search"))) == ["Hoodie"]
    assert listed(Page(await customer.get(mine.link("Clear search")))) == ["Hoodie"]


async def test_a_search_that_takes_too_long_says_so(
    desk: Browser, anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await anna.open(subject="Hoodie", body="It is torn")
    monkeypatch.setattr(finding, "DEADLINE", 0.0001)
    assert "This search took too long" in (await show(desk, q="torn")).by_id("nothing-found").text
    monkeypatch.undo()
    assert listed(await show(desk, q="torn")) == ["Hoodie"]


async def test_a_search_takes_one_more_statement(
    desk: Browser, customer: Browser, conversations_engine: AsyncEngine, anna: Caller
) -> None:
    await anna.open(subject="Hoodie", body="It is torn")
    async with statements(conversations_engine) as recorded:
        assert listed(await show(desk, q="torn")) == ["Hoodie"]
    assert len(without_transactions(recorded)) <= 5, recorded
    async with statements(conversations_engine) as recorded:
        assert listed(await show_list(customer, q="torn")) == ["Hoodie"]
    assert len(without_transactions(recorded)) <= 5, recorded


def test_an_excerpt_is_escaped_around_and_inside_its_marks() -> None:
    match = Match("message", 1, None, "a<b>&c <i>", [Span(1, 3), Span(7, 3)])
    assert marked(match) == "a<mark>&lt;b&gt;</mark>&amp;c <mark>&lt;i&gt;</mark>"
    assert marked(Match("subject", None, None, "<b>", [])) == "&lt;b&gt;"


async def test_a_search_says_that_old_conversations_may_be_missing_until_all_are_indexed(
    desk: Browser, customer: Browser, anna: Caller, conversations: SessionFactory
) -> None:
    await anna.open(subject="Jacket")
    async with transaction(conversations) as session:
        await session.execute(text("delete from search_progress"))  # as a crash of PostgreSQL leaves it
    for q in ("jacket", "hoodie"):
        for page in (await show(desk, q=q), await show_list(customer, q=q)):
            assert "may be missing" in page.by_id("incomplete").text
    assert not (await show(desk)).by_id("incomplete").text.strip()
    await catch_up_with_log(conversations)
    for page in (await show(desk, q="hoodie"), await show_list(customer, q="hoodie")):
        assert not page.by_id("incomplete").text.strip()
