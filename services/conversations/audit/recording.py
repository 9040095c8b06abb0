"""Add rows to the audit, in the transaction of the act: nothing is acknowledged without its row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Insert, insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.models import AuditEntry
from services.conversations.rules import ActorRole, AuditAction
from shared.database.orm import bulk_insert
from shared.observability.logs import current_origin


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did. `target_id` is the id of what it was done to, apart from the conversation.

    The role `system` is the service itself; then the actor is what made it act.
    """

    action: AuditAction
    actor_id: str
    conversation_id: UUID | None = None
    target_id: str | None = None
    data: dict[str, Any] | None = None
    role: ActorRole = ActorRole.ADMIN


async def record(session: AsyncSession, *acts: Act) -> None:
    """Record acts in the session's transaction, with the address and the id of the current request."""
    if acts:
        await session.execute(bulk_insert(AuditEntry, [_values(act) for act in acts]))


def recording(act: Act) -> Insert:
    """Return the statement that records an act, to be part of another one."""
    return insert(AuditEntry).values(_values(act))


def _values(act: Act) -> dict[str, Any]:
    origin = current_origin()
    return {
        "actor_id": act.actor_id,
        "actor_role": act.role.value,
        "action": act.action.value,
        "conversation_id": act.conversation_id,
        "target_id": act.target_id,
        "data": act.data,
        "address": origin.address,
        "request_id": origin.request_id and UUID(origin.request_id),
    }


def acts_on(
    action: AuditAction,
    actor_id: str,
    conversation_ids: Sequence[UUID],
    *,
    role: ActorRole = ActorRole.ADMIN,
    data: dict[str, Any] | None = None,
) -> list[Act]:
    """Return one act for each conversation."""
    return [Act(action, actor_id, conversation_id, role=role, data=data) for conversation_id in conversation_ids]
