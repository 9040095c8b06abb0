"""Demo data: users, orders and conversations of a small shop, put in by the same functions that serve the API."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.commands import NewConversation, create_conversation, mark_read, set_status
from services.conversations.demo_data import ORDERS, USERS, DemoOrder, Message, Talk
from services.conversations.demo_talks import TALKS
from services.conversations.models import Conversation
from services.conversations.models import Message as SavedMessage
from services.conversations.posting import Post, post_message
from services.conversations.rules import Side
from services.conversations.store_sync import SentOrder, SentUser, take

_SIDES = {user.id: user.role for user in USERS}
_ONE_AT_A_TIME = select(func.pg_advisory_xact_lock(func.hashtext("chats-demo")))


async def add_demo(session: AsyncSession) -> bool:
    """Put in the demo data; False, and nothing added, when there is any conversation already.

    Of two at once one waits for the other to commit, and then finds its conversations.
    """
    await session.execute(_ONE_AT_A_TIME)
    if await session.scalar(select(exists().select_from(Conversation))):
        return False
    now = datetime.now(UTC)
    users = [SentUser(user.id, user._asdict(), user.role) for user in USERS]
    await take(session, [*users, *(SentOrder(order.number, _order_fields(order, now)) for order in ORDERS)])
    for talk in TALKS:
        await _give_past(session, await _add_talk(session, talk), talk, now)
    return True


def _order_fields(order: DemoOrder, now: datetime) -> dict[str, object]:
    return {
        "user_id": order.user_id,
        "number": order.number,
        "status": order.status,
        "total": str(sum(item.quantity * Decimal(item.unit_price) for item in order.items)),
        "currency": order.currency,
        "placed_at": now - timedelta(days=order.days_ago),
        "url": f"https://demo-store.example/orders/{order.number}",
        "items": [item._asdict() for item in order.items],
        "updated_at": None,
    }


async def _add_talk(session: AsyncSession, talk: Talk) -> UUID:
    """Let a conversation take its course: whoever writes has read what stood there before."""
    opener = talk.opened_by or talk.user_id
    side = _SIDES[opener]
    new = NewConversation(talk.user_id, talk.subject, opener, side, order_id=talk.order_id, body=talk.body)
    identity, _ = await create_conversation(session, new)
    number = 0 if talk.body is None else 1
    for step in talk.then:
        if isinstance(step, Message):
            side = _SIDES[step.sender_id]
            await mark_read(session, identity, side, number)
            number = (await post_message(session, Post(identity, step.sender_id, side, step.body))).number
        else:
            await set_status(session, identity, step)
    if not talk.unread:
        await mark_read(session, identity, Side.ADMIN if side is Side.CUSTOMER else Side.CUSTOMER, number)
    return identity


async def _give_past(session: AsyncSession, identity: UUID, talk: Talk, now: datetime) -> None:
    """Move a conversation to the days on which it took its course; its order stays, and so does the event log.

    What an admin wrote and the customer has not read stays in the present: an email is about to go out for it.
    """
    conversation = await session.get_one(Conversation, identity, populate_existing=True)
    rows = await session.execute(
        select(SavedMessage.id, SavedMessage.number, SavedMessage.sender_role, SavedMessage.created_at)
        .where(SavedMessage.conversation_id == identity)
        .order_by(SavedMessage.number)
    )
    messages = rows.all()
    began, ended = talk.days_ago
    pace = (began - ended) / max(len(messages) - 1, 1)
    past = {conversation.created_at: now - timedelta(days=began)}  # by the time that it was put in at
    moved = []
    for row in messages:
        is_news = row.sender_role == Side.ADMIN and row.number > conversation.read_by_user_number
        moment = row.created_at if is_news else now - timedelta(days=began - pace * (row.number - 1))
        past[row.created_at] = moment
        moved.append({"id": row.id, "created_at": moment})
    if moved:
        await session.execute(update(SavedMessage), moved)
        past[conversation.created_at] = moved[0]["created_at"]
    for column in ("last_activity_at", "unanswered_since", "created_at"):
        if (moment := getattr(conversation, column)) is not None:
            setattr(conversation, column, past[moment])
    await session.flush()
