"""Reports of processes about the broker, stored in their service's database for `chats status`.

The table is unlogged: a server crash empties it, and a few seconds later the processes have reported again.
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

from shared.broker.status import BrokerStatus
from shared.database.transactions import SessionFactory, transaction
from shared.process.stopping import pause

INTERVAL: Final = 10.0  # seconds between reports while the status does not change
POLL: Final = 1.0  # seconds between checks for a change
FRESH: Final = 30.0  # seconds; the process of an older report has ended

log = structlog.get_logger()


class BrokerReportColumns:
    """Mixin for a table of each service: the last report of each process."""

    __tablename__ = "broker_reports"
    __table_args__ = ({"prefixes": ["unlogged"]},)

    process: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    since: Mapped[datetime]
    reported_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Report(NamedTuple):
    """A process's last report. `age` is in seconds."""

    process: str
    reason: str | None
    detail: str | None
    since: datetime
    age: float


async def write_report(session: AsyncSession, process: str, status: BrokerStatus) -> None:
    """Replace a process's previous report. Delete reports of processes that ended long ago."""
    values = {
        "process": process,
        "reason": status.fault and status.fault.reason,
        "detail": status.fault and status.fault.detail,
        "seconds": time.monotonic() - status.changed_at,
    }
    await session.execute(_WRITE, values)
    await session.execute(_FORGET)


async def read_reports(session: AsyncSession) -> Sequence[Report]:
    """Return the last report of each process within the last hour, newest first."""
    return [Report(*row) for row in await session.execute(_READ)]


async def report_until_stopped(
    sessions: SessionFactory, process: str, read_status: Callable[[], BrokerStatus], stop: asyncio.Event
) -> None:
    """Report each change of the status, and at intervals. At the end, delete the report."""
    reported, reported_at = None, 0.0
    while not stop.is_set():
        status = read_status()
        if status != reported or time.monotonic() - reported_at > INTERVAL:
            try:
                async with transaction(sessions) as session:
                    await write_report(session, process, status)
                reported, reported_at = status, time.monotonic()
            except Exception as error:  # noqa: BLE001 - a failed report must not end the process's work
                log.debug("broker status not reported", error=type(error).__name__)
        await pause(stop, POLL)
    try:
        async with transaction(sessions) as session:
            await session.execute(_WITHDRAW, {"process": process})
    except Exception as error:  # noqa: BLE001 - as above
        log.debug("broker report not deleted", error=type(error).__name__)


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
