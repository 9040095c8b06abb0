"""The sweeper: all the work of this service, done without the broker, only slower.

It reads the log over HTTP from its own cursor and handles what the inbox lacks, and it sends the mail that nobody
has claimed in time. It never asks whether the broker is alive.
"""

import asyncio

import httpx2
import structlog
from pydantic import ValidationError

from services.notifications.inbox import receive_missing
from services.notifications.measures import measure
from services.notifications.models import FeedCursor
from services.notifications.sending import drain
from services.notifications.settings import MailSettings, SweeperSettings
from shared.database import Sessions, create_engine, create_sessions, database_fault, transaction, wait_for_database
from shared.events import PAYLOADS, EventType, Feed
from shared.processes import operations_routes, operations_server, pause

EVENT_AGE = 2.0  # seconds an event is left to the workers
MAIL_AGE = 5.0  # seconds a due mail is left to the workers
POLL = 0.5  # seconds between looks
PAGE = 500  # events read at once
FEED_TIMEOUT = 10.0  # seconds

IGNORED = frozenset(set(EventType) - set(PAYLOADS))
"""Known events that this service has no use for."""

log = structlog.get_logger()


async def run_sweeper(settings: SweeperSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Catch up and send until `stop`."""
    engine = create_engine(settings.notifications_database_url, application="chats-sweeper")
    sessions = create_sessions(engine)
    routes = operations_routes(lambda: database_fault(engine), lambda: measure(sessions))
    feed = httpx2.AsyncClient(
        base_url=settings.conversations_url,
        headers={"Authorization": f"Bearer {settings.feed_secret.get_secret_value()}"},
        timeout=FEED_TIMEOUT,
        trust_env=False,  # this is a neighbour, not the world behind a proxy
    )
    async with operations_server(routes, host, port), feed:
        await wait_for_database(engine)
        async with asyncio.TaskGroup() as group:
            group.create_task(_catch_up_for_ever(sessions, feed, settings, stop))
            group.create_task(_send_for_ever(sessions, settings, stop))
    await engine.dispose()


async def catch_up(
    sessions: Sessions, feed: httpx2.AsyncClient, settings: MailSettings, *, min_age: float = EVENT_AGE
) -> bool:
    """Handle the next page of the log behind the cursor; True when there may be more at once.

    The cursor moves over what is handled or parked, and never back; an event that fails stops it until the next look.
    """
    async with transaction(sessions) as session:
        cursor = await session.get_one(FeedCursor, True)
    page = await _read(feed, cursor.position, min_age)
    if _was_restored(cursor, page):
        log.error("the log was restored from a backup: reading it again from its beginning")
        await _move_cursor(sessions, 0, page)
        return True
    wanted = [event for event in page.items if event.type not in IGNORED]
    if not await receive_missing(sessions, wanted, settings):
        return False
    if page.items or page.head != cursor.head or cursor.epoch is None:
        await _move_cursor(sessions, page.items[-1].position or 0 if page.items else cursor.position, page)
    return len(page.items) == PAGE


def _was_restored(cursor: FeedCursor, page: Feed) -> bool:
    """Tell whether this is no longer the log that the cursor was moved in: a new epoch, or an end before the cursor."""
    return (cursor.epoch is not None and page.epoch != cursor.epoch) or page.head < cursor.position


async def _read(feed: httpx2.AsyncClient, after: int, min_age: float) -> Feed:
    answer = await feed.get("/internal/events", params={"after": after, "limit": PAGE, "min_age": min_age})
    answer.raise_for_status()
    return Feed.model_validate_json(answer.content)


async def _move_cursor(sessions: Sessions, position: int, page: Feed) -> None:
    async with transaction(sessions) as session:
        cursor = await session.get_one(FeedCursor, True, with_for_update=True)
        cursor.position = 0 if _was_restored(cursor, page) else max(cursor.position, position)
        cursor.head, cursor.epoch = page.head, page.epoch


async def _catch_up_for_ever(
    sessions: Sessions, feed: httpx2.AsyncClient, settings: MailSettings, stop: asyncio.Event
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


async def _send_for_ever(sessions: Sessions, settings: MailSettings, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await drain(sessions, settings, stop, overdue=MAIL_AGE)
        except Exception as error:  # the same the other way round
            log.warning("mail not drained, trying again", error=type(error).__name__)
            log.debug("mail not drained", exc_info=True)
        await pause(stop, POLL)
