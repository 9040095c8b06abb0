"""A TCP proxy on a connection between two processes, for network faults.

As in TCP, bytes are never lost in the middle of a stream: they come late, or the connection ends.
"""

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

HOST = "127.0.0.1"


class Trouble(StrEnum):
    """The kinds of network faults."""

    LATENCY = "latency"
    RESET = "reset"
    BLACK_HOLE = "black hole"
    HALF_CLOSE = "half-close"


@dataclass(frozen=True)
class Disturbance:
    """A fault of a link: it hits each open and each new connection with the probability `share`.

    `delay` is the maximum latency in seconds; every connection draws its own.
    """

    trouble: Trouble
    delay: float = 0.5
    share: float = 1.0


class Link:
    """A proxied route: it listens on `port`, and forwards to `target`."""

    def __init__(self, name: str, target: int, rng: random.Random) -> None:
        self.name = name
        self.target = target
        self.port = 0
        self.rng = rng
        self.disturbance: Disturbance | None = None
        self.pairs: set[_Pair] = set()

    def strike(self, disturbance: Disturbance) -> None:
        """Disturb all connections, present and new."""
        self.disturbance = disturbance
        for pair in list(self.pairs):
            pair.disturb(disturbance)

    def heal(self, *, cut: bool = False) -> None:
        """End the disturbance and deliver delayed data; with `cut`, reset the disturbed connections instead."""
        self.disturbance = None
        for pair in list(self.pairs):
            pair.recover(cut=cut)

    def forget(self) -> None:
        """Accept new connections again, and abandon those in a black hole without closing either end."""
        self.disturbance = None
        for pair in self.pairs:
            pair.forgotten = pair.held


@asynccontextmanager
async def proxied(*links: Link) -> AsyncIterator[None]:
    """Listen on a free port for each of the links."""
    loop = asyncio.get_running_loop()
    listeners = []
    for link in links:
        listener = await loop.create_server(lambda link=link: _Pair(link).client, HOST, 0)  # type: ignore[misc]
        link.port = listener.sockets[0].getsockname()[1]
        listeners.append(listener)
    try:
        yield
    finally:
        for listener in listeners:
            listener.close()
        for link in links:
            for pair in list(link.pairs):
                pair.reset()
        await asyncio.sleep(0)  # the transports close in the next iteration


class _Pair:
    """One connection through the proxy: its two ends, and how it is disturbed."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.client, self.server = _End(self), _End(self)
        self.client.other, self.server.other = self.server, self.client
        self.delay = 0.0
        self.held = self.half_closed = self.forgotten = False
        self.connecting: asyncio.Task[None] | None = None

    def opened(self) -> None:
        """Connect to the target, once the client has connected."""
        self.link.pairs.add(self)
        disturbance = self.link.disturbance
        if disturbance is not None:
            self.disturb(disturbance)
        if self.client.is_open:
            self.connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, HOST, self.link.target)
        except OSError:
            self.reset()
        else:
            if not self.client.is_open:  # the client disconnected meanwhile
                self.server.abort()

    def disturb(self, disturbance: Disturbance) -> None:
        if self.link.rng.random() >= disturbance.share:
            return
        match disturbance.trouble:
            case Trouble.LATENCY:
                self.delay = self.link.rng.random() * disturbance.delay
            case Trouble.RESET:
                self.reset()
            case Trouble.BLACK_HOLE:
                self.held = True
                self.flow()
            case Trouble.HALF_CLOSE:
                self.half_closed = True
                self.link.rng.choice((self.client, self.server)).finish()

    def recover(self, *, cut: bool) -> None:
        if self.forgotten:
            return
        if self.half_closed or (cut and (self.held or self.delay)):
            self.reset()
        self.delay, self.held = 0.0, False
        self.flow()

    def flow(self) -> None:
        """Read from each end while the other accepts data; unread data stays with its sender, as on a dead line."""
        for end in (self.client, self.server):
            end.read(may=not self.held and end.other.is_open and not end.other.full)

    def reset(self) -> None:
        """Reset both ends."""
        for end in (self.client, self.server):
            end.abort()

    def closed(self) -> None:
        self.link.pairs.discard(self)


class _End(asyncio.Protocol):
    """One end of a connection. Data for it may have to wait for the delay, in order."""

    other: "_End"

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self.transport: asyncio.Transport | None = None
        self.full = False
        self.ended = self.finished = False  # received, or sent, the end of the stream
        self.waiting: deque[tuple[float, bytes | None]] = deque()  # None: the end of the stream
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()
        if self is self.pair.client:
            self.pair.opened()
        else:
            self.pair.flow()

    def data_received(self, data: bytes) -> None:
        self.other.send(data)

    def eof_received(self) -> bool:
        self.ended = True
        self.other.send(None)
        self._close_if_done()
        return True  # keep the other direction open

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if exc is not None:
            self.other.abort()
        elif self.other.is_open:
            self.other.send(None)
        if not self.other.is_open:
            self.pair.closed()

    def pause_writing(self) -> None:
        self.full = True
        self.pair.flow()

    def resume_writing(self) -> None:
        self.full = False
        self.pair.flow()

    def read(self, *, may: bool) -> None:
        if self.transport is not None and self.is_open and not self.ended:
            if may:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def send(self, data: bytes | None) -> None:
        """Send data to this end, at once or after the delay."""
        if not self.pair.delay and not self.waiting:
            self._write(data)
            return
        self.waiting.append((asyncio.get_running_loop().time() + self.pair.delay, data))
        if self.timer is None:
            self._wait()

    def _wait(self) -> None:
        self.timer = asyncio.get_running_loop().call_at(self.waiting[0][0], self._deliver)

    def _deliver(self) -> None:
        self.timer = None
        self._write(self.waiting.popleft()[1])
        if self.waiting:
            self._wait()

    def _write(self, data: bytes | None) -> None:
        if self.transport is None or not self.is_open or self.finished:
            return
        if data is not None:
            self.transport.write(data)
        else:
            self.finish()
            if not self.other.is_open:
                self.transport.close()

    def finish(self) -> None:
        """Send the end of the stream, and keep reading."""
        if self.transport is not None and self.is_open and not self.finished:
            self.finished = True
            with suppress(OSError):  # it has just been reset
                self.transport.write_eof()
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.transport is not None and self.ended and self.finished:
            self.transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self.transport is not None and self.is_open:
            raw: socket.socket = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
