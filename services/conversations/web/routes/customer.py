"""A customer's pages: the list of conversations, a new conversation, and a conversation."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.conversations.api.dependencies import Prefetch, key_of, viewer_of
from services.conversations.api.posting import own_conversation, save
from services.conversations.api.schemas.requests import CreateConversation, PostMessage
from services.conversations.errors import IdempotencyKeyReused, NewerMessages, RateLimited
from services.conversations.messaging import listing, opening
from services.conversations.messaging.listing import Filters
from services.conversations.messaging.posting import Post
from services.conversations.messaging.queries import list_orders, load_own_conversation
from services.conversations.rules import Side
from services.conversations.web.auth import CustomerContext, CustomerSubmission, PageContext
from services.conversations.web.form_files import kept_files, with_files
from services.conversations.web.forms import Form, new_form, read_form
from services.conversations.web.rate_limiting import ConversationRefusal, MessageRefusal
from services.conversations.web.rendering import CUSTOMER_ROOT, PageRoute, add_slash, customer_root, pages_of, redirect
from services.conversations.web.searching import Result, search
from services.conversations.web.thread_view import ThreadPage
from shared.api.dependencies import Cursor, DbSession
from shared.database.transactions import driver_connection
from shared.problems import Invalid
from shared.text import Text

PAGE = 25  # conversations on a page
ORDERS = 500  # newest orders to choose from

Refusal = NewerMessages | IdempotencyKeyReused | RateLimited | None

router = APIRouter(prefix=CUSTOMER_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)
for path in ("", "/new", "/{conversation_id}"):
    router.add_api_route(path, add_slash)


@router.get("/")
async def list_conversations(
    request: Request,
    page_context: CustomerContext,
    session: DbSession,
    q: Annotated[Text, Query()] = "",
    cursor: Cursor = None,
) -> Response:
    """Show the customer's conversations, last activity first, or those that a search finds."""
    filters, connection = Filters(user_id=page_context.principal.id), await driver_connection(session)
    if q:
        result = await search(connection, q, filters, Side.CUSTOMER, cursor, PAGE)
    else:
        result = Result.of(*await listing.list_by_activity(connection, filters, Side.CUSTOMER, cursor, PAGE))
    return pages_of(request).render(
        request,
        "list_conversations.html",
        page_context,
        rows=result.rows,
        next_cursor=result.next_cursor,
        search_problem=result.problem,
        is_complete=result.is_complete,
        q=q,
        first=cursor is None,
    )


@router.get("/new/")
async def new_conversation(
    request: Request,
    page_context: CustomerContext,
    session: DbSession,
    order_id: Annotated[str, Query()] = "",
    subject: Annotated[Text, Query()] = "",
) -> Response:
    """Show the form for a new conversation, with an order preselected by `order_id`, and a `subject` to change."""
    typed = {"order_id": order_id} | ({"subject": subject} if subject else {})
    return await _new_page(request, page_context, session, new_form(**typed))


@router.post("/new/")
async def create_conversation(
    request: Request, refusal: ConversationRefusal, page_context: CustomerSubmission, session: DbSession
) -> Response:
    """Start a conversation. A second submit of the same form returns the same conversation."""
    caller = page_context.principal
    form = await read_form(request, CreateConversation, pages_of(request).reader(request, page_context).gettext)
    if form.body is not None and not refusal:
        form = await with_files(request, CreateConversation, page_context, form)
    if form.body is None or refusal:
        return await _new_page(request, page_context, session, form, refusal)
    new, key = own_conversation(caller, form.body, form.key)
    try:
        async with session.begin_nested():  # undone on an error, after which the page is still loaded
            conversation_id, _ = await opening.create_conversation(session, new, key)
    except Invalid as problem:
        return await _new_page(request, page_context, session, form.with_errors(problem))
    return redirect(f"{customer_root(request)}{conversation_id}/")


@router.get("/{conversation_id}/")
async def read_conversation(
    conversation_id: UUID,
    request: Request,
    page_context: CustomerContext,
    session: DbSession,
    prefetch: Prefetch,
    peek: bool = False,
    earlier: Cursor = None,
) -> Response:
    """Show a conversation and mark it as read, unless the page shows earlier messages."""
    reads = not (peek or prefetch or earlier)
    return await _thread_page(request, page_context, session, conversation_id, new_form(), reads=reads, earlier=earlier)


@router.post("/{conversation_id}/")
async def post_customer_message(
    conversation_id: UUID,
    request: Request,
    limited: MessageRefusal,
    page_context: CustomerSubmission,
    session: DbSession,
) -> Response:
    """Send a message to the store. If the store has replied meanwhile, show the reply and the form again."""
    caller = page_context.principal
    form = await read_form(request, PostMessage, pages_of(request).reader(request, page_context).gettext)
    refusal: Refusal = limited
    if form.body is not None and not refusal:
        form = await with_files(request, PostMessage, page_context, form)
    if form.body is not None and not refusal:
        post = Post(
            conversation_id,
            caller.id,
            Side.CUSTOMER,
            form.body.body,
            scope=caller.id,
            seen_number=form.body.seen_number,
            idempotency_key=key_of(form.key, "post", form.body),
            attachments=tuple(form.body.attachments),
        )
        try:
            await save(request, post)
            return redirect(f"{customer_root(request)}{conversation_id}/")
        except (NewerMessages, IdempotencyKeyReused) as error:
            refusal = error
            form = form.with_new_key() if isinstance(error, IdempotencyKeyReused) else form
        except Invalid as problem:
            form = form.with_errors(problem)
    return await _thread_page(request, page_context, session, conversation_id, form, refusal=refusal)


async def _new_page(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    form: Form[CreateConversation],
    refusal: RateLimited | None = None,
) -> Response:
    connection = await driver_connection(session)
    orders, _ = await list_orders(connection, page_context.principal.id, None, ORDERS)
    return pages_of(request).render(
        request,
        "new_conversation.html",
        page_context,
        status=422 if form.errors else 200,
        refusal=refusal,
        form=form,
        files=await kept_files(connection, page_context, form),
        orders=orders,
    )


async def _thread_page(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    conversation_id: UUID,
    form: Form[PostMessage],
    *,
    reads: bool = False,
    earlier: str | None = None,
    refusal: Refusal = None,
) -> Response:
    connection = await driver_connection(session)
    detail, is_muted = await load_own_conversation(connection, conversation_id, page_context.principal.id)
    page = ThreadPage(
        request,
        "conversation.html",
        page_context,
        viewer_of(request, Side.CUSTOMER),
        reads=reads,
        earlier=earlier,
    )
    files = await kept_files(connection, page_context, form)
    status = 422 if form.errors else 200
    return await page.render(session, detail, status=status, refusal=refusal, form=form, files=files, is_muted=is_muted)
