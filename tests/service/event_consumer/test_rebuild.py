"""Rebuilds after the log or this service's database was restored from a backup, or the log purged past the cursor."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from services.conversations.event_log.sequencer import number_events
from services.notifications import sweeper
from services.notifications.delivery.circuit_breaker import read_sending_state
from services.notifications.delivery.claiming import claim_emails
from services.notifications.delivery.operations import retry_email
from services.notifications.event_consumer import handlers
from services.notifications.event_consumer.consumer import park_event, receive_events
from services.notifications.event_consumer.feed_client import read_events
from services.notifications.event_consumer.parked import list_parked, retry_parked
from services.notifications.event_consumer.rebuild import hold_emails, release_restore_hold
from services.notifications.metrics import read_state
from services.notifications.models import (
    ConversationState,
    Email,
    EmailMessage,
    FeedCursor,
    Notification,
    Person,
    SendingControl,
)
from shared.database.engine import create_engine
from shared.database.transactions import SessionFactory, create_sessions, transaction, transaction_driver
from shared.event_log.sequencer import rotate_epoch
from shared.text import preview
from tests.service.helpers.attempt_factory import has_due_email
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import posted
from tests.service.helpers.sweeping import Sweeper, answer

STORE = ("users", "conversations", "conversation_entries", "messages", "events", "feed", "feed_readers")
TABLES = ("people", "marks", "notifications", "emails", "email_messages", "inbox", "feed_cursor", "gate")


@asynccontextmanager
async def restored_afterwards(url: str, *tables: str) -> AsyncIterator[None]:
    """Back up tables as their owner, and restore them at the end: what happens in between is lost."""
    engine = create_engine(url, application="tests", pool_size=1)
    sessions = create_sessions(engine)
    async with transaction(sessions) as session:
        for table in tables:
            await session.execute(text(f"create table backup_{table} as table {table}"))
    yield
    async with transaction(sessions) as session:
        for table in reversed(tables):
            await session.execute(text(f"delete from {table}"))  # noqa: S608 - our own tables
        for table in tables:
            names = ", ".join((await session.scalars(_WRITTEN, {"name": table})).all())
            back = f"insert into {table} ({names}) overriding system value select {names} from backup_{table}"  # noqa: S608 - our own tables
            await session.execute(text(back))
            await session.execute(text(f"drop table backup_{table}"))
    await engine.dispose()


_WRITTEN = text("""
    select column_name from information_schema.columns where table_name = :name and is_generated = 'NEVER'
""")


async def emails_in(sessions: SessionFactory) -> list[tuple[str, str | None, list[int]]]:
    """Return every email as its state, its reason and the numbers of its messages."""
    async with sessions() as session:
        found = await session.execute(
            select(Email.state, Email.reason, func.array_agg(EmailMessage.number))
            .join(EmailMessage, EmailMessage.email_id == Email.id)
            .group_by(Email.id)
            .order_by(func.min(EmailMessage.created_at), Email.id)
        )
        return [(state, reason, sorted(numbers)) for state, reason, numbers in found.all()]


async def unread(sessions: SessionFactory) -> list[int]:
    async with sessions() as session:
        which = select(Notification.number).where(Notification.read_at.is_(None)).order_by(Notification.number)
        return list(await session.scalars(which))


async def purge_log(sweeping: Sweeper) -> None:
    async with transaction(sweeping.conversations) as session:
        await session.execute(text("delete from events"))


async def test_a_cursor_before_the_purged_part_of_the_log_rebuilds_from_the_snapshot(
    sweeping: Sweeper, anna: Caller, sam: Caller, ben: Caller, shop: Caller
) -> None:
    known = await answer(anna, sam, times=2)
    gone = await answer(ben, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    # The following changes are never read from the log.
    await anna.call("POST", f"/conversations/{known}/read", {"up_to": 1})
    await sam.post(known)
    fresh = await answer(anna, sam)
    await sam.edit(gone, status="CLOSED")
    await sam.call("DELETE", f"/conversations/{gone}")
    await shop.call("PUT", "/users/anna", {"email": "anna@new.test"})
    await sweeping.number()
    await purge_log(sweeping)

    await sweeping.catch_up_fully()

    async with sweeping.notifications() as session:
        records = await session.execute(select(Notification.conversation_id, Notification.number))
        assert sorted((str(row[0]), row[1]) for row in records) == sorted(
            [(known, 1), (known, 2), (known, 3), (fresh, 1)]
        )
        assert (await session.get_one(Person, "anna")).email == "anna@new.test"
        assert (await session.get_one(ConversationState, UUID(gone))).deleted_at is not None
        state = await read_state(session)
    assert await unread(sweeping.notifications) == [1, 2, 3]
    assert await emails_in(sweeping.notifications) == [("scheduled", None, [1, 2, 3]), ("scheduled", None, [1])]
    assert (state.rebuild_kind, state.rebuild_reason) == (
        None,
        "events after this service's position were purged",
    )
    assert state.rebuilt_at is not None
    await sam.post(known)
    await sweeping.number()
    await sweeping.catch_up_fully()
    assert await unread(sweeping.notifications) == [1, 2, 3, 4]


async def test_a_new_service_learns_the_present_state_of_an_old_store(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam, times=2)
    await sweeping.number()
    await purge_log(sweeping)
    await sweeping.catch_up_fully()
    assert await sweeping.records() == [1, 2]


async def test_after_a_log_restore_lost_changes_are_undone_and_new_ones_kept(
    sweeping: Sweeper, anna: Caller, sam: Caller, shop: Caller, owner_urls: dict[str, str]
) -> None:
    conversation = await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    async with restored_afterwards(owner_urls["conversations"], *STORE):
        await sam.post(conversation, "lost with the restore")
        await anna.call("POST", f"/conversations/{conversation}/read", {"up_to": 2})
        await answer(anna, sam)
        await shop.call("PUT", "/users/anna", {"email": "lost@customer.test"})
        await sweeping.number()
        await sweeping.catch_up_fully()
    async with transaction(sweeping.conversations) as session:
        await rotate_epoch(session)
    await sam.post(conversation, "number two once more")
    await shop.call("PUT", "/users/anna", {"email": "anna@new.test"})
    await sweeping.number()

    await sweeping.catch_up_fully()

    async with sweeping.notifications() as session:
        previews = list(await session.scalars(select(Notification.preview).order_by(Notification.number)))
        assert (await session.get_one(Person, "anna")).email == "anna@new.test"
    assert previews == ["Hello?", "number two once more"]
    assert 2 in await unread(sweeping.notifications)
    [*_, (state, _, numbers)] = await emails_in(sweeping.notifications)
    assert (state, numbers) == ("scheduled", [2])


async def test_emails_of_the_time_that_a_restored_database_lost_fail_and_are_not_sent_again(
    sweeping: Sweeper, anna: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch, owner_urls: dict[str, str]
) -> None:
    monkeypatch.setattr(sweeper, "PAGE", 2)  # so that one call does not read everything
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    async with restored_afterwards(owner_urls["notifications"], *TABLES):
        await answer(anna, sam, times=2)
        await sweeping.number()
        await sweeping.catch_up_fully()
        await sweeping.catch_up()  # reports the position
    await answer(anna, sam, times=3)
    await sweeping.number()

    await sweeping.catch_up()
    async with transaction(sweeping.notifications) as session:
        before = await claim_emails(session, sweeping.settings)
    await sweeping.catch_up_fully()

    assert await sweeping.records() == [1, 1, 1, 2, 2, 3]
    assert await emails_in(sweeping.notifications) == [
        ("failed", "restored", [1]),
        ("failed", "restored", [1, 2]),
        ("scheduled", None, [1, 2, 3]),
    ]
    assert before is None
    async with transaction(sweeping.notifications) as session:
        claimed = await claim_emails(session, sweeping.settings)
        assert claimed is not None
        assert len(claimed) == 1
        failed = (await session.scalars(select(Email.id).where(Email.state == "failed"))).all()
        await retry_email(session, failed[0])
        assert await has_due_email(session)


async def test_a_message_that_joined_an_email_of_the_lost_time_gets_an_email_of_its_own(
    sweeping: Sweeper, anna: Caller, sam: Caller, owner_urls: dict[str, str]
) -> None:
    async with restored_afterwards(owner_urls["notifications"], *TABLES):
        conversation = await answer(anna, sam, times=2)
        await sweeping.number()
        await sweeping.catch_up_fully()
        await sweeping.catch_up()  # reports the position
    await sam.post(conversation)
    await sweeping.number()

    await sweeping.catch_up_fully()

    assert await emails_in(sweeping.notifications) == [("failed", "restored", [1, 2]), ("scheduled", None, [3])]
    async with transaction(sweeping.notifications) as session:
        assert await has_due_email(session)
    await sam.post(conversation)
    await sweeping.number()
    await sweeping.catch_up_fully()
    assert await emails_in(sweeping.notifications) == [("failed", "restored", [1, 2]), ("scheduled", None, [3, 4])]


async def test_after_a_move_of_the_database_emails_wait_until_the_log_is_compared(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    async with transaction(sweeping.notifications) as session:
        await session.execute(text("update gate set incarnation = 'another server'"))
        assert not await has_due_email(session)
        assert await claim_emails(session, sweeping.settings) is None
        assert not (await read_state(session)).delivery_known

    await sweeping.catch_up_fully()

    async with transaction(sweeping.notifications) as session:
        assert await has_due_email(session)
        assert (await read_sending_state(session)).is_same_database
    assert await emails_in(sweeping.notifications) == [("scheduled", None, [1])]


async def test_emails_are_held_after_an_operator_reports_a_restore(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    async with transaction(sweeping.notifications) as session:
        await hold_emails(session)
        assert await claim_emails(session, sweeping.settings) is None

    await sweeping.catch_up_fully()
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()

    assert await emails_in(sweeping.notifications) == [("failed", "restored", [1]), ("scheduled", None, [1])]


async def test_a_log_in_another_database_starts_a_new_epoch_once(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    async def epoch() -> object:
        await answer(anna, sam)
        await sweeping.number()
        async with sweeping.conversations() as session:
            return (await session.execute(text("select epoch from feed"))).scalar_one()

    first = await epoch()
    assert await epoch() == first
    async with transaction(sweeping.conversations) as session:
        await session.execute(text("update feed set incarnation = 'another server'"))
    second = await epoch()
    assert second != first
    assert await epoch() == second


async def test_a_message_that_cannot_be_handled_in_a_rebuild_is_parked_and_the_rest_is_rebuilt(
    sweeping: Sweeper, anna: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await answer(anna, sam)
    await sam.post(conversation, "poison")
    await sam.post(conversation)
    await sweeping.number()
    await purge_log(sweeping)
    with monkeypatch.context() as poisoned:
        poisoned.setattr(handlers, "preview", lambda body: preview(body) if body != "poison" else 1 / 0)
        await sweeping.catch_up_fully()

    assert await sweeping.records() == [1, 3]
    assert (await sweeping.cursor()).rebuild_kind is None
    async with transaction(sweeping.notifications) as session:
        [parked] = await list_parked(session)
        assert parked.reason == "failed in a rebuild: ZeroDivisionError"
        await retry_parked(session, parked.event_id, sweeping.settings)
    assert await sweeping.records() == [1, 2, 3]


async def test_an_interrupted_rebuild_continues_where_it_stopped(
    sweeping: Sweeper, anna: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notifications.event_consumer.feed_client.SNAPSHOT_PAGE", 2)
    for _ in range(3):
        await answer(anna, sam, times=2)
    await sweeping.number()
    await purge_log(sweeping)

    positions = set()
    for _ in range(100):
        more = await sweeping.catch_up()
        cursor = await sweeping.cursor()
        positions.add((cursor.rebuild_kind, cursor.rebuild_after))
        if not more:
            break

    assert len(positions) > 6
    assert await sweeping.records() == [1, 1, 1, 2, 2, 2]


async def test_a_conversation_that_a_restore_brought_back_is_present_again(
    sweeping: Sweeper, anna: Caller, sam: Caller, owner_urls: dict[str, str]
) -> None:
    conversation = await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    async with restored_afterwards(owner_urls["conversations"], *STORE):
        await sam.edit(conversation, status="CLOSED")
        await sam.call("DELETE", f"/conversations/{conversation}")
        await sweeping.number()
        await sweeping.catch_up_fully()
        assert await sweeping.records() == []
    async with transaction(sweeping.conversations) as session:
        await rotate_epoch(session)
    await sam.post(conversation)
    await sweeping.number()
    await sweeping.catch_up_fully()
    assert await unread(sweeping.notifications) == [1, 2]


async def test_hints_of_a_lost_log_in_the_broker_have_no_effect(
    sweeping: Sweeper, anna: Caller, sam: Caller, owner_urls: dict[str, str]
) -> None:
    conversation = await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    async with restored_afterwards(owner_urls["conversations"], *STORE):
        await sam.post(conversation)
        await anna.call("POST", f"/conversations/{conversation}/read", {"up_to": 2})
        async with transaction(sweeping.conversations) as session:
            lost = await number_events(await transaction_driver(session))
    async with transaction(sweeping.conversations) as session:
        await rotate_epoch(session)
    await sam.post(conversation)
    await sweeping.number()
    await sweeping.catch_up_fully()
    assert [event.type for event in lost] == ["message.posted", "conversation.read"]

    for event in lost:
        await receive_events(sweeping.notifications, [event], sweeping.settings, repeated=False)

    assert await sweeping.records() == [1, 2]
    assert await unread(sweeping.notifications) == [1, 2]


async def test_a_parked_event_of_a_lost_log_has_no_effect_when_retried(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    lost = posted(uuid4(), 1).model_copy(update={"epoch": uuid4()})
    await park_event(sweeping.notifications, lost.id, lost.type, "failed 5 times", lost.model_dump(mode="json"))

    async with transaction(sweeping.notifications) as session:
        await retry_parked(session, lost.id, sweeping.settings)

    assert await sweeping.records() == [1]
    async with sweeping.notifications() as session:
        assert await list_parked(session) == []


async def test_a_read_that_began_in_another_database_neither_moves_the_cursor_nor_releases_emails(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam, times=3)
    head = await sweeping.number()
    await sweeping.catch_up_fully()
    seen = await sweeping.cursor()
    page = await read_events(sweeping.feed, 0, limit=10, min_age=0)
    assert page is not None
    async with transaction(sweeping.notifications) as session:  # a replica without the last changes takes over
        await session.execute(text("update feed_cursor set position = :position"), {"position": head - 2})
        await session.execute(text("update gate set incarnation = 'the old server'"))
        incarnation = (await read_sending_state(session)).database_identity

    await sweeper._move_cursor(sweeping.notifications, seen, page)  # noqa: SLF001 - in the middle of catching up
    await release_restore_hold(sweeping.notifications, incarnation, seen)

    assert (await sweeping.cursor()).position == head - 2
    async with sweeping.notifications() as session:
        assert not (await read_sending_state(session)).is_same_database
    await sweeping.catch_up_fully()
    async with sweeping.notifications() as session:
        assert (await read_sending_state(session)).is_same_database


async def test_emails_do_not_wait_for_a_position_that_the_restored_log_lacks(
    sweeping: Sweeper, anna: Caller, sam: Caller, owner_urls: dict[str, str]
) -> None:
    await answer(anna, sam)
    await sweeping.number()
    async with restored_afterwards(owner_urls["conversations"], *STORE):
        await answer(anna, sam, times=5)
        await sweeping.number()
        await sweeping.catch_up_fully()
    async with transaction(sweeping.conversations) as session:
        await rotate_epoch(session)
    async with transaction(sweeping.notifications) as session:
        await hold_emails(session)

    await sweeping.catch_up_fully()

    async with sweeping.notifications() as session:
        assert (await read_sending_state(session)).is_same_database


async def test_more_than_a_page_of_missing_data_is_removed_in_several_steps(
    sweeping: Sweeper, anna: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch, owner_urls: dict[str, str]
) -> None:
    for module in ("feed_client", "rebuild"):
        monkeypatch.setattr(f"services.notifications.event_consumer.{module}.SNAPSHOT_PAGE", 2)
    kept = await answer(anna, sam)
    await sweeping.number()
    async with restored_afterwards(owner_urls["conversations"], *STORE):
        for _ in range(5):
            await answer(anna, sam)
        for _ in range(5):
            await sam.post(kept)
        await sweeping.number()
        await sweeping.catch_up_fully()
        assert len(await sweeping.records()) == 11
    async with transaction(sweeping.conversations) as session:
        await rotate_epoch(session)

    await sweeping.catch_up_fully()

    assert await sweeping.records() == [1]


async def test_a_slower_sweeper_is_not_mistaken_for_a_restored_database(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up_fully()
    await sweeping.catch_up()
    slower = await sweeping.feed.get("/internal/events", params={"after": 0, "reader": "notifications"})
    assert slower.json()["acknowledged"] == 2
    await sweeping.catch_up_fully()
    async with sweeping.notifications() as session:
        assert (await session.get_one(FeedCursor, True)).restored_to is None
        assert (await session.get_one(SendingControl, True)).incarnation is not None
