"""Delete users and start the erasure of their content."""

from typing import Any
from uuid import UUID

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.identity.provisioning import PROFILE, change_user, ensure_user
from services.conversations.identity.sessions import end_all_sessions
from services.conversations.messaging.erasure_batches import begin_erasure, erase_user_in_log, find_erasure
from services.conversations.messaging.merged_ids import ids_of, person_of
from services.conversations.models import Attachment, Conversation, User
from services.conversations.rules import ACTIVE, EntryKind, Side
from shared.events import EventType


async def delete_user(session: AsyncSession, user_id: str, *, content: bool = False) -> UUID | None:
    """Erase a user's profile, sessions and unsent files, and reject their tokens from now on, with any of their ids.

    Keeps their conversations unless `content` is true. Returns the id of the erasure that remains to be done after this
    transaction (`messaging/erasure_batches.py`), or None if all is done. A user who was never known is recorded as
    deleted. Deleting a user again returns the unfinished erasure, or starts one of the content that was kept.
    """
    user_id = await person_of(session, user_id)
    await ensure_user(session, user_id, Side.CUSTOMER)
    # The lock excludes concurrent posts.
    user = await session.get_one(User, user_id, with_for_update=True, populate_existing=True)
    if user.merged_into is not None:  # just now
        return await delete_user(session, user_id, content=content)
    content = content and await session.scalar(select(exists().where(Conversation.user_id == user_id))) is True
    if user.deleted_at is not None:
        erasure = await find_erasure(session, user_id)
        if erasure is None:
            return await begin_erasure(session, user_id, content=True, event_id=None) if content else None
        if content:
            erasure.content, erasure.asked_at = True, func.clock_timestamp()
        return erasure.id
    await end_all_sessions(session, user_id)
    # What is done keeps its assignee, who shows as deleted.
    open_ones = Conversation.status.in_(sorted(ACTIVE))
    await session.execute(
        update(Conversation).where(Conversation.assignee_id == user_id, open_ones).values(assignee_id=None)
    )
    await session.execute(delete(Attachment).where(Attachment.uploader_id == user_id, Attachment.message_id.is_(None)))
    ids = await ids_of(session, user_id)
    await session.execute(_ERASE_SENDERS, {"ids": ids, "address": user.email})
    in_log = [each for each in ids if not await erase_user_in_log(session, each)]
    deleted_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    changes: dict[str, Any] = dict.fromkeys((*PROFILE, "custom")) | {"deleted_at": deleted_at}
    event_id = await change_user(session, user, changes, EventType.USER_DELETED)
    if not (content or in_log):
        return None
    # The person's own comes first, and is done when those of their other ids are.
    own, *_ = [
        await begin_erasure(
            session, each, content=content and each == user_id, event_id=event_id if each in in_log else None
        )
        for each in ids
        if each == user_id or each in in_log
    ]
    return own


# The addresses from which emails came that were posted by hand: in the person's conversations, or as the person's own.
_ERASE_SENDERS = text(f"""
    update conversation_entries set data = data - 'from'
    where kind = '{EntryKind.POSTED_EMAIL}'
        and (data ->> 'user_id' = any(cast(:ids as text[])) or data ->> 'from' = lower(cast(:address as text)))
""")  # noqa: S608 - built from constants
