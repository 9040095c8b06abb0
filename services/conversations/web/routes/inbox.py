"""The support inbox: the list of all conversations with its filters and counts."""

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, model_validator

from services.conversations.api.response_schemas import UserOut
from services.conversations.messaging import counts, listing
from services.conversations.messaging.listing import Filters
from services.conversations.records import ConversationDetail, UserRow
from services.conversations.rules import BULK_DELETE_LIMIT, WAITING, Side, Status
from services.conversations.web.auth import AdminContext
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, add_slash, pages_of, redirect
from shared.database import Driver, driver_connection
from shared.dependencies import Cursor, DbSession
from shared.text import Text

PAGE = 25  # conversations on a page
CHOICES = 20  # customers to choose from

router = APIRouter(prefix=ADMIN_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)
for path in ("", "/new", "/bulk-delete", "/{conversation_id}", "/{conversation_id}/delete"):
    router.add_api_route(path, add_slash)


class InboxQuery(BaseModel):
    """The query parameters of the inbox. Blank ones count as missing.

    `user_id` may be any text to find a customer by. `deleted` is the number for the notice after a deletion.
    """

    status: list[Status] = []
    unread: bool | None = None
    user_id: Text | None = None
    order_number: Text | None = None
    sort: Literal["activity", "waiting"] = "activity"
    cursor: Cursor = None
    deleted: Annotated[int, Field(ge=0, le=BULK_DELETE_LIMIT)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        values = {name: _without_blanks(value) for name, value in parameters.items()}
        return {name: value for name, value in values.items() if value}

    @property
    def filters(self) -> Filters:
        """The filters of the list."""
        return Filters(tuple(sorted(set(self.status))), self.unread, self.user_id, order_number=self.order_number)

    @property
    def view(self) -> str | None:
        """The name of the view in the navigation that has these filters, or None."""
        views = {
            Filters(): "all",
            Filters(status=tuple(sorted(WAITING))): "waiting",
            Filters(unread=True): "unread",
        }
        return views.get(self.filters)

    @property
    def has_filters(self) -> bool:
        """Whether there are filters to clear."""
        return self.filters != Filters()

    def toggled(self, status: Status) -> str:
        """Return the URL of the list with a status added to the filter, or removed from it."""
        return self.address(status=sorted({selected.value for selected in self.status} ^ {status.value}))

    def address(self, **changes: Any) -> str:
        """Return the URL of the list with changed parameters: its first page, unless a cursor is given."""
        values = self.model_dump(mode="json", exclude={"cursor", "deleted"}, exclude_defaults=True) | changes
        parameters = {name: value for name, value in values.items() if value is not None}
        if self.unread is not None:
            parameters["unread"] = "true" if self.unread else "false"
        query = urlencode(parameters, doseq=True)
        return f"{ADMIN_ROOT}?{query}" if query else ADMIN_ROOT


@router.get("/")
async def list_all_conversations(
    request: Request, page_context: AdminContext, session: DbSession, inbox: Annotated[InboxQuery, Query()]
) -> Response:
    """Show the conversations that match the filters."""
    connection = await driver_connection(session)
    customers: list[UserRow] = []
    if inbox.user_id is None:
        tally = await counts.tally(connection)
    else:
        tally, customers = await counts.tally_and_find_customers(connection, inbox.user_id, CHOICES)
    chosen = customers[0] if customers and customers[0].id == inbox.user_id else None
    if len(customers) == 1 and not chosen:  # the only match
        return redirect(inbox.address(user_id=customers[0].id))
    details: list[ConversationDetail] = []
    next_cursor = None
    if inbox.user_id is None or chosen:
        details, next_cursor = await _list(connection, inbox)
    return pages_of(request).render(
        request,
        "admin_conversations.html",
        page_context,
        inbox=inbox,
        tally=tally,
        chosen=chosen and UserOut.of(chosen),
        customers=[UserOut.of(customer) for customer in customers],
        rows=[(detail, UserOut.of(detail.user)) for detail in details],
        next_cursor=next_cursor,
    )


async def _list(connection: Driver, inbox: InboxQuery) -> tuple[list[ConversationDetail], str | None]:
    if inbox.sort == "waiting":
        return await listing.list_by_waiting(connection, inbox.filters, inbox.cursor, PAGE)
    return await listing.list_by_activity(connection, inbox.filters, Side.ADMIN, inbox.cursor, PAGE)


def _without_blanks(value: Any) -> Any:
    if isinstance(value, list):
        return [item for item in value if _without_blanks(item)]
    return value.strip() if isinstance(value, str) else value
