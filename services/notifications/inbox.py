"""The inbox: every event takes effect once, however often and in whatever order it comes.

A first delivery is one transaction. Whatever may be a repetition is counted in a transaction of its own first, so
that an event that brings its process down is known by its count, and parked.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.errors import NotRetriable
from services.notifications.events import handle_event, names_deleted
from services.notifications.models import InboxEntry
from services.notifications.rules import MAX_EVENT_ATTEMPTS
from services.notifications.settings import MailSettings
from shared.database import Sessions, transaction
from shared.events import PAYLOADS, VERSION, Event, EventType
from shared.problems import NotFound

ATTEMPT_SPACING = timedelta(seconds=2)

log = structlog.get_logger()


async def receive_event(sessions: Sessions, event: Event, settings: MailSettings, *, repeated: bool) -> bool:
    """Let an event take effect unless it already has; True when it is done with, handled or parked.

    `repeated` says that the event may have been tried before: a redelivery, or one found in the log. An event that
    cannot be understood is parked. Errors of the database go to the caller, and the event stays to be received again.
    """
    attempts = 0
    if repeated:
        async with transaction(sessions) as session:
            if await _is_done(session, event.id):
                return True
            counted = await _count_attempt(session, event)
        if counted is None:
            return False
        attempts = counted
    if fault := _fault(event, attempts):
        await park_event(sessions, event.id, event.type, fault, event.model_dump(mode="json"))
        return True
    async with transaction(sessions) as session:
        if not await _take(session, event):
            # Handled meanwhile, or on its way through an earlier attempt: the log brings it again if that fails.
            return False
        await handle_event(session, event, settings)
    log.info("event handled", **event.ids)
    return True


async def park_event(
    sessions: Sessions, event_id: UUID, event_type: str, reason: str, event: dict[str, Any] | None
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


async def retry_parked(session: AsyncSession, event_id: UUID, settings: MailSettings) -> None:
    """Let a parked event take effect after all; whatever fails leaves it parked.

    Raises `NotFound`, or `NotRetriable` when nothing of it was kept, or it still cannot be understood.
    """
    entry = await session.get(InboxEntry, event_id, with_for_update=True)
    if entry is None or entry.parked_at is None:
        raise NotFound("There is no such parked event.")
    try:
        event = Event.model_validate(entry.event)
    except ValidationError:
        raise NotRetriable("Nothing of it was kept that could be retried.") from None
    if fault := _fault(event, 0):
        raise NotRetriable(f"It still cannot be handled: {fault}.")
    await handle_event(session, event, settings)
    entry.handled_at, entry.parked_at, entry.reason, entry.event = func.clock_timestamp(), None, None, None


async def find_missing(session: AsyncSession, events: list[Event]) -> list[Event]:
    """Return those of the events that are neither handled nor parked, in order."""
    done = set(
        await session.scalars(
            select(InboxEntry.event_id).where(
                InboxEntry.event_id.in_([event.id for event in events]),
                InboxEntry.handled_at.is_not(None) | InboxEntry.parked_at.is_not(None),
            )
        )
    )
    return [event for event in events if event.id not in done]


def _fault(event: Event, attempts: int) -> str | None:
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


async def _is_done(session: AsyncSession, event_id: UUID) -> bool:
    done = InboxEntry.handled_at.is_not(None) | InboxEntry.parked_at.is_not(None)
    return await session.scalar(select(InboxEntry.event_id).where(InboxEntry.event_id == event_id, done)) is not None


async def _count_attempt(session: AsyncSession, event: Event) -> int | None:
    """Note one more attempt; None when the last one may still be under way: deliveries side by side are one attempt."""
    now = func.clock_timestamp()
    rested = InboxEntry.attempted_at.is_(None) | (InboxEntry.attempted_at < now - ATTEMPT_SPACING)
    attempts: int | None = await session.scalar(
        insert(InboxEntry)
        .values(event_id=event.id, type=event.type, attempts=1, attempted_at=now)
        .on_conflict_do_update(
            index_elements=[InboxEntry.event_id],
            set_={"attempts": InboxEntry.attempts + 1, "attempted_at": now},
            where=InboxEntry.handled_at.is_(None) & InboxEntry.parked_at.is_(None) & rested,
        )
        .returning(InboxEntry.attempts)
    )
    return attempts


async def _take(session: AsyncSession, event: Event) -> bool:
    """Mark the event as handled, in the transaction that handles it; False when somebody else has it."""
    inserted = await session.scalar(
        insert(InboxEntry)
        .values(event_id=event.id, type=event.type, handled_at=func.clock_timestamp())
        .on_conflict_do_nothing()
        .returning(InboxEntry.event_id)
    )
    if inserted is not None:
        return True
    taken = await session.scalar(
        update(InboxEntry)
        .where(InboxEntry.event_id == event.id, InboxEntry.handled_at.is_(None), InboxEntry.parked_at.is_(None))
        .values(handled_at=func.clock_timestamp())
        .returning(InboxEntry.event_id)
    )
    return taken is not None
