"""The event log: append to it, number it, read it.

Sequence values do not appear in the order of commits, so a reader that follows them misses rows. The sequencer
gives every committed row a position instead: ascending, without holes, never changed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Float, Text, exists, func, insert, literal_column, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import EventsPurged
from services.conversations.models import FeedHead, LoggedEvent
from services.conversations.positions import encode_position
from shared.database import incarnation_of
from shared.events import Event, EventType, Feed
from shared.failpoints import failpoint
from shared.tables import among, insert_all

# Whoever locks several events locks them in the order of `seq`, here and where text is erased: no deadlock.
# A holder of the head that is frozen, not dead, would stop the log: PostgreSQL ends its transaction.
_LIMIT_HOLDER = text("set local transaction_timeout = '5s'")
_ANY_UNNUMBERED = select(exists().where(LoggedEvent.position.is_(None)))
_LOCK_HEAD = text("select head from feed for update skip locked")
# A log that lives on elsewhere may lack what its readers have read: it was restored, or a replica took over. The first
# time, there is nothing to compare with.
_SETTLE = text(f"""
    update feed set incarnation = {incarnation_of("events")},
        epoch = case when incarnation is null then epoch else gen_random_uuid() end
    where incarnation is distinct from {incarnation_of("events")}
""")  # noqa: S608 - built from constants
_NUMBER = text("""
    with batch as (
        select id, :head + row_number() over (order by seq) as position
        from (select id, seq from events where position is null order by seq limit :size for update) as unnumbered
    )
    update events set position = batch.position, numbered_at = clock_timestamp()
    from batch where events.id = batch.id
    returning events.id, events.type, events.version, events.position, events.occurred_at, events.payload,
        (select epoch from feed) as epoch
""")


async def append_event(
    session: AsyncSession,
    event_type: EventType,
    payload: BaseModel | dict[str, Any],
    *,
    user_id: str | None = None,
    conversation_id: UUID | None = None,
) -> UUID:
    """Add an event to the log, in the transaction of the change that it tells of; return its id."""
    body = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload
    event = insert(LoggedEvent).values(type=event_type, payload=body, user_id=user_id, conversation_id=conversation_id)
    return (await session.execute(event.returning(LoggedEvent.id))).scalar_one()


async def append_events(session: AsyncSession, event_type: EventType, told: Sequence[tuple[str, BaseModel]]) -> None:
    """Do the same for many, in their order, each with the person whom it concerns; one statement."""
    rows = [
        {"type": event_type, "payload": payload.model_dump(mode="json"), "user_id": user_id}
        for user_id, payload in told
    ]
    await session.execute(insert_all(LoggedEvent, rows))


async def erase_conversations(session: AsyncSession, conversation_ids: Sequence[UUID]) -> None:
    """Erase all that the log tells of these conversations; that it happened stays, and that they were deleted."""
    theirs = (
        select(LoggedEvent.id)
        .where(
            among(LoggedEvent.conversation_id, conversation_ids),
            LoggedEvent.type != EventType.CONVERSATION_DELETED,
        )
        .order_by(LoggedEvent.seq)
        .with_for_update()
        .cte()
    )
    await session.execute(update(LoggedEvent).where(LoggedEvent.id == theirs.c.id).values(payload=None))


async def has_unnumbered(session: AsyncSession) -> bool:
    """Tell whether there is something to number."""
    return bool(await session.scalar(_ANY_UNNUMBERED))


async def number_events(session: AsyncSession, *, size: int = 1000) -> list[Event]:
    """Give the next positions to committed events, oldest first; return them in order.

    Lock first, number second, in two statements: one statement's snapshot would be older than its lock, and would
    number again what the previous holder has just numbered. Another holder at work: an empty list.
    """
    if not await has_unnumbered(session):
        return []  # without having locked anything: a quiet log costs no transaction id
    await session.execute(_LIMIT_HOLDER)
    head = (await session.execute(_LOCK_HEAD)).scalar_one_or_none()
    if head is None:
        return []
    await settle_epoch(session)
    rows = (await session.execute(_NUMBER, {"head": head, "size": size})).mappings()
    events = sorted((Event.model_validate(dict(row)) for row in rows), key=lambda event: event.position or 0)
    if events:
        await session.execute(update(FeedHead).values(head=events[-1].position))
        failpoint("log-numbered")
    return events


async def settle_epoch(session: AsyncSession) -> None:
    """Begin a new epoch if the log lives elsewhere than it did."""
    await session.execute(_SETTLE)


async def begin_epoch(session: AsyncSession) -> None:
    """Begin a new epoch here: the log was restored from a backup, and every reader has to know."""
    here = literal_column(incarnation_of("events"), Text)
    await session.execute(update(FeedHead).values(epoch=func.gen_random_uuid(), incarnation=here))


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
class Stretch:
    """What comes behind a position, up to `end`; with `lost` the log does not reach back to it, or is another one."""

    epoch: UUID
    end: int
    lost: bool
    entries: Sequence[Entry]


async def read_stretch(
    session: AsyncSession, epoch: UUID, after: int, *, limit: int, user_id: str | None = None
) -> Stretch:
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
    return Stretch(present, end, lost, () if lost else found)


async def read_stretches(
    session: AsyncSession, readers: Sequence[tuple[UUID, int, str | None]], *, limit: int
) -> list[Stretch]:
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
        stretches.append(Stretch(present, end, lost, () if lost else found[turn]))
    of_all = [turn for turn, stretch in enumerate(stretches) if people[turn] is None and not stretch.lost]
    if of_all:
        everything = await read_stretch(session, present, min(afters[turn] for turn in of_all), limit=limit)
        for turn in of_all:
            stretches[turn] = _rest_of(everything, afters[turn])
    return stretches


def _rest_of(stretch: Stretch, after: int) -> Stretch:
    """Return what of a stretch lies behind a position, which may lie behind all of it."""
    entries = [entry for entry in stretch.entries if entry.position > after]
    return Stretch(stretch.epoch, max(stretch.end, after), stretch.lost, entries)


@dataclass(frozen=True, slots=True)
class LogState:
    """How the log stands: its end, and what waits for the sequencer; `lag` is the age of the oldest, in seconds."""

    head: int
    unnumbered: int
    lag: float


async def read_state(session: AsyncSession) -> LogState:
    """Read how the log stands. Beyond 10,000 unnumbered events it counts no further."""
    return LogState(*(await session.execute(_STATE)).one())


async def age_behind(session: AsyncSession, position: int) -> float:
    """Return how many seconds ago the first event behind a position was numbered; 0 when there is none."""
    age = func.extract("epoch", func.clock_timestamp() - LoggedEvent.numbered_at).cast(Float)
    behind = select(age).where(LoggedEvent.position > position).order_by(LoggedEvent.position).limit(1)
    return await session.scalar(behind) or 0.0


async def tail(session: AsyncSession, limit: int) -> Sequence[LoggedEvent]:
    """Return the newest events of the log, newest first."""
    return (await session.scalars(select(LoggedEvent).order_by(LoggedEvent.id.desc()).limit(limit))).all()


_STATE = text("""
    select (select head from feed) as head, count(*) as unnumbered,
        coalesce(extract(epoch from clock_timestamp() - min(occurred_at))::float8, 0) as lag
    from (select occurred_at from events where position is null order by seq limit 10000) as unnumbered
""")

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
