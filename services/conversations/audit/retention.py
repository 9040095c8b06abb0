"""Retention of the audit: a partition for each month, created ahead and dropped as a whole by its owner's function."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


async def keep_partitions(session: AsyncSession, days: float) -> int:
    """Create the partitions of the next months, and drop those that are older than `days`; return how many.

    The function drops nothing younger than 30 days.
    """
    return int((await session.execute(_KEEP, {"days": days})).scalar_one())


_KEEP = text("select audit_keep_partitions(:days)")
