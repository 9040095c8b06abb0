"""A TCP proxy between two neighbours, for the bad days of a network.

Bytes are never lost in the middle of a stream, as TCP does not lose them: they come late, or the connection ends.
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
    """What can be wrong with a connection."""

    LATENCY = "latency"
    RESET = "reset"
    BLACK_HOLE = "black hole"
    HALF_CLOSE = "half-close"


@dataclass(frozen=True)
class Weather:
    """What befalls connections, those that are open and those that are opened: each with the chance `share`.

    `delay` is the longest latency in seconds; every connection draws its own.
    """

    trouble: Trouble
    delay: float = 0.5
    share: float = 1.0


class Link:
    """One neighbour's way to another: it listens on `port`, and passes on to `target`."""

    def __init__(self, name: str, target: int, rng: random.Random) -> None:
        self.name = name
        self.target = target
        self.port = 0
        self.rng = rng
        self.weather: Weather | None = None
        self.pairs: set[_Pair] = set()

    def strike(self, weather: Weather) -> None:
        """Let it come over all connections."""
        self.weather = weather
        for pair in list(self.pairs):
            pair.suffer(weather)

    def heal(self, *, cut: bool = False) -> None:
        """Let everything pass again, and what was held up arrive; or `cut` the connections that suffered."""
        self.weather = None
        for pair in list(self.pairs):
            pair.recover(cut=cut)

    def forget(self) -> None:
        """Let new connections pass, and leave those in a black hole there for good, without a word to either end."""
        self.weather = None
        for pair in self.pairs:
            pair.forgotten = pair.held


@asynccontextmanager
async def proxied(*links: Link) -> AsyncIterator[None]:
    """Let the links listen, each on a free port of its own."""
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
        await asyncio.sleep(0)  # the transports say goodbye


class _Pair:
    """One connection through the proxy: its two ends, and what it suffers from."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.client, self.server = _End(self), _End(self)
        self.client.other, self.server.other = self.server, self.client
        self.delay = 0.0
        self.held = self.half_closed = self.forgotten = False
        self.connecting: asyncio.Task[None] | None = None

    def opened(self) -> None:
        """Go on to the target, now that the client is there."""
        self.link.pairs.add(self)
        weather = self.link.weather
        if weather is not None:
            self.suffer(weather)
        if self.client.is_open:
            self.connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, HOST, self.link.target)
        except OSError:
            self.reset()
        else:
            if not self.client.is_open:  # it went away meanwhile
                self.server.abort()

    def suffer(self, weather: Weather) -> None:
        if self.link.rng.random() >= weather.share:
            return
        match weather.trouble:
            case Trouble.LATENCY:
                self.delay = self.link.rng.random() * weather.delay
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
        """Read from each end while the other takes it; what is not read stays with its sender, as on a dead line."""
        for end in (self.client, self.server):
            end.read(may=not self.held and end.other.is_open and not end.other.full)

    def reset(self) -> None:
        """End both sides without a goodbye."""
        for end in (self.client, self.server):
            end.abort()

    def closed(self) -> None:
        self.link.pairs.discard(self)


class _End(asyncio.Protocol):
    """One side of a connection. What goes out here may have to wait for its time, in order."""

    other: "_End"

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self.transport: asyncio.Transport | None = None
        self.full = False
        self.ended = self.finished = False  # nothing more comes from there; nothing more goes there
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
        return True  # the other direction stays

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
        """Pass something on, at once or after the delay."""
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
        """Send nothing more from here on, and still listen."""
        if self.transport is not None and self.is_open and not self.finished:
            self.finished = True
            with suppress(OSError):  # it has just been reset
                self.transport.write_eof()
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.transport is not None and self.ended and self.finished:
            self.transport.close()

    def abort(self) -> None:
        """End with a reset."""
        if self.transport is not None and self.is_open:
            raw: socket.socket = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
