"""Read the event log into rows of deliveries, with a cursor of its own.

The log is never held for webhooks: a row is written as soon as an event is read, and what is delivered later waits in
rows. While no webhook is enabled, nothing is read and nothing is written.
"""

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID, uuid5

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.payloads import READ_MESSAGE_ID
from services.conversations.rules import WebhookType
from services.conversations.webhooks.outbox import IS_ENABLED, Happened, Lane, add_deliveries
from shared.database.transactions import ConnectionProvider, SessionFactory, transaction, transaction_driver
from shared.events import EventType
from shared.process.failpoints import failpoint

MAX_EVENTS: Final = 500  # read in one transaction
LATE: Final = 60.0  # seconds that an event waits for its rows, after which webhooks are late

log = structlog.get_logger()


async def read_round(sessions: SessionFactory, acquire: ConnectionProvider, holder: UUID) -> bool:
    """Read the next events of the log; return whether there may be more. Only the process that holds the lease does."""
    async with acquire() as driver:
        if not await driver.fetchval(_HAS_NEWS):
            return False
    async with transaction(sessions) as session:
        driver = await transaction_driver(session)
        progress = await driver.fetchrow(_LOCK, holder)
        if progress is None:
            return False
        start = max(progress["position"], progress["after"])
        events = await driver.fetch(_EVENTS, start, MAX_EVENTS)
        if events and events[0]["position"] != start + 1:
            log.error("events were purged before webhooks were told of them", first=start + 1)
        await add_deliveries(session, [happened for event in events for happened in _happened(event)])
        await driver.execute(_MOVE, events[-1]["position"] if events else start)
        failpoint("webhooks-read")
    failpoint("webhooks-logged")
    return len(events) == MAX_EVENTS


async def read_lag(session: AsyncSession) -> float:
    """Return the age in seconds of the oldest event that is not read; 0 while no webhook is enabled."""
    return float(await (await transaction_driver(session)).fetchval(_LAG))


def _happened(event: Any) -> Iterator[Happened]:
    """Return what webhooks may be told of an event, in order."""
    first = Happened(
        event["id"],
        WebhookType.CONVERSATION_DELETED,
        event["occurred_at"],
        Lane.CONVERSATION,
        event["conversation_id"],
        position=event["position"],
    )
    match event["type"]:
        case EventType.CONVERSATION_DELETED:
            yield first
        case EventType.CONVERSATION_CREATED:
            yield first._replace(type=WebhookType.CONVERSATION_CREATED)
        case EventType.MESSAGE_POSTED if event["message_id"] is not None:
            yield first._replace(type=WebhookType.MESSAGE_POSTED, message_id=event["message_id"])
    if event["status"] is not None:
        # With a message, it is a second event of the same row of the log.
        is_second = event["type"] == EventType.MESSAGE_POSTED
        yield first._replace(
            event_id=uuid5(event["id"], "status") if is_second else event["id"],
            type=WebhookType.CONVERSATION_STATUS_CHANGED,
            data={"from": event["status_before"], "to": event["status"]},
        )


_AFTER: Final = f"(select min(after_position) from webhooks where {IS_ENABLED})"  # noqa: S608 - a constant
_HAS_NEWS: Final = f"""
    select {_AFTER} is not null and (greatest(progress.position, {_AFTER}) < feed.head or progress.position < {_AFTER})
    from webhook_progress as progress cross join feed
"""  # noqa: S608 - built from constants
_LOCK: Final = f"""
    select position, coalesce({_AFTER}, 0) as after from webhook_progress where holder = $1 for update
"""  # noqa: S608 - built from constants
_EVENTS: Final = f"""
    select position, id, type, occurred_at, conversation_id, {READ_MESSAGE_ID} as message_id,
        payload ->> 'status' as status, payload ->> 'status_before' as status_before
    from events where position > $1 order by position limit $2
"""  # noqa: S608 - built from constants
_MOVE: Final = "update webhook_progress set position = $1"
_LAG: Final = f"""
    select coalesce((
        select extract(epoch from clock_timestamp() - numbered_at)::float8 from events
        where position > greatest(progress.position, {_AFTER}) and {_AFTER} is not null order by position limit 1
    ), 0)
    from webhook_progress as progress
"""  # noqa: S608 - built from constants
