"""Careless and hostile requests: every response is complete problem+json, and none is a server error."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from structlog.testing import capture_logs

from services.conversations.messaging import listing
from shared.api.body_size import MAX_BODY_BYTES
from tests.service.helpers.callers import Caller, problem

NOWHERE = "01900000-0000-7000-8000-000000000000"
INVALID = (422, "validation-failed")


async def send(caller: Caller, content: bytes, content_type: str | None = "application/json") -> httpx2.Response:
    headers = {"Content-Type": content_type.encode()} if content_type else {}
    answer: httpx2.Response = await caller.call("POST", "/conversations", content=content, headers=headers)
    return answer


@pytest.mark.parametrize("content", [b"", b"{", b"{'subject': 1}", b'{"subject": "x"} x', b"\xef\xbb\xbf{}", b"nul"])
async def test_a_body_that_is_not_json_is_rejected(anna: Caller, content: bytes) -> None:
    assert problem(await send(anna, content)) == INVALID


@pytest.mark.parametrize(
    "content",
    [b'{"subject": "\xff"}', b"\xff\xfe", b'{"subject":' + b"[" * 60_000, b'{"subject": ' + b"9" * 60_000 + b"}"],
)
async def test_an_unreadable_body_is_rejected(anna: Caller, content: bytes) -> None:
    assert problem(await send(anna, content)) == INVALID


@pytest.mark.parametrize("content", [b"null", b"[]", b"7", b'"text"', b"true", b"NaN", b"-Infinity", b"[{}]"])
async def test_a_body_that_is_not_an_object_is_rejected(anna: Caller, content: bytes) -> None:
    assert problem(await send(anna, content)) == INVALID


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "json", "\u043a/;;="]
)
async def test_a_body_of_another_media_type_is_rejected_with_the_right_type(
    anna: Caller, content_type: str | None
) -> None:
    answer = await send(anna, b'{"subject": "x"}', content_type)
    assert problem(answer) == INVALID
    assert "Content-Type: application/json" in answer.json()["detail"]


async def test_json_with_a_charset_or_suffix_is_accepted(anna: Caller) -> None:
    for content_type in ("application/json; charset=utf-8", "application/merge-patch+json", "APPLICATION/JSON"):
        assert (await send(anna, b'{"subject": "x"}', content_type)).status_code == 201


INVALID_FIELDS: dict[str, list[Any]] = {
    "subject": [None, 7, 1.5, True, [], ["x"], {}, {"$ne": ""}, float("inf"), 10**400, "\ud800", "a\udfffb", "\0"],
    "order_id": [7, "", " ", "é", "two words", "\0", "\ud800", "x" * 256, ["A-1"]],
    "body": [7, "", [], {"text": "x"}, "\ud83d", "\0"],
}
UNKNOWN_FIELDS = [{"user_id": "ben"}, {"status": "CLOSED"}, {"\0": 1}, {"": 1}, {"__proto__": {}}, {"x" * 9999: 1}]


@pytest.mark.parametrize(
    "fields", [{name: value} for name, values in INVALID_FIELDS.items() for value in values] + UNKNOWN_FIELDS
)
async def test_an_invalid_or_unknown_field_is_rejected(anna: Caller, fields: dict[str, Any]) -> None:
    answer = await send(anna, json.dumps({"subject": "Hello"} | fields).encode())
    assert problem(answer) == INVALID
    assert [error["loc"][:2] for error in answer.json()["errors"]] == [["body", *fields]]
    assert (await anna.get("/conversations"))["items"] == []


async def test_a_pattern_is_told_in_words(anna: Caller, sam: Caller) -> None:
    reply = {"shortcut": "two words", "title": "Late", "body": "Hello"}
    answer = await sam.call("POST", "/canned-replies", reply)
    assert problem(answer) == INVALID
    assert answer.json()["detail"] == "shortcut: must be one word, without spaces"
    [error] = (await anna.call("POST", "/conversations", {"subject": "Hi", "order_id": "é"})).json()["errors"]
    assert error["msg"] == "must have printable ASCII characters only, without spaces"


async def test_half_a_surrogate_pair_in_a_field_name_is_rejected(anna: Caller) -> None:
    assert problem(await send(anna, b'{"subject": "Hello", "\\ud800": 1}')) == INVALID


async def test_all_errors_of_a_body_are_reported_at_once(anna: Caller) -> None:
    answer = await anna.call("POST", "/conversations", {"body": "", "order_id": "é", "more": 1})
    assert problem(answer) == INVALID
    found = {error["loc"][1] for error in answer.json()["errors"]}
    assert found == {"subject", "body", "order_id", "more"}


@pytest.mark.parametrize("number", [-1, 2**31, 2**63, 10**400, 1.5, 1.0, "1", True, [1], float("nan")])
async def test_a_message_number_must_be_a_valid_integer(anna: Caller, sam: Caller, number: Any) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    path, headers = f"/conversations/{conversation}", {"Content-Type": "application/json"}
    for caller, method, end, fields in (
        (anna, "POST", "/messages", {"body": "x", "seen_number": number}),
        (sam, "POST", "/messages", {"body": "x", "seen_number": number}),
        (sam, "PATCH", "", {"status": "CLOSED", "seen_number": number}),
        (anna, "POST", "/read", {"up_to": number}),
        (sam, "POST", "/read", {"up_to": number}),
    ):
        answer = await caller.call(method, path + end, content=json.dumps(fields), headers=headers)
        assert problem(answer) == INVALID
    assert (await anna.peek(conversation))["message_count"] == 1


@pytest.mark.parametrize("ids", [None, "all", [], [7], ["x"], [None], [NOWHERE] * 101, {"0": NOWHERE}, ["\ud800"]])
async def test_a_bulk_delete_takes_1_to_100_ids(sam: Caller, ids: Any) -> None:
    content, headers = json.dumps({"ids": ids}), {"Content-Type": "application/json"}
    assert problem(await sam.call("POST", "/conversations/bulk-delete", content=content, headers=headers)) == INVALID


async def streamed(size: int) -> AsyncIterator[bytes]:
    yield b'{"subject": "x", "body": "x'
    for _ in range(size // 1000):
        yield b" " * 1000
    yield b" " * (size % 1000 - 29) + b'"}'


async def test_a_body_over_64_kib_is_rejected_declared_or_streamed(anna: Caller, sam: Caller, shop: Caller) -> None:
    exact = b'{"subject": "x", "body": "x' + b" " * (MAX_BODY_BYTES - 29) + b'"}'
    assert len(exact) == MAX_BODY_BYTES
    assert (await send(anna, exact)).status_code == 201
    assert problem(await send(anna, exact + b" ")) == (413, "payload-too-large")
    json_type = {"Content-Type": "application/json"}
    for size, status in ((MAX_BODY_BYTES, 201), (MAX_BODY_BYTES + 1, 413)):
        answer = await anna.call("POST", "/conversations", content=streamed(size), headers=json_type)
        assert answer.status_code == status
        assert status == 201 or problem(answer)
    absurd = {"Content-Length": "9" * 5000}
    assert problem(await anna.call("POST", "/conversations", content=b"", headers=absurd)) == (413, "payload-too-large")
    # Also where the application would not read the body.
    for caller, path in ((sam, f"/conversations/{NOWHERE}/unread"), (shop, "/nowhere"), (anna, "/unread")):
        answer = await caller.call("POST", path, content=b" " * (MAX_BODY_BYTES + 1))
        assert problem(answer) == (413, "payload-too-large")
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/api/v1", "/nope", "/%2e%2e/etc", "/%FF", "/%", "/api/v1/conversations/", "//"])
async def test_an_unknown_path_is_not_found(api: httpx2.AsyncClient, path: str) -> None:
    assert problem(await api.get(httpx2.URL("http://chats.test", raw_path=path.encode()))) == (404, "not-found")


async def test_a_wrong_method_is_rejected_with_the_allowed_ones(anna: Caller, sam: Caller) -> None:
    for caller, method, path, allowed in (
        (anna, "PUT", "/unread", "GET, HEAD"),
        (anna, "DELETE", f"/conversations/{NOWHERE}", "GET, HEAD"),
        (anna, "PUT", "/conversations", "GET, HEAD, POST"),
        (sam, "PUT", f"/conversations/{NOWHERE}", "GET, HEAD, PATCH, DELETE"),
        (sam, "OPTIONS", f"/conversations/{NOWHERE}/messages", "GET, HEAD, POST"),
        (sam, "PATCH", "/conversations/counts", "GET, HEAD"),
        (sam, "GET", "/conversations/bulk-delete", "POST"),
    ):
        answer = await caller.call(method, path)
        assert problem(answer) == (405, "method-not-allowed")
        assert answer.headers["allow"] == allowed
    assert problem(await sam.call("GET", "/conversations/bulk-delete/x")) == (404, "not-found")
    assert (await anna.api.put("/healthz")).headers["allow"] == "GET, HEAD"
    assert (await anna.api.post("/chats-static/badge.js")).headers["allow"]


async def test_head_responds_like_get_and_marks_nothing_as_read(anna: Caller, sam: Caller) -> None:
    answered, unread = [(await anna.open(body="Hello?"))["id"] for _ in range(2)]
    await sam.post(answered)
    for caller, path in (
        (anna, f"/conversations/{answered}?peek=true"),
        (sam, f"/conversations/{unread}?peek=true"),
        (anna, "/orders"),
        (sam, "/conversations/counts"),
        (anna, f"/conversations/{NOWHERE}"),
    ):
        head, got = await caller.call("HEAD", path.partition("?")[0]), await caller.call("GET", path)
        assert head.status_code == got.status_code
        assert head.content == b""
        names = ("content-length", "content-type", "x-position", "cache-control")
        assert [head.headers.get(name) for name in names] == [got.headers.get(name) for name in names]
    assert await anna.get("/unread") == {"unread": 1}
    assert not (await sam.peek(unread))["is_read_by_admin"]
    endless = await anna.call("HEAD", "/stream")
    assert (endless.status_code, endless.headers["allow"]) == (405, "GET")


async def test_frequent_machine_requests_are_counted_but_not_logged(anna: Caller) -> None:
    with capture_logs() as lines:
        assert (await anna.api.get("/healthz")).status_code == 200
        await anna.get("/unread")
    assert [line["route"] for line in lines] == ["/api/v1/unread"]
    metrics = (await anna.api.get("/metrics")).text
    assert 'chats_http_requests_total{method="GET",route="/healthz",status="200"}' in metrics


@pytest.mark.parametrize("identity", ["1", "x", "%00", "%FF", "null", NOWHERE + "0", "..%2f..", "'; drop table users"])
async def test_an_id_that_cannot_be_is_not_found_like_one_that_does_not_exist(
    anna: Caller, sam: Caller, identity: str
) -> None:
    for caller in (anna, sam):
        assert problem(await caller.call("GET", f"/conversations/{identity}")) == (404, "not-found")
        answer = await caller.call("POST", f"/conversations/{identity}/messages", {"body": "x"})
        assert problem(answer) == (404, "not-found")


@pytest.mark.parametrize(
    "query",
    ["status=", "status=open", "status=OPEN&status=x", "unread=perhaps", "unread=", "order_id=a%20b", "order_id=%00",
     "cursor=%FF", "limit=%00", "sort=%00"],
)  # fmt: skip
async def test_a_filter_that_cannot_be_is_refused(anna: Caller, sam: Caller, query: str) -> None:
    assert problem(await sam.call("GET", f"/conversations?{query}")) == INVALID
    if not query.startswith("sort"):
        assert problem(await anna.call("GET", f"/conversations?{query}")) == INVALID


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/conversations?statuss=OPEN", None),
        ("GET", "/conversations?limit=5&Limit=6", None),
        ("GET", "/unread?unread=true", None),
        ("POST", "/conversations?order_id=A-1", {"subject": "Hello"}),
        ("GET", "/stream?since=1", None),
    ],
)
async def test_an_unknown_query_parameter_is_refused_and_nothing_done(
    anna: Caller, method: str, path: str, body: dict[str, str] | None
) -> None:
    answer = await anna.call(method, path, body)
    assert problem(answer) == (422, "unknown-parameter")
    [error] = answer.json()["errors"]
    assert error["loc"][0] == "query"
    assert error["loc"][1] in path
    assert (await anna.call("GET", "/conversations")).json()["items"] == []


async def test_a_parameter_of_one_value_is_refused_when_it_is_repeated(anna: Caller, sam: Caller) -> None:
    """Else a part of what the caller asked for would be ignored."""
    conversation = (await anna.open(body="Hello?"))["id"]
    for caller, path in (
        (anna, "/conversations?unread=true&unread=false"),
        (anna, f"/conversations/{conversation}/messages?after=1&after=2"),
        (sam, "/conversations?label=a&status=OPEN&status=CLOSED&label=b"),
        (sam, "/users?q=anna&q=anna"),
    ):
        answer = await caller.call("GET", path)
        assert problem(answer) == INVALID, path
        assert "send this parameter once, not 2 times" in answer.text
    assert (await sam.call("GET", "/conversations?status=OPEN&status=CLOSED")).status_code == 200


async def test_odd_queries_and_headers_do_no_harm(anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    for query in ("&&&", "peek=true&"):
        assert (await anna.call("GET", f"/conversations/{conversation}?{query}")).status_code == 200
    for query in ("x=1&x=2", "&&&=", "%FF=%FE", "%00", "x=" + "y" * 8000, "peek=true&x"):
        answer = await anna.call("GET", f"/conversations/{conversation}?{query}")
        assert problem(answer) == (422, "unknown-parameter")
    for query in ("q=%00", "q=%ED%A0%80", "q=%FF", "order=up", "after=-1", "after=1e9", f"after={2**31}"):
        path = "/users" if query.startswith("q") else f"/conversations/{conversation}/messages"
        answer = await sam.call("GET", f"{path}?{query}")
        assert answer.status_code == (200 if "F" in query or "ED" in query else 422)
    for name in ("Sec-Purpose", "Accept", "X-Request-ID", "Host", "Cookie", "Content-Length-X"):
        answer = await anna.call("GET", "/unread", headers={name: b"\xff\xfe; \x80" * 100})
        assert answer.status_code == 200


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"\xe9", b"a\tb", b"\x7f", "ключ".encode()])
async def test_an_idempotency_key_is_1_to_255_printable_characters(anna: Caller, sam: Caller, key: bytes) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    for caller, method, path, body in (
        (anna, "POST", "/conversations", {"subject": "x"}),
        (anna, "POST", f"/conversations/{conversation}/messages", {"body": "x"}),
        (sam, "PATCH", f"/conversations/{conversation}", {"reply_body": "x"}),
    ):
        answer = await caller.call(method, path, body, headers={"Idempotency-Key": key})
        assert problem(answer) == INVALID
        assert [error["loc"] for error in answer.json()["errors"]] == [["header", "Idempotency-Key"]]


async def test_a_request_id_that_is_a_uuid_comes_back_and_any_other_is_replaced(anna: Caller) -> None:
    mine = str(uuid4())
    assert (await anna.call("GET", "/unread", headers={"X-Request-ID": mine})).headers["x-request-id"] == mine
    for other in ("", "mine", "\N{ESCAPE}[31m", "x" * 5000):
        found = (await anna.call("GET", "/unread", headers={"X-Request-ID": other})).headers["x-request-id"]
        assert len(found) == 36
        assert found not in {mine, other}


async def test_a_crash_is_answered_without_its_reason_and_logged_with_the_request_id(
    anna: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: Any, **__: Any) -> int:
        raise RuntimeError("a secret reason")

    monkeypatch.setattr(listing, "list_by_activity", crash)
    with capture_logs() as lines:
        answer = await anna.call("GET", "/conversations")
    assert problem(answer) == (500, "internal-error")
    assert "secret" not in answer.text
    assert len(answer.headers["x-request-id"]) == 36
    assert [line["event"] for line in lines] == ["request crashed", "request"]
