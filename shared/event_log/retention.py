"""Retention of a log: readers acknowledge positions, and old events are purged in small batches."""

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

SEEN_EVERY: Final = 5  # seconds between updates of `seen_at` for a reader whose position has not changed


async def acknowledge(session: AsyncSession, name: str, position: int | None) -> tuple[int, datetime | None]:
    """Record that a reader has handled all events up to a position; return the previous position and its time.

    A position before the recorded one changes nothing: the reader lost its state, or another one of its name is faster.
    """
    before = (await session.execute(_READER, {"name": name})).one_or_none()
    if position is not None and (
        before is None or position > before.position or (position == before.position and before.is_old)
    ):
        await session.execute(_ACKNOWLEDGE, {"name": name, "position": position})
    return (before.position, before.seen_at) if before else (0, None)


async def purge_oldest(session: AsyncSession, *, days: float, cap_days: float, size: int) -> int:
    """Delete the oldest events that are no longer needed; return how many.

    These are older than `days` and handled by every reader, or older than `cap_days`. Checks only the oldest `size`
    events and stops at the first one to keep, so that the log has no gaps.
    """
    return len((await session.execute(_PURGE, {"size": size, "retention": days, "cap": cap_days})).all())


async def oldest_age(session: AsyncSession) -> float:
    """Return the age of the log's oldest event in seconds; 0 if the log is empty."""
    return await session.scalar(_OLDEST) or 0.0


_READER = text(f"""
    select position, seen_at, seen_at < clock_timestamp() - interval '{SEEN_EVERY} seconds' as is_old
    from feed_readers where name = :name
""")  # noqa: S608 - a constant
# Another reader of this name may have acknowledged more at the same moment.
_ACKNOWLEDGE = text("""
    insert into feed_readers (name, position, seen_at) values (:name, :position, clock_timestamp())
    on conflict (name) do update set position = excluded.position, seen_at = excluded.seen_at
    where feed_readers.position <= excluded.position
""")
_PURGE = text("""
    with oldest as (
        select position, numbered_at from events where position is not null order by position limit :size
    ),
    -- Events to keep: not past the retention; or not past the cap and not handled by every reader, or without a reader.
    kept as (
        select min(position) as first from oldest
        where numbered_at > clock_timestamp() - make_interval(secs => cast(:retention as float8) * 86400)
            or (numbered_at > clock_timestamp() - make_interval(secs => cast(:cap as float8) * 86400)
                and position > (select coalesce(min(position), 0) from feed_readers))
    ),
    -- Locked in the order that every lock of several events uses.
    gone as (
        select position from events
        where position in (
            select position from oldest where position < coalesce((select first from kept), position + 1)
        )
        order by seq for update
    )
    delete from events where position in (select position from gone) returning position
""")
_OLDEST = text("""
    select cast(extract(epoch from clock_timestamp() - numbered_at) as float8) from events
    where position is not null order by position limit 1
""")
