"""The customers' pages in a browser without scripts."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from html import unescape
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.conversations.messaging import listing
from tests.service.helpers.browser import Browser, store_token
from tests.service.helpers.callers import UNKNOWN_ID, Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.recorded_statements import statements, without_transactions

ROOT = "/dashboard/messages/"


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    async with httpx2.AsyncClient(transport=api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in("anna", name="Anna")
        yield browser


def fields(page: httpx2.Response) -> dict[str, str]:
    """Return the hidden fields of the page's form, as a submit sends them."""
    return dict(
        re.findall(r'<input type="hidden" name="(\w+)"(?: id="\w+" data-live="value")? value="([^"]*)">', page.text)
    )


def text_of(page: httpx2.Response) -> str:
    without_style = re.sub(r"<style>.*?</style>", "", page.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", without_style)).split())


async def write(browser: Browser, path: str, page: httpx2.Response | None = None, **typed: Any) -> httpx2.Response:
    """Fill in the form of a page and submit it."""
    page = page or await browser.get(path)
    hidden = {name: value for name, value in fields(page).items() if name != "everywhere"}
    return await browser.submit(path, **{**hidden, **typed})


async def open_conversation(browser: Browser, **typed: Any) -> str:
    """Open a conversation with the form; return its URL."""
    answer = await write(browser, f"{ROOT}new/", **{"subject": "Where is it?", "body": "My parcel is late.", **typed})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


async def test_a_customer_without_conversations_sees_what_to_do(browser: Browser) -> None:
    page = await browser.get(ROOT)
    assert page.status_code == 200
    assert "No conversations yet" in text_of(page)
    assert f'href="{ROOT}new/"' in page.text


async def test_a_submitted_form_opens_a_conversation_that_its_page_shows(browser: Browser, anna: Caller) -> None:
    where = await open_conversation(browser)
    [item] = (await anna.get("/conversations"))["items"]
    assert where == f"{ROOT}{item['id']}/"
    page = await browser.get(where)
    assert "My parcel is late." in text_of(page)
    assert 'data-component="MessageHistoryPanel"' in page.text
    listed = await browser.get(ROOT)
    assert "Where is it?" in text_of(listed)
    assert page.headers["x-position"]


async def test_the_second_submit_of_a_form_leads_to_the_first_result(browser: Browser, anna: Caller) -> None:
    form = await browser.get(f"{ROOT}new/")
    answers = [await write(browser, f"{ROOT}new/", form, subject="Once", body="Only once.") for _ in range(2)]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    where = answers[0].headers["location"]
    thread = await browser.get(where)
    for _ in range(2):
        assert (await write(browser, where, thread, body="And this.")).status_code == 303
    [item] = (await anna.get("/conversations"))["items"]
    assert item["message_count"] == 2


async def test_an_invalid_form_comes_back_with_what_was_typed(browser: Browser, anna: Caller) -> None:
    answer = await write(browser, f"{ROOT}new/", subject=" ", body="What I wrote <&>", order_id="not-mine")
    assert answer.status_code == 422
    assert "Please fill this in." in text_of(answer)
    assert "What I wrote &lt;&amp;&gt;</textarea>" in answer.text
    answer = await write(browser, f"{ROOT}new/", subject="A subject", body="Kept", order_id="not-mine")
    assert answer.status_code == 422
    assert "There is no such order." in text_of(answer)
    assert 'value="A subject"' in answer.text
    assert (await anna.get("/conversations"))["items"] == []


async def test_a_message_that_is_too_long_shows_an_error(browser: Browser) -> None:
    where = await open_conversation(browser)
    answer = await write(browser, where, body="x" * 10_001)
    assert answer.status_code == 422
    assert "at most 10000 characters" in text_of(answer)
    assert "x" * 10_001 in answer.text


NOT_AVAILABLE = "This order is not available here yet."


async def test_a_link_with_an_order_that_is_not_synced_yet_says_so(browser: Browser) -> None:
    page = await browser.get(f"{ROOT}new/?order_id=7")
    assert page.status_code == 200
    assert NOT_AVAILABLE in text_of(page)
    assert NOT_AVAILABLE not in text_of(await browser.get(f"{ROOT}new/?order_id="))
    assert NOT_AVAILABLE not in text_of(await browser.get(f"{ROOT}new/"))


async def test_an_order_can_be_chosen_and_is_shown_next_to_the_conversation(browser: Browser, shop: Caller) -> None:
    order = {
        "user_id": "anna",
        "number": "R-7",
        "status": "shipped",
        "total": "59.90",
        "currency": "EUR",
        "placed_at": "2026-01-02T03:04:05Z",
        "url": "https://store.test/R-7",
        "items": [{"name": "Teapot <b>", "quantity": 2, "unit_price": "29.95"}],
    }
    await shop.call("PUT", "/orders/7", order)
    form = await browser.get(f"{ROOT}new/?order_id=7")
    assert re.search(r'<option value="7" selected>', form.text)
    assert 'value="Order R-7"' in form.text
    await shop.call("PUT", "/orders/8", order | {"number": "R-8", "placed_at": datetime.now(UTC).isoformat()})
    of_today = await browser.get(f"{ROOT}new/?order_id=8")
    assert re.search(r">R-8 · [^·:]+ · €59\.90 ·", of_today.text)  # a day, not a time of day
    german = await browser.get(f"{ROOT}new/?order_id=7", headers={"Accept-Language": "de"})
    assert 'value="Bestellung R-7"' in german.text
    emptied = await write(browser, f"{ROOT}new/", subject="", order_id="7")
    assert 'Order R-7"' not in emptied.text
    assert NOT_AVAILABLE not in text_of(form)
    page = await browser.get(await open_conversation(browser, order_id="7"))
    assert "Order R-7" in text_of(page)
    assert "€59.90" in text_of(page)
    assert "Teapot &lt;b&gt;" in page.text
    assert 'href="https://store.test/R-7"' in page.text


async def test_opening_a_conversation_marks_it_as_read_and_peeking_does_not(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    where = await open_conversation(browser)
    conversation_id = where.split("/")[-2]
    await sam.post(conversation_id, "It is on its way.")
    assert (await browser.client.head(where)).status_code == 200
    for address, headers in ((f"{where}?peek=true", {}), (where, {"Sec-Purpose": "prefetch"})):
        page = await browser.get(address, headers=headers)
        assert "It is on its way." in text_of(page)
        assert (await anna.get("/unread"))["unread"] == 1
    page = await browser.get(where)
    assert 'id="new"' in page.text
    assert (await anna.get("/unread"))["unread"] == 0
    page = await browser.get(where)
    assert 'id="new"' not in page.text


async def test_seen_is_shown_under_the_last_own_message_that_was_read(browser: Browser, sam: Caller) -> None:
    where = await open_conversation(browser)
    conversation_id = where.split("/")[-2]
    assert "Seen" not in text_of(await browser.get(where))
    await sam.get(f"/conversations/{conversation_id}")
    await write(browser, where, body="One thing more.")
    page = await browser.get(where)
    assert page.text.count(">Seen<") == 1
    assert page.text.index(">Seen<") < page.text.index("One thing more.")


async def test_a_message_that_crosses_a_reply_comes_back_with_it(browser: Browser, anna: Caller, sam: Caller) -> None:
    where = await open_conversation(browser)
    conversation_id = where.split("/")[-2]
    page = await browser.get(where)
    await sam.post(conversation_id, "Which parcel?")
    answer = await write(browser, where, page, body="Still waiting!")
    assert answer.status_code == 409
    assert "Which parcel?" in text_of(answer)
    assert "Still waiting!</textarea>" in answer.text
    assert (await anna.get(f"/conversations/{conversation_id}"))["message_count"] == 2
    assert (await write(browser, where, answer, body="Still waiting!")).status_code == 303


async def test_a_long_conversation_is_paged_without_gaps(browser: Browser, anna: Caller) -> None:
    where = await open_conversation(browser, body="Message 1.")
    conversation_id = where.split("/")[-2]
    for number in range(2, 121):
        await anna.post(conversation_id, f"Message {number}.")
    seen: list[int] = []
    address: str | None = where
    while address:
        page = await browser.get(address)
        seen = [int(number) for number in re.findall(r'data-number="(\d+)"', page.text)] + seen
        earlier = re.search(r'href="([^"]*\?earlier=[^"]*)"', page.text)
        address = unescape(earlier[1]) if earlier else None
    assert seen == list(range(1, 121))


@pytest.mark.parametrize("conversation_id", [UNKNOWN_ID, "nonsense"])
async def test_missing_and_anothers_conversations_give_the_same_page(
    browser: Browser, ben: Caller, conversation_id: str
) -> None:
    theirs = (await ben.open(body="Private."))["id"]
    pages = [await browser.get(f"{ROOT}{which}/") for which in (conversation_id, theirs)]
    assert [page.status_code for page in pages] == [404, 404]
    assert pages[0].text == pages[1].text
    answer = await write(browser, f"{ROOT}{theirs}/", await browser.get(f"{ROOT}new/"), body="Let me in")
    assert answer.status_code == 404


async def test_hostile_text_is_escaped(browser: Browser) -> None:
    attack = "<script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}} \"' javascript:alert(1)"
    where = await open_conversation(browser, subject=attack, body=f'{attack}\nhttps://evil.test/?a="onclick=alert(1)')
    for address in (where, ROOT):
        page = await browser.get(address)
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert "{{7*7}}" in page.text
        assert not re.search(r'<a [^>]*"onclick', page.text)
        assert 'href="javascript:' not in page.text
    assert 'rel="nofollow noopener noreferrer"' in (await browser.get(where)).text


async def test_security_headers_of_pages_are_strict(browser: Browser) -> None:
    page = await browser.get(ROOT)
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"<[^>]+ (?:style|on\w+)=", page.text)
    assert re.findall(r'(?:src|href)="(https?:[^"]*)"', page.text) == []


async def test_errors_and_unknown_paths_are_pages_too(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret reason")

    monkeypatch.setattr(listing, "list_by_activity", crash)
    for page, status, words in (
        (await browser.get(ROOT), 500, "Something went wrong"),
        (await browser.get(f"{ROOT}?page={'9' * 9000}"), 414, "This link doesn"),
        (await browser.get(ROOT, headers={"X-Large": "x" * 40_000}), 431, "Your browser sent too much"),
        (await browser.get(f"{ROOT}new/what/"), 404, "Go to your messages"),
        (await browser.get("/admin/reports/what"), 404, "Page not found"),
    ):
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert words in text_of(page)
        assert "secret" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_an_admin_has_no_access(browser: Browser) -> None:
    await browser.sign_in("sam", "admin")
    assert (await browser.get(ROOT)).status_code == 403
    assert (await browser.get(f"{ROOT}new/")).status_code == 403


async def test_a_german_user_reads_german_and_their_own_time(browser: Browser) -> None:
    await browser.submit("/session", token=store_token("dora", locale="de-AT", zoneinfo="Europe/Vienna"))
    where = await open_conversation(browser)
    page = await browser.get(where)
    assert '<html lang="de"' in page.text
    assert "Nachricht schreiben" in page.text
    assert "Alle Zeiten: Österreich" in text_of(page) or "Alle Zeiten: Mitteleuropäische Zeit" in text_of(page)


async def test_a_reader_with_an_unsupported_script_gets_the_plain_language(browser: Browser) -> None:
    await browser.submit("/session", token=store_token("dora", locale="en-Shaw", zoneinfo="Europe/Vienna"))
    assert "All times: Austria" in text_of(await browser.get(await open_conversation(browser)))


async def test_a_time_zone_unknown_to_this_machine_is_replaced_by_the_default(
    browser: Browser, conversations_engine: AsyncEngine
) -> None:
    where = await open_conversation(browser)
    async with conversations_engine.begin() as connection:
        await connection.execute(text("update users set zoneinfo = 'Europe/New_Zone'"))
    page = await browser.get(where)
    assert page.status_code == 200
    assert "All times: UTC" in text_of(page)


@pytest.mark.parametrize("address", ["", "new/", "conversation"])
async def test_a_page_takes_at_most_three_statements(
    browser: Browser, conversations_engine: AsyncEngine, address: str
) -> None:
    where = await open_conversation(browser)
    await browser.get(where)  # records the session's use and marks everything as read
    async with statements(conversations_engine) as recorded:
        page = await browser.get(where if address == "conversation" else f"{ROOT}{address}")
    assert page.status_code == 200
    assert len(without_transactions(recorded)) <= 3, recorded
