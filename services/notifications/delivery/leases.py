"""Who holds a mail, and what became of it: leases, the breaker, the record of each try.

A process may die at any line. Before `data_at` is committed nothing can have reached the mail server, and the mail
goes back at no cost; after it the server may have the mail, and the try is uncertain.
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
from shared.database import Driver
from shared.tables import any_of

LEASE = timedelta(seconds=60)  # that a claim holds without being renewed


@dataclass(frozen=True, slots=True)
class ClaimedEmail:
    """A mail that this process holds, with the bytes to send."""

    id: UUID
    lease_id: UUID
    to_address: str
    content: bytes
    counted_tries: int
    uncertain_tries: int
    refused_at: datetime | None = None

    @property
    def held(self) -> ColumnElement[bool]:
        """The condition under which the lease is still ours."""
        return (Email.id == self.id) & (Email.lease_id == self.lease_id)


class PendingWork(NamedTuple):
    """What there is to do: mail that is due and may be sent, mail whose holder's lease ran out."""

    due: bool
    lost: bool


async def pending_work(connection: Driver, *, overdue: float = 0) -> PendingWork:
    """Tell what a drain would find; as due counts what has been for `overdue` seconds."""
    row = await connection.fetchrow(_PENDING, overdue)
    assert row is not None  # noqa: S101 - it counts nothing
    return PendingWork(**row)


async def renew_lease(session: AsyncSession, lease_id: UUID) -> None:
    """Hold on to all mails of a lease that are still being sent."""
    await session.execute(
        update(Email)
        .where(Email.lease_id == lease_id, Email.state == EmailState.SENDING)
        .values(lease_until=func.clock_timestamp() + LEASE)
        .execution_options(synchronize_session=False)
    )


async def release(session: AsyncSession, emails: Sequence[ClaimedEmail]) -> None:
    """Give back mails that were claimed under one lease and not begun."""
    which = any_of(Email.id, [email.id for email in emails]) & (Email.lease_id == emails[0].lease_id)
    await move_emails(session, which, EmailState.SCHEDULED, {}, leaving=(EmailState.SENDING,))
    await end_probe(session, emails[0].lease_id)


# The time in queries of their own: so it is read once, and the indexes can be searched by it.
_PENDING = f"""
select
    {MAY_CLAIM} and exists (
        select from emails
        where state = 'scheduled' and next_attempt_at <= (select clock_timestamp() - make_interval(secs => $1))
    ) as due,
    exists (select from emails where state = 'sending' and lease_until < (select clock_timestamp())) as lost
"""  # noqa: S608 - built from constants
