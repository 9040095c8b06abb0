"""The sweeper catches up from the feed of a real conversations API, with its own cursor, past every kind of event."""

from datetime import timedelta
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import func, select, update

from services.notifications import sweeper
from services.notifications.event_consumer import consumer
from services.notifications.event_consumer.consumer import receive_events
from services.notifications.event_consumer.feed_client import read_events
from services.notifications.event_consumer.parked import list_parked
from services.notifications.models import FeedCursor, InboxEntry, Notification
from services.notifications.rules import MAX_EVENT_ATTEMPTS
from shared.database.transactions import transaction
from shared.events import EventType
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import posted
from tests.service.helpers.sweeping import Sweeper, answer


async def test_it_handles_events_missing_from_the_inbox_and_moves_its_cursor(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam, times=2)
    head = await sweeping.number()

    assert not await sweeping.catch_up()

    assert await sweeping.records() == [1, 2]
    cursor = await sweeping.cursor()
    assert (cursor.position, cursor.head) == (head, head)
    assert cursor.epoch is not None
    assert not await sweeping.catch_up()
    assert (await sweeping.cursor()).position == head


async def test_events_handled_by_a_worker_are_not_handled_again(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up()
    async with transaction(sweeping.notifications) as session:
        await session.execute(update(FeedCursor).values(position=0))
        await session.execute(Notification.__table__.delete())  # type: ignore[attr-defined]

    await sweeping.catch_up()

    assert await sweeping.records() == []


async def test_young_events_are_left_to_the_workers(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up(min_age=60)
    assert (await sweeping.cursor()).position == 0
    assert await sweeping.records() == []


async def test_it_reads_the_feed_to_the_end_page_by_page(
    sweeping: Sweeper, anna: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answer(anna, sam, times=5)
    head = await sweeping.number()
    monkeypatch.setattr(sweeper, "PAGE", 3)

    calls = 1
    while await sweeping.catch_up():
        calls += 1

    assert calls == head // 3 + 1
    assert (await sweeping.cursor()).position == head
    assert await sweeping.records() == [1, 2, 3, 4, 5]


async def test_a_failing_event_stops_the_cursor_until_it_is_parked(
    sweeping: Sweeper, anna: Caller, sam: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answer(anna, sam)
    await sweeping.number()
    await sweeping.catch_up()
    stood = (await sweeping.cursor()).position
    await answer(anna, sam)
    head = await sweeping.number()

    async def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(consumer, "ATTEMPT_SPACING", timedelta(0))
    monkeypatch.setattr(consumer, "handle_events", fail)
    for _ in range(MAX_EVENT_ATTEMPTS):
        with pytest.raises(RuntimeError):
            await sweeping.catch_up()
        assert (await sweeping.cursor()).position == stood
    await sweeping.catch_up()

    assert (await sweeping.cursor()).position == head
    async with sweeping.notifications() as session:
        reasons = [entry.reason for entry in await list_parked(session)]
    assert reasons == [f"failed {MAX_EVENT_ATTEMPTS} times"] * 2  # the conversation and the answer


async def test_unknown_event_types_are_parked_and_irrelevant_ones_skipped(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await sweeping.log("message.sung", {"body": "la la la"})
    await sweeping.log(EventType.CONVERSATION_UPDATED, {"status": "OPEN"})
    await answer(anna, sam)
    head = await sweeping.number()

    await sweeping.catch_up()

    assert (await sweeping.cursor()).position == head
    assert await sweeping.records() == [1]
    async with sweeping.notifications() as session:
        assert [(entry.type, entry.reason) for entry in await list_parked(session)] == [
            ("message.sung", "unknown type")
        ]
        irrelevant = select(func.count()).select_from(InboxEntry).where(InboxEntry.type == "conversation.updated")
        assert await session.scalar(irrelevant) == 0


async def test_the_cursor_never_moves_back_within_an_epoch(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam)
    await sweeping.number()
    page = await read_events(sweeping.feed, 0, limit=1, min_age=0)  # as a second, slower sweeper does
    assert page is not None
    await sweeping.catch_up()
    stood = (await sweeping.cursor()).position
    await sweeper._move_cursor(sweeping.notifications, FeedCursor(position=0), page)  # noqa: SLF001 - the slower sweeper's step
    assert (await sweeping.cursor()).position == stood


@pytest.mark.parametrize("secret", ["", "another secret"])
async def test_the_feed_cannot_be_read_without_its_secret(sweeping: Sweeper, secret: str) -> None:
    sweeping.feed.headers["Authorization"] = f"Bearer {secret}"
    with pytest.raises(httpx2.HTTPStatusError, match="401"):
        await sweeping.catch_up()
    assert (await sweeping.cursor()).epoch is None


async def test_a_deleted_conversation_leaves_no_text_in_parked_events(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    conversation = await answer(anna, sam)
    early = posted(UUID(conversation), 7, body="A secret.").model_copy(update={"type": "message.sung"})
    late = posted(UUID(conversation), 8, body="A secret.").model_copy(update={"type": "message.sung"})
    await receive_events(sweeping.notifications, [early], sweeping.settings, repeated=False)
    await sam.edit(conversation, status="CLOSED")
    assert (await sam.call("DELETE", f"/conversations/{conversation}")).status_code == 204
    await sweeping.number()

    await sweeping.catch_up()
    await receive_events(sweeping.notifications, [late], sweeping.settings, repeated=False)

    async with sweeping.notifications() as session:
        assert [entry.event for entry in await list_parked(session)] == [None, None]
