"""What arrives at the envelope senders of our emails, in real LMTP dialogues."""

import asyncio
import re
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import select

from services.notifications.delivery.attempts import EndedAttempt, record_accepted
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.delivery.operations import retry_email
from services.notifications.delivery.suppression import remove_suppressed_address
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.metrics import State, read_state
from services.notifications.models import DeliveryAttempt, Email, Mute, Suppression
from services.notifications.rules import Outcome
from shared.database.transactions import connection_provider, transaction
from tests.service.inbound.rig import DOMAIN, SETTINGS, Rig


def tampered(address: str, position: int) -> str:
    """Return an address with another character in its token."""
    character = "a" if address[position] != "a" else "b"
    return f"{address[:position]}{character}{address[position + 1 :]}"


async def test_each_email_has_its_own_envelope_sender_the_same_at_each_attempt(rig: Rig) -> None:
    await rig.send_email()
    first = rig.bounces_to
    assert re.fullmatch(rf"bounce\+[a-z2-7]{{52}}@{DOMAIN}", first)
    assert first.partition("+")[2] != rig.address.partition("+")[2]
    await rig.run("update emails set state = 'scheduled', lease_id = null, lease_until = null, next_attempt_at = now()")
    await rig.claim()
    assert rig.bounces_to == first
    await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
    await rig.send_email()
    assert rig.bounces_to != first


async def test_a_report_is_taken_from_the_null_sender_and_a_forged_or_expired_address_is_refused(rig: Rig) -> None:
    await rig.send_email()
    report = rig.reply("It did not work.", **{"Content-Type": ""})
    assert await rig.deliver(report, rig.bounces_to, sender="") is None
    assert await rig.deliver(report, rig.bounces_to.upper(), sender="") is None
    for position in (7, 25, 40, 55):
        forged = tampered(rig.bounces_to, position)
        assert await rig.deliver(report, forged, sender="") == {forged: (550, b"5.1.1 There is no such address here")}
    await rig.run("update emails set claimed_at = now() - interval '31 days', finished_at = null")
    refused = await rig.deliver(report, rig.bounces_to, sender="")
    assert refused == {rig.bounces_to: (550, b"5.1.6 This address has expired")}
    assert await rig.rows() == []


async def test_what_a_program_answers_is_dropped_and_a_person_is_told_that_nobody_reads_it(rig: Rig) -> None:
    await rig.send_email()
    away = rig.reply("I am away.", **{"Auto-Submitted": "auto-replied"})
    assert await rig.deliver(away, rig.bounces_to) is None
    answer = await rig.deliver(rig.reply("Hello?"), rig.bounces_to)
    assert answer == (550, b"5.1.6 Nobody reads this address. Answer to the address in Reply-To")
    assert await rig.rows() == []
    assert await rig.messages() == []


@pytest.mark.parametrize("name", ["reply", "leave", "bounce"])
async def test_the_token_of_one_kind_of_address_is_not_one_of_another(rig: Rig, name: str) -> None:
    await rig.send_email()
    token = rig.address.removeprefix("reply+")
    crossed = rig.bounces_to.replace("bounce", "reply") if name == "reply" else f"{name}+{token}"
    assert await rig.deliver(rig.reply(), crossed) == {crossed: (550, b"5.1.1 There is no such address here")}


REPORT = """From: MAILER-DAEMON@mx.store.test
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B1"

--B1
Content-Type: text/plain

This is the mail system at host mx.store.test.

--B1
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.store.test

Final-Recipient: rfc822; {recipient}
Action: {action}
Status: {status}
Remote-MTA: dns; mx.customer.test
Diagnostic-Code: smtp; 550 {status} <{recipient}>: {said}

--B1
Content-Type: message/rfc822

Subject: Ours

--B1--
"""


async def sent(rig: Rig, body: str = "Which size do you need?") -> str:
    """Send an email to the customer; return its envelope sender."""
    await rig.send_email(body)
    await rig.run("""
        update emails set state = 'sent', finished_at = now(), lease_id = null, data_at = null where state = 'sending'
    """)
    await rig.run("""
        insert into email_tries (email_id, outcome, phase, reply, process)
        select id, 'accepted', 'end-of-data', '', '' from emails where state = 'sent' order by id desc limit 1
    """)
    return rig.bounces_to


async def bounce(rig: Rig, status: str, *, to: str | None = None, action: str = "failed", **fields: str) -> None:
    """Report that an email did not arrive."""
    values = {"recipient": "anna@customer.test", "said": "no", **fields}
    report = REPORT.format(status=status, action=action, **values)
    assert await rig.deliver(report.encode(), to or rig.bounces_to, sender="") is None


async def emails(rig: Rig) -> list[tuple[str, str | None]]:
    """Return the states and reasons of the emails to the customer, oldest first."""
    async with rig.sweeping.notifications() as session:
        rows = await session.execute(select(Email).where(Email.audience == "customer").order_by(Email.id))
        return [(email.state, email.reason) for email in rows.scalars()]


async def status_of(rig: Rig) -> State:
    async with rig.sweeping.notifications() as session:
        return await read_state(session)


async def suppressed(rig: Rig) -> list[tuple[str, str | None, str]]:
    async with rig.sweeping.notifications() as session:
        rows = await session.scalars(select(Suppression).order_by(Suppression.id))
        return [(row.reason, row.user_id, row.status) for row in rows]


async def next_email(rig: Rig) -> tuple[str, str | None]:
    """Return what becomes of another email to the customer."""
    await rig.sam.post(rig.conversation, "And the colour?")
    await rig.sweeping.number()
    await rig.sweeping.catch_up_fully()
    async with transaction(rig.sweeping.notifications) as session:
        await claim_emails(session, SETTINGS)
    return (await emails(rig))[-1]


@pytest.mark.parametrize(
    ("status", "reason", "suppresses"),
    [
        ("5.1.1", "mailbox-unknown", True),
        ("5.1.3", "mailbox-unknown", True),
        ("5.1.6", "mailbox-unknown", True),
        ("5.1.10", "mailbox-unknown", True),
        ("5.1.2", "domain-unknown", False),
        ("5.2.2", "mailbox-full", False),
        ("4.4.1", "not-in-time", False),
        ("5.0.0", "undeliverable", False),
        ("5.7.1", "sender-refused", False),
        ("5.1.8", "sender-refused", False),
    ],
)
async def test_a_report_ends_its_email_and_may_suppress_the_address(
    rig: Rig, status: str, reason: str, suppresses: bool
) -> None:
    await sent(rig)
    await bounce(rig, status)
    assert await emails(rig) == [("bounced", reason)]
    assert await suppressed(rig) == ([(reason, "anna", status)] if suppresses else [])
    state = await status_of(rig)
    assert (state.breaker is not None) is (reason == "sender-refused")
    assert state.attempts["bounced"] == 1
    await rig.run("update gate set breaker_trips = 0, breaker_until = null")
    assert await next_email(rig) == (("suppressed", "bounced-address") if suppresses else ("sending", None))
    assert await rig.rows() == []


async def test_delayed_and_delivered_reports_change_nothing(rig: Rig) -> None:
    await sent(rig)
    for action, status in (("delayed", "4.4.1"), ("delivered", "2.0.0"), ("relayed", "2.0.0"), ("expanded", "2.0.0")):
        await bounce(rig, status, action=action)
    assert await emails(rig) == [("sent", None)]


@pytest.mark.parametrize(
    ("first", "days", "second", "suppresses"),
    [
        ("5.1.2", 0, "5.1.2", False),
        ("5.1.2", 1, "5.1.2", True),
        ("5.0.0", 0, "5.0.0", True),
        ("5.0.0", 3, "5.0.0", True),
        ("5.2.2", 1, "5.0.0", False),
        ("5.1.2", 1, "5.0.0", False),
        ("5.2.2", 1, "5.2.2", False),
        ("4.4.1", 1, "4.4.1", False),
    ],
)
async def test_some_reports_suppress_only_with_an_earlier_one(
    rig: Rig, first: str, days: int, second: str, suppresses: bool
) -> None:
    await sent(rig)
    await bounce(rig, first)
    await rig.run(f"update bounces set id = uuidv7(interval '-{days} days')")  # noqa: S608 - a number
    await sent(rig, "Another?")
    await bounce(rig, second)
    assert bool(await suppressed(rig)) is suppresses


async def test_the_report_of_another_server_than_the_customers_needs_a_second(rig: Rig) -> None:
    await sent(rig)
    await bounce(rig, "5.1.1", recipient="forward@elsewhere.test")
    assert await suppressed(rig) == []
    await sent(rig, "Another?")
    await bounce(rig, "5.1.1", recipient="forward@elsewhere.test")
    assert await suppressed(rig) == [("mailbox-unknown", "anna", "5.1.1")]


async def test_a_changed_address_is_tried_again_and_the_old_one_is_not(rig: Rig) -> None:
    await sent(rig)
    await bounce(rig, "5.1.1")
    await rig.run("update people set email = 'Anna.New@Customer.test'")
    assert await next_email(rig) == ("sending", None)
    await rig.run("update people set email = 'ANNA@customer.TEST'")
    await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null where state = 'sending'")
    assert await next_email(rig) == ("suppressed", "bounced-address")


async def test_a_second_report_about_an_email_changes_nothing(rig: Rig) -> None:
    await sent(rig)
    await bounce(rig, "5.2.2")
    await bounce(rig, "5.1.1")
    assert await emails(rig) == [("bounced", "mailbox-full")]
    assert await suppressed(rig) == []


@pytest.mark.parametrize(
    ("state", "ends"),
    [
        ("state = 'sending'", False),
        ("state = 'sending', data_at = now()", True),
        ("state = 'scheduled', lease_id = null", False),
        ("state = 'scheduled', lease_id = null, uncertain_tries = 1", True),
        ("state = 'failed', reason = 'uncertain', finished_at = now()", True),
        ("state = 'failed', reason = 'restored', finished_at = now()", True),
        ("state = 'failed', reason = 'rejected', finished_at = now()", False),
        ("state = 'cancelled', reason = 'read', finished_at = now()", False),
        ("state = 'suppressed', reason = 'muted', finished_at = now()", False),
    ],
)
async def test_a_report_before_the_email_is_recorded_as_sent_counts_if_it_can_have_been_sent(
    rig: Rig, state: str, ends: bool
) -> None:
    await rig.send_email()
    await rig.run(f"update emails set {state}")  # noqa: S608 - of this test
    before = await emails(rig)
    await bounce(rig, "5.1.1")
    assert await emails(rig) == ([("bounced", "mailbox-unknown")] if ends else before)
    assert bool(await suppressed(rig)) is ends


async def test_the_acceptance_that_is_recorded_after_the_report_does_not_make_the_email_sent(rig: Rig) -> None:
    await rig.send_email()
    async with rig.sweeping.notifications() as session:
        email = (await session.scalars(select(Email))).one()
    await rig.run("update emails set data_at = now()")
    await bounce(rig, "5.1.1")
    claimed = ClaimedEmail(email.id, email.lease_id or uuid4(), "", "", b"", 0, 0)
    accepted = Attempt(Outcome.ACCEPTED, Phase.END_OF_DATA, 250, "ok")
    async with connection_provider(rig.sweeping.notifications.kw["bind"])() as connection:
        await record_accepted(connection, [EndedAttempt(claimed, accepted, datetime.now(UTC))])
    assert await emails(rig) == [("bounced", "mailbox-unknown")]


async def test_a_report_about_an_erased_person_or_a_deleted_conversation_ends_the_email(rig: Rig) -> None:
    await sent(rig)
    await rig.run("update emails set to_address = null, mailbox = null")
    await rig.run("update people set deleted = true, email = null")
    await rig.run("update marks set deleted_at = now()")
    await bounce(rig, "5.1.1", said="there is no Anna Berg here")
    assert await emails(rig) == [("bounced", "mailbox-unknown")]
    assert await suppressed(rig) == []
    async with rig.sweeping.notifications() as session:
        replies = await session.scalars(select(DeliveryAttempt.reply).where(DeliveryAttempt.outcome == "bounced"))
        assert list(replies) == ["5.1.1"], "the words may name the person"


async def test_removing_a_suppressed_address_forgets_its_bounces(rig: Rig) -> None:
    await sent(rig)
    await bounce(rig, "5.1.1")
    async with transaction(rig.sweeping.notifications) as session:
        assert await remove_suppressed_address(session, "anna@customer.test")
    await sent(rig, "Another?")
    await bounce(rig, "5.0.0")
    assert await suppressed(rig) == []


async def test_many_reports_of_a_refused_sender_pause_sending_no_longer_than_one(rig: Rig) -> None:
    for name in ("a", "b", "c"):
        await sent(rig, name)
        await rig.run(f"update emails set to_address = '{name}@customer.test'")  # noqa: S608 - of this test
        await bounce(rig, "5.7.1", recipient=f"{name}@customer.test")
        await rig.run("update gate set breaker_until = breaker_until - interval '1 hour'")
    state = await status_of(rig)
    assert state.breaker is not None
    assert state.breaker.trips == 1


async def test_two_reports_at_once_about_an_address_are_the_first_and_the_second(rig: Rig) -> None:
    first, second = await sent(rig), await sent(rig, "Another?")
    await asyncio.gather(bounce(rig, "5.0.0", to=first), bounce(rig, "5.0.0", to=second))
    assert await emails(rig) == [("bounced", "undeliverable")] * 2
    assert len(await suppressed(rig)) == 1


async def test_the_same_report_twice_at_once_counts_once(rig: Rig) -> None:
    await sent(rig)
    await asyncio.gather(*(bounce(rig, "5.0.0") for _ in range(4)))
    assert await emails(rig) == [("bounced", "undeliverable")]
    assert await suppressed(rig) == []


@pytest.mark.parametrize("place", ["bounce-written", "bounce-committed"])
async def test_a_report_during_whose_handling_the_process_ends_takes_effect_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    await sent(rig)

    def end(name: str) -> None:
        if name == place:
            raise OSError(name)

    for package in ("delivery", "inbound.reports"):
        monkeypatch.setattr(f"services.notifications.{package}.bounces.failpoint", end)
    report = REPORT.format(status="5.1.1", action="failed", recipient="anna@customer.test", said="no").encode()
    answer = await rig.deliver(report, rig.bounces_to, sender="")
    assert answer is not None
    assert answer[0] == 451  # type: ignore[index]
    is_committed = place == "bounce-committed"
    assert (await emails(rig))[0][0] == ("bounced" if is_committed else "sent")
    assert bool(await suppressed(rig)) is is_committed
    monkeypatch.undo()
    assert await rig.deliver(report, rig.bounces_to, sender="") is None
    assert await emails(rig) == [("bounced", "mailbox-unknown")]
    assert (await status_of(rig)).attempts["bounced"] == 1
    assert len(await suppressed(rig)) == 1


async def test_a_refused_sender_opens_the_breaker_once_a_day_for_an_address(rig: Rig) -> None:
    closed = "update gate set breaker_trips = 0, breaker_until = null, breaker_since = null"
    for body, hours, opens in (("One.", 0, True), ("Two.", 0, False), ("Three.", 25, True)):
        await sent(rig, body)
        await rig.run(closed)
        await rig.run(f"update bounces set id = uuidv7(interval '-{hours} hours')")  # noqa: S608 - a number
        await bounce(rig, "5.7.26", said=f"{body} anna@customer.test is not authenticated")
        state = await status_of(rig)
        assert (state.breaker is not None) is opens, body
        if state.breaker is not None:
            assert (state.breaker.phase, state.breaker.host) == ("report", "mx.customer.test")
            assert state.breaker.status == "5.7.26"
            assert "anna" not in state.breaker.reply
        await rig.run(closed)
    assert await suppressed(rig) == []


async def test_nothing_is_suppressed_while_more_than_a_twentieth_of_the_emails_bounces(rig: Rig) -> None:
    await sent(rig)
    await rig.run("""
        insert into bounces (email_id, address_hash, status, reason, consequence, permanent)
        select gen_random_uuid(), decode(md5(n::text), 'hex'), '5.1.1', 'x', 'suppress', true
        from generate_series(1, 19) as n
    """)
    await bounce(rig, "5.1.1")
    assert await emails(rig) == [("bounced", "mailbox-unknown")]
    assert await suppressed(rig) == []
    await rig.run("""
        insert into email_tries (email_id, outcome, phase, reply, process)
        select gen_random_uuid(), 'accepted', '', '', '' from generate_series(1, 420)
    """)
    await sent(rig, "Another?")
    await bounce(rig, "5.1.1")
    assert len(await suppressed(rig)) == 1


async def test_a_bounced_email_is_sent_again_by_hand_and_may_bounce_again(rig: Rig) -> None:
    await sent(rig)
    await bounce(rig, "5.2.2")
    async with transaction(rig.sweeping.notifications) as session:
        email = (await session.scalars(select(Email))).one()
        await retry_email(session, email.id)
    await rig.claim()
    await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null")
    await bounce(rig, "5.1.1")
    assert await emails(rig) == [("bounced", "mailbox-unknown")]
    assert len(await suppressed(rig)) == 1


async def test_the_support_inbox_is_not_suppressed_and_an_admin_is(rig: Rig) -> None:
    await sent(rig)
    await rig.run("update emails set audience = 'support', recipient_id = 'support'")
    await bounce(rig, "5.1.1")
    assert await suppressed(rig) == []
    await rig.run("update emails set audience = 'admin', recipient_id = 'sam', state = 'sent'")
    await bounce(rig, "5.1.1")
    assert await suppressed(rig) == [("mailbox-unknown", "sam", "5.1.1")]


COMPLAINT = """From: <feedback@provider.test>
Subject: FW: Re: Where is my parcel?
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="B1"

--B1
Content-Type: text/plain

This is an email abuse report for an email message received from IP 192.0.2.1.

--B1
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: Provider/1.0
Version: 1
{fields}
--B1
Content-Type: {part}

{headers}
Subject: Ours

Written to {body}.
--B1--
"""


async def complain(rig: Rig, headers: str, *, to: str = f"abuse@{DOMAIN}", **fields: str) -> object:
    """Report that the customer has marked an email as unwanted; return the answer, None if it was taken."""
    values = {"kind": "abuse", "part": "message/rfc822", "fields": "Reported-Domain: store.test\n", "body": "you"}
    report = COMPLAINT.format(headers=headers, **(values | fields))
    return await rig.deliver(report.encode(), to, sender="feedback@provider.test")


async def muted(rig: Rig) -> list[tuple[str, object]]:
    async with rig.sweeping.notifications() as session:
        return [(mute.user_id, mute.conversation_id) for mute in await session.scalars(select(Mute))]


@pytest.mark.parametrize("place", ["return-path", "reply-to", "folded", "field", "headers-only", "own-address"])
async def test_a_complaint_turns_off_all_emails_to_its_customer(rig: Rig, place: str) -> None:
    bounces_to = await sent(rig)
    forms: dict[str, tuple[str, dict[str, str]]] = {
        "return-path": (f"Return-Path: <{bounces_to}>", {}),
        "reply-to": (f"Reply-To: Test Store <{rig.address.upper()}>", {"kind": "Opt-Out"}),
        "folded": (f"Received: by mx (envelope-from\n <{bounces_to}>)", {}),
        "field": ("X-Redacted: yes", {"fields": f"Original-Mail-From: <{bounces_to}>\n"}),
        "headers-only": (f"Return-Path: <{bounces_to}>", {"part": "text/rfc822-headers"}),
        "own-address": ("X-Redacted: yes", {"to": bounces_to}),
    }
    headers, fields = forms[place]
    assert await complain(rig, headers, **fields) is None
    assert await muted(rig) == [("anna", None)]
    assert await next_email(rig) == ("suppressed", "muted")
    # Once for each email: the customer may have turned emails on again since.
    await rig.run("delete from mutes")
    assert await complain(rig, headers, **fields) is None
    assert await muted(rig) == []
    assert await rig.rows() == []


async def test_a_complaint_without_a_token_of_ours_or_of_another_kind_changes_nothing(rig: Rig) -> None:
    bounces_to = await sent(rig)
    path = f"Return-Path: <{bounces_to}>"
    for kind in ("not-spam", "auth-failure", "other", "virus"):
        assert await complain(rig, path, kind=kind) is None
    assert await complain(rig, f"Return-Path: <{tampered(bounces_to, 40)}>") is None
    message_id = str(rig.sent[-1]["Message-ID"])
    assert await complain(rig, f"Message-ID: {message_id}", body=bounces_to) is None, "only headers count"
    assert await muted(rig) == []
    email = rig.reply("Your shop sends spam!")
    assert await rig.deliver(email, f"abuse@{DOMAIN}") == (
        550,
        b"5.6.0 Only feedback reports (RFC 5965) are taken here",
    )
    attached = rig.reply("See the attachment.")
    attached.add_attachment(COMPLAINT.encode(), "application", "octet-stream", filename="report.eml")
    assert (await rig.deliver(attached, f"abuse@{DOMAIN}") or (0,))[0] == 550  # type: ignore[index]


async def test_a_complaint_about_an_email_to_an_admin_or_of_an_erased_person_changes_nothing(rig: Rig) -> None:
    path = f"Return-Path: <{await sent(rig)}>"
    await rig.run("update emails set audience = 'admin', recipient_id = 'sam'")
    assert await complain(rig, path) is None
    await rig.run("update emails set audience = 'customer', recipient_id = 'anna'")
    await rig.run("update people set deleted = true where id = 'anna'")
    assert await complain(rig, path) is None
    assert await muted(rig) == []
