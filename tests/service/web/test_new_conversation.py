"""Opening a conversation with a customer in a browser without scripts."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy import insert

from services.conversations.models import User
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import ORDER, Caller
from tests.service.helpers.html import Page
from tests.service.helpers.inbox_pages import ROOT, fill, listed, show, signed_in


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> AsyncIterator[Browser]:
    """An admin's browser."""
    async with signed_in(api) as new:
        yield new


async def test_choosing_a_customer_has_search_and_pages(
    browser: Browser, conversations: SessionFactory, anna: Caller
) -> None:
    assert "No customers yet" in (await show(browser, "new/")).text
    await anna.get("/unread")
    people = [{"id": f"C-{number:03}", "role": "customer", "name": f"Number {number}"} for number in range(60)]
    async with transaction(conversations) as session:
        await session.execute(insert(User), people)
    page, found = await show(browser, "new/", q="number"), []
    while True:
        found += listed(page)
        if "Next page" not in page.text:
            break
        page = await show(browser, page.link("Next page"))
    assert found == [f"Number {number}" for number in range(60)]
    assert listed(await show(browser, "new/", q="@customer.test")) == ["Anna"]
    page = await show(browser, "new/", q='"><b>')
    assert "No customer found" in page.text
    assert page.by_id("filter-search")["value"] == '"><b>'
    assert "Choose another" in (await show(browser, (await show(browser, "new/", q="anna")).link("Anna"))).text


async def test_submitting_the_form_leads_to_the_new_conversation(
    browser: Browser, anna: Caller, sam: Caller, shop: Caller
) -> None:
    await shop.call("PUT", "/orders/A-1", ORDER)
    await shop.call("PUT", "/orders/B-1", ORDER | {"user_id": "ben"})
    form = await show(browser, "new/", user_id="anna", order_id="A-1")
    assert [option["value"] for option in form.by_id("order_id").all("option")] == ["", "A-1"]
    answers = [await fill(browser, form, subject="Your order", body="It is late.") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["location"] == answers[1].headers["location"]

    [found] = (await sam.get("/conversations"))["items"]
    assert answers[0].headers["location"] == f"{ROOT}{found['id']}/"
    assert (found["status"], found["order"]["id"], found["message_count"]) == ("AWAITING_USER", "A-1", 1)
    assert (await anna.get("/unread")) == {"unread": 1}


@pytest.mark.parametrize(
    ("typed", "errors"),
    [
        ({"subject": " "}, {"subject": "Please fill this in."}),
        ({"body": ""}, {"body": "Please fill this in."}),
        ({"body": "\u3164\u200b"}, {"body": "Please fill this in."}),
        ({"subject": "x" * 201}, {"subject": "This is too long. Use at most 200 characters."}),
        ({"order_id": "B-1"}, {"order_id": "There is no such order."}),
        ({"user_id": "nobody"}, {"user_id": "There is no such customer."}),
        ({"user_id": "sam"}, {"user_id": "There is no such customer."}),
        ({"user_id": "", "subject": ""}, {"user_id": "Please fill this in.", "subject": "Please fill this in."}),
        ({"user_id": "a\x00b"}, {"user_id": "There is no such customer."}),
        ({"user_id": "änne"}, {"user_id": "There is no such customer."}),
        ({"order_id": "ä"}, {"order_id": "There is no such order."}),
        ({"status": "DONE"}, {"status": None}),
    ],
)
async def test_an_invalid_form_comes_back_with_what_was_typed(
    browser: Browser, anna: Caller, sam: Caller, shop: Caller, typed: dict[str, str], errors: dict[str, str | None]
) -> None:
    await anna.get("/unread")
    await shop.call("PUT", "/orders/B-1", ORDER | {"user_id": "ben"})
    form = await show(browser, "new/", user_id="anna")
    answer = await fill(browser, form, **{"subject": "Kept", "body": "Kept <too>", **typed})
    assert answer.status_code == 422
    page = Page(answer)
    for name, words in errors.items():
        assert page.by_id(f"{name}-error").text == (words or page.by_id(f"{name}-error").text)
        assert page.by_id(name)["aria-describedby"] == f"{name}-error"
    if "subject" not in typed:
        assert page.by_id("subject")["value"] == "Kept"
    if "body" not in typed:
        assert page.by_id("body").value == "Kept <too>"
    assert (await sam.get("/conversations"))["items"] == []
    again = await fill(browser, page, user_id="anna", subject="Good", body="Good", order_id="", status="")
    assert again.status_code == 303


@pytest.mark.parametrize("after", [" ", "\u2028", "\u0085", "\t", "\u00a0"])
async def test_an_id_may_be_pasted_with_white_space_around_it(browser: Browser, anna: Caller, after: str) -> None:
    await anna.get("/unread")
    form = await show(browser, "new/", user_id="anna")
    answer = await fill(browser, form, user_id=f" anna{after}", order_id=f" {after}", subject="Good", body="Good")
    assert answer.status_code == 303


async def test_a_form_with_all_fields_at_once_is_accepted(browser: Browser, anna: Caller, sam: Caller) -> None:
    await anna.get("/unread")
    page = await show(browser, "new/", user_id="anna")
    csrf = page.fields(page.root.all("form", method="post")[-1])["csrf_token"]
    answer = await browser.submit(
        f"{ROOT}new/", csrf_token=csrf, user_id="anna", subject="At once", body="Hello", status="RESOLVED"
    )
    assert answer.status_code == 303
    [found] = (await sam.get("/conversations"))["items"]
    assert (found["subject"], found["status"]) == ("At once", "RESOLVED")
