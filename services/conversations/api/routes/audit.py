"""The route of the audit: who did what to which conversation, when and from where."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Query

from services.conversations.api.dependencies import AdminReader
from services.conversations.audit.queries import AuditRow, list_entries
from services.conversations.rules import ActorRole, AuditAction
from shared.api.dependencies import Cursor, Limit
from shared.api.response_body import ResponseBody
from shared.api.routing import ApiRouter
from shared.auth.principal import Permission
from shared.auth.tokens import check_permission
from shared.paging import DEFAULT_LIMIT, Page
from shared.people import MAX_ID
from shared.problems import Forbidden, Invalid, Unauthenticated, Unavailable, problem_responses

router = ApiRouter(
    prefix="/api/v1/admin",
    tags=["Reports and audit"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

# Also of acts that a command did: its `actor_id` is no id of the store, such as `chats people`.
Actor = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_ID,
        pattern=r"^[\x20-\x7e]+$",
        description="Only what this admin, or this backend of the store, did.",
    ),
]
AuditedConversation = Annotated[UUID | None, Query(description="Only what was done to this conversation.")]
Action = Annotated[AuditAction | None, Query(description="Only this action.")]


class AuditEntryOut(ResponseBody):
    """An act. It names people, conversations and all else by id; `target_id` is what else it was done to.

    `at` of `conversation.read` is the beginning of the hour: reads count once an hour. The role `system` is the service
    itself; its `actor_id` is `retention` for deleting what was closed for as long as the store keeps it.
    """

    id: UUID
    at: datetime
    actor_id: str
    actor_role: ActorRole
    action: str
    conversation_id: UUID | None
    target_id: str | None
    data: dict[str, Any] | None
    address: str | None
    request_id: UUID | None

    @classmethod
    def of(cls, row: AuditRow) -> Self:
        """Convert an entry."""
        return cls(**row._asdict() | {"actor_role": ActorRole(row.actor_role)})


@router.read("/audit", summary="List the audit")
async def list_audit(
    reading: AdminReader,
    actor: Actor = None,
    conversation_id: AuditedConversation = None,
    action: Action = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[AuditEntryOut]:
    """List who did what, newest first. Filters combine. Needs the permission `audit`."""
    check_permission(reading.principal, Permission.AUDIT)
    rows, next_cursor = await list_entries(
        reading, actor_id=actor, conversation_id=conversation_id, action=action, cursor=cursor, limit=limit
    )
    return Page(items=[AuditEntryOut.of(row) for row in rows], next_cursor=next_cursor)
