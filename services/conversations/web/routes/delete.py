"""Pages that delete one or many conversations: they ask for confirmation, and list those that are not closed."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.conversations.api.schemas.responses import UserOut
from services.conversations.errors import ConversationNotClosed
from services.conversations.messaging import commands
from services.conversations.messaging.queries import load_conversations
from services.conversations.rules import BULK_LIMIT, DELETABLE
from services.conversations.web.auth import AdminContext, AdminSubmission, PageContext
from services.conversations.web.forms import parse_ids
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, pages_of, redirect
from shared.api.dependencies import DbSession
from shared.auth.principal import Permission
from shared.auth.tokens import check_permission
from shared.database.transactions import driver_connection
from shared.problems import NotFound

router = APIRouter(prefix=ADMIN_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)


@router.get("/bulk-delete/")
async def confirm_bulk_delete(
    request: Request, page_context: AdminContext, session: DbSession, ids: Annotated[list[str] | None, Query()] = None
) -> Response:
    """Ask to confirm. Unknown ids are skipped."""
    return await _page(request, page_context, session, parse_ids(ids or []))


@router.post("/bulk-delete/")
async def bulk_delete(request: Request, page_context: AdminSubmission, session: DbSession) -> Response:
    """Delete all, or none if one of them is not closed."""
    values = (await request.form()).getlist("ids")
    ids = parse_ids(value for value in values if isinstance(value, str))
    if not 1 <= len(ids) <= BULK_LIMIT:
        return await _page(request, page_context, session, ids)
    return await _delete(request, page_context, session, ids)


@router.get("/{conversation_id}/delete/")
async def confirm_delete(
    conversation_id: UUID, request: Request, page_context: AdminContext, session: DbSession
) -> Response:
    """Ask to confirm."""
    return await _page(request, page_context, session, [conversation_id], single=True)


@router.post("/{conversation_id}/delete/")
async def delete_conversation(
    conversation_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession
) -> Response:
    """Delete a conversation. A second submit redirects like the first."""
    return await _delete(request, page_context, session, [conversation_id], single=True)


async def _delete(
    request: Request, page_context: PageContext, session: DbSession, ids: Sequence[UUID], *, single: bool = False
) -> Response:
    check_permission(page_context.principal, Permission.DELETE)
    try:
        deleted = await commands.delete_conversations(session, ids, actor_id=page_context.principal.id)
    except ConversationNotClosed as problem:
        return await _page(request, page_context, session, ids, single=single, status=problem.status)
    return redirect(f"{ADMIN_ROOT}?deleted={deleted}")


async def _page(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    ids: Sequence[UUID],
    *,
    single: bool = False,
    status: int = 200,
) -> Response:
    check_permission(page_context.principal, Permission.DELETE)
    too_many = len(ids) > BULK_LIMIT
    details = await load_conversations(await driver_connection(session), [] if too_many else ids)
    if single and not details:
        raise NotFound("There is no such conversation.")
    conversations = [(detail.conversation, UserOut.of(detail.user)) for detail in details]
    return pages_of(request).render(
        request,
        "delete_conversations.html",
        page_context,
        status=422 if too_many or (not ids and request.method == "POST") else status,
        single=single,
        chosen=len(ids),
        limit=BULK_LIMIT,
        deletable=[(conversation, user) for conversation, user in conversations if conversation.status in DELETABLE],
        not_closed=[
            (conversation, user) for conversation, user in conversations if conversation.status not in DELETABLE
        ],
        was_rejected=status != 200,  # noqa: PLR2004 - OK
        messages=sum(conversation.message_count for conversation, _ in conversations),
    )
