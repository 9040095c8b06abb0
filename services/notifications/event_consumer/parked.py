"""Parked events (dead letters): those that failed too often and wait for an operator."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.errors import NotRetriable
from services.notifications.event_consumer.consumer import (
    UNKNOWN_TASK,
    UNKNOWN_TYPE,
    in_current_epoch,
    permanent_fault,
)
from services.notifications.event_consumer.handlers import handle_events
from services.notifications.models import InboxEntry
from services.notifications.settings import EmailSettings
from shared.database.errors import is_outage
from shared.database.transactions import SessionFactory, transaction
from shared.events import PAYLOADS, Event, EventType
from shared.problems import NotFound

RETRY_REQUESTED: Final = "an operator has asked to try again"

log = structlog.get_logger()


async def list_parked(session: AsyncSession, limit: int = 100) -> Sequence[InboxEntry]:
    """Return parked events, newest first."""
    query = (
        select(InboxEntry)
        .where(InboxEntry.parked_at.is_not(None))
        .order_by(InboxEntry.parked_at.desc(), InboxEntry.event_id)
    )
    return (await session.scalars(query.limit(limit))).all()


async def retry_parked(session: AsyncSession, event_id: UUID, settings: EmailSettings) -> None:
    """Handle a parked event; after an error it stays parked.

    An event of an earlier epoch has no effect: the rebuild from a snapshot has replaced it. Raises `NotFound`, or
    `NotRetriable` if its content was erased or is still invalid.
    """
    entry = await _get_parked(session, event_id)
    try:
        event = Event.model_validate(entry.event)
    except ValidationError:
        raise NotRetriable("This event's content is no longer available.") from None
    if fault := permanent_fault(event, 0):
        raise NotRetriable(f"This event still cannot be handled: {fault}.")
    if await in_current_epoch(session, event):
        await handle_events(session, [event], settings)
    _mark_handled(entry)


async def request_retry(session: AsyncSession, event_id: UUID) -> None:
    """Leave it to the sweeper to handle a parked event, for a process that cannot. Raises `NotFound`."""
    (await _get_parked(session, event_id)).reason = RETRY_REQUESTED


async def retry_requested(sessions: SessionFactory, settings: EmailSettings) -> None:
    """Handle the events of `request_retry`. One that fails stays parked, with its error."""
    requested = select(InboxEntry.event_id).where(
        InboxEntry.parked_at.is_not(None), InboxEntry.reason == RETRY_REQUESTED
    )
    async with transaction(sessions) as session:
        parked = (await session.scalars(requested)).all()
    for event_id in parked:
        try:
            async with transaction(sessions) as session:
                await retry_parked(session, event_id, settings)
        except Exception as error:
            if is_outage(error):
                raise
            reason = error.detail if isinstance(error, NotRetriable) else f"failed again: {type(error).__name__}"
            await _set_reason(sessions, event_id, reason)


async def _set_reason(sessions: SessionFactory, event_id: UUID, reason: str) -> None:
    async with transaction(sessions) as session:
        with suppress(NotFound):  # discarded meanwhile
            (await _get_parked(session, event_id)).reason = reason


async def retry_unknown(sessions: SessionFactory, settings: EmailSettings) -> None:
    """Handle the events that an earlier release parked because it did not know their type, as far as this one does.

    Those that concern only the other service are done. An event that fails stays parked.
    """
    event_type = InboxEntry.event["type"].astext
    known = select(InboxEntry.event_id, event_type.in_(PAYLOADS)).where(
        InboxEntry.parked_at.is_not(None),
        InboxEntry.reason.in_([UNKNOWN_TYPE, UNKNOWN_TASK]),
        event_type.in_(EventType),
    )
    async with transaction(sessions) as session:
        parked = (await session.execute(known)).all()
    for event_id, is_handled_here in parked:
        try:
            async with transaction(sessions) as session:
                if is_handled_here:
                    await retry_parked(session, event_id, settings)
                else:
                    await discard_parked(session, event_id)
        except Exception as error:
            if is_outage(error):
                raise
            log.warning("parked event not handled", event_id=str(event_id), error=type(error).__name__)


async def discard_parked(session: AsyncSession, event_id: UUID) -> None:
    """Discard a parked event without handling it. Raises `NotFound`."""
    _mark_handled(await _get_parked(session, event_id))


async def _get_parked(session: AsyncSession, event_id: UUID) -> InboxEntry:
    entry = await session.get(InboxEntry, event_id, with_for_update=True)
    if entry is None or entry.parked_at is None:
        raise NotFound("There is no parked event with this id.")
    return entry


def _mark_handled(entry: InboxEntry) -> None:
    entry.handled_at, entry.parked_at, entry.reason, entry.event = func.clock_timestamp(), None, None, None
