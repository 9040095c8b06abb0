"""A client's live stream: its position in the log, its bounded buffer of events, and its end."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from services.conversations.event_log.reader import Entry
from services.conversations.rules import Side
from shared.events import EventType

BUFFER = 1000  # events buffered for a slow client; with more, its stream ends and it has to resume
MAX_CHUNK = 64 * 1024  # bytes sent at once, unless a single event is larger
PING_AFTER = 15.0  # seconds without an event, after which a ping is sent
UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """A server-sent event as one side sees it, encoded once for all clients.

    Events that are not from the log have no position and no id. `before` are the data of events of the same kind that
    are sent before it, for an entry of the log that stands for several. They have no id, so a client that resumes
    between them gets all of them again.
    """

    event: str | None
    data: str | None
    position: int | None = None
    id: str | None = None
    before: tuple[str, ...] = ()
    encoded: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Encode the event. No field spans several lines, because the data is JSON."""
        fields = (("event", self.event), ("data", self.data), ("id", self.id))
        lines = [f"{name}: {value}\n" for name, value in fields if value is not None] or [": ping\n"]
        before = "".join(f"event: {self.event}\ndata: {data}\n\n" for data in self.before)
        object.__setattr__(self, "encoded", "".join([before, *lines, "\n"]).encode())


PING = SseEvent(None, None)


class Connection:
    """A client's stream. `admitted_at` is the log's end from when its user was authorized.

    `position` is the log position up to which the client has received all of its events.
    """

    __slots__ = (
        "_buffer",
        "_pushed_at",
        "_unread",
        "_wakeup",
        "admitted_at",
        "audience",
        "ends_at",
        "epoch",
        "joined",
        "over",
        "position",
        "session_id",
        "side",
        "user_id",
    )

    def __init__(self, user_id: str, side: Side, admitted_at: tuple[UUID, int], session_id: UUID | None = None) -> None:
        self.user_id = user_id
        self.side = side
        self.session_id = session_id
        self.audience = None if side is Side.ADMIN else user_id  # the customer whose events it gets; None: all events
        self.epoch, self.admitted_at = admitted_at
        self.position = self.admitted_at
        self.ends_at: float | None = None  # by the event loop's clock
        self.joined = False
        self.over = False
        self._buffer: list[SseEvent] = []  # mostly empty, where a deque takes half a kilobyte
        self._wakeup = asyncio.Event()
        self._unread = b""
        self._pushed_at = asyncio.get_running_loop().time()

    @property
    def is_served(self) -> bool:
        """Whether the buffer is empty."""
        return not self._buffer

    def is_ended_by(self, entry: Entry) -> bool:
        """Return whether an event since the authorization ends what the client may see.

        It deletes the client's user or merges their id into another one's, or makes an admin a customer.
        """
        if entry.user_id != self.user_id or entry.position <= self.admitted_at:
            return False
        person = (entry.payload or {}).get("person") or {}
        if entry.type == EventType.USER_UPDATED and self.side is Side.ADMIN:
            return person.get("role") == Side.CUSTOMER
        return entry.type == EventType.USER_DELETED or (
            entry.type == EventType.USER_MERGED and person.get("id") == self.user_id
        )

    def push(self, events: Iterable[SseEvent]) -> None:
        """Buffer events for the client, without those before its position and unread counts that did not change.

        Ends the stream if the buffer overflows: the client resumes from its position.
        """
        if self.over:
            return
        self._buffer.extend(filter(self._is_new, events))
        if len(self._buffer) > BUFFER:
            self.end()
        elif self._buffer:
            self._pushed_at = asyncio.get_running_loop().time()
            self._wakeup.set()

    def _is_new(self, event: SseEvent) -> bool:
        if event.position is not None:
            if event.position <= self.position:
                return False
            self.position = event.position
        elif event.event == UNREAD:
            if event.encoded == self._unread:
                return False
            self._unread = event.encoded
        return True

    def keep_alive(self, now: float) -> None:
        """Send a ping if the client has received nothing for `PING_AFTER` seconds."""
        if now >= self._pushed_at + PING_AFTER and not self._buffer:
            self.push([PING])

    def end(self, *last: SseEvent) -> None:
        """End the stream after the events `last`. Drops the buffer: a client that reconnects resumes."""
        if not self.over:
            self._buffer = list(last)
            self.over = True
            self._wakeup.set()

    async def events(self) -> AsyncIterator[list[SseEvent]]:
        """Yield chunks of buffered events, and wait for more, until the stream ends."""
        while True:
            while self._buffer:
                yield self._next_chunk()
            if self.over:
                return
            self._wakeup.clear()
            await self._wakeup.wait()

    def _next_chunk(self) -> list[SseEvent]:
        count, size = 1, len(self._buffer[0].encoded)
        for event in self._buffer[1:]:
            size += len(event.encoded)
            if size > MAX_CHUNK:
                break
            count += 1
        chunk, self._buffer = self._buffer[:count], self._buffer[count:]
        return chunk
