"""Number the events of a log.

Values of a database sequence do not become visible in commit order, so a reader that follows them misses rows. The
sequencer gives every committed event a position instead: ascending, without gaps, never changed.
"""

from collections.abc import Sequence

from asyncpg import Record
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.engine import Driver
from shared.database.identity import database_identity_sql
from shared.process.failpoints import failpoint

# A frozen process that holds this lock would stop the log, so PostgreSQL ends its transaction.
# Without unnumbered events it locks nothing: a quiet log uses up no transaction ids.
_LOCK_HEAD = f"""
    select head, incarnation is distinct from {database_identity_sql("events")} as moved,
        set_config('transaction_timeout', '5s', true)
    from feed where exists (select from events where position is null) for update skip locked
"""  # noqa: S608 - built from constants
# In another database (restored, or a promoted replica) the log may lack events that its readers have read. A null
# `incarnation` means that the log was never numbered: the epoch stays.
_ROTATE_IF_MOVED = f"""
    update feed set incarnation = {database_identity_sql("events")},
        epoch = case when incarnation is null then epoch else gen_random_uuid() end
    where incarnation is distinct from {database_identity_sql("events")}
"""  # noqa: S608 - built from constants
_ROTATE = text(f"""
    update feed set epoch = gen_random_uuid(), incarnation = {database_identity_sql("events")}
""")  # noqa: S608 - built from constants


def numbering_sql(*returned: str) -> str:
    """Return the SQL that numbers events. It returns these columns or expressions of `events`, and the epoch."""
    # Every lock of several events, here and in erasure, takes them in the order of `seq`, which prevents deadlocks.
    # An array, because PostgreSQL expects one unnumbered event at most: it would compare each of a batch with all that
    # wait. `width_bucket` is the place of `seq` in the array, by binary search.
    # `numbered_at` is the time of insertion unless that is more than a second ago: a row whose end does not change is
    # written to PostgreSQL's log without its payload.
    return f"""
    with batch as (
        select array_agg(seq order by seq) as seqs
        from (select seq from events where position is null order by seq limit $2 for update) as waiting
    ),
    numbered as (
        update events set position = $1::bigint + width_bucket(seq, (select seqs from batch)), numbered_at = case
            when numbered_at > clock_timestamp() - interval '1 second' then numbered_at else clock_timestamp()
        end
        where seq = any ((select seqs from batch)::bigint[]) and position is null
        returning {", ".join(returned)}
    ),
    moved as (
        update feed set head = last.position
        from (select max(position) as position from numbered) as last where last.position is not null
    )
    select numbered.*, feed.epoch from numbered, feed order by position
    """  # noqa: S608 - built from constants


async def run_sequencer(driver: Driver, numbering: str, size: int) -> Sequence[Record]:
    """Assign the next positions to committed events, oldest first; return what `numbering` returns, in order.

    Call it in a transaction. On the driver: a session costs the relay three times as much as the statements.

    Locks and numbers in two statements: the snapshot of a single one would be older than its lock, and would number
    events again that the previous holder has just numbered. Returns an empty list if there are none, or if
    another process holds the lock.
    """
    locked = await driver.fetchrow(_LOCK_HEAD)
    if locked is None:
        return []
    if locked["moved"]:
        await rotate_epoch_if_moved(driver)
    rows: Sequence[Record] = await driver.fetch(numbering, locked["head"], size)
    if rows:
        failpoint("log-numbered")
    return rows


async def rotate_epoch_if_moved(driver: Driver) -> None:
    """Start a new epoch if the log is in another database than when it was last numbered."""
    await driver.execute(_ROTATE_IF_MOVED)


async def rotate_epoch(session: AsyncSession) -> None:
    """Start a new epoch, to tell every reader that the log was restored from a backup."""
    await session.execute(_ROTATE)
