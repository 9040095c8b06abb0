"""The routes, all under `/api/v1/notifications`: the proxy forwards nothing else to this service."""

from typing import Annotated
from uuid import UUID

from fastapi import Path, Query

from services.notifications.api import queries
from services.notifications.api.admin_queries import (
    count_admin_unread,
    list_admin_notifications,
    read_admin_notification,
    read_all_admin_notifications,
    save_preferences,
)
from services.notifications.api.commands import read_all_notifications, read_notification
from services.notifications.api.dependencies import Admin, CurrentSettings, Either
from services.notifications.api.queries import count_unread
from services.notifications.api.schemas import EmailOut, NotificationOut, PreferencesIn, PreferencesOut, Unread
from services.notifications.delivery import operations
from services.notifications.delivery.admin_records import load_preferences
from services.notifications.delivery.timing import load_timing
from services.notifications.errors import EmailNotFailed
from services.notifications.rules import EmailState
from shared.api.dependencies import Cursor, DbSession, Limit
from shared.api.routing import ApiRouter
from shared.paging import DEFAULT_LIMIT, Page
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses
from shared.settings import Role

_PROBLEMS = problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable)

router = ApiRouter(
    prefix="/api/v1/notifications",
    tags=["Notifications"],
    responses=_PROBLEMS,
)
emails = ApiRouter(prefix="/api/v1/notifications/emails", tags=["Emails"], responses=_PROBLEMS)


@router.get("", summary="List notifications")
async def list_notifications(
    caller: Either,
    session: DbSession,
    settings: CurrentSettings,
    unread: Annotated[
        bool | None, Query(description="`true` for unread notifications only, `false` for read ones only.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[NotificationOut]:
    """List the caller's notifications, newest first: a customer's, or those that an admin wants in the bell.

    For an admin, what was opened since is read. A notification for all admins is read once one of them has opened the
    conversation.
    """
    if caller.role is Role.ADMIN:
        found, next_cursor = await list_admin_notifications(
            session, caller.id, unread=unread, cursor=cursor, limit=limit
        )
        items = [
            NotificationOut.of_admin(record, actor, settings.store_name, is_read=read) for record, actor, read in found
        ]
        return Page(items=items, next_cursor=next_cursor)
    rows, next_cursor = await queries.list_notifications(session, caller.id, unread=unread, cursor=cursor, limit=limit)
    items = [NotificationOut.of(notification, sender, settings.store_name) for notification, sender in rows]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/unread", summary="Count unread notifications")
async def count_unread_notifications(caller: Either, session: DbSession) -> Unread:
    """Count the caller's unread notifications; of an admin's, the newest thousand are looked at."""
    if caller.role is Role.ADMIN:
        return Unread(unread=await count_admin_unread(session, caller.id))
    return Unread(unread=await count_unread(session, caller.id))


@router.post("/read-all", summary="Mark all notifications as read", status_code=204)
async def mark_all_notifications_read(caller: Either, session: DbSession, settings: CurrentSettings) -> None:
    """Mark all of the caller's notifications as read. Their emails are not sent. The conversations stay unread."""
    mark = read_all_admin_notifications if caller.role is Role.ADMIN else read_all_notifications
    await mark(session, caller.id, settings)


@router.post(
    "/{notification_id}/read",
    summary="Mark a notification as read",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def mark_notification_read(
    notification_id: Annotated[UUID, Path(description="The notification's id.")],
    caller: Either,
    session: DbSession,
    settings: CurrentSettings,
) -> None:
    """Mark a notification as read. Its email is not sent. The conversation stays unread."""
    mark = read_admin_notification if caller.role is Role.ADMIN else read_notification
    await mark(session, caller.id, notification_id, settings)


@router.get("/preferences", summary="Get an admin's preferences")
async def get_notification_preferences(caller: Admin, session: DbSession) -> PreferencesOut:
    """Return which notifications the caller gets in the bell and by email.

    By default all are in the bell, and mentions and assignments are emailed, at any time.
    """
    return PreferencesOut.of(await load_preferences(session, caller.id), await load_timing(session, caller.id))


@router.put("/preferences", summary="Change an admin's preferences")
async def change_notification_preferences(body: PreferencesIn, caller: Admin, session: DbSession) -> PreferencesOut:
    """Change which notifications the caller gets in the bell and by email, and when emails come.

    Emails that wait leave out what is no longer wanted by email. Times are in the caller's time zone, as the store has
    synced it, or else in that of the service.
    """
    preferences = body.applied_to(await load_preferences(session, caller.id))
    timing = body.applied_to_timing(await load_timing(session, caller.id))
    await save_preferences(session, caller.id, preferences, timing)
    return PreferencesOut.of(preferences, timing)


@emails.get("", summary="List emails")
async def list_emails(
    _: Admin,
    session: DbSession,
    conversation_id: Annotated[UUID | None, Query(description="Only emails about this conversation.")] = None,
    state: Annotated[EmailState | None, Query(description="Only emails in this state.")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[EmailOut]:
    """List emails with their delivery status, newest first."""
    rows, next_cursor = await queries.list_emails(
        session, conversation_id=conversation_id, state=state, cursor=cursor, limit=limit
    )
    return Page(items=[EmailOut.of(*row) for row in rows], next_cursor=next_cursor)


@emails.post(
    "/{email_id}/retry",
    summary="Retry an email",
    status_code=204,
    responses=problem_responses(NotFound, EmailNotFailed),
)
async def retry_email(
    email_id: Annotated[UUID, Path(description="The email's id.")], _: Admin, session: DbSession
) -> None:
    """Queue a failed or bounced email for another attempt."""
    await operations.retry_email(session, email_id)
