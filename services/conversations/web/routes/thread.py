"""The admins' page of a conversation: the history, the edit form, the customer and the order."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.conversations.api.dependencies import Prefetch, viewer_of
from services.conversations.api.posting import save_edit
from services.conversations.api.schemas.desk import ChangeLabels, WriteNote
from services.conversations.api.schemas.requests import EditConversation
from services.conversations.api.schemas.responses import UserOut
from services.conversations.api.state import api_state
from services.conversations.desk.canned_replies import fill_for
from services.conversations.desk.choices import load_choices
from services.conversations.errors import IdempotencyKeyReused, NewerMessages, RateLimited, StatusChanged
from services.conversations.messaging import commands
from services.conversations.messaging.queries import load_conversation_and_others
from services.conversations.rules import DELETABLE, Side, Status
from services.conversations.web.auth import AdminContext, AdminSubmission, PageContext
from services.conversations.web.custom_fields import shown_fields
from services.conversations.web.form_files import kept_files, with_files
from services.conversations.web.forms import Form, new_form, read_form
from services.conversations.web.inbox_query import InboxQuery, ListQuery
from services.conversations.web.rate_limiting import EditRefusal
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, pages_of, redirect
from services.conversations.web.thread_view import ThreadPage
from shared.api.dependencies import Cursor, DbSession
from shared.database.transactions import driver_connection
from shared.problems import Invalid

OTHERS = 5  # other conversations of the customer

Refusal = NewerMessages | StatusChanged | IdempotencyKeyReused | RateLimited | None

router = APIRouter(prefix=ADMIN_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)


@router.get("/{conversation_id}/")
async def read_conversation(
    conversation_id: UUID,
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    prefetch: Prefetch,
    inbox: ListQuery,
    *,
    peek: bool = False,
    earlier: Cursor = None,
    canned: UUID | None = None,
) -> Response:
    """Show a conversation and mark it as read by the admins, unless the page shows earlier messages.

    `canned` is a canned reply to begin with.
    """
    reads = not (peek or prefetch or earlier)
    form, empty = new_form(), ()  # type: Form[EditConversation], Sequence[str]
    if canned is not None:
        text, empty = await fill_for(session, canned, conversation_id, page_context.principal.id)
        form = new_form(reply_body=text)
    return await show_thread(
        request,
        page_context,
        session,
        conversation_id,
        form,
        inbox,
        peek=peek,
        reads=reads,
        earlier=earlier,
        empty_variables=empty,
    )


@router.post("/{conversation_id}/")
async def edit_conversation(
    conversation_id: UUID,
    request: Request,
    limited: EditRefusal,
    page_context: AdminSubmission,
    session: DbSession,
    inbox: ListQuery,
) -> Response:
    """Reply, set the status, or both. If the customer has written meanwhile, show the message and the form again."""
    form = await read_form(request, EditConversation, pages_of(request).reader(request, page_context).gettext)
    refusal: Refusal = limited
    if form.body is not None and not refusal:
        form = await with_files(request, EditConversation, page_context, form)
    if form.body is not None and not refusal:
        try:
            await save_edit(request, session, conversation_id, page_context.principal, form.body, form.key)
            return redirect(f"{ADMIN_ROOT}{conversation_id}/{inbox.query}")
        except (NewerMessages, StatusChanged, IdempotencyKeyReused) as error:
            refusal = error
            form = form.with_new_key() if isinstance(error, IdempotencyKeyReused) else form
        except Invalid as problem:
            form = form.with_errors(problem)
    return await show_thread(request, page_context, session, conversation_id, form, inbox, refusal=refusal)


@router.get("/{conversation_id}/unread/")
async def show_unread(conversation_id: UUID) -> Response:
    """Redirect to the conversation without marking it as read, for admins who had to sign in before the POST."""
    return redirect(f"{ADMIN_ROOT}{conversation_id}/?peek=true")


@router.post("/{conversation_id}/unread/")
async def mark_unread(conversation_id: UUID, _: AdminSubmission, session: DbSession, inbox: ListQuery) -> Response:
    """Mark a conversation as unread, and redirect to the inbox: showing it would mark it as read."""
    await commands.mark_unread(session, conversation_id)
    return redirect(inbox.url)


def _typed_status(form: Form[EditConversation]) -> Status | None:
    """Return the status in a rejected form: the page shows that it was not set."""
    name = form.typed.get("status", "").strip()
    return Status(name) if name in set(Status) else None


async def show_thread(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    conversation_id: UUID,
    form: Form[EditConversation],
    inbox: InboxQuery,
    *,
    peek: bool = False,
    reads: bool = False,
    earlier: str | None = None,
    refusal: Refusal = None,
    empty_variables: Sequence[str] = (),
    note_form: Form[WriteNote] | None = None,
    mentioned: Sequence[str] = (),
    label_form: Form[ChangeLabels] | None = None,
    assignee_changed: bool = False,
) -> Response:
    """Render the page of a conversation, with forms as they were typed. `mentioned` are the admins of the note."""
    note_form, label_form = note_form or new_form(), label_form or new_form()
    connection = await driver_connection(session)
    detail, others, custom = await load_conversation_and_others(connection, conversation_id, OTHERS)
    api_state(request).reads.note(page_context.principal.id, conversation_id)
    choices = await load_choices(connection)
    viewer = viewer_of(request, Side.ADMIN)
    page = ThreadPage(request, "admin_conversation.html", page_context, viewer, reads=reads, earlier=earlier)
    return await page.render(
        session,
        detail,
        status=409 if assignee_changed else 422 if form.errors or note_form.errors or label_form.errors else 200,
        refusal=refusal,
        inbox=inbox,
        peek=peek,
        deletable=detail.conversation.status in DELETABLE,
        customer=UserOut.of(detail.user),
        empty_variables=empty_variables,
        custom=list(shown_fields(custom)),
        desk=detail.desk,
        choices=choices,
        note_form=note_form,
        mentioned=mentioned,
        label_form=label_form,
        assignee_changed=assignee_changed,
        others=[other.conversation for other in others],
        statuses=list(Status),
        form=form,
        files=await kept_files(connection, page_context, form),
        refused_status=_typed_status(form),
    )
