"""An AMQP 0-9-1 peer that speaks the protocol as RabbitMQ does, up to the point where it refuses a client."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

END = b"\xce"
REFUSALS = {
    "login": (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."),
    "vhost": (530, "NOT_ALLOWED - vhost shop not found"),
    "queue": (406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'chats.hints.events'"),
}

START, TUNE, OPEN_OK, CLOSE, CLOSE_OK = (10, 10), (10, 30), (10, 41), (10, 50), (10, 51)
CHANNEL_OPEN_OK, CHANNEL_CLOSE, DECLARE_OK = (20, 11), (20, 40), (50, 11)
CONFIRM_OK, ACK, BLOCKED, UNBLOCKED = (85, 11), (60, 80), (10, 60), (10, 61)

Method = tuple[int, int]


@dataclass
class AmqpPeer:
    """A peer that refuses clients at the step in `refuses`: `login`, `vhost`, `queue`, `messages`, or None for never.

    For `messages` it blocks the client, as RabbitMQ does when it lacks memory.
    """

    refuses: str | None
    port: int = 0
    connections: int = field(default=0, init=False)
    blocked: list[asyncio.StreamWriter] = field(default_factory=list, init=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it disconnects."""
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            await reader.readexactly(8)  # the protocol header
            mechanisms = _long(b"PLAIN AMQPLAIN")
            _send(writer, 0, START, struct.pack(">BBL", 0, 9, 0) + mechanisms + _long(b"en_US"))
            while True:
                channel, method = await _receive(reader)
                self._answer(writer, channel, method)

    def _answer(self, writer: asyncio.StreamWriter, channel: int, method: Method) -> None:
        code, text = REFUSALS.get(self.refuses or "", (0, ""))
        reason = struct.pack(">H", code) + _short(text.encode()) + struct.pack(">HH", *method)
        match method:
            case (10, 11) if self.refuses == "login":
                _send(writer, 0, CLOSE, reason)
            case (10, 11):
                _send(writer, 0, TUNE, struct.pack(">HLH", 10, 131_072, 0))
            case (10, 40) if self.refuses == "vhost":
                _send(writer, 0, CLOSE, reason)
            case (10, 40):
                _send(writer, 0, OPEN_OK, _short(b""))
            case (10, 50):
                _send(writer, 0, CLOSE_OK, b"")
            case (20, 10):
                _send(writer, channel, CHANNEL_OPEN_OK, _long(b""))
            case (50, 10) if self.refuses == "queue":
                _send(writer, channel, CHANNEL_CLOSE, reason)
            case (50, 10):
                _send(writer, channel, DECLARE_OK, _short(b"chats.hints.events") + struct.pack(">LL", 0, 0))
            case _:
                self._answer_publisher(writer, channel, method)

    def _answer_publisher(self, writer: asyncio.StreamWriter, channel: int, method: Method) -> None:
        match method:
            case (85, 10):
                _send(writer, channel, CONFIRM_OK, b"")
            case (60, 40) if self.refuses == "messages":
                _send(writer, 0, BLOCKED, _short(b"low on memory"))
                self.blocked.append(writer)
            case (60, 40):  # the first message on its channel
                _send(writer, channel, ACK, struct.pack(">QB", 1, 0))

    def recover(self) -> None:
        """Accept messages from now on, and tell clients that were blocked."""
        self.refuses = None
        for writer in self.blocked:
            _send(writer, 0, UNBLOCKED, b"")


@contextlib.asynccontextmanager
async def amqp_peer(refuses: str | None) -> AsyncIterator[AmqpPeer]:
    """Run a peer on a free port of loopback."""
    peer = AmqpPeer(refuses)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()


async def _receive(reader: asyncio.StreamReader) -> tuple[int, Method]:
    """Read frames up to the next method frame; return its channel and method."""
    while True:
        kind, channel, size = struct.unpack(">BHL", await reader.readexactly(7))
        payload = await reader.readexactly(size + len(END))
        if kind == 1:
            return channel, struct.unpack(">HH", payload[:4])


def _send(writer: asyncio.StreamWriter, channel: int, method: Method, arguments: bytes) -> None:
    payload = struct.pack(">HH", *method) + arguments
    writer.write(struct.pack(">BHL", 1, channel, len(payload)) + payload + END)


def _short(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _long(value: bytes) -> bytes:
    return struct.pack(">L", len(value)) + value
