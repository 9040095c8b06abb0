"""Read the event log for the feed, live streams and operators."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.payloads import READ_PAYLOAD
from services.conversations.models import LoggedEvent
from shared.database.engine import Driver
from shared.event_log.reading import read_after
from shared.events import Event, Feed

LATE = 60.0  # seconds that an event waits for a reader, after which the reader is late


async def read_feed(session: AsyncSession, *, after: int, limit: int, min_age: float = 0) -> Feed:
    """Return the events after position `after`, in order. Raises `EventsPurged` if the next one has been purged.

    Stops at the first event that was numbered less than `min_age` seconds ago (by the database's clock): a reader that
    remembers only a position would never see an event that was skipped.
    """
    page = await read_after(session, _READ, after, limit=limit, min_age=min_age)
    return Feed(epoch=page.epoch, head=page.head, items=_ripe(page.rows, page.epoch))


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as live streams need it; `user_id` is the customer or user that it is about.

    `audience` is set if only that side may see it.
    """

    position: int
    type: str
    user_id: str | None
    conversation_id: UUID | None
    payload: dict[str, Any] | None
    audience: str | None


@dataclass(frozen=True, slots=True)
class LogPage:
    """The events after a position, up to `end`. `lost`: the next one was purged, or the log has another epoch."""

    epoch: UUID
    end: int
    lost: bool
    entries: Sequence[Entry]


async def read_page(connection: Driver, epoch: UUID, after: int, *, limit: int, user_id: str | None = None) -> LogPage:
    """Read the events after a position, in order. One statement.

    With `user_id`, only those about that user which customers may see.
    """
    rows = await connection.fetch(_READ_PAGE, after, user_id, limit)
    current_epoch, head, reaches = rows[0][:3]
    events = [Entry(*row[3:]) for row in rows if row[3] is not None]
    lost = current_epoch != epoch or after > head or (after < head and not reaches)
    end = events[-1].position if len(events) == limit and not lost else head
    return LogPage(current_epoch, end, lost, () if lost else events)


async def read_pages(
    connection: Driver, readers: Sequence[tuple[UUID, int, str | None]], *, limit: int
) -> list[LogPage]:
    """Read a page for each of many readers, given by epoch, position and user id (None reads all). Two statements.

    `limit` applies to each reader with a user id, and once to all the others together.
    """
    afters, user_ids = [after for _, after, _ in readers], [user_id for _, _, user_id in readers]
    rows = await connection.fetch(_READ_EACH, afters, user_ids, limit)
    events: dict[int, list[Entry]] = defaultdict(list)
    for row in rows:
        if row["position"] is not None:
            events[row["turn"] - 1].append(Entry(*row[4:]))
    reaches = {row["turn"] - 1: row["reaches"] for row in rows}
    current_epoch, head = rows[0]["epoch"], rows[0]["head"]
    pages = []
    for index, (epoch, after, _) in enumerate(readers):
        lost = epoch != current_epoch or after > head or (after < head and not reaches[index])
        end = events[index][-1].position if len(events[index]) == limit and not lost else head
        pages.append(LogPage(current_epoch, end, lost, () if lost else events[index]))
    of_all = [index for index, page in enumerate(pages) if user_ids[index] is None and not page.lost]
    if of_all:
        common_page = await read_page(connection, current_epoch, min(afters[index] for index in of_all), limit=limit)
        for index in of_all:
            pages[index] = _page_after(common_page, afters[index])
    return pages


def _page_after(page: LogPage, after: int) -> LogPage:
    """Return the part of a page after a position, which may be past its end."""
    entries = [entry for entry in page.entries if entry.position > after]
    return LogPage(page.epoch, max(page.end, after), page.lost, entries)


async def read_newest(session: AsyncSession, limit: int) -> Sequence[LoggedEvent]:
    """Return the newest events of the log, newest first."""
    return (await session.scalars(select(LoggedEvent).order_by(LoggedEvent.id.desc()).limit(limit))).all()


# The next position is there unless it was purged: positions have no gaps.
_READ_PAGE = f"""
    select feed.epoch, feed.head, exists(select from events where position = $1::bigint + 1) as reaches, page.*
    from feed left join lateral (
        select position, type, user_id, conversation_id, {READ_PAYLOAD} as payload, audience from events
        where position > $1 and ($2::text is null or user_id = $2 and audience is null) order by position limit $3
    ) as page on true
    order by page.position
"""  # noqa: S608 - built from constants

_READ_EACH = f"""
    select reader.turn, feed.epoch, feed.head, exists(select from events where position = reader.after + 1) as reaches,
        page.*
    from feed
    cross join unnest($1::bigint[], $2::text[]) with ordinality as reader (after, person, turn)
    left join lateral (
        select position, type, user_id, conversation_id, {READ_PAYLOAD} as payload, audience from events
        where user_id = reader.person and audience is null and position > reader.after order by position limit $3
    ) as page on true
    order by reader.turn, page.position
"""  # noqa: S608 - built from constants

_READ = text(f"""
    select id, type, version, position, occurred_at, {READ_PAYLOAD} as payload,
        numbered_at <= clock_timestamp() - make_interval(secs => :min_age) as ripe
    from events where position > :after order by position limit :limit
""")  # noqa: S608 - built from constants


def _ripe(rows: Sequence[Any], epoch: UUID) -> list[Event]:
    events = []
    for row in rows:
        if not row["ripe"]:
            break
        events.append(Event.model_validate({**row, "epoch": epoch}))
    return events
