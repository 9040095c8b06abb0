"""How far the notifications service's log is read."""

from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

LATE = 120.0  # seconds since the log was last read to its end, after which the status of emails is late

KNOWN_UNTIL: Final = f"""(
    select case when caught_up_at < clock_timestamp() - interval '{LATE:g} seconds' then caught_up_at end
    from notifications_cursor
)"""  # noqa: S608 - a constant
"""The SQL of the time until which the status of emails is known, null while that is up to date."""


class State(NamedTuple):
    """The last position that was read, the seconds since the log was read to its end, and why emails are listed."""

    position: int
    lag: float
    listing: str | None


async def read_state(session: AsyncSession) -> State:
    """Return how far the log is read."""
    return State(*(await session.execute(_STATE)).one())


_STATE = text("""
    select position, greatest(cast(extract(epoch from clock_timestamp() - caught_up_at) as float8), 0),
        case when list_after is not null then list_reason end
    from notifications_cursor
""")
