"""The NDJSON import of users and orders: one JSON object per line, committed in batches.

Holds at most one batch in memory.
"""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

from services.conversations.catalog.schemas import OrderLine, UserLine, check_record
from services.conversations.catalog.sync import Upsert, upsert_batch
from services.conversations.catalog.values import read_json, storable
from services.conversations.errors import OrderOfAnotherUser
from shared.api.body_size import JSON_ESCAPES, MAX_BODY_BYTES
from shared.database.transactions import SessionFactory, run_transaction
from shared.people import MAX_ID
from shared.problems import Invalid, PayloadTooLarge, Problem, Unavailable
from shared.text import cut

MAX_LINE = MAX_BODY_BYTES  # measured as request bodies are
MAX_RAW_LINE = MAX_LINE * JSON_ESCAPES.longest
BATCH = 500  # lines
BATCH_SIZE = 1024 * 1024  # bytes, which limits batches of long lines
MAX_UNREADABLE = 1_000  # lines that are neither a user nor an order and get their own answer
DETAIL_BUDGET = 256 * 1024  # bytes of details in the answers, plus DETAIL_FACTOR times the size of the lines
DETAIL_FACTOR = 4
MAX_SHORT_DETAIL = 100  # characters
YIELD_EVERY = 16  # lines between yields to other requests

_MODELS: Mapping[Any, type[UserLine | OrderLine]] = {"user": UserLine, "order": OrderLine}

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line: its upsert, or the problem for which it is rejected.

    `label` is its type and id, as far as known; `notes` are additional fields of its answer.
    """

    number: int
    label: Mapping[str, str]
    result: Upsert | Problem
    notes: Mapping[str, Any] = field(default_factory=dict)


async def import_lines(
    chunks: AsyncIterable[bytes], sessions: SessionFactory, detail_budget: float = DETAIL_BUDGET
) -> AsyncIterator[Answer]:
    """Import all lines; yield the answer to each line that is not blank, after its batch is committed.

    A rejected line does not affect the others. If more than 1,000 lines are neither a user nor an order, one last
    answer counts the rest, so that a file in another format does not fill the disk. For the same reason answers are
    shortened when their details exceed the budget.

    Raises `Unavailable` if the database is: all answered lines are committed. It is safe to send everything again.
    """
    done = unreadable = 0
    async for batch, size in _batches(chunks):
        detail_budget += size * DETAIL_FACTOR
        upserts = [line.result for line in batch if not isinstance(line.result, Problem)]
        try:
            saved = iter(await _commit(sessions, upserts) if upserts else ())
        except Unavailable as error:
            detail = f"{done} lines were imported before the database became unavailable. Send everything again."
            raise Unavailable(detail) from error
        for line in batch:
            unreadable += "type" not in line.label
            if "type" in line.label or unreadable <= MAX_UNREADABLE:
                answer = _answer(line, saved)
                remaining = detail_budget - _detail_size(answer)
                yield answer if remaining >= 0 else _shortened(answer)
                detail_budget = remaining if remaining >= 0 else detail_budget
        done = batch[-1].number
    if (more := unreadable - MAX_UNREADABLE) > 0:
        problem = Invalid(f"{more} more lines are neither a user nor an order", ("body",))
        yield _answer(Line(done, {}, problem), iter(())) | {"lines_omitted": more}


async def split_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes | None]:
    """Yield each line without its LF or CRLF; None for a line that is too long, which is not kept in memory."""
    buffer = bytearray()
    async for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            _append(buffer, part)
            yield _to_line(buffer)
            buffer.clear()
        _append(buffer, rest)
    if buffer:
        yield _to_line(buffer)


def _append(buffer: bytearray, part: bytes) -> None:
    buffer += part[: MAX_RAW_LINE + 2 - len(buffer)]  # just enough to detect a line that is too long even without a CR


def _to_line(buffer: bytearray) -> bytes | None:
    if len(buffer) > MAX_RAW_LINE + 1:
        return None
    if buffer.endswith(b"\r"):
        del buffer[-1:]
    return bytes(buffer) if len(buffer) <= MAX_LINE or JSON_ESCAPES.text_size(buffer) <= MAX_LINE else None


async def _batches(chunks: AsyncIterable[bytes]) -> AsyncIterator[tuple[list[Line], int]]:
    """Yield batches of parsed lines with their size in bytes."""
    batch: list[Line] = []
    number = size = 0
    async for line in split_lines(chunks):
        number += 1
        if number % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        if line is not None and not line.strip():
            continue
        batch.append(read_line(number, line))
        size += len(line or b"")
        if len(batch) == BATCH or size >= BATCH_SIZE:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def read_line(number: int, line: bytes | None) -> Line:
    """Parse a line by the rules of the PUT for its type; `line` is None for a line that is too long."""
    if line is None:
        return Line(number, {}, PayloadTooLarge(f"The line is larger than {MAX_LINE} bytes."))
    try:
        json_object = read_json(line)
    except (ValueError, RecursionError):
        json_object = None
    if not isinstance(json_object, dict):
        return Line(number, {}, Invalid("must be a JSON object in UTF-8", ("body",)))
    kind, record_id = json_object.get("type"), json_object.get("id")
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    label = {"id": storable(record_id)} if isinstance(record_id, str) and len(record_id) <= MAX_ID else {}
    if model is None:
        return Line(number, label, Invalid('the type must be "user" or "order"', ("body", "type")))
    label = {"type": str(kind), **label}
    try:
        checked = check_record(model, json_object)
    except Invalid as problem:
        return Line(number, label, problem)
    return Line(number, label, checked.record.to_upsert(checked.record.id), checked.notes)


async def _commit(sessions: SessionFactory, upserts: Sequence[Upsert]) -> list[bool | OrderOfAnotherUser]:
    return await run_transaction(sessions, partial(upsert_batch, upserts=upserts))


def _answer(line: Line, saved: Iterator[bool | OrderOfAnotherUser]) -> Answer:
    result = line.result if isinstance(line.result, Problem) else next(saved)
    answer: Answer = {"line": line.number, **line.label}
    if isinstance(result, Problem):
        return answer | {"status": result.status, "code": result.code, "detail": result.detail, **result.extra}
    return {**answer, "status": HTTPStatus.CREATED if result else HTTPStatus.OK, **line.notes}


def _detail_size(answer: Answer) -> int:
    """Return the size of an answer's detail, errors and warnings."""
    details = [answer[name] for name in ("detail", "errors", "warnings") if name in answer]
    return len(json.dumps(details)) if details else 0


def _shortened(answer: Answer) -> Answer:
    """Return an answer with the start of its detail and only the number of its warnings."""
    short = {name: value for name, value in answer.items() if name != "errors"}
    if "detail" in short:
        short["detail"] = cut(short["detail"], MAX_SHORT_DETAIL)
    if "warnings" in short:
        short["warnings"] = [{"loc": ["body"], "msg": f"{len(short['warnings'])} warnings, too many to show"}]
    return short
