"""What is read and wanted by an admin: conditions and preferences of their notifications and emails."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, Exists, and_, delete, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.models import (
    AdminMark,
    AdminNotification,
    AdminRead,
    Bell,
    ConversationState,
    Email,
    EmailMessage,
)
from services.notifications.rules import ACTS, NotificationType
from shared.database.orm import any_of


def record_id(type_: NotificationType, source_id: UUID, recipient_id: str | None = None) -> UUID:
    """Return the id of the notification about a note or an assignment to a recipient, or about a conversation."""
    return uuid5(source_id, f"{type_} {recipient_id}" if recipient_id is not None else type_)


def item_id(source_id: UUID, recipient_id: str) -> UUID:
    """Return the key of a message, note or assignment in the emails to an admin."""
    return uuid5(source_id, f"email {recipient_id}")


def is_read_by(admin_id: Any, number: Any) -> ColumnElement[bool]:
    """Return the condition that an admin has read an `AdminNotification`, as far as a message number.

    They have dismissed it, or opened the conversation since. What is for all admins is read when one of them has read
    it; then a colleague takes care of it.
    """
    record, shared = AdminNotification, ConversationState
    dismissed = _exists(
        AdminRead.notification_id == record.id, AdminRead.admin_id == admin_id, AdminRead.turn >= record.turn
    )
    all_dismissed = _exists(Bell.admin_id == admin_id, Bell.read_through >= record.turn)
    opened = _exists(
        AdminMark.conversation_id == record.conversation_id,
        AdminMark.admin_id == admin_id,
        AdminMark.number >= number,
        record.type.not_in(ACTS) | (AdminMark.read_at >= record.occurred_at),
    )
    opened_by_one = _exists(
        shared.conversation_id == record.conversation_id,
        # Without messages there is none to read; who has read later ones has opened it, too.
        (shared.read_by_admin_number >= func.greatest(number, 1)) | (shared.opened_by_admin & (number == 0)),
    )
    return or_(dismissed, all_dismissed, opened, and_(record.recipient_id.is_(None), opened_by_one))


def _exists(*conditions: ColumnElement[bool]) -> Exists:
    """Return a condition for a row of another table, within a query of notifications or of emails."""
    return exists().where(*conditions).correlate(AdminNotification, Email, EmailMessage)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where an admin wants to see notifications of a type."""

    bell: bool
    email: bool


Preferences = Mapping[NotificationType, Choice]

DEFAULTS: Preferences = {
    type_: Choice(bell=True, email=type_ in ACTS) for type_ in NotificationType if type_ != NotificationType.NEW_MESSAGE
}


def _preferences_of(stored: Mapping[str, Any] | None) -> Preferences:
    """Return an admin's preferences: the defaults with what was stored."""
    known = stored or {}
    return {type_: Choice(**known[type_]) if type_ in known else choice for type_, choice in DEFAULTS.items()}


async def load_preferences(session: AsyncSession, admin_id: str) -> Preferences:
    """Return an admin's preferences."""
    return _preferences_of(await session.scalar(select(Bell.preferences).where(Bell.admin_id == admin_id)))


async def load_email_choices(session: AsyncSession) -> tuple[dict[str, Preferences], set[str]]:
    """Return the preferences of the admins who have any, a row for each of a few, and who of them wants a digest."""
    columns = (Bell.admin_id, Bell.preferences, Bell.digest_at.is_not(None).label("digest"))
    rows = (await session.execute(select(*columns).where(Bell.preferences.is_not(None)))).all()
    choices = {row.admin_id: _preferences_of(row.preferences) for row in rows}
    return choices, {row.admin_id for row in rows if row.digest}


def email_recipients(
    type_: NotificationType, recipients: Sequence[str] | None, choices: Mapping[str, Preferences]
) -> list[str]:
    """Return who of the recipients, or of all admins, wants emails of a type."""
    if recipients is None:
        return sorted(admin_id for admin_id, preferences in choices.items() if preferences[type_].email)
    return [admin_id for admin_id in recipients if choices.get(admin_id, DEFAULTS)[type_].email]


async def forget_admins(session: AsyncSession, ids: Collection[str]) -> None:
    """Delete what belongs to deleted users: their notifications, reading and preferences."""
    if not ids:
        return
    for model, column in (
        (AdminNotification, AdminNotification.recipient_id),
        (AdminRead, AdminRead.admin_id),
        (AdminMark, AdminMark.admin_id),
        (Bell, Bell.admin_id),
    ):
        await session.execute(delete(model).where(any_of(column, ids)))
