"""Follow the notifications service's log with a cursor in this service's database.

Rows and cursor are written in one transaction, so each event takes effect once. If the place in the log is lost,
because events were purged or the other database was restored, all emails are listed instead, page by page. The same is
done at the start, and after an upgrade that knows more types of events.
"""

from datetime import timedelta
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import httpx2
import structlog
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.emails.feed_client import list_emails, list_held, list_stops, read_end, read_log
from services.conversations.emails.held import forget_held, write_held
from services.conversations.emails.notified import log_notified
from services.conversations.emails.status import write_statuses
from services.conversations.emails.stops import forget_stops, write_stops
from services.conversations.messaging.entries import keep_conversations
from services.conversations.models import NotificationsCursor
from services.conversations.webhooks.notification_events import add_failed_emails, add_new_messages, add_notifications
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from shared.notifications_feed import (
    EmailStatus,
    EmailStop,
    InboundStatus,
    LoggedType,
    LogPage,
    NewMessageCreated,
    NotificationCreated,
)
from shared.process.failpoints import failpoint

TYPES: Final = tuple(LoggedType)
# If a release adds one of these, the state of all is listed once. Customers' notifications are no state.
_LISTED_TYPES: Final = {*TYPES} - {LoggedType.NEW_MESSAGE_CREATED}
CAUGHT_UP_EVERY = timedelta(seconds=30)  # between updates of the cursor while there are no new events
_START: Final = UUID(int=0)

Payload = TypeVar("Payload", bound=BaseModel)

log = structlog.get_logger()


class Round(NamedTuple):
    """How many entries have changed, and whether there may be more to read."""

    changed: int
    more: bool


async def follow_round(sessions: SessionFactory, feed: httpx2.AsyncClient) -> Round:
    """Read the next page of the log, or of the list of emails, and write the status of its emails."""
    async with transaction(sessions) as session:
        seen, is_old = (await session.execute(_CURSOR)).one()
    if seen.list_after is not None:
        return await _list_page(sessions, feed, seen, seen.list_after)
    page = await read_log(feed, seen.position, TYPES)
    failpoint("statuses-read")
    reason = _loss_reason(seen, page)
    if page is None or reason is not None:
        await _begin_listing(sessions, seen, await read_end(feed, TYPES), reason or "")
        return Round(0, more=True)
    if page.end == seen.position and not is_old:
        return Round(0, more=False)  # nothing new: nothing is written
    return Round(await _apply(sessions, seen, page), more=page.end < page.head)


def _loss_reason(cursor: NotificationsCursor, page: LogPage | None) -> str | None:
    """Return why the log cannot be read on from the cursor, or None."""
    if cursor.epoch is None:
        return "the log was never read"
    if page is None:
        return "events after the cursor were purged"
    if page.epoch != cursor.epoch or page.head < cursor.position:
        return "the log was restored from a backup or moved to another database"
    if set(cursor.types) != _LISTED_TYPES:
        return "this release reads other types of events"
    return None


async def _apply(sessions: SessionFactory, seen: NotificationsCursor, page: LogPage) -> int:
    statuses = _payloads(page, LoggedType.EMAIL_UPDATED, EmailStatus)
    inbound = _payloads(page, LoggedType.INBOUND_UPDATED, InboundStatus)
    posted = _payloads(page, LoggedType.NEW_MESSAGE_CREATED, NewMessageCreated)
    notified = _payloads(page, LoggedType.NOTIFICATION_CREATED, NotificationCreated)
    async with transaction(sessions) as session:
        cursor = await _lock(session)
        if not _is_same(cursor, seen):
            return 0  # another process has read this page
        # Webhooks first: their lock comes before those of conversations.
        await add_failed_emails(session, statuses)
        await add_notifications(session, notified)
        await add_new_messages(session, posted)
        stops = _stops(page)
        ids = {email.conversation_id for email in statuses} | {email.conversation_id for email in inbound}
        ids |= {stop.conversation_id for _, stop in stops if stop is not None and stop.conversation_id is not None}
        await keep_conversations(await transaction_driver(session), ids)
        changed = await write_statuses(session, statuses, live=True)
        await write_held(session, inbound, live=True)
        await write_stops(session, stops)
        await log_notified(session, notified)
        cursor.position = page.end
        if page.end == page.head:
            cursor.caught_up_at = func.clock_timestamp()
        await session.flush()
        failpoint("statuses-written")
    failpoint("statuses-committed")
    return changed


def _payloads(page: LogPage, type_: LoggedType, model: type[Payload]) -> list[Payload]:
    """Return the payloads of a page's events of a type, except of those whose row is gone."""
    return [
        model.model_validate(event.payload) for event in page.items if event.type == type_ and event.payload is not None
    ]


def _stops(page: LogPage) -> list[tuple[UUID, EmailStop | None]]:
    """Return which reasons for no emails have changed, None for those that are over."""
    return [
        (event.subject_id, EmailStop.model_validate(event.payload) if event.payload else None)
        for event in page.items
        if event.type == LoggedType.STOP_UPDATED and event.subject_id is not None
    ]


async def _begin_listing(sessions: SessionFactory, lost: NotificationsCursor, end: LogPage, reason: str) -> None:
    """Move the cursor to the end of the log, and begin to list all emails: later changes follow in the log."""
    async with transaction(sessions) as session:
        cursor = await _lock(session)
        if not _is_same(cursor, lost):
            return
        log.warning("listing all emails", reason=reason, position=lost.position)
        cursor.position, cursor.epoch, cursor.types = end.head, end.epoch, sorted(_LISTED_TYPES)
        cursor.list_after, cursor.list_reason = _START, reason


async def _list_page(
    sessions: SessionFactory, feed: httpx2.AsyncClient, seen: NotificationsCursor, after: UUID
) -> Round:
    page = await list_emails(feed, after)
    is_first = after == _START
    held, stops = (await list_held(feed), await list_stops(feed)) if is_first else ([], [])
    async with transaction(sessions) as session:
        cursor = await _lock(session)
        if not _is_same(cursor, seen):
            return Round(0, more=True)
        # Pages that are open do not learn of these one by one: there may be very many, and most are old.
        await add_failed_emails(session, page.items)
        changed = await write_statuses(session, page.items, live=False)
        if is_first:
            await forget_held(session)
            await write_held(session, held, live=False)
            await forget_stops(session)
            await write_stops(session, [(stop.stop_id, stop) for stop in stops])
        cursor.list_after = page.last
        await session.flush()
        failpoint("statuses-listed")
    return Round(changed, more=True)


def _is_same(cursor: NotificationsCursor, other: NotificationsCursor) -> bool:
    mine, theirs = ((each.position, each.epoch, each.list_after) for each in (cursor, other))
    return mine == theirs


async def _lock(session: AsyncSession) -> NotificationsCursor:
    return await session.get_one(NotificationsCursor, True, with_for_update=True, populate_existing=True)


# With the cursor, whether its time of having caught up is due for an update.
_IS_OLD: Final = NotificationsCursor.caught_up_at < func.clock_timestamp() - CAUGHT_UP_EVERY
_CURSOR: Final = select(NotificationsCursor, _IS_OLD)
