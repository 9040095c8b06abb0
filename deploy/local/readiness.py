"""Readiness checks of child processes, from outside."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Ready = Callable[[], Awaitable[bool]]


def answers_ok(port: int, path: str) -> Ready:
    """Return a check whether `GET path` on loopback answers 200."""

    async def ready() -> bool:
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                with contextlib.closing(writer):
                    writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                    return (await reader.readline()).split()[1:2] == [b"200"]
        except (OSError, TimeoutError):
            return False

    return ready


def accepts(host: str, port: int) -> Ready:
    """Return a check whether a TCP connection is accepted."""

    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            return False
        writer.close()
        return True

    return ready
