"""What tests of the admins' pages do in a browser."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from tests.service.helpers.browser import Browser
from tests.service.helpers.connected import HOST
from tests.service.helpers.html import Page

ROOT = "/admin/dashboard/conversation/"


@asynccontextmanager
async def signed_in(api: httpx2.AsyncClient, sub: str = "sam") -> AsyncIterator[Browser]:
    """Open a browser with a signed-in admin."""
    async with httpx2.AsyncClient(transport=api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in(sub, "admin")
        yield browser


async def show(browser: Browser, path: str = "", *, expect: int = 200, **params: Any) -> Page:
    """Open a page of the inbox by a path relative to it, or by a link."""
    address = path if path.startswith(("/", "http")) else ROOT + path
    answer = await browser.get(address, params=params or None)
    assert answer.status_code == expect, answer.text
    return Page(answer)


async def fill(browser: Browser, page: Page, **typed: Any) -> httpx2.Response:
    """Submit the reply, or else a page's last form, with `typed` filled in; a button is given the same way."""
    forms = page.root.one("main").all("form", method="post")
    form = next((form for form in forms if form.attributes.get("id") == "reply"), forms[-1])
    path = form.attributes.get("action") or str(page.answer.url)
    return await browser.submit(path, **{**page.fields(form), **typed})


def listed(page: Page) -> list[str]:
    """Return the subjects in the list."""
    return [row.one("h2").one("a").text for row in page.root.of_class("row")]
