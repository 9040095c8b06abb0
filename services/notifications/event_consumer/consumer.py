"""The inbox: every event takes effect once, however often and in any order it is delivered.

A first delivery is one transaction. A possible redelivery is first counted in a transaction of its own, so that an
event that crashes its process is recognized by its count and parked. When reading the log, new events are handled
together, events with a failed attempt in smaller batches, and those with more one by one.
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

from services.notifications.event_consumer.handlers import handle_events, is_about_deleted
from services.notifications.models import FeedCursor, InboxEntry
from services.notifications.rules import MAX_EVENT_ATTEMPTS
from services.notifications.settings import EmailSettings
from shared.database.errors import DATABASE_ERRORS, is_outage
from shared.database.orm import any_of, bulk_insert
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from shared.events import PAYLOADS, VERSION, Event, EventType
from shared.observability.tracing import SpanName, record_span, span_start
from shared.process.failpoints import failpoint

UNKNOWN_TYPE, UNKNOWN_TASK = "unknown type", "unknown task"
"""Why events of a newer release are parked."""
ATTEMPT_SPACING = timedelta(seconds=2)
BATCH_SIZES = ((500, 0), (20, 1))  # events handled together, and the number of their earlier attempts

log = structlog.get_logger()


async def receive_events(
    sessions: SessionFactory, events: Sequence[Event], settings: EmailSettings, *, repeated: bool
) -> bool:
    """Handle the events of a task that are not handled yet; return whether all are now handled or parked.

    `repeated` means that there may have been an attempt before. Invalid events are parked. A failing event does not
    block the others. Database errors are raised, and the events can be received again.
    """
    events = list({event.id: event for event in events}.values())
    if repeated:
        return await receive_missing(sessions, events, settings)
    valid = await _park_invalid(sessions, events, {})
    try:
        # An event that another process has handled is not returned; the log delivers it again if that fails.
        return len(await _handle(sessions, valid, settings, counted=False)) == len(valid)
    except Exception as error:
        if len(valid) == 1 or is_outage(error):
            raise
        log.warning("batch failed, retrying", events=len(valid), error=type(error).__name__)
        return await receive_missing(sessions, valid, settings)


async def receive_missing(sessions: SessionFactory, events: Sequence[Event], settings: EmailSettings) -> bool:
    """Handle the events of a log page that are not handled yet; return whether all are now handled or parked.

    A failing event does not block the others: the first error is raised at the end. A database outage is raised at
    once.
    """
    async with transaction(sessions) as session:
        missing = await find_missing(session, events)
        groups = deque(_groups(missing, await _attempts(session, missing)))
    done, first_error = True, None  # type: bool, Exception | None
    while groups:
        group = groups.popleft()
        try:
            done &= await _receive_group(sessions, group, settings)
        except Exception as error:
            if is_outage(error):
                raise
            if len(group) == 1:
                first_error = first_error or error
            else:
                log.warning("batch failed, retrying events individually", events=len(group), error=type(error).__name__)
                groups.extendleft([event] for event in reversed(group))
    if first_error is not None:
        raise first_error
    return done


async def park_event(
    sessions: SessionFactory, event_id: UUID, event_type: str, reason: str, event: dict[str, Any] | None
) -> None:
    """Park an event: it is listed, and an operator can retry it."""
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
        if await is_about_deleted(session, event):  # after the entry: the same lock order as in `_handle`
            await session.execute(update(InboxEntry).where(InboxEntry.event_id == event_id).values(event=None))
        failpoint("parking-written")
    failpoint("parking-committed")


async def find_missing(session: AsyncSession, events: Sequence[Event]) -> list[Event]:
    """Return the events that are neither handled nor parked, in order."""
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
    """Group events to handle together: new events first, then smaller groups, then single events.

    So an event that crashes its process is isolated, after the others were handled.
    """
    for size, count in BATCH_SIZES:
        same_count = [event for event in events if attempts.get(event.id, 0) == count]
        for start in range(0, len(same_count), size):
            yield same_count[start : start + size]
    single = [event for event in events if attempts.get(event.id, 0) >= len(BATCH_SIZES)]
    for event in sorted(single, key=lambda event: attempts[event.id]):
        yield [event]


async def _receive_group(sessions: SessionFactory, events: Sequence[Event], settings: EmailSettings) -> bool:
    """Count an attempt for each event, and handle them together; return whether all are now handled or parked."""
    async with transaction(sessions) as session:
        counted = await _count_attempts(session, events)
    failpoint("attempts-counted")
    valid = await _park_invalid(sessions, [event for event in events if event.id in counted], counted)
    handled = await _handle(sessions, valid, settings, counted=True)
    return len(counted) == len(events) and len(handled) == len(valid)


async def _park_invalid(sessions: SessionFactory, events: Sequence[Event], attempts: Mapping[UUID, int]) -> list[Event]:
    """Park events that can never be handled, and return the others."""
    valid = []
    for event in events:
        if fault := permanent_fault(event, attempts.get(event.id, 0)):
            await park_event(sessions, event.id, event.type, fault, event.model_dump(mode="json"))
        else:
            valid.append(event)
    return valid


def permanent_fault(event: Event, attempts: int) -> str | None:
    """Return why this version of the service can never handle an event, or None."""
    if attempts > MAX_EVENT_ATTEMPTS:
        return f"failed {MAX_EVENT_ATTEMPTS} times"
    if event.type not in set(PAYLOADS):
        return UNKNOWN_TYPE
    if event.version != VERSION:
        return f"unknown version {event.version}"
    if event.payload is None:
        return None  # erased: there is nothing to do
    try:
        PAYLOADS[EventType(event.type)].model_validate(event.payload)
    except ValidationError as error:
        return f"invalid payload: {error.errors()[0]['loc']}"
    return None


def _is_done() -> ColumnElement[bool]:
    return InboxEntry.handled_at.is_not(None) | InboxEntry.parked_at.is_not(None)


async def _count_attempts(session: AsyncSession, events: Sequence[Event]) -> dict[UUID, int]:
    """Count one more attempt for each event, and return the counts.

    Skips events whose last attempt may still be running: simultaneous deliveries count as one attempt.
    """
    now = func.clock_timestamp()
    may_retry = InboxEntry.attempted_at.is_(None) | (InboxEntry.attempted_at < now - ATTEMPT_SPACING)
    counted = await session.execute(
        bulk_insert(InboxEntry, _rows(events), attempts=literal(1), attempted_at=now)
        .on_conflict_do_update(
            index_elements=[InboxEntry.event_id],
            set_={"attempts": InboxEntry.attempts + 1, "attempted_at": now},
            where=~_is_done() & may_retry,
        )
        .returning(InboxEntry.event_id, InboxEntry.attempts)
    )
    return {row.event_id: row.attempts for row in counted}


async def _uncount_attempts(sessions: SessionFactory, events: Sequence[Event]) -> None:
    """Take back an attempt of each event, which may not be the cause of the failure."""
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
    """Handle events in the transaction that marks them as handled; return those not handled or parked elsewhere.

    A counted attempt only remains counted if the event was alone and the database was available.
    """
    if not events:
        return []
    start = span_start()
    try:
        async with transaction(sessions) as session:
            claimed = await _mark_handled(session, events)
            failpoint("events-claimed")
            await handle_events(session, claimed, settings)
            failpoint("events-written")
    except Exception as error:
        if counted and (len(events) > 1 or is_outage(error)):
            with suppress(*DATABASE_ERRORS):
                await _uncount_attempts(sessions, events)
        raise
    failpoint("events-committed")
    for event in claimed:
        log.info("event handled", **event.ids)
        record_span(SpanName.HANDLE, event.message_ids, start)
    return claimed


async def in_current_epoch(session: AsyncSession, event: Event) -> bool:
    """Return whether an event is of the current epoch: after a restore of the log, a rebuild replaces other events."""
    epoch = await session.scalar(select(FeedCursor.epoch))
    return event.epoch is None or epoch is None or event.epoch == epoch


async def _mark_handled(session: AsyncSession, events: Sequence[Event]) -> list[Event]:
    """Mark events of the current epoch as handled; return those that were neither handled nor parked before."""
    ordered = sorted(events, key=lambda event: event.id)  # the order in which entries are locked everywhere
    columns = ([getattr(event, name) for event in ordered] for name in ("id", "type", "epoch"))
    driver = await transaction_driver(session)
    marked = {row["event_id"] for row in await driver.fetch(_MARK_HANDLED, *columns)}
    return [event for event in events if event.id in marked]


# The commit does not wait for the disk (ADR 0032): if PostgreSQL crashes and loses it, the whole transaction is lost,
# and the event is handled again. The sweeper's cursor cannot be past it: commits reach the disk in their order, and
# that of the cursor waits. The epoch is compared as in `in_current_epoch`.
_MARK_HANDLED = """
    insert into inbox (event_id, type, handled_at)
    select event.id, event.type, clock_timestamp()
    from set_config('synchronous_commit', 'off', true),
        unnest($1::uuid[], $2::text[], $3::uuid[]) as event (id, type, epoch),
        feed_cursor
    where event.epoch is null or feed_cursor.epoch is null or event.epoch = feed_cursor.epoch
    order by event.id
    on conflict (event_id) do update set handled_at = excluded.handled_at
    where inbox.handled_at is null and inbox.parked_at is null
    returning event_id
"""


def _rows(events: Collection[Event]) -> list[dict[str, Any]]:
    """Return inbox rows in the order of their keys, the order in which they are locked everywhere."""
    return [{"event_id": event.id, "type": event.type} for event in sorted(events, key=lambda event: event.id)]
