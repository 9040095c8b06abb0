"""Notes that admins write for each other. No customer ever sees one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, record
from services.conversations.desk.people import await_admins, check_admins
from services.conversations.event_log.append import append_event
from services.conversations.messaging.entries import add_entry, lock_conversation
from services.conversations.models import Conversation, ConversationEntry
from services.conversations.rules import AuditAction, EntryKind, Side
from services.conversations.search.indexer import forget_notes
from shared.events import EventType
from shared.problems import Forbidden, NotFound


@dataclass(frozen=True, slots=True)
class NewNote:
    """A note to add; `mentions` are ids of admins."""

    conversation_id: UUID
    body: str
    mentions: Sequence[str]
    actor_id: str


async def add_note(session: AsyncSession, new: NewNote, note_id: UUID | None = None) -> UUID:
    """Add a note to a conversation; return its id. Raises `NotFound`, or `Invalid` for an unknown admin."""
    mentions = list(dict.fromkeys(new.mentions))
    await check_admins(session, mentions, ("body", "mentions"))
    conversation = await lock_conversation(session, new.conversation_id)
    data = {"body": new.body, "mentions": mentions}
    note = await add_entry(session, conversation, EntryKind.NOTE, new.actor_id, data, entry_id=note_id)
    payload: dict[str, Any] = {"conversation_id": str(conversation.id), "note_id": str(note.id)}
    if mentioned := [admin_id for admin_id in mentions if admin_id != new.actor_id]:
        await await_admins(session, conversation, mentioned, new.actor_id)
        payload |= {"subject": conversation.subject, "number": note.after_number, "actor_id": new.actor_id}
        payload |= {"mentions": mentioned, "body": new.body}
    await _log(session, EventType.NOTE_POSTED, conversation, payload)
    return note.id


async def delete_note(session: AsyncSession, conversation_id: UUID, note_id: UUID, actor_id: str) -> None:
    """Delete the text of one's own note; its place in the timeline stays. Deleting it again changes nothing.

    Raises `NotFound`, or `Forbidden` for another admin's note.
    """
    conversation = await lock_conversation(session, conversation_id)
    note = await session.scalar(
        select(ConversationEntry).where(
            ConversationEntry.id == note_id,
            ConversationEntry.conversation_id == conversation_id,
            ConversationEntry.kind == EntryKind.NOTE,
        )
    )
    if note is None:
        raise NotFound("There is no such note.")
    if note.actor_id != actor_id:
        raise Forbidden("Only the author of a note can delete it.")
    if "deleted" in note.data:
        return
    note.data = {"deleted": True}
    await session.flush()
    await forget_notes(session, conversation_id)
    await record(session, Act(AuditAction.NOTE_DELETED, actor_id, conversation_id, target_id=str(note_id)))
    payload = {"conversation_id": str(conversation_id), "note_id": str(note_id)}
    await session.execute(_ERASE_EVENT, payload)
    await _log(session, EventType.NOTE_DELETED, conversation, payload)


async def _log(
    session: AsyncSession, event_type: EventType, conversation: Conversation, payload: dict[str, Any]
) -> None:
    # The log keeps events for weeks. So only a note that mentions others has its text there, for their notifications.
    await append_event(
        session,
        event_type,
        payload,
        user_id=conversation.user_id,
        conversation_id=conversation.id,
        audience=Side.ADMIN,
    )


_ERASE_EVENT = text(f"""
    update events set payload = jsonb_build_object(
        'conversation_id', payload -> 'conversation_id', 'note_id', payload -> 'note_id'
    )
    where conversation_id = :conversation_id and type = '{EventType.NOTE_POSTED}' and payload ->> 'note_id' = :note_id
""")  # noqa: S608 - built from constants
