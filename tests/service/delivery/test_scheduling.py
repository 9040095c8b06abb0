"""Emails before they are sent: grouped, due, read in time, suppressed, cancelled."""

from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import select

from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.delivery.operations import pause_sending, resume_sending
from services.notifications.models import Email
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from tests.service.conftest import As
from tests.service.helpers.event_factory import ANNA, deleted, email_settings, posted, read, receive, user_changed

URL = "postgresql://unused"


async def claim(sessions: SessionFactory, settings: EmailSettings) -> list[ClaimedEmail]:
    async with transaction(sessions) as session:
        return await claim_emails(session, settings) or []


async def emails(sessions: SessionFactory) -> list[Email]:
    async with sessions() as session:
        return list(await session.scalars(select(Email).order_by(Email.id)))


async def states(sessions: SessionFactory) -> list[tuple[str, str | None]]:
    return [(email.state, email.reason) for email in await emails(sessions)]


def text_of(claimed: ClaimedEmail) -> str:
    body = message_from_bytes(claimed.content, policy=policy.default).get_body(("plain",))
    assert body is not None
    return str(body.get_content())


async def test_messages_that_arrive_before_sending_join_the_email(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL), uuid4()
    await receive(
        notifications, settings, posted(conversation, 1, body="First."), posted(conversation, 2, body="Second.")
    )

    [email] = await claim(notifications, settings)

    assert text_of(email).index("First.") < text_of(email).index("Second.")


async def test_an_email_is_due_a_delay_after_its_first_unread_message(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL, email_delay_seconds=30), uuid4()
    first = datetime.now(UTC) - timedelta(seconds=20)
    second = first + timedelta(seconds=10)

    await receive(notifications, settings, posted(conversation, 2, created_at=second))
    await receive(notifications, settings, posted(conversation, 1, created_at=first))
    assert [email.due_at for email in await emails(notifications)] == [first + timedelta(seconds=30)]
    assert await claim(notifications, settings) == []

    await receive(notifications, settings, read(conversation, 1))
    assert [email.due_at for email in await emails(notifications)] == [second + timedelta(seconds=30)]


async def test_an_emails_messages_and_content_are_fixed_at_the_first_claim(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL), uuid4()
    await receive(notifications, settings, posted(conversation, 1, body="First."))
    [first] = await claim(notifications, settings)

    await receive(notifications, settings, posted(conversation, 2, body="Second."))
    [second] = await claim(notifications, settings)

    assert first.id != second.id
    assert "Second." not in text_of(first)
    assert "First." not in text_of(second)
    headers = message_from_bytes(second.content, policy=policy.default)
    assert message_from_bytes(first.content)["Message-ID"] in headers["References"]


async def test_messages_read_in_time_are_left_out(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL), uuid4()
    await receive(
        notifications,
        settings,
        posted(conversation, 1, body="First."),
        posted(conversation, 2, body="Second."),
        read(conversation, 1),
    )
    [email] = await claim(notifications, settings)
    assert "First." not in text_of(email)
    assert "Second." in text_of(email)


async def test_an_email_without_unread_messages_is_cancelled(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL), uuid4()
    await receive(notifications, settings, posted(conversation, 1), read(conversation, 1))
    assert await claim(notifications, settings) == []
    assert await states(notifications) == [("cancelled", "read")]


async def test_a_new_message_after_reading_makes_a_new_email(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL), uuid4()
    await receive(
        notifications, settings, posted(conversation, 1), read(conversation, 1), posted(conversation, 2, body="News.")
    )
    [email] = await claim(notifications, settings)
    assert "News." in text_of(email)


async def test_deleting_the_conversation_cancels_its_email_and_erases_its_content(
    notifications: SessionFactory,
) -> None:
    settings, conversation = email_settings(URL), uuid4()
    await receive(notifications, settings, posted(conversation, 1))
    [held] = await claim(notifications, settings)

    await receive(notifications, settings, deleted(conversation))

    assert await states(notifications) == [("cancelled", "deleted")]
    async with notifications() as session:
        row = (await session.execute(select(Email.subject, Email.content).where(Email.id == held.id))).one()
    assert tuple(row) == (None, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"smtp_url": None}, "no-smtp"),
        ({"email_only_to": ("*@staff.test",)}, "recipient-not-allowed"),
    ],
)
async def test_an_email_that_must_not_be_sent_is_suppressed_with_its_reason(
    notifications: SessionFactory, changes: dict[str, object], reason: str
) -> None:
    await receive(notifications, email_settings(URL, **changes), posted(uuid4(), 1))
    assert await states(notifications) == [("suppressed", reason)]
    assert await claim(notifications, email_settings(URL)) == []


async def test_a_customer_without_an_address_gets_a_notification_but_no_email(notifications: SessionFactory) -> None:
    nobody = ANNA.model_copy(update={"email": None})
    await receive(notifications, email_settings(URL), posted(uuid4(), 1, customer=nobody))
    assert await states(notifications) == [("suppressed", "no-address")]


async def test_unsent_emails_follow_the_customers_address(notifications: SessionFactory) -> None:
    settings = email_settings(URL)
    moved = ANNA.model_copy(update={"version": 2, "email": "anna@new.test"})
    await receive(notifications, settings, posted(uuid4(), 1), user_changed(moved))
    [email] = await claim(notifications, settings)
    assert email.to_address == "anna@new.test"


async def test_the_support_mailbox_gets_messages_that_no_admin_has_read(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL, support_email="desk@store.test"), uuid4()
    await receive(
        notifications,
        settings,
        posted(conversation, 1, by="customer", body="Hello?"),
        posted(conversation, 2, by="customer", body="Anybody?"),
        read(conversation, 1, by="admin"),
    )
    [email] = await claim(notifications, settings)
    assert email.to_address == "desk@store.test"
    assert "Anybody?" in text_of(email)
    assert "Hello?" not in text_of(email)


async def test_two_concurrent_senders_never_claim_the_same_email(notifications: SessionFactory) -> None:
    settings = email_settings(URL)
    await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(5)))
    async with transaction(notifications) as one, transaction(notifications) as other:
        first, second = await claim_emails(one, settings), await claim_emails(other, settings)
    assert first is not None
    assert len(first) == 5
    assert second is None


async def test_a_pause_holds_all_emails_back(notifications: SessionFactory) -> None:
    settings = email_settings(URL)
    await receive(notifications, settings, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await pause_sending(session)
    assert await claim(notifications, settings) == []
    async with transaction(notifications) as session:
        await resume_sending(session)
    assert len(await claim(notifications, settings)) == 1


@pytest.mark.parametrize("path", ["{id}/read", "read-all"])
async def test_reading_a_notification_cancels_its_email(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, acting_as: As, path: str
) -> None:
    await receive(notifications, email_settings(URL), posted(uuid4(), 1))
    headers = acting_as("anna")
    [record] = (await notifications_api.get("/api/v1/notifications", headers=headers)).json()["items"]

    answer = await notifications_api.post(f"/api/v1/notifications/{path.format(id=record['id'])}", headers=headers)

    assert answer.status_code == 204
    assert await states(notifications) == [("cancelled", "read")]
    assert (await notifications_api.get("/api/v1/notifications/unread", headers=headers)).json() == {"unread": 0}


async def test_a_customer_neither_sees_nor_reads_anothers_notifications(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, acting_as: As
) -> None:
    await receive(notifications, email_settings(URL), posted(uuid4(), 1))
    [record] = (await notifications_api.get("/api/v1/notifications", headers=acting_as("anna"))).json()["items"]
    ben = acting_as("ben")

    assert (await notifications_api.get("/api/v1/notifications", headers=ben)).json()["items"] == []
    for identity in (record["id"], str(UUID(int=0))):
        answer = await notifications_api.post(f"/api/v1/notifications/{identity}/read", headers=ben)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert (await notifications_api.get("/api/v1/notifications/emails", headers=ben)).status_code == 403
    assert await states(notifications) == [("scheduled", None)]
