"""The bulk import: users and orders of the store, one JSON object a line, taken over batch by batch.

However much there is of it, no more than a batch is in memory.
"""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from services.conversations.catalog.schemas import OrderLine, UserLine, check_record
from services.conversations.catalog.sync import Upsert, upsert_batch
from services.conversations.catalog.values import read_json
from services.conversations.errors import OrderOfAnotherUser
from shared.body_size import JSON_ESCAPES, MAX_BODY_BYTES
from shared.database import SessionFactory, request_transaction
from shared.outages import is_retryable_rollback
from shared.people import MAX_ID
from shared.problems import Invalid, PayloadTooLarge, Problem, Unavailable
from shared.text import cut

MAX_LINE = MAX_BODY_BYTES  # counted as a body is
MAX_RAW_LINE = MAX_LINE * JSON_ESCAPES.longest
BATCH = 500  # lines
BATCH_SIZE = 1024 * 1024  # bytes: a batch of long lines is shorter
MAX_UNREADABLE = 1_000  # lines that are neither a user nor an order, and have an answer each
ROOM = 256 * 1024  # bytes of answers that tell all, and four times the lines' own size beside
ROOM_OF_LINES = 4
MAX_SHORT_DETAIL = 100  # characters
TRIES = 5  # of a batch that is in another writer's way
YIELD_EVERY = 16  # lines after which others may have their turn

_MODELS: Mapping[Any, type[UserLine | OrderLine]] = {"user": UserLine, "order": OrderLine}

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read: what is sent in it, or why it is refused.

    `named` is its type and id, as far as known; `notes` are what the answer says beside the result.
    """

    number: int
    named: Mapping[str, str]
    sent: Upsert | Problem
    notes: Mapping[str, Any] = field(default_factory=dict)


async def import_lines(
    chunks: AsyncIterable[bytes], sessions: SessionFactory, room: float = ROOM
) -> AsyncIterator[Answer]:
    """Take over all that is sent, and yield the answer to each line that is not blank, once it is committed.

    A line that is refused hinders no other. Of lines that are neither a user nor an order only the first 1,000 are
    answered; one last answer counts the others, so that a file of another format does not fill the disk. For the same
    reason answers become short when they are much longer than what was sent.

    Raises `Unavailable` when the database is away: what was answered is committed. Everything may be sent again.
    """
    done = unreadable = 0
    async for batch, size in _batches(chunks):
        room += size * ROOM_OF_LINES
        sent = [line.sent for line in batch if not isinstance(line.sent, Problem)]
        try:
            taken = iter(await _commit(sessions, sent) if sent else ())
        except Unavailable as error:
            said = f"{done} lines were taken, then the database was away. Send all again: nothing is taken twice."
            raise Unavailable(said) from error
        for line in batch:
            unreadable += "type" not in line.named
            if "type" in line.named or unreadable <= MAX_UNREADABLE:
                answer = _answer(line, taken)
                left = room - _size(answer)
                yield answer if left >= 0 else _shortened(answer)
                room = left if left >= 0 else room
        done = batch[-1].number
    if (more := unreadable - MAX_UNREADABLE) > 0:
        refused = Invalid(f"{more} more lines are neither a user nor an order", ("body",))
        yield _answer(Line(done, {}, refused), iter(())) | {"lines_omitted": more}


async def split_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes | None]:
    """Yield each line without its end, LF or CRLF; None for one that is too long, of which little is kept."""
    kept = bytearray()
    async for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            _keep(kept, part)
            yield _whole(kept)
            kept.clear()
        _keep(kept, rest)
    if kept:
        yield _whole(kept)


def _keep(kept: bytearray, part: bytes) -> None:
    kept += part[: MAX_RAW_LINE + 2 - len(kept)]  # enough to tell what is too long, were its last byte a CR


def _whole(kept: bytearray) -> bytes | None:
    if len(kept) > MAX_RAW_LINE + 1:
        return None
    if kept.endswith(b"\r"):
        del kept[-1:]
    return bytes(kept) if len(kept) <= MAX_LINE or JSON_ESCAPES.text_size(kept) <= MAX_LINE else None


async def _batches(chunks: AsyncIterable[bytes]) -> AsyncIterator[tuple[list[Line], int]]:
    """Yield lines that were read, and how many bytes they have."""
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
    """Read a line, None for one that is too long, by the rules of the PUT of what it holds."""
    if line is None:
        return Line(number, {}, PayloadTooLarge(f"The line is larger than {MAX_LINE} bytes."))
    try:
        found = read_json(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Line(number, {}, Invalid("a line is a JSON object, in UTF-8", ("body",)))
    kind, identity = found.get("type"), found.get("id")
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    named = {"id": str(identity)} if isinstance(identity, str) and len(identity) <= MAX_ID else {}
    if model is None:
        return Line(number, named, Invalid("the type is user or order", ("body", "type")))
    named = {"type": str(kind), **named}
    try:
        checked = check_record(model, found)
    except Invalid as problem:
        return Line(number, named, problem)
    return Line(number, named, checked.record.of(checked.record.id), checked.notes)


async def _commit(sessions: SessionFactory, sent: Sequence[Upsert]) -> list[bool | OrderOfAnotherUser]:
    tries = 0
    while True:
        try:
            async with request_transaction(sessions) as session:
                return await upsert_batch(session, sent)
        except Unavailable as error:
            tries += 1
            if tries == TRIES or not is_retryable_rollback(error.__cause__):
                raise


def _answer(line: Line, taken: Iterator[bool | OrderOfAnotherUser]) -> Answer:
    result = line.sent if isinstance(line.sent, Problem) else next(taken)
    answer: Answer = {"line": line.number, **line.named}
    if isinstance(result, Problem):
        return answer | {"status": result.status, "code": result.code, "detail": result.detail, **result.extra}
    return {**answer, "status": HTTPStatus.CREATED if result else HTTPStatus.OK, **line.notes}


def _size(answer: Answer) -> int:
    """Return the size of what an answer says beside the result."""
    said = [answer[name] for name in ("detail", "errors", "warnings") if name in answer]
    return len(json.dumps(said)) if said else 0


def _shortened(answer: Answer) -> Answer:
    """Return an answer with the beginning of its detail, and the number of its warnings."""
    short = {name: value for name, value in answer.items() if name != "errors"}
    if "detail" in short:
        short["detail"] = cut(short["detail"], MAX_SHORT_DETAIL)
    if "warnings" in short:
        short["warnings"] = [{"loc": ["body"], "msg": f"{len(short['warnings'])}, not shown: there are too many"}]
    return short
