"""The state of emails that came in, for Prometheus and `chats status`."""

from dataclasses import dataclass
from typing import Final

from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.transactions import SessionFactory, transaction

LATE: Final = 300.0  # seconds that an email waits, after which emails are late

WAITING = Gauge("chats_inbound_waiting", "Emails that came in and are not yet posted, up to 10,000")
OLDEST = Gauge("chats_inbound_oldest_waiting_seconds", "Age of the oldest of them")
HELD = Gauge("chats_inbound_held", "Emails that came in and wait for an admin, up to 10,000")


@dataclass(frozen=True, slots=True)
class InboundCounts:
    """Emails that wait to be posted, the age in seconds of the oldest, and emails that wait for an admin."""

    waiting: int
    oldest: float
    held: int


async def read_counts(session: AsyncSession) -> InboundCounts:
    """Count the emails that wait."""
    return InboundCounts(*(await session.execute(_COUNTS)).one())


async def collect(sessions: SessionFactory) -> None:
    """Set the gauges."""
    async with transaction(sessions) as session:
        counts = await read_counts(session)
    WAITING.set(counts.waiting)
    OLDEST.set(counts.oldest)
    HELD.set(counts.held)


_COUNTS: Final = text("""
    select
        (select count(*) from (select from inbound_emails where state = 'received' limit 10000) as waiting),
        coalesce((
            select extract(epoch from clock_timestamp() - received_at)::float8 from inbound_emails
            where state = 'received' order by id limit 1
        ), 0),
        (select count(*) from (select from inbound_emails where state = 'held' limit 10000) as held)
""")
