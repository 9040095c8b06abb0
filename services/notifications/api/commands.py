"""Changes that customers make to notifications. None of these functions commits."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.api.queries import is_visible
from services.notifications.delivery.scheduling import mark_notifications_read, review_emails
from services.notifications.models import Notification
from services.notifications.rules import Audience
from services.notifications.settings import StoreSettings
from shared.problems import NotFound


async def read_notification(
    session: AsyncSession, user_id: str, notification_id: UUID, settings: StoreSettings
) -> None:
    """Mark one of a customer's notifications as read, which cancels its email. Raises `NotFound`."""
    query = select(Notification.id).where(
        Notification.id == notification_id, Notification.user_id == user_id, is_visible()
    )
    if await session.scalar(query) is None:
        raise NotFound("There is no notification with this id.")
    await _mark_read(session, user_id, settings, only=notification_id)


async def read_all_notifications(session: AsyncSession, user_id: str, settings: StoreSettings) -> None:
    """Mark all of a customer's notifications as read, which cancels their emails."""
    await _mark_read(session, user_id, settings)


async def _mark_read(session: AsyncSession, user_id: str, settings: StoreSettings, *, only: UUID | None = None) -> None:
    which = (Notification.user_id == user_id) & is_visible()
    if only is not None:
        which &= Notification.id == only
    if conversations := await mark_notifications_read(session, which):
        await review_emails(session, conversations, Audience.CUSTOMER, settings)
