"""Thousands of clients of live streams in one process: raw HTTP, parsed only as far as the measurement needs."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Sequence
from time import perf_counter

# Events have JSON data; messages that only set a position have none.
_EVENT = re.compile(rb"}\nid: (\S+)\n")
_POSITION = b"\nid: "
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
RETRY = (1.0, 4.0)  # seconds until a client reconnects, as the server asks browsers to
AT_ONCE = 200  # concurrent connection attempts when there is no hurry
IDLE = 2.0  # seconds that a connection for posts may be idle; servers close it after a few
ADDRESSES = 16  # 127.0.0.x: one address has too few ports, as closed connections block theirs for a while


class Client(asyncio.Protocol):
    """One client: the events that it received, in order, over all its connections."""

    def __init__(self, crowd: "Crowd", request: bytes, address: str, *, counts: bool) -> None:
        self.heard: list[bytes] = []
        self.last_id = b""
        self._crowd = crowd
        self._request = request
        self._address = address
        self._counts = counts  # whether it is one of the clients that receive every event
        self._begin()

    def _begin(self) -> None:
        self._status = 0
        self._rest = b""
        self.opened = asyncio.get_running_loop().create_future()

    async def connect(self) -> int:
        """Connect, and return the response's status; 0 when the connection broke before it."""
        self._begin()
        loop, (host, port) = asyncio.get_running_loop(), self._crowd.server
        try:
            await loop.create_connection(lambda: self, host, port, local_addr=(self._address, 0))
        except OSError:
            return 0
        return int(await self.opened)

    def drop(self) -> None:
        """Abort the connection."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request the events after the last one received."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        resume = b"Last-Event-ID: " + self.last_id + b"\r\n" if self.last_id else b""
        transport.write(self._request + resume + b"\r\n")

    def data_received(self, data: bytes) -> None:
        """Record the events in the data."""
        now = perf_counter()
        data = self._rest + data
        if not self._status:
            if (status := _STATUS.match(data)) is None:
                return
            self._status = int(status[1])
            if self._status != 200:
                self._transport.abort()
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            self._rest = data
            return
        whole, self._rest = data[:end], data[end:]
        if b"event: reset" in whole:
            self._crowd.resets += 1
        for event_id in _EVENT.findall(whole):
            self.heard.append(event_id)
            self._crowd.note(event_id, now, counts=self._counts)
        if (last := whole.rfind(_POSITION)) >= 0:
            self.last_id = whole[last + len(_POSITION) : whole.index(b"\n", last + 1)]
            if not self.opened.done():
                self.opened.set_result(self._status)

    def connection_lost(self, _: Exception | None) -> None:
        """Report a connection that ended before its response."""
        if not self.opened.done():
            self.opened.set_result(self._status if self._status != 200 else 0)


class Crowd:
    """Clients of one server, and when each event reached its recipients."""

    def __init__(self, server: tuple[str, int], few: Sequence[bytes], many: Sequence[bytes]) -> None:
        self.server = server
        addresses = [f"127.0.0.{2 + n % ADDRESSES}" for n in range(len(few) + len(many))]
        self.few = [Client(self, request, addresses.pop(), counts=True) for request in few]
        self.many = [Client(self, request, addresses.pop(), counts=False) for request in many]
        self.clients = [*self.few, *self.many]
        self.resets = 0
        self.refused = 0
        self.reached: dict[bytes, float] = {}  # when an event reached its one customer
        self.first: dict[bytes, float] = {}
        self.last: dict[bytes, float] = {}
        self.times: Counter[bytes] = Counter()  # how many of the clients that receive every event it has reached
        random.shuffle(self.clients)

    def note(self, event_id: bytes, now: float, *, counts: bool) -> None:
        """Record that an event has reached a client."""
        if counts:
            self.first.setdefault(event_id, now)
            self.last[event_id] = now
            self.times[event_id] += 1
        else:
            self.reached[event_id] = now

    async def open(self) -> float:
        """Connect all clients; return the seconds that it took."""
        started, slots = perf_counter(), asyncio.Semaphore(AT_ONCE)

        async def connect(client: Client) -> None:
            async with slots:
                await self._connect(client)

        await asyncio.gather(*map(connect, self.clients))
        return perf_counter() - started

    async def storm(self) -> float:
        """Drop all connections; each client reconnects when a browser would. Return the seconds until all are back."""
        started = perf_counter()
        self.drop()

        async def reconnect(client: Client) -> None:
            await asyncio.sleep(random.uniform(*RETRY))
            await self._connect(client)

        await asyncio.gather(*map(reconnect, self.clients))
        return perf_counter() - started

    def drop(self) -> None:
        """Drop all connections."""
        for client in self.clients:
            client.drop()

    async def _connect(self, client: Client) -> None:
        while await client.connect() != 200:
            self.refused += 1
            await asyncio.sleep(random.uniform(*RETRY))


class Poster:
    """Posts over a few persistent connections."""

    def __init__(self, server: tuple[str, int], connections: int = 16) -> None:
        self._server = server
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, headers: str, body: bytes) -> tuple[int, bytes]:
        """Post, and return the response's status and body."""
        async with self._slots:
            if self._idle and self._idle[-1][0] < perf_counter() - IDLE:
                self.close()
            _, reader, writer = self._idle.pop() if self._idle else (0, *await asyncio.open_connection(*self._server))
            head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            content = await reader.readexactly(int(length[1]) if length else 0)
            self._idle.append((perf_counter(), reader, writer))
        status = _STATUS.match(answer)
        return int(status[1]) if status else 0, content

    def close(self) -> None:
        """Close the idle connections."""
        for _, _, writer in self._idle:
            writer.close()
        self._idle.clear()
