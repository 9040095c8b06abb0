"""Number the events of the log.

Values of a database sequence do not become visible in commit order, so a reader that follows them misses rows. The
sequencer gives every committed event a position instead: ascending, without gaps, never changed.
"""

from dataclasses import dataclass

from sqlalchemy import Text, func, literal_column, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import FeedHead
from shared.database import Driver, database_identity_sql, transaction_driver
from shared.events import Event
from shared.failpoints import failpoint

# Every lock of several events, here and in erasure, takes them in the order of `seq`, which prevents deadlocks.
LATE = 10.0  # seconds that an event waits for its number, after which the relay is late

_ANY_UNNUMBERED = "select exists (select from events where position is null)"
# A frozen process that holds this lock would stop the log, so PostgreSQL ends its transaction.
# Without unnumbered events it locks nothing: a quiet log uses up no transaction ids.
_LOCK_HEAD = text(f"""
    select head, incarnation is distinct from {database_identity_sql("events")} as moved,
        set_config('transaction_timeout', '5s', true)
    from feed where exists (select from events where position is null) for update skip locked
""")  # noqa: S608 - built from constants
# In another database (restored, or a promoted replica) the log may lack events that its readers have read. A null
# `incarnation` means that the log was never numbered: the epoch stays.
_ROTATE_IF_MOVED = text(f"""
    update feed set incarnation = {database_identity_sql("events")},
        epoch = case when incarnation is null then epoch else gen_random_uuid() end
    where incarnation is distinct from {database_identity_sql("events")}
""")  # noqa: S608 - built from constants
# `numbered_at` is the time of insertion unless that is more than a second ago: a row whose end does not change is
# written to PostgreSQL's log without its payload.
_NUMBER = """
    with batch as (
        select id, $1::bigint + row_number() over (order by seq) as position
        from (select id, seq from events where position is null order by seq limit $2 for update) as unnumbered
    ),
    numbered as (
        update events set position = batch.position, numbered_at = case
            when numbered_at > clock_timestamp() - interval '1 second' then numbered_at else clock_timestamp()
        end
        from batch where events.id = batch.id
        returning events.id, events.type, events.version, events.position, events.occurred_at, events.payload
    ),
    moved as (
        update feed set head = last.position
        from (select max(position) as position from numbered) as last where last.position is not null
    )
    select numbered.*, feed.epoch from numbered, feed order by position
"""


async def has_unnumbered(connection: Driver) -> bool:
    """Return whether any event has no position. On the driver, because the relay asks up to 50 times a second."""
    return bool(await connection.fetchval(_ANY_UNNUMBERED))


async def number_events(session: AsyncSession, *, size: int = 1000) -> list[Event]:
    """Assign the next positions to committed events, oldest first; return these events in order.

    Locks and numbers in two statements: the snapshot of a single one would be older than its lock, and would number
    events again that the previous holder has just numbered. Returns an empty list if there are none, or if
    another process holds the lock.
    """
    locked = (await session.execute(_LOCK_HEAD)).one_or_none()
    if locked is None:
        return []
    if locked.moved:
        await rotate_epoch_if_moved(session)
    rows = await (await transaction_driver(session)).fetch(_NUMBER, locked.head, size)
    events = [Event.model_validate(dict(row)) for row in rows]
    if events:
        failpoint("log-numbered")
    return events


async def rotate_epoch_if_moved(session: AsyncSession) -> None:
    """Start a new epoch if the log is in another database than when it was last numbered."""
    await session.execute(_ROTATE_IF_MOVED)


async def rotate_epoch(session: AsyncSession) -> None:
    """Start a new epoch, to tell every reader that the log was restored from a backup."""
    identity = literal_column(database_identity_sql("events"), Text)
    await session.execute(update(FeedHead).values(epoch=func.gen_random_uuid(), incarnation=identity))


@dataclass(frozen=True, slots=True)
class LogState:
    """The log's last position and its unnumbered events; `lag` is the age of the oldest of these in seconds."""

    head: int
    unnumbered: int
    lag: float


async def read_state(session: AsyncSession) -> LogState:
    """Read the log's state. The count of unnumbered events stops at 10,000."""
    return LogState(*(await session.execute(_STATE)).one())


_STATE = text("""
    select (select head from feed) as head, count(*) as unnumbered,
        coalesce(extract(epoch from clock_timestamp() - min(occurred_at))::float8, 0) as lag
    from (select occurred_at from events where position is null order by seq limit 10000) as unnumbered
""")
