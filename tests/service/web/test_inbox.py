"""The support inbox in a browser without scripts: the list and its filters."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.conversations.models import Conversation
from services.conversations.rules import Status
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import ORDER, UNKNOWN_ID, Caller
from tests.service.helpers.html import Element, Page
from tests.service.helpers.inbox_pages import ROOT, listed, show, signed_in
from tests.service.helpers.recorded_statements import statements, without_transactions


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}} \"' &amp; \u202eRTL"


def counts(page: Page) -> dict[str, str]:
    return {status.value: page.by_id(f"count-status-{status}").text for status in Status}


def chosen_statuses(page: Page) -> list[str]:
    chips = [chip["id"] for chip in page.root.of_class("chip") if "aria-current" in chip]
    return [name for name in chips if name.startswith("status-")]


async def some_of_each(anna: Caller, ben: Caller, sam: Caller, shop: Caller) -> dict[str, str]:
    """Open conversations of several kinds; return their ids by subject, oldest first."""
    await shop.call("PUT", "/orders/A-1", ORDER)
    new = await anna.open(subject="New", body="Hello?", order_id="A-1")
    answered = await anna.open(subject="Answered", body="Hello?")
    await sam.edit(answered["id"], reply_body="Hello!")
    waiting = await ben.open(subject="Waiting", body="Hello?")
    await ben.post(waiting["id"], "Is anybody there?")
    closed = await ben.open(subject="Closed", body="Hello?")
    await sam.edit(closed["id"], reply_body="Bye.", status="CLOSED")
    return {created["subject"]: created["id"] for created in (new, answered, waiting, closed)}


async def test_the_inbox_shows_customer_last_message_order_and_waiting_time(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    ids = await some_of_each(anna, ben, sam, shop)
    page = await show(browser)
    assert listed(page) == ["Closed", "Waiting", "Answered", "New"]

    new, answered = page.by_id(f"c-{ids['New']}"), page.by_id(f"c-{ids['Answered']}")
    assert new.text == "Select “New” Anna Order 1007 New (unread) Hello? New waiting 1 min"
    assert "unread" in new.classes
    assert new.one("h2").one("a")["href"] == f"{ROOT}{ids['New']}/"
    assert "Us: Hello!" in answered.text
    assert "waiting" not in answered.text
    assert "unread" not in answered.classes
    assert page.answer.headers["x-position"]


async def test_counts_are_shown_for_each_status_for_waiting_and_unread(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    await some_of_each(anna, ben, sam, shop)
    page = await show(browser, status="CLOSED")
    assert counts(page) == {
        "OPEN": "1", "AWAITING_ADMIN": "1", "AWAITING_USER": "1", "RESOLVED": "0", "CLOSED": "1",
    }  # fmt: skip
    assert page.by_id("views").text == "All Waiting 2 Unread 2 Mine 1 Unassigned 2"


@pytest.mark.parametrize("filters", [{"user_id": "anna"}, {"order_number": "1007"}, {"unread": "true"}])
async def test_a_status_shows_no_count_that_its_list_would_not_have(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller, filters: dict[str, Any]
) -> None:
    await some_of_each(anna, ben, sam, shop)
    page = await show(browser, **filters)
    assert page.by_id("status-OPEN").text == "New"


async def test_a_count_of_a_thousand_is_shown_as_at_least_that_many(
    browser: Browser, conversations: SessionFactory, anna: Caller
) -> None:
    first = await anna.open()
    async with transaction(conversations) as session:
        row = await session.get_one(Conversation, first["id"])
        columns = {name: getattr(row, name) for name in ("user_id", "subject", "status", "created_at", "changed_at")}
        more = columns | {"is_read_by_admin": False, "is_read_by_user": True, "last_activity_at": row.created_at}
        await session.execute(insert(Conversation), [more] * 999)
    page = await show(browser)
    assert counts(page)["OPEN"] == "999+"
    assert page.by_id("views").text == "All Waiting 999+ Unread 999+ Mine Unassigned 999+"


async def test_the_waiting_view_is_one_click_away_longest_first(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    await some_of_each(anna, ben, sam, shop)
    page = await show(browser, (await show(browser)).link("Waiting 2"))
    assert listed(page) == ["New", "Waiting"]
    assert [link.text for link in page.root.all("a", aria_current="page")] == ["Waiting 2"]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, ["Closed", "Waiting", "Answered", "New"]),
        ({"status": "CLOSED"}, ["Closed"]),
        ({"status": ["CLOSED", "OPEN"]}, ["Closed", "New"]),
        ({"status": ["CLOSED", "CLOSED"]}, ["Closed"]),
        ({"unread": "true"}, ["Waiting", "New"]),
        ({"unread": "false"}, ["Closed", "Answered"]),
        ({"user_id": "anna"}, ["Answered", "New"]),
        ({"user_id": " anna ", "unread": "true"}, ["New"]),
        ({"order_number": "1007"}, ["New"]),
        ({"order_number": "1007", "status": "CLOSED"}, []),
        ({"sort": "waiting"}, ["New", "Waiting", "Answered", "Closed"]),
        ({"sort": "waiting", "user_id": "ben"}, ["Waiting", "Closed"]),
        (
            {"status": "", "unread": "", "user_id": "", "order_number": " ", "sort": ""},
            ["Closed", "Waiting", "Answered", "New"],
        ),
    ],
)
async def test_filters_combine_and_stay_in_the_search_and_its_results(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller, chosen: dict[str, Any], found: list[str]
) -> None:
    await some_of_each(anna, ben, sam, shop)
    page = await show(browser, **chosen)
    assert listed(page) == found
    again = await show(browser, **page.fields(page.by_id("filters")))
    assert listed(again) == found
    if found:
        row = page.root.of_class("row")[0].one("h2").one("a")["href"]
        thread = await show(browser, f"{row}{'&' if '?' in row else '?'}peek=true")
        assert listed(await show(browser, thread.root.of_class("back")[0].one("a")["href"])) == found
    narrows = any(
        value.strip() if isinstance(value, str) else value for name, value in chosen.items() if name != "sort"
    )
    assert ("Clear filters" in page.text) is narrows


async def test_a_search_text_that_is_no_customers_id_offers_matching_customers(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    await some_of_each(anna, ben, sam, shop)
    await shop.call("PUT", "/users/anna-2", {"name": "Anna Two", "email": "two@customer.test"})
    page = await show(browser, user_id="Ann", unread="true")
    assert [link.text for link in page.by_id("choices").all("a")] == ["Anna", "Anna Two"]
    assert listed(page) == []

    chosen = await show(browser, page.link("Anna"))
    assert listed(chosen) == ["New"]
    assert "Conversations with Anna" in chosen.text
    everybody = await show(browser, chosen.link("All customers"))
    assert listed(everybody) == ["Waiting", "New"]


@pytest.mark.parametrize("words", ["ANNA@", "anna@customer.test", "Ann", " NNA "])
async def test_a_search_text_that_matches_one_customer_shows_their_conversations_directly(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller, words: str
) -> None:
    await some_of_each(anna, ben, sam, shop)
    wanted = {"user_id": words, "unread": "true", "status": ["OPEN", "CLOSED"], "sort": "waiting"}
    answer = await browser.get(ROOT, params=wanted)
    assert answer.status_code == 303
    page = await show(browser, answer.headers["location"])
    assert listed(page) == ["New"]
    assert "Conversations with Anna" in page.text
    assert chosen_statuses(page) == ["status-OPEN", "status-CLOSED"]


async def test_a_chip_adds_its_status_to_the_filters_or_removes_it(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    await some_of_each(anna, ben, sam, shop)
    page = await show(browser, user_id="anna", sort="waiting")
    for clicked, chosen, found in (
        ("OPEN", ["status-OPEN"], ["New"]),
        ("AWAITING_USER", ["status-OPEN", "status-AWAITING_USER"], ["New", "Answered"]),
        ("OPEN", ["status-AWAITING_USER"], ["Answered"]),
        ("AWAITING_USER", [], ["New", "Answered"]),
    ):
        page = await show(browser, page.by_id(f"status-{clicked}")["href"])
        assert chosen_statuses(page) == chosen
        assert [link["id"] for link in page.root.of_class("active-filter")] == [
            *(name.replace("status", "without") for name in chosen),
            "without-sort",
        ]
        assert listed(page) == found
        assert listed(await show(browser, **page.fields(page.by_id("filters")))) == found

    nobody = await show(browser, user_id="zz<b>top")
    assert "name, email or ID contains “zz<b>top”." in nobody.text
    assert listed(await show(browser, nobody.link("Clear filters"))) == ["Closed", "Waiting", "Answered", "New"]


async def test_a_deleted_customers_conversations_are_found_by_id(browser: Browser, anna: Caller, shop: Caller) -> None:
    await anna.open(subject="Mine", body="Hello?")
    await shop.call("DELETE", "/users/anna")
    page = await show(browser, user_id="anna")
    assert listed(page) == ["Mine"]
    assert "Conversations with Deleted customer" in page.text


async def test_an_empty_inbox_says_what_to_do(browser: Browser, anna: Caller) -> None:
    page = await show(browser)
    assert "No conversations yet" in page.text
    assert "Clear filters" not in page.text
    await anna.open(subject="Mine")
    page = await show(browser, status="RESOLVED", unread="false")
    assert "No matching conversations" in page.text
    assert listed(await show(browser, page.root.of_class("empty")[0].one("a")["href"])) == ["Mine"]


@pytest.mark.parametrize("sort", ["activity", "waiting"])
async def test_pages_of_the_inbox_hold_every_row_once_and_keep_the_filters(
    browser: Browser, anna: Caller, ben: Caller, sort: str
) -> None:
    for number in range(60):
        await anna.open(subject=f"Number {number}", body="Hello?")
        await ben.open(subject="Another's", body="Hello?")
    page, found = await show(browser, sort=sort, user_id="anna", status="OPEN"), []
    older, newest = ("Older", "Newest") if sort == "activity" else ("Next page", "First page")
    assert newest not in page.text
    while True:
        assert len(listed(page)) <= 25
        found += listed(page)
        if older not in page.text:
            break
        page = await show(browser, page.link(older))
    in_order = [f"Number {number}" for number in range(60)]
    assert found == (in_order if sort == "waiting" else in_order[::-1])
    assert listed(await show(browser, page.link(newest))) == found[:25]


@pytest.mark.parametrize(
    "query",
    [
        "status=DONE",
        "unread=perhaps",
        "sort=subject",
        "cursor=x",
        "user_id=%00",
        "order_number=%00",
        "deleted=-1",
        "deleted=x",
    ],
)
async def test_an_invalid_query_gives_an_error_page(browser: Browser, query: str) -> None:
    page = await show(browser, f"?{query}", expect=422)
    assert page.root.one("h1").text


async def test_a_notice_shows_the_number_of_deleted_conversations_only(browser: Browser) -> None:
    assert (await show(browser, deleted=3)).by_id("notice").text == "3 conversations deleted."
    assert (await show(browser, deleted=1)).by_id("notice").text == "1 conversation deleted."
    assert (await show(browser, deleted=0)).by_id(
        "notice"
    ).text == "The selected conversations have already been deleted."


async def test_selected_rows_lead_to_a_confirmation_page(
    browser: Browser, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    ids = await some_of_each(anna, ben, sam, shop)
    page = await show(browser)
    bulk = page.by_id("bulk")
    for subject in ("Closed", "New"):
        page.by_id(f"pick-{ids[subject]}").attributes["checked"] = ""
    assert page.fields(bulk)["ids"] == [ids["Closed"], ids["New"]]
    answer = await browser.submit(bulk["action"], **page.fields(bulk), do="delete")
    assert answer.headers["location"] == f"{ROOT}bulk-delete/?ids={ids['Closed']}&ids={ids['New']}"


async def test_hostile_text_is_escaped_in_every_row(browser: Browser, shop: Caller, anna: Caller) -> None:
    await shop.call("PUT", "/users/anna", {"name": HOSTILE})
    await anna.open(subject=HOSTILE, body=HOSTILE)
    page = await show(browser)
    [row] = page.root.of_class("row")
    assert row.one("h2").one("a").text == " ".join(HOSTILE.split())
    assert HOSTILE in row.text
    assert [element for element in row.all() if element.tag in {"script", "img"}] == []


async def test_a_page_for_a_script_has_no_style(browser: Browser) -> None:
    answers = [await browser.get(ROOT, headers={"Sec-Fetch-Dest": kind}) for kind in ("document", "empty")]
    assert [".inbox" in answer.text for answer in answers] == [True, False]


async def test_customers_have_no_access_and_unknown_visitors_must_sign_in(browser: Browser, anna: Caller) -> None:
    conversation = (await anna.open())["id"]
    paths = ["", "new/", f"{conversation}/", f"{conversation}/delete/", "bulk-delete/"]
    await browser.sign_in("anna")
    for path in paths:
        await show(browser, path, expect=403)
    browser.client.cookies.clear()
    for path in paths:
        await show(browser, path, expect=401)


@pytest.mark.parametrize("path", ["", "new", "bulk-delete?ids=x", "0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42/delete"])
async def test_a_url_without_its_slash_redirects_to_the_one_with_it(browser: Browser, path: str) -> None:
    bare, _, query = path.partition("?")
    answer = await browser.get((ROOT + path).rstrip("/") if not path else ROOT + path)
    assert answer.status_code == 303
    assert answer.headers["location"] == (f"{ROOT}{bare}/" if bare else ROOT) + (f"?{query}" if query else "")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "?status=OPEN&status=AWAITING_ADMIN&sort=waiting&unread=true",
        "?user_id=anna&order_number=1007",
        "?user_id=somebody",
        "new/",
        "new/?q=ann",
        "new/?user_id=anna",
        "{}/delete/",
        "bulk-delete/?ids={}&ids=0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42",
    ],
)
async def test_a_page_takes_few_statements(
    browser: Browser, conversations_engine: AsyncEngine, anna: Caller, sam: Caller, shop: Caller, path: str
) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    conversation = (await anna.open(body="Hello?", order_id="A-1"))["id"]
    await anna.open()
    await sam.get(f"/conversations/{conversation}")  # so that nothing is left to be marked as read
    async with statements(conversations_engine) as recorded:
        await show(browser, path.format(conversation))
    # Lists have one more for the choices of labels and admins, a conversation's page another one for its timeline.
    most = 5 if path.startswith("{}/") and "delete" not in path else 3 if path[:1].isalpha() or "delete" in path else 4
    assert len(without_transactions(recorded)) <= most, recorded


async def test_a_conversation_takes_two_more_and_one_if_it_is_unread(
    browser: Browser, conversations_engine: AsyncEngine, anna: Caller
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    for query, limit in (("?peek=true", 5), ("", 6), ("", 5)):
        async with statements(conversations_engine) as recorded:
            await show(browser, f"{conversation}/{query}")
        assert len(without_transactions(recorded)) <= limit, recorded


async def test_a_refresh_also_returns_the_rows_on_the_screen_that_are_no_longer_listed(
    browser: Browser, conversations_engine: AsyncEngine, anna: Caller, ben: Caller, sam: Caller, shop: Caller
) -> None:
    ids = await some_of_each(anna, ben, sam, shop)
    shown = "&".join(f"shown={conversation_id}" for conversation_id in [*ids.values(), UNKNOWN_ID])
    async with statements(conversations_engine) as recorded:
        page = await show(browser, f"?status=OPEN&peek=true&{shown}")
    assert len(without_transactions(recorded)) <= 5, recorded
    gone = {subject: "gone" in page.by_id(f"c-{conversation_id}").classes for subject, conversation_id in ids.items()}
    assert gone == {"New": False, "Answered": True, "Waiting": True, "Closed": True}
    assert "no longer matches the filter" in page.by_id(f"c-{ids['Closed']}").text
    await show(browser, f"?{'&'.join(['shown=' + UNKNOWN_ID] * 101)}", expect=422)


async def test_pages_contain_no_inline_style_or_script(browser: Browser, anna: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    for path in ("", "new/", "new/?user_id=anna", f"{conversation}/", f"{conversation}/delete/"):
        page = await show(browser, path)
        elements: list[Element] = page.root.all()
        assert not [
            element
            for element in elements
            if any(name == "style" or name.startswith("on") for name in element.attributes)
        ]
        assert all("src" in script for script in page.root.all("script"))
        assert len(page.answer.content) < 70_000
        assert page.by_id("shortcuts").tag == "dialog"
