"""Whether mail may be sent at all: not paused, the set-up not at fault, and known which mail was sent; see `Gate`."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Text, func, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.mail.transport import Try
from services.notifications.models import Gate
from services.notifications.rules import breaker_pause
from shared.database import incarnation_of
from shared.failpoints import failpoint

_HERE = incarnation_of("gate")

MAY_BEGIN = f"exists (select from gate where paused_at is null and (incarnation is null or incarnation = {_HERE}))"
"""Whether, as SQL, a mail that was claimed may still go out; the breaker stops claims only."""
MAY_CLAIM = (
    f"{MAY_BEGIN} and exists (select from gate where breaker_until is null or breaker_until <= clock_timestamp())"
)
"""Whether, as SQL, the gate is open."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class GateState:
    """The gate at a moment of the database's clock. `known`: it is known which mail was sent; see `Gate`."""

    row: Gate
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


async def read_gate(session: AsyncSession) -> GateState:
    """Read whether mail may be sent."""
    found = select(Gate, func.clock_timestamp(), literal_column(_HERE, Text)).execution_options(populate_existing=True)
    return GateState(*(await session.execute(found)).one())


async def close_breaker(session: AsyncSession) -> None:
    """Note that the set-up works."""
    await session.execute(
        update(Gate)
        .where(Gate.breaker_trips > 0)
        .values(breaker_trips=0, breaker_until=None, breaker_reason=None)
        .execution_options(synchronize_session=False)
    )


async def trip_breaker(session: AsyncSession, attempt: Try) -> None:
    """Let all sending pause, unless it does already: no mail would have gone through."""
    gate = await session.get_one(Gate, True, with_for_update=True, populate_existing=True)
    now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    if gate.breaker_until is None or gate.breaker_until <= now:
        gate.breaker_trips += 1
        gate.breaker_until = now + timedelta(seconds=breaker_pause(gate.breaker_trips))
        gate.breaker_reason = attempt.reply
        failpoint("breaker-tripped")
        # Without the reply, which may quote an address; `chats status` shows it.
        log.error(
            "mail set-up is at fault, sending pauses",
            phase=attempt.phase,
            code=attempt.code,
            until=str(gate.breaker_until),
        )
