"""Live streams learn of an admin's new notifications through both services' logs."""

from sqlalchemy import func, select

from services.conversations.models import LoggedEvent
from services.notifications.models import AdminNotification
from tests.service.emails.test_follower import NO_SMTP, Following, following
from tests.service.helpers.callers import Caller, logged
from tests.service.notifications.test_admins import assign, note

__all__ = ["following"]  # a fixture


async def test_mentions_and_assignments_are_told_once_and_messages_are_not(
    following: Following, anna: Caller, sam: Caller, kim: Caller
) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    await kim.get("/admins")
    await following.follow()
    await note(sam, conversation, "Please look", "kim")
    await assign(sam, conversation, "kim")
    await anna.post(conversation, "More")
    for _ in range(2):
        await following.deliver(NO_SMTP)
        await following.follow()
    told = [payload for type_, payload in await logged(following.sessions) if type_ == "notification.created"]
    assert [(each["type"], each["recipient_id"], each["conversation_id"]) for each in told] == [
        ("MENTION", "kim", conversation),
        ("ASSIGNED", "kim", conversation),
    ]
    async with following.sweeping.notifications() as session:
        ids = set(await session.scalars(select(AdminNotification.id).where(AdminNotification.recipient_id == "kim")))
    assert {each["notification_id"] for each in told} <= {str(key) for key in ids}
    async with following.sessions() as session:  # no customer's stream has them
        kind = LoggedEvent.type == "notification.created"
        open_to_all = select(func.count()).where(kind, LoggedEvent.audience.is_(None))
        assert (await session.execute(open_to_all)).scalar_one() == 0


async def test_a_notification_of_a_deleted_note_or_conversation_is_passed(
    following: Following, anna: Caller, sam: Caller, kim: Caller
) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    await kim.get("/admins")
    await following.follow()
    await note(sam, conversation, "Please look", "kim")
    await following.deliver(NO_SMTP)
    await sam.edit(conversation, status="CLOSED")
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
    await following.follow()
    assert "notification.created" not in {type_ for type_, _ in await logged(following.sessions)}
