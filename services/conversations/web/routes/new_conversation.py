"""The admins' pages for a new conversation: choose a customer, then write the message."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.conversations.api.posting import conversation_with_customer
from services.conversations.api.schemas.requests import AdminCreateConversation
from services.conversations.api.schemas.responses import UserOut
from services.conversations.errors import RateLimited
from services.conversations.messaging import opening
from services.conversations.messaging.queries import find_customer, list_customers, list_orders
from services.conversations.records import OrderRow
from services.conversations.rules import Status
from services.conversations.web.auth import AdminContext, AdminSubmission, PageContext
from services.conversations.web.form_files import kept_files, with_files
from services.conversations.web.forms import Form, new_form, read_form
from services.conversations.web.rate_limiting import AdminConversationRefusal
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, pages_of, redirect
from shared.api.dependencies import Cursor, DbSession
from shared.database.transactions import driver_connection
from shared.problems import Invalid
from shared.text import Text

PAGE = 25  # customers on a page
ORDERS = 500  # newest orders to choose from

router = APIRouter(prefix=f"{ADMIN_ROOT}new", route_class=PageRoute, include_in_schema=False)


@router.get("/")
async def new_conversation(
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    q: Annotated[Text, Query()] = "",
    cursor: Cursor = None,
    user_id: Annotated[Text, Query()] = "",
    order_id: Annotated[str, Query()] = "",
) -> Response:
    """Show customers to choose from, or the form for the chosen customer."""
    if user_id:
        gettext = pages_of(request).reader(request, page_context).gettext
        return await _form_page(
            request, page_context, session, replace(new_form(user_id=user_id, order_id=order_id), gettext=gettext)
        )
    customers, next_cursor = await list_customers(await driver_connection(session), q, cursor, PAGE)
    return pages_of(request).render(
        request,
        "admin_new_conversation.html",
        page_context,
        customers=[UserOut.of(customer) for customer in customers],
        next_cursor=next_cursor,
        q=q,
        first=cursor is None,
        form=None,
    )


@router.post("/")
async def create_conversation(
    request: Request, refusal: AdminConversationRefusal, page_context: AdminSubmission, session: DbSession
) -> Response:
    """Start a conversation with a customer. A second submit of the same form returns the same conversation."""
    caller = page_context.principal
    form = await read_form(request, AdminCreateConversation, pages_of(request).reader(request, page_context).gettext)
    if form.body is not None and not refusal:
        form = await with_files(request, AdminCreateConversation, page_context, form)
    if (body := form.body) is None or refusal:
        return await _form_page(request, page_context, session, form, refusal)
    new, key = conversation_with_customer(caller, body, form.key)
    try:
        async with session.begin_nested():  # undone on an error, after which the page is still loaded
            conversation_id, _ = await opening.create_conversation(session, new, key)
    except Invalid as problem:
        return await _form_page(request, page_context, session, form.with_errors(problem))
    return redirect(f"{ADMIN_ROOT}{conversation_id}/")


async def _form_page(
    request: Request,
    page_context: PageContext,
    session: DbSession,
    form: Form[AdminCreateConversation],
    refusal: RateLimited | None = None,
) -> Response:
    """Show the form. An id that is not a customer's is an error, which can be corrected in the form."""
    user_id = "" if "user_id" in form.errors else form.typed.get("user_id", "")
    connection = await driver_connection(session)
    customer = await find_customer(connection, user_id.strip()) if user_id else None
    orders: Sequence[OrderRow] = []
    if customer is not None:
        orders, _ = await list_orders(connection, customer.id, None, ORDERS)
    elif user_id:
        form = form.with_errors(Invalid("There is no such customer.", ("body", "user_id"), "unknown_customer"))
    return pages_of(request).render(
        request,
        "admin_new_conversation.html",
        page_context,
        status=422 if form.errors else 200,
        refusal=refusal,
        form=form,
        files=await kept_files(connection, page_context, form),
        customer=customer and UserOut.of(customer),
        orders=orders,
        statuses=list(Status),
    )
