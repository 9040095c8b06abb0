"""What the API gives. Who looks decides what is shown of an admin."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from services.conversations.models import Message, Order, User
from services.conversations.posting import Posted
from services.conversations.queries import Thread
from services.conversations.rules import COUNT_LIMIT, Side, Status

DELETED_CUSTOMER = "Deleted customer"
DELETED_ADMIN = "Deleted admin"


class UserOut(BaseModel):
    """A customer."""

    id: str
    name: str | None
    email: str | None

    @classmethod
    def of(cls, user: User) -> Self:
        """Show a customer; a nameless one by the id."""
        return cls(
            id=user.id,
            name=customer_name(user.id, user.name, deleted=user.deleted_at is not None),
            email=user.email,
        )


class OrderItemOut(BaseModel):
    """A line of an order."""

    name: str
    quantity: int
    unit_price: str


class OrderOut(BaseModel):
    """An order as the store last sent it, at `synced_at`; `deleted` when the store has deleted it since."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    number: str
    status: str
    total: str
    currency: str
    placed_at: datetime
    url: str | None
    items: Sequence[OrderItemOut]
    synced_at: datetime
    deleted: bool

    @classmethod
    def of(cls, order: Order) -> Self:
        """Show an order."""
        columns = {name: getattr(order, name) for name in cls.model_fields if name != "deleted"}
        return cls.model_validate(columns | {"deleted": order.deleted_at is not None})


class LastMessage(BaseModel):
    """The newest message, as a list shows it."""

    id: UUID
    number: int
    sender_role: Side
    preview: str
    created_at: datetime


class ConversationOut(BaseModel):
    """A conversation."""

    id: UUID
    subject: str
    status: Status
    user: UserOut
    order: OrderOut | None
    is_read_by_admin: bool
    is_read_by_user: bool
    message_count: int
    last_message: LastMessage | None
    created_at: datetime
    last_activity_at: datetime
    waiting_since: datetime | None

    @classmethod
    def of(cls, thread: Thread) -> Self:
        """Show a conversation with what stands beside it."""
        found = thread.conversation
        last: dict[str, Any] | None = None
        if found.last_message_id is not None:
            last = {
                "id": found.last_message_id,
                "number": found.message_count,
                "sender_role": found.last_message_role,
                "preview": found.last_message_preview,
                "created_at": found.last_activity_at,
            }
        beside = {
            "user": UserOut.of(thread.user),
            "order": OrderOut.of(thread.order) if thread.order else None,
            "last_message": last,
        }
        columns = {name: getattr(found, name) for name in cls.model_fields if name not in beside}
        return cls.model_validate(columns | beside)


class Sender(BaseModel):
    """Who wrote a message, and from which side. To customers an admin is a name, never an id."""

    id: str | None
    name: str
    role: Side


class MessageOut(BaseModel):
    """A message."""

    id: UUID
    conversation_id: UUID
    number: int
    sender: Sender
    body: str
    created_at: datetime

    @classmethod
    def of(cls, message: Message, sender: User, viewer: "Viewer") -> Self:
        """Show a message as the viewer may see it."""
        posted = Posted(
            id=message.id,
            conversation_id=message.conversation_id,
            number=message.number,
            sender_id=message.sender_id,
            sender_role=message.sender_role,
            sender_name=sender.name,
            sender_deleted=sender.deleted_at is not None,
            body=message.body,
            created_at=message.created_at,
        )
        return cls.of_posted(posted, viewer)

    @classmethod
    def of_posted(cls, posted: Posted, viewer: "Viewer") -> Self:
        """Show a message that was just posted."""
        return cls(
            id=posted.id,
            conversation_id=posted.conversation_id,
            number=posted.number,
            sender=viewer.sender(posted),
            body=posted.body,
            created_at=posted.created_at,
        )


class Viewer(BaseModel):
    """Who looks: customers see an admin's name or the store's, admins see everybody's id."""

    side: Side
    store_name: str

    def sender(self, posted: Posted) -> Sender:
        """Show the sender of a message."""
        role, name, deleted = Side(posted.sender_role), posted.sender_name, posted.sender_deleted
        if role is Side.CUSTOMER:
            return Sender(id=posted.sender_id, name=customer_name(posted.sender_id, name, deleted=deleted), role=role)
        if self.side is Side.CUSTOMER:
            return Sender(id=None, name=name or self.store_name, role=role)
        return Sender(id=posted.sender_id, name=name or (DELETED_ADMIN if deleted else posted.sender_id), role=role)


class Unread(BaseModel):
    """How many conversations are unread; `more` when the count stopped at 1,000."""

    unread: int
    more: Literal[True] | None = None

    @classmethod
    def of(cls, count: int) -> Self:
        """Show a count that stops at the limit."""
        return cls(unread=count, more=True if count >= COUNT_LIMIT else None)


class Counts(BaseModel):
    """How many conversations there are by status, and unread; a count of 1,000 means that many or more."""

    by_status: dict[Status, int]
    unread: int
    more: Literal[True] | None = None


class OtherViewer(BaseModel):
    """An admin who looks at the same conversation; a nameless one by the id."""

    id: str
    name: str


class Viewers(BaseModel):
    """Who else looks at a conversation."""

    others: list[OtherViewer]

    @classmethod
    def of(cls, users: Sequence[User]) -> Self:
        """Show admins to an admin."""
        return cls(others=[OtherViewer(id=user.id, name=user.name or user.id) for user in users])


class Deleted(BaseModel):
    """How many conversations were deleted."""

    deleted: int


def customer_name(identity: str, name: str | None, *, deleted: bool) -> str:
    """Name a customer, also one who has no name, or none any more."""
    return name or (DELETED_CUSTOMER if deleted else identity)
