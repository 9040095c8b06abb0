"""One client's live stream: where it stands in the log, what waits for it, within bounds, and when it ends."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from services.conversations.event_log.reader import Entry
from services.conversations.rules import Side
from shared.events import EventType

BUFFER = 1000  # events that may wait for a slow client, before it has to resume
MAX_CHUNK = 64 * 1024  # bytes that are given to a client at once, unless one event alone is larger
PING_AFTER = 15.0  # seconds without a word, after which a client is told that the stream lives
UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """What clients are sent: an event as their side sees it, encoded once for all of them.

    What is not in the log has no position, and no id.
    """

    event: str | None
    data: str | None
    position: int | None = None
    id: str | None = None
    encoded: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Encode it as Server-Sent Events are. No field has more than one line: the data is JSON."""
        fields = (("event", self.event), ("data", self.data), ("id", self.id))
        lines = [f"{name}: {value}\n" for name, value in fields if value is not None] or [": ping\n"]
        object.__setattr__(self, "encoded", "".join([*lines, "\n"]).encode())


PING = SseEvent(None, None)


class Connection:
    """One client's stream. `admitted_at` is the log's end from when its person was let in, by a session or without.

    `position` is the last one in the log that the client has been given, or that does not concern it.
    """

    __slots__ = (
        "_given_at",
        "_news",
        "_unread",
        "_waiting",
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
        self.audience = None if side is Side.ADMIN else user_id  # whose events these are: all, or one customer's
        self.epoch, self.admitted_at = admitted_at
        self.position = self.admitted_at
        self.ends_at: float | None = None  # by the event loop's clock
        self.joined = False
        self.over = False
        self._waiting: deque[SseEvent] = deque()
        self._news = asyncio.Event()
        self._unread = b""
        self._given_at = asyncio.get_running_loop().time()

    @property
    def is_served(self) -> bool:
        """Whether nothing waits for the client."""
        return not self._waiting

    def is_ended_by(self, entry: Entry) -> bool:
        """Tell whether an event is that this client's person was deleted, or is no admin any more, since let in."""
        if entry.user_id != self.user_id or entry.position <= self.admitted_at:
            return False
        if entry.type == EventType.USER_UPDATED and self.side is Side.ADMIN:
            person = (entry.payload or {}).get("person") or {}
            return person.get("role") == Side.CUSTOMER
        return entry.type == EventType.USER_DELETED

    def push(self, shown: Iterable[SseEvent]) -> None:
        """Let news wait for the client: events behind where it stands, a number of unread that is another.

        Ends the stream when there are too many: the client resumes where it is.
        """
        if self.over:
            return
        self._waiting.extend(filter(self._is_news, shown))
        if len(self._waiting) > BUFFER:
            self.end()
        elif self._waiting:
            self._given_at = asyncio.get_running_loop().time()
            self._news.set()

    def _is_news(self, shown: SseEvent) -> bool:
        if shown.position is not None:
            if shown.position <= self.position:
                return False
            self.position = shown.position
        elif shown.event == UNREAD:
            if shown.encoded == self._unread:
                return False
            self._unread = shown.encoded
        return True

    def keep_alive(self, now: float) -> None:
        """Let the client know that the stream lives, if it has heard nothing for long."""
        if now >= self._given_at + PING_AFTER and not self._waiting:
            self.push([PING])

    def end(self, *last: SseEvent) -> None:
        """End the stream. What waits is dropped: a client that may come back asks for it."""
        if not self.over:
            self._waiting = deque(last)
            self.over = True
            self._news.set()

    async def events(self) -> AsyncIterator[list[SseEvent]]:
        """Give what waits, and wait for more, until the end."""
        while True:
            while self._waiting:
                yield self._take()
            if self.over:
                return
            self._news.clear()
            await self._news.wait()

    def _take(self) -> list[SseEvent]:
        some = [self._waiting.popleft()]
        size = len(some[0].encoded)
        while self._waiting and (size := size + len(self._waiting[0].encoded)) <= MAX_CHUNK:
            some.append(self._waiting.popleft())
        return some
