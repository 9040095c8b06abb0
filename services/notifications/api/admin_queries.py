"""Queries and changes of admins' notifications, scoped to the caller in their SQL. None of these functions commits."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, exists, func, literal, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from services.notifications.delivery.admin_records import Preferences, is_read_by, load_preferences
from services.notifications.delivery.scheduling import review_emails
from services.notifications.delivery.timing import Timing, decide_again
from services.notifications.delivery.transitions import cancel_emails, lock_emails
from services.notifications.models import (
    AdminNotification,
    AdminRead,
    Bell,
    ConversationState,
    Email,
    EmailMessage,
    Person,
)
from services.notifications.rules import Audience, EmailState, Reason
from services.notifications.settings import StoreSettings
from shared.database.orm import any_of
from shared.paging import decode_cursor, encode_cursor
from shared.problems import NotFound

MOST_COUNTED = 1000  # of the newest notifications, that a count of unread ones looks at


async def list_admin_notifications(
    session: AsyncSession, admin_id: str, *, unread: bool | None, cursor: str | None, limit: int
) -> tuple[list[tuple[AdminNotification, Person | None, bool]], str | None]:
    """Return a page of an admin's notifications with who caused them and whether they are read; and the next cursor.

    The newest are first: one that changes moves to the start.
    """
    bound = ("admin", admin_id, unread)
    is_read, known = _is_read(admin_id), aliased(Person)
    query = (
        select(AdminNotification, Person, is_read)
        .outerjoin(known, known.id == AdminNotification.actor_id)
        .outerjoin(Person, Person.id == func.coalesce(known.merged_into, known.id))
        .where(_is_visible(admin_id, await load_preferences(session, admin_id)))
        .order_by(AdminNotification.turn.desc())
    )
    if unread is not None:
        query = query.where(~is_read if unread else is_read)
    if cursor is not None:
        query = query.where(AdminNotification.turn < decode_cursor(cursor, bound, UUID)[0])
    rows: list[Any] = list((await session.execute(query.limit(limit + 1))).all())
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(bound, [str(rows[limit - 1][0].turn)])


async def count_admin_unread(session: AsyncSession, admin_id: str) -> int:
    """Count an admin's unread notifications, among the newest thousand."""
    shown = _is_visible(admin_id, await load_preferences(session, admin_id))
    newest = select(AdminNotification.id).where(shown).order_by(AdminNotification.turn.desc()).limit(MOST_COUNTED)
    query = select(func.count()).where(AdminNotification.id.in_(newest), ~_is_read(admin_id))
    return (await session.execute(query)).scalar_one()


async def read_admin_notification(
    session: AsyncSession, admin_id: str, notification_id: UUID, settings: StoreSettings
) -> None:
    """Mark a notification as read by an admin, which stops their email. Raises `NotFound`."""
    record = await session.scalar(
        select(AdminNotification)
        .where(AdminNotification.id == notification_id, _is_visible(admin_id))
        .with_for_update(read=True, key_share=True)  # excludes a concurrent deletion
    )
    if record is None:
        raise NotFound("There is no notification with this id.")
    read = insert(AdminRead).values(notification_id=record.id, admin_id=admin_id, turn=record.turn)
    await session.execute(
        read.on_conflict_do_update(
            index_elements=[AdminRead.notification_id, AdminRead.admin_id], set_={"turn": read.excluded.turn}
        )
    )
    await review_emails(session, [record.conversation_id], Audience.ADMIN, settings)


async def read_all_admin_notifications(session: AsyncSession, admin_id: str, settings: StoreSettings) -> None:
    """Mark all of an admin's notifications as read, which stops their emails: one row, however many there are."""
    newest = await session.scalar(
        select(AdminNotification.turn).where(_is_visible(admin_id)).order_by(AdminNotification.turn.desc()).limit(1)
    )
    if newest is None:
        return
    bell = insert(Bell).values(admin_id=admin_id, read_through=newest)
    later = func.greatest(Bell.read_through, bell.excluded.read_through)
    await session.execute(bell.on_conflict_do_update(index_elements=[Bell.admin_id], set_={"read_through": later}))
    await session.execute(delete(AdminRead).where(AdminRead.admin_id == admin_id, AdminRead.turn <= newest))
    waiting = select(Email.conversation_id).where(
        Email.recipient_id == admin_id, Email.audience == Audience.ADMIN, Email.state == EmailState.SCHEDULED
    )
    await review_emails(session, (await session.scalars(waiting.distinct())).all(), Audience.ADMIN, settings)


async def save_preferences(session: AsyncSession, admin_id: str, preferences: Preferences, timing: Timing) -> None:
    """Save an admin's preferences. They hold for emails that wait, too: for their times, and for what is in them."""
    stored = {str(type_): {"bell": choice.bell, "email": choice.email} for type_, choice in preferences.items()}
    values = {
        "preferences": stored,
        "quiet_start": timing.quiet and timing.quiet.start,
        "quiet_end": timing.quiet and timing.quiet.end,
        "digest_at": timing.digest_at,
    }
    bell = insert(Bell).values(admin_id=admin_id, **values)
    await session.execute(bell.on_conflict_do_update(index_elements=[Bell.admin_id], set_=values))
    await _leave_out_unwanted(session, admin_id, preferences)
    await decide_again(session, [admin_id])


async def _leave_out_unwanted(session: AsyncSession, admin_id: str, preferences: Preferences) -> None:
    """Leave out of an admin's open emails what they want none about, and cancel those in which nothing else is."""
    unwanted = [type_ for type_, choice in preferences.items() if not choice.email]
    is_open = (Email.audience == Audience.ADMIN) & (Email.state == EmailState.SCHEDULED) & Email.claimed_at.is_(None)
    # Locked before what is in them is read, so that nothing joins them meanwhile.
    emails = await lock_emails(session, (Email.recipient_id == admin_id) & is_open)
    if not emails or not unwanted:
        return
    about = exists().where(
        AdminNotification.id == EmailMessage.notification_id, any_of(AdminNotification.type, unwanted)
    )
    await session.execute(
        update(EmailMessage)
        .where(any_of(EmailMessage.email_id, emails), about)
        .values(left_out=True)
        .execution_options(synchronize_session=False)
    )
    has_others = exists().where(EmailMessage.email_id == Email.id, EmailMessage.left_out.is_(False))
    await cancel_emails(session, any_of(Email.id, emails) & ~has_others, Reason.MUTED)


def _is_read(admin_id: str) -> ColumnElement[bool]:
    return is_read_by(literal(admin_id), AdminNotification.number)


def _is_visible(admin_id: str, preferences: Preferences | None = None) -> ColumnElement[bool]:
    """Return the condition that an `AdminNotification` is an admin's, of a conversation that was not deleted.

    With `preferences`, only those that the admin wants in the bell.
    """
    deleted = exists().where(
        ConversationState.conversation_id == AdminNotification.conversation_id,
        ConversationState.deleted_at.is_not(None),
    )
    theirs = or_(AdminNotification.recipient_id.is_(None), AdminNotification.recipient_id == admin_id)
    shown = [type_ for type_ in preferences if preferences[type_].bell] if preferences is not None else None
    return and_(theirs, ~deleted, true() if shown is None else any_of(AdminNotification.type, shown))
