"""Limits are checked before a database connection is taken, in every request that writes or signs in."""

from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.conversations.rate_limits.policy import LimitedAction
from shared.auth.principal import Principal
from tests.service.conftest import As
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.html import Page

MESSAGE, CONVERSATION = LimitedAction.MESSAGE, LimitedAction.CONVERSATION


class RecordingLimits:
    """Unlimited limits that record each check, and how many connections the process uses at that moment."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._pool: Any = engine.pool
        self.checks: list[Any] = []
        self.in_use: set[int] = set()

    async def allow(self, caller: Principal, acts: list[LimitedAction], *, path: str, key: str | None) -> None:
        self._note((caller.id, *acts))
        assert path.startswith("/")
        assert key != ""

    async def allow_sign_in(self, user: Principal) -> None:
        self._note(("sign in", user.id))

    async def allow_failed_sign_in(self, address: str) -> None:
        self._note(("failed", address))

    async def allow_renewal(self, user: Principal) -> None:
        self._note(("renewal", user.id))

    def _note(self, check: Any) -> None:
        self.checks.append(check)
        self.in_use.add(self._pool.checkedout())


@pytest.fixture
def limits(api: httpx2.AsyncClient, conversations_engine: AsyncEngine) -> RecordingLimits:
    transport: Any = api._transport  # noqa: SLF001 - the application of the fixture
    transport.app.state.limits = RecordingLimits(conversations_engine)
    return transport.app.state.limits  # type: ignore[no-any-return]


@pytest.fixture
async def writers(api: httpx2.AsyncClient, acting_as: As) -> tuple[Caller, Caller]:
    """Anna and Sam, by token."""
    return Caller(api, "/api/v1", acting_as("anna")), Caller(api, "/api/v1/admin", acting_as("sam", "admin"))


async def test_writes_with_a_token_are_counted_before_a_connection_is_taken(
    limits: RecordingLimits, writers: tuple[Caller, Caller]
) -> None:
    anna, sam = writers
    opened = (await anna.open())["id"]
    await anna.open(body="Hello?")
    await anna.post(opened)
    await sam.post(opened)
    await sam.edit(opened, reply_body="Hello.")
    await sam.edit(opened, status="CLOSED")
    await sam.open(user_id="anna", body="Hello.")
    assert limits.checks == [
        ("anna", CONVERSATION),
        ("anna", CONVERSATION, MESSAGE),
        ("anna", MESSAGE),
        ("sam", MESSAGE),
        ("sam", MESSAGE),
        ("sam",),
        ("sam", MESSAGE),
    ]
    assert limits.in_use == {0}


async def test_writes_with_a_session_are_counted_before_a_connection_is_taken(
    limits: RecordingLimits, api: httpx2.AsyncClient, writers: tuple[Caller, Caller]
) -> None:
    opened = (await writers[0].open())["id"]
    limits.checks.clear()
    async with httpx2.AsyncClient(transport=api._transport, base_url=HOST) as client:  # noqa: SLF001 - the same app
        browser = Browser(client)
        await browser.sign_in("anna")
        for path in ("/dashboard/messages/new/", f"/dashboard/messages/{opened}/"):
            await submit(browser, path, subject="Hello", body="Hello?")
        path = f"/api/v1/conversations/{opened}/messages"
        assert (await browser.call("POST", path, {"body": "Hello?"})).status_code == 201
        await browser.call("POST", "/session/renew")
        await browser.sign_in("sam", "admin")
        for path in ("/admin/dashboard/conversation/new/?user_id=anna", f"/admin/dashboard/conversation/{opened}/"):
            await submit(browser, path, subject="Hello", body="Hello.", reply_body="Hello.")
        path = f"/api/v1/admin/conversations/{opened}"
        assert (await browser.call("PATCH", path, {"reply_body": "Hello."})).status_code == 200
        await browser.submit("/session", token="guessed")
    assert limits.checks == [
        ("sign in", "anna"),
        ("anna", CONVERSATION, MESSAGE),
        ("anna", MESSAGE),
        ("anna", MESSAGE),
        ("renewal", "anna"),
        ("sign in", "sam"),
        ("sam", MESSAGE),
        ("sam", MESSAGE),
        ("sam", MESSAGE),
        ("failed", "127.0.0.1"),
    ]
    assert limits.in_use == {0}


async def submit(browser: Browser, path: str, **typed: str) -> None:
    """Fill in the fields of a page's form, and submit it."""
    page = Page(await browser.get(path))
    forms = [form for form in page.root.one("main").all("form") if "idempotency_key" in page.fields(form)]
    form = forms[0]  # an admin's page of a conversation has one for notes behind it
    fields = page.fields(form)
    answer = await browser.submit(path.partition("?")[0], **fields | {k: v for k, v in typed.items() if k in fields})
    assert answer.status_code == 303, answer.text
