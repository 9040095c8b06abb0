"""Uploads, through the API, and who may download them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from shared.database.transactions import SessionFactory
from tests.service.helpers.callers import UNKNOWN_ID, Caller, problem

UPLOAD = "/api/v1/attachments"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000003000000020802000000"
    "12161f4d0000000c49444154789c6360601800000044000165d2b8c00000000049454e44ae426082"
)


async def chunked(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def raw(caller: Caller, content: Any, disposition: str | None = None, **headers: str) -> httpx2.Response:
    more = headers | ({"Content-Disposition": disposition} if disposition else {})
    return await caller.api.post(UPLOAD, content=content, headers=caller.headers | more)


def application(caller: Caller) -> FastAPI:
    transport: Any = caller.api._transport  # noqa: SLF001 - a test calls it, or changes its settings
    app: FastAPI = transport.app
    return app


def set_settings(caller: Caller, **changes: Any) -> None:
    state = application(caller).state
    state.settings = state.settings.model_copy(update=changes)


def objects(url: str) -> list[Path]:
    """Return the files in a store, unfinished parts as well."""
    return [path for path in Path(urlsplit(url).path).rglob("*") if path.is_file()]


async def rows(sessions: SessionFactory) -> int:
    async with sessions() as session:
        count: int = (await session.execute(text("select count(*) from attachments"))).scalar_one()
    return count


async def test_a_file_in_a_form_is_stored_and_described(anna: Caller, files_url: str) -> None:
    file = await anna.upload(PNG, "photo.png")
    assert file == {
        "id": file["id"],
        "name": "photo.png",
        "size": len(PNG),
        "content_type": "image/png",
        "sha256": hashlib.sha256(PNG).hexdigest(),
        "state": "ready",
        "thumbnail": False,
        "width": 3,
        "height": 2,
    }
    [stored] = objects(files_url)
    assert stored.name == file["id"]
    assert stored.read_bytes() == PNG


async def test_a_raw_body_is_stored_under_the_name_in_its_header(anna: Caller) -> None:
    answer = await raw(anna, b"%PDF-1.7\n", "attachment; filename*=UTF-8''Rechnung%20f%C3%BCr%20Anna.pdf")
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "Rechnung für Anna.pdf"
    assert answer.json()["content_type"] == "application/pdf"
    assert "width" not in answer.json()


async def test_a_large_file_arrives_whole_in_chunks_without_a_declared_size(anna: Caller) -> None:
    chunk = bytes(range(256)) * 1024
    answer = await raw(anna, chunked(*[chunk] * 44))
    assert answer.json()["size"] == 11 * 2**20
    assert answer.json()["sha256"] == hashlib.sha256(chunk * 44).hexdigest()
    read = await anna.call("GET", f"/attachments/{answer.json()['id']}")
    assert read.content == chunk * 44


async def test_the_bytes_decide_about_the_type_and_never_the_name(anna: Caller) -> None:
    file = await anna.upload(b"<!DOCTYPE html><html><script>alert(1)</script></html>", "photo.png")
    assert (file["name"], file["content_type"]) == ("photo.png", "text/html")
    read = await anna.call("GET", f"/attachments/{file['id']}")
    assert read.headers["content-disposition"] == 'attachment; filename="photo.png"'
    assert read.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in read.headers["content-security-policy"]
    assert read.headers["cache-control"] == "private, no-cache"


async def test_before_it_is_sent_a_file_is_its_uploaders_alone(anna: Caller, ben: Caller, sam: Caller) -> None:
    file = await anna.upload()
    for path in ("", "/thumbnail", "/picture"):
        for caller in (ben, sam):
            answer = await caller.api.get(f"{UPLOAD}/{file['id']}{path}", headers=caller.headers)
            assert problem(answer) == (404, "not-found")
        assert problem(await anna.api.get(f"{UPLOAD}/{file['id']}{path}")) == (401, "unauthenticated")
    assert (await anna.call("GET", f"/attachments/{file['id']}")).content == b"A file"
    assert problem(await anna.call("GET", f"/attachments/{UNKNOWN_ID}")) == (404, "not-found")


async def test_nobody_without_a_token_makes_the_server_read_a_body(
    api: httpx2.AsyncClient, conversations: SessionFactory
) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    assert problem(await api.post(UPLOAD, content=body())) == (401, "unauthenticated")
    assert read == 0
    assert await rows(conversations) == 0


@pytest.mark.parametrize(
    ("changes", "declared", "status"),
    [
        ({"attachment_max_bytes": 1000}, True, 413),
        ({"attachment_max_bytes": 1000}, False, 413),
        ({"limit_attachment_bytes_per_day": 1000}, True, 429),
    ],
)
async def test_a_refusal_waits_for_the_body_unless_the_client_does(
    anna: Caller, changes: dict[str, int], declared: bool, status: int
) -> None:
    """Through a proxy, an earlier one would be lost with the connection."""
    set_settings(anna, **changes)
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    size = {"Content-Length": "100000"} if declared else {}
    assert (await raw(anna, body(), **size)).status_code == status
    assert read == 100
    assert (await raw(anna, body(), **size, Expect="100-continue")).status_code == status
    assert read < 200


async def test_a_file_over_the_limit_is_refused_whether_declared_or_not(
    anna: Caller, conversations: SessionFactory, files_url: str
) -> None:
    set_settings(anna, attachment_max_bytes=1000)
    assert (await raw(anna, b"x" * 1000)).status_code == 201
    assert problem(await raw(anna, b"x" * 1001)) == (413, "payload-too-large")
    assert problem(await raw(anna, chunked(b"x" * 600, b"x" * 600))) == (413, "payload-too-large")
    form = await anna.api.post(UPLOAD, files={"file": ("x", b"x" * 1001)}, headers=anna.headers)
    assert problem(form) == (413, "payload-too-large")
    assert await rows(conversations) == 1
    assert len(objects(files_url)) == 1


@pytest.mark.parametrize(
    "request_of",
    [
        {"content": b""},
        {"files": {"file": ("x", b"")}},
        {"files": {"other": ("x", b"x")}},
        {"files": [("file", ("x", b"x")), ("file", ("y", b"y"))]},
        {"content": b"--x\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        {"data": {"file": "a text"}, "files": {"x": ("x", b"x")}},
    ],
)
async def test_what_is_no_file_is_refused(
    anna: Caller, conversations: SessionFactory, request_of: dict[str, Any]
) -> None:
    headers = anna.headers | request_of.pop("headers", {})
    assert problem(await anna.api.post(UPLOAD, headers=headers, **request_of)) == (422, "validation-failed")
    assert await rows(conversations) == 0


async def test_a_customers_files_of_a_day_are_limited_and_an_admins_are_not(
    anna: Caller, ben: Caller, sam: Caller
) -> None:
    set_settings(anna, limit_attachment_bytes_per_day=200_000)
    await anna.upload(b"x" * 100_000)
    await anna.upload(b"x")  # counts for 64 KiB
    answer = await raw(anna, b"x")
    assert problem(answer) == (429, "rate-limited")
    assert 86_000 < int(answer.headers["retry-after"]) <= 86_400
    await ben.upload(b"x" * 100_000)
    await sam.upload(b"x" * 300_000)


async def test_concurrent_uploads_stay_within_the_limit_together(anna: Caller) -> None:
    await anna.upload(b"x")
    set_settings(anna, limit_attachment_bytes_per_day=4 * 65_536)
    answers = await asyncio.gather(*(raw(anna, b"x") for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 3


async def test_a_retry_with_the_same_key_returns_the_first_file(anna: Caller, conversations: SessionFactory) -> None:
    first, second = await asyncio.gather(
        *(raw(anna, b"The same", 'attachment; filename="a.txt"', **{"Idempotency-Key": "k"}) for _ in range(2))
    )
    assert first.json() == second.json()
    assert {"idempotency-replayed" in first.headers, "idempotency-replayed" in second.headers} == {True, False}
    other = await raw(anna, b"Another", 'attachment; filename="a.txt"', **{"Idempotency-Key": "k"})
    assert problem(other) == (422, "idempotency-key-reused")
    renamed = await raw(anna, b"The same", 'attachment; filename="b.txt"', **{"Idempotency-Key": "k"})
    assert problem(renamed) == (422, "idempotency-key-reused")
    assert await rows(conversations) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x"])
async def test_a_client_that_hangs_up_leaves_nothing(
    anna: Caller, conversations: SessionFactory, files_url: str, content_type: str
) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 6 * 2**20
    received = iter([{"type": "http.request", "body": part, "more_body": True}, {"type": "http.disconnect"}])
    sent = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": UPLOAD,
        "raw_path": UPLOAD.encode(),
        "query_string": b"",
        "headers": [
            (b"authorization", anna.headers["Authorization"].encode()),
            (b"content-type", content_type.encode()),
        ],
    }

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    await application(anna)(scope, receive, send)
    assert sent[0]["status"] == 499
    assert await rows(conversations) == 0
    assert not objects(files_url)


async def test_a_file_that_the_browser_has_is_not_sent_again(anna: Caller) -> None:
    file = await anna.upload()
    first = await anna.call("GET", f"/attachments/{file['id']}")
    tag = first.headers["etag"]
    for held in (tag, f"W/{tag}", f'"another", {tag}'):
        again = await anna.call("GET", f"/attachments/{file['id']}", headers={"If-None-Match": held})
        assert (again.status_code, again.content) == (304, b"")
    other = await anna.call("GET", f"/attachments/{file['id']}", headers={"If-None-Match": '"another"'})
    assert (other.status_code, other.content) == (200, first.content)
    head = await anna.call("HEAD", f"/attachments/{file['id']}")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "6")
