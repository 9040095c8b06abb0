"""Leases: which process may send an email, and for how long.

A process may die at any point. Before `data_at` is committed nothing can have reached the mail server, and the email is
released at no cost. After it the server may have the email, and the attempt is uncertain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, func, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.circuit_breaker import MAY_CLAIM, end_probe
from services.notifications.delivery.transitions import move_emails
from services.notifications.models import Email
from services.notifications.rules import EmailState
from shared.database.engine import Driver
from shared.database.orm import any_of

LEASE = timedelta(seconds=60)  # how long a claim is valid without renewal


@dataclass(frozen=True, slots=True)
class ClaimedEmail:
    """An email that this process has claimed, with the bytes to send."""

    id: UUID
    lease_id: UUID
    envelope_from: str
    to_address: str
    content: bytes
    counted_tries: int
    uncertain_tries: int
    refused_at: datetime | None = None
    message_ids: tuple[UUID, ...] = ()

    @property
    def held(self) -> ColumnElement[bool]:
        """The SQL condition that this process still has the lease."""
        return (Email.id == self.id) & (Email.lease_id == self.lease_id)


class PendingWork(NamedTuple):
    """Whether there are emails that are due and may be sent, and emails whose lease has expired."""

    due: bool
    expired: bool


async def pending_work(connection: Driver, *, overdue: float = 0) -> PendingWork:
    """Return what `drain` would find; only emails that are overdue by at least `overdue` seconds count as due."""
    row = await connection.fetchrow(_PENDING, overdue)
    assert row is not None  # noqa: S101 - the query always returns a row
    return PendingWork(**row)


async def renew_lease(session: AsyncSession, lease_id: UUID) -> None:
    """Renew a lease for all of its emails that are still being sent."""
    await session.execute(
        update(Email)
        .where(Email.lease_id == lease_id, Email.state == EmailState.SENDING)
        .values(lease_until=func.clock_timestamp() + LEASE)
        .execution_options(synchronize_session=False)
    )


async def release(session: AsyncSession, emails: Sequence[ClaimedEmail]) -> None:
    """Release emails that were claimed under one lease and not attempted."""
    which = any_of(Email.id, [email.id for email in emails]) & (Email.lease_id == emails[0].lease_id)
    await move_emails(session, which, EmailState.SCHEDULED, {}, leaving=(EmailState.SENDING,))
    await end_probe(session, emails[0].lease_id)


# A subquery for the time: PostgreSQL evaluates it once, so it can use the indexes.
_PENDING = f"""
select
    {MAY_CLAIM} and exists (
        select from emails
        where state = 'scheduled' and next_attempt_at <= (select clock_timestamp() - make_interval(secs => $1))
    ) as due,
    exists (select from emails where state = 'sending' and lease_until < (select clock_timestamp())) as expired
"""  # noqa: S608 - built from constants
