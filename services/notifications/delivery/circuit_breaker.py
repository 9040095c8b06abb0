"""Whether emails may be sent at all: sending not paused, circuit breaker closed, no restore in progress."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy import Text, func, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.event_log.append import append_events
from services.notifications.mail.attempts import BEFORE_RECIPIENT, Attempt, Phase
from services.notifications.mail.replies import enhanced_status
from services.notifications.models import SendingControl
from services.notifications.rules import NO_SMTP_STOP, Outcome, breaker_pause
from services.notifications.settings import EmailSettings
from shared.database.identity import database_identity_sql
from shared.notifications_feed import LoggedType
from shared.process.failpoints import failpoint

_DATABASE_IDENTITY = database_identity_sql("gate")

MAY_BEGIN = (
    f"exists (select from gate where paused_at is null and (incarnation is null or incarnation = {_DATABASE_IDENTITY}))"
)
"""SQL condition: a claimed email may still be sent. The breaker only stops claims."""
MAY_CLAIM = (
    f"{MAY_BEGIN} and exists (select from gate where breaker_until is null or breaker_until <= clock_timestamp())"
)
"""SQL condition: emails may be claimed."""

CLOSED_BREAKER: dict[str, Any] = {
    "breaker_trips": 0,
    "breaker_since": None,
    "breaker_until": None,
    "breaker_phase": None,
    "breaker_host": None,
    "breaker_code": None,
    "breaker_reason": None,
    "breaker_probe": None,
}
"""The columns of a closed breaker."""
_NO_SYNC: dict[str, Any] = {"synchronize_session": False}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SendingState:
    """`SendingControl` at a moment of the database's clock, with the identity of this database."""

    control: SendingControl
    now: datetime
    database_identity: str

    @property
    def is_same_database(self) -> bool:
        """Whether this database is the recorded one, or none is recorded; otherwise it may be a restored backup."""
        return self.control.incarnation in {None, self.database_identity}

    @property
    def is_confirmed(self) -> bool:
        """Whether this database is recorded as the one that knows which emails were sent."""
        return self.control.incarnation == self.database_identity

    @property
    def may_send(self) -> bool:
        """Whether emails may be sent."""
        until = self.control.breaker_until
        return self.is_same_database and self.control.paused_at is None and (until is None or until <= self.now)


async def read_sending_state(session: AsyncSession, *, lock: bool = False) -> SendingState:
    """Read whether emails may be sent. With `lock`, no other transaction claims emails or opens the breaker."""
    query = select(SendingControl, func.clock_timestamp(), literal_column(_DATABASE_IDENTITY, Text)).execution_options(
        populate_existing=True
    )
    return SendingState(*(await session.execute(query.with_for_update() if lock else query)).one())


async def note_smtp(session: AsyncSession, settings: EmailSettings) -> None:
    """Record whether there is a mail server; if that has changed, the log says so."""
    has_none = settings.smtp_url is None
    changed = (
        update(SendingControl)
        .where(SendingControl.has_no_smtp != has_none)
        .values(has_no_smtp=has_none)
        .returning(SendingControl.singleton)
        .execution_options(**_NO_SYNC)
    )
    if await session.scalar(changed) is not None:
        await append_events(session, LoggedType.STOP_UPDATED, [NO_SMTP_STOP])


async def begin_probe(session: AsyncSession, lease_id: UUID, until: datetime) -> None:
    """Record which lease probes an open breaker: no other email is sent until it has ended, or until `until`."""
    await session.execute(
        update(SendingControl).values(breaker_probe=lease_id, breaker_until=until).execution_options(**_NO_SYNC)
    )


async def end_probe(session: AsyncSession, lease_id: UUID) -> None:
    """End a probe without a result: another email may probe at once."""
    await session.execute(
        update(SendingControl)
        .where(SendingControl.breaker_probe == lease_id)
        .values(breaker_probe=None, breaker_until=func.clock_timestamp())
        .execution_options(**_NO_SYNC)
    )


async def setup_works(session: AsyncSession, since: datetime) -> bool:
    """Return whether the breaker is closed and the server has accepted an email after `since`."""
    proven = select(SendingControl.singleton).where(SendingControl.breaker_trips == 0, SendingControl.proven_at > since)
    return await session.scalar(proven) is not None


async def note_failure(session: AsyncSession, attempt: Attempt, lease_id: UUID, host: str, *, opens: bool) -> None:
    """Update the breaker after an attempt that was not accepted: open it, close it, or end the probe.

    A reply to RCPT or DATA only shows that the server is available and accepts our login. So after a refusal only an
    accepted email closes the breaker.
    """
    if opens:
        await _trip(session, attempt, lease_id, host)
        return
    if attempt.outcome is not Outcome.ABANDONED and attempt.phase not in {Phase.ADDRESS, Phase.SIZE, Phase.LEASE}:
        logged_in = SendingControl.breaker_phase.in_(BEFORE_RECIPIENT)
        closing = update(SendingControl).where(SendingControl.breaker_trips > 0, logged_in).values(CLOSED_BREAKER)
        await session.execute(closing.execution_options(**_NO_SYNC))
    await end_probe(session, lease_id)


async def open_breaker(session: AsyncSession, refused: Attempt, host: str) -> None:
    """Open the breaker because of what was reported later: that our sender or our setup is refused.

    An open one stays as it is: reports can be forged, so many of them pause sending no longer than one.
    """
    state = await read_sending_state(session, lock=True)
    if not state.control.breaker_trips:
        await _trip(session, refused, uuid4(), host)


async def _trip(session: AsyncSession, attempt: Attempt, lease_id: UUID, host: str) -> None:
    """Open the breaker, or keep it open after a failed probe. Failures of other emails while it is open are ignored."""
    state = await read_sending_state(session, lock=True)
    control, now = state.control, state.now
    if control.breaker_until is not None and control.breaker_until > now and control.breaker_probe != lease_id:
        return
    control.breaker_trips += 1
    control.breaker_since = control.breaker_since or now
    control.breaker_until = now + timedelta(seconds=breaker_pause(attempt.outcome, control.breaker_trips))
    control.breaker_phase, control.breaker_host = attempt.phase, host
    control.breaker_code, control.breaker_reason, control.breaker_probe = attempt.code, attempt.reply, None
    await session.flush()
    failpoint("breaker-tripped")
    # Not the reply, which may quote an address. `chats status` shows it.
    log.error(
        "sending paused: mail server busy" if attempt.outcome is Outcome.BUSY else "sending paused: check mail setup",
        outcome=attempt.outcome,
        phase=attempt.phase,
        host=host,
        code=attempt.code,
        status=enhanced_status(attempt.reply),
        until=str(control.breaker_until),
    )
