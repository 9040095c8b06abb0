"""Which failures are the setup's or the server's, and which an email's own, in real SMTP dialogues."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update

from services.notifications.delivery import sender
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.operations import resume_sending
from services.notifications.delivery.sender import drain
from services.notifications.event_consumer.consumer import receive_events
from services.notifications.models import DeliveryAttempt, Email, SendingControl
from services.notifications.rules import EmailState, Outcome
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from shared.people import Person
from tests.helpers.smtp_server import SmtpServer, smtp_server
from tests.service.helpers.event_factory import email_settings, posted, receive

RELAY = "554 5.7.1 <someone@customer.test>: Relay access denied"
POLICY = "550 5.7.1 message refused"


def settings_for(server: SmtpServer, user: str = "", **changes: Any) -> EmailSettings:
    url = SecretStr(f"smtp://{user}127.0.0.1:{server.port}")
    return email_settings("postgresql://unused", smtp_url=url, **changes)


def customer(name: str) -> Person:
    return Person(id=name, version=1, name=name.title(), email=f"{name}@customer.test")


async def send(sessions: SessionFactory, settings: EmailSettings) -> int:
    return await drain(sessions, settings, asyncio.Event())


async def create_emails(sessions: SessionFactory, settings: EmailSettings, *names: str) -> None:
    await receive_events(
        sessions, [posted(uuid4(), 1, customer=customer(name)) for name in names], settings, repeated=False
    )


async def make_due(sessions: SessionFactory) -> None:
    """End the breaker's pause, and make all scheduled emails due."""
    async with transaction(sessions) as session:
        scheduled = update(Email).where(Email.state == EmailState.SCHEDULED)
        await session.execute(scheduled.values(next_attempt_at=func.clock_timestamp() - timedelta(seconds=1)))
        await session.execute(
            update(SendingControl).where(SendingControl.breaker_trips > 0).values(breaker_until=func.clock_timestamp())
        )


async def states(sessions: SessionFactory) -> dict[str, tuple[str, str | None, int]]:
    async with sessions() as session:
        rows = await session.scalars(select(Email))
        return {row.recipient_id: (row.state, row.reason, row.counted_tries) for row in rows}


async def sending_control(sessions: SessionFactory) -> SendingControl:
    async with sessions() as session:
        return await session.get_one(SendingControl, True)


async def outcomes(sessions: SessionFactory) -> list[str]:
    async with sessions() as session:
        return list(await session.scalars(select(DeliveryAttempt.outcome).order_by(DeliveryAttempt.id)))


PHASES = ("rcpt", "data", "end")
REPLIES = (RELAY, POLICY, "454 4.7.1 Relay access denied", "530 5.7.0 authenticate first")
REFUSALS = list(product(PHASES, REPLIES))
if "EVERY_CASE" not in os.environ:
    REFUSALS = REFUSALS[::3]  # each phase and each reply at least once


@pytest.mark.parametrize(("phase", "reply"), REFUSALS)
async def test_a_late_refusal_of_the_setup_fails_no_email_and_all_are_sent_once_it_is_fixed(
    notifications: SessionFactory, phase: str, reply: str
) -> None:
    names = [f"user{number}" for number in range(6)]
    async with smtp_server() as server:
        server.script[phase] = reply
        settings = settings_for(server)
        await create_emails(notifications, settings, *names)
        for trips in range(1, 5):
            await send(notifications, settings)
            opened = await sending_control(notifications)
            assert (opened.breaker_trips, opened.breaker_code) == (trips, int(reply[:3]))
            assert (opened.breaker_phase, opened.breaker_host) == (
                {"end": "end-of-data"}.get(phase, phase),
                f"127.0.0.1:{server.port}",
            )
            assert opened.breaker_since is not None
            assert opened.breaker_reason == reply[4:]
            await make_due(notifications)
        assert set((await states(notifications)).values()) == {("scheduled", None, 0)}

        server.script.clear()
        for _ in range(2):
            await send(notifications, settings)
            await make_due(notifications)
    assert set((await states(notifications)).values()) == {("sent", None, 1)}
    closed = await sending_control(notifications)
    assert (closed.breaker_trips, closed.breaker_since, closed.breaker_phase) == (0, None, None)


@pytest.mark.parametrize("phase", ["rcpt", "end"])
async def test_one_recipients_policy_fails_only_that_email(notifications: SessionFactory, phase: str) -> None:
    async with smtp_server() as server:
        server.script[f"{phase} bob@customer.test"] = POLICY
        settings = settings_for(server)
        await create_emails(notifications, settings, "bob")
        await send(notifications, settings)
        await make_due(notifications)
        await send(notifications, settings)
        assert (await states(notifications))["bob"] == ("scheduled", None, 0), (
            "nothing shows yet that others are accepted"
        )

        await create_emails(notifications, settings, "anna", "carl", "dora")
        for _ in range(3):
            await make_due(notifications)
            await send(notifications, settings)
    assert await states(notifications) == {
        "bob": ("failed", "rejected", 1),
        "anna": ("sent", None, 1),
        "carl": ("sent", None, 1),
        "dora": ("sent", None, 1),
    }
    assert (await sending_control(notifications)).breaker_trips == 0


async def test_an_email_that_alone_is_denied_relay_follows_its_retry_schedule(notifications: SessionFactory) -> None:
    async with smtp_server() as server:
        server.script["rcpt bob@customer.test"] = RELAY
        settings = settings_for(server)
        await create_emails(notifications, settings, "bob", "anna")
        for _ in range(4):
            await send(notifications, settings)
            await make_due(notifications)
        state, reason, counted = (await states(notifications))["bob"]
        assert (state, reason) == ("scheduled", None)
        assert counted >= 1, "others are accepted, so the failure is its own and counts"
        assert (await sending_control(notifications)).breaker_trips == 0


async def test_all_processes_together_probe_an_open_breaker_with_one_email_not_yet_refused(
    notifications: SessionFactory,
) -> None:
    async with smtp_server(rcpt=POLICY) as server:
        settings = settings_for(server)
        await create_emails(notifications, settings, "bob")
        await send(notifications, settings)
        await create_emails(notifications, settings, "anna")
        await make_due(notifications)
        async with transaction(notifications) as one, transaction(notifications) as other:
            [probe] = await claim_emails(one, settings) or []
            assert probe.to_address == "anna@customer.test"
            await one.commit()
            assert await claim_emails(other, settings) is None


async def test_after_an_inconclusive_probe_another_email_probes_at_once(notifications: SessionFactory) -> None:
    async with smtp_server(rcpt=[POLICY, "450 4.2.0 greylisted", "250 ok"]) as server:
        settings = settings_for(server)
        await create_emails(notifications, settings, "bob")
        await send(notifications, settings)
        await create_emails(notifications, settings, "anna", "carl")
        async with transaction(notifications) as session:
            await session.execute(update(SendingControl).values(breaker_until=func.clock_timestamp()))
        assert await send(notifications, settings) == 2
    assert sorted(state for state, *_ in (await states(notifications)).values()) == ["scheduled", "scheduled", "sent"]
    assert (await sending_control(notifications)).breaker_trips == 0


async def test_resuming_retries_refused_emails_at_once(notifications: SessionFactory) -> None:
    async with smtp_server(rcpt=[RELAY]) as server:
        settings = settings_for(server)
        await create_emails(notifications, settings, "bob")
        await send(notifications, settings)
        async with transaction(notifications) as session:
            await resume_sending(session)
        assert await send(notifications, settings) == 1
    assert (await states(notifications))["bob"] == ("sent", None, 1)


@pytest.mark.parametrize("phase", ["banner", "ehlo", "mail", "rcpt", "data", "end"])
async def test_a_server_that_is_down_for_hours_costs_no_attempts_and_is_probed_every_minute(
    notifications: SessionFactory, phase: str
) -> None:
    async with smtp_server() as server:
        server.script[phase] = "421 4.3.2 not now"
        settings = settings_for(server)
        await create_emails(notifications, settings, "anna", "bob", "carl")
        for _ in range(6):
            before = datetime.now(UTC)
            await send(notifications, settings)
            opened = await sending_control(notifications)
            assert opened.breaker_until is not None
            assert opened.breaker_until - before < timedelta(seconds=70)
            await make_due(notifications)
        assert set((await states(notifications)).values()) == {("scheduled", None, 0)}
        assert set(await outcomes(notifications)) == {Outcome.BUSY}
        server.script.clear()
        for _ in range(2):
            await send(notifications, settings)
            await make_due(notifications)
    assert {state for state, *_ in (await states(notifications)).values()} == {"sent"}


async def test_an_email_after_which_the_server_closes_costs_neither_it_nor_the_others_anything(
    notifications: SessionFactory,
) -> None:
    async with smtp_server() as server:
        server.script["end bob@customer.test"] = "421 4.3.2 closing"
        settings = settings_for(server)
        await create_emails(notifications, settings, "anna")
        await send(notifications, settings)
        for attempts in range(1, 5):
            await create_emails(notifications, settings, *(["bob"] if attempts == 1 else []), f"user{attempts}")
            await send(notifications, settings)
            found = await states(notifications)
            assert found["bob"] == ("scheduled", None, 0), "the server is the cause, however often"
            assert found[f"user{attempts}"] == ("sent", None, 1)
            assert (await sending_control(notifications)).breaker_trips == 0
            assert (await outcomes(notifications)).count(Outcome.BUSY) == attempts
            assert await send(notifications, settings) == 0, "it is not due at once"
            await make_due(notifications)
        server.script.clear()
        await send(notifications, settings)
    assert (await states(notifications))["bob"] == ("sent", None, 1)


async def test_a_server_that_allows_few_connections_gets_all_emails_over_them(notifications: SessionFactory) -> None:
    async with smtp_server() as server:
        server.max_connections = 3
        server.delays["end"] = 0.01
        settings = settings_for(server)
        await create_emails(notifications, settings, *(f"user{number}" for number in range(120)))
        await send(notifications, settings)
    assert len(server.emails) == 120
    assert set(await outcomes(notifications)) == {Outcome.ACCEPTED}
    assert server.refused_connections <= settings.smtp_connections, "refused connections are not retried for each batch"


async def test_a_process_that_gets_no_connection_leaves_the_emails_to_another(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "CROWDED_PAUSE", 0)
    async with smtp_server(banner="421 4.7.0 too many connections") as server:
        settings = settings_for(server)
        await create_emails(notifications, settings, "anna", "bob")
        async with transaction(notifications) as session:
            email_id = (await session.scalars(select(Email.id).limit(1))).one()
            accepted = {"outcome": "accepted", "phase": "end-of-data", "code": 250, "reply": "ok", "process": "other:1"}
            session.add(DeliveryAttempt(email_id=email_id, **accepted))
        assert await send(notifications, settings) == 0
    assert server.connections == 1
    assert set((await states(notifications)).values()) == {("scheduled", None, 0)}
    assert (await sending_control(notifications)).breaker_trips == 0


async def test_a_wrong_password_is_one_failed_login(notifications: SessionFactory) -> None:
    async with smtp_server(extensions=["AUTH PLAIN"], auth="535 5.7.8 wrong password") as server:
        settings = settings_for(server, "user:password@")
        await create_emails(notifications, settings, *(f"user{number}" for number in range(40)))
        await send(notifications, settings)
    assert len([command for command in server.commands if command.startswith("AUTH")]) == 1
    assert set((await states(notifications)).values()) == {("scheduled", None, 0)}


async def test_all_connections_log_in_after_the_first_login_succeeds(notifications: SessionFactory) -> None:
    async with smtp_server(extensions=["AUTH PLAIN"]) as server:
        server.delays["end"] = 0.01
        settings = settings_for(server, "user:password@")
        await create_emails(notifications, settings, *(f"user{number}" for number in range(40)))
        await send(notifications, settings)
    assert len(server.emails) == 40
    assert server.connections == 10


async def test_an_email_over_the_servers_size_limit_fails_at_once_and_is_not_sent(
    notifications: SessionFactory,
) -> None:
    async with smtp_server(extensions=["SIZE 12000"]) as server:
        settings = settings_for(server)
        await receive(notifications, settings, posted(uuid4(), 1, body="long " * 1900, customer=customer("anna")))
        await create_emails(notifications, settings, "bob")
        await send(notifications, settings)
    assert await states(notifications) == {"anna": ("failed", "too-large", 1), "bob": ("sent", None, 1)}
    assert len([command for command in server.commands if command == "DATA"]) == 1
    async with notifications() as session:
        attempt = (
            await session.scalars(select(DeliveryAttempt).where(DeliveryAttempt.outcome == Outcome.REJECTED))
        ).one()
    assert attempt.phase == "size"
    assert "the server accepts at most 12000 (SIZE)" in attempt.reply


async def test_the_server_gets_the_ehlo_name_and_the_size_of_the_email(notifications: SessionFactory) -> None:
    async with smtp_server() as server:
        settings = settings_for(server)
        await create_emails(notifications, settings, "anna")
        await send(notifications, settings)
    assert server.commands[0] == "EHLO store.test"
    assert server.commands[1] == f"MAIL FROM:<support@store.test> SIZE={len(server.emails[0].content)}"
