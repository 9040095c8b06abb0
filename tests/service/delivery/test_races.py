"""Concurrent changes to one email, with two sessions: nothing is lost, and nothing is sent twice."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

from services.notifications.api.commands import read_all_notifications, read_notification
from services.notifications.delivery import claiming
from services.notifications.delivery.attempts import release_expired
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.message_selection import EmailBatch
from services.notifications.delivery.operations import pause_sending, retry_email
from services.notifications.delivery.rendering import RenderedEmail, render_email
from services.notifications.delivery.transitions import move_emails
from services.notifications.event_consumer.consumer import receive_events
from services.notifications.event_consumer.handlers import handle_events
from services.notifications.event_consumer.parked import retry_parked
from services.notifications.mail.attempts import Attempt, Phase
from services.notifications.models import DeliveryAttempt, Email, InboxEntry, Notification
from services.notifications.rules import EmailState, Outcome, Reason
from shared.database.transactions import SessionFactory, transaction
from shared.problems import Problem
from tests.helpers.waiting import eventually
from tests.service.helpers.attempt_factory import begin_data, record_attempt
from tests.service.helpers.event_factory import ANNA, deleted, email_settings, posted, read, receive, user_changed

SETTINGS = email_settings("postgresql://unused")
ACCEPTED = Attempt(Outcome.ACCEPTED, Phase.END_OF_DATA, 250, "taken")
LATER = Attempt(Outcome.DEFERRED, Phase.RCPT, 450, "<anna@customer.test>: later")


async def states(sessions: SessionFactory) -> list[tuple[str, str | None]]:
    async with sessions() as session:
        rows = await session.execute(select(Email.state, Email.reason).order_by(Email.id))
        return [(row.state, row.reason) for row in rows]


async def waits(sessions: SessionFactory) -> bool:
    """Return whether a session waits for a lock."""
    async with sessions() as session:
        query = text(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        return bool(await session.scalar(query))


async def notification_ids(sessions: SessionFactory) -> Sequence[UUID]:
    async with sessions() as session:
        return (await session.scalars(select(Notification.id).order_by(Notification.number))).all()


async def test_a_message_that_joins_an_email_while_another_is_dismissed_is_still_emailed(
    notifications: SessionFactory,
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1))
    [first] = await notification_ids(notifications)

    async def dismiss() -> None:
        async with transaction(notifications) as session:
            await read_notification(session, "anna", first, SETTINGS)

    async with transaction(notifications) as joining:
        await handle_events(joining, [posted(conversation, 2)], SETTINGS)
        dismissing = asyncio.create_task(dismiss())
        await eventually(lambda: waits(notifications))
    await dismissing

    assert await states(notifications) == [(EmailState.SCHEDULED, None)]


async def test_reading_all_and_reading_one_conversation_at_once_do_not_deadlock(notifications: SessionFactory) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, *(posted(conversation, number) for number in range(1, 21)))

    async def all_read() -> None:
        async with transaction(notifications) as session:
            await read_all_notifications(session, "anna", SETTINGS)

    async def this_read() -> None:
        async with transaction(notifications) as session:
            await handle_events(session, [read(conversation, 20)], SETTINGS)

    [first, *_] = await notification_ids(notifications)
    async with transaction(notifications) as holder:
        await holder.execute(select(Notification).where(Notification.id == first).with_for_update())
        both = [asyncio.create_task(work()) for work in (all_read, this_read)]
        await eventually(lambda: waits(notifications))
        # The session that waits for the first row has locked none of the others.
        others = select(Notification.id).where(Notification.id != first).with_for_update(nowait=True)
        assert len((await holder.scalars(others)).all()) == 19
    await asyncio.gather(*both)
    assert await states(notifications) == [(EmailState.CANCELLED, "read")]


async def test_a_late_acceptance_stops_the_second_holder_before_its_data(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        [first] = await claim_emails(session, SETTINGS) or []
        assert await begin_data(session, first)
        await session.execute(update(Email).values(lease_until=func.clock_timestamp() - timedelta(seconds=1)))
    async with transaction(notifications) as session:
        await release_expired(session, SETTINGS)
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp()))
        [second] = await claim_emails(session, SETTINGS) or []

    async with transaction(notifications) as session:
        await record_attempt(session, first, ACCEPTED, SETTINGS)

    async with transaction(notifications) as session:
        assert not await begin_data(session, second)
    assert await states(notifications) == [(EmailState.SENT, None)]


async def test_an_acceptance_during_an_erasure_waits_for_it_and_keeps_no_address(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []

    async def record() -> None:
        async with transaction(notifications) as session:
            await record_attempt(session, held, ACCEPTED, SETTINGS)

    async with transaction(notifications) as eraser:
        await eraser.execute(update(Email).values(mailbox=None))
        recording = asyncio.create_task(record())
        await eventually(lambda: waits(notifications))
    await recording
    assert await states(notifications) == [(EmailState.SENT, None)]
    async with notifications() as session:
        assert (await session.scalars(select(DeliveryAttempt.mailbox))).all() == [None]


async def test_a_pause_stops_a_claimed_email_before_its_data_and_it_is_scheduled_again(
    notifications: SessionFactory,
) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []
        await pause_sending(session)
    async with transaction(notifications) as session:
        assert not await begin_data(session, held)
        given_up = Attempt(Outcome.ABANDONED, Phase.DATA, None, "the lease was lost")
        await record_attempt(session, held, given_up, SETTINGS)
    assert await states(notifications) == [(EmailState.SCHEDULED, None)]


@pytest.mark.parametrize("ending", ["deleted", "user-deleted"])
async def test_a_deletion_during_data_prevents_a_retry(notifications: SessionFactory, ending: str) -> None:
    conversation = uuid4()
    gone = ANNA.model_copy(update={"version": 2, "name": None, "email": None, "deleted": True})
    await receive(notifications, SETTINGS, posted(conversation, 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []
        assert await begin_data(session, held)
    await receive(notifications, SETTINGS, deleted(conversation) if ending == "deleted" else user_changed(gone))
    async with transaction(notifications) as session:
        await record_attempt(session, held, LATER, SETTINGS)
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp()))
    async with transaction(notifications) as session:
        assert await claim_emails(session, SETTINGS) == []
    [(state, reason)] = await states(notifications)
    assert (state in {EmailState.CANCELLED, EmailState.SUPPRESSED}, reason) == (True, ending)


@pytest.mark.parametrize("ending", ["deleted", "user-deleted"])
async def test_a_failed_email_of_deleted_data_is_cancelled_and_erased(
    notifications: SessionFactory, ending: str
) -> None:
    conversation = uuid4()
    gone = ANNA.model_copy(update={"version": 2, "name": None, "email": None, "deleted": True})
    await receive(notifications, SETTINGS, posted(conversation, 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []
        refused = Attempt(Outcome.REJECTED, Phase.RCPT, 550, "<anna@customer.test>: unknown")
        await record_attempt(session, held, refused, SETTINGS)

    await receive(notifications, SETTINGS, deleted(conversation) if ending == "deleted" else user_changed(gone))

    assert await states(notifications) == [(EmailState.CANCELLED, ending)]
    async with transaction(notifications) as session:
        assert (await session.scalars(select(Email.content))).all() == [None]
        if ending == "user-deleted":
            assert (await session.scalars(select(DeliveryAttempt.reply))).all() == [""]
        with pytest.raises(Problem, match="Only failed and bounced emails"):
            await retry_email(session, held.id)


async def test_deleting_a_customer_with_the_id_support_does_not_cancel_the_support_emails(
    notifications: SessionFactory,
) -> None:
    settings = email_settings("postgresql://unused", support_email="desk@store.test")
    gone = ANNA.model_copy(update={"id": "support", "version": 2, "deleted": True})
    await receive(notifications, settings, posted(uuid4(), 1, by="customer"), user_changed(gone))
    assert await states(notifications) == [(EmailState.SCHEDULED, None)]


async def test_an_erased_name_is_in_no_rendered_email(notifications: SessionFactory) -> None:
    settings = email_settings("postgresql://unused", support_email="desk@store.test")
    gone = ANNA.model_copy(update={"version": 2, "name": None, "email": None, "deleted": True})
    await receive(notifications, settings, posted(uuid4(), 1, by="customer"))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, settings) or []
        await record_attempt(session, held, LATER, settings)
    assert b"Anna" in held.content
    await receive(notifications, settings, user_changed(gone))
    async with transaction(notifications) as session:
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp()))
        [again] = await claim_emails(session, settings) or []
    assert b"Anna" not in again.content
    assert b"Deleted customer" in again.content


async def test_a_retry_goes_to_the_customers_current_address(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []
        await record_attempt(session, held, LATER, SETTINGS)
    await receive(notifications, SETTINGS, user_changed(ANNA.model_copy(update={"version": 2, "email": "a@new.test"})))
    async with transaction(notifications) as session:
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp()))
        [again] = await claim_emails(session, SETTINGS) or []
    assert again.to_address == "a@new.test"
    assert b"a@new.test" in again.content
    assert b"anna@customer.test" not in again.content


async def test_an_email_that_is_rendered_again_has_the_same_content(notifications: SessionFactory) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1, body="First."), posted(conversation, 2))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []
        await record_attempt(session, held, LATER, SETTINGS)
    moved = user_changed(ANNA.model_copy(update={"version": 2, "email": "a@new.test"}))
    await receive(notifications, SETTINGS, read(conversation, 1), moved)
    async with transaction(notifications) as session:
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp()))
        [again] = await claim_emails(session, SETTINGS) or []
    assert again.to_address == "a@new.test"
    assert b"First." in again.content


async def test_a_message_from_a_clock_that_is_ahead_is_emailed_in_time(notifications: SessionFactory) -> None:
    ahead = datetime.now(UTC) + timedelta(days=1)
    await receive(notifications, SETTINGS, posted(uuid4(), 1, created_at=ahead))
    async with transaction(notifications) as session:
        assert len(await claim_emails(session, SETTINGS) or []) == 1


async def test_content_that_release_0_2_0_stores_is_discarded(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        await session.execute(update(Email).values(content=b"rendered", state=EmailState.SENDING))
    async with notifications() as session:
        assert (await session.execute(select(Email.state, Email.content))).one() == ("sending", None)


async def test_a_retry_after_another_email_about_the_conversation_sends_the_same_bytes(
    notifications: SessionFactory,
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1))
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []
        await record_attempt(session, held, LATER, SETTINGS)
    await receive(notifications, SETTINGS, posted(conversation, 2))
    async with transaction(notifications) as session:
        [later] = await claim_emails(session, SETTINGS) or []
        await record_attempt(session, later, ACCEPTED, SETTINGS)
        await session.execute(update(Email).where(Email.id == held.id).values(next_attempt_at=func.clock_timestamp()))
        [again] = await claim_emails(session, SETTINGS) or []
    assert (again.id, again.content) == (held.id, held.content)


async def test_claiming_continues_after_a_batch_without_sendable_emails(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    async with transaction(notifications) as session:
        assert await claim_emails(session, email_settings("postgresql://unused", smtp_url=None)) == []
        assert await claim_emails(session, SETTINGS) is None


class PanicException(BaseException):
    """An error from a Rust library, which is not an `Exception`."""


@pytest.mark.parametrize("error", [KeyError, PanicException])
async def test_an_email_that_cannot_be_rendered_delays_no_other_and_ends_as_failed(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    settings = email_settings("postgresql://unused", email_retry_seconds="259200")
    await receive(notifications, settings, posted(uuid4(), 1, body="Bad."), posted(uuid4(), 1, body="Good."))

    def stumble(email: Email, batch: EmailBatch, *more: Any) -> RenderedEmail:
        if batch.messages[0].body == "Bad.":
            raise error
        return render_email(email, batch, *more)

    monkeypatch.setattr(claiming, "render_email", stumble)
    async with transaction(notifications) as session:
        [email] = await claim_emails(session, settings) or []
    assert b"Good." in email.content
    assert [state for state, _ in await states(notifications)] == [EmailState.SCHEDULED, EmailState.SENDING]
    async with transaction(notifications) as session:
        assert await claim_emails(session, settings) is None
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp()))
        assert await claim_emails(session, settings) == []
        tries = (
            await session.execute(select(DeliveryAttempt.outcome, DeliveryAttempt.phase, DeliveryAttempt.reply))
        ).all()
    assert (await states(notifications))[0] == (EmailState.FAILED, "gave-up")
    assert tries == [("deferred", "compose", f"not rendered: {error.__name__}")] * 2


async def test_a_retry_of_an_email_that_a_restore_failed_does_not_join_an_open_one(
    notifications: SessionFactory,
) -> None:
    conversation = uuid4()
    await receive(notifications, SETTINGS, posted(conversation, 1, body="Old."))
    async with transaction(notifications) as session:
        every, reason = Email.state == EmailState.SCHEDULED, {"reason": Reason.RESTORED}
        [failed] = await move_emails(session, every, EmailState.FAILED, reason, leaving=(EmailState.SCHEDULED,))
    await receive(notifications, SETTINGS, posted(conversation, 2, body="New."))

    async with transaction(notifications) as session:
        await retry_email(session, failed)
    await receive(notifications, SETTINGS, posted(conversation, 3, body="Newest."))

    async with transaction(notifications) as session:
        contents = [email.content for email in await claim_emails(session, SETTINGS) or []]
    words = (b"Old.", b"New.", b"Newest.")
    assert sorted([word in content for word in words] for content in contents) == [
        [False, True, True],
        [True, False, False],
    ]


async def test_an_email_keeps_its_message_id_when_it_is_rendered_again_for_another_sender(
    notifications: SessionFactory,
) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1))
    identity = select(Email.message_id)
    async with transaction(notifications) as session:
        [held] = await claim_emails(session, SETTINGS) or []
        before = await session.scalar(identity)
        await record_attempt(session, held, LATER, SETTINGS)
        await session.execute(update(Email).values(next_attempt_at=func.clock_timestamp(), content=None))
    async with transaction(notifications) as session:
        assert await claim_emails(session, email_settings("postgresql://unused", email_from="a@other.test"))
        assert await session.scalar(identity) == before


async def test_a_manual_retry_that_fails_leaves_the_event_parked(notifications: SessionFactory) -> None:
    unknown = posted(uuid4(), 1).model_copy(update={"type": "message.sung"})
    await receive_events(notifications, [unknown], SETTINGS, repeated=False)
    with pytest.raises(Problem, match="unknown type"):
        async with transaction(notifications) as session:
            await retry_parked(session, unknown.id, SETTINGS)
    async with transaction(notifications) as session:
        assert (await session.get_one(InboxEntry, unknown.id)).parked_at is not None
        await session.execute(update(InboxEntry).values(event={"id": "?"}))
        with pytest.raises(Problem, match="no longer available"):
            await retry_parked(session, unknown.id, SETTINGS)
        with pytest.raises(Problem, match="no parked event"):
            await retry_parked(session, uuid4(), SETTINGS)


async def test_a_deleted_users_name_and_address_are_erased_from_parked_events(notifications: SessionFactory) -> None:
    unknown = posted(uuid4(), 1).model_copy(update={"type": "message.sung"})
    await receive_events(notifications, [unknown], SETTINGS, repeated=False)
    gone = ANNA.model_copy(update={"version": 2, "name": None, "email": None, "deleted": True})
    await receive(notifications, SETTINGS, user_changed(gone))
    async with notifications() as session:
        kept = (await session.get_one(InboxEntry, unknown.id)).event
    assert kept is not None
    assert kept["payload"]["customer"] == {"id": "anna", "version": 0, "deleted": True}
    assert kept["payload"]["message"]["body"] == "Here it is."
