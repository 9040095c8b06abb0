"""The sweeper does all the work of this service without the broker, only later.

It reads the event log over HTTP from its own cursor, handles events that are missing in the inbox, and sends emails
that no worker has claimed in time. It never checks whether the broker is available.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import structlog
from pydantic import ValidationError
from sqlalchemy import func

from services.notifications.delivery.circuit_breaker import note_smtp, read_sending_state
from services.notifications.delivery.erasure import erase_round
from services.notifications.delivery.notices import purge_notices, send_notices
from services.notifications.delivery.sender import drain
from services.notifications.event_consumer.consumer import receive_missing
from services.notifications.event_consumer.feed_client import read_end, read_events
from services.notifications.event_consumer.parked import retry_requested, retry_unknown
from services.notifications.event_consumer.rebuild import (
    begin_rebuild,
    note_restored,
    position_loss_reason,
    rebuild_page,
    release_restore_hold,
)
from services.notifications.mail.message import LOCALE
from services.notifications.mail.pool import ServerCapacity
from services.notifications.metrics import collect
from services.notifications.models import FeedCursor
from services.notifications.retention import (
    purge_admin_notifications,
    purge_attempts,
    purge_bounces,
    purge_events,
    purge_inbox,
)
from services.notifications.settings import EmailSettings, SweeperSettings
from shared.database.engine import close_engine, create_engine
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import SessionFactory, create_sessions, transaction
from shared.event_log.feed_client import create_feed
from shared.events import Feed, is_relevant
from shared.process.failpoints import failpoint
from shared.process.running import operations_routes, operations_server
from shared.process.stopping import log_errors, pause, run_until_stopped
from shared.translations import read_catalogues

EVENT_AGE = 2.0  # seconds that an event is left to the workers
EMAIL_AGE = 5.0  # seconds that a due email is left to the workers
POLL = 1.0  # seconds between polls
PAGE = 500  # events read at once
CAUGHT_UP_EVERY = timedelta(seconds=30)  # between updates of the cursor while the log has no new events
ERASE_EVERY = 1.0  # seconds between checks for erasures, if there were none
RETRY_EVERY = 5.0  # seconds between checks for parked events to retry
PURGE_EVERY = 60  # seconds between purges
PURGE_BATCH = 1000  # rows deleted in one transaction

log = structlog.get_logger()


async def run_sweeper(settings: SweeperSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Run the sweeper until `stop` is set."""
    if settings.warning:
        log.warning(settings.warning)
    read_catalogues(LOCALE)  # fail at the start, not at the first email in the language of a broken catalogue
    engine = create_engine(settings.notifications_database_url, application="chats-sweeper")
    sessions, version = create_sessions(engine), newest_version(Path(__file__).parent)
    routes = operations_routes(lambda: database_fault(engine, version), lambda: collect(sessions))
    feed = create_feed(settings.conversations_url, settings.feed_secret.get_secret_value())
    async with operations_server(routes, host, port), feed:
        await run_until_stopped(stop, wait_for_database(engine, version))
        await _note_smtp(sessions, settings)
        async with asyncio.TaskGroup() as group:
            group.create_task(_catch_up_for_ever(sessions, feed, settings, stop))
            group.create_task(_send_for_ever(sessions, settings, stop))
            group.create_task(_retry_for_ever(sessions, settings, stop))
            group.create_task(_erase_for_ever(sessions, stop))
            group.create_task(_purge_for_ever(sessions, settings, stop))
    await close_engine(engine)


async def _note_smtp(sessions: SessionFactory, settings: EmailSettings) -> None:
    """Record whether there is a mail server, so that admins know before they write."""
    try:
        async with transaction(sessions) as session:
            await note_smtp(session, settings)
    except Exception as error:  # noqa: BLE001 - a hint: it must not keep emails from being sent
        log.warning("whether there is a mail server was not recorded", error=type(error).__name__)


async def catch_up(
    sessions: SessionFactory, feed: httpx2.AsyncClient, settings: EmailSettings, *, min_age: float = EVENT_AGE
) -> bool:
    """Handle the next page of the log after the cursor; return whether there may be more.

    The cursor only moves forward, past events that are handled or parked. A failing event stops it until the next poll.
    If the cursor's position is not valid in this log any more, a rebuild from a snapshot begins.
    """
    async with transaction(sessions) as session:
        cursor = await session.get_one(FeedCursor, True)
        state = await read_sending_state(session)
    page = await read_events(feed, cursor.position, limit=PAGE, min_age=min_age)
    failpoint("page-read")
    reason = position_loss_reason(cursor, page)
    if page is None or reason is not None:
        await begin_rebuild(sessions, cursor, await read_end(feed), reason or "")
        return True
    if page.acknowledged > cursor.position:
        await note_restored(sessions, page)
    events = [event for event in page.items if is_relevant(event.type, event.payload)]
    done = not events or await receive_missing(sessions, events, settings)
    failpoint("page-handled")
    if done and _moves_cursor(cursor, page):
        await _move_cursor(sessions, cursor, page)
        failpoint("cursor-committed")
    if done and not state.is_confirmed:
        await release_restore_hold(sessions, state.database_identity, cursor)
    if cursor.rebuild_kind is not None and await rebuild_page(sessions, feed, settings):
        return True
    return done and len(page.items) == PAGE


def _moves_cursor(cursor: FeedCursor, page: Feed) -> bool:
    """Return whether to update the cursor: with new events, or after a while without any."""
    if page.items or page.head != cursor.head or cursor.caught_up_at is None:
        return True
    return datetime.now(UTC) - cursor.caught_up_at > CAUGHT_UP_EVERY


async def _move_cursor(sessions: SessionFactory, seen: FeedCursor, page: Feed) -> None:
    """Move the cursor past a handled page; never back, and not if the log or this database was restored meanwhile."""
    async with transaction(sessions) as session:
        cursor = await session.get_one(FeedCursor, True, with_for_update=True)
        if cursor.epoch not in {None, page.epoch} or cursor.position < seen.position:
            return
        last = page.items[-1].position if page.items else None
        cursor.position = max(cursor.position, last or 0)
        cursor.head, cursor.epoch = page.head, page.epoch
        if len(page.items) < PAGE:
            cursor.caught_up_at = func.clock_timestamp()


async def _catch_up_for_ever(
    sessions: SessionFactory, feed: httpx2.AsyncClient, settings: EmailSettings, stop: asyncio.Event
) -> None:
    upgraded = True  # perhaps: this process has just started
    while not stop.is_set():
        more = False
        try:
            if upgraded:
                await retry_unknown(sessions, settings)
                upgraded = False
            more = await catch_up(sessions, feed, settings)
        except (httpx2.HTTPError, ValidationError) as error:
            status = error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None
            # Without the error's text, which quotes the content.
            log.warning("event feed unavailable, retrying", error=type(error).__name__, status=status)
            await pause(stop, 2)
        except Exception as error:  # it must not cancel the sender, which may have sent a final dot
            log.warning("catching up failed, retrying", error=type(error).__name__)
            log.debug("catching up failed", exc_info=True)
            await pause(stop, 1)
        if not more:
            await pause(stop, POLL)


async def _send_for_ever(sessions: SessionFactory, settings: EmailSettings, stop: asyncio.Event) -> None:
    capacity = ServerCapacity()
    while not stop.is_set():
        with log_errors("sending failed"):
            await drain(sessions, settings, stop, overdue=EMAIL_AGE, capacity=capacity)
        await pause(stop, POLL)


async def _retry_for_ever(sessions: SessionFactory, settings: EmailSettings, stop: asyncio.Event) -> None:
    """Handle parked events that an operator has asked for, and tell senders of held emails."""
    while not stop.is_set():
        with log_errors("retrying parked events failed"):
            await retry_requested(sessions, settings)
        with log_errors("sending notices failed"):
            await send_notices(sessions, settings)
        await pause(stop, RETRY_EVERY)


async def _erase_for_ever(sessions: SessionFactory, stop: asyncio.Event) -> None:
    """Erase deleted data in batches. Sweepers share the work: each batch locks its erasure, and others skip it."""
    while not stop.is_set():
        rows = 0
        with log_errors("erasure failed"):
            rows = await erase_round(sessions)
        if not rows:
            await pause(stop, ERASE_EVERY)


async def _purge_for_ever(sessions: SessionFactory, settings: EmailSettings, stop: asyncio.Event) -> None:
    """Delete data older than the retention, one batch per transaction, so that locks are short."""
    while not stop.is_set():
        for purge in (purge_inbox, purge_attempts, purge_admin_notifications, purge_bounces, purge_events):
            with log_errors(
                f"purge failed ({purge.__name__})"
            ):  # each alone: the others must not wait for one that fails
                deleted = PURGE_BATCH
                while deleted == PURGE_BATCH and not stop.is_set():
                    async with transaction(sessions) as session:
                        deleted = await purge(session, settings, size=PURGE_BATCH)
        with log_errors("purge failed (purge_notices)"):
            await purge_notices(sessions)
        await pause(stop, PURGE_EVERY)
