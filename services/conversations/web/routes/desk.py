"""Forms of the desk: assignment, labels, notes and removing a message. Each leads back to the conversation.

A rejected note or label is shown in its form on the page. Scripts call the API instead, which says why.
"""

from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.api.dependencies import key_of
from services.conversations.api.schemas.desk import Assign, ChangeLabels, WriteNote
from services.conversations.desk import labels
from services.conversations.desk.assignment import Assignee, assign
from services.conversations.desk.notes import NewNote, add_note, delete_note
from services.conversations.desk.removal import remove_message
from services.conversations.errors import AssigneeChanged
from services.conversations.messaging.create_keys import claim_key
from services.conversations.web.auth import AdminSubmission, PageContext
from services.conversations.web.forms import Translate, form_of, known_key, new_form
from services.conversations.web.inbox_query import InboxQuery, ListQuery
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, pages_of, redirect
from services.conversations.web.routes.thread import show_thread
from shared.api.dependencies import DbSession
from shared.problems import Invalid

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
    """Assign the conversation to an admin, or to nobody, unless somebody else has done so since it was shown."""
    sent = await request.form()
    body = _valid(Assign, **{name: await _field(request, name) or None for name in ("admin_id", "expected")})
    expected = Assignee(body.expected) if "expected" in sent else None
    try:
        await assign(session, conversation_id, body.admin_id, page_context.principal.id, expected)
    except AssigneeChanged:
        return await show_thread(
            request, page_context, session, conversation_id, new_form(), inbox, assignee_changed=True
        )
    return redirect(_page_of(conversation_id, inbox))


@router.post("/labels/")
async def change_labels(
    conversation_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Add a label, or remove one."""
    typed = {name: await _field(request, name) for name in ("add", "remove")}
    values = {name: [value] for name, value in typed.items() if value}
    form = form_of(ChangeLabels, values, typed, _gettext(request, page_context))
    if (body := form.body) is not None:
        try:
            async with session.begin_nested():
                await labels.change_labels(session, conversation_id, body.add, body.remove, page_context.principal.id)
            return redirect(_page_of(conversation_id, inbox))
        except Invalid as problem:
            form = form.with_errors(problem)
    return await show_thread(request, page_context, session, conversation_id, new_form(), inbox, label_form=form)


@router.post("/notes/")
async def write_note(
    conversation_id: UUID, request: Request, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Add a note. A second submit of the same form adds nothing."""
    mentions = [str(value) for value in (await request.form()).getlist("mentions")]
    typed = {"body": (await _field(request, "body")).replace("\r\n", "\n")}
    form = form_of(WriteNote, typed | {"mentions": mentions}, typed, _gettext(request, page_context))
    form = replace(form, key=known_key(await _field(request, "idempotency_key")))
    if (body := form.body) is not None:
        try:
            async with session.begin_nested():
                await _add_note(session, conversation_id, body, page_context.principal.id, form.key)
            return redirect(_page_of(conversation_id, inbox))
        except Invalid as problem:
            form = form.with_errors(problem)
    return await show_thread(
        request, page_context, session, conversation_id, new_form(), inbox, note_form=form, mentioned=mentions
    )


async def _add_note(session: AsyncSession, conversation_id: UUID, body: WriteNote, admin_id: str, key: str) -> None:
    note_id, replayed = await claim_key(session, admin_id, key_of(key, f"note:{conversation_id}", body))
    if not replayed:
        await add_note(session, NewNote(conversation_id, body.body, body.mentions, admin_id), note_id)


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


def _gettext(request: Request, page_context: PageContext) -> Translate:
    return pages_of(request).reader(request, page_context).gettext


def _valid(kind: type[B], **values: Any) -> B:
    """Return a request body with these values; a page says what is wrong with them."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
