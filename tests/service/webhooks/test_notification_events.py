"""What the notifications service's log says reaches webhooks once, in an order of its own."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from services.conversations.emails.follower import follow_round
from services.conversations.webhooks.notification_events import add_failed_emails, add_notifications
from shared.database.transactions import transaction
from shared.notifications_feed import EmailStatus, NotificationCreated
from tests.helpers.smtp_server import smtp_server
from tests.helpers.webhook_receiver import Answer
from tests.service.emails.test_follower import NO_SMTP, Following, following
from tests.service.helpers.callers import UNKNOWN_ID, Caller
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.sweeping import answer
from tests.service.inbound.conftest import rig
from tests.service.inbound.rig import Rig
from tests.service.inbound.test_bounces import bounce, sent
from tests.service.webhooks.conftest import Hooks

__all__ = ["following", "rig"]  # fixtures


def status(conversation: str, state: str, **fields: Any) -> EmailStatus:
    values = {"email_id": uuid4(), "to": "customer", "reason": "rejected", "numbers": [2], "at": datetime.now(UTC)}
    return EmailStatus.model_validate(values | {"conversation_id": conversation, "state": state} | fields)


async def test_an_email_that_fails_is_told_once_however_often_it_is_read(
    hooks: Hooks, following: Following, anna: Caller, sam: Caller
) -> None:
    await hooks.create(["email.failed"])
    await following.follow()
    conversation = await answer(anna, sam)
    async with smtp_server(rcpt=["550 5.1.1 nobody here"]) as server:
        await following.deliver(email_settings("postgresql://unused", smtp_url=f"smtp://127.0.0.1:{server.port}"))
    await following.follow()
    await hooks.execute("update notifications_cursor set epoch = null")  # the place is lost: all emails are listed
    while (await follow_round(following.sessions, following.feed)).more:
        pass
    await hooks.settle()
    [told] = hooks.receiver.received
    [entry] = await following.entries()
    assert told.json["type"] == "email.failed"
    assert told.data == {
        "conversation_id": conversation,
        "email_id": str(entry.id),
        "to": "customer",
        "reason": entry.data["reason"],
        "message_numbers": [1],
    }


async def test_other_states_and_what_was_before_or_is_gone_are_not_told(
    hooks: Hooks, anna: Caller, sam: Caller
) -> None:
    conversation = (await anna.open(body="Hello?"))["id"]
    old = status(conversation, "failed", at=datetime.now(UTC) - timedelta(hours=1))
    await hooks.create(["email.bounced", "email.failed", "notification.created"])
    bounced = status(conversation, "bounced", at=datetime.now(UTC) + timedelta(seconds=1))
    created = NotificationCreated(
        notification_id=uuid4(), type="MENTION", conversation_id=UUID(conversation), recipient_id="sam"
    )
    for _ in range(2):
        async with transaction(hooks.sessions) as session:
            await add_failed_emails(session, [old, bounced, status(conversation, "sent"), status(UNKNOWN_ID, "failed")])
            await add_notifications(session, [created])
    await hooks.settle()
    assert [request.type for request in hooks.receiver.received] == ["email.bounced", "notification.created"]
    assert hooks.receiver.received[1].data == {
        "conversation_id": conversation,
        "notification_id": str(created.notification_id),
        "type": "MENTION",
        "recipient_id": "sam",
    }
    assert sam


async def test_an_email_that_comes_back_is_told_once_as_bounced(hooks: Hooks, following: Following, rig: Rig) -> None:
    await hooks.create(["email.bounced", "email.failed"])
    await following.follow()
    await sent(rig)
    await following.follow()
    for _ in range(2):
        await bounce(rig, "5.1.1")
        await following.follow()
    await hooks.settle()
    [told] = hooks.receiver.received
    async with following.sweeping.notifications() as session:
        email_id = await session.scalar(text("select id from emails where state = 'bounced'"))
    assert (told.json["type"], told.data) == (
        "email.bounced",
        {
            "conversation_id": rig.conversation,
            "email_id": str(email_id),
            "to": "customer",
            "reason": "mailbox-unknown",
            "message_numbers": [2],
        },
    )


async def records(following: Following) -> list[Any]:
    async with following.sweeping.notifications() as session:
        return list(
            (await session.execute(text("select id, message_id, user_id from notifications order by id"))).all()
        )


async def test_each_notification_of_a_customer_is_told_once_if_a_webhook_wants_it(
    hooks: Hooks, following: Following, anna: Caller, sam: Caller
) -> None:
    await hooks.create(["message.posted"])
    conversation = await answer(anna, sam)
    await following.follow()
    await following.deliver(NO_SMTP)
    await following.follow()
    assert not await hooks.rows("select 1 from webhook_deliveries where type = 'notification.created'")
    await hooks.create(["notification.created"])
    messages = [await sam.post(conversation, body) for body in ("It left today.", "Here it is.")]
    await anna.post(conversation, "Thank you!")
    for _ in range(2):
        await following.deliver(NO_SMTP)
        await following.follow()
    # Created again after a restore, it is still the notification of the same message.
    async with transaction(following.sweeping.notifications) as session:
        await session.execute(
            text("insert into events (type, subject_id) select 'new-message.created', id from notifications")
        )
    await following.follow()
    await hooks.settle()
    made = await records(following)
    told = [request for request in hooks.receiver.received if request.type == "notification.created"]
    assert [request.data for request in told] == [
        {
            "conversation_id": conversation,
            "notification_id": str(record.id),
            "type": "NEW_MESSAGE",
            "recipient_id": "anna",
            "message_id": message["id"],
        }
        for record, message in zip(made[1:], messages, strict=True)
    ]
    assert [datetime.fromisoformat(request.json["timestamp"]) for request in told] == [
        datetime.fromisoformat(message["created_at"]) for message in messages
    ]


async def test_they_do_not_wait_for_messages_nor_messages_for_them(hooks: Hooks, anna: Caller) -> None:
    await hooks.create(["message.posted", "email.failed"])
    conversation = (await anna.open(body="Hello?"))["id"]
    async with transaction(hooks.sessions) as session:
        await add_failed_emails(session, [status(conversation, "failed", at=datetime.now(UTC) + timedelta(seconds=1))])
    hooks.receiver.answer = lambda request: Answer(500 if request.type == "message.posted" else 204)

    async def is_told() -> bool:
        return hooks.receiver.types == ["email.failed"] and len(hooks.receiver.received) == 2

    await hooks.run_until(is_told, (0, 60))
