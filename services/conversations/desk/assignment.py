"""Assignment: which admin takes care of a conversation."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act
from services.conversations.desk.people import await_admins, check_admins
from services.conversations.errors import AssigneeChanged
from services.conversations.messaging.commands import log_update
from services.conversations.messaging.entries import add_entry, lock_conversation
from services.conversations.models import Conversation
from services.conversations.rules import AuditAction, EntryKind, Side


@dataclass(frozen=True, slots=True)
class Assignee:
    """An assignee; None for nobody."""

    admin_id: str | None


async def assign(
    session: AsyncSession, conversation_id: UUID, admin_id: str | None, actor_id: str, expected: Assignee | None = None
) -> None:
    """Assign a conversation to an admin, or to nobody.

    Raises `NotFound`, `Invalid` for an unknown admin, or `AssigneeChanged` if the assignee is not the expected one.
    """
    if admin_id is not None:
        await check_admins(session, [admin_id], ("body", "admin_id"))
    conversation = await lock_conversation(session, conversation_id)
    if expected is not None and conversation.assignee_id != expected.admin_id:
        raise AssigneeChanged(conversation.assignee_id)
    await assign_locked(session, conversation, admin_id, actor_id)


async def assign_locked(session: AsyncSession, conversation: Conversation, admin_id: str | None, actor_id: str) -> bool:
    """Assign a locked conversation to a present admin, or to nobody; return whether that changed anything."""
    if conversation.assignee_id == admin_id:
        return False
    data = {"from": conversation.assignee_id, "to": admin_id}
    act = Act(AuditAction.CONVERSATION_ASSIGNMENT, actor_id, conversation.id, data=data)
    entry = await add_entry(session, conversation, EntryKind.ASSIGNMENT, actor_id, data, act=act)
    conversation.assignee_id = admin_id
    await session.flush()
    changes: dict[str, Any] = {"assignee_id": admin_id}
    if admin_id is not None and admin_id != actor_id:
        await await_admins(session, conversation, [admin_id], actor_id)
        changes |= {"entry_id": str(entry.id), "actor_id": actor_id}
        changes |= {"subject": conversation.subject, "number": entry.after_number}
    await log_update(session, conversation.id, conversation.user_id, changes, audience=Side.ADMIN)
    return True
