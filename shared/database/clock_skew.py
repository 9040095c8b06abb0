"""The skew between a process's clock, which decides about tokens, and its database's, which decides what is due."""

import time
from datetime import UTC, datetime

import structlog
from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

MAX_SKEW = 30.0  # seconds; with more, a new token of another machine may not be valid yet
LOG_INTERVAL = 600.0  # seconds between warnings

AHEAD = Gauge("chats_clock_ahead_seconds", "How far this process's clock is ahead of its database's, as last seen")

log = structlog.get_logger()


def measure_skew(asked_at: datetime, database: datetime, answered_at: datetime) -> float:
    """Return the minimum number of seconds that a clock is ahead of the database's; negative if it is behind.

    The database's time was read between `asked_at` and `answered_at`, so a slow answer causes no skew.
    """
    if asked_at > database:
        return (asked_at - database).total_seconds()
    return min((answered_at - database).total_seconds(), 0.0)


async def read_skew(session: AsyncSession) -> float:
    """Return the number of seconds that this machine's clock is ahead of the database's, as `measure_skew`."""
    await session.connection()  # connect first: the time for that does not count
    asked_at = datetime.now(UTC)
    database = (await session.execute(text("select clock_timestamp()"))).scalar_one()
    return measure_skew(asked_at, database, datetime.now(UTC))


class ClockSkewMonitor:
    """Logs clock skew, at a limited rate."""

    def __init__(self) -> None:
        self._logged_at: float | None = None

    def record(self, seconds: float) -> None:
        """Record how far the process's clock is ahead."""
        AHEAD.set(seconds)
        now = time.monotonic()
        if abs(seconds) <= MAX_SKEW:
            if self._logged_at is not None:
                log.info("the clocks of this machine and the database agree again")
            self._logged_at = None
        elif self._logged_at is None or now - self._logged_at > LOG_INTERVAL:
            log.warning("the clocks of this machine and the database differ, synchronize them", ahead=seconds)
            self._logged_at = now
