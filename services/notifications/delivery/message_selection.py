"""How much one mail holds: what is too much for it goes into the next, so that none is cut off by a mail program.

A mail may wait for hours, for room under the caps or while sending is paused, and what is written meanwhile joins it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, takewhile
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Row, Uuid, bindparam, column, func, insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.scheduling import is_unread
from services.notifications.mail.bodies import html_size
from services.notifications.models import Email, EmailMessage
from services.notifications.rules import EmailState
from shared.tables import any_of

MOST_MESSAGES = 100
MOST_BYTES = 70_000  # of HTML, 100,000 as encoded: Gmail cuts off what is beyond 102 KB. The largest message has 61,200


@dataclass(frozen=True, slots=True)
class EmailBatch:
    """The messages that a mail tells, as rows, and whether it has more than it can hold."""

    messages: Sequence[Row[*tuple[Any, ...]]] = ()
    more: bool = False


async def select_messages(session: AsyncSession, emails: Sequence[Email]) -> dict[UUID, EmailBatch]:
    """Return the messages of mails by their ids; of one of which all was read, none.

    Of a mail that was composed before they are those that it said: its recipient may have it already.
    """
    found: dict[UUID, list[Row[*tuple[Any, ...]]]] = {email.id: [] for email in emails}
    composed = [email.id for email in emails if email.message_id is not None]
    if composed:
        said = _MESSAGES.where(any_of(EmailMessage.email_id, composed), EmailMessage.left_out.is_(False))
        for row in await session.execute(said):
            found[row.email_id].append(row)
    open_ids = [email.id for email in emails if email.message_id is None]
    if open_ids:
        for row in await session.execute(_OPEN, {"ids": open_ids}):
            found[row.email_id].append(row)
    return {key: _select(rows, composed=key in composed) for key, rows in found.items()}


def _select(rows: Sequence[Row[*tuple[Any, ...]]], *, composed: bool) -> EmailBatch:
    if not any(row.unread for row in rows):
        return EmailBatch()
    if composed:
        return EmailBatch(rows)
    sizes = accumulate(html_size(one.body) for one in rows[:MOST_MESSAGES])
    held = max(1, sum(1 for _ in takewhile(lambda size: size <= MOST_BYTES, sizes)))
    return EmailBatch(rows[:held], held < len(rows))


async def split_email(session: AsyncSession, email: Email, last: int, now: datetime) -> None:
    """Close a mail behind the message number `last`, and put what follows into another one, due now."""
    await session.execute(update(Email).where(Email.id == email.id).values(claimed_at=now))
    same = ("audience", "recipient_id", "conversation_id", "subject", "due_at")
    values = {name: getattr(email, name) for name in same}
    another = insert(Email).values(**values, state=EmailState.SCHEDULED, next_attempt_at=now).returning(Email.id)
    await session.execute(
        update(EmailMessage)
        .where(EmailMessage.email_id == email.id, EmailMessage.number > last)
        .values(email_id=await session.scalar(another))
        .execution_options(synchronize_session=False)
    )


_MESSAGES = (
    select(
        EmailMessage.email_id,
        EmailMessage.message_id,
        EmailMessage.number,
        EmailMessage.sender_id,
        EmailMessage.body,
        EmailMessage.created_at,
        is_unread().label("unread"),
    )
    .join(Email, Email.id == EmailMessage.email_id)
    .order_by(EmailMessage.number)
)
_EACH = func.unnest(bindparam("ids", type_=ARRAY(Uuid))).table_valued(column("id", Uuid), name="each").render_derived()
_OF_EACH = _MESSAGES.where(EmailMessage.email_id == _EACH.c.id, is_unread()).limit(MOST_MESSAGES + 1).lateral("of_each")
_OPEN = select(_OF_EACH).select_from(_EACH.join(_OF_EACH, true())).order_by(_OF_EACH.c.number)
