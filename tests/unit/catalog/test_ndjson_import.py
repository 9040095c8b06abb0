"""How the lines of an import are split and parsed, for any input."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversations.catalog.ndjson_import import MAX_LINE, MAX_RAW_LINE, read_line, split_lines
from services.conversations.catalog.sync import OrderUpsert, UserUpsert
from shared.problems import Problem
from tests.service.helpers.callers import ORDER


def lines_of(chunks: Iterable[bytes]) -> list[bytes | None]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def split() -> list[bytes | None]:
        return [line async for line in split_lines(stream())]

    return asyncio.run(split())


@given(st.data())
def test_lines_are_the_same_no_matter_how_a_body_is_chunked(data: st.DataObject) -> None:
    line = st.binary(max_size=5).map(lambda text: text.replace(b"\n", b"").rstrip(b"\r"))
    lines = data.draw(st.lists(line, max_size=10))
    ends = [data.draw(st.sampled_from([b"\n", b"\r\n"])) for _ in lines]
    if lines and lines[-1]:
        ends[-1] = data.draw(st.sampled_from([b"", ends[-1]]))
    body = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    assert lines_of(body[start:end] for start, end in pairwise([0, *cuts, len(body)])) == lines


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_a_line_may_be_as_long_as_the_limit_and_no_longer(end: bytes, size: int) -> None:
    body = b"x" * MAX_LINE + end
    longer = b"x" + body + (b"" if end else b"\n") + b"next"
    for content, lines in ((body, [b"x" * MAX_LINE]), (longer, [None, b"next"])):
        assert lines_of(content[at : at + size] for at in range(0, len(content), size)) == lines


def test_the_length_of_a_line_is_counted_in_decoded_characters() -> None:
    escaped = b"\\u00e4" * MAX_LINE
    assert lines_of([escaped, b"\r\n", escaped, b"x\nnext"]) == [escaped, None, b"next"]


def test_a_line_without_an_end_is_not_kept_in_memory() -> None:
    tracemalloc.start()
    try:
        assert lines_of(bytes(MAX_LINE) for _ in range(500)) == [None]
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_RAW_LINE
    finally:
        tracemalloc.stop()


def test_a_line_has_the_fields_of_the_put_of_a_user_or_order() -> None:
    user = read_line(1, b'\xef\xbb\xbf{"type": "user", "id": "anna", "name": " Anna ", "role": "admin"}')
    assert isinstance(user.result, UserUpsert)
    assert (user.result.id, user.result.profile["name"], user.result.role) == ("anna", "Anna", "admin")
    order = read_line(2, json.dumps({"type": "order", "id": "A-1", **ORDER}).encode())
    assert isinstance(order.result, OrderUpsert)
    assert (order.result.id, order.result.user_id, order.result.fields["items"]) == ("A-1", "anna", [])
    assert {"type", "id"}.isdisjoint(order.result.fields)


@pytest.mark.parametrize(
    ("line", "loc"),
    [
        (b"{", ["body"]),
        (b'{"type": "user", "id": "\xff"}', ["body"]),
        ('{"type": "user", "id": "anna"}'.encode("utf-16"), ["body"]),
        (b"[" * MAX_LINE, ["body"]),
        (b"9" * 5000, ["body"]),
        (b"[]", ["body"]),
        (b"{}", ["body", "type"]),
        (b'{"type": ["user"], "id": "anna"}', ["body", "type"]),
        (b'{"type": "store", "id": "anna"}', ["body", "type"]),
        (b'{"type": "user"}', ["body", "id"]),
        (b'{"type": "user", "id": "two words"}', ["body", "id"]),
        (b'{"type": "order", "id": "A-1"}', ["body", "user_id"]),
    ],
)
def test_an_invalid_line_is_rejected_with_the_field_at_fault(line: bytes, loc: list[Any]) -> None:
    problem = read_line(7, line).result
    assert isinstance(problem, Problem)
    assert (problem.status, problem.code, problem.extra["errors"][0]["loc"]) == (422, "validation-failed", loc)
    json.dumps(problem.extra).encode()


@given(
    st.binary(max_size=40)
    | st.recursive(st.text() | st.none() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_line_is_parsed_or_rejected(line: bytes) -> None:
    read = read_line(1, line)
    assert isinstance(read.result, Problem)
