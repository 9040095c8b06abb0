"""Limits of emails to an address: emails over a limit stay scheduled until it allows them; none are lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text, update

from services.notifications import metrics
from services.notifications.delivery import claiming, recipient_limits
from services.notifications.delivery.attempts import release_expired
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.leases import ClaimedEmail
from services.notifications.delivery.operations import retry_email
from services.notifications.delivery.sender import drain
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.models import DeliveryAttempt, Email
from services.notifications.retention import purge_attempts
from services.notifications.rules import EmailState, Outcome
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction
from tests.helpers.smtp_server import smtp_server
from tests.helpers.waiting import eventually
from tests.service.conftest import As
from tests.service.helpers.attempt_factory import begin_data, has_due_email, record_attempt
from tests.service.helpers.event_factory import ANNA, deleted, email_settings, posted, read, receive, user_changed

ACCEPTED = Attempt(Outcome.ACCEPTED, Phase.END_OF_DATA, 250, "taken")
LOST = Attempt(Outcome.UNCERTAIN, Phase.END_OF_DATA, None, "connection lost")
LATER = Attempt(Outcome.DEFERRED, Phase.RCPT, 450, "later")
NEVER = Attempt(Outcome.REJECTED, Phase.RCPT, 550, "never")
SUPPORT = "support@store.test"
LIMITED = (EmailState.SCHEDULED, "rate-limited")
BEN = ANNA.model_copy(update={"id": "ben", "name": "Ben", "email": "ANNA@Customer.Test"})


def limited(max_emails: int = 2, **changes: Any) -> EmailSettings:
    return email_settings("postgresql://unused", limit_mails_per_10_minutes=max_emails, **changes)


async def claim(sessions: SessionFactory, settings: EmailSettings) -> list[ClaimedEmail]:
    async with transaction(sessions) as session:
        return await claim_emails(session, settings) or []


async def record(
    sessions: SessionFactory, settings: EmailSettings, held: Sequence[ClaimedEmail], attempt: Attempt
) -> None:
    for email in held:
        async with transaction(sessions) as session:
            await record_attempt(session, email, attempt, settings)


async def make_due(sessions: SessionFactory) -> None:
    async with transaction(sessions) as session:
        await session.execute(update(Email).values(next_attempt_at=func.now()))  # the same moment for all


async def pass_time(sessions: SessionFactory, seconds: float) -> None:
    """Move sent emails into the past, and make waiting ones due."""
    async with transaction(sessions) as session:
        earlier = DeliveryAttempt.finished_at - timedelta(seconds=seconds)
        await session.execute(update(DeliveryAttempt).values(finished_at=earlier))
    await make_due(sessions)


async def states(sessions: SessionFactory) -> list[tuple[str, str | None]]:
    async with sessions() as session:
        rows = await session.execute(select(Email.state, Email.reason).order_by(Email.id))
        return [(row.state, row.reason) for row in rows]


async def next_check(sessions: SessionFactory) -> datetime:
    """Return when the limited emails are checked again, which is the same time for all."""
    async with sessions() as session:
        [moment] = set(await session.scalars(select(Email.next_attempt_at).where(Email.reason == "rate-limited")))
        return moment


async def first_sent(sessions: SessionFactory) -> datetime:
    """Return when the first attempt ended."""
    async with sessions() as session:
        return (
            await session.scalars(select(DeliveryAttempt.finished_at).order_by(DeliveryAttempt.finished_at).limit(1))
        ).one()


async def test_emails_over_the_limit_wait_and_show_the_reason(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, acting_as: As
) -> None:
    settings, asked = limited(2), acting_as("sam", "admin")
    await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(5)))

    held = await claim(notifications, settings)
    assert len(held) == 2
    soon = await next_check(notifications) - datetime.now(UTC)
    assert soon <= timedelta(seconds=60), "emails in flight may fail and leave the limit unused"
    await record(notifications, settings, held, ACCEPTED)
    await make_due(notifications)
    assert await claim(notifications, settings) == []

    assert await states(notifications) == [(EmailState.SENT, None)] * 2 + [LIMITED] * 3
    assert await next_check(notifications) == await first_sent(notifications) + timedelta(minutes=10)
    [shown, *_] = (await notifications_api.get("/api/v1/notifications/emails", headers=asked)).json()["items"]
    assert (shown["state"], shown["reason"], shown["tries"]) == ("scheduled", "rate-limited", [])
    assert shown["next_attempt_at"] > shown["due_at"]
    async with transaction(notifications) as session:
        assert not await has_due_email(session), "nothing is checked before the limit allows it"
        assert (await metrics.read_state(session)).held_back == 3


async def test_when_the_limit_allows_the_oldest_email_goes_first(notifications: SessionFactory) -> None:
    settings, conversations = limited(1), [uuid4() for _ in range(3)]
    await receive(notifications, settings, *(posted(conversation, 1) for conversation in conversations))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    # It arrives after the others have waited for long.
    await receive(notifications, settings, posted(uuid4(), 1))
    for conversation in conversations[1:]:
        await pass_time(notifications, 601)
        [email] = await claim(notifications, settings)
        async with notifications() as session:
            assert (await session.get_one(Email, email.id)).conversation_id == conversation
        await record(notifications, settings, [email], ACCEPTED)


async def test_messages_that_arrive_while_an_email_waits_join_it(notifications: SessionFactory) -> None:
    settings, first, second = limited(1), uuid4(), uuid4()
    await receive(notifications, settings, posted(first, 1), posted(second, 1, body="One."))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    await make_due(notifications)
    assert await claim(notifications, settings) == []

    await receive(notifications, settings, posted(second, 2, body="Two."), posted(second, 3, body="Three."))
    assert await states(notifications) == [(EmailState.SENT, None), LIMITED], "one email for each conversation"

    await pass_time(notifications, 601)
    [email] = await claim(notifications, settings)
    assert all(body in email.content for body in (b"One.", b"Two.", b"Three."))


async def test_messages_read_while_their_email_waited_are_not_sent(notifications: SessionFactory) -> None:
    settings, all_read, part = limited(1), uuid4(), uuid4()
    await receive(notifications, settings, posted(uuid4(), 1), posted(all_read, 1), posted(part, 1), posted(part, 2))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    await make_due(notifications)
    assert await claim(notifications, settings) == []
    held_until = await next_check(notifications)

    await receive(notifications, settings, read(all_read, 1), read(part, 1))

    assert await states(notifications) == [(EmailState.SENT, None), (EmailState.CANCELLED, "read"), LIMITED]
    assert await next_check(notifications) == held_until, "the time of the next check is kept"
    await receive(notifications, settings, deleted(part))
    assert (await states(notifications))[2] == (EmailState.CANCELLED, "deleted")


async def test_the_limit_is_by_address_regardless_of_its_user_and_spelling(notifications: SessionFactory) -> None:
    settings = limited(1)
    await receive(notifications, settings, posted(uuid4(), 1), posted(uuid4(), 1, customer=BEN))
    assert len(await claim(notifications, settings)) == 1
    other = BEN.model_copy(update={"id": "cleo", "email": "cleo@customer.test"})
    await receive(notifications, settings, posted(uuid4(), 1, customer=other))
    assert [email.to_address for email in await claim(notifications, settings)] == ["cleo@customer.test"]


async def test_the_support_address_has_the_limits_too(notifications: SessionFactory) -> None:
    settings = limited(2, support_email=SUPPORT)
    await receive(notifications, settings, *(posted(uuid4(), 1, by="customer") for _ in range(3)))
    assert len(await claim(notifications, settings)) == 2
    assert (await states(notifications))[2] == LIMITED


async def test_a_customer_at_their_limit_of_support_emails_does_not_affect_others(
    notifications: SessionFactory,
) -> None:
    settings = limited(10, support_email=SUPPORT)
    crowd = [ANNA.model_copy(update={"id": f"c{n}", "email": None}) for n in range(15)]
    await receive(notifications, settings, *(posted(uuid4(), 1, by="customer") for _ in range(14)))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    assert (await states(notifications)).count(LIMITED) == 4

    await receive(
        notifications, settings, *(posted(uuid4(), 1, by="customer", customer=person) for person in crowd * 2)
    )
    await make_due(notifications)
    assert len(await claim(notifications, settings)) == 30, "all emails of the others"
    assert (await states(notifications)).count(LIMITED) == 4


async def test_both_limits_count_support_emails_by_customer(notifications: SessionFactory) -> None:
    settings = limited(2, limit_mails_per_day=3, support_email=SUPPORT)
    await receive(notifications, settings, *(posted(uuid4(), 1, by="customer") for _ in range(5)))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    await pass_time(notifications, 601)
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    await receive(notifications, settings, posted(uuid4(), 1, by="customer", customer=BEN))
    await pass_time(notifications, 601)
    assert len(await claim(notifications, settings)) == 1, "Ben's; Anna has had three today"
    assert (await states(notifications)).count(LIMITED) == 2


@pytest.mark.parametrize(
    "changes",
    [{"email": "anna@elsewhere.test"}, {"name": None, "email": None, "deleted": True}],
    ids=["moved", "erased"],
)
async def test_a_customers_support_limit_survives_a_new_address_or_erasure(
    notifications: SessionFactory, changes: dict[str, Any]
) -> None:
    settings, waiting = limited(1, support_email=SUPPORT), uuid4()
    await receive(notifications, settings, posted(uuid4(), 1, by="customer"), posted(waiting, 1, by="customer"))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    await receive(notifications, settings, user_changed(ANNA.model_copy(update={"version": 2} | changes)))
    await make_due(notifications)
    assert await claim(notifications, settings) == []
    await pass_time(notifications, 601)
    [email] = await claim(notifications, settings)
    assert email.to_address == SUPPORT, "nothing is lost"


async def test_emails_to_a_customer_do_not_count_towards_their_support_limit(
    notifications: SessionFactory,
) -> None:
    settings = limited(1, support_email=SUPPORT)
    await receive(notifications, settings, posted(uuid4(), 1), posted(uuid4(), 1, by="customer"))
    assert len(await claim(notifications, settings)) == 2


async def test_both_limits_apply(notifications: SessionFactory) -> None:
    settings = limited(2, limit_mails_per_day=3)
    await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(5)))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    await pass_time(notifications, 601)
    held = await claim(notifications, settings)
    assert len(held) == 1, "the third of the day"
    await record(notifications, settings, held, ACCEPTED)
    await pass_time(notifications, 85_500)
    assert await claim(notifications, settings) == []
    assert await next_check(notifications) == await first_sent(notifications) + timedelta(days=1)
    await pass_time(notifications, 400)
    assert len(await claim(notifications, settings)) == 2


async def test_a_limit_of_0_is_no_limit(notifications: SessionFactory) -> None:
    settings = limited(0, limit_mails_per_day=0)
    await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(20)))
    assert len(await claim(notifications, settings)) == 20


@pytest.mark.parametrize(("attempt", "counts"), [(ACCEPTED, True), (LOST, True), (LATER, False), (NEVER, False)])
async def test_emails_that_may_have_arrived_count_and_refused_ones_do_not(
    notifications: SessionFactory, attempt: Attempt, counts: bool
) -> None:
    settings = limited(1)
    await receive(notifications, settings, posted(uuid4(), 1))
    await record(notifications, settings, await claim(notifications, settings), attempt)
    await receive(notifications, settings, posted(uuid4(), 1))
    assert len(await claim(notifications, settings)) == (not counts)


async def test_repeated_and_manually_retried_emails_are_limited_too(notifications: SessionFactory) -> None:
    settings = limited(1)
    await receive(notifications, settings, posted(uuid4(), 1))
    [held] = await claim(notifications, settings)
    await record(notifications, settings, [held], LOST)
    await make_due(notifications)
    assert await claim(notifications, settings) == []
    assert await states(notifications) == [LIMITED]
    await pass_time(notifications, 601)
    await record(notifications, settings, await claim(notifications, settings), LOST)
    assert await states(notifications) == [(EmailState.FAILED, "uncertain")]

    async with transaction(notifications) as session:
        await retry_email(session, held.id)
    assert await claim(notifications, settings) == []
    assert await states(notifications) == [LIMITED]


async def test_a_late_acceptance_clears_the_limit_reason(notifications: SessionFactory) -> None:
    settings = limited(1)
    await receive(notifications, settings, posted(uuid4(), 1))
    [held] = await claim(notifications, settings)
    async with transaction(notifications) as session:
        assert await begin_data(session, held)
        await session.execute(update(Email).values(lease_until=func.clock_timestamp() - timedelta(seconds=1)))
        await release_expired(session, settings)
    await make_due(notifications)
    assert await claim(notifications, settings) == []
    await record(notifications, settings, [held], ACCEPTED)
    assert await states(notifications) == [(EmailState.SENT, None)]


async def test_two_concurrent_senders_do_not_exceed_a_limit(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = limited(3)
    monkeypatch.setattr(claiming, "BATCH", 2)
    await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(4)))

    async def locked() -> bool:
        async with notifications() as session:
            asked = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
            return bool(await session.scalar(text(asked)))

    async with transaction(notifications) as session:
        first = await claim_emails(session, settings)
        second = asyncio.create_task(claim(notifications, settings))
        await eventually(locked)
    assert (len(first or []), len(await second)) == (2, 1)


async def test_senders_lock_addresses_in_the_same_order(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = limited(1000)
    monkeypatch.setattr(claiming, "BATCH", 5)
    people = [ANNA.model_copy(update={"id": f"c{n}", "email": f"c{n}@customer.test"}) for n in range(5)]
    there_and_back = [*people, *reversed(people)] * 4
    await receive(notifications, settings, *(posted(uuid4(), 1, customer=person) for person in there_and_back))
    batches = await asyncio.gather(*(claim(notifications, settings) for _ in range(8)))
    assert len({email.id for batch in batches for email in batch}) == 40


async def test_a_sender_sends_as_many_as_the_limit_allows_and_ends(notifications: SessionFactory) -> None:
    async with smtp_server() as server:
        settings = limited(10, smtp_url=SecretStr(f"smtp://127.0.0.1:{server.port}"))
        await receive(notifications, settings, *(posted(uuid4(), 1) for _ in range(45)))
        both = await asyncio.gather(*(drain(notifications, settings, asyncio.Event()) for _ in range(2)))
    assert sum(both) == len(server.emails) == 10
    assert (await states(notifications)).count(LIMITED) == 35


async def test_no_address_of_an_erased_user_is_kept_for_counting(notifications: SessionFactory) -> None:
    settings = limited(5)
    gone = user_changed(ANNA.model_copy(update={"version": 2, "name": None, "email": None, "deleted": True}))
    await receive(notifications, settings, posted(uuid4(), 1), posted(uuid4(), 1))
    before, after = await claim(notifications, settings)
    async with transaction(notifications) as session:
        assert await begin_data(session, after)
    await record(notifications, settings, [before], ACCEPTED)
    await receive(notifications, settings, gone)
    await record(notifications, settings, [after], ACCEPTED)
    async with notifications() as session:
        assert set(await session.scalars(select(Email.mailbox))) == {None}
        assert (await session.scalars(select(DeliveryAttempt.mailbox))).all() == [None, None]


async def test_the_attempts_of_the_last_day_are_kept_even_with_a_shorter_retention(
    notifications: SessionFactory,
) -> None:
    settings = limited(5, retention_days=0.001)
    await receive(notifications, settings, posted(uuid4(), 1), posted(uuid4(), 1))
    await record(notifications, settings, await claim(notifications, settings), ACCEPTED)
    async with transaction(notifications) as session:
        ids = (await session.scalars(select(DeliveryAttempt.id))).all()
        for attempt_id, age in zip(ids, (timedelta(days=2), timedelta(hours=24, minutes=1)), strict=True):
            made = func.uuidv7(-age)
            await session.execute(update(DeliveryAttempt).where(DeliveryAttempt.id == attempt_id).values(id=made))
        assert await purge_attempts(session, settings, size=10) == 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("SUPPORT@store.test", "own-address"),
        ("help@store.test", "own-address"),
        ("desk@store.test.", "own-address"),
        ("MAILER-DAEMON@mx.test", "unattended-address"),
        ("no-reply+7@shop.test", "unattended-address"),
        ("anna@customer.test, eve@evil.test", "address-not-supported"),
        ("anna@customer.test\r\nBcc: eve@evil.test", "address-not-supported"),
    ],
)
async def test_no_customers_email_goes_to_the_store_to_machines_or_to_an_invalid_address(
    notifications: SessionFactory, address: str, reason: str
) -> None:
    settings = limited(email_reply_to="Help <help@store.test>", support_email="desk@store.test")
    await receive(notifications, settings, posted(uuid4(), 1, customer=ANNA.model_copy(update={"email": address})))
    assert await states(notifications) == [(EmailState.SUPPRESSED, reason)]


async def test_a_waiting_email_is_suppressed_when_its_address_becomes_the_stores_own(
    notifications: SessionFactory,
) -> None:
    settings = limited()
    moved = user_changed(ANNA.model_copy(update={"version": 2, "email": "support@store.test"}))
    await receive(notifications, settings, posted(uuid4(), 1), moved)
    assert await claim(notifications, settings) == []
    assert await states(notifications) == [(EmailState.SUPPRESSED, "own-address")]


async def test_counting_reads_only_recent_attempts(
    notifications: SessionFactory, vacuumed: Callable[[str], Awaitable[None]]
) -> None:
    async with transaction(notifications) as session:
        await session.execute(_FILL)
        await session.execute(_FILL_TRIES)
    await vacuumed("emails, email_tries")
    async with transaction(notifications) as session:
        explained = text(f"explain (analyze, buffers off, timing off) {recipient_limits._COUNT.text}")  # noqa: SLF001 - the very statement
        values = {"mailboxes": ["c7@x.test", "c8@x.test"], "since": datetime.now(UTC) - timedelta(days=1), "most": 100}
        plan = (await session.scalars(explained, values)).all()
    assert any("email_tries_mailbox_idx" in line for line in plan), plan
    assert any("emails_sending_idx" in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan


_FILL = text("""
    insert into emails (audience, recipient_id, conversation_id, state, due_at, next_attempt_at, mailbox)
    select 'customer', 'c' || n % 50, gen_random_uuid(), case when n % 100 = 7 then 'sending' else 'sent' end, now(),
        now(), 'c' || n % 50 || '@x.test'
    from generate_series(1, 20000) as n
""")
_FILL_TRIES = text("""
    insert into email_tries (email_id, finished_at, outcome, phase, reply, process, mailbox)
    select id, now() - random() * interval '20 days', 'accepted', 'end-of-data', '', '', mailbox from emails
""")
