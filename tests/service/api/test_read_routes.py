"""Routes that only read skip FastAPI's steps, and answer exactly as FastAPI would."""

import re
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from shared.api.read_route import ReadFirst, ReadRoute
from shared.observability.logs import ENDLESS_ROUTES
from tests.service.helpers.callers import ORDER, Caller
from tests.service.helpers.connected import app_of

ADMIN, CUSTOMER = "/api/v1/admin", "/api/v1"
CASES = {
    f"{CUSTOMER}/conversations": [
        "",
        "status=OPEN&status=CLOSED",
        "status=OPEN&status=",
        "status=open",
        "unread=true",
        "unread=yes",
        "unread=maybe",
        "unread=",
        "order_id=A-1",
        "order_id=%20",
        "limit=1",
        "limit=0",
        "limit=1&limit=2",
        "limit=",
        "limit=1.0",
        "cursor=x",
        "cursor=",
        "statuss=OPEN",
        "limit=1&%00=2",
    ],
    f"{CUSTOMER}/conversations/{{id}}/messages": [
        "",
        "order=desc",
        "order=up",
        "after=1",
        "after=-1",
        "after=9999999999",
    ],
    f"{CUSTOMER}/unread": ["", "x=1"],
    f"{CUSTOMER}/orders": ["", "limit=1", "limit=x"],
    f"{ADMIN}/conversations": [
        "",
        "sort=waiting",
        "sort=x",
        "user_id=anna",
        "user_id=%FF",
        "order_number=%20%20",
        "limit=100",
        "assigned=me",
        "assigned=none&label=x",
        "assigned=you",
        "label=",
    ],
    f"{ADMIN}/conversations/counts": ["", "limit=1"],
    f"{ADMIN}/conversations/{{id}}/messages": ["", "cursor=%00"],
    f"{ADMIN}/conversations/{{id}}/timeline": ["", "order=desc", "cursor=x"],
    f"{ADMIN}/admins": ["", "limit=1"],
    f"{ADMIN}/labels": ["", "limit=0"],
    f"{ADMIN}/canned-replies": ["", "x=1"],
    f"{ADMIN}/audit": [
        "",
        "actor=sam",
        "actor=%20",
        "action=conversation.read",
        "action=x",
        "conversation_id=x",
        "cursor=x",
    ],
    f"{ADMIN}/users": ["", "q=ann", "q=", "q=%00", "q=a&q=b"],
}


@pytest.fixture
def app(api: httpx2.AsyncClient) -> FastAPI:
    return app_of(api)


def test_every_read_route_has_a_case(app: FastAPI) -> None:
    routes = {re.sub(r"\{\w+(:\w+)?\}", "{id}", route.path) for route in app.routes if isinstance(route, ReadRoute)}
    assert routes - ENDLESS_ROUTES == set(CASES)


async def test_read_routes_answer_as_fastapi_would(
    anna: Caller, sam: Caller, shop: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: set[str] = set()

    async def noted(route: ReadRoute, *request: Any, answer: Any = ReadRoute.answer) -> None:
        answered.add(route.path)
        await answer(route, *request)

    monkeypatch.setattr(ReadRoute, "answer", noted)
    await shop.call("PUT", "/orders/A-1", ORDER)
    conversation = (await anna.open(order_id="A-1", body="Hello?"))["id"]
    await anna.open()
    await sam.post(conversation)
    urls = [f"{path}?{query}".replace("{id}", conversation) for path, queries in CASES.items() for query in queries]
    urls += [f"{CUSTOMER}/conversations/{other}/messages" for other in ("x", "0" * 32, conversation.upper())]

    async def answers() -> dict[tuple[str, str], tuple[int, bytes, dict[str, str]]]:
        found = {}
        for caller in (anna, sam):
            for url in urls:
                answer = await caller.api.get(url, headers=caller.headers)
                headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
                found[caller.prefix, url] = answer.status_code, answer.content, headers
        return found

    ours = await answers()
    assert len(answered) == len(CASES)
    answered.clear()
    monkeypatch.setattr(ReadFirst, "_find", lambda *_: (None, {}))
    assert ours == await answers()
    assert not answered
    assert {status for status, _, _ in ours.values()} == {200, 403, 404, 422}
