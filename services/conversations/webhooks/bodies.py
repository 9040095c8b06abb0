"""The bodies of webhooks, made of the present rows when they are sent.

They hold ids, texts and times, and neither names nor addresses: the store has these, and can be asked to erase them.
Because nothing is rendered before it is sent, a deleted conversation or a removed message is in no body that waits.
"""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from pydantic import Field

from services.conversations.records import attachments_sql
from services.conversations.rules import WEBHOOK_TEST, Side, Status, Via, WebhookType
from shared.api.response_body import ResponseBody, write_json


class IdOnly(ResponseBody):
    """A customer or an admin, by the store's own id."""

    id: str


class WebhookOrder(ResponseBody):
    """The order that a conversation is about."""

    id: str
    number: str


class WebhookConversation(ResponseBody):
    """A conversation as it is when the webhook is sent."""

    id: UUID
    subject: str
    status: Status
    user: IdOnly
    order: WebhookOrder | None
    assignee: IdOnly | None
    message_count: int
    created_at: datetime
    last_activity_at: datetime
    waiting_since: datetime | None


class WebhookSender(ResponseBody):
    """The sender of a message, and the side it was sent from."""

    id: str
    role: Side


class WebhookFile(ResponseBody):
    """A file of a message. An admin's token can download it from `/api/v1/attachments/{id}`."""

    id: UUID
    name: str
    size: int
    content_type: str


class WebhookMessage(ResponseBody):
    """A message. `removed` is present, and the text empty, if an admin removed it before the webhook was sent."""

    id: UUID
    conversation_id: UUID
    number: int
    sender: WebhookSender
    body: str
    created_at: datetime
    via: Via
    attachments: list[WebhookFile]
    removed: Annotated[bool, Field(exclude_if=lambda removed: not removed)] = False


class ConversationCreatedData(ResponseBody):
    """What happened to which conversation."""

    conversation_id: UUID
    conversation: WebhookConversation


class MessagePostedData(ResponseBody):
    """The message, and the conversation as it is now."""

    conversation_id: UUID
    conversation: WebhookConversation
    message: WebhookMessage


class StatusChangedData(ResponseBody):
    """The change, and the conversation as it is now: its status may have changed again."""

    conversation_id: UUID
    before: Annotated[Status | None, Field(alias="from")] = msgspec.field(name="from")
    to: Status
    conversation: WebhookConversation


class ConversationDeletedData(ResponseBody):
    """The conversation that was deleted with all of its text."""

    conversation_id: UUID


class EmailFailedData(ResponseBody):
    """An email that will not be tried again, and the messages in it. `to` is the side that it was for."""

    conversation_id: UUID
    email_id: UUID
    to: str
    reason: str | None
    message_numbers: list[int]


class NotificationCreatedData(ResponseBody):
    """A notification, and the user that it is for. A customer's is of the type `NEW_MESSAGE`, and names the message."""

    conversation_id: UUID
    notification_id: UUID
    type: str
    recipient_id: str
    message_id: Annotated[UUID | None, Field(exclude_if=lambda message_id: message_id is None)] = None


class WebhookTestData(ResponseBody):
    """The webhook that is tested."""

    webhook_id: UUID


DATA: Final[dict[str, type[ResponseBody]]] = {
    WebhookType.CONVERSATION_CREATED: ConversationCreatedData,
    WebhookType.MESSAGE_POSTED: MessagePostedData,
    WebhookType.CONVERSATION_STATUS_CHANGED: StatusChangedData,
    WebhookType.CONVERSATION_DELETED: ConversationDeletedData,
    WebhookType.NOTIFICATION_CREATED: NotificationCreatedData,
    WebhookType.EMAIL_FAILED: EmailFailedData,
    WebhookType.EMAIL_BOUNCED: EmailFailedData,
    WEBHOOK_TEST: WebhookTestData,
}


class Body(msgspec.Struct):
    """The body of a webhook."""

    type: str
    timestamp: datetime
    data: ResponseBody


def make_body(row: Any) -> bytes | None:
    """Return the body of a delivery, from a row with `BODY_COLUMNS`; None if its conversation is gone."""
    data = _data(row)
    return None if data is None else write_json(Body(row["type"], row["at"], data))


def _data(row: Any) -> ResponseBody | None:  # noqa: PLR0911 - one for each type
    conversation_id, known = row["conversation_id"], row["data"] or {}
    match row["type"]:
        case "webhook.test":
            return WebhookTestData(webhook_id=row["webhook_id"])
        case WebhookType.CONVERSATION_DELETED:
            return ConversationDeletedData(conversation_id=conversation_id)
        case _ if row["subject"] is None:
            return None
        case WebhookType.CONVERSATION_CREATED:
            return ConversationCreatedData(conversation_id=conversation_id, conversation=_conversation(row))
        case WebhookType.MESSAGE_POSTED if row["number"] is not None:
            return MessagePostedData(
                conversation_id=conversation_id, conversation=_conversation(row), message=_message(row)
            )
        case WebhookType.CONVERSATION_STATUS_CHANGED:
            before = known["from"]
            return StatusChangedData(
                conversation_id=conversation_id,
                before=None if before is None else Status(before),
                to=Status(known["to"]),
                conversation=_conversation(row),
            )
        case WebhookType.EMAIL_FAILED | WebhookType.EMAIL_BOUNCED:
            return EmailFailedData(conversation_id=conversation_id, **known)
        case WebhookType.NOTIFICATION_CREATED:
            return NotificationCreatedData(conversation_id=conversation_id, message_id=row["message_id"], **known)
    return None


def _conversation(row: Any) -> WebhookConversation:
    order_id = row["order_id"]
    return WebhookConversation(
        id=row["conversation_id"],
        subject=row["subject"],
        status=Status(row["conversation_status"]),
        user=IdOnly(id=row["user_id"]),
        order=None if order_id is None else WebhookOrder(order_id.partition(" ")[0], row["order_number"]),
        assignee=None if row["assignee_id"] is None else IdOnly(id=row["assignee_id"]),
        message_count=row["message_count"],
        created_at=row["conversation_created_at"],
        last_activity_at=row["last_activity_at"],
        waiting_since=row["waiting_since"],
    )


def _message(row: Any) -> WebhookMessage:
    files = row["files"] or ()
    return WebhookMessage(
        id=row["message_id"],
        conversation_id=row["conversation_id"],
        number=row["number"],
        sender=WebhookSender(row["sender_id"], Side(row["sender_role"])),
        body=row["body"],
        created_at=row["message_created_at"],
        via=Via(row["via"]),
        attachments=[WebhookFile(UUID(file["id"]), file["name"], file["size"], file["content_type"]) for file in files],
        removed=row["removed_at"] is not None,
    )


BODY_COLUMNS: Final = f"""
    delivery.type, delivery.at, delivery.data, delivery.conversation_id, delivery.message_id, delivery.webhook_id,
    c.subject, c.status as conversation_status, c.user_id, c.order_id, o.number as order_number, c.assignee_id,
    c.message_count, c.created_at as conversation_created_at, c.last_activity_at, c.waiting_since,
    m.number, m.sender_id, m.sender_role, m.body, m.created_at as message_created_at, m.via, m.removed_at,
    {attachments_sql("m")} as files
"""
BODY_JOINS: Final = """
    left join conversations as c on c.id = delivery.conversation_id
    left join orders as o on o.id = c.order_id
    left join messages as m on m.id = delivery.message_id and c.id is not null
"""
