"""What the API takes and gives. Who looks decides what is shown of an admin."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from services.conversations.models import Message, Order, User
from services.conversations.posting import Posted
from services.conversations.queries import Thread
from services.conversations.rules import (
    BODY_LENGTH,
    BULK_DELETE_LIMIT,
    COUNT_LIMIT,
    SUBJECT_LENGTH,
    Side,
    Status,
)
from shared.paging import MAX_NUMBER
from shared.people import Address, LocaleTag, StoreId, ZoneName
from shared.text import Name, OneLine, Text

DELETED_CUSTOMER = "Deleted customer"
DELETED_ADMIN = "Deleted admin"

Subject = Annotated[OneLine, StringConstraints(min_length=1, max_length=SUBJECT_LENGTH)]
Body = Annotated[Text, StringConstraints(min_length=1, max_length=BODY_LENGTH)]
MessageNumber = Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)]
Money = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,4})?$")]


def _web_address(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("a link starts with https:// or http://")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time lies outside the years 1 to 9999 in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
Link = Annotated[OneLine, StringConstraints(max_length=2000), AfterValidator(_web_address)]


class Request(BaseModel):
    """A body; fields that it does not know are an error."""

    model_config = ConfigDict(extra="forbid")


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class CreateConversation(Request):
    """A customer opens a conversation, about an order of theirs or not, with a first message or without."""

    model_config = _example(subject="Where is my parcel?", order_id="A-1007", body="It should be here by now.")

    subject: Subject
    order_id: StoreId | None = None
    body: Body | None = None


class AdminCreateConversation(Request):
    """An admin opens a conversation with a customer."""

    model_config = _example(user_id="C-42", subject="Your order A-1007", body="It will be a day late.")

    user_id: StoreId
    subject: Subject
    body: Body
    order_id: StoreId | None = None
    status: Status | None = None


class PostMessage(Request):
    """A message. `seen_number` is the newest number on the sender's screen: newer ones of the other side refuse it."""

    model_config = _example(body="Thank you!", seen_number=3)

    body: Body
    seen_number: MessageNumber | None = None


class EditConversation(Request):
    """The edit form: a reply, a status, or both in one submit."""

    model_config = _example(reply_body="It is on its way.", status="RESOLVED", seen_number=4)

    status: Status | None = None
    reply_body: Body | None = None
    seen_number: MessageNumber | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status is None and self.reply_body is None:
            raise ValueError("give a status, a reply_body, or both")
        return self


class MarkRead(Request):
    """How far the reader has read."""

    model_config = _example(up_to=4)

    up_to: MessageNumber


class BulkDelete(Request):
    """The conversations to delete, all or none; ids that come twice count once."""

    model_config = _example(ids=["0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42"])

    ids: Annotated[list[UUID], Field(min_length=1, max_length=BULK_DELETE_LIMIT)]


class PutUser(Request):
    """A user as the store has it. What is left out is empty; the role stays what it was."""

    model_config = _example(name="A. Customer", email="customer@example.com", locale="de-AT", zoneinfo="Europe/Vienna")

    email: Address | None = None
    name: Name | None = None
    role: Side | None = None
    locale: LocaleTag | None = None
    zoneinfo: ZoneName | None = None
    updated_at: Moment | None = None


class OrderItem(Request):
    """A line of an order."""

    name: Annotated[OneLine, StringConstraints(min_length=1, max_length=500)]
    quantity: Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)]
    unit_price: Money


class PutOrder(Request):
    """An order as the store has it."""

    model_config = _example(
        user_id="C-42",
        number="1007",
        status="shipped",
        total="59.90",
        currency="EUR",
        placed_at="2026-01-02T03:04:05Z",
        url="https://store.example/orders/1007",
        items=[{"name": "Teapot", "quantity": 2, "unit_price": "29.95"}],
    )

    user_id: StoreId
    number: Annotated[OneLine, StringConstraints(min_length=1, max_length=100)]
    status: Annotated[OneLine, StringConstraints(min_length=1, max_length=100)]
    total: Money
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    placed_at: Moment
    url: Link | None = None
    items: Annotated[list[OrderItem], Field(max_length=100)] = []
    updated_at: Moment | None = None


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
    """How many conversations are unread; `more` when there are more than that."""

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


class Deleted(BaseModel):
    """How many conversations were deleted."""

    deleted: int


def customer_name(identity: str, name: str | None, *, deleted: bool) -> str:
    """Name a customer, also one who has no name, or none any more."""
    return name or (DELETED_CUSTOMER if deleted else identity)
