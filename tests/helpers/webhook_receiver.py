"""A store's endpoint for webhooks: an HTTP server on loopback that keeps what it gets, and answers as a test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deploy.local.ports import free_ports


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.body)
        return body

    @property
    def type(self) -> str:
        return str(self.json["type"])

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.json["data"]
        return data


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request is answered, after `delay` seconds. `hang_up`: not at all."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    hang_up: bool = False


@dataclass
class Receiver:
    """The server. `answer` decides about each request; `accepted` are those that were answered with 2xx."""

    answer: Callable[[Received], Answer] = lambda _: Answer()
    received: list[Received] = field(default_factory=list)
    accepted: list[Received] = field(default_factory=list)
    connections: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def types(self) -> list[str]:
        return [request.type for request in self.accepted]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        self.connections += 1
        self.writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Received(lines[0].split(" ")[1], headers, body)
                self.received.append(request)
                answer = self.answer(request)
                await asyncio.sleep(answer.delay)
                if answer.hang_up:
                    break
                if 200 <= answer.status < 300:
                    self.accepted.append(request)
                fields = {"Content-Length": str(len(answer.body))} | answer.headers
                head_out = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {answer.status} X\r\n{head_out}\r\n".encode() + answer.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


@asynccontextmanager
async def webhook_receiver(answer: Callable[[Received], Answer] = lambda _: Answer()) -> AsyncIterator[Receiver]:
    """Run a receiver while the context is open."""
    receiver = Receiver(answer)
    [receiver.port] = free_ports([0])
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", receiver.port)
    try:
        yield receiver
    finally:
        server.close()
        for writer in list(receiver.writers):
            writer.close()
        await server.wait_closed()
