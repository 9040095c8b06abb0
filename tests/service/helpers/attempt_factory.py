"""What a sender writes down of a mail that it holds, for tests that are the sender."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery import attempts
from services.notifications.delivery.attempts import EndedAttempt, record_accepted, record_failed
from services.notifications.delivery.leases import ClaimedEmail, pending_work
from services.notifications.mail.attempts import Attempt
from services.notifications.rules import Outcome
from services.notifications.settings import EmailSettings
from shared.database import driver_connection


async def has_due_email(session: AsyncSession) -> bool:
    """Tell whether a drain would find something."""
    return any(await pending_work(await driver_connection(session)))


async def begin_data(session: AsyncSession, email: ClaimedEmail) -> bool:
    """Note that the text of a mail is about to go out; tell whether it may."""
    return bool(await attempts.begin_data(await driver_connection(session), [email]))


async def record_try(
    session: AsyncSession,
    email: ClaimedEmail,
    attempt: Attempt,
    settings: EmailSettings,
    *,
    started_at: datetime | None = None,
) -> None:
    """Record how a try ended."""
    ended = [EndedAttempt(email, attempt, started_at or datetime.now(UTC))]
    if attempt.outcome is Outcome.ACCEPTED:
        await record_accepted(await driver_connection(session), ended)
    else:
        await record_failed(session, ended, settings)
