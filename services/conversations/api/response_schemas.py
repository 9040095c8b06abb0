"""What the API gives. Who looks decides what is shown of an admin."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from services.conversations.messaging.erasure_batches import Progress
from services.conversations.messaging.posting import Posted
from services.conversations.models import User
from services.conversations.records import ConversationDetail, ConversationRow, MessageRow, OrderRow, UserRow
from services.conversations.rules import COUNT_LIMIT, Side, Status
from shared.problems import FieldError

DELETED_CUSTOMER = "Deleted customer"
DELETED_ADMIN = "Deleted admin"


@dataclass(slots=True)
class UserOut:
    """A customer."""

    id: str
    name: str | None
    email: str | None

    @classmethod
    def of(cls, user: UserRow) -> Self:
        """Show a customer; a nameless one by the id."""
        return cls(
            id=user.id,
            name=customer_name(user.id, user.name, deleted=user.deleted_at is not None),
            email=user.email,
        )


@dataclass(slots=True)
class OrderItemOut:
    """A line of an order."""

    name: str
    quantity: int | float
    unit_price: str


@dataclass(slots=True)
class OrderOut:
    """An order as the store last sent it, at `synced_at`; `deleted` when the store has deleted it since.

    `items_omitted` is there when the store sent more items than are kept.
    """

    id: str
    number: str
    status: str
    total: str
    currency: str
    placed_at: datetime
    url: str | None
    items: list[OrderItemOut]
    synced_at: datetime
    deleted: bool
    items_omitted: Annotated[int, Field(exclude_if=lambda count: count == 0)] = 0

    @classmethod
    def of(cls, order: OrderRow) -> Self:
        """Show an order."""
        return cls(
            id=order.id.partition(" ")[0],  # of a former state as well: see `former_order_id`
            number=order.number,
            status=order.status,
            total=order.total,
            currency=order.currency,
            placed_at=order.placed_at,
            url=order.url,
            items=[OrderItemOut(item["name"], item["quantity"], item["unit_price"]) for item in order.items],
            synced_at=order.synced_at,
            deleted=order.deleted_at is not None,
            items_omitted=order.items_omitted,
        )


@dataclass(slots=True)
class LastMessage:
    """The newest message, as a list shows it."""

    id: UUID
    number: int
    sender_role: Side
    preview: str
    created_at: datetime

    @classmethod
    def of(cls, conversation: ConversationRow) -> Self | None:
        """Show a conversation's newest message, if there is one."""
        found = conversation
        if found.last_message_id is None or found.last_message_role is None or found.last_message_preview is None:
            return None
        return cls(
            id=found.last_message_id,
            number=found.message_count,
            sender_role=Side(found.last_message_role),
            preview=found.last_message_preview,
            created_at=found.last_activity_at,
        )


@dataclass(slots=True)
class ConversationOut:
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
    def of(cls, thread: ConversationDetail) -> Self:
        """Show a conversation with what stands beside it."""
        found, user, order = thread
        return cls(
            id=found.id,
            subject=found.subject,
            status=Status(found.status),
            user=UserOut.of(user),
            order=OrderOut.of(order) if order else None,
            is_read_by_admin=found.is_read_by_admin,
            is_read_by_user=found.is_read_by_user,
            message_count=found.message_count,
            last_message=LastMessage.of(found),
            created_at=found.created_at,
            last_activity_at=found.last_activity_at,
            waiting_since=found.waiting_since,
        )


@dataclass(slots=True)
class Sender:
    """Who wrote a message, and from which side. To customers an admin is a name, never an id."""

    id: str | None
    name: str
    role: Side


@dataclass(slots=True)
class MessageOut:
    """A message."""

    id: UUID
    conversation_id: UUID
    number: int
    sender: Sender
    body: str
    created_at: datetime

    @classmethod
    def of(cls, message: MessageRow | Posted, viewer: "Viewer") -> Self:
        """Show a message as the viewer may see it."""
        return cls(
            id=message.id,
            conversation_id=message.conversation_id,
            number=message.number,
            sender=viewer.sender(message),
            body=message.body,
            created_at=message.created_at,
        )


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks: customers see an admin's name or the store's, admins see everybody's id."""

    side: Side
    store_name: str

    def sender(self, message: MessageRow | Posted) -> Sender:
        """Show the sender of a message."""
        role, identity = Side(message.sender_role), message.sender_id
        name, deleted = message.sender_name, message.sender_deleted
        if role is Side.CUSTOMER:
            return Sender(id=identity, name=customer_name(identity, name, deleted=deleted), role=role)
        if self.side is Side.CUSTOMER:
            return Sender(id=None, name=name or self.store_name, role=role)
        return Sender(id=identity, name=name or (DELETED_ADMIN if deleted else identity), role=role)


@dataclass(slots=True)
class Unread:
    """How many conversations are unread; `more` when the count stopped at 1,000."""

    unread: int
    more: Literal[True] | None = None

    @classmethod
    def of(cls, count: int) -> Self:
        """Show a count that stops at the limit."""
        return cls(unread=count, more=True if count >= COUNT_LIMIT else None)


@dataclass(slots=True)
class Counts:
    """How many conversations there are by status, and unread; a count of 1,000 means that many or more."""

    by_status: dict[Status, int]
    unread: int
    more: Literal[True] | None = None


@dataclass(slots=True)
class OtherViewer:
    """An admin who looks at the same conversation; a nameless one by the id."""

    id: str
    name: str


@dataclass(slots=True)
class Viewers:
    """Who else looks at a conversation."""

    others: list[OtherViewer]

    @classmethod
    def of(cls, users: Sequence[User]) -> Self:
        """Show admins to an admin."""
        return cls(others=[OtherViewer(id=user.id, name=user.name or user.id) for user in users])


@dataclass(slots=True)
class Deleted:
    """How many conversations were deleted."""

    deleted: int


@dataclass(slots=True)
class ErasureOut:
    """How far the erasure of a user has come; `erased` counts rows."""

    id: UUID
    user_id: str
    content: bool
    state: Literal["running", "done"]
    erased: int
    asked_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """Show an erasure to the store."""
        return cls(state="done" if progress.finished_at else "running", **asdict(progress))


def customer_name(identity: str, name: str | None, *, deleted: bool) -> str:
    """Name a customer, also one who has no name, or none any more."""
    return name or (DELETED_CUSTOMER if deleted else identity)


class RecordOut(BaseModel):
    """A user or an order that was taken, and what was not used as it was sent."""

    id: str
    warnings: list[FieldError] | None = None
    items_omitted: int | None = None


@dataclass(slots=True)
class LineOut:
    """What became of a line of an import; of one that is refused, what the PUT would say, as far as it can be read.

    `lines_omitted` is in the last answer when very many lines were neither a user nor an order.
    """

    line: int
    status: Literal[200, 201, 409, 413, 422]
    type: Literal["user", "order"] | None = None
    id: str | None = None
    code: str | None = None
    detail: str | None = None
    errors: list[FieldError] | None = None
    warnings: list[FieldError] | None = None
    items_omitted: int | None = None
    lines_omitted: int | None = None
