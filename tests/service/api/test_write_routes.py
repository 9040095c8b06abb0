"""Routes that post messages and create conversations skip FastAPI's steps, and answer exactly as FastAPI would."""

import json
import re
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from shared.api.write_route import WriteFirst, WriteRoute
from tests.service.helpers.callers import ORDER, Caller
from tests.service.helpers.connected import app_of

JSON = "application/json"
KEY = "Idempotency-Key"
BODIES: list[tuple[bytes, dict[str, str]]] = [
    (b'{"body": "Hello"}', {}),
    (b'{"body": "Hello"}', {KEY: "first"}),
    (b'{"body": "Hello"}', {KEY: "first"}),
    (b'{"body": "Other"}', {KEY: "first"}),
    (b' {"body":"\\u00e9 \xc3\xa9", "seen_number": null, "attachments": []}\n', {}),
    (b'{"body": "Hello", "seen_number": 0}', {}),
    (b'{"body": "Hello", "seen_number": "9"}', {}),
    (b'{"body": "Hello"}', {"Content-Type": f"{JSON}; charset=utf-8"}),
    (b'{"body": "Hello"}', {"Content-Type": "Application/JSON"}),
    (b'{"body": "Hello"}', {"Content-Type": "application/merge-patch+json"}),
    (b'{"body": "Hello"}', {"Content-Type": "text/plain"}),
    (b'{"body": "Hello"}', {"Content-Type": ""}),
    (b"body=Hello", {"Content-Type": "application/x-www-form-urlencoded"}),
    ('{"body": "Hello"}'.encode("utf-16"), {}),
    (b'{"body": "first", "body": "second"}', {}),
    (b'{"body": "Hello", "nothing": 1}', {}),
    (b'{"body": 1}', {}),
    (b'{"body": ""}', {}),
    (b'{"body": "  "}', {}),
    (b'{"body": "a\\u0000b"}', {}),
    (b'{"body": "\\ud800"}', {}),
    (b'{"body": "\xff"}', {}),
    (b'{"body": NaN}', {}),
    (b'{"body": "Hello"', {}),
    (b'{"body": "Hello", "attachments": ["0"]}', {}),
    (b'{"body": "Hello", "attachments": ["00000000-0000-7000-8000-000000000000"]}', {}),
    (json.dumps({"body": "x" * 10_001}).encode(), {}),
    (b"[" * 60_000, {}),
    (b"x" * 70_000, {}),
    (b"[]", {}),
    (b"null", {}),
    (b"{}", {}),
    (b"", {}),
    (b'{"body": "Hello"}', {KEY: ""}),
    (b'{"body": "Hello"}', {KEY: "x" * 256}),
    (b'{"body": "Hello"}', {KEY: "\xe9"}),
    (b'{"body": "Hello"}', {"Authorization": ""}),
    (b'{"body": "Hello"}', {"Authorization": "Bearer x"}),
    (b'{"body": 1}', {"Authorization": "Bearer x"}),
]
# Of new conversations: fields besides a subject, an admin's also besides a customer and a text, and headers.
CREATES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {}),
    ({"body": "Hello"}, {}),
    ({"body": "Hello"}, {KEY: "first"}),
    ({"body": "Hello"}, {KEY: "first"}),
    ({"body": "Other"}, {KEY: "first"}),
    ({"body": "Hello", "order_id": "A-1"}, {}),
    ({"body": "Hello", "order_id": "B-1"}, {KEY: "second"}),
    ({"body": "Hello", "order_id": ""}, {}),
    ({"body": "", "subject": "a\u2028b"}, {}),
    ({"body": "Hello", "subject": " "}, {}),
    ({"body": "Hello", "subject": 1}, {}),
    ({"body": "Hello", "status": "RESOLVED"}, {}),
    ({"body": "Hello", "status": "KEEP"}, {}),
    ({"body": "Hello", "user_id": "nobody"}, {}),
    ({"body": "Hello", "attachments": ["00000000-0000-7000-8000-000000000000"]}, {}),
    ({"body": "Hello", "nothing": 1}, {}),
    ({"body": "Hello"}, {"Content-Type": "text/plain"}),
    ({"body": "Hello"}, {"Authorization": "Bearer x"}),
]
PATHS = ("x", "00000000-0000-7000-8000-000000000000")


@pytest.fixture
def app(api: httpx2.AsyncClient) -> FastAPI:
    return app_of(api)


def test_each_side_posts_and_creates_by_a_write_route(app: FastAPI) -> None:
    paths = {route.path for route in app.routes if isinstance(route, WriteRoute)}
    ends = ("", "/{conversation_id}/messages")
    assert paths == {f"/api/v1{side}/conversations{end}" for side in ("", "/admin") for end in ends}


async def test_write_routes_answer_as_fastapi_would(
    app: FastAPI, anna: Caller, ben: Caller, sam: Caller, shop: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for order, customer in (("A-1", "anna"), ("B-1", "ben")):
        await shop.call("PUT", f"/orders/{order}", ORDER | {"user_id": customer})
    answered: list[str] = []

    async def noted(route: WriteRoute, *request: Any, answer: Any = WriteRoute.answer) -> None:
        answered.append(route.path)
        await answer(route, *request)

    monkeypatch.setattr(WriteRoute, "answer", noted)

    async def answers(run: str) -> list[tuple[int, str, dict[str, str]]]:
        found = []
        conversation, foreign = (await anna.open())["id"], (await ben.open())["id"]
        for caller in (anna, sam):
            base = f"{caller.prefix}/conversations"
            requests = [(f"{base}/{conversation}/messages", *each) for each in BODIES]
            requests += [(f"{base}/{path}/messages", *BODIES[0]) for path in (*PATHS, foreign)]
            requests += [(f"{base}/{conversation}/messages?{query}", *BODIES[0]) for query in ("", "x=1")]
            requests += [(f"{other.prefix}/conversations/{conversation}/messages", *BODIES[0]) for other in (anna, sam)]
            with_customer = {"user_id": "anna", "body": "Hello"} if caller is sam else {}
            for fields, headers in CREATES:
                body = json.dumps({"subject": "Hi", **with_customer, **fields}).encode()
                once = {KEY: f"{run}-{headers[KEY]}"} if KEY in headers else {}
                requests.append((base, body, headers | once))
            for url, body, headers in requests:
                sent = {**caller.headers, "Content-Type": JSON, **headers}
                raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
                answer = await caller.api.post(url, content=body, headers=raw)
                kept = {name: _without_ids(value) for name, value in answer.headers.items() if name != "x-request-id"}
                found.append((answer.status_code, _without_ids(answer.text), kept))
        return found

    ours = await answers("ours")
    assert set(answered) == {route.path for route in app.routes if isinstance(route, WriteRoute)}
    answered.clear()
    monkeypatch.setattr(WriteFirst, "_find", lambda *_: (None, {}))
    theirs = await answers("theirs")
    assert not answered
    for one, other in zip(ours, theirs, strict=True):
        assert one == other
    assert {status for status, _, _ in ours} == {201, 401, 403, 404, 409, 413, 422}


def _without_ids(text: str) -> str:
    """Return a response without what differs between two posts of the same text."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME", text)
