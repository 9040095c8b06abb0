"""Load sample data: users, orders and conversations of a small shop, with the same functions as the API."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.catalog.sync import OrderUpsert, UserUpsert, upsert_batch
from services.conversations.desk.canned_replies import CannedReplyFields, create_canned_reply
from services.conversations.desk.labels import change_labels
from services.conversations.desk.notes import NewNote, add_note
from services.conversations.messaging.commands import mark_read, set_status
from services.conversations.messaging.opening import NewConversation, create_conversation
from services.conversations.messaging.posting import Post, post_message
from services.conversations.models import Conversation, ConversationEntry, Message
from services.conversations.rules import CustomValue, Side, Status

DATA = Path(__file__).with_name("data.json")
_ONE_AT_A_TIME = select(func.pg_advisory_xact_lock(func.hashtext("chats-demo")))


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DemoUser(_Model):
    """A user, as the store syncs it."""

    id: str
    role: Side
    name: str
    email: str
    locale: str
    zoneinfo: str
    custom: dict[str, CustomValue] = {}


class DemoItem(_Model):
    """A line of an order."""

    name: str
    quantity: int
    unit_price: str


class DemoOrder(_Model):
    """An order, placed `days_ago` days before the data is loaded. Its total is the sum of its items."""

    number: str
    user_id: str
    status: str
    currency: str
    days_ago: int
    items: list[DemoItem]


class DemoMessage(_Model):
    """A message after the first."""

    sender_id: str
    body: str


class DemoStatus(_Model):
    """A status that an admin sets by hand."""

    status: Status


class DemoNote(_Model):
    """A note of an admin."""

    admin_id: str
    note: str


class DemoLabels(_Model):
    """Labels that an admin adds."""

    admin_id: str
    labels: list[str]


class DemoCannedReply(_Model):
    """A canned reply."""

    shortcut: str
    title: str
    body: str
    locale: str | None


class DemoConversation(_Model):
    """A conversation with its messages, and what admins do between them.

    `opened_by` is an admin, or None if the customer opened the conversation. The side that did not write the last
    message has read everything unless `unread`. `days_ago` holds the days of the first and last message.
    """

    user_id: str
    subject: str
    body: str | None = None
    order_id: str | None = None
    opened_by: str | None = None
    steps: list[DemoMessage | DemoStatus | DemoNote | DemoLabels] = []
    unread: bool = False
    days_ago: tuple[float, float]


class DemoData(_Model):
    """The content of the data file. Conversations are in the order of their last messages."""

    users: list[DemoUser]
    orders: list[DemoOrder]
    conversations: list[DemoConversation]
    canned_replies: list[DemoCannedReply]


async def add_demo(session: AsyncSession) -> bool:
    """Load the sample data. If there are any conversations, adds nothing and returns False.

    Of two concurrent calls, the second waits for the first to commit and then finds its conversations.
    """
    await session.execute(_ONE_AT_A_TIME)
    if await session.scalar(select(exists().select_from(Conversation))):
        return False
    now = datetime.now(UTC)
    data = DemoData.model_validate_json(DATA.read_bytes())
    users = [UserUpsert(user.id, user.model_dump(), user.role, custom=user.custom) for user in data.users]
    orders = [OrderUpsert(order.number, _order_fields(order, now)) for order in data.orders]
    await upsert_batch(session, [*users, *orders])
    sides = {user.id: user.role for user in data.users}
    for conversation in data.conversations:
        conversation_id = await _add_conversation(session, conversation, sides)
        await _backdate(session, conversation_id, conversation, now)
    admin_id = next(user_id for user_id, side in sides.items() if side is Side.ADMIN)
    for reply in data.canned_replies:
        fields = CannedReplyFields(reply.shortcut, reply.title, reply.body, reply.locale)
        await create_canned_reply(session, fields, admin_id)
    return True


def _order_fields(order: DemoOrder, now: datetime) -> dict[str, Any]:
    return {
        "user_id": order.user_id,
        "number": order.number,
        "status": order.status,
        "total": str(sum(item.quantity * Decimal(item.unit_price) for item in order.items)),
        "currency": order.currency,
        "placed_at": now - timedelta(days=order.days_ago),
        "url": f"https://demo-store.example/orders/{order.number}",
        "items": [item.model_dump() for item in order.items],
        "updated_at": None,
    }


async def _add_conversation(session: AsyncSession, demo: DemoConversation, sides: dict[str, Side]) -> UUID:
    """Replay a conversation: each sender reads the earlier messages first."""
    opened_by = demo.opened_by or demo.user_id
    side = sides[opened_by]
    new = NewConversation(demo.user_id, demo.subject, opened_by, side, order_id=demo.order_id, body=demo.body)
    conversation_id, _ = await create_conversation(session, new)
    number = 0 if demo.body is None else 1
    admin_id = next(user_id for user_id, side in sides.items() if side is Side.ADMIN)
    for step in demo.steps:
        if isinstance(step, DemoMessage):
            side = sides[step.sender_id]
            await mark_read(session, conversation_id, side, number)
            admin_id = step.sender_id if side is Side.ADMIN else admin_id
            post = Post(conversation_id, step.sender_id, side, step.body, assigns=side is Side.ADMIN)
            number = (await post_message(session, post)).number
        elif isinstance(step, DemoNote):
            await add_note(session, NewNote(conversation_id, step.note, (), step.admin_id))
        elif isinstance(step, DemoLabels):
            await change_labels(session, conversation_id, step.labels, (), step.admin_id)
        else:
            await set_status(session, conversation_id, step.status, actor_id=admin_id)
    if not demo.unread:
        await mark_read(session, conversation_id, Side.ADMIN if side is Side.CUSTOMER else Side.CUSTOMER, number)
    return conversation_id


async def _backdate(session: AsyncSession, conversation_id: UUID, demo: DemoConversation, now: datetime) -> None:
    """Move a conversation to its days in the past. Keeps the order of messages and the event log.

    Unread messages of admins keep their time, because emails about them are due soon.
    """
    conversation = await session.get_one(Conversation, conversation_id, populate_existing=True)
    rows = await session.execute(
        select(Message.id, Message.number, Message.sender_role, Message.created_at)
        .where(Message.conversation_id == conversation_id)
        .order_by(Message.number)
    )
    messages = rows.all()
    first, last = demo.days_ago
    interval = (first - last) / max(len(messages) - 1, 1)
    times = {conversation.created_at: now - timedelta(days=first)}  # old time to new time
    moved = []
    for row in messages:
        is_unread_reply = row.sender_role == Side.ADMIN and row.number > conversation.read_by_user_number
        moment = row.created_at if is_unread_reply else now - timedelta(days=first - interval * (row.number - 1))
        times[row.created_at] = moment
        moved.append({"id": row.id, "created_at": moment})
    if moved:
        await session.execute(update(Message), moved)
        times[conversation.created_at] = moved[0]["created_at"]
    entries = select(ConversationEntry).where(ConversationEntry.conversation_id == conversation_id)
    for entry in await session.scalars(entries):
        entry.at = moved[entry.after_number - 1]["created_at"] if entry.after_number else now - timedelta(days=first)
    for column in ("last_activity_at", "unanswered_since", "created_at", "first_reply_at"):
        if (moment := getattr(conversation, column)) is not None:
            setattr(conversation, column, times[moment])
    await session.flush()
