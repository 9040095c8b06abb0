"""Delete users, and begin the erasure of what they wrote."""

from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.identity.provisioning import PROFILE, change_user, ensure_user
from services.conversations.identity.sessions import end_all_of
from services.conversations.messaging.erasure_batches import begin_erasure, erase_user_in_log, find_erasure
from services.conversations.models import Conversation, User
from services.conversations.rules import Side
from shared.events import EventType


async def delete_user(session: AsyncSession, user_id: str, *, content: bool = False) -> UUID | None:
    """Erase a user's name, address, language and zone, and their sessions; refuse their tokens from now on.

    Their conversations stay, unless `content` says that what they wrote goes as well. Returns the erasure that is left
    to do behind this transaction (`erasing.py`), None when there is none. A user who was never here is known as
    deleted from now on. A second deletion returns what is left of the first, or begins with what that one kept.
    """
    await ensure_user(session, user_id, Side.CUSTOMER)
    user = await session.get_one(User, user_id, with_for_update=True, populate_existing=True)  # against posts under way
    content = content and await session.scalar(select(exists().where(Conversation.user_id == user_id))) is True
    if user.deleted_at is not None:
        erasure = await find_erasure(session, user_id)
        if erasure is None:
            return await begin_erasure(session, user_id, content=True, event_id=None) if content else None
        if content:
            erasure.content, erasure.asked_at = True, func.clock_timestamp()
        return erasure.id
    await end_all_of(session, user_id)
    is_done = await erase_user_in_log(session, user_id)
    moment = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    erased: dict[str, Any] = dict.fromkeys(PROFILE)
    event_id = await change_user(session, user, erased | {"deleted_at": moment}, EventType.USER_DELETED)
    if is_done and not content:
        return None
    return await begin_erasure(session, user_id, content=content, event_id=None if is_done else event_id)
