"""Gauges that both services export about their database."""

from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

SIZE = Gauge("chats_database_bytes", "Size of a database on disk, without the write-ahead log", ["database"])
ERASURE_STALLED = Gauge(
    "chats_erasure_stalled_seconds", "Time since the last progress of the unfinished erasures; 0 if none", ["database"]
)


async def measure_database(session: AsyncSession, name: str, erasure_stalled: float) -> None:
    """Set the gauges of the database with this name. PostgreSQL asks the file system, and reads no rows."""
    SIZE.labels(name).set((await session.execute(_SIZE)).scalar_one())
    ERASURE_STALLED.labels(name).set(erasure_stalled)


_SIZE = text("select pg_database_size(current_database())")
