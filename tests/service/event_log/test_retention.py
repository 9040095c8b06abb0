"""Data with limited retention, and the exceptions that are still needed."""

from uuid import UUID, uuid4

from sqlalchemy import func, select, text

from services.conversations.event_log import retention as log_retention
from services.conversations.models import CreateKey, LoggedEvent
from services.conversations.settings import StoreSettings as LogSettings
from services.notifications import retention
from services.notifications.models import DeliveryAttempt, Email, InboxEntry
from shared.database.transactions import SessionFactory, transaction
from shared.event_log.retention import oldest_age
from tests.service.helpers.callers import Caller, problem
from tests.service.helpers.event_factory import email_settings, posted, receive
from tests.service.helpers.sweeping import Sweeper, answer

LOG_SETTINGS = LogSettings(conversations_database_url="postgresql://unused")
SETTINGS = email_settings("postgresql://unused")


async def age(sessions: SessionFactory, days: int, up_to: int) -> None:
    """Make the log up to a position appear this old."""
    async with transaction(sessions) as session:
        await session.execute(
            text(
                "update events set numbered_at = clock_timestamp() - make_interval(secs => :age) where position <= :p"
            ),
            {"age": days * 86400, "p": up_to},
        )


async def purge(sessions: SessionFactory, size: int = 1000) -> int:
    async with transaction(sessions) as session:
        return await log_retention.purge_events(session, LOG_SETTINGS, size=size)


async def positions(sessions: SessionFactory) -> list[int | None]:
    async with sessions() as session:
        return list(await session.scalars(select(LoggedEvent.position).order_by(LoggedEvent.position)))


async def test_old_and_read_events_are_purged_in_batches_and_others_stay(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam, times=9)
    head = await sweeping.number()
    await sweeping.catch_up_fully()
    await sweeping.catch_up()
    await age(sweeping.conversations, 31, up_to=head - 2)

    batches = [await purge(sweeping.conversations, size=3) for _ in range(4)]

    assert batches == [3, 3, 2, 0]
    assert await positions(sweeping.conversations) == [head - 1, head]
    assert (await sweeping.catch_up()) is False  # the reader's position still exists


async def test_old_unread_events_stay_up_to_the_maximum_age(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam, times=4)
    head = await sweeping.number()
    await age(sweeping.conversations, 89, up_to=head)
    assert await purge(sweeping.conversations) == 0  # no reader has come yet
    await sweeping.feed.get("/internal/events", params={"after": 2, "reader": "notifications"})
    assert await purge(sweeping.conversations) == 2
    async with sweeping.conversations() as session:
        assert 88 < await oldest_age(session) / 86400 < 90

    await age(sweeping.conversations, 91, up_to=head - 1)
    assert await purge(sweeping.conversations) == head - 3

    assert await positions(sweeping.conversations) == [head]
    purged = await sweeping.feed.get("/internal/events", params={"after": head - 2})
    assert problem(purged) == (410, "events-purged")
    await sweeping.catch_up_fully()
    assert await sweeping.records() == [1, 2, 3, 4]


async def test_the_end_of_a_completely_purged_log_is_still_a_valid_position(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam)
    head = await sweeping.number()
    await sweeping.catch_up_fully()
    await sweeping.catch_up()
    await age(sweeping.conversations, 31, up_to=head)
    assert await purge(sweeping.conversations) == head

    at_end = await sweeping.feed.get("/internal/events", params={"after": head})
    before = await sweeping.feed.get("/internal/events", params={"after": head - 1})
    assert (at_end.status_code, at_end.json()["items"], before.status_code) == (200, [], 410)

    await answer(anna, sam)
    assert await sweeping.number() == head + 2
    await sweeping.catch_up_fully()
    assert await sweeping.records() == [1, 1]
    assert (await sweeping.cursor()).rebuild_reason is None


async def test_unnumbered_events_are_never_purged(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam)
    await age(sweeping.conversations, 400, up_to=0)
    assert await purge(sweeping.conversations) == 0
    assert await positions(sweeping.conversations) == [None, None]


async def test_old_idempotency_keys_of_created_conversations_are_purged(
    anna: Caller, conversations: SessionFactory
) -> None:
    await anna.open(key="old")
    async with transaction(conversations) as session:
        await session.execute(text("update create_keys set created_at = clock_timestamp() - interval '31 days'"))
    await anna.open(key="young")
    async with transaction(conversations) as session:
        assert await log_retention.purge_keys(session, LOG_SETTINGS, size=10) == 1
        assert [key.rpartition(":")[2] for key in await session.scalars(select(CreateKey.key))] == ["young"]


async def test_old_handled_inbox_entries_are_purged_once_the_cursor_is_past_them(notifications: SessionFactory) -> None:
    old, young, parked = posted(uuid4(), 1), posted(uuid4(), 1), posted(uuid4(), 1)
    await receive(notifications, SETTINGS, old, young)

    async def purge_inbox() -> int:
        async with transaction(notifications) as session:
            return await retention.purge_inbox(session, SETTINGS, size=10)

    async with transaction(notifications) as session:
        session.add(InboxEntry(event_id=parked.id, type=parked.type, parked_at=func.now(), reason="unknown"))
        await session.flush()
        await session.execute(
            text("""
                update inbox set received_at = clock_timestamp() - interval '31 days',
                    event_id = case when handled_at is null then event_id else uuidv7(interval '-31 days') end
                where event_id <> :young
            """),
            {"young": young.id},
        )
    assert await purge_inbox() == 0  # never caught up: the log may repeat any event
    async with transaction(notifications) as session:
        await session.execute(text("update feed_cursor set caught_up_at = clock_timestamp() - interval '40 days'"))
    assert await purge_inbox() == 0
    async with transaction(notifications) as session:
        await session.execute(text("update feed_cursor set caught_up_at = clock_timestamp()"))
    assert await purge_inbox() == 1

    async with notifications() as session:
        assert set(await session.scalars(select(InboxEntry.event_id))) == {young.id, parked.id}


async def test_an_event_repeated_after_its_inbox_entry_was_purged_makes_nothing_twice(
    notifications: SessionFactory,
) -> None:
    settings = email_settings("postgresql://unused", support_email="desk@store.test")
    events = [posted(uuid4(), 1), posted(uuid4(), 1, by="customer")]
    await receive(notifications, settings, *events)
    async with transaction(notifications) as session:
        await session.execute(text("delete from inbox"))

    await receive(notifications, settings, *events)

    async with notifications() as session:
        assert await session.scalar(select(func.count()).select_from(Email)) == 2


async def test_old_attempts_of_finished_emails_are_purged(notifications: SessionFactory) -> None:
    await receive(notifications, SETTINGS, posted(uuid4(), 1), posted(uuid4(), 1))
    async with transaction(notifications) as session:
        finished, waiting = (await session.scalars(select(Email).order_by(Email.id))).all()
        finished.finished_at = func.clock_timestamp()
        for email in (finished, waiting):
            for days in (-31, -1):
                await session.execute(_ADD_TRY, {"email": email.id, "ago": days})
        assert await retention.purge_attempts(session, SETTINGS, size=10) == 1
        left: list[UUID] = list(await session.scalars(select(DeliveryAttempt.email_id)))
        assert (left.count(finished.id), left.count(waiting.id)) == (1, 2)


_ADD_TRY = text("""
    insert into email_tries (id, email_id, outcome, phase, reply, process)
    values (uuidv7(make_interval(days => :ago)), :email, 'deferred', 'rcpt', '', 'a test')
""")


async def test_fractions_of_a_day_are_respected(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam, times=2)
    head = await sweeping.number()
    await sweeping.catch_up_fully()
    settings = LOG_SETTINGS.model_copy(update={"retention_days": 0.5, "retention_cap_days": 0.5})
    for hours, purged in ((11, 0), (13, head)):
        aged = text("update events set numbered_at = clock_timestamp() - make_interval(hours => :hours)")
        async with transaction(sweeping.conversations) as session:
            await session.execute(aged, {"hours": hours})
            await session.execute(text("update feed_readers set position = :head"), {"head": head})
            assert await log_retention.purge_events(session, settings, size=1000) == purged
