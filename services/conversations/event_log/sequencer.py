"""Number the events of the log, and its state."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.payloads import READ_PAYLOAD
from shared.database.engine import Driver
from shared.event_log.sequencer import numbering_sql, run_sequencer
from shared.events import Event

LATE = 10.0  # seconds that an event waits for its number, after which the relay is late

_ANY_UNNUMBERED = "select exists (select from events where position is null)"
_COLUMNS = ("id", "type", "version", "position", "occurred_at")
_NUMBER = numbering_sql(*(f"events.{name}" for name in _COLUMNS), f"{READ_PAYLOAD} as payload")


async def has_unnumbered(connection: Driver) -> bool:
    """Return whether any event has no position. On the driver, because the relay asks up to 50 times a second."""
    return bool(await connection.fetchval(_ANY_UNNUMBERED))


async def number_events(driver: Driver, *, size: int = 1000) -> list[Event]:
    """Assign the next positions to committed events, oldest first, in a transaction; return these events in order."""
    return [Event.model_validate(dict(row)) for row in await run_sequencer(driver, _NUMBER, size)]


@dataclass(frozen=True, slots=True)
class LogState:
    """The log's last position and its unnumbered events; `lag` is the age of the oldest of these in seconds."""

    head: int
    unnumbered: int
    lag: float


async def read_state(session: AsyncSession) -> LogState:
    """Read the log's state. The count of unnumbered events stops at 10,000."""
    return LogState(*(await session.execute(_STATE)).one())


_STATE = text("""
    select (select head from feed) as head, count(*) as unnumbered,
        coalesce(extract(epoch from clock_timestamp() - min(occurred_at))::float8, 0) as lag
    from (select occurred_at from events where position is null order by seq limit 10000) as unnumbered
""")
