"""Read the event log: for the feed, for live streams, for operators."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Float, exists, func, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import EventsPurged
from services.conversations.event_log.position import encode_position
from services.conversations.models import FeedHead, LoggedEvent
from shared.events import Event, Feed


async def read_feed(session: AsyncSession, *, after: int, limit: int, min_age: float = 0) -> Feed:
    """Return the events behind position `after` in order. Raises `EventsPurged` when the next one is kept no longer.

    Stops at the first one that was numbered less than `min_age` seconds ago (by the database's clock): to skip it
    would lose it for a reader that remembers only a position.
    """
    rows = (await session.execute(_READ, {"after": after, "limit": limit, "min_age": min_age})).mappings().all()
    head = (await session.execute(select(FeedHead.epoch, FeedHead.head))).one()  # read last, it is never behind them
    first = rows[0]["position"] if rows else None
    if first is None and after < head.head:  # all is purged, or something was numbered between the two statements
        first = await session.scalar(select(func.min(LoggedEvent.position)).where(LoggedEvent.position > after))
    if after < head.head and first != after + 1:  # positions have no holes
        raise EventsPurged(f"The log does not reach back to position {after + 1} any more.")
    return Feed(epoch=head.epoch, head=head.head, items=_ripe(rows, head.epoch))


async def read_position(session: AsyncSession) -> str:
    """Return the log's present end, as `encode_position` names it."""
    return encode_position(*await read_head(session))


async def read_head(session: AsyncSession) -> tuple[UUID, int]:
    """Return the log's epoch and the last position in it."""
    epoch, head = (await session.execute(select(FeedHead.epoch, FeedHead.head))).one()
    return epoch, head


@dataclass(frozen=True, slots=True)
class Entry:
    """An event of the log as a live stream needs it; `user_id` is the customer, or the person, whom it concerns."""

    position: int
    type: str
    user_id: str | None
    conversation_id: UUID | None
    payload: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class LogPage:
    """What comes behind a position, up to `end`; with `lost` the log does not reach back to it, or is another one."""

    epoch: UUID
    end: int
    lost: bool
    entries: Sequence[Entry]


async def read_page(
    session: AsyncSession, epoch: UUID, after: int, *, limit: int, user_id: str | None = None
) -> LogPage:
    """Read on behind a position, in order; with `user_id`, only what concerns that person. One statement."""
    entries = select(*(getattr(LoggedEvent, name) for name in Entry.__dataclass_fields__))
    if user_id is not None:
        entries = entries.where(LoggedEvent.user_id == user_id)
    page = entries.where(LoggedEvent.position > after).order_by(LoggedEvent.position).limit(limit).lateral("page")
    follows = exists().where(LoggedEvent.position == after + 1)  # positions have no holes
    query = select(FeedHead.epoch, FeedHead.head, follows, page).outerjoin(page, true()).order_by(page.c.position)
    rows = [tuple(row) for row in await session.execute(query)]
    present, head, reaches = rows[0][:3]
    found = [Entry(*row[3:]) for row in rows if row[3] is not None]
    lost = present != epoch or after > head or (after < head and not reaches)
    end = found[-1].position if len(found) == limit and not lost else head
    return LogPage(present, end, lost, () if lost else found)


async def read_pages(
    session: AsyncSession, readers: Sequence[tuple[UUID, int, str | None]], *, limit: int
) -> list[LogPage]:
    """Do the same for many readers together, each behind an epoch and a position of its own, with a person or None.

    Two statements. `limit` is for each person, and once for all those who read everything.
    """
    afters, people = [after for _, after, _ in readers], [user_id for _, _, user_id in readers]
    rows = (await session.execute(_READ_EACH, {"afters": afters, "people": people, "limit": limit})).all()
    found: dict[int, list[Entry]] = defaultdict(list)
    for row in rows:
        if row.position is not None:
            found[row.turn - 1].append(Entry(*row[4:]))
    reaches = {row.turn - 1: row.reaches for row in rows}
    present, head = rows[0].epoch, rows[0].head
    stretches = []
    for turn, (epoch, after, _) in enumerate(readers):
        lost = epoch != present or after > head or (after < head and not reaches[turn])
        end = found[turn][-1].position if len(found[turn]) == limit and not lost else head
        stretches.append(LogPage(present, end, lost, () if lost else found[turn]))
    of_all = [turn for turn, stretch in enumerate(stretches) if people[turn] is None and not stretch.lost]
    if of_all:
        everything = await read_page(session, present, min(afters[turn] for turn in of_all), limit=limit)
        for turn in of_all:
            stretches[turn] = _rest_of(everything, afters[turn])
    return stretches


def _rest_of(stretch: LogPage, after: int) -> LogPage:
    """Return what of a stretch lies behind a position, which may lie behind all of it."""
    entries = [entry for entry in stretch.entries if entry.position > after]
    return LogPage(stretch.epoch, max(stretch.end, after), stretch.lost, entries)


async def lag_after(session: AsyncSession, position: int) -> float:
    """Return how many seconds ago the first event behind a position was numbered; 0 when there is none."""
    age = func.extract("epoch", func.clock_timestamp() - LoggedEvent.numbered_at).cast(Float)
    behind = select(age).where(LoggedEvent.position > position).order_by(LoggedEvent.position).limit(1)
    return await session.scalar(behind) or 0.0


async def read_newest(session: AsyncSession, limit: int) -> Sequence[LoggedEvent]:
    """Return the newest events of the log, newest first."""
    return (await session.scalars(select(LoggedEvent).order_by(LoggedEvent.id.desc()).limit(limit))).all()


_READ_EACH = text("""
    select reader.turn, feed.epoch, feed.head, exists(select from events where position = reader.after + 1) as reaches,
        page.*
    from feed
    cross join unnest(cast(:afters as bigint[]), cast(:people as text[]))
        with ordinality as reader (after, person, turn)
    left join lateral (
        select position, type, user_id, conversation_id, payload from events
        where user_id = reader.person and position > reader.after order by position limit :limit
    ) as page on true
    order by reader.turn, page.position
""")

_READ = text("""
    select id, type, version, position, occurred_at, payload,
        numbered_at <= clock_timestamp() - make_interval(secs => :min_age) as ripe
    from events where position > :after order by position limit :limit
""")


def _ripe(rows: Sequence[Any], epoch: UUID) -> list[Event]:
    items = []
    for row in rows:
        if not row["ripe"]:
            break
        items.append(Event.model_validate({**row, "epoch": epoch}))
    return items
