"""`chats emails` and `chats status`, which operate directly on the databases."""

import asyncio
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from prometheus_client import generate_latest
from sqlalchemy import func, select, update

from services.notifications import metrics
from services.notifications.delivery.sender import drain
from services.notifications.models import DeliveryAttempt, Email, SendingControl
from services.notifications.rules import EmailState, Reason
from shared.broker.reports import write_report
from shared.broker.status import BrokerStatus
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.smtp_server import smtp_server
from tests.service.delivery.test_circuit_breaker import create_emails, customer, make_due, settings_for, states
from tests.service.deploy.conftest import Chats
from tests.service.helpers.event_factory import email_settings, posted, receive

SETTINGS = email_settings("postgresql://unused")


async def fail(
    sessions: SessionFactory, name: str, reply: str, *, ago: float = 0, reason: str = Reason.REJECTED
) -> None:
    """Create an email that has failed with this reply."""
    await create_emails(sessions, SETTINGS, name)
    async with transaction(sessions) as session:
        this = Email.recipient_id == name
        failed = {"state": EmailState.FAILED, "reason": reason, "counted_tries": 3, "refused_at": func.now()}
        at = func.clock_timestamp() - timedelta(hours=ago)
        await session.execute(update(Email).where(this).values(failed | {"finished_at": at}))
        email_id = (await session.scalars(select(Email.id).where(this))).one()
        code, _, text = reply.partition(" ")
        session.add(
            DeliveryAttempt(
                email_id=email_id, outcome="rejected", phase="rcpt", code=int(code), reply=text, process="a:1"
            )
        )


async def retried(sessions: SessionFactory) -> list[str]:
    return sorted(name for name, (state, *_) in (await states(sessions)).items() if state == EmailState.SCHEDULED)


async def test_the_list_has_a_header_conversation_and_recipient_and_masks_addresses(
    notifications: SessionFactory, chats: Chats
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1, customer=customer("anna")))
    await fail(notifications, "bob", "550 5.1.1 <bob@customer.test>: nobody here")
    listed = await chats("emails", "list")
    head, bob, anna = listed.stdout.splitlines()
    assert head.split("  ")[0] == "ID"
    for name in ("STATE", "REASON", "CONVERSATION", "RECIPIENT", "ADDRESS", "LAST REPLY"):
        assert name in head
    assert str(conversation) in anna
    assert "customer anna" in anna
    assert "a…@customer.test" in anna
    assert "rcpt 550 5.1.1 <…>: nobody here" in bob
    assert "anna@" not in listed.stdout
    assert "bob@" not in listed.stdout

    in_full = await chats("emails", "list", "--addresses", "--conversation", str(conversation))
    assert "anna@customer.test" in in_full.stdout
    assert len(in_full.stdout.splitlines()) == 2
    assert (await chats("emails", "list", "--state", "sent")).stdout.splitlines()[1:] == ["No emails found."]


async def test_failed_emails_are_retried_by_time_and_reply_except_those_that_may_have_arrived(
    notifications: SessionFactory, chats: Chats
) -> None:
    await fail(notifications, "anna", "554 5.7.1 Relay access denied")
    await fail(notifications, "bob", "550 5.1.1 nobody here")
    await fail(notifications, "carl", "554 5.7.1 Relay access denied", ago=3)
    await fail(notifications, "dora", "554 5.7.1 relay access denied", reason=Reason.UNCERTAIN)
    done = await chats("emails", "retry", "--state", "failed", "--since", "2h", "--reply", "relay.*denied")
    assert (done.exit_code, done.stdout.splitlines()) == (
        0,
        [
            "1 email queued for another attempt.",
            "1 skipped because they may have arrived (uncertain, restored). Retry these by id.",
        ],
    )
    assert await retried(notifications) == ["anna"]
    async with notifications() as session:
        anna = (await session.scalars(select(Email).where(Email.recipient_id == "anna"))).one()
        assert (anna.counted_tries, anna.refused_at, anna.reason, anna.finished_at) == (0, None, None, None)

    assert (await chats("emails", "retry", "--state", "failed", "--reply", "^550 5")).exit_code == 0
    assert await retried(notifications) == ["anna", "bob"]
    await chats("emails", "retry", "--state", "failed")
    assert await retried(notifications) == ["anna", "bob", "carl"]
    async with transaction(notifications) as session:
        dora = (await session.scalars(select(Email.id).where(Email.recipient_id == "dora"))).one()
    assert (await chats("emails", "retry", str(dora))).exit_code == 0
    assert await retried(notifications) == ["anna", "bob", "carl", "dora"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give the id of one email, or --state failed"),
        (("--since", "2h"), "give the id of one email, or --state failed"),
        (("--state", "sent"), "only failed and bounced emails can be retried"),
        (("--state", "failed", "--since", "yesterday"), "--since must be a duration such as 90s, 30m, 2h or 3d"),
        (("--state", "failed", "--reply", "*"), "--reply must be a regular expression"),
        (("nonsense",), "is not a valid id"),
        ((str(uuid4()), "--since", "2h"), "give the id of one email, or --state failed"),
    ],
)
async def test_an_invalid_retry_command_says_what_to_give(
    notifications: SessionFactory, chats: Chats, words: tuple[str, ...], message: str
) -> None:
    await fail(notifications, "anna", "554 5.7.1 Relay access denied")
    done = await chats("emails", "retry", *words)
    assert done.exit_code == 1
    assert message in str(done.exception)
    assert await retried(notifications) == []


@pytest.mark.usefixtures("conversations")
async def test_an_open_breaker_is_shown_with_its_start_phase_host_reply_and_next_probe(
    notifications: SessionFactory, chats: Chats
) -> None:
    async with smtp_server(rcpt="554 5.7.1 <anna@customer.test>: Relay access denied") as server:
        settings = settings_for(server)
        await create_emails(notifications, settings, "anna", "bob", "carl")
        for _ in range(4):
            await drain(notifications, settings, asyncio.Event())
            await make_due(notifications)
        status = await chats("status")
        assert status.exit_code == 1
        [line] = [line for line in status.stdout.splitlines() if line.startswith("mail server")]
        assert "failing, circuit breaker open since 20" in line
        host = f"127.0.0.1:{server.port}"
        assert f"phase rcpt, host {host}, reply 554 5.7.1 <…>: Relay access denied; next probe 20" in line
        assert "deferred      3   <- no email was accepted in the last hour; oldest: rcpt: 554" in status.stdout
        assert "anna@" not in status.stdout
        await metrics.collect(notifications)
        shown = generate_latest().decode()
        assert f'chats_email_breaker_info{{host="{host}",phase="rcpt",reply="554 5.7.1"}} 1.0' in shown
        assert "chats_emails_deferred 3.0" in shown
        assert "chats_email_breaker_since_timestamp_seconds 0.0" not in shown

        server.script.clear()
        for _ in range(2):
            await drain(notifications, settings, asyncio.Event())
            await make_due(notifications)
    status = await chats("status")
    assert "mail server   ok" in status.stdout
    assert "deferred      0\n" in status.stdout
    await metrics.collect(notifications)
    shown = generate_latest().decode()
    assert "chats_email_breaker_info{" not in shown
    assert "chats_email_breaker_since_timestamp_seconds 0.0" in shown
    assert "chats_email_breaker_next_probe_timestamp_seconds 0.0" in shown


@pytest.mark.usefixtures("conversations")
@pytest.mark.parametrize(
    ("phase", "reply", "said"),
    [
        ("banner", "421 4.7.0 too many connections", "busy"),
        ("auth", "454 4.7.0 Temporary authentication failure", "busy"),
        ("auth", "535 5.7.8 authentication failed", "failing"),
        ("rcpt", "454 4.7.1 Relay access denied", "failing"),
    ],
)
async def test_a_busy_server_is_not_reported_as_a_setup_fault(
    notifications: SessionFactory, chats: Chats, phase: str, reply: str, said: str
) -> None:
    code, _, text = reply.partition(" ")
    now = func.clock_timestamp()
    columns = {"breaker_trips": 1, "breaker_since": now, "breaker_until": now, "breaker_phase": phase}
    async with transaction(notifications) as session:
        await session.execute(
            update(SendingControl).values(columns | {"breaker_code": int(code), "breaker_reason": text})
        )
    status = await chats("status")
    assert f"mail server   {said}, circuit breaker open since" in status.stdout
    assert status.exit_code == 1


async def test_a_single_deferred_email_is_no_fault_but_all_being_deferred_is(
    conversations: SessionFactory, notifications: SessionFactory, chats: Chats
) -> None:
    for sessions in (conversations, notifications):  # a relay and a worker that can use the broker
        async with transaction(sessions) as session:
            await write_report(session, "process", BrokerStatus(None, time.monotonic()))
    async with smtp_server(rcpt="451 4.3.0 Temporary lookup failure") as server:
        settings = settings_for(server)
        await create_emails(notifications, settings, "anna")
        await drain(notifications, settings, asyncio.Event())
        assert "deferred      1   <- no email was accepted in the last hour" in (await chats("status")).stdout
        assert (await chats("status")).exit_code == 0
        await metrics.collect(notifications)
        assert "chats_emails_standstill 0.0" in generate_latest().decode()
        await create_emails(notifications, settings, "bob", "carl")
        await drain(notifications, settings, asyncio.Event())
    status = await chats("status")
    assert status.exit_code == 1
    assert "oldest: rcpt: 451 4.3.0 Temporary lookup failure" in status.stdout
    await metrics.collect(notifications)
    assert "chats_emails_standstill 1.0" in generate_latest().decode()
