"""The bulk import: users and orders of the store, one JSON object a line, taken over batch by batch.

However much there is of it, no more than a batch is in memory.
"""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

from services.conversations.api.bodies import OrderLine, UserLine
from services.conversations.errors import OrderOwnerFixed
from services.conversations.store_sync import Sent, take
from shared.database import Sessions, answered_transaction
from shared.outages import was_in_the_way
from shared.people import MAX_ID
from shared.problems import Invalid, PayloadTooLarge, Problem, Unavailable, invalid_fields

MAX_LINE = 64 * 1024  # bytes, as of a body
BATCH = 500  # lines
BATCH_SIZE = 1024 * 1024  # bytes: a batch of long lines is shorter
TRIES = 5  # of a batch that is in another writer's way
BREATH = 16  # lines after which others may have their turn

_MODELS: Mapping[Any, type[UserLine | OrderLine]] = {"user": UserLine, "order": OrderLine}

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read: what is sent in it, or why it is refused; `named` is its type and id, as far as known."""

    number: int
    named: Mapping[str, str]
    sent: Sent | Problem


async def import_lines(chunks: AsyncIterable[bytes], sessions: Sessions) -> AsyncIterator[Answer]:
    """Take over all that is sent, and yield the answer to each line that is not blank, once it is committed.

    A line that is refused hinders no other. Raises `Unavailable` when the database is away: what was answered is
    committed. Everything may be sent again.
    """
    done = 0
    async for batch in _batches(chunks):
        sent = [line.sent for line in batch if not isinstance(line.sent, Problem)]
        try:
            taken = iter(await _commit(sessions, sent) if sent else ())
        except Unavailable as error:
            said = f"{done} lines were taken, then the database was away. Send all again: nothing is taken twice."
            raise Unavailable(said) from error
        for line in batch:
            yield _answer(line, taken)
        done = batch[-1].number


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
    kept += part[: MAX_LINE + 2 - len(kept)]  # enough to tell what is too long, were its last byte a CR


def _whole(kept: bytearray) -> bytes | None:
    line = bytes(kept.removesuffix(b"\r"))
    return line if len(line) <= MAX_LINE else None


async def _batches(chunks: AsyncIterable[bytes]) -> AsyncIterator[list[Line]]:
    batch: list[Line] = []
    number = size = 0
    async for line in split_lines(chunks):
        number += 1
        if number % BREATH == 0:
            await asyncio.sleep(0)
        if line is not None and not line.strip():
            continue
        batch.append(read_line(number, line))
        size += len(line or b"")
        if len(batch) == BATCH or size >= BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_line(number: int, line: bytes | None) -> Line:
    """Read a line, None for one that is too long, by the rules of the PUT of what it holds."""
    if line is None:
        return Line(number, {}, PayloadTooLarge(f"The line is larger than {MAX_LINE} bytes."))
    try:
        found = json.loads(line.decode("utf-8-sig"))  # some programs begin a file with a byte order mark
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Line(number, {}, Invalid("a line is a JSON object, in UTF-8", ("body",)))
    kind, identity = found.get("type"), found.get("id")
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    named = {"id": identity} if isinstance(identity, str) and len(identity) <= MAX_ID else {}
    if model is None:
        return Line(number, named, Invalid("the type is user or order", ("body", "type")))
    named = {"type": str(kind), **named}
    try:
        body = model.model_validate(found)
    except ValidationError as error:
        return Line(
            number, named, invalid_fields([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()])
        )
    return Line(number, named, body.of(body.id))


async def _commit(sessions: Sessions, sent: Sequence[Sent]) -> list[bool | OrderOwnerFixed]:
    tries = 0
    while True:
        try:
            async with answered_transaction(sessions) as session:
                return await take(session, sent)
        except Unavailable as error:
            tries += 1
            if tries == TRIES or not was_in_the_way(error.__cause__):
                raise


def _answer(line: Line, taken: Iterator[bool | OrderOwnerFixed]) -> Answer:
    result = line.sent if isinstance(line.sent, Problem) else next(taken)
    answer: Answer = {"line": line.number, **line.named}
    if isinstance(result, Problem):
        return answer | {"status": result.status, "code": result.code, "detail": result.detail, **result.extra}
    return answer | {"status": HTTPStatus.CREATED if result else HTTPStatus.OK}
