"""Events may arrive twice, late, in any order, or broken; each takes effect once, or is parked."""

import asyncio
from datetime import timedelta
from itertools import permutations
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx2
import pytest
from celery.signals import task_unknown
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.notifications.delivery.claiming import claim_emails
from services.notifications.event_consumer import consumer
from services.notifications.event_consumer.consumer import find_missing, receive_events, receive_missing
from services.notifications.event_consumer.handlers import handle_events
from services.notifications.event_consumer.parked import (
    discard_parked,
    list_parked,
    request_retry,
    retry_parked,
    retry_requested,
    retry_unknown,
)
from services.notifications.models import ConversationState, Email, EmailMessage, InboxEntry, Notification, Person
from services.notifications.rules import MAX_EVENT_ATTEMPTS, EmailState
from services.notifications.settings import EmailSettings
from services.notifications.tasks import register_tasks
from shared.broker.celery_app import create_celery
from shared.database.transactions import SessionFactory, transaction
from shared.events import Event, EventType
from tests.service.conftest import As
from tests.service.helpers.attempt_factory import begin_data
from tests.service.helpers.event_factory import (
    ANNA,
    deleted,
    email_settings,
    event,
    posted,
    read,
    receive,
    removed,
    user_changed,
)

URL = "postgresql://unused"


async def counts(sessions: SessionFactory) -> tuple[int, int]:
    async with sessions() as session:
        return (
            (await session.execute(select(func.count()).select_from(Notification))).scalar_one(),
            (await session.execute(select(func.count()).select_from(EmailMessage))).scalar_one(),
        )


async def test_an_admins_message_makes_one_notification_and_one_email(
    notifications: SessionFactory, notifications_api: httpx2.AsyncClient, acting_as: As
) -> None:
    conversation = uuid4()
    await receive(notifications, email_settings(URL), posted(conversation, 1, body="Here\nit is."))

    page = (await notifications_api.get("/api/v1/notifications", headers=acting_as("anna"))).json()

    assert page["next_cursor"] is None
    [record] = page["items"]
    assert record["type"] == "NEW_MESSAGE"
    assert record["conversation_id"] == str(conversation)
    assert (record["subject"], record["sender_name"], record["preview"], record["is_read"]) == (
        "Where is my parcel?",
        "Sam",
        "Here it is.",
        False,
    )


async def test_a_customers_message_makes_no_notification(notifications: SessionFactory) -> None:
    await receive(notifications, email_settings(URL), posted(uuid4(), 1, by="customer"))
    assert await counts(notifications) == (0, 0)


async def test_a_customers_message_makes_an_email_to_the_support_mailbox_if_set(
    notifications: SessionFactory,
) -> None:
    settings = email_settings(URL, support_email="desk@store.test")
    await receive(notifications, settings, posted(uuid4(), 1, by="customer"))
    assert await counts(notifications) == (0, 1)


@pytest.mark.parametrize("repeated", [False, True])
async def test_an_event_takes_effect_once_even_if_it_arrives_often_and_concurrently(
    notifications: SessionFactory, *, repeated: bool
) -> None:
    settings, message = email_settings(URL), posted(uuid4(), 1)

    await asyncio.gather(*(receive_events(notifications, [message], settings, repeated=repeated) for _ in range(8)))
    await receive_events(notifications, [message], settings, repeated=True)

    assert await counts(notifications) == (1, 1)


async def state_of(sessions: SessionFactory, conversation: UUID) -> object:
    """Return the content of the tables without the rows' own ids and times."""
    async with sessions() as session:
        records = await session.execute(
            select(Notification.message_id, Notification.read_at.is_not(None)).order_by(Notification.number)
        )
        emails = await session.execute(
            select(EmailMessage.message_id, Email.state, Email.reason)
            .join(Email, Email.id == EmailMessage.email_id)
            .order_by(EmailMessage.number)
        )
        people = await session.execute(select(Person.id, Person.email, Person.version).order_by(Person.id))
        mark = await session.get(ConversationState, conversation)
        return (
            [tuple(row) for row in records],
            [tuple(row) for row in emails],
            [tuple(row) for row in people],
            (mark.read_by_user_number, mark.deleted_at is not None) if mark else None,
        )


async def wipe(sessions: SessionFactory) -> None:
    async with transaction(sessions) as session:
        for table in (EmailMessage, Email, Notification, ConversationState, Person, InboxEntry):
            await session.execute(table.__table__.delete())  # type: ignore[attr-defined]


@pytest.mark.parametrize("last", ["read", "deleted"])
async def test_the_order_of_events_does_not_matter(notifications: SessionFactory, last: str) -> None:
    conversation, settings = uuid4(), email_settings(URL, email_delay_seconds=3600)
    moved = ANNA.model_copy(update={"version": 2, "email": "anna@new.test"})
    ending = read(conversation, 2) if last == "read" else deleted(conversation)
    events = [posted(conversation, 1), posted(conversation, 2), ending, user_changed(moved)]

    outcomes = []
    for order in permutations(events):
        await receive(notifications, settings, *order)
        outcomes.append(await state_of(notifications, conversation))
        await wipe(notifications)

    assert all(outcome == outcomes[0] for outcome in outcomes)


async def test_a_removed_message_has_no_effect_in_whatever_order_the_events_arrive(
    notifications: SessionFactory,
) -> None:
    conversation, settings = uuid4(), email_settings(URL, email_delay_seconds=3600)
    kept, mistake = posted(conversation, 1, body="Kept"), posted(conversation, 2, body="By mistake")
    for order in permutations([kept, mistake, removed(mistake)]):
        await receive(notifications, settings, *order)
        async with notifications() as session:
            assert (await session.scalars(select(Notification.preview))).all() == ["Kept"]
            bodies = await session.scalars(select(EmailMessage.body).where(EmailMessage.left_out.is_(False)))
            assert bodies.all() == ["Kept"]
            assert "By mistake" not in (await session.scalars(select(EmailMessage.body))).all()
            states = (await session.scalars(select(Email.state))).all()
            assert states.count(EmailState.SCHEDULED) == 1  # one may have been cancelled
        await wipe(notifications)


async def test_the_email_of_a_removed_message_is_cancelled(notifications: SessionFactory) -> None:
    conversation, settings = uuid4(), email_settings(URL, email_delay_seconds=3600)
    message = posted(conversation, 1)
    await receive(notifications, settings, message, removed(message), removed(message))
    async with notifications() as session:
        assert (await session.execute(select(Email.state, Email.reason))).all() == [("cancelled", "deleted")]
    await receive(notifications, settings, posted(conversation, 2))
    async with notifications() as session:
        states = await session.scalars(select(Email.state).order_by(Email.id))
        assert states.all() == ["cancelled", "scheduled"]


async def test_a_message_that_arrives_after_the_deletion_leaves_nothing(notifications: SessionFactory) -> None:
    conversation = uuid4()
    await receive(notifications, email_settings(URL), deleted(conversation), posted(conversation, 1))
    assert await counts(notifications) == (0, 0)


async def test_an_older_version_of_a_user_changes_nothing(notifications: SessionFactory) -> None:
    newest = ANNA.model_copy(update={"version": 3, "email": "anna@new.test"})
    await receive(notifications, email_settings(URL), user_changed(newest), posted(uuid4(), 1, customer=ANNA))
    async with notifications() as session:
        assert (await session.get_one(Person, "anna")).email == "anna@new.test"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (event(EventType.MESSAGE_POSTED, None, version=2), "unknown version 2"),
        (posted(uuid4(), 1).model_copy(update={"type": "message.sung"}), "unknown type"),
        (posted(uuid4(), 1).model_copy(update={"payload": {"subject": 1}}), "invalid payload"),
    ],
)
async def test_an_invalid_event_is_parked_and_others_are_handled(
    notifications: SessionFactory, broken: Event, reason: str
) -> None:
    settings = email_settings(URL)

    assert await receive_events(notifications, [broken], settings, repeated=True)

    async with notifications() as session:
        [entry] = await list_parked(session)
        assert await find_missing(session, [broken]) == []
    assert entry.event_id == broken.id
    assert (entry.reason or "").startswith(reason)
    assert await counts(notifications) == (0, 0)


async def test_an_event_of_a_task_unknown_to_this_worker_can_be_retried_by_a_newer_one(
    notifications: SessionFactory, databases: dict[str, str]
) -> None:
    settings = email_settings(databases["notifications"])
    register_tasks(create_celery("memory://", client="tests"), settings)
    newer = posted(uuid4(), 1)
    for name, payload in (("sung", ([newer.model_dump(mode="json")], {}, {})), ("of-no-shape", None)):
        event_id = newer.id if payload else uuid4()
        failure = {"name": f"notifications.{name}", "id": str(event_id), "message": SimpleNamespace(payload=payload)}
        await asyncio.to_thread(task_unknown.send, sender=None, exc=None, **failure)

    async with transaction(notifications) as session:
        assert [entry.reason for entry in await list_parked(session)] == ["unknown task"] * 2
        await retry_parked(session, newer.id, settings)
        [nonsense] = await list_parked(session)
        await discard_parked(session, nonsense.event_id)
        assert await list_parked(session) == []
    assert await counts(notifications) == (1, 1)


async def test_the_sweeper_handles_what_an_operator_asks_for_and_says_what_fails_again(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, message = email_settings(URL), posted(uuid4(), 1)
    future = message.model_copy(update={"id": uuid4(), "type": "message.sung"})
    with monkeypatch.context() as before:
        before.setattr(consumer, "PAYLOADS", {})
        await receive(notifications, settings, message, future)
    async with transaction(notifications) as session:
        await request_retry(session, message.id)
        await request_retry(session, future.id)

    for _ in range(2):
        await retry_requested(notifications, settings)

    async with notifications() as session:
        [left] = await list_parked(session)
    assert (left.event_id, left.reason) == (future.id, "This event still cannot be handled: unknown type.")
    assert await counts(notifications) == (1, 1)


async def test_a_new_release_handles_what_the_one_before_did_not_know(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, message = email_settings(URL), posted(uuid4(), 1)
    note = event(EventType.NOTE_POSTED, None)
    future = message.model_copy(update={"id": uuid4(), "type": "message.sung"})
    with monkeypatch.context() as before:
        before.setattr(consumer, "PAYLOADS", {})
        await receive(notifications, settings, message, note, future)
    async with notifications() as session:
        assert len(await list_parked(session)) == 3

    for _ in range(2):
        await retry_unknown(notifications, settings)

    async with notifications() as session:
        assert [entry.event_id for entry in await list_parked(session)] == [future.id]
    assert await counts(notifications) == (1, 1)


async def test_an_event_that_crashes_its_process_is_parked_after_five_attempts(
    notifications: SessionFactory,
) -> None:
    message = posted(uuid4(), 1)
    async with transaction(notifications) as session:
        # The state after attempts that were counted and then killed.
        session.add(InboxEntry(event_id=message.id, type=message.type, attempts=MAX_EVENT_ATTEMPTS))

    assert await receive_events(notifications, [message], email_settings(URL), repeated=True)

    async with notifications() as session:
        [entry] = await list_parked(session)
    assert entry.reason == "failed 5 times"
    assert await counts(notifications) == (0, 0)

    async with transaction(notifications) as session:
        await retry_parked(session, message.id, email_settings(URL))
    assert await counts(notifications) == (1, 1)
    async with notifications() as session:
        assert await list_parked(session) == []
        assert (await session.get_one(InboxEntry, message.id)).event is None


async def test_concurrent_deliveries_count_as_one_attempt(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, settings = posted(uuid4(), 1), email_settings(URL)

    async def fail(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as failing:
        failing.setattr(consumer, "handle_events", fail)
        deliveries = [receive_events(notifications, [message], settings, repeated=True) for _ in range(12)]
        await asyncio.gather(*deliveries, return_exceptions=True)

    async with notifications() as session:
        assert await list_parked(session) == []
        assert (await session.get_one(InboxEntry, message.id)).attempts == 1


async def test_a_database_outage_counts_as_no_attempt(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, settings = posted(uuid4(), 1), email_settings(URL)

    async def fail(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(consumer, "handle_events", fail)
    for _ in range(MAX_EVENT_ATTEMPTS + 1):
        with pytest.raises(ConnectionResetError):
            await receive_events(notifications, [message], settings, repeated=True)
        with pytest.raises(ConnectionResetError):
            await receive_missing(notifications, [message], settings)

    async with notifications() as session:
        assert (await session.get_one(InboxEntry, message.id)).attempts == 0


async def test_a_deletion_known_from_a_later_message_also_erases(notifications: SessionFactory) -> None:
    settings, conversation = email_settings(URL, email_delay_seconds=3600), uuid4()
    gone = ANNA.model_copy(update={"version": 2, "name": None, "email": None, "deleted": True})

    await receive(notifications, settings, posted(conversation, 1), posted(conversation, 2, customer=gone))
    await receive(notifications, settings, user_changed(gone))

    async with notifications() as session:
        emails = (await session.execute(select(Email.state, Email.reason).order_by(Email.id))).all()
    assert [tuple(email) for email in emails] == [(EmailState.CANCELLED, "user-deleted")]


async def test_many_events_together_have_the_same_effect_as_one_by_one(notifications: SessionFactory) -> None:
    conversation, other, settings = uuid4(), uuid4(), email_settings(URL, email_delay_seconds=3600)
    moved = ANNA.model_copy(update={"version": 2, "email": "anna@new.test"})
    events = [
        *(posted(conversation, number) for number in range(1, 6)),
        posted(conversation, 6, by="customer"),
        read(conversation, 2),
        posted(other, 1),
        deleted(other),
        user_changed(moved),
    ]
    await receive(notifications, settings, *events)
    one_by_one = await state_of(notifications, conversation)
    await wipe(notifications)

    assert await receive_missing(notifications, events[::-1], settings)

    assert await state_of(notifications, conversation) == one_by_one
    async with notifications() as session:
        assert await find_missing(session, events) == []


async def test_one_failing_event_of_a_batch_does_not_hold_up_the_others(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, settings = [posted(uuid4(), 1) for _ in range(5)], email_settings(URL)

    async def fail(session: AsyncSession, taken: list[Event], settings: EmailSettings) -> None:
        if events[2] in taken:
            raise RuntimeError
        await handle_events(session, taken, settings)

    monkeypatch.setattr(consumer, "handle_events", fail)
    monkeypatch.setattr(consumer, "ATTEMPT_SPACING", timedelta(0))
    for attempt in range(1, MAX_EVENT_ATTEMPTS + 1):
        with pytest.raises(RuntimeError):
            await receive_missing(notifications, events, settings)
        async with notifications() as session:
            assert await find_missing(session, events) == [events[2]]
            assert (await session.get_one(InboxEntry, events[2].id)).attempts == attempt

    assert await receive_missing(notifications, events, settings)
    async with notifications() as session:
        assert [entry.event_id for entry in await list_parked(session)] == [events[2].id]


@pytest.mark.parametrize("repeated", [False, True])
async def test_each_event_of_a_task_takes_effect_even_if_others_fail(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    settings, (bad, broken, *good) = email_settings(URL), [posted(uuid4(), 1) for _ in range(5)]
    broken = broken.model_copy(update={"payload": {"subject": 1}})

    async def fail(session: AsyncSession, taken: list[Event], settings: EmailSettings) -> None:
        if bad in taken:
            raise RuntimeError
        await handle_events(session, taken, settings)

    monkeypatch.setattr(consumer, "handle_events", fail)
    with pytest.raises(RuntimeError):
        await receive_events(notifications, [*good, bad, broken, *good], settings, repeated=repeated)

    assert await counts(notifications) == (len(good), len(good))
    async with notifications() as session:
        assert [entry.event_id for entry in await list_parked(session)] == [broken.id]
        assert await find_missing(session, [bad, broken, *good]) == [bad]


async def test_an_event_that_may_have_crashed_a_process_is_handled_alone_and_after_the_others(
    notifications: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, settings = [posted(uuid4(), 1) for _ in range(4)], email_settings(URL)
    async with transaction(notifications) as session:
        for suspect, attempts in ((events[0], 3), (events[1], 2)):
            session.add(InboxEntry(event_id=suspect.id, type=suspect.type, attempts=attempts))
    batches: list[list[int]] = []

    async def record_batch(session: AsyncSession, taken: list[Event], settings: EmailSettings) -> None:
        batches.append([events.index(handled) for handled in taken])
        await handle_events(session, taken, settings)

    monkeypatch.setattr(consumer, "handle_events", record_batch)
    assert await receive_missing(notifications, events, settings)

    assert batches == [[2, 3], [1], [0]]


async def test_after_a_failed_attempt_the_event_can_be_received_again(notifications: SessionFactory) -> None:
    message = posted(uuid4(), 1)
    async with transaction(notifications) as session:
        session.add(InboxEntry(event_id=message.id, type=message.type, attempts=1))

    assert await receive_events(notifications, [message], email_settings(URL), repeated=True)

    assert await counts(notifications) == (1, 1)


async def test_an_erased_event_has_no_effect(notifications: SessionFactory) -> None:
    assert await receive_events(
        notifications, [event(EventType.MESSAGE_POSTED, None)], email_settings(URL), repeated=True
    )
    assert await counts(notifications) == (0, 0)


async def test_deleting_a_user_erases_them_and_cancels_their_emails(notifications: SessionFactory) -> None:
    settings = email_settings(URL, email_delay_seconds=3600)
    gone = ANNA.model_copy(update={"version": 2, "name": None, "email": None, "deleted": True})

    await receive(notifications, settings, posted(uuid4(), 1), user_changed(gone), posted(uuid4(), 1))

    async with notifications() as session:
        states = (await session.execute(select(Email.state, Email.reason).order_by(Email.id))).all()
        person = await session.get_one(Person, "anna")
    assert [tuple(row) for row in states] == [
        (EmailState.CANCELLED, "user-deleted"),
        (EmailState.SUPPRESSED, "user-deleted"),
    ]
    assert (person.name, person.email) == (None, None)


async def test_an_email_rendered_with_a_removed_message_is_rendered_again(
    notifications: SessionFactory,
) -> None:
    conversation, settings = uuid4(), email_settings(URL)
    kept, mistake = posted(conversation, 1, body="Kept"), posted(conversation, 2, body="By mistake")
    await receive(notifications, settings, kept, mistake)
    async with transaction(notifications) as session:
        [claimed] = await claim_emails(session, settings) or []
    assert b"By mistake" in claimed.content
    await receive(notifications, settings, removed(mistake))
    async with transaction(notifications) as session:
        assert not await begin_data(session, claimed)  # its sender finds the lease gone
    async with transaction(notifications) as session:
        [again] = await claim_emails(session, settings) or []
    assert b"Kept" in again.content
    assert b"By mistake" not in again.content
