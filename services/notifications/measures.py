"""What the tables say about the service's state: for Prometheus and for `chats status`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database import Sessions, transaction

CURSOR = Gauge("chats_inbox_cursor", "Position up to which the log was caught up with")
LAG = Gauge("chats_inbox_lag_events", "Events of the log behind that position, when it was last read")
PARKED = Gauge("chats_inbox_parked", "Events that were given up on")
EMAILS = Gauge("chats_emails", "Mails by state", ["state"])
OLDEST_DUE = Gauge("chats_emails_oldest_due_seconds", "Age of the oldest due mail that was not sent yet")
TRIES = Gauge("chats_email_tries", "Recorded tries by outcome", ["outcome"])
BREAKER = Gauge("chats_email_breaker_trips", "Times in a row that the mail set-up was at fault")


@dataclass(frozen=True, slots=True)
class State:
    """How the service stands."""

    cursor: int
    head: int
    parked: int
    oldest_due: float
    paused: bool
    breaker_trips: int
    breaker_reason: str | None
    emails: dict[str, int]
    tries: dict[str, int]


async def read_state(session: AsyncSession) -> State:
    """Read how the service stands."""
    row = (await session.execute(_STATE)).one()
    emails = (await session.execute(text("select state, count(*) from emails group by state"))).all()
    tries = (await session.execute(text("select outcome, count(*) from email_tries group by outcome"))).all()
    return State(**row._mapping, emails=_counts(emails), tries=_counts(tries))  # noqa: SLF001 - its public name


def _counts(rows: Sequence[Row[*tuple[Any, ...]]]) -> dict[str, int]:
    return {row[0]: row[1] for row in rows}


async def measure(sessions: Sessions) -> None:
    """Set the gauges."""
    async with transaction(sessions) as session:
        state = await read_state(session)
    CURSOR.set(state.cursor)
    LAG.set(state.head - state.cursor)
    PARKED.set(state.parked)
    OLDEST_DUE.set(state.oldest_due)
    BREAKER.set(state.breaker_trips)
    for name, count in state.emails.items():
        EMAILS.labels(name).set(count)
    for name, count in state.tries.items():
        TRIES.labels(name).set(count)


_STATE = text("""
    select cursor.position as cursor, cursor.head,
        (select count(*) from inbox where parked_at is not null) as parked,
        coalesce((
            select extract(epoch from clock_timestamp() - min(next_attempt_at))::float8
            from emails where state = 'scheduled' and next_attempt_at < clock_timestamp()
        ), 0) as oldest_due,
        gate.paused_at is not null as paused, gate.breaker_trips, gate.breaker_reason
    from feed_cursor as cursor, gate
""")
