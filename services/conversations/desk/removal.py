"""Remove the text and the files of a message that was sent by mistake. Its number stays."""

from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act
from services.conversations.event_log.append import append_event
from services.conversations.messaging.entries import add_entry, lock_conversation
from services.conversations.models import Attachment, Message
from services.conversations.rules import AuditAction, EntryKind, Side
from services.conversations.search.indexer import forget_message
from shared.events import EventType, MessageRemoved
from shared.problems import NotFound


async def remove_message(session: AsyncSession, conversation_id: UUID, message_id: UUID, actor_id: str) -> None:
    """Remove a message's text and files, here and in the log. Moves no status or flags; a repeat changes nothing.

    Raises `NotFound`.
    """
    conversation = await lock_conversation(session, conversation_id)
    message = await session.scalar(
        select(Message).where(Message.id == message_id, Message.conversation_id == conversation_id)
    )
    if message is None:
        raise NotFound("There is no such message.")
    if message.removed_at is not None:
        return
    message.body, message.removed_at, message.attachment_count = "", func.clock_timestamp(), 0
    await session.execute(
        delete(Attachment).where(Attachment.conversation_id == conversation_id, Attachment.message_id == message_id)
    )
    if conversation.last_message_id == message_id:
        conversation.last_message_preview = ""
    if message.sender_role == Side.ADMIN and conversation.unanswered_since is None:
        # What it answered is unanswered again. That counts once the conversation waits for an admin.
        values = {"conversation_id": conversation_id, "message_id": message_id}
        conversation.unanswered_since = await session.scalar(_UNANSWERED_SINCE, values)
    data = {"message_id": str(message_id), "number": message.number}
    act = Act(AuditAction.MESSAGE_REMOVED, actor_id, conversation_id, target_id=str(message_id))
    await add_entry(session, conversation, EntryKind.REMOVAL, actor_id, data, act=act)
    await session.flush()
    await session.execute(_ERASE_SENDER, {"conversation_id": conversation_id, "message_id": str(message_id)})
    await forget_message(session, conversation_id, message.number)
    await session.execute(_ERASE_EVENT, {"conversation_id": conversation_id, "message_id": str(message_id)})
    await session.execute(_ERASE_RESPONSES, {"conversation_id": conversation_id, "message_id": message_id})
    await append_event(
        session,
        EventType.MESSAGE_REMOVED,
        MessageRemoved(conversation_id=conversation_id, message_id=message_id, number=message.number),
        user_id=conversation.user_id,
        conversation_id=conversation_id,
    )


_UNANSWERED_SINCE = text(f"""
    select min(created_at) from messages
    where conversation_id = :conversation_id and sender_role = '{Side.CUSTOMER}' and number > coalesce((
        select max(number) from messages
        where conversation_id = :conversation_id and sender_role = '{Side.ADMIN}' and removed_at is null
            and id <> :message_id
    ), 0)
""")  # noqa: S608 - built from constants
_ERASE_SENDER = text(f"""
    update conversation_entries set data = data - 'from'
    where conversation_id = :conversation_id and kind = '{EntryKind.POSTED_EMAIL}'
        and data ->> 'message_id' = :message_id
""")  # noqa: S608 - built from constants
_ERASE_EVENT = text(f"""
    update events set payload = null
    where conversation_id = :conversation_id and type = '{EventType.MESSAGE_POSTED}'
        and payload -> 'message' ->> 'id' = :message_id
""")  # noqa: S608 - built from constants
# What webhooks' endpoints answered may quote the message. Locked in the order in which outcomes are recorded.
_ERASE_RESPONSES = text("""
    update webhook_deliveries set response = null where id = any(array(
        select id from webhook_deliveries
        where conversation_id = :conversation_id and message_id = :message_id and response is not null
        order by id for update
    ))
""")
