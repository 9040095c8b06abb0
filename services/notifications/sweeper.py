"""The sweeper: all the work of this service, done without the broker, only slower.

It reads the log over HTTP from its own cursor and handles what the inbox lacks, and it sends the mail that nobody
has claimed in time. It never asks whether the broker is alive.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import structlog
from pydantic import ValidationError
from sqlalchemy import func

from services.notifications.delivery.circuit_breaker import read_sending_state
from services.notifications.delivery.erasure import erase_round
from services.notifications.delivery.sender import drain
from services.notifications.event_consumer.consumer import receive_missing
from services.notifications.event_consumer.feed_client import create_feed, read_end, read_events
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
from services.notifications.retention import purge_attempts, purge_inbox
from services.notifications.settings import EmailSettings, SweeperSettings
from shared.database import SessionFactory, create_engine, create_sessions, transaction
from shared.events import PAYLOADS, EventType, Feed
from shared.failpoints import failpoint
from shared.processes import operations_routes, operations_server, pause, run_until_stopped
from shared.readiness import database_fault, newest_version, wait_for_database
from shared.translations import read_catalogues

EVENT_AGE = 2.0  # seconds an event is left to the workers
EMAIL_AGE = 5.0  # seconds a due mail is left to the workers
POLL = 0.5  # seconds between looks
PAGE = 500  # events read at once
CAUGHT_UP_EVERY = timedelta(seconds=30)  # between notes that a quiet log was read to its end
ERASE_EVERY = 1.0  # seconds between looks for what is to be erased, when there was nothing
PURGE_EVERY = 60  # seconds between looks for what is beyond the retention
PURGE_BATCH = 1000  # rows deleted in one transaction

IGNORED = frozenset(set(EventType) - set(PAYLOADS))
"""Known events that this service has no use for."""

log = structlog.get_logger()


async def run_sweeper(settings: SweeperSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Catch up and send until `stop`."""
    read_catalogues(LOCALE)  # a broken one shows here, not with the first mail in its language
    engine = create_engine(settings.notifications_database_url, application="chats-sweeper")
    sessions, version = create_sessions(engine), newest_version(Path(__file__).parent)
    routes = operations_routes(lambda: database_fault(engine, version), lambda: collect(sessions))
    feed = create_feed(settings.conversations_url, settings.feed_secret.get_secret_value())
    async with operations_server(routes, host, port), feed:
        await run_until_stopped(stop, wait_for_database(engine, version))
        async with asyncio.TaskGroup() as group:
            group.create_task(_catch_up_for_ever(sessions, feed, settings, stop))
            group.create_task(_send_for_ever(sessions, settings, stop))
            group.create_task(_erase_for_ever(sessions, stop))
            group.create_task(_purge_for_ever(sessions, settings, stop))
    await engine.dispose()


async def catch_up(
    sessions: SessionFactory, feed: httpx2.AsyncClient, settings: EmailSettings, *, min_age: float = EVENT_AGE
) -> bool:
    """Handle the next page of the log behind the cursor; True when there may be more at once.

    The cursor moves over what is handled or parked, and never back; an event that fails stops it until the next look.
    When the cursor is no place in this log any more, the other service's present state is read instead.
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
    done = await receive_missing(sessions, [event for event in page.items if event.type not in IGNORED], settings)
    failpoint("page-handled")
    if done and _is_news(cursor, page):
        await _move_cursor(sessions, cursor, page)
        failpoint("cursor-committed")
    if done and not state.is_confirmed:
        await release_restore_hold(sessions, state.database_identity, cursor)
    return await rebuild_page(sessions, feed, settings) or (done and len(page.items) == PAGE)


def _is_news(cursor: FeedCursor, page: Feed) -> bool:
    """Tell whether a page says more than is known: a quiet log is not written down each time it is looked at."""
    if page.items or page.head != cursor.head or cursor.caught_up_at is None:
        return True
    return datetime.now(UTC) - cursor.caught_up_at > CAUGHT_UP_EVERY


async def _move_cursor(sessions: SessionFactory, seen: FeedCursor, page: Feed) -> None:
    """Move over a page that is done with, unless another sweeper is further already.

    Nor if it is another database by now, which knows less than the one that the page was read for.
    """
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
    while not stop.is_set():
        more = False
        try:
            more = await catch_up(sessions, feed, settings)
        except (httpx2.HTTPError, ValidationError) as error:
            status = error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None
            # Without the error's own words: they quote what was read.
            log.warning("the event feed cannot be read, trying again", error=type(error).__name__, status=status)
            await pause(stop, 2)
        except Exception as error:  # it must not end the sender beside it, which may be behind a dot
            log.warning("not caught up, trying again", error=type(error).__name__)
            log.debug("not caught up", exc_info=True)
            await pause(stop, 1)
        if not more:
            await pause(stop, POLL)


async def _send_for_ever(sessions: SessionFactory, settings: EmailSettings, stop: asyncio.Event) -> None:
    capacity = ServerCapacity()
    while not stop.is_set():
        try:
            await drain(sessions, settings, stop, overdue=EMAIL_AGE, capacity=capacity)
        except Exception as error:  # the same the other way round
            log.warning("mail not drained, trying again", error=type(error).__name__)
            log.debug("mail not drained", exc_info=True)
        await pause(stop, POLL)


async def _erase_for_ever(sessions: SessionFactory, stop: asyncio.Event) -> None:
    """Erase what was deleted, batch by batch. Every sweeper does: a batch locks its erasure, and others go past it."""
    while not stop.is_set():
        rows = 0
        try:
            rows = await erase_round(sessions)
        except Exception as error:  # the same
            log.warning("nothing erased, trying again", error=type(error).__name__)
            log.debug("nothing erased", exc_info=True)
        if not rows:
            await pause(stop, ERASE_EVERY)


async def _purge_for_ever(sessions: SessionFactory, settings: EmailSettings, stop: asyncio.Event) -> None:
    """Delete what is beyond the retention, a batch a transaction, so that nobody waits long for it."""
    while not stop.is_set():
        try:
            for purge in (purge_inbox, purge_attempts):
                deleted = PURGE_BATCH
                while deleted == PURGE_BATCH and not stop.is_set():
                    async with transaction(sessions) as session:
                        deleted = await purge(session, settings, size=PURGE_BATCH)
        except Exception as error:  # the same
            log.warning("nothing purged, trying again", error=type(error).__name__)
            log.debug("nothing purged", exc_info=True)
        await pause(stop, PURGE_EVERY)
