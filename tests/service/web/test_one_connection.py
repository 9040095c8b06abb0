"""Posting never holds one database connection while waiting for another: it works with a pool of one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest
from fastapi import FastAPI

from shared.database.engine import create_engine
from shared.database.transactions import create_sessions
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import HOST, connect
from tests.service.web.test_customer import ROOT, write

ADMIN_ROOT = "/admin/dashboard/conversation/"


@pytest.fixture
async def small_pool(api: httpx2.AsyncClient, databases: dict[str, str]) -> AsyncIterator[httpx2.ASGITransport]:
    """The application with a pool of one connection."""
    transport = api._transport  # noqa: SLF001 - the same application
    assert isinstance(transport, httpx2.ASGITransport)
    assert isinstance(transport.app, FastAPI)
    engine = create_engine(databases["conversations"], application="tests", pool_size=1)
    connect(transport.app, create_sessions(engine))
    yield transport
    await engine.dispose()


async def by_form(browser: Browser, conversation: str) -> int:
    return (await write(browser, f"{ROOT}{conversation}/", body="By a form.")).status_code


async def by_script(browser: Browser, conversation: str) -> int:
    path = f"/api/v1/conversations/{conversation}/messages"
    return (await browser.call("POST", path, {"body": "By a script."})).status_code


async def by_admin_form(browser: Browser, conversation: str) -> int:
    return (await write(browser, f"{ADMIN_ROOT}{conversation}/", reply_body="By a form.", status="")).status_code


async def by_admin_script(browser: Browser, conversation: str) -> int:
    path = f"/api/v1/admin/conversations/{conversation}"
    return (await browser.call("PATCH", path, {"reply_body": "By a script."})).status_code


@pytest.mark.parametrize(
    ("user", "role", "post", "status"),
    [
        ("anna", "customer", by_form, 303),
        ("anna", "customer", by_script, 201),
        ("sam", "admin", by_admin_form, 303),
        ("sam", "admin", by_admin_script, 200),
    ],
)
async def test_a_browsers_posts_need_one_connection_at_a_time(
    small_pool: httpx2.ASGITransport,
    anna: Caller,
    user: str,
    role: str,
    post: Callable[[Browser, str], Awaitable[int]],
    status: int,
) -> None:
    conversations = [(await anna.open())["id"] for _ in range(3)]
    async with httpx2.AsyncClient(transport=small_pool, base_url=HOST) as client:
        browser = Browser(client)
        await browser.sign_in(user, role)
        assert await asyncio.gather(*(post(browser, conversation) for conversation in conversations)) == [status] * 3
