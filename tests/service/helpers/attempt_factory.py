"""What a sender records about an email that it claimed, for tests that act as the sender."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery import attempts
from services.notifications.delivery.attempts import EndedAttempt, record_accepted, record_failed
from services.notifications.delivery.leases import ClaimedEmail, pending_work
from services.notifications.mail.attempts import Attempt
from services.notifications.rules import Outcome
from services.notifications.settings import EmailSettings
from shared.database.transactions import driver_connection


async def has_due_email(session: AsyncSession) -> bool:
    """Return whether a sender would find work."""
    return any(await pending_work(await driver_connection(session)))


async def begin_data(session: AsyncSession, email: ClaimedEmail) -> bool:
    """Record that the email's content is about to be sent; return whether it may be."""
    return bool(await attempts.begin_data(await driver_connection(session), [email]))


async def record_attempt(
    session: AsyncSession,
    email: ClaimedEmail,
    attempt: Attempt,
    settings: EmailSettings,
    *,
    started_at: datetime | None = None,
) -> None:
    """Record the outcome of an attempt."""
    ended = [EndedAttempt(email, attempt, started_at or datetime.now(UTC))]
    if attempt.outcome is Outcome.ACCEPTED:
        await record_accepted(await driver_connection(session), ended)
    else:
        await record_failed(session, ended, settings)
