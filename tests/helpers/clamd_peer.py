"""A small server that speaks clamd's protocol: it finds what it is told to look for."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Clamd:
    """What the server looks for, what it has scanned, and an answer to give instead of a result.

    After `max_bytes` of a file it answers and reads no more, until `end` is set.
    """

    url: str = ""
    signature: bytes = b"EICAR"
    answer: bytes | None = None
    max_bytes: int = 2**30
    end: asyncio.Event = field(default_factory=asyncio.Event)
    scanned: list[bytes] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one command."""
        command = await reader.readuntil(b"\0")
        if command == b"zPING\0":
            writer.write(b"PONG\0")
        elif command == b"zINSTREAM\0":
            content = bytearray()
            while size := struct.unpack(">I", await reader.readexactly(4))[0]:
                content += await reader.readexactly(size)
                if len(content) > self.max_bytes:
                    writer.write(b"INSTREAM size limit exceeded. ERROR\0")
                    await self.end.wait()
                    writer.close()
                    return
            self.scanned.append(bytes(content))
            found = self.signature in content
            writer.write(self.answer or (b"stream: Test.Signature FOUND\0" if found else b"stream: OK\0"))
        else:
            writer.write(b"UNKNOWN COMMAND\0")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def running_clamd(port: int = 0) -> AsyncIterator[Clamd]:
    """Run the server while the context is open."""
    clamd = Clamd()
    server = await asyncio.start_server(clamd.handle, "127.0.0.1", port)
    clamd.url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield clamd
