"""The response bodies of the API. The viewer's side decides what they contain about admins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import msgspec
from pydantic import Field

from services.conversations.messaging.posting import Posted
from services.conversations.models import User
from services.conversations.records import (
    ConversationDetail,
    ConversationRow,
    CustomerRow,
    DeskRow,
    MessageRow,
    OrderRow,
    UserRow,
)
from services.conversations.rules import COUNT_LIMIT, CustomValue, Side, Status, ThumbnailState, Via
from services.conversations.search.excerpts import Match, Place
from shared.api.response_body import ResponseBody, UuidText

# A list converts many rows, and an enumeration's constructor and attributes are slow.
_STATUS = {status.value: status for status in Status}
_SIDE = {side.value: side for side in Side}
_VIA = {via.value: via for via in Via}
_CUSTOMER = Side.CUSTOMER

DELETED_CUSTOMER = "Deleted customer"
DELETED_ADMIN = "Deleted admin"


class UserOut(ResponseBody):
    """A customer."""

    id: str
    name: str | None
    email: str | None

    @classmethod
    def of(cls, user: UserRow | CustomerRow) -> Self:
        """Convert a user. A customer without a name shows as the id."""
        return cls(
            id=user.id,
            name=_customer_name(user.id, user.name, deleted=user.deleted_at is not None),
            email=user.email,
        )


class CustomerOut(UserOut):
    """A customer as admins find them. `custom` is present if the store sent fields of its own."""

    custom: Annotated[dict[str, CustomValue] | None, Field(exclude_if=lambda custom: custom is None)] = None

    @classmethod
    def of(cls, user: UserRow | CustomerRow) -> Self:
        """Convert a customer."""
        plain = UserOut.of(user)
        custom = user.custom if isinstance(user, CustomerRow) else None
        return cls(id=plain.id, name=plain.name, email=plain.email, custom=custom)


class OrderItemOut(ResponseBody):
    """An item of an order."""

    name: str
    quantity: int | float
    unit_price: str


class OrderOut(ResponseBody):
    """An order as last synced by the store, at `synced_at`. `deleted` is true once the store has deleted it.

    `items_omitted` is present when the store sent more items than are kept.
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
        """Convert an order."""
        return cls(
            id=order.id.partition(" ")[0],  # a former state has a suffix, see `former_order_id`
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


class LastMessage(ResponseBody):
    """The newest message of a conversation, for lists."""

    id: UuidText
    number: int
    sender_role: Side
    preview: str
    created_at: datetime

    @classmethod
    def of(cls, conversation: ConversationRow) -> Self | None:
        """Return a conversation's newest message, or None."""
        row = conversation
        if row.last_message_id is None or row.last_message_role is None or row.last_message_preview is None:
            return None
        return cls(
            id=str(row.last_message_id),
            number=row.message_count,
            sender_role=_SIDE[row.last_message_role],
            preview=row.last_message_preview,
            created_at=row.last_activity_at,
        )


class MatchOut(ResponseBody):
    """Where a conversation has what was searched for: `number` is that of a message, `note_id` that of a note.

    `hits` are places in the excerpt: pairs of start and length, in code points.
    """

    place: Annotated[Place, Field(alias="in")] = msgspec.field(name="in")
    excerpt: str
    hits: list[tuple[int, int]]
    number: Annotated[int | None, Field(exclude_if=lambda number: number is None)] = None
    note_id: Annotated[UUID | None, Field(exclude_if=lambda note_id: note_id is None)] = None

    @classmethod
    def of(cls, match: Match) -> Self:
        """Convert a match."""
        hits = [(hit.start, hit.length) for hit in match.hits]
        return cls(place=match.place, excerpt=match.excerpt, hits=hits, number=match.number, note_id=match.note_id)


class ConversationOut(ResponseBody):
    """A conversation."""

    id: UuidText
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
    match: Annotated[MatchOut | None, Field(exclude_if=lambda match: match is None)] = None

    @classmethod
    def of(cls, detail: ConversationDetail, match: Match | None = None) -> Self:
        """Convert a conversation with its customer and order, and why a search found it."""
        row, user, order, _ = detail
        return cls(
            id=str(row.id),
            subject=row.subject,
            status=_STATUS[row.status],
            user=UserOut.of(user),
            order=OrderOut.of(order) if order else None,
            is_read_by_admin=row.is_read_by_admin,
            is_read_by_user=row.is_read_by_user,
            message_count=row.message_count,
            last_message=LastMessage.of(row),
            created_at=row.created_at,
            last_activity_at=row.last_activity_at,
            waiting_since=row.waiting_since,
            match=MatchOut.of(match) if match else None,
        )


class AdminOut(ResponseBody):
    """An admin. Without a name, `name` is the id."""

    id: str
    name: str

    @classmethod
    def of(cls, admin_id: str, name: str | None, *, deleted: bool = False) -> Self:
        """Convert an admin."""
        return cls(id=admin_id, name=name or (DELETED_ADMIN if deleted else admin_id))


def _assignee(desk: DeskRow) -> AdminOut | None:
    if desk.assignee_id is None:
        return None
    return AdminOut.of(desk.assignee_id, desk.assignee_name, deleted=bool(desk.assignee_deleted))


class AdminConversationOut(ConversationOut, kw_only=True):
    """A conversation as admins see it. `first_reply_at` stays null if an admin opened it."""

    assignee: AdminOut | None
    labels: list[str]
    first_reply_at: datetime | None

    @classmethod
    def of(cls, detail: ConversationDetail, match: Match | None = None) -> Self:
        """Convert a conversation with its customer, order and desk, and why a search found it."""
        row, user, order, desk = detail
        assert desk is not None  # noqa: S101 - admins' queries load it
        return cls(
            id=str(row.id),
            subject=row.subject,
            status=_STATUS[row.status],
            user=UserOut.of(user),
            order=OrderOut.of(order) if order else None,
            is_read_by_admin=row.is_read_by_admin,
            is_read_by_user=row.is_read_by_user,
            message_count=row.message_count,
            last_message=LastMessage.of(row),
            created_at=row.created_at,
            last_activity_at=row.last_activity_at,
            waiting_since=row.waiting_since,
            match=MatchOut.of(match) if match else None,
            assignee=_assignee(desk),
            labels=desk.labels,
            first_reply_at=desk.first_reply_at,
        )


class Sender(ResponseBody):
    """The sender of a message, and the side it was sent from. For customers, `id` is null if the sender is an admin."""

    id: str | None
    name: str
    role: Side


_IfKnown = Annotated[int | None, Field(exclude_if=lambda length: length is None)]


class AttachmentOut(ResponseBody):
    """A file. A `scanning` file can be read once it is `ready`, a `blocked` one never.

    `width` and `height` are a picture's, if known. `thumbnail` is true once there is one.
    """

    id: UuidText
    name: str
    size: int
    content_type: str
    sha256: str
    state: Literal["ready", "scanning", "blocked"]
    thumbnail: bool
    width: _IfKnown = None
    height: _IfKnown = None

    @classmethod
    def of(cls, file: Mapping[str, Any]) -> Self:
        """Convert a row, or an object of `ATTACHMENT_JSON`."""
        return cls(
            id=str(file["id"]),
            name=file["name"],
            size=file["size"],
            content_type=file["content_type"],
            sha256=file["sha256"],
            state=file["state"],
            width=file.get("width"),
            height=file.get("height"),
            thumbnail=file.get("thumbnail") in {True, ThumbnailState.READY},
        )


class MessageOut(ResponseBody):
    """A message. `via` is how it arrived; a message with `attachments` may have an empty `body`.

    `removed` is present, and `body` and `attachments` are empty, once an admin has removed it.
    """

    id: UuidText
    conversation_id: UuidText
    number: int
    sender: Sender
    body: str
    created_at: datetime
    via: Via
    attachments: list[AttachmentOut]
    removed: Annotated[bool, Field(exclude_if=lambda removed: not removed)] = False

    @classmethod
    def of(cls, message: MessageRow | Posted, viewer: "Viewer") -> Self:
        """Convert a message for a viewer."""
        return cls(
            id=str(message.id),
            conversation_id=str(message.conversation_id),
            number=message.number,
            sender=viewer.sender(message),
            body=message.body,
            created_at=message.created_at,
            removed=message.removed_at is not None,
            via=_VIA[message.via],
            attachments=[AttachmentOut.of(file) for file in message.attachments] if message.attachments else [],
        )


@dataclass(frozen=True, slots=True)
class Viewer:
    """The side that reads. Customers see an admin's name or the store's; admins also see ids."""

    side: Side
    store_name: str

    def sender(self, message: MessageRow | Posted) -> Sender:
        """Convert the sender of a message."""
        role, sender_id = _SIDE[message.sender_role], message.sender_id
        name, deleted = message.sender_name, message.sender_deleted
        if role is _CUSTOMER:
            return Sender(id=sender_id, name=_customer_name(sender_id, name, deleted=deleted), role=role)
        if self.side is _CUSTOMER:
            return Sender(id=None, name=name or self.store_name, role=role)
        return Sender(id=sender_id, name=name or (DELETED_ADMIN if deleted else sender_id), role=role)


class Unread(ResponseBody):
    """The number of unread conversations. `more` is true if counting stopped at 1,000."""

    unread: int
    more: Literal[True] | None = None

    @classmethod
    def of(cls, count: int) -> Self:
        """Convert a count that stops at the limit."""
        return cls(unread=count, more=True if count >= COUNT_LIMIT else None)


class Counts(ResponseBody):
    """The number of conversations by status, of unread, of the caller's and of unassigned ones.

    The last two leave out resolved and closed conversations. `held` have emails that an admin is to post
    or discard. A count of 1,000 means 1,000 or more.
    """

    by_status: dict[Status, int]
    unread: int
    mine: int
    unassigned: int
    held: int
    more: Literal[True] | None = None


@dataclass(slots=True)
class OtherViewer:
    """An admin who is viewing the same conversation. Without a name, `name` is the id."""

    id: str
    name: str


@dataclass(slots=True)
class Viewers:
    """The other admins who are viewing a conversation."""

    others: list[OtherViewer]

    @classmethod
    def of(cls, users: Sequence[User], viewer_id: str) -> Self:
        """Convert the viewers for one of them."""
        others = [user for user in users if user.id != viewer_id]
        return cls(others=[OtherViewer(id=user.id, name=user.name or user.id) for user in others])


@dataclass(slots=True)
class Deleted:
    """The number of deleted conversations."""

    deleted: int


def _customer_name(user_id: str, name: str | None, *, deleted: bool) -> str:
    """Return a customer's name, or the id if there is none."""
    return name or (DELETED_CUSTOMER if deleted else user_id)
