"""The inbox: every event takes effect once, however often and in whatever order it comes.

A first delivery is one transaction. Whatever may be a repetition is counted in a transaction of its own first, so
that an event that brings its process down is known by its count, and parked. A pass through the log handles what
nobody has tried yet together, and what was tried before by few and in the end by itself.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import ColumnElement, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.event_consumer.handlers import handle_events, names_deleted
from services.notifications.models import FeedCursor, InboxEntry
from services.notifications.rules import MAX_EVENT_ATTEMPTS
from services.notifications.settings import EmailSettings
from shared.database import SessionFactory, transaction
from shared.events import PAYLOADS, VERSION, Event, EventType
from shared.failpoints import failpoint
from shared.outages import DATABASE_ERRORS, is_outage
from shared.tables import any_of, bulk_insert

ATTEMPT_SPACING = timedelta(seconds=2)
TOGETHER = ((500, 0), (20, 1))  # how many events of the log are tried at once that were tried so often

log = structlog.get_logger()


async def receive_events(
    sessions: SessionFactory, events: Sequence[Event], settings: EmailSettings, *, repeated: bool
) -> bool:
    """Let the events of a task take effect unless they already have; True when all are done with, handled or parked.

    `repeated` says that they may have been tried before. Those that cannot be understood are parked. One that fails
    does not hold up the others; errors of the database go to the caller, and the events stay to be received again.
    """
    events = list({event.id: event for event in events}.values())
    if repeated:
        return await receive_missing(sessions, events, settings)
    sound = await _park_faulty(sessions, events, {})
    try:
        # Not taken: handled meanwhile, or on its way through an earlier attempt; the log brings it again if that fails.
        return len(await _handle(sessions, sound, settings, counted=False)) == len(sound)
    except Exception as error:
        if len(sound) == 1 or is_outage(error):
            raise
        log.warning("not handled together", events=len(sound), error=type(error).__name__)
        return await receive_missing(sessions, sound, settings)


async def receive_missing(sessions: SessionFactory, events: Sequence[Event], settings: EmailSettings) -> bool:
    """Let those events of a stretch of the log take effect that have not; True when all of them are done with.

    An event that fails does not hold up the others: the first error is raised when all had their turn, unless the
    database is away.
    """
    async with transaction(sessions) as session:
        missing = await find_missing(session, events)
        groups = deque(_groups(missing, await _attempts(session, missing)))
    done, failure = True, None  # type: bool, Exception | None
    while groups:
        group = groups.popleft()
        try:
            done &= await _receive_group(sessions, group, settings)
        except Exception as error:
            if is_outage(error):
                raise
            if len(group) == 1:
                failure = failure or error
            else:
                log.warning("not handled together, each alone now", events=len(group), error=type(error).__name__)
                groups.extendleft([event] for event in reversed(group))
    if failure is not None:
        raise failure
    return done


async def park_event(
    sessions: SessionFactory, event_id: UUID, event_type: str, reason: str, event: dict[str, Any] | None
) -> None:
    """Give up on an event, visibly: it is listed, and can be retried by hand."""
    log.error("event parked", event_id=str(event_id), type=event_type, reason=reason)
    async with transaction(sessions) as session:
        await session.execute(
            insert(InboxEntry)
            .values(event_id=event_id, type=event_type, parked_at=func.clock_timestamp(), reason=reason, event=event)
            .on_conflict_do_update(
                index_elements=[InboxEntry.event_id],
                set_={"parked_at": func.clock_timestamp(), "reason": reason, "event": event},
                where=InboxEntry.handled_at.is_(None),
            )
        )
        if await names_deleted(session, event):  # behind the entry, as who handles an event locks them
            await session.execute(update(InboxEntry).where(InboxEntry.event_id == event_id).values(event=None))
        failpoint("parking-written")
    failpoint("parking-committed")


async def find_missing(session: AsyncSession, events: Sequence[Event]) -> list[Event]:
    """Return those of the events that are neither handled nor parked, in order."""
    ids = [event.id for event in events]
    done = set(await session.scalars(select(InboxEntry.event_id).where(any_of(InboxEntry.event_id, ids), _is_done())))
    return [event for event in events if event.id not in done]


async def _attempts(session: AsyncSession, events: Sequence[Event]) -> dict[UUID, int]:
    ids = [event.id for event in events]
    rows = await session.execute(
        select(InboxEntry.event_id, InboxEntry.attempts).where(any_of(InboxEntry.event_id, ids))
    )
    return {row.event_id: row.attempts for row in rows}


def _groups(events: Sequence[Event], attempts: Mapping[UUID, int]) -> Iterator[list[Event]]:
    """Say which events are tried together: all that nobody has tried, then fewer at once, in the end each alone.

    One that brings its process down is so found among few, and behind the others.
    """
    for size, tried in TOGETHER:
        those = [event for event in events if attempts.get(event.id, 0) == tried]
        for start in range(0, len(those), size):
            yield those[start : start + size]
    often = [event for event in events if attempts.get(event.id, 0) >= len(TOGETHER)]
    for event in sorted(often, key=lambda event: attempts[event.id]):
        yield [event]


async def _receive_group(sessions: SessionFactory, events: Sequence[Event], settings: EmailSettings) -> bool:
    """Count an attempt at each event, and let them take effect together; True when all of them are done with."""
    async with transaction(sessions) as session:
        counted = await _count_attempts(session, events)
    failpoint("attempts-counted")
    sound = await _park_faulty(sessions, [event for event in events if event.id in counted], counted)
    taken = await _handle(sessions, sound, settings, counted=True)
    return len(counted) == len(events) and len(taken) == len(sound)


async def _park_faulty(sessions: SessionFactory, events: Sequence[Event], attempts: Mapping[UUID, int]) -> list[Event]:
    """Give up on those that cannot be handled, ever, and return the others."""
    sound = []
    for event in events:
        if fault := fault_of(event, attempts.get(event.id, 0)):
            await park_event(sessions, event.id, event.type, fault, event.model_dump(mode="json"))
        else:
            sound.append(event)
    return sound


def fault_of(event: Event, attempts: int) -> str | None:
    """Say why an event cannot be handled, ever, by this version of the service."""
    if attempts > MAX_EVENT_ATTEMPTS:
        return f"failed {MAX_EVENT_ATTEMPTS} times"
    if event.type not in set(PAYLOADS):
        return "unknown type"
    if event.version != VERSION:
        return f"unknown version {event.version}"
    if event.payload is None:
        return None  # its text was erased: nothing is left to do
    try:
        PAYLOADS[EventType(event.type)].model_validate(event.payload)
    except ValidationError as error:
        return f"invalid payload: {error.errors()[0]['loc']}"
    return None


def _is_done() -> ColumnElement[bool]:
    return InboxEntry.handled_at.is_not(None) | InboxEntry.parked_at.is_not(None)


async def _count_attempts(session: AsyncSession, events: Sequence[Event]) -> dict[UUID, int]:
    """Note one more attempt at each event, and return how many that makes.

    Not of one whose last attempt may still be under way: deliveries side by side are one attempt.
    """
    now = func.clock_timestamp()
    rested = InboxEntry.attempted_at.is_(None) | (InboxEntry.attempted_at < now - ATTEMPT_SPACING)
    counted = await session.execute(
        bulk_insert(InboxEntry, _rows(events), attempts=literal(1), attempted_at=now)
        .on_conflict_do_update(
            index_elements=[InboxEntry.event_id],
            set_={"attempts": InboxEntry.attempts + 1, "attempted_at": now},
            where=~_is_done() & rested,
        )
        .returning(InboxEntry.event_id, InboxEntry.attempts)
    )
    return {row.event_id: row.attempts for row in counted}


async def _take_back_attempts(sessions: SessionFactory, events: Sequence[Event]) -> None:
    """Count an attempt at each event for nothing: it did not fail by itself."""
    async with transaction(sessions) as session:
        await session.execute(
            update(InboxEntry)
            .where(any_of(InboxEntry.event_id, [event.id for event in events]), ~_is_done(), InboxEntry.attempts > 0)
            .values(attempts=InboxEntry.attempts - 1, attempted_at=None)
            .execution_options(synchronize_session=False)
        )


async def _handle(
    sessions: SessionFactory, events: Sequence[Event], settings: EmailSettings, *, counted: bool
) -> Sequence[Event]:
    """Let events take effect in the transaction that marks them as handled; return those that nobody else has.

    An attempt that was counted counts against an event only if that event failed by itself.
    """
    if not events:
        return []
    try:
        async with transaction(sessions) as session:
            taken = await _take(session, await in_current_epoch(session, events))
            failpoint("events-taken")
            await handle_events(session, taken, settings)
            failpoint("events-written")
    except Exception as error:
        if counted and (len(events) > 1 or is_outage(error)):
            with suppress(*DATABASE_ERRORS):
                await _take_back_attempts(sessions, events)
        raise
    failpoint("events-committed")
    for event in taken:
        log.info("event handled", **event.ids)
    return taken


async def in_current_epoch(session: AsyncSession, events: Sequence[Event]) -> list[Event]:
    """Leave out what the log told before a restore, or after one not yet noticed: the log says what is true now."""
    epoch = await session.scalar(select(FeedCursor.epoch))
    return [event for event in events if event.epoch is None or epoch is None or event.epoch == epoch]


async def _take(session: AsyncSession, events: Sequence[Event]) -> list[Event]:
    """Mark events as handled, and return those that were not, nor parked."""
    if not events:
        return []
    now = func.clock_timestamp()
    taken = set(
        await session.scalars(
            bulk_insert(InboxEntry, _rows(events), handled_at=now)
            .on_conflict_do_update(index_elements=[InboxEntry.event_id], set_={"handled_at": now}, where=~_is_done())
            .returning(InboxEntry.event_id)
        )
    )
    return [event for event in events if event.id in taken]


def _rows(events: Collection[Event]) -> list[dict[str, Any]]:
    """In the order of their keys, in which everybody locks them."""
    return [{"event_id": event.id, "type": event.type} for event in sorted(events, key=lambda event: event.id)]
