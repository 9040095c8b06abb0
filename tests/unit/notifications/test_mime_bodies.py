"""Forms with an email in them, cut into pieces anywhere, give the bytes that were put in."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from services.notifications.api.mime_bodies import Given, read_email
from shared.problems import Invalid, Problem


def read(kind: str, pieces: Sequence[bytes]) -> Given:
    left = list(pieces)

    async def receive() -> Any:
        return {"type": "http.request", "body": left.pop(0) if left else b"", "more_body": bool(left)}

    scope: Any = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    return asyncio.run(read_email(Request(scope, receive)))


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    return [body[start:end] for start, end in pairwise(edges)] or [b""]


emails = st.binary(min_size=1, max_size=60).map(lambda content: b"From: a\r\n" + content)
places = st.lists(st.integers(0, 10_000), max_size=8)


@given(emails, places)
def test_a_urlencoded_email_arrives_unchanged(email: bytes, at: list[int]) -> None:
    fields = {"subject": b"%2", "body-mime": email, "recipient": b"a@x, <b@x>", "sender": b""}
    body = "&".join(f"{name}={quote_plus(value)}" for name, value in fields.items()).encode()
    found = read("application/x-www-form-urlencoded", cut(body, at))
    assert found == Given(email, ["a@x", "b@x"], "")


@given(emails.filter(lambda email: b"--x" not in email), places)
def test_an_email_in_a_multipart_form_arrives_unchanged(email: bytes, at: list[int]) -> None:
    fields = [("recipient", b"a@x"), ("email", email), ("recipient", b"b@x"), ("email", b"another"), ("other", b"1")]
    part = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: text/plain\r\n\r\n%s\r\n'
    body = b"".join(part % (name.encode(), name.encode(), value) for name, value in fields) + b"--x--\r\n"
    found = read('multipart/form-data; boundary="x"', cut(body, at))
    assert found == Given(email, ["a@x", "b@x"])


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json", "message/rfc822", ""])
@given(st.binary(max_size=80), places)
def test_any_body_is_read_or_refused(kind: str, body: bytes, at: list[int]) -> None:
    try:
        assert read(kind, cut(body, at)).content.strip()
    except Problem as problem:
        assert isinstance(problem, Invalid)  # noqa: PT017 - either is fine
