"""All queries of the API, scoped to the caller in their SQL."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, exists, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.erasure import under_erasure
from services.notifications.delivery.transitions import WAITING_STATES
from services.notifications.models import (
    AdminNotification,
    ConversationState,
    DeliveryAttempt,
    Email,
    EmailMessage,
    Notification,
    Person,
)
from services.notifications.rules import ACTS, EmailState
from shared.paging import decode_cursor, encode_cursor


def is_visible() -> ColumnElement[bool]:
    """Return the condition that a `Notification` is visible: not of a deleted conversation that is being erased."""
    return ~exists().where(
        ConversationState.conversation_id == Notification.conversation_id, ConversationState.deleted_at.is_not(None)
    )


async def list_notifications(
    session: AsyncSession, user_id: str, *, unread: bool | None, cursor: str | None, limit: int
) -> tuple[list[tuple[Notification, Person | None]], str | None]:
    """Return a page of a customer's notifications with their senders, newest first, and the next cursor."""
    bound = (user_id, unread)
    query = (
        select(Notification, Person)
        .outerjoin(Person, Person.id == Notification.sender_id)
        .where(Notification.user_id == user_id, is_visible())
        .order_by(Notification.id.desc())
    )
    if unread is not None:
        query = query.where(Notification.read_at.is_(None) if unread else Notification.read_at.is_not(None))
    if cursor is not None:
        query = query.where(Notification.id < decode_cursor(cursor, bound, UUID)[0])
    rows: list[Any] = list((await session.execute(query.limit(limit + 1))).all())
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(bound, [str(rows[limit - 1][0].id)])


async def count_unread(session: AsyncSession, user_id: str) -> int:
    """Count a customer's unread notifications."""
    query = select(func.count()).where(Notification.user_id == user_id, Notification.read_at.is_(None), is_visible())
    return (await session.execute(query)).scalar_one()


async def list_emails(
    session: AsyncSession, *, conversation_id: UUID | None, state: EmailState | None, cursor: str | None, limit: int
) -> tuple[list[tuple[Email, list[UUID], list[DeliveryAttempt]]], str | None]:
    """Return a page of emails with their messages and attempts, newest first, and the next cursor."""
    bound = (conversation_id, state)
    query = select(Email).order_by(Email.id.desc())
    if conversation_id is not None:
        query = query.where(Email.conversation_id == conversation_id)
    if state is not None:
        # Written into the statement, so that PostgreSQL finds the index of this state.
        query = query.where(Email.state == literal(state, literal_execute=True))
        if state not in WAITING_STATES:
            query = query.where(Email.finished_at.is_not(None))
    if cursor is not None:
        query = query.where(Email.id < decode_cursor(cursor, bound, UUID)[0])
    emails = (await session.scalars(query.limit(limit + 1))).all()
    page = emails[:limit]
    messages, attempts = await _read_details(session, [email.id for email in page])
    in_erasure = await under_erasure(session, {email.recipient_id for email in page})
    for email in (email for email in page if email.recipient_id in in_erasure):
        session.expunge(email)  # hide the address in the response only, not in the database
        email.to_address = None
        for attempt in attempts.get(email.id, []):
            session.expunge(attempt)
            attempt.reply = ""
    items = [(email, messages.get(email.id, []), attempts.get(email.id, [])) for email in page]
    return items, encode_cursor(bound, [str(page[-1].id)]) if len(emails) > limit else None


async def _read_details(
    session: AsyncSession, email_ids: Sequence[UUID]
) -> tuple[dict[UUID, list[UUID]], dict[UUID, list[DeliveryAttempt]]]:
    messages: dict[UUID, list[UUID]] = {}
    source = select(AdminNotification.source_id).where(
        AdminNotification.id == EmailMessage.notification_id,
        AdminNotification.type.not_in(ACTS),
        AdminNotification.number == EmailMessage.number,
    )
    message_id = case((EmailMessage.notification_id.is_(None), EmailMessage.message_id), else_=source.scalar_subquery())
    included = select(EmailMessage.email_id, message_id.label("message_id")).where(
        EmailMessage.email_id.in_(email_ids), EmailMessage.left_out.is_(False)
    )
    for row in await session.execute(included.order_by(EmailMessage.number)):
        if row.message_id is not None:
            messages.setdefault(row.email_id, []).append(row.message_id)
    attempts: dict[UUID, list[DeliveryAttempt]] = {}
    for attempt in await session.scalars(
        select(DeliveryAttempt).where(DeliveryAttempt.email_id.in_(email_ids)).order_by(DeliveryAttempt.id)
    ):
        attempts.setdefault(attempt.email_id, []).append(attempt)
    return messages, attempts
