"""Number the events of the log.

Sequence values do not appear in the order of commits, so a reader that follows them misses rows. The sequencer
gives every committed row a position instead: ascending, without gaps, never changed.
"""

from dataclasses import dataclass

from sqlalchemy import Text, exists, func, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import FeedHead, LoggedEvent
from shared.database import database_identity_sql
from shared.events import Event
from shared.failpoints import failpoint

# Whoever locks several events locks them in the order of `seq`, here and where text is erased: no deadlock.
# A holder of the head that is frozen, not dead, would stop the log: PostgreSQL ends its transaction.
_LIMIT_HOLDER = text("set local transaction_timeout = '5s'")
_ANY_UNNUMBERED = select(exists().where(LoggedEvent.position.is_(None)))
_LOCK_HEAD = text("select head from feed for update skip locked")
# A log that lives on elsewhere may lack what its readers have read: it was restored, or a replica took over. The first
# time, there is nothing to compare with.
_ROTATE_IF_MOVED = text(f"""
    update feed set incarnation = {database_identity_sql("events")},
        epoch = case when incarnation is null then epoch else gen_random_uuid() end
    where incarnation is distinct from {database_identity_sql("events")}
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
    await rotate_epoch_if_moved(session)
    rows = (await session.execute(_NUMBER, {"head": head, "size": size})).mappings()
    events = sorted((Event.model_validate(dict(row)) for row in rows), key=lambda event: event.position or 0)
    if events:
        await session.execute(update(FeedHead).values(head=events[-1].position))
        failpoint("log-numbered")
    return events


async def rotate_epoch_if_moved(session: AsyncSession) -> None:
    """Begin a new epoch if the log lives elsewhere than it did."""
    await session.execute(_ROTATE_IF_MOVED)


async def rotate_epoch(session: AsyncSession) -> None:
    """Begin a new epoch here: the log was restored from a backup, and every reader has to know."""
    here = literal_column(database_identity_sql("events"), Text)
    await session.execute(update(FeedHead).values(epoch=func.gen_random_uuid(), incarnation=here))


@dataclass(frozen=True, slots=True)
class LogState:
    """How the log stands: its end, and what waits for the sequencer; `lag` is the age of the oldest, in seconds."""

    head: int
    unnumbered: int
    lag: float


async def read_state(session: AsyncSession) -> LogState:
    """Read how the log stands. Beyond 10,000 unnumbered events it counts no further."""
    return LogState(*(await session.execute(_STATE)).one())


_STATE = text("""
    select (select head from feed) as head, count(*) as unnumbered,
        coalesce(extract(epoch from clock_timestamp() - min(occurred_at))::float8, 0) as lag
    from (select occurred_at from events where position is null order by seq limit 10000) as unnumbered
""")
