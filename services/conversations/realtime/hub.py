"""Live streams: a hub follows the log for all clients of this process; each gets what concerns it, in order.

The hub reads by position, at once on a hint, else every second. Clients who stand behind it, because they resume, are
brought on between two of its steps, many at a time, until they stand where it stands: then they join it, and no event
can fall in between, or come twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

import structlog
from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import TooManyStreams
from services.conversations.event_log.position import decode_position, encode_position
from services.conversations.event_log.reader import Entry, LogPage, read_head, read_page, read_pages
from services.conversations.identity.sessions import find_ended
from services.conversations.messaging.counts import count_unread, count_unread_of
from services.conversations.realtime.connection import UNREAD, Connection, SseEvent
from services.conversations.realtime.log_notify import listen
from services.conversations.realtime.rendering import RESET, EventRenderer, render_events
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON, too_many_streams
from services.conversations.rules import Side
from shared.database import SessionFactory, driver_connection
from shared.outages import describe
from shared.problems import Unavailable

POLL = 1.0  # seconds between looks at a log of which no hint came, and between tries of what failed
MIN_INTERVAL = 0.02  # seconds between looks at least: what comes in them is looked at together
PAGE = 500  # events read at once
MAX_CATCH_UP = 200  # clients brought on at once
MIN_CATCH_UP_EVENTS = 10  # events, at least, that each of them is brought on by
SESSIONS_EVERY = 5.0  # seconds between looks whether the browsers' sessions live
LONGEST = 24 * 60 * 60  # seconds

STREAMS = Gauge("chats_live_streams", "Open live streams", ["side"])

log = structlog.get_logger()


ShowUnread = Callable[[int], str]


class Hub:
    """The live streams of this process, and what follows the log for them."""

    def __init__(self, sessions: SessionFactory, show: EventRenderer, show_unread: ShowUnread) -> None:
        self._sessions = sessions
        self._show = show
        self._show_unread = show_unread
        self._streams: defaultdict[str, set[Connection]] = defaultdict(set)  # by person
        self._joined: defaultdict[str | None, set[Connection]] = defaultdict(set)  # by audience
        self._lagging: dict[Connection, None] = {}  # in the order in which they wait
        self._uncounted: set[Connection] = set()  # those that have not been given a number of unread conversations yet
        self._epoch: UUID | None = None
        self._position = 0
        self._woken = asyncio.Event()
        self._closed = False

    async def run(self, redis_url: str | None) -> None:
        """Follow the log until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._watch())
            group.create_task(self._look_for_ends())
            if redis_url is not None:
                group.create_task(listen(redis_url, self.wake))

    def wake(self) -> None:
        """Look at the log at once."""
        self._woken.set()

    def close(self) -> None:
        """End all streams: the process stops."""
        self._closed = True
        for stream in self._all():
            stream.end()

    @contextmanager
    def open(self, stream: Connection, until: datetime | None) -> Iterator[Connection]:
        """Keep a place in this process for a stream, and end it within a second of `until`. Raises `TooManyStreams`."""
        if self._closed:
            raise Unavailable("This process is about to stop. Try again.")
        theirs = self._streams[stream.user_id]
        if len(theirs) >= STREAMS_PER_PERSON:
            raise TooManyStreams(too_many_streams())
        left = LONGEST if until is None else min((until - datetime.now(UTC)).total_seconds(), LONGEST)
        stream.ends_at = asyncio.get_running_loop().time() + left
        theirs.add(stream)
        STREAMS.labels(stream.side).inc()
        try:
            yield stream
        finally:
            STREAMS.labels(stream.side).dec()
            self._leave(stream)
            theirs.remove(stream)
            if not theirs:
                del self._streams[stream.user_id]

    async def events(self, stream: Connection, given: str | None) -> AsyncIterator[list[SseEvent]]:
        """Give a client what it missed behind the position that it names, then what comes, until its stream ends."""
        position = stream.admitted_at if given is None else decode_position(given, stream.epoch)
        if position is not None and position <= stream.admitted_at:
            stream.position = position
            stream.push([SseEvent(None, None, id=encode_position(stream.epoch, position))])
        else:
            stream.push([_reset(stream.epoch, stream.position)])
        self._join_or_wait(stream)
        async for some in stream.events():
            yield some
            if not stream.joined and stream.is_served:
                self.wake()

    def _join_or_wait(self, stream: Connection) -> None:
        """Let a client join the hub if it stands there, or ahead: no event that it lacks is behind the hub then."""
        self._lagging.pop(stream, None)
        if stream.over:
            return
        if self._epoch == stream.epoch and self._position <= stream.position:
            self._joined[stream.audience].add(stream)
            self._uncounted.add(stream)
            stream.joined = True
        else:
            self._lagging[stream] = None
        self.wake()

    def _leave(self, stream: Connection) -> None:
        self._lagging.pop(stream, None)
        self._uncounted.discard(stream)
        if stream.joined:
            together = self._joined[stream.audience]
            together.discard(stream)
            if not together:
                del self._joined[stream.audience]

    async def _watch(self) -> None:
        """Let quiet streams be heard of, and end those whose time is over."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            now = loop.time()
            for stream in self._all():
                stream.keep_alive(now)
                if stream.ends_at is not None and stream.ends_at <= now:
                    stream.end()

    async def _look_for_ends(self) -> None:
        """End the streams of browsers whose session has ended."""
        while True:
            await asyncio.sleep(SESSIONS_EVERY)
            streams = self._all()
            known = {stream.session_id for stream in streams if stream.session_id is not None}
            if not known:
                continue
            try:
                async with self._sessions() as session:
                    over = await find_ended(session, known)
            except Exception as error:  # noqa: BLE001 - it must not end the hub
                log.warning("not known which sessions have ended, trying again", error=describe(error))
                continue
            for stream in streams:
                if stream.session_id in over:
                    stream.end()

    async def _follow(self) -> None:
        while True:
            self._woken.clear()
            try:
                more = await self._look()
            except Exception as error:  # whatever it is, the clients wait for what comes after it
                log.warning("the log is not followed, trying again", error=describe(error))
                log.debug("the log is not followed", exc_info=True)
                await asyncio.sleep(POLL)
                continue
            await asyncio.sleep(MIN_INTERVAL)
            if not more:
                # Python 3.11's `wait_for` can lose a cancellation that comes with what it waits for.
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._woken.wait()

    async def _look(self) -> bool:
        """Bring on some of those who are behind, then everybody; True when there may be more."""
        async with self._sessions() as session:
            if not self._joined:
                head = await read_head(session)
                if not self._joined:  # nobody has joined meanwhile
                    self._epoch, self._position = head
            await self._catch_up(session)
            more = await self._advance(session) if self._joined else False
        return more or any(stream.is_served for stream in self._lagging)

    async def _catch_up(self, session: AsyncSession) -> None:
        """Give some of those who are behind what they missed next; whoever lacks nothing more joins."""
        some = list(islice((stream for stream in self._lagging if stream.is_served), MAX_CATCH_UP))
        if not some:
            return
        readers = [(stream.epoch, stream.position, stream.audience) for stream in some]
        stretches = await read_pages(session, readers, limit=max(PAGE // len(some), MIN_CATCH_UP_EVENTS))
        missed: dict[Side, dict[int, Entry]] = {side: {} for side in Side}
        for stream, stretch in zip(some, stretches, strict=True):
            missed[stream.side].update((entry.position, entry) for entry in stretch.entries)
        views = await render_events(
            session, self._show, stretches[0].epoch, {side: list(of.values()) for side, of in missed.items()}
        )
        shown = {side: {entry.position: what for entry, what in seen} for side, seen in views.items()}
        for stream, stretch in zip(some, stretches, strict=True):
            self._send_missed(stream, stretch, shown[stream.side])

    def _send_missed(self, stream: Connection, stretch: LogPage, shown: Mapping[int, SseEvent]) -> None:
        if stretch.lost and stretch.epoch == stream.epoch and stream.position < stream.admitted_at:
            stream.position = stream.admitted_at
            stream.push([_reset(stream.epoch, stream.position)])
        elif stretch.lost:
            stream.end(_reset(stretch.epoch, stretch.end))
        elif any(map(stream.is_ended_by, stretch.entries)):
            stream.end()
        else:
            stream.push([shown[entry.position] for entry in stretch.entries if entry.position in shown])
            stream.position = stretch.end
        if stream in self._lagging:  # it has not left meanwhile
            self._join_or_wait(stream)

    async def _advance(self, session: AsyncSession) -> bool:
        """Read what follows in the log, and hand it out; True when there may be more."""
        assert self._epoch is not None  # noqa: S101 - somebody has joined
        before = self._epoch, self._position
        stretch = await read_page(session, *before, limit=PAGE)
        # Whoever joins from here on has read this stretch already, and takes nothing of it.
        self._epoch, self._position = stretch.epoch, stretch.end
        if stretch.lost:
            for stream in [stream for together in self._joined.values() for stream in together]:
                stream.end(_reset(stretch.epoch, stretch.end))
            return False
        try:
            news = await self._news(session, stretch)
        except BaseException:
            self._epoch, self._position = before
            raise
        for audience, shown in news.items():
            for stream in self._joined.get(audience, ()):
                stream.push(shown)
        for entry in stretch.entries:
            for stream in self._streams.get(entry.user_id or "", ()):
                if stream.is_ended_by(entry):
                    stream.end()
        return len(stretch.entries) == PAGE

    async def _news(self, session: AsyncSession, stretch: LogPage) -> dict[str | None, list[SseEvent]]:
        """Return what each audience is to be given: events, then how many are unread, if that may be another number."""
        theirs = [entry for entry in stretch.entries if entry.user_id is not None and entry.user_id in self._joined]
        wanted = {Side.ADMIN: stretch.entries if None in self._joined else (), Side.CUSTOMER: theirs}
        views = await render_events(session, self._show, stretch.epoch, wanted)
        heard: defaultdict[str | None, list[SseEvent]] = defaultdict(list)
        for entry, shown in views[Side.CUSTOMER]:
            heard[entry.user_id].append(shown)
        if views[Side.ADMIN]:
            heard[None] = [shown for _, shown in views[Side.ADMIN]]
        uncounted = set(self._uncounted)
        counted = heard.keys() | {stream.audience for stream in uncounted}
        connection = await driver_connection(session)
        for user_id, count in (await count_unread_of(connection, [user for user in counted if user])).items():
            heard[user_id].append(SseEvent(UNREAD, self._show_unread(count)))
        if None in counted:
            heard[None].append(SseEvent(UNREAD, self._show_unread(await count_unread(connection))))
        self._uncounted -= uncounted
        return heard

    def _all(self) -> list[Connection]:
        return [stream for theirs in self._streams.values() for stream in theirs]


def _reset(epoch: UUID, position: int) -> SseEvent:
    return SseEvent(RESET, "{}", id=encode_position(epoch, position))
