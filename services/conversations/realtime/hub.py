"""The hub: follows the log for all live streams of this process and sends each client its events, in order.

The hub reads by position, at once after a notification and otherwise every second. Clients that resume are behind the
hub. Between its steps it catches them up, many at a time, until they reach its position and join. So no event is lost
or sent twice.
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

from services.conversations.errors import TooManyStreams
from services.conversations.event_log.position import decode_position, encode_position
from services.conversations.event_log.reader import Entry, LogPage, read_page, read_pages
from services.conversations.identity.sessions import find_ended_sessions
from services.conversations.messaging.counts import count_unread, count_unread_by_customer
from services.conversations.realtime.connection import UNREAD, Connection, SseEvent
from services.conversations.realtime.log_notify import LOG_GROWN, Listener
from services.conversations.realtime.rendering import RESET, EventRenderer, render_events
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON, too_many_streams
from services.conversations.rules import Side
from shared.database.engine import Driver
from shared.database.errors import describe
from shared.database.transactions import SessionFactory, connection_provider
from shared.event_log.reading import read_head
from shared.problems import Unavailable

POLL = 1.0  # seconds between reads of the log without notifications, and before a retry
MIN_INTERVAL = 0.02  # minimum seconds between reads, so that events of that time are read together
PAGE = 500  # events read at once
MAX_CATCH_UP = 200  # clients caught up at once
MIN_CATCH_UP_EVENTS = 10  # the minimum of events to read for each of them
SESSIONS_EVERY = 5.0  # seconds between checks for ended browser sessions
LONGEST = 24 * 60 * 60  # seconds that a stream lasts at most

STREAMS = Gauge("chats_live_streams", "Open live streams", ["side"])

log = structlog.get_logger()


UnreadRenderer = Callable[[int], str]


class Hub:
    """Follows the log and serves the live streams of this process."""

    def __init__(self, sessions: SessionFactory, render_event: EventRenderer, render_unread: UnreadRenderer) -> None:
        self._sessions = sessions
        self._acquire = connection_provider(sessions.kw["bind"])
        self._render_event = render_event
        self._render_unread = render_unread
        self._streams: defaultdict[str, set[Connection]] = defaultdict(set)  # by user
        self._joined: defaultdict[str | None, set[Connection]] = defaultdict(set)  # by audience
        self._lagging: dict[Connection, None] = {}  # in the order of waiting
        self._uncounted: set[Connection] = set()  # joined, but without a count of unread conversations yet
        self._epoch: UUID | None = None
        self._position = 0
        self._wakeup = asyncio.Event()
        self._closed = False

    async def run(self, redis_url: str | None) -> None:
        """Follow the log until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._tend())
            group.create_task(self._end_with_sessions())
            if redis_url is not None:
                group.create_task(Listener(LOG_GROWN, self._note_growth).run(redis_url))

    def _note_growth(self) -> None:
        if self._joined:  # without clients there is nothing to send, and each second the hub looks where the log ends
            self.wake()

    def wake(self) -> None:
        """Make the hub read the log at once."""
        self._wakeup.set()

    def push_to_admins(self, event: SseEvent) -> None:
        """Send an event that is not from the log to the admins' streams."""
        for stream in self._joined.get(None, ()):
            stream.push([event])

    def close(self) -> None:
        """End all streams and accept no more, because the process is stopping."""
        self._closed = True
        for stream in self._all():
            stream.end()

    @contextmanager
    def open(self, stream: Connection, until: datetime | None) -> Iterator[Connection]:
        """Register a stream, which ends within a second of `until`. Raises `TooManyStreams`."""
        if self._closed:
            raise Unavailable("This process is stopping. Try again.")
        user_streams = self._streams[stream.user_id]
        if len(user_streams) >= STREAMS_PER_PERSON:
            raise TooManyStreams(too_many_streams())
        duration = LONGEST if until is None else min((until - datetime.now(UTC)).total_seconds(), LONGEST)
        stream.ends_at = asyncio.get_running_loop().time() + duration
        user_streams.add(stream)
        STREAMS.labels(stream.side).inc()
        try:
            yield stream
        finally:
            STREAMS.labels(stream.side).dec()
            self._leave(stream)
            user_streams.remove(stream)
            if not user_streams:
                del self._streams[stream.user_id]

    async def events(self, stream: Connection, last_event_id: str | None) -> AsyncIterator[list[SseEvent]]:
        """Yield the events that a client missed after its last one, then new ones, until its stream ends."""
        position = stream.admitted_at if last_event_id is None else decode_position(last_event_id, stream.epoch)
        if position is not None and position <= stream.admitted_at:
            stream.position = position
            stream.push([SseEvent(None, None, id=encode_position(stream.epoch, position))])
        else:
            stream.push([_reset(stream.epoch, stream.position)])
        self._join_or_wait(stream)
        async for events in stream.events():
            yield events
            if not stream.joined and stream.is_served:
                self.wake()

    def _join_or_wait(self, stream: Connection) -> None:
        """Join a client to the hub if it is not behind the hub's position; otherwise queue it to be caught up."""
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
            joined = self._joined[stream.audience]
            joined.discard(stream)
            if not joined:
                del self._joined[stream.audience]

    async def _tend(self) -> None:
        """Send pings on quiet streams, and end streams that have reached their time limit."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            now = loop.time()
            for stream in self._all():
                stream.keep_alive(now)
                if stream.ends_at is not None and stream.ends_at <= now:
                    stream.end()

    async def _end_with_sessions(self) -> None:
        """End the streams of browsers whose session has ended."""
        while True:
            await asyncio.sleep(SESSIONS_EVERY)
            streams = self._all()
            session_ids = {stream.session_id for stream in streams if stream.session_id is not None}
            if not session_ids:
                continue
            try:
                async with self._sessions() as session:
                    ended = await find_ended_sessions(session, session_ids)
            except Exception as error:  # noqa: BLE001 - it must not end the hub
                log.warning("check for ended sessions failed, retrying", error=describe(error))
                continue
            for stream in streams:
                if stream.session_id in ended:
                    stream.end()

    async def _follow(self) -> None:
        while True:
            self._wakeup.clear()
            try:
                more = await self._step()
            except Exception as error:  # none may end this task, which serves all clients
                log.warning("reading the log failed, retrying", error=describe(error))
                log.debug("reading the log failed", exc_info=True)
                await asyncio.sleep(POLL)
                continue
            await asyncio.sleep(MIN_INTERVAL)
            if not more:
                # Not `wait_for`: in Python 3.11 it can lose a cancellation that arrives together with its result.
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._wakeup.wait()

    async def _step(self) -> bool:
        """Catch up some of the lagging clients, then advance the hub; return whether there may be more to do."""
        if not self._joined:
            async with self._sessions() as session:
                head = await read_head(session)
            if not self._joined:  # no client has joined meanwhile
                self._epoch, self._position = head
        async with self._acquire() as connection:
            await self._catch_up(connection)
            more = await self._advance(connection) if self._joined else False
        return more or any(stream.is_served for stream in self._lagging)

    async def _catch_up(self, connection: Driver) -> None:
        """Send some of the lagging clients the next events that they missed; clients that miss no more join."""
        streams = list(islice((stream for stream in self._lagging if stream.is_served), MAX_CATCH_UP))
        if not streams:
            return
        readers = [(stream.epoch, stream.position, stream.audience) for stream in streams]
        pages = await read_pages(connection, readers, limit=max(PAGE // len(streams), MIN_CATCH_UP_EVENTS))
        missed: dict[Side, dict[int, Entry]] = {side: {} for side in Side}
        for stream, page in zip(streams, pages, strict=True):
            missed[stream.side].update((entry.position, entry) for entry in page.entries)
        entries_by_side = {side: list(entries.values()) for side, entries in missed.items()}
        rendered = await render_events(connection, self._render_event, pages[0].epoch, entries_by_side)
        by_position = {side: {entry.position: event for entry, event in events} for side, events in rendered.items()}
        for stream, page in zip(streams, pages, strict=True):
            self._send_missed(stream, page, by_position[stream.side])

    def _send_missed(self, stream: Connection, page: LogPage, events: Mapping[int, SseEvent]) -> None:
        if page.lost and page.epoch == stream.epoch and stream.position < stream.admitted_at:
            stream.position = stream.admitted_at
            stream.push([_reset(stream.epoch, stream.position)])
        elif page.lost:
            stream.end(_reset(page.epoch, page.end))
        elif any(map(stream.is_ended_by, page.entries)):
            stream.end()
        else:
            stream.push([events[entry.position] for entry in page.entries if entry.position in events])
            stream.position = page.end
        if stream in self._lagging:  # it has not left meanwhile
            self._join_or_wait(stream)

    async def _advance(self, connection: Driver) -> bool:
        """Read the next page of the log and send it to joined clients; return whether there may be more."""
        assert self._epoch is not None  # noqa: S101 - set before any client joins
        before = self._epoch, self._position
        page = await read_page(connection, *before, limit=PAGE)
        # Move on before the events are rendered: clients that join from now on have already read this page.
        self._epoch, self._position = page.epoch, page.end
        if page.lost:
            for stream in [stream for joined in self._joined.values() for stream in joined]:
                stream.end(_reset(page.epoch, page.end))
            return False
        try:
            events_by_audience = await self._render_page(connection, page)
        except BaseException:
            self._epoch, self._position = before
            raise
        for audience, events in events_by_audience.items():
            for stream in self._joined.get(audience, ()):
                stream.push(events)
        for entry in page.entries:
            for stream in self._streams.get(entry.user_id or "", ()):
                if stream.is_ended_by(entry):
                    stream.end()
        return len(page.entries) == PAGE

    async def _render_page(self, connection: Driver, page: LogPage) -> dict[str | None, list[SseEvent]]:
        """Return the events for each audience, followed by its unread count if that may have changed."""
        of_customers = [
            entry
            for entry in page.entries
            if entry.user_id is not None and entry.user_id in self._joined and entry.audience is None
        ]
        entries_by_side = {Side.ADMIN: page.entries if None in self._joined else (), Side.CUSTOMER: of_customers}
        rendered = await render_events(connection, self._render_event, page.epoch, entries_by_side)
        by_audience: defaultdict[str | None, list[SseEvent]] = defaultdict(list)
        for entry, event in rendered[Side.CUSTOMER]:
            by_audience[entry.user_id].append(event)
        if rendered[Side.ADMIN]:
            by_audience[None] = [event for _, event in rendered[Side.ADMIN]]
        uncounted = set(self._uncounted)
        audiences = by_audience.keys() | {stream.audience for stream in uncounted}
        counts = await count_unread_by_customer(connection, [user_id for user_id in audiences if user_id])
        for user_id, count in counts.items():
            by_audience[user_id].append(SseEvent(UNREAD, self._render_unread(count)))
        if None in audiences:
            by_audience[None].append(SseEvent(UNREAD, self._render_unread(await count_unread(connection))))
        self._uncounted -= uncounted
        return by_audience

    def _all(self) -> list[Connection]:
        return [stream for streams in self._streams.values() for stream in streams]


def _reset(epoch: UUID, position: int) -> SseEvent:
    return SseEvent(RESET, "{}", id=encode_position(epoch, position))
