"""Canned replies in a browser without scripts: writing, changing, inserting, deleting."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import ROOT, show, signed_in

HOME = "canned-replies/"


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


async def test_a_canned_reply_is_written_inserted_changed_and_deleted(browser: Browser, anna: Caller) -> None:
    page = await show(browser, HOME)
    new = page.fields(page.by_id("new-canned-reply"))
    conversation = (await anna.open(body="Where is it?"))["id"]
    assert "There are no canned replies yet." in (await show(browser, f"{conversation}/")).by_id("canned").text
    texts = {"shortcut": "late", "title": "Parcel is late", "body": "Hello {{customer.first_name}}!\r\nSorry."}
    answer = await browser.submit(f"{ROOT}{HOME}", **{**new, **texts})
    assert "was saved" in Page(await browser.get(answer.headers["location"])).by_id("notice").text

    page = await show(browser, f"{conversation}/?status=OPEN")
    link = page.by_id("canned-list").one("a")
    page = Page(await browser.get(link["href"]))
    assert page.by_id("reply_body").value == "Hello Anna!\nSorry."

    page = await show(browser, HOME)
    change, delete = page.root.of_class("canned-reply")[0].all("form", method="post")
    assert page.fields(change)["shortcut"] == "late"
    answer = await browser.submit(change["action"], **{**page.fields(change), "shortcut": "later"})
    assert answer.status_code == 303
    assert "/later" in (await show(browser, HOME)).text
    assert page.root.of_class("delete-reply")[0].one("form")["action"] == delete["action"]  # it asks before
    answer = await browser.submit(delete["action"], **page.fields(delete))
    page = Page(await browser.get(answer.headers["location"]))
    assert "was deleted" in page.by_id("notice").text
    assert not page.root.of_class("canned-reply")


async def test_a_reply_with_an_empty_variable_names_it_before_it_is_sent(
    browser: Browser, anna: Caller, sam: Caller
) -> None:
    body = "Hello {{customer.first_name}}, order {{order.number}} is {{order.status}}."
    reply = (await sam.call("POST", "/canned-replies", {"shortcut": "late", "title": "Late", "body": body})).json()
    conversation = (await anna.open(body="Where is it?"))["id"]
    assert "hidden" in (await show(browser, f"{conversation}/")).by_id("canned-empty")
    warning = (await show(browser, f"{conversation}/", canned=reply["id"])).by_id("canned-empty")
    assert warning.text == "Empty here, check before sending: the order\u2019s number, the order\u2019s status"
    assert "hidden" not in warning


async def test_an_invalid_canned_reply_comes_back_with_what_was_typed(browser: Browser, sam: Caller) -> None:
    await sam.call("POST", "/canned-replies", {"shortcut": "late", "title": "Late", "body": "Sorry."})
    page = await show(browser, HOME)
    new = page.fields(page.by_id("new-canned-reply"))
    valid = {"shortcut": "new", "title": "New", "body": "Text"}
    for field, value, words in (
        ("shortcut", "two words", "no spaces"),
        ("shortcut", "LATE", "has this shortcut"),
        ("body", "Hello {{customer.nmae}}", "customer.nmae"),
        ("title", " ", "fill this in"),
        ("locale", "nonsense", "language"),
    ):
        typed: dict[str, Any] = {**new, **valid, field: value}
        answer = await browser.submit(f"{ROOT}{HOME}", **typed)
        assert answer.status_code == 422
        page = Page(answer)
        form = page.by_id("new-canned-reply")
        assert words in form.text, (field, form.text)
        assert page.fields(form)["title" if field != "title" else "shortcut"] == ("New" if field != "title" else "new")


async def test_a_second_submit_leads_to_the_first_result(browser: Browser, sam: Caller) -> None:
    page = await show(browser, HOME)
    texts = {"shortcut": "late", "title": "Late", "body": "Sorry.\r\nIt is late."}
    new = {**page.fields(page.by_id("new-canned-reply")), **texts}
    first, second = [await browser.submit(f"{ROOT}{HOME}", **new) for _ in range(2)]
    assert (first.status_code, second.headers["location"]) == (303, first.headers["location"])
    assert len((await sam.get("/canned-replies"))["items"]) == 1
    page = await show(browser, HOME)
    change, delete = page.root.of_class("canned-reply")[0].all("form", method="post")
    first, second = [await browser.submit(delete["action"], **page.fields(delete)) for _ in range(2)]
    assert (first.status_code, second.headers["location"]) == (303, first.headers["location"])

    answer = await browser.submit(change["action"], **{**page.fields(change), "body": "What I typed"})
    assert answer.status_code == 422
    form = Page(answer).by_id("new-canned-reply")
    assert "deleted meanwhile" in form.text
    assert Page(answer).fields(form)["body"].strip() == "What I typed"
    assert not (await sam.get("/canned-replies"))["items"]
