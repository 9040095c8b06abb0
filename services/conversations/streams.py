"""One client's live stream: what waits for it, within bounds, and when it ends."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.conversations.log import Entry
from services.conversations.rules import Side
from shared.events import EventType

BUFFER = 1000  # events that may wait for a slow client, before it has to resume


@dataclass(frozen=True, slots=True)
class Shown:
    """What a client is sent: an event as its side sees it. What is not in the log has no position, and no id."""

    event: str | None
    data: str | None
    position: int | None = None
    id: str | None = None


class Stream:
    """One client's stream. `admitted_at` is the log's end from when its person was let in, by a session or without."""

    def __init__(self, user_id: str, side: Side, admitted_at: tuple[UUID, int], session_id: UUID | None = None) -> None:
        self.user_id = user_id
        self.side = side
        self.session_id = session_id
        self.audience = None if side is Side.ADMIN else user_id  # whose events these are: all, or one customer's
        self.epoch, self.admitted_at = admitted_at
        self.joined = False
        self.over = False
        self.uncounted = True  # has not been given the number of unread conversations yet
        self._waiting: deque[Shown] = deque()
        self._news = asyncio.Event()

    def is_ended_by(self, entry: Entry) -> bool:
        """Tell whether an event is that this client's person was deleted, after they were let in."""
        is_theirs = entry.type == EventType.USER_DELETED and entry.user_id == self.user_id
        return is_theirs and entry.position > self.admitted_at

    def give(self, shown: Sequence[Shown]) -> None:
        """Let events wait for the client, or end its stream when there are too many: it resumes where it is."""
        if self.over:
            return
        if len(self._waiting) + len(shown) > BUFFER:
            self.end()
        else:
            self._waiting.extend(shown)
            self._news.set()

    def end(self, *last: Shown) -> None:
        """End the stream. What waits is dropped: a client that may come back asks for it."""
        if not self.over:
            self._waiting = deque(last)
            self.over = True
            self._news.set()

    async def taken(self) -> AsyncIterator[Shown]:
        """Give what waits, and wait for more, until the end."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self.over:
                return
            self._news.clear()
            await self._news.wait()
