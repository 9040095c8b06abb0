"""Deleted conversations and users in notifications: hidden and unsent at once, then erased in batches."""

from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import func, select, text

from services.notifications.delivery import erasure
from services.notifications.delivery.claiming import claim_emails
from services.notifications.event_consumer.consumer import receive_events
from services.notifications.models import ConversationState, DeliveryAttempt, EmailMessage, Erasure, Notification
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from tests.service.conftest import As
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.event_factory import ANNA, SAM, deleted, email_settings, posted, receive, user_changed
from tests.service.helpers.sweeping import Sweeper

SETTINGS = email_settings("postgresql://unused")
MANY = 1200  # more than one transaction erases
GONE = ANNA.model_copy(update={"version": 2, "deleted": True, "name": None, "email": None})
BACK = ANNA.model_copy(update={"version": 3, "email": "anew@customer.test"})


@pytest.fixture
def customer(notifications_api: httpx2.AsyncClient, acting_as: As) -> Caller:
    return Caller(notifications_api, "/api/v1/notifications", acting_as("anna"))


@pytest.fixture
def admin(notifications_api: httpx2.AsyncClient, acting_as: As) -> Caller:
    return Caller(notifications_api, "/api/v1/notifications", acting_as("sam", "admin"))


async def run(sessions: SessionFactory, *statements: str, **values: Any) -> None:
    async with transaction(sessions) as session:
        for statement in statements:
            await session.execute(text(statement), values)


async def grow(sessions: SessionFactory, conversation: UUID) -> None:
    """Add very many notifications to a conversation, and one email with as many messages."""
    await run(
        sessions,
        """
        insert into notifications (user_id, conversation_id, message_id, number, subject, sender_id, preview)
        select 'anna', :id, uuidv7(), n, 'secret', 'sam', 'secret' from generate_series(2, :many) as n
        """,
        """
        insert into email_messages (message_id, email_id, number, sender_id, body, created_at)
        select uuidv7(), id, n, 'sam', 'secret', now() from generate_series(2, :many) as n, emails
        where conversation_id = :id
        """,
        id=conversation,
        many=MANY,
    )


async def mail_much(sessions: SessionFactory, conversation: UUID) -> None:
    """Add very many sent emails to Anna."""
    await run(
        sessions,
        """
        insert into emails (id, audience, recipient_id, conversation_id, state, due_at, next_attempt_at, finished_at,
            to_address, mailbox)
        select uuidv7(), 'customer', 'anna', :id, 'sent', now(), now(), now(), 'anna@customer.test',
            'anna@customer.test'
        from generate_series(1, :many)
        """,
        """
        insert into email_tries (email_id, outcome, phase, reply, process, mailbox)
        select id, 'accepted', 'data', 'for anna@customer.test', 'a test', mailbox from emails where state = 'sent'
        """,
        id=conversation,
        many=MANY,
    )


async def held(sessions: SessionFactory) -> str:
    """Return the content of all tables as one text."""
    async with sessions() as session:
        tables = ("people", "notifications", "emails", "email_messages", "email_tries", "inbox")
        rows = [await session.scalars(text(f"select t::text from {table} as t")) for table in tables]  # noqa: S608 - ours
        return "\n".join(line for table in rows for line in table)


async def count(sessions: SessionFactory, model: type[Any]) -> int:
    async with sessions() as session:
        return int(await session.scalar(select(func.count()).select_from(model)) or 0)


async def claimable(sessions: SessionFactory, settings: EmailSettings = SETTINGS) -> int:
    async with transaction(sessions) as session:
        return len(await claim_emails(session, settings) or [])


async def erase(sessions: SessionFactory, size: int = 500) -> int:
    rounds = 0
    while await erasure.erase_round(sessions, size=size):
        rounds += 1
    return rounds


async def test_handling_a_deletion_hides_a_large_conversations_notifications_and_emails(
    notifications: SessionFactory, customer: Caller
) -> None:
    conversation, other = uuid4(), uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1), posted(other, 1))
    await grow(notifications, conversation)
    notification_id = (await customer.get("", limit=1))["items"][0]["id"]  # the newest

    await receive(notifications, SETTINGS, deleted(conversation))

    assert await count(notifications, Notification) == MANY + 1  # handled before any was erased
    assert await customer.get("/unread") == {"unread": 1}
    assert [item["conversation_id"] for item in (await customer.get(""))["items"]] == [str(other)]
    assert problem(await customer.call("POST", f"/{notification_id}/read")) == (404, "not-found")
    assert await claimable(notifications) == 1
    await receive(notifications, SETTINGS, posted(conversation, MANY + 1))  # a late event of it
    assert await erase(notifications) == 3
    assert "secret" not in await held(notifications)
    assert (await count(notifications, Notification), await count(notifications, EmailMessage)) == (1, 1)
    assert await count(notifications, Erasure) == 0


async def test_an_erasure_continues_after_a_sweeper_died_and_several_sweepers_share_it(
    notifications: SessionFactory,
) -> None:
    one, other = uuid4(), uuid4()
    for conversation in (one, other):
        await receive(notifications, SETTINGS, posted(conversation, 1))
        await grow(notifications, conversation)
        await receive(notifications, SETTINGS, deleted(conversation))
    async with transaction(notifications) as session:
        first, second = await session.scalars(select(Erasure.id).order_by(Erasure.id))
        await erasure.erase_batch(session, first, size=300)
        await session.rollback()  # the sweeper dies before its commit
    async with transaction(notifications) as holder:
        assert await erasure.erase_batch(holder, first, size=300) > 0
        async with transaction(notifications) as concurrent:  # a second sweeper skips what the first has locked
            assert await erasure.erase_batch(concurrent, first, size=300) == 0
            assert await erasure.erase_batch(concurrent, second, size=300) > 0
    await erase(notifications)
    assert "secret" not in await held(notifications)
    async with transaction(notifications) as session:
        assert (await erasure.read_state(session)).under_way == 0


async def test_many_conversations_deleted_at_once_are_erased_in_batches(notifications: SessionFactory) -> None:
    conversations = sorted(uuid4() for _ in range(3))
    for conversation in conversations:
        await receive(notifications, SETTINGS, posted(conversation, 1))
    async with transaction(notifications) as session:
        assert await erasure.choose_small(session, conversations, size=5) == set(conversations[:2])
        assert list(await session.scalars(select(Erasure.conversation_id))) == conversations[2:]


async def test_a_deleted_users_emails_are_cancelled_at_once_and_many_addresses_are_erased_in_batches(
    notifications: SessionFactory, admin: Caller
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1))
    await mail_much(notifications, conversation)

    await receive(notifications, SETTINGS, user_changed(GONE))

    assert await claimable(notifications) == 0
    shown = (await admin.get("/emails", limit=100))["items"]
    assert "anna@customer.test" not in str(shown)  # server replies are hidden
    assert "anna@customer.test" in await held(notifications)
    assert await erase(notifications) == 1  # the remaining ones
    assert "anna@customer.test" not in await held(notifications)
    assert await count(notifications, DeliveryAttempt) == MANY


async def test_a_user_restored_before_the_deletion_is_handled_keeps_only_later_emails(
    notifications: SessionFactory,
) -> None:
    """The store deletes a user and syncs them again; both events arrive together, or in reverse order."""
    before, later = uuid4(), uuid4()
    for together in (True, False):
        await run(notifications, "delete from emails", "delete from notifications", "delete from people")
        await receive(notifications, SETTINGS, posted(before, 1))
        await mail_much(notifications, before)
        events = [user_changed(GONE), user_changed(BACK), posted(later, 1, customer=BACK)]
        for page in [events] if together else [[event] for event in reversed(events)]:
            assert await receive_events(notifications, page, SETTINGS, repeated=False)
        await erase(notifications)

        left = await held(notifications)
        assert "anna@customer.test" not in left
        assert "anew@customer.test" in left
        async with notifications() as session:
            states = (await session.execute(_STATES, {"ids": [before, later]})).all()
        assert sorted(states, key=str) == sorted([(before, "cancelled"), (later, "scheduled")], key=str)


_STATES = text("select conversation_id, state from emails where state <> 'sent' and conversation_id = any(:ids)")


async def test_an_admin_whom_the_store_made_a_customer_loses_admin_access_here_too(
    notifications: SessionFactory, admin: Caller
) -> None:
    for version, role, status in ((1, None, 200), (2, "admin", 200), (3, "customer", 403), (4, "admin", 200)):
        await receive(notifications, SETTINGS, user_changed(SAM.model_copy(update={"version": version, "role": role})))
        assert (await admin.call("GET", "/emails")).status_code == status, role


async def test_the_stores_roles_reach_notifications(
    sweeping: Sweeper, anna: Caller, sam: Caller, shop: Caller, admin: Caller
) -> None:
    await sam.post((await anna.open())["id"])
    assert (await admin.call("GET", "/emails")).status_code == 200
    await shop.call("PUT", "/users/sam", {"name": "Sam", "role": "customer"})
    await sweeping.number()
    await sweeping.catch_up_fully()
    assert problem(await admin.call("GET", "/emails")) == (403, "forbidden")


async def test_after_a_log_restore_present_conversations_return_and_missing_ones_stay_deleted(
    sweeping: Sweeper, anna: Caller, sam: Caller, conversations: SessionFactory, notifications: SessionFactory
) -> None:
    """The log is restored to a time before the deletion of a conversation that is being erased."""
    kept = (await anna.open())["id"]
    await sam.post(kept)
    await sweeping.number()
    await sweeping.catch_up_fully()
    await grow(notifications, UUID(kept))
    gone = uuid4()
    await receive(notifications, SETTINGS, posted(gone, 1), deleted(UUID(kept)))
    await grow(notifications, gone)
    await receive(notifications, SETTINGS, deleted(gone))
    assert await count(notifications, Erasure) == 2

    await run(conversations, "update feed set epoch = gen_random_uuid()")
    await sweeping.catch_up_fully()
    await erase(notifications)

    async with notifications() as session:
        marks = dict(
            (
                await session.execute(
                    select(ConversationState.conversation_id, ConversationState.deleted_at.is_not(None))
                )
            ).all()
        )
    assert marks == {UUID(kept): False, gone: True}
    assert await sweeping.records() == [1]
