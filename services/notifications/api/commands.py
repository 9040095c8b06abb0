"""What people do to notifications and mail, one function each. None of them commits."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.api.queries import is_in_sight
from services.notifications.delivery.scheduling import mark_notifications_read, review_emails
from services.notifications.models import Notification
from services.notifications.rules import Audience
from services.notifications.settings import StoreSettings
from shared.problems import NotFound


async def read_notification(
    session: AsyncSession, user_id: str, notification_id: UUID, settings: StoreSettings
) -> None:
    """Mark one of a customer's notifications as read, which stops its mail. Raises `NotFound`."""
    mine = select(Notification.id).where(
        Notification.id == notification_id, Notification.user_id == user_id, is_in_sight()
    )
    if await session.scalar(mine) is None:
        raise NotFound("There is no such notification.")
    await _mark_read(session, user_id, settings, only=notification_id)


async def read_all_notifications(session: AsyncSession, user_id: str, settings: StoreSettings) -> None:
    """Mark all of a customer's notifications as read, which stops their mail."""
    await _mark_read(session, user_id, settings)


async def _mark_read(session: AsyncSession, user_id: str, settings: StoreSettings, *, only: UUID | None = None) -> None:
    theirs = (Notification.user_id == user_id) & is_in_sight()
    if conversations := await mark_notifications_read(
        session, theirs if only is None else theirs & (Notification.id == only)
    ):
        await review_emails(session, conversations, Audience.CUSTOMER, settings)
