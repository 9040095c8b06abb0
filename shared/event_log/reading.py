"""Read a log after a position, and how far its readers are behind."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.problems import EventsPurged


class Page(NamedTuple):
    """Events after a position, in order, and the log's epoch and last position, which are never older."""

    epoch: UUID
    head: int
    rows: Sequence[RowMapping]


async def read_after(session: AsyncSession, query: TextClause, after: int, **parameters: Any) -> Page:
    """Return the events after a position by a query with the parameter `after`, whose rows have a `position`.

    Raises `EventsPurged` if the next event has been purged.
    """
    rows = (await session.execute(query, {"after": after, **parameters})).mappings().all()
    epoch, head = await read_head(session)  # read last: never older than the rows
    first = rows[0]["position"] if rows else None
    if first is None and after < head:  # all purged, or the first event was numbered between the two statements
        first = await session.scalar(_FIRST, {"after": after})
    if after < head and first != after + 1:  # positions have no gaps
        raise EventsPurged(f"Events before position {after + 2} have been purged.")
    return Page(epoch, head, rows)


async def read_head(session: AsyncSession) -> tuple[UUID, int]:
    """Return the log's epoch and last position."""
    epoch, head = (await session.execute(_HEAD)).one()
    return epoch, head


async def read_lags(session: AsyncSession) -> Sequence[tuple[str, int, float]]:
    """Return each reader of the log, the position that it acknowledged last, and its lag as `lag_after`."""
    readers = (await session.execute(_READERS)).all()
    return [(name, position, await lag_after(session, position)) for name, position in readers]


async def lag_after(session: AsyncSession, position: int) -> float:
    """Return how many seconds ago the first event after a position was numbered; 0 if there is none."""
    return await session.scalar(_LAG, {"after": position}) or 0.0


_HEAD = text("select epoch, head from feed")
_FIRST = text("select min(position) from events where position > :after")
_READERS = text("select name, position from feed_readers order by name")
_LAG = text("""
    select cast(extract(epoch from clock_timestamp() - numbered_at) as float8) from events
    where position > :after order by position limit 1
""")
