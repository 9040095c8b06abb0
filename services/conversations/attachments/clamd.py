"""A client of clamd, which scans files: its INSTREAM command, one connection for each file."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

TIMEOUT = 60.0  # seconds until a file is scanned
MAX_ANSWER = 4096  # bytes
_FOUND = " FOUND"


class ScanError(Exception):
    """The file could not be scanned. Try again."""


async def scan(url: str, chunks: AsyncIterator[bytes]) -> str | None:
    """Return the name of what was found in a file, or None if it is clean. Raises `ScanError`."""
    try:
        async with asyncio.timeout(TIMEOUT):
            answer = await _ask(url, chunks)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ScanError(str(error) or type(error).__name__) from None
    result = answer.removeprefix("stream: ")
    if result == "OK":
        return None
    if result.endswith(_FOUND):
        return result.removesuffix(_FOUND)
    raise ScanError(result or "it gave no answer")


async def ping(url: str) -> None:
    """Check that clamd answers. Raises `ScanError`."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await _connect(url)
            try:
                writer.write(b"zPING\0")
                answer = await reader.readuntil(b"\0")
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ScanError(str(error) or type(error).__name__) from None
    if answer != b"PONG\0":
        raise ScanError("what answers is no clamd")


async def _ask(url: str, chunks: AsyncIterator[bytes]) -> str:
    reader, writer = await _connect(url)
    # Reads while it sends: clamd answers before it has read all if the file is too large for it, then hangs up.
    answering = asyncio.create_task(reader.readuntil(b"\0"))
    sending = asyncio.create_task(_send(writer, chunks))
    try:
        await asyncio.wait((answering, sending), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            with suppress(ConnectionError):
                await sending
        answer = await answering
    finally:
        for task in (answering, sending):
            task.cancel()
        await asyncio.gather(answering, sending, return_exceptions=True)
        writer.close()
    return answer.rstrip(b"\0\n").decode("utf-8", "replace")


async def _send(writer: asyncio.StreamWriter, chunks: AsyncIterator[bytes]) -> None:
    writer.write(b"zINSTREAM\0")
    async for chunk in chunks:
        writer.write(struct.pack(">I", len(chunk)) + chunk)
        await writer.drain()
    writer.write(struct.pack(">I", 0))
    await writer.drain()


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(parts.path, limit=MAX_ANSWER)
    return await asyncio.open_connection(parts.hostname, parts.port, limit=MAX_ANSWER)
