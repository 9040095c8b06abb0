"""Sending: real SMTP dialogues, expired leases, and the recorded attempts."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update

from services.notifications.delivery import attempt_recorder
from services.notifications.delivery.attempts import record_accepted, release_expired
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.sender import drain
from services.notifications.mail.smtp import SmtpConnection, parse_smtp_url
from services.notifications.models import DeliveryAttempt, Email, SendingControl
from services.notifications.rules import EmailState, Outcome
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.smtp_server import KEEP_AND_DROP, SmtpServer, smtp_server
from tests.service.conftest import As
from tests.service.helpers.attempt_factory import has_due_email, record_attempt
from tests.service.helpers.event_factory import deleted, email_settings, posted, read, receive

URL = "postgresql://unused"


def settings_for(server: SmtpServer, **changes: Any) -> EmailSettings:
    return email_settings(URL, smtp_url=SecretStr(f"smtp://127.0.0.1:{server.port}"), **changes)


async def send(sessions: SessionFactory, settings: EmailSettings) -> int:
    return await drain(sessions, settings, asyncio.Event())


async def only_email(sessions: SessionFactory) -> Email:
    async with sessions() as session:
        return (await session.scalars(select(Email))).one()


async def attempts_of(sessions: SessionFactory) -> list[DeliveryAttempt]:
    async with sessions() as session:
        return list(await session.scalars(select(DeliveryAttempt).order_by(DeliveryAttempt.id)))


async def make_due(sessions: SessionFactory) -> None:
    async with transaction(sessions) as session:
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp() - timedelta(seconds=1)))
        await session.execute(update(SendingControl).values(breaker_until=None))


async def run_out(sessions: SessionFactory) -> None:
    async with transaction(sessions) as session:
        await session.execute(update(Email).values(lease_until=func.clock_timestamp() - timedelta(seconds=1)))


async def test_with_a_key_the_email_arrives_signed(notifications: SessionFactory) -> None:
    key = (Path(__file__).parents[2] / "unit/mail/dkim_test_key.pem").read_text()
    async with smtp_server() as server:
        signing: dict[str, Any] = {"dkim_domain": "store.test", "dkim_selector": "chats", "dkim_key": SecretStr(key)}
        settings = settings_for(server, **signing)
        await receive(notifications, settings, posted(uuid4(), 1))
        assert await send(notifications, settings) == 1
        [email] = server.emails
    head, _, rest = email.content.partition(b"\r\nDate:")
    assert head.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=store.test; s=chats;")
    assert settings.signer
    assert settings.signer.sign(b"Date:" + rest) == email.content


async def test_the_mail_server_gets_an_envelope_sender_of_each_emails_own_with_an_inbound_domain(
    notifications: SessionFactory,
) -> None:
    async with smtp_server() as server:
        settings = settings_for(server, inbound_domain="in.store.test", inbound_secret=SecretStr("inbound secret"))
        await receive(notifications, settings, posted(uuid4(), 1), posted(uuid4(), 1))
        assert await send(notifications, settings) == 2
        senders = {command.partition(":")[2].split(">")[0] for command in server.commands if command.startswith("MAIL")}
    assert len(senders) == 2
    assert all(sender.startswith("<bounce+") and sender.endswith("@in.store.test") for sender in senders)


async def test_a_due_email_is_sent_once_and_its_attempt_recorded(notifications: SessionFactory) -> None:
    async with smtp_server() as server:
        settings = settings_for(server)
        await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(30)))
        assert await send(notifications, settings) == 30
        assert await send(notifications, settings) == 0
    assert len(server.emails) == 30
    assert {attempt.outcome for attempt in await attempts_of(notifications)} == {Outcome.ACCEPTED}
    assert server.connections <= settings.smtp_connections, "connections are reused"


async def test_a_deferred_email_is_retried(notifications: SessionFactory) -> None:
    async with smtp_server(rcpt=["450 4.2.0 greylisted"]) as server:
        settings = settings_for(server, email_retry_seconds=(60,))
        await receive(notifications, settings, posted(uuid4(), 1))
        await send(notifications, settings)
        email = await only_email(notifications)
        assert (email.state, email.counted_tries) == (EmailState.SCHEDULED, 1)
        assert timedelta(seconds=55) < email.next_attempt_at - datetime.now(UTC) <= timedelta(seconds=66)

        await make_due(notifications)
        await send(notifications, settings)

    assert (await only_email(notifications)).state == EmailState.SENT
    assert [(attempt.outcome, attempt.code) for attempt in await attempts_of(notifications)] == [
        (Outcome.DEFERRED, 450),
        (Outcome.ACCEPTED, 250),
    ]


async def test_a_rejected_email_has_failed_and_can_be_retried_manually(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, acting_as: As
) -> None:
    admin = acting_as("sam", "admin")
    async with smtp_server(rcpt=["550 5.1.1 nobody here"]) as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(uuid4(), 1))
        await send(notifications, settings)

        [shown] = (await notifications_api.get("/api/v1/notifications/emails", headers=admin)).json()["items"]
        assert (shown["state"], shown["reason"]) == ("failed", "rejected")
        assert (shown["tries"][0]["code"], shown["tries"][0]["reply"]) == (550, "5.1.1 nobody here")

        retry = f"/api/v1/notifications/emails/{shown['id']}/retry"
        assert (await notifications_api.post(retry, headers=admin)).status_code == 204
        await send(notifications, settings)
        assert (await notifications_api.post(retry, headers=admin)).json()["code"] == "email-not-failed"

    assert (await only_email(notifications)).state == EmailState.SENT


async def test_after_a_lost_reply_the_email_is_uncertain_and_sent_once_more_with_the_same_id(
    notifications: SessionFactory,
) -> None:
    async with smtp_server(end=[KEEP_AND_DROP]) as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(uuid4(), 1))
        await send(notifications, settings)
        email = await only_email(notifications)
        assert (email.state, email.uncertain_tries) == (EmailState.SCHEDULED, 1)
        assert email.next_attempt_at - datetime.now(UTC) > timedelta(minutes=14)

        await make_due(notifications)
        await send(notifications, settings)

    assert (await only_email(notifications)).state == EmailState.SENT
    first, second = server.emails
    assert first.content == second.content


async def test_an_email_that_is_uncertain_twice_has_failed(notifications: SessionFactory) -> None:
    async with smtp_server(end=KEEP_AND_DROP) as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(uuid4(), 1))
        await send(notifications, settings)
        await make_due(notifications)
        await send(notifications, settings)
    email = await only_email(notifications)
    assert (email.state, email.reason) == (EmailState.FAILED, "uncertain")


async def test_a_setup_fault_opens_the_breaker_and_costs_no_attempts(notifications: SessionFactory) -> None:
    async with smtp_server(mail=["550 5.7.1 not from you"] * 16) as server:
        settings = settings_for(server)
        await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(10)))
        await send(notifications, settings)
        async with notifications() as session:
            sending_control = await session.get_one(SendingControl, True)
            assert sending_control.breaker_trips == 1
            assert sending_control.breaker_reason == "5.7.1 not from you"
            assert not await has_due_email(session)
            counted = (await session.execute(select(func.sum(Email.counted_tries)))).scalar_one()
        assert counted == 0
        assert len(server.commands) < 40, "the rest of the batch was released"

        await make_due(notifications)
        assert await send(notifications, settings) == 1, "one email probes"
        server.script.clear()
        await make_due(notifications)
        await send(notifications, settings)

    assert len(server.emails) == 10
    async with notifications() as session:
        assert (await session.get_one(SendingControl, True)).breaker_trips == 0


async def test_an_unreachable_host_is_a_setup_fault(notifications: SessionFactory) -> None:
    async with smtp_server() as server:
        settings = settings_for(server)
    await receive(notifications, settings, posted(uuid4(), 1))
    await send(notifications, settings)
    email = await only_email(notifications)
    assert (email.state, email.counted_tries) == (EmailState.SCHEDULED, 0)
    assert [attempt.outcome for attempt in await attempts_of(notifications)] == [Outcome.MISCONFIGURED]


async def test_a_lease_that_expires_before_data_costs_no_attempt(notifications: SessionFactory) -> None:
    settings = email_settings(URL)
    await receive(notifications, settings, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await claim_emails(session, settings)
    await run_out(notifications)

    async with transaction(notifications) as session:
        await release_expired(session, settings)

    email = await only_email(notifications)
    assert (email.state, email.counted_tries, email.uncertain_tries) == (EmailState.SCHEDULED, 0, 0)


async def test_a_lease_that_expires_after_data_is_an_uncertain_attempt(notifications: SessionFactory) -> None:
    settings = email_settings(URL)
    await receive(notifications, settings, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await claim_emails(session, settings)
        await session.execute(update(Email).values(data_at=func.clock_timestamp()))
    await run_out(notifications)

    async with transaction(notifications) as session:
        await release_expired(session, settings)

    email = await only_email(notifications)
    assert (email.state, email.uncertain_tries) == (EmailState.SCHEDULED, 1)
    assert email.next_attempt_at > datetime.now(UTC) + timedelta(minutes=14)


async def test_a_frozen_senders_late_acceptance_prevents_a_repetition(
    notifications: SessionFactory,
) -> None:
    settings = email_settings(URL)
    await receive(notifications, settings, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, settings) or []
        await session.execute(update(Email).values(data_at=func.clock_timestamp()))
    await run_out(notifications)
    async with transaction(notifications) as session:
        await release_expired(session, settings)
    async with smtp_server() as server:

        async def yes() -> bool:
            return True

        connection = SmtpConnection(parse_smtp_url(f"smtp://127.0.0.1:{server.port}"))
        accepted = await connection.send(
            sender=settings.email_from, recipient=held.to_address, content=held.content, before_data=yes
        )
        await connection.close()

    async with transaction(notifications) as session:
        await record_attempt(session, held, accepted, settings)

    assert (await only_email(notifications)).state == EmailState.SENT


@pytest.mark.parametrize("ending", ["read", "deleted"])
async def test_an_email_that_waits_for_a_retry_is_cancelled_when_it_is_no_longer_needed(
    notifications: SessionFactory, ending: str
) -> None:
    conversation = uuid4()
    async with smtp_server(rcpt="450 4.2.0 later") as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(conversation, 1))
        await send(notifications, settings)
        await receive(notifications, settings, read(conversation, 1) if ending == "read" else deleted(conversation))
        await make_due(notifications)
        server.script.clear()
        await send(notifications, settings)
    assert server.emails == []
    email = await only_email(notifications)
    assert (email.state, email.reason) == (EmailState.CANCELLED, ending)


async def test_a_deletion_during_the_smtp_dialogue_stops_it_before_data(
    notifications: SessionFactory,
) -> None:
    conversation, settings = uuid4(), email_settings(URL)
    await receive(notifications, settings, posted(conversation, 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, settings) or []
    await receive(notifications, settings, deleted(conversation))
    async with notifications() as session:
        assert (await session.scalars(select(Email.id).where(held.held))).all() == []


async def test_an_email_that_is_always_deferred_is_given_up_after_its_schedule(notifications: SessionFactory) -> None:
    async with smtp_server(rcpt="450 4.2.0 later") as server:
        settings = settings_for(server, email_retry_seconds=(3 * 24 * 3600,))
        await receive(notifications, settings, posted(uuid4(), 1))
        for _ in range(2):
            await send(notifications, settings)
            await make_due(notifications)
    email = await only_email(notifications)
    assert (email.state, email.reason) == (EmailState.FAILED, "gave-up")


async def test_an_attempt_is_recorded_even_if_the_driver_fails_meanwhile(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [asyncpg.InternalClientError("met before its end was read"), OSError()]

    async def stumble(*arguments: Any) -> None:
        if faults:
            raise faults.pop()
        await record_accepted(*arguments)

    monkeypatch.setattr(attempt_recorder, "record_accepted", stumble)
    async with smtp_server() as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(uuid4(), 1))
        assert await send(notifications, settings) == 1
    assert (await only_email(notifications)).state == EmailState.SENT
    assert not faults
