"""Read a large request body in pieces, for a caller who is known, with limits of size and time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shared.problems import PayloadTooLarge, Problem

IDLE_SECONDS: Final = 30.0  # until more of a body must arrive
UPLOAD_SECONDS: Final = 1800.0  # for a whole body
DISCARD_SECONDS: Final = 60.0  # for the rest of a body that is refused
DISCARD_BYTES: Final = 512 * 1024 * 1024


async def received(request: Request, body_limit: int, too_large: PayloadTooLarge) -> AsyncIterator[bytes]:
    """Yield a body's chunks. Raises `too_large`, or 408 for a body that is too slow or stops arriving."""
    stream, size, deadline = request.stream().__aiter__(), 0, time.monotonic() + UPLOAD_SECONDS
    while True:
        try:
            async with asyncio.timeout(min(IDLE_SECONDS, deadline - time.monotonic())):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time. Send it again.") from None
        size += len(chunk)
        if size > body_limit:
            raise too_large
        if chunk:
            yield chunk


@asynccontextmanager
async def refused_after_body(request: Request) -> AsyncIterator[None]:
    """Read the rest of a known caller's body, within limits, before a problem is answered.

    Clients read an answer after they have sent everything. A proxy, such as ours, that gets one earlier ends the
    connection soon after it, and they see only that. A client that asks first (`Expect`) has not sent the body.
    """
    try:
        yield
    except Problem:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _discard_body(request)
        raise


async def _discard_body(request: Request) -> None:
    size = 0
    # RuntimeError: the body was read to its end.
    with suppress(RuntimeError, ClientDisconnect, TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > DISCARD_BYTES:
                    return


def declared_size(request: Request) -> int | None:
    """Return the size that a body says it has, if it does."""
    declared = request.headers.get("content-length", "")
    return int(declared[:20]) if declared.isdecimal() else None
