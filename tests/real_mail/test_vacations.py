"""A vacation program of the customer's mail server: it does not answer our emails, or its answer is no message."""

import asyncio
import smtplib

import pytest
from prometheus_client import REGISTRY

from tests.helpers.waiting import eventually
from tests.real_mail.helpers.town import DEADLINE, Town

ASKS_FOR_SILENCE = (
    "Auto-Submitted",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "X-Auto-Response-Suppress",
)


async def test_a_vacation_program_does_not_answer_our_emails(town: Town) -> None:
    await town.move_to("away")
    await town.ask(mailbox="away")
    log = town.servers.dovecot.directory / "log"
    await eventually(lambda: "discarding vacation response" in log.read_text(), deadline=DEADLINE)
    assert await town.rig.rows() == []


@pytest.mark.parametrize("answers_to", ["Reply-To", "Return-Path"])
async def test_an_answer_of_a_vacation_program_is_no_message_and_is_not_answered(town: Town, answers_to: str) -> None:
    await town.move_to("away")
    before, taken = len(await town.mailbox("away")), reports()
    email = await town.ask(mailbox="away")
    address = str(email[answers_to]).rpartition("<")[2].rstrip(">")
    for name in ASKS_FOR_SILENCE:  # programs that do not look at them do the same
        del email[name]

    def deliver_again() -> None:
        with smtplib.SMTP("127.0.0.1", town.servers.postfix.submission, timeout=60) as server:
            server.sendmail(address, "away@customer.test", email.as_bytes())

    await asyncio.to_thread(deliver_again)
    if answers_to == "Reply-To":
        await town.arrived(("ignored", "delivery-report"))  # it has no sender, and would be automatic with one
        [original] = await town.originals()
        assert original is not None
        assert b"I am in the mountains." in original
        assert b"Auto-Submitted: auto-replied" in original
    else:
        await eventually(lambda: reports() > taken, deadline=DEADLINE)
        assert await town.rig.rows() == []
    assert await town.thread() == []
    await town.send()
    assert len(await town.mailbox("away")) == before + 2


def reports() -> float:
    """Return how many reports changed nothing, because they are none."""
    return REGISTRY.get_sample_value("chats_inbound_reports_total", {"effect": "unreadable"}) or 0
