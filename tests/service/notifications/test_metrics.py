"""Metrics are complete, report zero for empty states, and are read without scans of growing tables."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from prometheus_client import generate_latest
from sqlalchemy import delete, func, text, update

from services.notifications import metrics
from services.notifications.delivery.claiming import claim_emails
from services.notifications.models import Email, Erasure, SendingControl
from services.notifications.rules import EmailState
from shared.database.transactions import SessionFactory, transaction
from tests.service.helpers.attempt_factory import has_due_email
from tests.service.helpers.event_factory import email_settings, posted, receive

SETTINGS = email_settings("postgresql://unused")


async def test_a_state_without_emails_is_reported_as_zero(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await claim_emails(session, SETTINGS)
    await metrics.collect(notifications)
    assert 'chats_emails{state="sending"} 1.0' in generate_latest().decode()
    async with transaction(notifications) as session:
        await session.execute(update(Email).values(state=EmailState.SENT, finished_at=func.now()))
    await metrics.collect(notifications)
    shown = generate_latest().decode()
    assert 'chats_emails{state="sending"} 0.0' in shown
    assert 'chats_emails{state="sent"} 1.0' in shown


async def test_an_expired_lease_that_is_not_released_counts_as_overdue_email(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await claim_emails(session, SETTINGS)
        assert (await metrics.read_state(session)).oldest_due == 0
        await session.execute(update(Email).values(lease_until=func.clock_timestamp() - timedelta(seconds=90)))
        assert 89 < (await metrics.read_state(session)).oldest_due < 100


async def test_a_huge_backlog_is_counted_up_to_the_limit_and_found_by_indexes(
    notifications: SessionFactory, vacuumed: Callable[[str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_COUNT", 1000)
    async with transaction(notifications) as session:
        for state, rows in (("sent", 30_000), ("scheduled", 3000)):
            await session.execute(_FILL, {"state": state, "rows": rows})
    await vacuumed("emails")
    async with transaction(notifications) as session:
        found = await metrics.read_state(session)
        assert found.emails == {"sent": 1000, "scheduled": 1000}
        assert await has_due_email(session)
        plan = (await session.scalars(_PLAN)).all()
    assert any("emails_due_idx" in line for line in plan), plan


async def test_pauses_holds_after_a_restore_and_stalled_erasures_are_exported(notifications: SessionFactory) -> None:
    async with transaction(notifications) as session:
        await session.execute(update(SendingControl).values(paused_at=func.now(), incarnation="another"))
        session.add(Erasure(user_id="anna", advanced_at=func.clock_timestamp() - timedelta(seconds=90)))
    await metrics.collect(notifications)
    shown = generate_latest().decode()
    assert 'chats_emails_paused{reason="operator"} 1.0' in shown
    assert 'chats_emails_paused{reason="restore"} 1.0' in shown
    assert 'chats_erasure_stalled_seconds{database="notifications"} 9' in shown

    async with transaction(notifications) as session:
        await session.execute(update(SendingControl).values(paused_at=None, incarnation=None))
        await session.execute(delete(Erasure))
    await metrics.collect(notifications)
    shown = generate_latest().decode()
    assert 'chats_emails_paused{reason="operator"} 0.0' in shown
    assert 'chats_emails_paused{reason="restore"} 0.0' in shown
    assert 'chats_erasure_stalled_seconds{database="notifications"} 0.0' in shown


_FILL = text("""
    insert into emails (audience, recipient_id, conversation_id, state, due_at, next_attempt_at, finished_at)
    select 'customer', 'anna', gen_random_uuid(), :state, now(), now(), case when :state = 'sent' then now() end
    from generate_series(1, :rows)
""")
_PLAN = text("""
    explain select id from emails where state = 'scheduled' and next_attempt_at <= clock_timestamp()
        or state = 'sending' and lease_until < clock_timestamp()
""")
