"""Which messages an email contains. Messages over the size limit go into the next, so that no client clips an email.

An email may wait for hours, held back by the recipient limits or while sending is paused, and new messages join it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, takewhile
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Row, Uuid, bindparam, column, func, insert, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.scheduling import is_unread
from services.notifications.delivery.timing import is_digest
from services.notifications.mail.bodies import FILE_BYTES, html_size
from services.notifications.mail.message import Section
from services.notifications.models import AdminNotification, Email, EmailMessage
from services.notifications.rules import EmailState
from shared.database.orm import any_of

MAX_MESSAGES = 100
MAX_HTML_BYTES = 70_000  # 100,000 encoded: Gmail clips emails over 102 KB. The largest message has 61,200


@dataclass(frozen=True, slots=True)
class EmailBatch:
    """The messages that an email contains, as rows, and whether there are more than fit."""

    messages: Sequence[Row[*tuple[Any, ...]]] = ()
    more: bool = False


async def select_messages(session: AsyncSession, emails: Sequence[Email]) -> dict[UUID, EmailBatch]:
    """Return the messages of each email, by its id; none if all of them were read.

    An email that was rendered before keeps its messages: the recipient may have it already.
    """
    messages: dict[UUID, list[Row[*tuple[Any, ...]]]] = {email.id: [] for email in emails}
    rendered_ids = [email.id for email in emails if email.message_id is not None]
    if rendered_ids:
        included = _MESSAGES.where(any_of(EmailMessage.email_id, rendered_ids), EmailMessage.left_out.is_(False))
        for row in await session.execute(included):
            messages[row.email_id].append(row)
    open_ids = [email.id for email in emails if email.message_id is None]
    if open_ids:
        for row in await session.execute(_OPEN, {"ids": open_ids}):
            messages[row.email_id].append(row)
    digests = {email.id for email in emails if is_digest(email)}
    return {key: _select(rows, rendered=key in rendered_ids, digest=key in digests) for key, rows in messages.items()}


def _select(rows: Sequence[Row[*tuple[Any, ...]]], *, rendered: bool, digest: bool) -> EmailBatch:
    if not any(row.unread for row in rows):
        return EmailBatch()
    if rendered:
        return EmailBatch(rows)
    if digest:  # it has the start of each, and no next email
        return EmailBatch(rows[:MAX_MESSAGES], len(rows) > MAX_MESSAGES)
    sizes = accumulate(html_size(row.body) + FILE_BYTES * len(row.files or ()) for row in rows[:MAX_MESSAGES])
    count = max(1, sum(1 for _ in takewhile(lambda size: size <= MAX_HTML_BYTES, sizes)))
    return EmailBatch(rows[:count], count < len(rows))


async def load_sections(session: AsyncSession, emails: Sequence[Email]) -> dict[UUID, Section]:
    """Return the conversation of each item in the digests among emails."""
    digests = [email.id for email in emails if is_digest(email)]
    if not digests:
        return {}
    rows = await session.execute(_SECTIONS.where(any_of(EmailMessage.email_id, digests)))
    return {row.message_id: Section(row.conversation_id, row.subject or "") for row in rows}


async def split_email(session: AsyncSession, email: Email, last: Any, now: datetime) -> None:
    """Close an email after the message `last`, and move later messages to a new one, due now."""
    await session.execute(update(Email).where(Email.id == email.id).values(claimed_at=now))
    copied = ("audience", "recipient_id", "conversation_id", "subject", "due_at")
    values = {name: getattr(email, name) for name in copied}
    new_email = insert(Email).values(**values, state=EmailState.SCHEDULED, next_attempt_at=now).returning(Email.id)
    await session.execute(
        update(EmailMessage)
        .where(
            EmailMessage.email_id == email.id, tuple_(*_ORDER) > tuple_(last.number, last.created_at, last.message_id)
        )
        .values(email_id=await session.scalar(new_email))
        .execution_options(synchronize_session=False)
    )


# Only notes and assignments, in emails to admins, share a number.
_ORDER = (EmailMessage.number, EmailMessage.created_at, EmailMessage.message_id)
_MESSAGES = (
    select(
        EmailMessage.email_id,
        EmailMessage.message_id,
        EmailMessage.number,
        EmailMessage.sender_id,
        EmailMessage.body,
        EmailMessage.files,
        EmailMessage.created_at,
        select(AdminNotification.type)
        .where(AdminNotification.id == EmailMessage.notification_id)
        .scalar_subquery()
        .label("type"),
        is_unread().label("unread"),
    )
    .join(Email, Email.id == EmailMessage.email_id)
    .order_by(*_ORDER)
)
_SECTIONS = select(EmailMessage.message_id, EmailMessage.conversation_id, AdminNotification.subject).outerjoin(
    AdminNotification, AdminNotification.id == EmailMessage.notification_id
)
_IDS = func.unnest(bindparam("ids", type_=ARRAY(Uuid))).table_valued(column("id", Uuid), name="ids").render_derived()
_UNREAD = _MESSAGES.where(EmailMessage.email_id == _IDS.c.id, is_unread()).limit(MAX_MESSAGES + 1).lateral("unread")
_OPEN = (
    select(_UNREAD)
    .select_from(_IDS.join(_UNREAD, true()))
    .order_by(_UNREAD.c.number, _UNREAD.c.created_at, _UNREAD.c.message_id)
)
