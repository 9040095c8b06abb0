"""The support inbox: the list of all conversations with its filters and counts."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.conversations.api.schemas.responses import UserOut
from services.conversations.desk.choices import load_choices
from services.conversations.emails.held import list_unmatched
from services.conversations.messaging import counts, listing
from services.conversations.messaging.listing import Filters
from services.conversations.messaging.queries import load_conversations
from services.conversations.records import UserRow
from services.conversations.rules import Side
from services.conversations.web.auth import AdminContext
from services.conversations.web.inbox_query import InboxQuery, ListQuery
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, add_slash, pages_of, redirect
from services.conversations.web.searching import Result, search
from shared.api.dependencies import DbSession
from shared.database.engine import Driver
from shared.database.transactions import driver_connection

PAGE = 25  # conversations on a page
CHOICES = 20  # customers to choose from
SHOWN = 100  # rows on a screen, at most

router = APIRouter(prefix=ADMIN_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)
for path in ("", "/new", "/bulk-delete", "/{conversation_id}", "/{conversation_id}/delete"):
    router.add_api_route(path, add_slash)


@router.get("/")
async def list_all_conversations(
    request: Request,
    page_context: AdminContext,
    session: DbSession,
    inbox: ListQuery,
    shown: Annotated[list[UUID], Query(max_length=SHOWN)] = [],  # noqa: B006 - never changed
) -> Response:
    """Show the conversations that match the filters. For scripts, also return those of `shown` that are elsewhere."""
    connection = await driver_connection(session)
    customers: list[UserRow] = []
    if inbox.user_id is None:
        tally = await counts.tally(connection, page_context.principal.id)
    else:
        tally, customers = await counts.tally_and_find_customers(
            connection, page_context.principal.id, inbox.user_id, CHOICES
        )
    chosen = customers[0] if customers and customers[0].id == inbox.user_id else None
    if len(customers) == 1 and not chosen:  # the only match
        return redirect(inbox.address(user_id=customers[0].id))
    choices = await load_choices(connection)
    unmatched = await list_unmatched(connection, PAGE) if inbox.view == "held" and tally.held else []
    result = Result()
    if (inbox.user_id is None or chosen) and choices.has(inbox.label):
        filters = inbox.filters_for(page_context.principal.id, choices.label_id(inbox.label))
        result = await _list(connection, inbox, filters)
    elsewhere = set(shown) - {detail.conversation.id for detail, _ in result.rows}
    kept = await load_conversations(connection, elsewhere) if elsewhere else []
    return pages_of(request).render(
        request,
        "admin_conversations.html",
        page_context,
        inbox=inbox,
        tally=tally,
        chosen=chosen and UserOut.of(chosen),
        customers=[UserOut.of(customer) for customer in customers],
        rows=[(detail, UserOut.of(detail.user), match) for detail, match in result.rows],
        unmatched=unmatched,
        kept=[(detail, UserOut.of(detail.user), None) for detail in kept],
        next_cursor=result.next_cursor,
        search_problem=result.problem,
        is_complete=result.is_complete,
        choices=choices,
    )


async def _list(connection: Driver, inbox: InboxQuery, filters: Filters) -> Result:
    if inbox.q:
        return await search(connection, inbox.q, filters, Side.ADMIN, inbox.cursor, PAGE)
    if inbox.sort == "waiting":
        return Result.of(*await listing.list_by_waiting(connection, filters, inbox.cursor, PAGE))
    return Result.of(*await listing.list_by_activity(connection, filters, Side.ADMIN, inbox.cursor, PAGE))
