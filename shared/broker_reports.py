"""What each process that uses the broker reports of it to its service's database, for `chats status`.

The table is unlogged: a crash of the server empties it, and a few seconds later it is full again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import structlog
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from shared.broker_faults import Standing
from shared.database import SessionFactory, transaction
from shared.processes import pause

EVERY: Final = 10.0  # seconds between reports of a process whose state does not change
LOOK: Final = 1.0  # seconds between looks whether it has changed
FRESH: Final = 30.0  # seconds; an older report is one of a process that has gone

log = structlog.get_logger()


class BrokerReportColumns:
    """Mixed into a table of each service: the last report of each process."""

    __tablename__ = "broker_reports"
    __table_args__ = ({"prefixes": ["unlogged"]},)

    process: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    since: Mapped[datetime]
    reported_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Report(NamedTuple):
    """What a process reported; `age` is how many seconds ago it did."""

    process: str
    reason: str | None
    detail: str | None
    since: datetime
    age: float


async def write_report(session: AsyncSession, process: str, standing: Standing) -> None:
    """Replace what a process reported before, and forget processes that have gone long ago."""
    values = {
        "process": process,
        "reason": standing.fault and standing.fault.reason,
        "detail": standing.fault and standing.fault.detail,
        "seconds": time.monotonic() - standing.changed_at,
    }
    await session.execute(_WRITE, values)
    await session.execute(_FORGET)


async def read_reports(session: AsyncSession) -> Sequence[Report]:
    """Return what processes have reported last, within the last hour, the newest first."""
    return [Report(*row) for row in await session.execute(_READ)]


async def report_for_ever(
    sessions: SessionFactory, process: str, stand: Callable[[], Standing], stop: asyncio.Event
) -> None:
    """Report at once when the state changes, and now and then when it does not; at the end take the report back."""
    reported, reported_at = None, 0.0
    while not stop.is_set():
        standing = stand()
        if standing != reported or time.monotonic() - reported_at > EVERY:
            try:
                async with transaction(sessions) as session:
                    await write_report(session, process, standing)
                reported, reported_at = standing, time.monotonic()
            except Exception as error:  # noqa: BLE001 - it must not end the work beside it
                log.debug("the state of the broker is not reported", error=type(error).__name__)
        await pause(stop, LOOK)
    try:
        async with transaction(sessions) as session:
            await session.execute(_WITHDRAW, {"process": process})
    except Exception as error:  # noqa: BLE001 - the same
        log.debug("the report is not taken back", error=type(error).__name__)


_WRITE = text("""
    insert into broker_reports (process, reason, detail, since)
    values (:process, :reason, :detail, clock_timestamp() - make_interval(secs => :seconds))
    on conflict (process) do update set reason = excluded.reason, detail = excluded.detail,
        since = excluded.since, reported_at = excluded.reported_at
""")
_FORGET = text("delete from broker_reports where reported_at < clock_timestamp() - interval '1 hour'")
_WITHDRAW = text("delete from broker_reports where process = :process")
_READ = text("""
    select process, reason, detail, since, extract(epoch from clock_timestamp() - reported_at)::float8
    from broker_reports where reported_at > clock_timestamp() - interval '1 hour' order by reported_at desc
""")
