"""A sender that has to stop: dialogues are finished or aborted, and no email is left to its lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import select

from services.notifications.delivery import sender
from services.notifications.delivery.sender import drain
from services.notifications.mail.attempts import OPENING, Phase
from services.notifications.models import DeliveryAttempt, Email
from services.notifications.rules import EmailState, Outcome
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.smtp_server import KEEP_AND_STALL, STALL, SmtpServer, smtp_server
from tests.helpers.waiting import eventually
from tests.service.delivery.test_sender import settings_for
from tests.service.helpers.event_factory import posted, receive

EMAILS = 6  # more than there are connections


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "EMAILS_PER_CONNECTION", 1)
    monkeypatch.setattr(sender, "GRACE", 0.3)
    monkeypatch.setattr(sender, "RECORD_GRACE", 20.0)


@asynccontextmanager
async def draining(sessions: SessionFactory, settings: EmailSettings) -> AsyncIterator[None]:
    """Send in the background; then stop, and wait for the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(drain(sessions, settings, stop))
    yield
    stop.set()
    await asyncio.wait_for(task, 30)


async def emails(sessions: SessionFactory) -> list[Email]:
    async with sessions() as session:
        return list(await session.scalars(select(Email)))


async def attempts_of(sessions: SessionFactory) -> list[DeliveryAttempt]:
    async with sessions() as session:
        return list(await session.scalars(select(DeliveryAttempt)))


def is_stalled(server: SmtpServer, command: str) -> bool:
    """Return whether all connections wait for the reply to a command; in the opening phases there is only one."""
    received = [line for line in server.commands if line.lower().startswith(command)]
    count = 1 if command in OPENING else 4
    return server.connections == count and (len(received) == count or command == "banner")


@pytest.mark.parametrize("phase", ["banner", "ehlo", "mail", "rcpt", "data"])
async def test_an_email_before_its_dot_is_released_at_no_cost(notifications: SessionFactory, phase: str) -> None:
    async with smtp_server() as server:
        server.script[phase] = STALL
        settings = settings_for(server, smtp_connections=4)
        await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(EMAILS)))
        async with draining(notifications, settings):
            await eventually(lambda: is_stalled(server, phase))

        for email in await emails(notifications):
            assert (email.state, email.counted_tries, email.uncertain_tries) == (EmailState.SCHEDULED, 0, 0)
            assert (email.lease_id, email.data_at) == (None, None)
            assert email.next_attempt_at < datetime.now(UTC), "due at once"
        begun = 0 if phase in OPENING else 4
        assert [attempt.outcome for attempt in await attempts_of(notifications)] == [Outcome.ABANDONED] * begun

        server.script.clear()
        assert await drain(notifications, settings, asyncio.Event()) == EMAILS
    assert len(server.emails) == EMAILS


async def test_an_email_after_its_dot_is_uncertain_at_once(notifications: SessionFactory) -> None:
    async with smtp_server(end=KEEP_AND_STALL) as server:
        settings = settings_for(server, smtp_connections=4)
        await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(EMAILS)))
        async with draining(notifications, settings):
            await eventually(lambda: len(server.emails) == 4)

    assert {email.state for email in await emails(notifications)} == {EmailState.SCHEDULED}
    assert sorted(email.uncertain_tries for email in await emails(notifications)) == [0, 0, 1, 1, 1, 1]
    assert [(attempt.outcome, attempt.phase) for attempt in await attempts_of(notifications)] == [
        (Outcome.UNCERTAIN, Phase.END_OF_DATA)
    ] * 4


async def test_a_dialogue_that_the_server_completes_in_time_is_finished(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "GRACE", 20.0)
    async with smtp_server() as server:
        settings = settings_for(server, smtp_connections=4)
        await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(60)))
        async with draining(notifications, settings):
            await eventually(lambda: server.emails)
    sent = [email for email in await emails(notifications) if email.state == EmailState.SENT]
    assert len(sent) == len(server.emails) < 60
    assert {attempt.outcome for attempt in await attempts_of(notifications)} == {Outcome.ACCEPTED}
    assert {email.state for email in await emails(notifications)} == {EmailState.SENT, EmailState.SCHEDULED}


async def test_a_reply_is_recorded_even_if_the_server_stalls_after_it(notifications: SessionFactory) -> None:
    async with smtp_server(end="554 5.6.0 looks like spam", rset=STALL) as server:
        settings = settings_for(server, smtp_connections=4)
        await receive(notifications, settings, posted(uuid4(), 1))
        async with draining(notifications, settings):
            await eventually(lambda: "RSET" in server.commands)
    [email] = await emails(notifications)
    assert (email.state, email.reason) == (EmailState.FAILED, "rejected")


async def test_stopping_does_not_wait_for_an_unresponsive_database(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "RECORD_GRACE", 1.0)
    async with smtp_server(rcpt=STALL) as server:
        settings = settings_for(server, smtp_connections=4)
        await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(EMAILS)))
        async with transaction(notifications) as holder:
            stop = asyncio.Event()
            task = asyncio.create_task(drain(notifications, settings, stop))
            await eventually(lambda: is_stalled(server, "rcpt"))
            await holder.execute(select(Email.id).with_for_update())
            stop.set()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), 30)
            assert task.done()
    assert {email.state for email in await emails(notifications)} == {EmailState.SENDING}, "left to their leases"
