"""Whether emails may be sent at all: not paused, the circuit breaker closed, no restore to settle."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Text, func, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.mail.attempts import BEFORE_RECIPIENT, Attempt, Phase
from services.notifications.mail.replies import enhanced_status
from services.notifications.models import SendingControl
from services.notifications.rules import Outcome, breaker_pause
from shared.database import database_identity_sql
from shared.failpoints import failpoint

_HERE = database_identity_sql("gate")

MAY_BEGIN = f"exists (select from gate where paused_at is null and (incarnation is null or incarnation = {_HERE}))"
"""Whether, as SQL, a mail that was claimed may still go out; the breaker stops claims only."""
MAY_CLAIM = (
    f"{MAY_BEGIN} and exists (select from gate where breaker_until is null or breaker_until <= clock_timestamp())"
)
"""Whether, as SQL, the gate is open."""

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
    """The gate at a moment of the database's clock. `known`: it is known which mail was sent; see `SendingControl`."""

    row: SendingControl
    now: datetime
    incarnation: str

    @property
    def known(self) -> bool:
        """Whether this is the database in which it was last known which mail was sent."""
        return self.row.incarnation in {None, self.incarnation}

    @property
    def settled(self) -> bool:
        """Whether there is nothing to find out about it."""
        return self.row.incarnation == self.incarnation

    @property
    def open(self) -> bool:
        """Whether mail may be sent."""
        until = self.row.breaker_until
        return self.known and self.row.paused_at is None and (until is None or until <= self.now)


async def read_sending_state(session: AsyncSession, *, lock: bool = False) -> SendingState:
    """Read whether mail may be sent; `lock` keeps others from claiming or opening the breaker meanwhile."""
    found = select(SendingControl, func.clock_timestamp(), literal_column(_HERE, Text)).execution_options(
        populate_existing=True
    )
    return SendingState(*(await session.execute(found.with_for_update() if lock else found)).one())


async def begin_probe(session: AsyncSession, lease_id: UUID, until: datetime) -> None:
    """Note which mail probes an open breaker: no other is sent until it has ended, or until this time."""
    await session.execute(
        update(SendingControl).values(breaker_probe=lease_id, breaker_until=until).execution_options(**_NO_SYNC)
    )


async def end_probe(session: AsyncSession, lease_id: UUID) -> None:
    """Let another mail probe at once: this one has shown nothing."""
    await session.execute(
        update(SendingControl)
        .where(SendingControl.breaker_probe == lease_id)
        .values(breaker_probe=None, breaker_until=func.clock_timestamp())
        .execution_options(**_NO_SYNC)
    )


async def set_up_works(session: AsyncSession, since: datetime) -> bool:
    """Tell whether the breaker is closed, and the server has accepted mail since a mail was refused."""
    proven = select(SendingControl.singleton).where(SendingControl.breaker_trips == 0, SendingControl.proven_at > since)
    return await session.scalar(proven) is not None


async def note_failure(session: AsyncSession, attempt: Attempt, lease_id: UUID, host: str, *, opens: bool) -> None:
    """Open the breaker after a try that was not accepted, or close it, or let another mail probe.

    A reply to a recipient or a text shows that the server is there and lets us log in, no more: after a refusal only
    an accepted mail closes the breaker.
    """
    if opens:
        await _trip(session, attempt, lease_id, host)
        return
    if attempt.outcome is not Outcome.ABANDONED and attempt.phase not in {Phase.ADDRESS, Phase.SIZE, Phase.LEASE}:
        logged_in = SendingControl.breaker_phase.in_(BEFORE_RECIPIENT)
        closing = update(SendingControl).where(SendingControl.breaker_trips > 0, logged_in).values(CLOSED_BREAKER)
        await session.execute(closing.execution_options(**_NO_SYNC))
    await end_probe(session, lease_id)


async def _trip(session: AsyncSession, attempt: Attempt, lease_id: UUID, host: str) -> None:
    """Let all sending pause, unless it does already: no mail would have gone through."""
    state = await read_sending_state(session, lock=True)
    gate, now = state.row, state.now
    if gate.breaker_until is not None and gate.breaker_until > now and gate.breaker_probe != lease_id:
        return
    gate.breaker_trips += 1
    gate.breaker_since = gate.breaker_since or now
    gate.breaker_until = now + timedelta(seconds=breaker_pause(attempt.outcome, gate.breaker_trips))
    gate.breaker_phase, gate.breaker_host = attempt.phase, host
    gate.breaker_code, gate.breaker_reason, gate.breaker_probe = attempt.code, attempt.reply, None
    await session.flush()
    failpoint("breaker-tripped")
    # Without the reply, which may quote an address; `chats status` shows it.
    log.error(
        "sending pauses: the mail server is busy"
        if attempt.outcome is Outcome.BUSY
        else "sending pauses: check the mail set-up",
        outcome=attempt.outcome,
        phase=attempt.phase,
        host=host,
        code=attempt.code,
        status=enhanced_status(attempt.reply),
        until=str(gate.breaker_until),
    )
