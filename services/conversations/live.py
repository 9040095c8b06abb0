"""Live streams: a hub follows the log for all clients of this process; each gets what concerns it, in order.

The hub reads by position, at once on a hint, else every second. A client that resumes reads the log itself until it
stands where the hub stands, and joins it there, in the same step of the event loop: no gap, nothing twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from uuid import UUID

import structlog
from prometheus_client import Gauge
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.counts import count_unread, count_unread_of
from services.conversations.errors import TooManyStreams
from services.conversations.hints import listen
from services.conversations.log import Entry, Stretch, decode_position, encode_position, read_head, read_stretch
from services.conversations.places import STREAMS_PER_PERSON, too_many
from services.conversations.queries import list_threads
from services.conversations.rows import Thread
from services.conversations.rules import Side
from services.conversations.sessions import ended
from services.conversations.streams import Shown, Stream
from shared.database import Sessions, describe, driver_connection
from shared.problems import Unavailable

RESET = "reset"
UNREAD = "unread"

POLL = 1.0  # seconds between looks at a log of which no hint came, and between tries of what failed
PAGE = 500  # events read at once
SESSIONS_EVERY = 5.0  # seconds between looks whether the browsers' sessions live
LONGEST = 24 * 60 * 60  # seconds
RESUMING = 2  # clients that read the log at the same time: the rest of the connections is for requests

_FAULTS = (SQLAlchemyError, OSError, TimeoutError)  # what a database that is away raises

STREAMS = Gauge("chats_live_streams", "Open live streams", ["side"])

log = structlog.get_logger()


# Shows an event to a side, beside its conversation if that is still there; None when there is nothing to show.
Show = Callable[[Entry, Thread | None, Side], str | None]
ShowUnread = Callable[[int], str]


class Hub:
    """The live streams of this process, and what follows the log for them."""

    def __init__(self, sessions: Sessions, show: Show, show_unread: ShowUnread) -> None:
        self._sessions = sessions
        self._show = show
        self._show_unread = show_unread
        self._streams: defaultdict[str, set[Stream]] = defaultdict(set)
        self._epoch: UUID | None = None
        self._position = 0
        self._woken = asyncio.Event()
        self._resuming = asyncio.Semaphore(RESUMING)
        self._closed = False

    async def run(self, redis_url: str | None) -> None:
        """Follow the log until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
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
    def open(self, stream: Stream, until: datetime | None) -> Iterator[Stream]:
        """Keep a place in this process for a stream, and end it at the latest `until`. Raises `TooManyStreams`."""
        if self._closed:
            raise Unavailable("This process is about to stop. Try again.")
        theirs = self._streams[stream.user_id]
        if len(theirs) >= STREAMS_PER_PERSON:
            raise TooManyStreams(too_many())
        left = LONGEST if until is None else min((until - datetime.now(UTC)).total_seconds(), LONGEST)
        timer = asyncio.get_running_loop().call_later(max(left, 0), stream.end)
        theirs.add(stream)
        STREAMS.labels(stream.side).inc()
        try:
            yield stream
        finally:
            timer.cancel()
            STREAMS.labels(stream.side).dec()
            theirs.remove(stream)
            if not theirs:
                del self._streams[stream.user_id]

    async def events(self, stream: Stream, given: str | None) -> AsyncIterator[Shown]:
        """Give a client what it missed behind the position that it names, then what comes, until its stream ends."""
        named = (stream.epoch, stream.admitted_at) if given is None else decode_position(given)
        if named is not None and named[0] == stream.epoch and named[1] <= stream.admitted_at:
            position = named[1]
            yield Shown(None, None, id=encode_position(stream.epoch, position))
        else:
            position = stream.admitted_at
            yield _reset(stream.epoch, position)
        while not stream.over and not self._stands_at(stream.epoch, position):
            stretch, missed = await self._missed(stream, position)
            if stretch is None:
                continue
            if stretch.lost and position < stream.admitted_at and stretch.epoch == stream.epoch:
                position = stream.admitted_at
                yield _reset(stream.epoch, position)
                continue
            if stretch.lost:
                yield _reset(stretch.epoch, stretch.end)
                return
            for shown in missed:
                yield shown
            if any(map(stream.is_ended_by, stretch.entries)):
                return
            if position == stretch.end:  # the hub has yet to find its place
                await asyncio.sleep(POLL / 10)
            position = stretch.end
        async for shown in self._joined(stream, position):
            yield shown

    def _stands_at(self, epoch: UUID, position: int) -> bool:
        return self._epoch == epoch and self._position <= position

    async def _missed(self, stream: Stream, after: int) -> tuple[Stretch | None, list[Shown]]:
        """Read a stretch of the log for one client, and show it; None after a while when the database is away."""
        try:
            async with self._resuming, self._sessions() as session:
                stretch = await read_stretch(session, stream.epoch, after, limit=PAGE, user_id=stream.audience)
                views = await self._views(session, stretch.epoch, {stream.side: stretch.entries})
        except _FAULTS as error:
            log.warning("what a live stream missed is not read, trying again", error=describe(error))
            await asyncio.sleep(POLL)
            return None, []
        return stretch, [shown for _, shown in views[stream.side]]

    async def _joined(self, stream: Stream, position: int) -> AsyncIterator[Shown]:
        """Give what comes behind a position, and the number of unread conversations whenever it is another."""
        stream.joined = True
        self.wake()
        unread = None
        async for shown in stream.taken():
            if shown.event == UNREAD:
                if shown.data == unread:
                    continue
                unread = shown.data
            elif shown.position is not None:
                if shown.position <= position:
                    continue
                position = shown.position
            yield shown

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
                    over = await ended(session, known)
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
                more = await self._advance()
            except Exception as error:  # whatever it is, the clients wait for what comes after it
                log.warning("the log is not followed, trying again", error=describe(error))
                log.debug("the log is not followed", exc_info=True)
                await asyncio.sleep(POLL)
                continue
            if not more:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL)

    async def _advance(self) -> bool:
        """Read what follows in the log, and hand it out; True when there may be more."""
        async with self._sessions() as session:
            if self._epoch is None or not self._readers():
                head = await read_head(session)
                if self._epoch is None or not self._readers():  # nobody has joined meanwhile
                    self._epoch, self._position = head
                    return False
            before = self._epoch, self._position
            stretch = await read_stretch(session, *before, limit=PAGE)
            self._epoch, self._position = stretch.epoch, stretch.end
            readers = self._readers()  # whoever joins from here on has read this stretch already
            if stretch.lost:
                for stream in readers:
                    stream.end(_reset(stretch.epoch, stretch.end))
                return False
            try:
                news = await self._news(session, stretch, readers)
            except BaseException:
                self._epoch, self._position = before
                raise
        for stream, shown in news:
            stream.give(shown)
        for entry in stretch.entries:
            for stream in self._streams.get(entry.user_id or "", ()):
                if stream.is_ended_by(entry):
                    stream.end()
        return len(stretch.entries) == PAGE

    async def _news(
        self, session: AsyncSession, stretch: Stretch, readers: Sequence[Stream]
    ) -> list[tuple[Stream, list[Shown]]]:
        """Return what each reader is to be given: events, then the number of unread conversations if it may differ."""
        audiences = {stream.audience for stream in readers}
        theirs = [entry for entry in stretch.entries if entry.user_id is not None and entry.user_id in audiences]
        wanted = {Side.ADMIN: stretch.entries if None in audiences else (), Side.CUSTOMER: theirs}
        views = await self._views(session, stretch.epoch, wanted)
        heard: defaultdict[str | None, list[Shown]] = defaultdict(list)
        heard[None] = [shown for _, shown in views[Side.ADMIN]]
        for entry, shown in views[Side.CUSTOMER]:
            heard[entry.user_id].append(shown)
        counted = {stream.audience for stream in readers if stream.uncounted or heard[stream.audience]}
        connection = await driver_connection(session)
        for user_id, count in (await count_unread_of(connection, [user for user in counted if user])).items():
            heard[user_id].append(Shown(UNREAD, self._show_unread(count)))
        if None in counted:
            heard[None].append(Shown(UNREAD, self._show_unread(await count_unread(connection))))
        for stream in readers:
            stream.uncounted = False
        return [(stream, heard[stream.audience]) for stream in readers if heard[stream.audience]]

    async def _views(
        self, session: AsyncSession, epoch: UUID, wanted: Mapping[Side, Sequence[Entry]]
    ) -> dict[Side, list[tuple[Entry, Shown]]]:
        """Show events once to each side that wants them, with the conversations as they are now."""
        spoken_of = {entry.conversation_id for entries in wanted.values() for entry in entries} - {None}
        ids = [identity for identity in spoken_of if identity]
        found = await list_threads(await driver_connection(session), ids) if ids else []
        threads = {thread.conversation.id: thread for thread in found}
        return {
            side: [(entry, shown) for entry in entries if (shown := self._view(epoch, entry, threads, side))]
            for side, entries in wanted.items()
        }

    def _view(self, epoch: UUID, entry: Entry, threads: Mapping[UUID, Thread], side: Side) -> Shown | None:
        identity = encode_position(epoch, entry.position)
        try:
            data = self._show(entry, threads.get(entry.conversation_id) if entry.conversation_id else None, side)
        except Exception as error:  # noqa: BLE001 - it must not come in the way of what follows
            # Without its own words, which may quote a message.
            log.error("event not shown, clients load anew", position=entry.position, error=type(error).__name__)  # noqa: TRY400 - see above
            return Shown(RESET, "{}", entry.position, identity)
        return Shown(entry.type, data, entry.position, identity) if data else None

    def _all(self) -> list[Stream]:
        return [stream for theirs in self._streams.values() for stream in theirs]

    def _readers(self) -> list[Stream]:
        return [stream for stream in self._all() if stream.joined and not stream.over]


def _reset(epoch: UUID, position: int) -> Shown:
    return Shown(RESET, "{}", id=encode_position(epoch, position))
