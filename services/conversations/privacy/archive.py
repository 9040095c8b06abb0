"""A ZIP archive that is written as it is sent: the memory it takes does not depend on its size.

An archive that ends too early has no directory at its end, so no program takes it for a whole one.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from io import RawIOBase
from typing import Any, Final
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

Write = Callable[[bytes], Awaitable[None]]

SENT_AT_ONCE: Final = 64 * 1024  # bytes


class Archive(AbstractAsyncContextManager["Archive"]):
    """The archive, which is complete when its context ends without an error.

    Texts are compressed; files are stored as they are, because most are compressed already.
    """

    def __init__(self, write: Write, moment: datetime) -> None:
        """`moment` is the time of all files, in the zone of their reader: a ZIP has no zones."""
        self._write = write
        self._pipe = _Pipe()
        self._zip = ZipFile(self._pipe, "w")
        self._date_time = moment.timetuple()[:6]

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete the archive, unless there was an error: then its end is not sent."""
        self._zip.close()
        if kind is None:
            await self._send(0)

    async def add_text(self, name: str, parts: AsyncIterable[str], max_bytes: int = 0) -> None:
        """Add a file of text. One that may exceed 2 GiB needs `max_bytes`, which its header depends on."""
        with self._zip.open(self._entry(name, ZIP_DEFLATED, max_bytes), "w") as entry:
            async for part in parts:
                await asyncio.to_thread(entry.write, part.encode("utf-8", "replace"))
                await self._send(SENT_AT_ONCE)

    async def add_file(self, name: str, chunks: AsyncIterable[bytes], size: int) -> None:
        """Add a file of this many bytes."""
        with self._zip.open(self._entry(name, ZIP_STORED, size), "w") as entry:
            async for chunk in chunks:
                entry.write(chunk)
                await self._send(SENT_AT_ONCE)

    async def _send(self, at_least: int) -> None:
        if self._pipe.size > at_least:
            await self._write(self._pipe.take())

    def _entry(self, name: str, method: int, size: int) -> ZipInfo:
        entry = ZipInfo(name, self._date_time)
        entry.compress_type, entry.file_size = method, size
        entry.external_attr = 0o644 << 16
        return entry


class _Pipe(RawIOBase):
    """What `ZipFile` writes to: a stream that cannot go back."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []
        self.size = 0

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        self.size += len(data)
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        self.size = 0
        return taken
