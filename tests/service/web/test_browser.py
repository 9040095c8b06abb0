"""Pages for users without claims: in the browser's language and time zone, else those of the settings."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from services.conversations.app import create_app
from services.conversations.settings import ApiSettings
from shared.database.transactions import SessionFactory
from tests.service.conftest import SECRET
from tests.service.helpers.browser import Browser, store_token
from tests.service.helpers.connected import HOST, client_of, connect

ROOT = "/dashboard/messages/"
VIENNA = {"Cookie": "chats-zone=Europe/Vienna"}


@pytest.fixture
async def browser(conversations: SessionFactory, databases: dict[str, str]) -> AsyncIterator[Browser]:
    """A browser at a German service in Lisbon."""
    settings: dict[str, Any] = {"locale": "de", "time_zone": "Europe/Lisbon", "public_url": HOST}
    url = databases["conversations"]
    app = create_app(ApiSettings(conversations_database_url=url, auth_secret=[SECRET], **settings))
    connect(app, conversations)
    async with client_of(app) as client:
        yield Browser(client)


def language(page: httpx2.Response) -> tuple[str, str]:
    """Return the languages of a page's texts and of its times."""
    [found] = re.findall(r'<html lang="(\w+)" dir="ltr"\s+data-locale="([\w-]+)"', page.text)
    return found[0], found[1]


def zone(page: httpx2.Response) -> tuple[str, bool]:
    """Return the page's zone, and whether it is the user's own."""
    [found] = re.findall(r'data-zone="([^"]+)"( data-zone-set)?>', page.text)
    return found[0], bool(found[1])


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("en-US,en;q=0.9,de;q=0.8", ("en", "en-US")),
        ("fr-FR,fr;q=0.9", ("de", "de")),
        ("fr, en;q=0.1", ("en", "en")),
        ("de-AT, en", ("de", "de-AT")),
        ("de;q=0, *;q=0.1", ("en", "en")),
        ("\xff; rubbish,,;;q=7", ("de", "de")),
        ("x" * 10_000, ("de", "de")),
    ],
)
async def test_the_language_is_the_users_then_the_browsers_then_the_settings(
    browser: Browser, header: str, found: tuple[str, str]
) -> None:
    headers = {"Accept-Language": header.encode("latin-1")}
    await browser.sign_in("anna")
    assert language(await browser.get(ROOT)) == ("de", "de")
    page = await browser.get(ROOT, headers=headers)
    assert page.status_code == 200
    assert language(page) == found
    assert page.headers["vary"] == "Accept-Language"
    assert page.headers["cache-control"] == "no-store"
    await browser.submit("/session", token=store_token("gerda", locale="de-CH"))
    assert language(await browser.get(ROOT, headers=headers)) == ("de", "de-CH")


async def test_the_zone_is_the_users_then_the_browsers_then_the_settings(browser: Browser) -> None:
    await browser.sign_in("anna")
    assert zone(await browser.get(ROOT)) == ("Europe/Lisbon", False)
    assert zone(await with_zone(browser, "Asia/Tokyo")) == ("Asia/Tokyo", False)
    assert zone(await with_zone(browser, "Mars/Olympus")) == ("Europe/Lisbon", False)
    assert "Alle Zeiten: Japan" in (await with_zone(browser, "Asia/Tokyo")).text
    await browser.submit("/session", token=store_token("gerda", zoneinfo="Europe/Zurich"))
    assert zone(await with_zone(browser, "Asia/Tokyo")) == ("Europe/Zurich", True)


async def with_zone(browser: Browser, name: str) -> httpx2.Response:
    browser.client.cookies.set("chats-zone", name, domain="chats.test", path="/")
    return await browser.get(ROOT)


async def test_pages_without_a_user_are_in_the_browsers_language_and_zone(browser: Browser) -> None:
    english = {"Accept-Language": "en-GB"}
    asks = await browser.get(ROOT, headers={**english, **VIENNA})
    refused = await browser.submit("/session", headers=english, token="nonsense")
    too_long = await browser.get(f"{ROOT}?page={'9' * 9000}", headers=english)
    too_large = await browser.get(ROOT, headers={**english, "X-Large": "x" * 40_000})
    await browser.sign_in("anna")
    other = await browser.get("/admin/dashboard/conversation/", headers=english)
    gone = await browser.get(f"{ROOT}00000000-0000-7000-8000-000000000000/", headers=english)
    signed_out = await browser.submit("/session/end", headers=english, csrf_token=browser.claims["csrf"])
    pages = {401: asks, 414: too_long, 431: too_large, 403: other, 404: gone, 200: signed_out}
    assert {status: page.status_code for status, page in pages.items()} == {status: status for status in pages}
    assert refused.status_code == 401
    assert {language(page) for page in [refused, *pages.values()]} == {("en", "en-GB")}
    assert zone(asks) == ("Europe/Vienna", False)


async def test_a_form_is_refused_in_the_browsers_language(browser: Browser) -> None:
    await browser.sign_in("anna")
    form = {"csrf_token": browser.claims["csrf"], "subject": "", "body": "Hello?"}
    german = await browser.submit(f"{ROOT}new/", **form)
    english = await browser.submit(f"{ROOT}new/", headers={"Accept-Language": "en"}, **form)
    assert german.status_code == english.status_code == 422
    errors = [re.findall(r'id="subject-error">([^<]+)<', page.text)[0] for page in (german, english)]
    assert errors[0] != errors[1]
