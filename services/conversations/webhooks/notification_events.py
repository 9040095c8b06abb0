"""Deliveries of what the notifications service's log says: emails that failed, new notifications."""

from collections.abc import Iterable
from typing import Final
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.rules import WebhookType
from services.conversations.webhooks.outbox import Happened, Lane, add_deliveries, have_webhooks, lock_lines
from shared.database.transactions import transaction_driver
from shared.notifications_feed import EmailStatus, NewMessageCreated, NotificationCreated

NEW_MESSAGE: Final = "NEW_MESSAGE"  # the type of customers' notifications
_STATES: Final = {"failed": WebhookType.EMAIL_FAILED, "bounced": WebhookType.EMAIL_BOUNCED}


async def add_failed_emails(session: AsyncSession, statuses: Iterable[EmailStatus]) -> None:
    """Add deliveries for emails that failed or bounced. Repeating it, for the same time of failure, adds nothing."""
    ended = {status.email_id: status for status in statuses if status.at is not None and status.state in _STATES}
    await _add(
        session,
        [
            Happened(
                uuid5(status.email_id, f"{status.state} {status.at.isoformat()}"),
                _STATES[status.state],
                status.at,
                Lane.OTHER,
                status.conversation_id,
                data={
                    "email_id": str(status.email_id),
                    "to": status.to,
                    "reason": status.reason,
                    "message_numbers": status.numbers,
                },
            )
            for status in ended.values()
            if status.at is not None
        ],
    )


async def add_notifications(session: AsyncSession, created: Iterable[NotificationCreated]) -> None:
    """Add deliveries for new notifications. Repeating it adds nothing."""
    events = {each.notification_id: each for each in created}
    if not events or not await have_webhooks(session):
        return
    now = await (await transaction_driver(session)).fetchval("select clock_timestamp()")
    await _add(
        session,
        [
            Happened(
                each.notification_id,
                WebhookType.NOTIFICATION_CREATED,
                now,
                Lane.OTHER,
                each.conversation_id,
                data=each.model_dump(mode="json", exclude={"conversation_id"}, exclude_none=True),
            )
            for each in events.values()
        ],
    )


async def add_new_messages(session: AsyncSession, created: Iterable[NewMessageCreated]) -> None:
    """Add deliveries for customers' new notifications. Repeating it adds nothing.

    They have the time of their message, and one identity with it: a notification that is created again after a restore
    is not told again, and none of a message that is older than the webhook.
    """
    events = {each.message_id: each for each in created}
    if not events or not await have_webhooks(session):
        return
    await lock_lines(session)
    rows = await (await transaction_driver(session)).fetch(_POSTED, list(events))
    await add_deliveries(
        session,
        [
            Happened(
                uuid5(row["id"], "notification"),
                WebhookType.NOTIFICATION_CREATED,
                row["created_at"],
                Lane.OTHER,
                row["conversation_id"],
                row["id"],
                data={
                    "notification_id": str(events[row["id"]].notification_id),
                    "type": NEW_MESSAGE,
                    "recipient_id": events[row["id"]].recipient_id,
                },
            )
            for row in rows
        ],
    )


async def _add(session: AsyncSession, events: list[Happened]) -> None:
    if not events or not await have_webhooks(session):
        return
    await lock_lines(session)
    ids: list[UUID] = [event.conversation_id for event in events]
    alive = {row["id"] for row in await (await transaction_driver(session)).fetch(_ALIVE, ids)}
    await add_deliveries(session, [event for event in events if event.conversation_id in alive])


_POSTED: Final = """
    select message.id, message.conversation_id, message.created_at
    from messages as message join conversations as c on c.id = message.conversation_id
    where message.id = any($1::uuid[]) order by message.conversation_id, message.number
"""
_ALIVE: Final = "select id from conversations where id = any($1::uuid[])"
