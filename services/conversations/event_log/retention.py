"""Retention of the log and of idempotency keys, in small batches."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.settings import StoreSettings
from shared.event_log.retention import purge_oldest

LATE_PURGE = 0.5  # days beyond the retention period, after which a reader must be behind


async def purge_events(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest events that are no longer needed; return how many."""
    days, cap_days = settings.retention_days, settings.retention_cap_days
    return await purge_oldest(session, days=days, cap_days=cap_days, size=size)


async def purge_keys(session: AsyncSession, settings: StoreSettings, *, size: int) -> int:
    """Delete the oldest idempotency keys of created conversations that are past the retention; return how many."""
    values = {"size": size, "retention": settings.retention_days}
    return len((await session.execute(_PURGE_KEYS, values)).all())


_PURGE_KEYS = text("""
    delete from create_keys where (caller_id, key) in (
        select caller_id, key from create_keys
        where created_at < (select clock_timestamp() - make_interval(secs => cast(:retention as float8) * 86400))
        order by created_at limit :size
    )
    returning key
""")
