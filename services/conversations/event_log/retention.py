"""Retention of the log: readers acknowledge positions, and old events are purged in small batches."""

from datetime import datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import FeedReader, LoggedEvent
from services.conversations.settings import StoreSettings

LATE_PURGE = 0.5  # days beyond the retention period, after which a reader must be behind
SEEN_EVERY = timedelta(seconds=5)  # between updates of `seen_at` for a reader whose position has not changed


async def acknowledge(session: AsyncSession, name: str, position: int | None) -> tuple[int, datetime | None]:
    """Record that a reader has handled all events up to a position; return the previous position and its time.

    A position before the recorded one changes nothing: the reader lost its state, or another one of its name is faster.
    """
    reader = await session.get(FeedReader, name)
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    before = (reader.position, reader.seen_at) if reader else (0, None)
    if position is not None and (reader is None or _needs_update(reader, position, now)):
        upsert = insert(FeedReader).values(name=name, position=position, seen_at=now)
        # Another reader of this name may have acknowledged more at the same moment.
        is_not_older = FeedReader.position <= upsert.excluded.position
        await session.execute(
            upsert.on_conflict_do_update(
                index_elements=[FeedReader.name], set_={"position": position, "seen_at": now}, where=is_not_older
            )
        )
    return before


def _needs_update(reader: FeedReader, position: int, now: datetime) -> bool:
    return position > reader.position or (position == reader.position and reader.seen_at < now - SEEN_EVERY)


async def purge_events(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest events that are no longer needed; return how many.

    These are past the retention and handled by every reader, or past the retention cap. Checks only the oldest `size`
    events and stops at the first one to keep, so that the log has no gaps.
    """
    values = {"size": size, "retention": settings.retention_days, "cap": settings.retention_cap_days}
    return len((await session.execute(_PURGE_EVENTS, values)).all())


async def purge_keys(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest idempotency keys of created conversations that are past the retention; return how many."""
    values = {"size": size, "retention": settings.retention_days}
    return len((await session.execute(_PURGE_KEYS, values)).all())


async def oldest_age(session: AsyncSession) -> float:
    """Return the age of the log's oldest event in seconds; 0 if the log is empty."""
    oldest = select(LoggedEvent.numbered_at).where(LoggedEvent.position.is_not(None)).order_by(LoggedEvent.position)
    numbered_at = await session.scalar(oldest.limit(1))
    if numbered_at is None:
        return 0.0
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return float((now - numbered_at).total_seconds())


_PURGE_EVENTS = text("""
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
        select id from events
        where position in (
            select position from oldest where position < coalesce((select first from kept), position + 1)
        )
        order by seq for update
    )
    delete from events where id in (select id from gone) returning id
""")

_PURGE_KEYS = text("""
    delete from create_keys where (caller_id, key) in (
        select caller_id, key from create_keys
        where created_at < clock_timestamp() - make_interval(secs => cast(:retention as float8) * 86400)
        order by created_at limit :size
    )
    returning key
""")
