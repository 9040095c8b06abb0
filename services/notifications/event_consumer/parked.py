"""Parked events (dead letters): those that failed too often and wait for an operator."""

from collections.abc import Sequence
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.errors import NotRetriable
from services.notifications.event_consumer.consumer import fault_of, in_current_epoch
from services.notifications.event_consumer.handlers import handle_events
from services.notifications.models import InboxEntry
from services.notifications.settings import EmailSettings
from shared.events import Event
from shared.problems import NotFound


async def list_parked(session: AsyncSession, limit: int = 100) -> Sequence[InboxEntry]:
    """Return the events that were given up on, newest first."""
    parked = select(InboxEntry).where(InboxEntry.parked_at.is_not(None)).order_by(InboxEntry.parked_at.desc())
    return (await session.scalars(parked.limit(limit))).all()


async def retry_parked(session: AsyncSession, event_id: UUID, settings: EmailSettings) -> None:
    """Let a parked event take effect after all; whatever fails leaves it parked.

    One of a log that was lost with a restore has none: the present state was read instead. Raises `NotFound`, or
    `NotRetriable` when nothing of it was kept, or it still cannot be understood.
    """
    entry = await _get_parked(session, event_id)
    try:
        event = Event.model_validate(entry.event)
    except ValidationError:
        raise NotRetriable("Nothing of it was kept that could be retried.") from None
    if fault := fault_of(event, 0):
        raise NotRetriable(f"It still cannot be handled: {fault}.")
    await handle_events(session, await in_current_epoch(session, [event]), settings)
    _settle(entry)


async def discard_parked(session: AsyncSession, event_id: UUID) -> None:
    """Have done with a parked event that is to have no effect. Raises `NotFound`."""
    _settle(await _get_parked(session, event_id))


async def _get_parked(session: AsyncSession, event_id: UUID) -> InboxEntry:
    entry = await session.get(InboxEntry, event_id, with_for_update=True)
    if entry is None or entry.parked_at is None:
        raise NotFound("There is no such parked event.")
    return entry


def _settle(entry: InboxEntry) -> None:
    entry.handled_at, entry.parked_at, entry.reason, entry.event = func.clock_timestamp(), None, None, None
