"""What people do to notifications and mail, one function each. None of them commits."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.emails import mark_notifications_read, move_emails, review_emails
from services.notifications.errors import EmailNotFailed
from services.notifications.models import Email, Gate, Notification
from services.notifications.rules import Audience, EmailState
from services.notifications.settings import StoreSettings
from shared.problems import NotFound


async def read_notification(
    session: AsyncSession, user_id: str, notification_id: UUID, settings: StoreSettings
) -> None:
    """Mark one of a customer's notifications as read, which stops its mail. Raises `NotFound`."""
    mine = select(Notification.id).where(Notification.id == notification_id, Notification.user_id == user_id)
    if await session.scalar(mine) is None:
        raise NotFound("There is no such notification.")
    await _mark_read(session, user_id, settings, only=notification_id)


async def read_all_notifications(session: AsyncSession, user_id: str, settings: StoreSettings) -> None:
    """Mark all of a customer's notifications as read, which stops their mail."""
    await _mark_read(session, user_id, settings)


async def retry_email(session: AsyncSession, email_id: UUID) -> None:
    """Let a failed mail be due again, from the beginning of its schedule. Raises `NotFound` or `EmailNotFailed`.

    No message joins it: its conversation may have another mail by now that is open.
    """
    now = func.clock_timestamp()
    values = {
        "reason": None,
        "counted_tries": 0,
        "uncertain_tries": 0,
        "next_attempt_at": now,
        "claimed_at": func.coalesce(Email.claimed_at, now),
    }
    if await move_emails(session, Email.id == email_id, EmailState.SCHEDULED, values, leaving=(EmailState.FAILED,)):
        return
    email = await session.get(Email, email_id)
    if email is None:
        raise NotFound("There is no such mail.")
    raise EmailNotFailed(f"This mail is {email.state}; only a failed one is retried.")


async def pause_sending(session: AsyncSession) -> None:
    """Stop all sending until it is resumed. Mail that is on its way goes out."""
    await session.execute(update(Gate).values(paused_at=func.coalesce(Gate.paused_at, func.clock_timestamp())))


async def resume_sending(session: AsyncSession) -> None:
    """Start sending again, also past an open breaker."""
    await session.execute(update(Gate).values(paused_at=None, breaker_trips=0, breaker_until=None, breaker_reason=None))


async def _mark_read(session: AsyncSession, user_id: str, settings: StoreSettings, *, only: UUID | None = None) -> None:
    theirs = Notification.user_id == user_id
    if conversations := await mark_notifications_read(
        session, theirs if only is None else theirs & (Notification.id == only)
    ):
        await review_emails(session, conversations, Audience.CUSTOMER, settings)
