"""Read a large request body in pieces, for a caller who is known, with limits of size and time."""

import asyncio
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException

from shared.problems import PayloadTooLarge

IDLE_SECONDS: Final = 30.0  # until more of a body must arrive
UPLOAD_SECONDS: Final = 1800.0  # for a whole body


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


def declared_size(request: Request) -> int | None:
    """Return the size that a body says it has, if it does."""
    declared = request.headers.get("content-length", "")
    return int(declared[:20]) if declared.isdecimal() else None
