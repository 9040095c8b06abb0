"""How much one mail holds: what is too much for it goes into the next, so that none grows beyond what servers take.

A mail may wait for hours, for room under the caps or while sending is paused, and what is written meanwhile joins it.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.emails import is_unread
from services.notifications.models import Email, EmailMessage
from services.notifications.rules import EmailState

MOST_MESSAGES = 500
MOST_CHARACTERS = 250_000  # 6 MB as text and HTML at the worst; many servers take no more than 10


async def read_portion(session: AsyncSession, email: Email) -> tuple[Sequence[EmailMessage], bool]:
    """Return the messages of a mail, and whether it has more than it can hold; none when all of them were read.

    Of a mail that was composed before they are those that it said: its recipient may have it already.
    """
    composed = email.message_id is not None
    rows = (
        await session.execute(
            select(EmailMessage, is_unread().label("unread"))
            .join(Email, Email.id == EmailMessage.email_id)
            .where(Email.id == email.id, EmailMessage.left_out.is_(False) if composed else is_unread())
            .order_by(EmailMessage.number)
            .limit(None if composed else MOST_MESSAGES + 1)
        )
    ).all()
    if not any(row.unread for row in rows):
        return [], False
    messages = [row.EmailMessage for row in rows]
    if composed:
        return messages, False
    sizes = accumulate(len(one.body) for one in messages[:MOST_MESSAGES])
    held = max(1, sum(size <= MOST_CHARACTERS for size in sizes))
    return messages[:held], held < len(messages)


async def split_off(session: AsyncSession, email: Email, last: int, now: datetime) -> None:
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
