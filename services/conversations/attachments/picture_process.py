"""The worker that makes pictures, seen from the process that uses it."""

import asyncio
import sys
from contextlib import suppress

import structlog

from services.conversations.attachments.picture_worker import LENGTH, RESULT, SECONDS
from services.conversations.attachments.pictures import Pictures

WORKER = ("-m", "services.conversations.attachments.picture_worker")
GRACE = 10.0  # seconds beyond those that the worker gives a file, after which the worker itself hangs

log = structlog.get_logger()


class PictureProcess:
    """A running worker, for one file at a time. It is started when it is needed, and again when it has ended."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def make(self, content: bytes) -> Pictures | None:
        """Return the pictures of a file, or None if it is damaged, too large or takes too long."""
        try:
            async with asyncio.timeout(SECONDS + GRACE):
                return await self._ask(await self._running(), content)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
            log.warning("picture worker ended, starting another one", error=type(error).__name__)
            await self.close()
            return None

    async def close(self) -> None:
        """End the worker, and with it the process of a file."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            # Without this process's environment, which has secrets.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *WORKER,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
        return self._process

    async def _ask(self, process: asyncio.subprocess.Process, content: bytes) -> Pictures | None:
        assert process.stdin is not None  # noqa: S101 - pipes
        assert process.stdout is not None  # noqa: S101 - pipes
        process.stdin.write(LENGTH.pack(len(content)))
        process.stdin.write(content)
        await process.stdin.drain()
        width, height, thumbnail, picture = RESULT.unpack(await process.stdout.readexactly(RESULT.size))
        if not width:
            return None
        return Pictures(
            width,
            height,
            await process.stdout.readexactly(thumbnail),
            await process.stdout.readexactly(picture),
        )
