"""The pages of webhooks, without scripts."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy import text

from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.database.transactions import SessionFactory, transaction
from tests.service.conftest import SECRET
from tests.service.helpers.browser import Browser, store_token
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import client_of, connect
from tests.service.helpers.html import Page

ROOT = "/admin/webhooks/"
URL = "https://store.example/hooks"


@pytest.fixture
async def browser(databases: dict[str, str], conversations: SessionFactory, files_url: str) -> AsyncIterator[Browser]:
    """The browser of an admin with the permission."""
    settings = ApiSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        auth_permissions_claim="permissions",
        files_url=files_url,
    )
    app = create_app(settings)
    connect(app, conversations)
    async with client_of(app) as client:
        new = Browser(client)
        await new.submit("/session", token=store_token("sam", "admin", permissions=["webhooks"]))
        yield new


async def show(browser: Browser, path: str = ROOT) -> Page:
    answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer)


async def press(browser: Browser, page: Page, end: str, **fields: str) -> httpx2.Response:
    """Submit the form whose action ends so."""
    [form, *_] = [form for form in page.root.all("form", method="post") if form["action"].endswith(end)]
    return await browser.submit(form["action"], **{**page.fields(form), **fields})


async def test_a_webhook_is_added_with_its_secret_changed_tested_and_deleted(browser: Browser, shop: Caller) -> None:
    page = await show(browser)
    assert "There are no webhooks yet." in page.text
    filled = {"url": URL, "message.posted": "on", "email.failed": "on", "description": "<b>Backend</b>"}
    added = await press(browser, page, ROOT, **filled)
    assert added.status_code == 200
    secret = Page(added).root.of_class("secret")[0].text
    assert secret.startswith("whsec_")
    again = await press(browser, page, ROOT, **filled)
    assert again.status_code == 303
    [webhook] = (await shop.get("/webhooks"))["items"]
    assert again.headers["location"] == f"{ROOT}{webhook['id']}/"
    assert webhook["types"] == ["message.posted", "email.failed"]
    assert "<b>Backend</b>" in (await show(browser)).text

    here = f"{ROOT}{webhook['id']}/"
    page = await show(browser, here)
    assert secret not in page.answer.text
    for end, notice in (("/test/", "on its way"), ("/disable/", "is disabled")):
        answer = await press(browser, page, end)
        assert notice in (await show(browser, answer.headers["location"])).by_id("notice").text
    page = await show(browser, here)
    assert "a test" in page.text
    assert "is enabled" in (await show(browser, (await press(browser, page, "/enable/")).headers["location"])).text
    fields = {"url": f"{URL}/new", "conversation.created": "on"}
    await press(browser, page, here, **fields)
    changed = await shop.get(f"/webhooks/{webhook['id']}")
    assert (changed["url"], changed["types"]) == (
        f"{URL}/new",
        ["conversation.created", "message.posted", "email.failed"],
    )
    shown, second_click = [
        Page(await press(browser, page, "/secret/")).root.of_class("secret")[0].text for _ in range(2)
    ]
    assert shown not in {secret, ""}
    assert second_click == shown, "the response to the first click is not shown"
    for _ in range(2):
        await press(browser, page, "/test/")
    assert len((await shop.get(f"/webhooks/{webhook['id']}/deliveries"))["items"]) == 2
    gone, again = [await press(browser, page, "/delete/") for _ in range(2)]
    assert again.headers["location"] == gone.headers["location"]
    assert "was deleted" in (await show(browser, gone.headers["location"])).by_id("notice").text
    assert (await browser.get(here)).status_code == 404
    assert (await browser.get(f"{here}test/")).status_code == 303


async def test_what_is_wrong_is_said_and_what_was_typed_stays(browser: Browser) -> None:
    page = await show(browser)
    answer = await press(browser, page, ROOT, url="https://10.0.0.1/x", description="Mine")
    assert answer.status_code == 422
    wrong = Page(answer)
    assert "begins with https://" in wrong.by_id("url-error").text
    assert "at least one event" in wrong.by_id("types-error").text
    assert wrong.by_id("url")["value"] == "https://10.0.0.1/x"
    assert wrong.by_id("description")["value"] == "Mine"


async def test_deliveries_are_shown_without_answers_and_sent_again(
    browser: Browser, shop: Caller, conversations: SessionFactory
) -> None:
    webhook = (await shop.call("POST", "/webhooks", {"url": URL, "types": ["message.posted"]})).json()
    for _ in range(2):
        await shop.call("POST", f"/webhooks/{webhook['id']}/test")
    async with transaction(conversations) as session:
        await session.execute(
            text(
                "update webhook_deliveries set state = 'failed', due_at = null, status = 500, error = 'status',"
                " response = 'the answer'"
            )
        )
        await session.execute(text("update webhooks set failing_since = now(), failures = 3"))
    page = await show(browser, f"{ROOT}{webhook['id']}/?state=failed")
    assert "not accepted (500)" in page.text
    assert "3 times" in page.text
    assert "the answer" not in page.answer.text
    button = page.root.one("tbody").all("button")[0]
    await press(browser, page, "/replay/", **{button["name"]: button["value"]})
    pending = (await shop.get(f"/webhooks/{webhook['id']}/deliveries", state="pending"))["items"]
    assert len(pending) == 1
    assert len((await show(browser, f"{ROOT}{webhook['id']}/")).root.one("tbody").all("tr")) == 3
    every = [form for form in page.root.all("form", method="post") if form["action"].endswith("/replay/")][-1]
    assert (await browser.submit(every["action"], **page.fields(every))).status_code == 303
