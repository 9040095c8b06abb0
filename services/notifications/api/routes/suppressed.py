"""Routes for addresses to which no email is sent any more."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import Path, Query
from pydantic import BaseModel

from services.notifications.api.dependencies import Admin
from services.notifications.delivery import suppression
from services.notifications.models import Suppression
from services.notifications.rules import Reason
from shared.api.dependencies import Cursor, DbSession, Limit
from shared.api.routing import ApiRouter
from shared.paging import DEFAULT_LIMIT, Page
from shared.people import StoreId
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses

router = ApiRouter(
    prefix="/api/v1/notifications/emails/suppressed",
    tags=["Emails"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)


class SuppressedOut(BaseModel):
    """An address to which no email is sent any more. Only a hash of it is kept.

    `user_id` is whose address it is; null if they have another one now, or were deleted. `email_id` is the email that
    bounced, `status` the code that its report gave (RFC 3463).
    """

    id: UUID
    user_id: str | None
    email_id: UUID
    reason: Reason
    status: str
    since: datetime

    @classmethod
    def of(cls, row: Suppression) -> Self:
        """Convert a row."""
        return cls.model_validate({name: getattr(row, name) for name in cls.model_fields})


@router.get("", summary="List suppressed addresses")
async def list_suppressed_addresses(
    _: Admin,
    session: DbSession,
    user_id: Annotated[StoreId | None, Query(description="Only addresses of this user.")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[SuppressedOut]:
    """List addresses to which no email is sent any more, newest first."""
    rows, next_cursor = await suppression.list_suppressed(session, user_id=user_id, cursor=cursor, limit=limit)
    return Page(items=[SuppressedOut.of(row) for row in rows], next_cursor=next_cursor)


@router.delete(
    "/{suppression_id}", summary="Remove a suppressed address", status_code=204, responses=problem_responses(NotFound)
)
async def remove_suppressed_address(
    suppression_id: Annotated[UUID, Path(description="The id of the suppressed address.")], _: Admin, session: DbSession
) -> None:
    """Send emails to an address again. Emails that were suppressed meanwhile are not sent."""
    await suppression.remove_suppression(session, suppression_id)
