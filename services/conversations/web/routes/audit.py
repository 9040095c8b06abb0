"""The page of the audit: who did what, newest first."""

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.conversations.audit.queries import AuditRow, list_entries, load_names
from services.conversations.rules import ActorRole, AuditAction
from services.conversations.web.auth import AdminContext
from services.conversations.web.rendering import AUDIT_ROOT, PageRoute, add_slash, pages_of
from shared.api.dependencies import Cursor, DbSession
from shared.auth.principal import Permission
from shared.auth.tokens import check_permission
from shared.database.transactions import driver_connection

PAGE = 50  # entries on a page

router = APIRouter(prefix=AUDIT_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)
router.add_api_route("", add_slash)


@router.get("/")
async def show_audit(
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    actor: Annotated[str, Query(max_length=255)] = "",
    conversation_id: Annotated[str, Query(max_length=100)] = "",
    action: Annotated[str, Query(max_length=100)] = "",
    cursor: Cursor = None,
) -> Response:
    """Show the entries that match all filters. One that cannot be finds nothing, and is said."""
    check_permission(page_context.principal, Permission.AUDIT)
    connection = await driver_connection(session)
    chosen = AuditAction(action) if action in set(AuditAction) else None
    try:
        conversation = UUID(conversation_id.strip()) if conversation_id.strip() else None
        is_valid = True
    except ValueError:
        conversation, is_valid = None, False
    rows: list[AuditRow] = []
    next_cursor = None
    if is_valid and "\x00" not in actor:  # which the database does not take, and no id has
        rows, next_cursor = await list_entries(
            connection,
            actor_id=actor.strip() or None,
            conversation_id=conversation,
            action=chosen,
            cursor=cursor,
            limit=PAGE,
        )
    older = None
    filters = {"actor": actor.strip(), "conversation_id": conversation_id.strip(), "action": chosen or ""}
    if next_cursor is not None:
        older = urlencode({name: value for name, value in filters.items() if value} | {"cursor": next_cursor})
    return pages_of(request).render(
        request,
        "audit.html",
        page_context,
        status=200 if is_valid else 422,
        is_valid=is_valid,
        rows=rows,
        names=await load_names(connection, {user_id for row in rows for user_id in _people(row)}),
        actions=list(AuditAction),
        filters=filters,
        has_filter=any(filters.values()),
        older=older,
        is_first=cursor is None,
    )


def _people(row: AuditRow) -> Iterator[str]:
    """Yield the ids of the people in an entry."""
    if row.actor_role != ActorRole.SYSTEM:
        yield row.actor_id
    if row.action == AuditAction.CONVERSATION_ASSIGNMENT and row.data is not None:
        yield from filter(None, (row.data["from"], row.data["to"]))
    elif row.target_id is not None and row.action.startswith("user."):
        yield row.target_id
