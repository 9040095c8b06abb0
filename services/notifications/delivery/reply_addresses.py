"""Keep what an email's address for replies stands for, from the first attempt at sending the email on."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.rendering import RenderedEmail
from services.notifications.models import ReplyAddress
from shared.database.orm import bulk_insert

VALID_FOR: Final = timedelta(days=90)


async def keep_reply_addresses(session: AsyncSession, rendered: Mapping[UUID, RenderedEmail]) -> None:
    """Store the addresses of emails that are claimed for the first time. Without any, do nothing."""
    rows = [
        {
            "email_id": email_id,
            "token_hash": email.reply.token_hash,
            "newest_number": email.reply.newest_number,
            "fingerprints": email.reply.fingerprints,
            "as_note": email.reply.as_note,
        }
        for email_id, email in sorted(rendered.items())
        if email.reply is not None
    ]
    if rows:
        statement = bulk_insert(ReplyAddress, rows, expires_at=func.clock_timestamp() + VALID_FOR)
        await session.execute(statement.on_conflict_do_nothing())
