"""How long the log is kept, and for whom: readers say how far they have come, old events go in small batches."""

from datetime import datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import FeedReader, LoggedEvent
from services.conversations.settings import StoreSettings

SEEN_EVERY = timedelta(seconds=5)  # between notes that a reader was there, when it has not come further


async def acknowledge(session: AsyncSession, name: str, position: int | None) -> tuple[int, datetime | None]:
    """Note that a reader has done with everything up to a position; return the furthest one before, and when.

    A position before that one changes nothing: the reader lost what it knew, or is slower than another of its name.
    """
    known = await session.get(FeedReader, name)
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    before = (known.position, known.seen_at) if known else (0, None)
    if position is not None and (known is None or _is_news(known, position, now)):
        reader = insert(FeedReader).values(name=name, position=position, seen_at=now)
        # Another of its name may have come further at this very moment.
        not_back = FeedReader.position <= reader.excluded.position
        await session.execute(
            reader.on_conflict_do_update(
                index_elements=[FeedReader.name], set_={"position": position, "seen_at": now}, where=not_back
            )
        )
    return before


def _is_news(known: FeedReader, position: int, now: datetime) -> bool:
    return position > known.position or (position == known.position and known.seen_at < now - SEEN_EVERY)


async def purge_events(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest events that nobody needs any more; return how many.

    Those are older than the retention and done with by every reader, or older than its cap. It looks at the oldest
    `size` events only, and stops at the first that is kept: the log has no holes.
    """
    values = {"size": size, "retention": settings.retention_days, "cap": settings.retention_cap_days}
    return len((await session.execute(_PURGE_EVENTS, values)).all())


async def purge_keys(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest idempotency keys of created conversations beyond the retention; return how many."""
    values = {"size": size, "retention": settings.retention_days}
    return len((await session.execute(_PURGE_KEYS, values)).all())


async def oldest_age(session: AsyncSession) -> float:
    """Return the age of the oldest event in the log in seconds; 0 when it is empty."""
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
    -- What is kept: not old enough, or old and still to be read by somebody, who may not have come for the first time.
    kept as (
        select min(position) as first from oldest
        where numbered_at > clock_timestamp() - make_interval(secs => cast(:retention as float8) * 86400)
            or (numbered_at > clock_timestamp() - make_interval(secs => cast(:cap as float8) * 86400)
                and position > (select coalesce(min(position), 0) from feed_readers))
    ),
    -- Locked in the one order in which all do.
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
