"""Forms of the desk: assignment, labels, notes and removing a message. Each leads back to the conversation.

Scripts call the API instead, which also says why something was rejected.
"""

from typing import Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from services.conversations.api.desk_schemas import Assign, ChangeLabels, WriteNote
from services.conversations.desk import labels
from services.conversations.desk.assignment import assign
from services.conversations.desk.notes import NewNote, add_note, delete_note
from services.conversations.desk.removal import remove_message
from services.conversations.messaging.create_keys import claim_key
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.web.auth import AdminSubmission
from services.conversations.web.forms import known_key
from services.conversations.web.inbox_query import InboxQuery, ListQuery
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, redirect
from shared.dependencies import DbSession

B = TypeVar("B", bound=BaseModel)

router = APIRouter(prefix=f"{ADMIN_ROOT}{{conversation_id}}", route_class=PageRoute, include_in_schema=False)


@router.get("/assignee/")
@router.get("/labels/")
@router.get("/notes/")
@router.get("/notes/{note_id}/delete/")
@router.get("/messages/{message_id}/remove/")
async def show_conversation(conversation_id: UUID) -> Response:
    """Redirect to the conversation without marking it as read, for admins who had to sign in before a POST."""
    return redirect(f"{ADMIN_ROOT}{conversation_id}/?peek=true")


@router.post("/assignee/")
async def assign_conversation(
    conversation_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Assign the conversation to an admin, or to nobody."""
    body = _valid(Assign, admin_id=await _field(request, "admin_id") or None)
    await assign(session, conversation_id, body.admin_id, page_context.principal.id)
    return redirect(_page_of(conversation_id, inbox))


@router.post("/labels/")
async def change_labels(
    conversation_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Add a label, or remove one."""
    changes = {name: [value] for name in ("add", "remove") if (value := await _field(request, name))}
    body = _valid(ChangeLabels, **changes)
    await labels.change_labels(session, conversation_id, body.add, body.remove, page_context.principal.id)
    return redirect(_page_of(conversation_id, inbox))


@router.post("/notes/")
async def write_note(
    conversation_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Add a note. A second submit of the same form adds nothing."""
    mentions = [str(value) for value in (await request.form()).getlist("mentions")]
    body = _valid(WriteNote, body=(await _field(request, "body")).replace("\r\n", "\n"), mentions=mentions)
    admin_id, key = page_context.principal.id, known_key(await _field(request, "idempotency_key"))
    claimed_id, replayed = None, False
    if once := IdempotencyKey.of(key, f"note:{conversation_id}", body.model_dump(exclude_defaults=True)):
        claimed_id, replayed = await claim_key(session, admin_id, once)
    if not replayed:
        await add_note(session, NewNote(conversation_id, body.body, body.mentions, admin_id), claimed_id)
    return redirect(_page_of(conversation_id, inbox))


@router.post("/notes/{note_id}/delete/")
async def remove_note(
    conversation_id: UUID, note_id: UUID, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Delete one's own note."""
    await delete_note(session, conversation_id, note_id, page_context.principal.id)
    return redirect(f"{_page_of(conversation_id, inbox)}#e-{note_id}")


@router.post("/messages/{message_id}/remove/")
async def remove(
    conversation_id: UUID, message_id: UUID, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Remove the text of a message."""
    await remove_message(session, conversation_id, message_id, page_context.principal.id)
    return redirect(_page_of(conversation_id, inbox))


def _page_of(conversation_id: UUID, inbox: InboxQuery) -> str:
    return f"{ADMIN_ROOT}{conversation_id}/{inbox.query}"


async def _field(request: Request, name: str) -> str:
    value = (await request.form()).get(name)
    return value.strip("\r\n") if isinstance(value, str) else ""


def _valid(kind: type[B], **values: Any) -> B:
    """Return a request body with these values; a page says what is wrong with them."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
