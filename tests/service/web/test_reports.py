"""The page of the reports, without scripts: its filters are links and a plain form, its charts have a table."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.browser import Browser
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import signed_in
from tests.service.helpers.recorded_statements import statements, without_transactions
from tests.service.reports.test_numbers import put_facts

ROOT = "/admin/reports/"
MARCH = "from=2026-03-01&to=2026-03-31"
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


async def test_a_report_shows_numbers_charts_and_the_same_as_a_table(
    browser: Browser, conversations: SessionFactory
) -> None:
    await put_facts(conversations, [(NOON, None, 8_040, "sam", 187_200, "sam"), (NOON, None, 30, "sam", None, None)])
    page = Page(await browser.get(f"{ROOT}?{MARCH}"))
    assert "1 h 7 min" in page.text
    assert "2 d 4 h" in page.text
    plots = page.root.of_class("plot")
    assert len(plots) == 3
    for plot in plots:
        name, description = (page.by_id(each) for each in plot["aria-labelledby"].split())
        assert name.text
        assert "The table below has the numbers." in description.text
    rows = page.root.one("tbody").all("tr")
    assert len(rows) == 31
    assert [cell.text for cell in rows[9].all("td")][:4] == ["2", "2", "0", "1 h 7 min"]


@pytest.mark.parametrize("by", ["admin", "label"])
async def test_other_groupings_are_links_that_keep_the_days(
    browser: Browser, conversations: SessionFactory, by: str
) -> None:
    await put_facts(conversations, [(NOON, None, 60, "sam", None, None), (NOON, None, 60, "@gone", None, None)])
    page = Page(await browser.get(f"{ROOT}?{MARCH}"))
    [link] = [each["href"] for each in page.root.all("a") if each["href"].endswith(f"by={by}")]
    page = Page(await browser.get(ROOT + link))
    assert page.by_id("from")["value"] == "2026-03-01"
    assert not page.root.of_class("plot")
    names = [row.one("th").text for row in page.root.one("tbody").all("tr")]
    assert names == {"admin": ["Deleted admin", "sam", "No admin"], "label": ["Without a label"]}[by]


async def test_the_link_to_csv_has_the_same_days_and_grouping(browser: Browser, conversations: SessionFactory) -> None:
    await put_facts(conversations, [(NOON, None, 60, "sam", None, None)])
    page = Page(await browser.get(f"{ROOT}?{MARCH}&by=admin"))
    [link] = [each["href"] for each in page.root.all("a") if "report.csv" in each["href"]]
    answer = await browser.get(link)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert [row[0] for row in csv.reader(io.StringIO(answer.text))] == ["admin_id", "sam", ""]


async def test_without_facts_the_page_says_what_will_appear(browser: Browser) -> None:
    page = Page(await browser.get(ROOT))
    assert "Nothing happened in these days" in page.text
    assert not page.root.of_class("plot")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("from=nonsense", "Enter days such as"),
        ("from=2026-02-30&to=2026-03-01", "Enter days such as"),
        ("from=2026-03-02&to=2026-03-01", "not after the last day"),
        ("from=2000-01-01&to=2026-03-01", "at most ten years"),
    ],
)
async def test_days_that_cannot_be_are_said(browser: Browser, query: str, words: str) -> None:
    answer = await browser.get(f"{ROOT}?{query}")
    assert answer.status_code == 422
    assert words in Page(answer).root.one(role="alert").text


@pytest.mark.parametrize("by", ["day", "admin", "label"])
async def test_a_report_takes_three_statements(
    browser: Browser, conversations: SessionFactory, conversations_engine: AsyncEngine, by: str
) -> None:
    await put_facts(conversations, [(NOON, None, 60, "sam", None, None)])
    async with statements(conversations_engine) as recorded:
        await browser.get(f"{ROOT}?{MARCH}&by={by}")
    assert len(without_transactions(recorded)) == 3, recorded


async def test_what_is_not_exact_or_not_complete_is_said(browser: Browser, conversations: SessionFactory) -> None:
    await put_facts(conversations, [(NOON, None, 60, "sam", None, None)])
    page = Page(await browser.get(f"{ROOT}?{MARCH}"))
    for words in ("are estimates", "still being counted", "were not recorded"):
        assert words not in page.text
    async with transaction(conversations) as session:
        await session.execute(
            text("update report_progress set fill_before = uuidv7(), exact_since = :since"),
            {"since": NOON + timedelta(days=1)},
        )
    page = Page(await browser.get(f"{ROOT}?from=2026-01-01&to=2026-12-31"))
    for words in ("are estimates, at most 5% off", "still being counted", "changes of the status were not recorded"):
        assert words in page.text
