"""How far a process's clock is from its database's. Tokens are judged by the one, what is due by the other."""

import time
from datetime import UTC, datetime

import structlog
from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

APART = 30.0  # seconds from which it matters: a token of another machine may not be valid yet
AGAIN = 600.0  # seconds between lines about it in the log

AHEAD = Gauge("chats_clock_ahead_seconds", "How far this process's clock is ahead of its database's, as last seen")

log = structlog.get_logger()


def ahead(asked_at: datetime, database: datetime, answered_at: datetime) -> float:
    """Return how many seconds a clock is ahead of the database's, at least; negative when it is behind.

    The database's time was read between `asked_at` and `answered_at`, so a slow answer is no difference.
    """
    if asked_at > database:
        return (asked_at - database).total_seconds()
    return min((answered_at - database).total_seconds(), 0.0)


async def read_ahead(session: AsyncSession) -> float:
    """Compare this machine's clock with the database's, as `ahead` does."""
    await session.connection()  # to connect is no part of the answer
    asked_at = datetime.now(UTC)
    database = (await session.execute(text("select clock_timestamp()"))).scalar_one()
    return ahead(asked_at, database, datetime.now(UTC))


class ClockWatch:
    """Says in the log, at a bounded rate, that the clocks are apart."""

    def __init__(self) -> None:
        self._told_at: float | None = None

    def note(self, seconds: float) -> None:
        """Take down how far the process's clock is ahead."""
        AHEAD.set(seconds)
        now = time.monotonic()
        if abs(seconds) <= APART:
            if self._told_at is not None:
                log.info("the clocks of this machine and the database agree again")
            self._told_at = None
        elif self._told_at is None or now - self._told_at > AGAIN:
            log.warning("the clocks of this machine and the database are apart, synchronize them", ahead=seconds)
            self._told_at = now
