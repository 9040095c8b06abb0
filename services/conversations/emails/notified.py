"""Tell admins' live streams of new notifications, as the notifications service's log says."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.append import announce_at_commit
from services.conversations.rules import Side
from shared.database.transactions import transaction_driver
from shared.events import EventType
from shared.notifications_feed import NotificationCreated


async def log_notified(session: AsyncSession, created: Sequence[NotificationCreated]) -> None:
    """Append an event for each notification whose conversation exists."""
    if not created:
        return
    columns = zip(*((each.conversation_id, each.model_dump_json()) for each in created), strict=True)
    await (await transaction_driver(session)).execute(_LOG, *columns)
    announce_at_commit(session)


_LOG: Final = f"""
    insert into events (type, user_id, conversation_id, audience, payload)
    select '{EventType.NOTIFICATION_CREATED}', user_id, id, '{Side.ADMIN}', new.payload::jsonb
    from unnest($1::uuid[], $2::text[]) with ordinality as new (conversation_id, payload, turn)
        join conversations on conversations.id = new.conversation_id
    order by turn
"""  # noqa: S608 - built from constants
