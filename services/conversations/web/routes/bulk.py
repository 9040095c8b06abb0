"""The form that changes the conversations selected in the inbox. Scripts call the API instead."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from services.conversations.api.schemas.desk import LabelName
from services.conversations.desk.assignment import Assignee
from services.conversations.desk.bulk import BulkChange, change_conversations
from services.conversations.messaging.queries import load_conversations
from services.conversations.rules import BULK_LIMIT, Status
from services.conversations.web.auth import AdminSubmission
from services.conversations.web.forms import parse_ids
from services.conversations.web.inbox_query import ListQuery
from services.conversations.web.rendering import ADMIN_ROOT, PageRoute, redirect
from shared.api.dependencies import DbSession
from shared.database.transactions import driver_connection
from shared.problems import Invalid

router = APIRouter(prefix=ADMIN_ROOT.rstrip("/"), route_class=PageRoute, include_in_schema=False)

_CHANGES: Final[Mapping[str, BulkChange]] = MappingProxyType(
    {
        "resolve": BulkChange(status=Status.RESOLVED),
        "close": BulkChange(status=Status.CLOSED),
        "read": BulkChange(read=True),
        "unread": BulkChange(read=False),
    }
)


@router.get("/bulk/")
async def show_inbox() -> Response:
    """Redirect to the inbox, for admins who had to sign in before the POST."""
    return redirect(ADMIN_ROOT)


@router.post("/bulk/")
async def change_selected(
    request: Request, page_context: AdminSubmission, session: DbSession, inbox: ListQuery
) -> Response:
    """Change the selected conversations, except those with messages that came after the list was shown."""
    form = await request.form()
    ids = parse_ids(value for value in form.getlist("ids") if isinstance(value, str))
    if len(ids) > BULK_LIMIT:
        raise Invalid(f"Select at most {BULK_LIMIT} conversations.", ("body", "ids"))
    action = str(form.get("do", ""))
    if action == "delete":
        return redirect(f"{ADMIN_ROOT}bulk-delete/?{urlencode({'ids': [str(each) for each in ids]}, doseq=True)}")
    change = _change(action, page_context.principal.id, str(form.get("label", "")))
    seen = await _seen(session, ids, str(form.get("as_of", "")))
    result = await change_conversations(session, seen, change, page_context.principal.id)
    return redirect(inbox.address(changed=result.changed, left_alone=len(result.changed_meanwhile) or None))


def _change(action: str, admin_id: str, label: str) -> BulkChange:
    if action == "mine":
        return BulkChange(assignee=Assignee(admin_id))
    if action == "label":
        try:
            return BulkChange(add_labels=(TypeAdapter(LabelName).validate_python(label),))
        except ValidationError as error:
            raise RequestValidationError([{**error.errors()[0], "loc": ("body", "label")}]) from None
    try:
        return _CHANGES[action]
    except KeyError:
        raise Invalid("Choose what to do with the selected conversations.", ("body", "do")) from None


async def _seen(session: DbSession, ids: list[UUID], as_of: str) -> dict[UUID, int]:
    """Return the newest message number of each conversation that its admin can have seen.

    `as_of` is the newest activity on the list: what has a later one has messages that are not on it.
    """
    try:
        newest = datetime.fromisoformat(as_of).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid("The form is incomplete. Go back and reload the inbox.", ("body", "as_of")) from None
    details = await load_conversations(await driver_connection(session), ids)
    return {
        row.id: row.message_count if row.last_activity_at <= newest else -1
        for row in (detail.conversation for detail in details)
    }
