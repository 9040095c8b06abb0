"""The demo's conversations have a past that follows the product's rules."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from services.conversations.demo.load import DATA, DemoData, add_demo
from services.conversations.models import Conversation, LoggedEvent, Message, Order
from services.conversations.rules import WAITING, Side
from shared.database.transactions import SessionFactory, transaction
from shared.events import EventType


async def test_the_demos_times_follow_the_order_of_its_messages(conversations: SessionFactory) -> None:
    async with transaction(conversations) as session:
        assert await add_demo(session)
        assert not await add_demo(session)
    now = datetime.now(UTC)
    demo = DemoData.model_validate_json(DATA.read_bytes())
    async with conversations() as session:
        conversation_rows = (await session.scalars(select(Conversation))).all()
        messages = (await session.scalars(select(Message).order_by(Message.number))).all()
        orders = {order.id: order for order in await session.scalars(select(Order))}
        posted = await session.scalar(select(func.count()).where(LoggedEvent.type == EventType.MESSAGE_POSTED.value))
    assert len(conversation_rows) == len(demo.conversations)
    assert posted == len(messages)
    assert (
        len({conversation.last_activity_at.replace(second=0, microsecond=0) for conversation in conversation_rows})
        > len(demo.conversations) / 2
    )
    assert min(conversation.created_at for conversation in conversation_rows) < now - timedelta(days=30)
    for conversation in conversation_rows:
        own_messages = [message for message in messages if message.conversation_id == conversation.id]
        times = [message.created_at for message in own_messages]
        assert times == sorted(times)
        assert [message.number for message in own_messages] == list(range(1, conversation.message_count + 1))
        assert conversation.created_at <= (times[0] if times else now)
        assert conversation.last_activity_at == (times[-1] if times else conversation.created_at)
        assert max([*times, conversation.changed_at]) <= now
        if conversation.order_id is not None:
            assert orders[conversation.order_id].placed_at < conversation.created_at
        assert (conversation.waiting_since is not None) is (conversation.status in WAITING)
        if conversation.waiting_since is not None:
            answered = max([message.number for message in own_messages if message.sender_role == Side.ADMIN], default=0)
            waiting = [message.created_at for message in own_messages if message.number > answered]
            assert conversation.waiting_since == (waiting or [conversation.created_at])[0]


async def test_no_email_of_the_demo_is_about_an_old_message(conversations: SessionFactory) -> None:
    async with transaction(conversations) as session:
        await add_demo(session)
        unread = await session.scalars(
            select(Message.created_at)
            .join(Conversation, Conversation.id == Message.conversation_id)
            .where(Message.sender_role == Side.ADMIN, Message.number > Conversation.read_by_user_number)
        )
        times = unread.all()
    assert len(times) > 1
    assert min(times) > datetime.now(UTC) - timedelta(minutes=5)
