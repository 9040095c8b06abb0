"""How large a request may be, and how long it may use the database."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from services.conversations.web.rendering import ADMIN_ROOT
from shared.api.body_size import MAX_BODY_BYTES
from shared.api.request_limits import MAX_HEADER_BYTES, MAX_URL_BYTES, RequestSizeMiddleware
from shared.database.engine import COMMAND_TIMEOUT, REQUEST_BOUNDS, create_engine
from shared.database.transactions import SessionFactory, create_sessions
from tests.service.helpers.browser import Browser
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.connected import connect
from tests.service.web.test_customer import ROOT, browser, fields, open_conversation

__all__ = ["browser"]


@pytest.fixture
async def bounded(databases: dict[str, str]) -> AsyncIterator[AsyncEngine]:
    """An engine like the APIs', with shorter timeouts."""
    bounds = {"statement_timeout": "300ms", "lock_timeout": "200ms", "idle_in_transaction_session_timeout": "200ms"}
    assert bounds.keys() == REQUEST_BOUNDS.keys()
    engine = create_engine(databases["conversations"], application="tests", bounds=bounds)
    yield engine
    await engine.dispose()


async def test_a_search_text_that_is_too_long_is_a_problem(sam: Caller) -> None:
    assert problem(await sam.call("GET", "/users", params={"q": "a" * MAX_URL_BYTES})) == (414, "url-too-long")
    assert (await sam.call("GET", "/users", params={"q": "a" * (MAX_URL_BYTES - 100)})).status_code == 200


async def test_a_path_that_is_too_long_is_a_problem(sam: Caller) -> None:
    assert problem(await sam.call("GET", "/conversations/" + "a" * MAX_URL_BYTES)) == (414, "url-too-long")


@pytest.mark.parametrize("header", ["Cookie", "Authorization", "X-Anything"])
async def test_headers_that_are_too_large_are_a_problem(api: httpx2.AsyncClient, header: str) -> None:
    answer = await api.get("/api/v1/unread", headers={header: "a=" + "b" * MAX_HEADER_BYTES})
    assert problem(answer) == (431, "headers-too-large")


async def test_a_header_of_one_value_must_not_be_sent_twice(anna: Caller) -> None:
    [authorization] = anna.headers.values()
    path, body = "/api/v1/conversations", {"subject": "Twice"}
    for name, values in (
        ("Idempotency-Key", ("one", "other")),
        ("idempotency-key", ("one", "one")),
        ("Authorization", (authorization, "Bearer of.somebody.else")),
    ):
        headers = [("Authorization", authorization)] if name != "Authorization" else []
        headers += [(name, value) for value in values]
        answer = await anna.api.post(path, headers=headers, json=body)
        assert problem(answer) == (422, "validation-failed")
        [error] = answer.json()["errors"]
        assert (error["loc"][0], error["loc"][1].lower()) == ("header", name.lower())
        assert error["msg"] == "send this header once, not 2 times"
    languages = [("Authorization", authorization), ("Accept-Language", "de"), ("Accept-Language", "en")]
    assert (await anna.api.post(path, headers=languages, json=body)).status_code == 201
    assert len((await anna.get("/conversations"))["items"]) == 1


async def test_a_compressed_body_is_refused_wherever_it_is_sent(anna: Caller, shop: Caller) -> None:
    for caller, path in ((anna, "conversations"), (anna, "attachments"), (shop, "store/import")):
        headers = caller.headers | {"Content-Encoding": "identity, GZip"}
        answer = await caller.api.post(f"/api/v1/{path}", headers=headers, content=gzip.compress(b"{}"))
        assert problem(answer) == (422, "validation-failed")
        assert answer.json()["errors"][0]["loc"] == ["header", "Content-Encoding"]
    headers = anna.headers | {"Content-Encoding": "UTF-8"}
    assert (await anna.api.post("/api/v1/conversations", headers=headers, json={"subject": "S"})).status_code == 201


async def test_a_body_must_arrive_in_time_and_waiting_for_a_disconnect_is_unlimited() -> None:
    arriving: asyncio.Queue[Message] = asyncio.Queue()
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's names
        for _ in range(3):
            received.append(await receive())  # noqa: PERF401 - an error may come in between

    async def send(_: Message) -> None: ...

    scope: Scope = {"type": "http", "raw_path": b"/", "query_string": b"", "headers": []}
    messages: tuple[Message, ...] = (
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b"y", "more_body": False},
        {"type": "http.disconnect"},
    )
    first, last, gone = messages
    arriving.put_nowait(first)
    with pytest.raises(HTTPException) as refused:
        await RequestSizeMiddleware(app, body_seconds=0.01)(scope, arriving.get, send)
    assert (refused.value.status_code, refused.value.headers) == (408, {"Connection": "close"})
    assert received == [first]

    for message in (first, last):
        arriving.put_nowait(message)
    waiting = asyncio.create_task(RequestSizeMiddleware(app, body_seconds=0.01)(scope, arriving.get, send))
    await asyncio.sleep(0.05)
    assert not waiting.done()  # the disconnect may take its time
    arriving.put_nowait(gone)
    await waiting
    assert received[1:] == [first, last, gone]


async def test_many_small_headers_are_too_large_together(api: httpx2.AsyncClient) -> None:
    headers = [("X-Anything", "a" * 100)] * (MAX_HEADER_BYTES // 100)
    assert problem(await api.get("/api/v1/unread", headers=headers)) == (431, "headers-too-large")


async def test_a_long_invalid_session_cookie_is_unauthenticated(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/api/v1/unread", headers={"Cookie": "chats=" + "a" * 16_000})
    assert problem(answer) == (401, "unauthenticated")


async def submit_half_a_surrogate_pair(browser: Browser, path: str, name: str, **fields: str) -> httpx2.Response:
    """Submit a form in UTF-7 with U+D800 in one of its fields."""
    parts = {**fields, name: "+2AA-"}.items()
    form = "".join(f'--x\r\nContent-Disposition: form-data; name="{it}"\r\n\r\n{text}\r\n' for it, text in parts)
    headers = {"Content-Type": "multipart/form-data; boundary=x; charset=utf-7"}
    return await browser.client.post(path, content=f"{form}--x--\r\n".encode(), headers=headers)


async def test_half_a_surrogate_pair_in_a_form_is_no_token(browser: Browser) -> None:
    assert (
        await submit_half_a_surrogate_pair(browser, await open_conversation(browser), "csrf_token")
    ).status_code == 403
    assert (await submit_half_a_surrogate_pair(browser, "/session", "token")).status_code == 401


@pytest.mark.parametrize("name", ["subject", "body", "order_id", "anything"])
async def test_half_a_surrogate_pair_in_a_form_is_an_error_that_the_page_can_show(browser: Browser, name: str) -> None:
    token = browser.claims["csrf"].replace("+", "+-")
    answer = await submit_half_a_surrogate_pair(browser, f"{ROOT}new/", name, csrf_token=token)
    assert answer.status_code == 422
    assert ("This text contains an invalid character." in answer.text) is (name in {"subject", "body"})


async def test_half_a_surrogate_pair_is_no_customer_and_no_id(browser: Browser) -> None:
    await browser.sign_in("sam", "admin")
    token = browser.claims["csrf"].replace("+", "+-")
    for path, name in (("new/", "user_id"), ("new/", "status"), ("bulk-delete/", "ids")):
        answer = await submit_half_a_surrogate_pair(browser, f"{ADMIN_ROOT}{path}", name, csrf_token=token)
        assert answer.status_code == 422


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_page_rejects_a_form_with_very_many_fields(browser: Browser, kind: str) -> None:
    path = await open_conversation(browser)
    hidden = fields(await browser.get(path))
    many = {f"f{turn}": "x" for turn in range(300)} | {"body": "Hello?", "csrf_token": hidden["csrf_token"]}
    if kind == "multipart/form-data":
        answer = await browser.client.post(path, files={name: (None, value) for name, value in many.items()})
    else:
        answer = await browser.submit(path, **many)  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")
    assert "Traceback" not in answer.text


async def test_a_page_rejects_a_form_that_is_too_large(browser: Browser) -> None:
    path = await open_conversation(browser)
    for where in (path, f"{ROOT}new/", "/session"):
        answer = await browser.submit(where, body="x" * MAX_BODY_BYTES)
        assert answer.status_code == 413
        assert answer.headers["content-type"].startswith("text/html")
        assert "shorten your message to at most 10000 characters" in answer.text
    call = await browser.submit("/api/v1/conversations", body="x" * MAX_BODY_BYTES)
    assert problem(call) == (413, "payload-too-large")


@pytest.mark.parametrize(
    "text", ["😀" * 10_000, "ä" * 10_000, "田中" * 5_000, "\u2028" + "x" * 9_999, "\n\n" + "\u0001" * 9_999 + "x"]
)
async def test_every_allowed_text_fits_into_a_request(anna: Caller, browser: Browser, text: str) -> None:
    subject = "😀" * 200
    content = json.dumps({"subject": subject, "body": text})
    headers = {"Content-Type": "application/json"}
    answer = await anna.call("POST", "/conversations", content=content, headers=headers)
    assert answer.status_code == 201
    assert answer.json()["subject"] == subject
    path = await open_conversation(browser)
    hidden = fields(await browser.get(path))
    form = await browser.submit(path, csrf_token=hidden["csrf_token"], body=text)
    assert form.status_code == 303


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/json", b'{"subject": "%s"}' % (b"\\u00e4" * MAX_BODY_BYTES)),
        ("application/json", b'{"subject": "%s"}' % (b"\\\\u" * (MAX_BODY_BYTES // 2))),
        ("application/x-www-form-urlencoded", b"body=" + b"%41" * MAX_BODY_BYTES),
        ("text/plain", b"\\u00e4" * (MAX_BODY_BYTES // 6 + 1)),
    ],
)
async def test_a_body_with_more_text_than_allowed_is_rejected(anna: Caller, content_type: str, content: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1001):
            yield content[start : start + 1001]

    for sent in (content, pieces()):
        answer = await anna.call("POST", "/conversations", content=sent, headers={"Content-Type": content_type})
        assert problem(answer) == (413, "payload-too-large")


async def test_an_escape_sequence_split_between_chunks_counts_once(anna: Caller) -> None:
    content = b'{"subject": "x", "body": "x%s"}' % (b"\\u0020" * (MAX_BODY_BYTES - 29))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 997):
            yield content[start : start + 997]

    answer = await anna.call("POST", "/conversations", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 201


async def test_a_page_rejects_a_form_with_a_file(browser: Browser) -> None:
    path = await open_conversation(browser)
    files: dict[str, Any] = {
        "body": ("hello.txt", b"Hello?"),
        "csrf_token": (None, fields(await browser.get(ROOT))["csrf_token"]),
    }
    assert (await browser.client.post(path, files=files)).status_code == 400


async def test_the_server_ends_a_statement_that_takes_too_long(bounded: AsyncEngine) -> None:
    async with bounded.connect() as connection:
        with pytest.raises(DBAPIError, match="statement timeout"):
            await connection.execute(text("select pg_sleep(10)"))


async def test_a_request_does_not_wait_long_for_a_row(
    bounded: AsyncEngine, conversations: SessionFactory, anna: Caller
) -> None:
    opened = (await anna.open())["id"]
    api: httpx2.ASGITransport = anna.api._transport  # type: ignore[assignment]  # noqa: SLF001 - the application of the fixture
    async with conversations() as other:
        await other.execute(text("select from conversations for update"))
        connect(api.app, create_sessions(bounded))  # type: ignore[arg-type]
        answer = await anna.call("POST", f"/conversations/{opened}/messages", {"body": "Hello?"})
        assert problem(answer) == (503, "unavailable")
    assert (await anna.post(opened))["number"] == 1


async def test_a_frozen_process_does_not_hold_its_locks_for_long(
    bounded: AsyncEngine, conversations: SessionFactory, anna: Caller
) -> None:
    await anna.open()
    async with bounded.connect() as frozen, conversations() as other:
        await frozen.execute(text("select from conversations for update"))
        async with asyncio.timeout(30):
            await other.execute(text("select from conversations for update"))
        await frozen.invalidate()


async def test_statement_timeouts_are_shorter_than_the_connections_command_timeout() -> None:
    assert all(int(bound.removesuffix("s")) < COMMAND_TIMEOUT for bound in REQUEST_BOUNDS.values())
