"""Badges of callers at the same time share statements, but not their results."""

import asyncio

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.service.conftest import As
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller
from tests.service.helpers.connected import HOST
from tests.service.helpers.recorded_statements import statements


@pytest.fixture
async def browser(api: httpx2.AsyncClient) -> Browser:
    """The browser of a customer without conversations, with a session."""
    browser = Browser(httpx2.AsyncClient(transport=api._transport, base_url=HOST))  # noqa: SLF001 - the same app
    await browser.sign_in("dora")
    return browser


async def test_concurrent_badges_share_statements_but_not_their_results(
    conversations_engine: AsyncEngine,
    api: httpx2.AsyncClient,
    acting_as: As,
    anna: Caller,
    ben: Caller,
    sam: Caller,
    shop: Caller,
    browser: Browser,
) -> None:
    for _ in range(2):
        await sam.post((await anna.open(body="Hello?"))["id"])
    await ben.open(body="Hello?")
    for gone in ("emil", "fay"):
        await Caller(api, "/api/v1", acting_as(gone)).get("/unread")
    await shop.call("DELETE", "/users/emil")
    await shop.call("POST", "/users/fay/merge", {"into": "anna"})
    callers = {
        "anna": acting_as("anna", name="Anna", email="anna@customer.test"),
        "ben": acting_as("ben"),
        "sam": acting_as("sam", "admin"),
        "emil": acting_as("emil"),
        "fay": acting_as("fay"),
        "new": acting_as("new", name="New"),
        "ben, changed": acting_as("ben", name="Ben"),
    }

    async def ask(name: str) -> tuple[int, int | None, str | None]:
        answer = await api.get("/api/v1/unread", headers=callers[name])
        return answer.status_code, answer.json().get("unread"), answer.headers.get("X-Position")

    position = (await api.get("/api/v1/unread", headers=callers["sam"])).headers["X-Position"]
    many = ["anna", "ben", "sam"] * 8
    async with statements(conversations_engine) as recorded:
        by_session, answers = await asyncio.gather(
            browser.call("GET", "/api/v1/unread"), asyncio.gather(*map(ask, many))
        )
    expected = {"anna": (200, 2, position), "ben": (200, 0, position), "sam": (200, 1, position)}
    assert answers == [expected[name] for name in many]
    assert by_session.json() == {"unread": 0}
    assert len(recorded) < len(many) / 2
    others = dict(zip(callers, await asyncio.gather(*map(ask, callers)), strict=True))
    assert {name: answer[:2] for name, answer in others.items()} == {
        "anna": (200, 2),
        "ben": (200, 0),
        "sam": (200, 1),
        "emil": (401, None),
        "fay": (200, 2),
        "new": (200, 0),
        "ben, changed": (200, 0),
    }
    [named] = [user for user in (await sam.get("/users"))["items"] if user["id"] == "ben"]
    assert named["name"] == "Ben"
