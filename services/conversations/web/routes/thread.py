"""The admins' page of a conversation: the history, the edit form, the customer and the order."""

from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.conversations.api.dependencies import Prefetch
from services.conversations.api.posting import save_edit
from services.conversations.api.request_schemas import EditConversation
from services.conversations.api.response_schemas import OrderOut, UserOut, Viewer
from services.conversations.api.state import api_state
from services.conversations.errors import IdempotencyKeyReused, NewerMessages, RateLimited
from services.conversations.messaging import commands
from services.conversations.messaging.queries import list_messages, load_conversation_and_others
from services.conversations.rules import DELETABLE, Side, Status
from services.conversations.web.auth import AdminContext, AdminSubmission, PageContext, with_unread_decremented
from services.conversations.web.forms import Form, new_form, read_form
from services.conversations.web.rate_limiting import EditRefusal
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, pages_of, redirect
from services.conversations.web.thread_view import history
from shared.database import DbSession, driver_connection
from shared.paging import Cursor

HISTORY = 50  # messages on a page
OTHERS = 5  # other conversations of the customer

Refusal = NewerMessages | IdempotencyKeyReused | RateLimited | None

router = APIRouter(prefix=ADMIN_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)


@router.get("/{conversation_id}/")
async def read_conversation(
    conversation_id: UUID,
    request: Request,
    visitor: AdminContext,
    session: DbSession,
    prefetch: Prefetch,
    peek: bool = False,
    earlier: Cursor = None,
) -> Response:
    """Show a conversation and mark it as read by the admins, unless the page shows earlier messages."""
    reads = not (peek or prefetch or earlier)
    return await _thread_page(request, visitor, session, conversation_id, new_form(), reads=reads, earlier=earlier)


@router.post("/{conversation_id}/")
async def edit_conversation(
    conversation_id: UUID, request: Request, limited: EditRefusal, visitor: AdminSubmission, session: DbSession
) -> Response:
    """Reply, set the status, or both. If the customer has written meanwhile, show the message and the form again."""
    form = await read_form(request, EditConversation, pages_of(request).reader(visitor).gettext)
    refusal: Refusal = limited
    if form.body is not None and not refusal:
        try:
            await save_edit(session, conversation_id, visitor.principal.id, form.body, form.key)
            return redirect(f"{ADMIN_ROOT}{conversation_id}/")
        except (NewerMessages, IdempotencyKeyReused) as error:
            refusal = error
            form = form.with_new_key() if isinstance(error, IdempotencyKeyReused) else form
    return await _thread_page(request, visitor, session, conversation_id, form, refusal=refusal)


@router.get("/{conversation_id}/unread/")
async def show_unread(conversation_id: UUID) -> Response:
    """Redirect to the conversation without marking it as read, for admins who had to sign in before the POST."""
    return redirect(f"{ADMIN_ROOT}{conversation_id}/?peek=true")


@router.post("/{conversation_id}/unread/")
async def mark_unread(conversation_id: UUID, _: AdminSubmission, session: DbSession) -> Response:
    """Mark a conversation as unread, and redirect to the inbox: showing it would mark it as read."""
    await commands.mark_unread(session, conversation_id)
    return redirect(ADMIN_ROOT)


def _typed_status(form: Form[EditConversation]) -> Status | None:
    """Return the status in a rejected form: the page shows that it was not set."""
    name = form.typed.get("status", "").strip()
    return Status(name) if name in set(Status) else None


async def _thread_page(
    request: Request,
    visitor: PageContext,
    session: DbSession,
    conversation_id: UUID,
    form: Form[EditConversation],
    *,
    reads: bool = False,
    earlier: str | None = None,
    refusal: Refusal = None,
) -> Response:
    pages = pages_of(request)
    viewer = Viewer(side=Side.ADMIN, store_name=api_state(request).settings.store_name)
    connection = await driver_connection(session)
    detail, others = await load_conversation_and_others(connection, conversation_id, OTHERS)
    was_read, read_up_to = detail.conversation.is_read_by_admin, detail.conversation.read_by_admin_number
    rows, next_cursor = await list_messages(
        connection, conversation_id, scope=None, newest_first=True, after=None, cursor=earlier, limit=HISTORY
    )
    read = read_up_to if was_read else 0
    if reads:
        read = detail.conversation.message_count
        detail = await commands.read_conversation(session, detail, Side.ADMIN)
        visitor = with_unread_decremented(visitor) if detail.conversation.is_read_by_admin and not was_read else visitor
    return pages.render(
        "admin_conversation.html",
        visitor,
        status=422 if form.errors else 200,
        refusal=refusal,
        conversation=detail.conversation,
        deletable=detail.conversation.status in DELETABLE,
        customer=UserOut.of(detail.user),
        order=detail.order and OrderOut.of(detail.order),
        others=[other.conversation for other in others],
        items=history(rows, detail.conversation, viewer, pages.reader(visitor), read_up_to=read_up_to),
        next_cursor=next_cursor,
        earlier=earlier,
        statuses=list(Status),
        form=form,
        refused_status=_typed_status(form),
        read=read,  # the number up to which it is read; scripts continue from there
        # The newest message on the screen: the admin cannot have seen newer ones.
        seen_number=rows[0].number if rows else 0,
    )
