"""An IMAP server that says what a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

CAPABILITIES = "IMAP4rev1 IDLE MOVE AUTH=PLAIN"
USUAL = {"AUTHENTICATE": "+ \r\n"}


@asynccontextmanager
async def scripted(
    answers: Mapping[str, str | bytes], *, tls: ssl.SSLContext | None = None, greeting: str = "* OK Hello"
) -> AsyncIterator[tuple[int, list[str]]]:
    """Run a server whose answers are by the command's beginning; yield its port and the commands it got."""
    got: list[str] = []
    capabilities = f"* CAPABILITY {CAPABILITIES}{' STARTTLS' if tls else ''}\r\n{{tag}} OK Done\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{greeting}\r\n".encode())
        tag = ""
        while line := (await reader.readline()).decode().strip():
            first, _, command = line.partition(" ")
            tag, command = (first, command) if command else (tag, first)
            got.append(command)
            known = {"CAPABILITY": capabilities, "STARTTLS": "{tag} OK Begin\r\n", **USUAL, **answers}
            answer = next((text for start, text in known.items() if command.startswith(start)), "{tag} OK Done\r\n")
            raw = answer if isinstance(answer, bytes) else answer.encode()
            writer.write(raw.replace(b"{tag}", tag.encode()))
            await writer.drain()
            if command == "STARTTLS" and tls is not None:
                await writer.start_tls(tls)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], got
    finally:
        server.close()
