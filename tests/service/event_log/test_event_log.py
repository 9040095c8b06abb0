"""The event log: positions in the order of commits, without gaps, and the feed for the other service."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select, text, update

from services.conversations.event_log.append import append_event
from services.conversations.event_log.reader import read_feed, read_newest
from services.conversations.event_log.sequencer import number_events, read_state
from services.conversations.models import FeedHead, LoggedEvent
from shared.database.transactions import SessionFactory, transaction, transaction_driver
from shared.event_log.reading import lag_after, read_head
from shared.events import Event, EventType, MessagePosted
from tests.helpers.waiting import eventually
from tests.service.conftest import FEED_SECRET
from tests.service.helpers.callers import Caller, problem

FEED = {"Authorization": f"Bearer {FEED_SECRET}"}


async def append(sessions: SessionFactory, *names: str) -> None:
    async with transaction(sessions) as session:
        for name in names:
            await append_event(session, EventType.CONVERSATION_UPDATED, {"name": name})


async def sequence(sessions: SessionFactory, size: int = 1000) -> list[Event]:
    async with transaction(sessions) as session:
        return await number_events(await transaction_driver(session), size=size)


async def positions(sessions: SessionFactory) -> list[tuple[int, str]]:
    """Return the positions and names in the whole log."""
    async with sessions() as session:
        feed = await read_feed(session, after=0, limit=1000)
    return [(event.position or 0, (event.payload or {}).get("name", "")) for event in feed.items]


async def test_two_sequencers_and_many_writers_leave_no_gap_and_number_nothing_twice(
    anna: Caller, sam: Caller, conversations: SessionFactory
) -> None:
    conversation_ids = [(await anna.open(body="number 1"))["id"] for _ in range(5)]
    numbered: list[Event] = []
    written = asyncio.Event()

    async def write(conversation: str) -> None:
        for n in range(4):
            await asyncio.gather(
                anna.post(conversation),
                sam.edit(conversation, reply_body="Yes?"),
                anna.call("POST", f"/conversations/{conversation}/read", {"up_to": 2 * n}),
            )

    async def work(size: int) -> None:
        while True:
            last_look = written.is_set()
            events = await sequence(conversations, size)
            numbered.extend(events)
            if last_look and not events:
                return

    sequencers = [asyncio.create_task(work(size)) for size in (3, 7)]
    await asyncio.gather(*map(write, conversation_ids))
    written.set()
    await asyncio.gather(*sequencers)
    numbered += await sequence(conversations)  # events that one sequencer left to the other just before its end

    async with conversations() as session:
        feed = await read_feed(session, after=0, limit=1000)
        total = await session.scalar(select(func.count()).select_from(LoggedEvent))
    assert [event.position for event in feed.items] == list(range(1, feed.head + 1))
    assert sorted(event.position or 0 for event in numbered) == list(range(1, feed.head + 1))
    assert total == feed.head
    for conversation in conversation_ids:
        posted = [e.payload for e in feed.items if e.type == "message.posted" and e.payload]
        numbers = [p["message"]["number"] for p in posted if p["conversation_id"] == conversation]
        assert numbers == list(range(1, 10))


async def test_an_event_whose_transaction_commits_later_comes_later_and_is_not_lost(
    conversations: SessionFactory,
) -> None:
    async with conversations() as slow:
        await append_event(slow, EventType.CONVERSATION_UPDATED, {"name": "began first"})
        await append(conversations, "ended first")
        assert [event.position for event in await sequence(conversations)] == [1]
        await slow.commit()
    assert [event.position for event in await sequence(conversations)] == [2]
    assert await positions(conversations) == [(1, "ended first"), (2, "began first")]


async def test_an_event_that_an_erasure_changes_meanwhile_is_numbered_in_its_place(
    conversations: SessionFactory,
) -> None:
    await append(conversations, "a", "b", "c")
    waiting = text("select exists (select from pg_locks where not granted)")
    async with conversations() as erasure, conversations() as watcher:
        await erasure.execute(update(LoggedEvent).where(LoggedEvent.payload["name"].astext == "b").values(payload={}))
        numbering = asyncio.create_task(sequence(conversations))
        await eventually(lambda: watcher.scalar(waiting))
        await erasure.commit()
    assert [event.position for event in await numbering] == [1, 2, 3]
    assert await positions(conversations) == [(1, "a"), (2, ""), (3, "c")]


async def test_a_rolled_back_transaction_leaves_no_gap(conversations: SessionFactory) -> None:
    async with conversations() as session:
        await append_event(session, EventType.CONVERSATION_UPDATED, {"name": "never"})
        await session.rollback()
    await append(conversations, "a", "b")
    await sequence(conversations, size=1)
    await sequence(conversations, size=1)
    assert await positions(conversations) == [(1, "a"), (2, "b")]


async def test_a_sequencer_does_nothing_while_another_one_is_working(conversations: SessionFactory) -> None:
    await append(conversations, "a")
    async with conversations() as first, conversations() as second:
        assert len(await number_events(await transaction_driver(first))) == 1
        assert await number_events(await transaction_driver(second)) == []
        await first.rollback()  # the first sequencer dies
        assert [event.position for event in await number_events(await transaction_driver(second))] == [1]
        await second.commit()
    assert await sequence(conversations) == []


async def test_the_feed_is_read_in_order_after_a_position(
    api: httpx2.AsyncClient, anna: Caller, conversations: SessionFactory
) -> None:
    conversation = await anna.open(body="Hello?")
    await append(conversations, "b", "c")
    await sequence(conversations)
    await append(conversations, "not numbered yet")

    async def items(**params: Any) -> list[Any]:
        answer = await api.get("/internal/events", headers=FEED, params=params)
        assert answer.status_code == 200
        assert answer.json()["head"] == 4
        found: list[Any] = answer.json()["items"]
        return found

    everything = await items()
    assert [event["position"] for event in everything] == [1, 2, 3, 4]
    assert [event["type"] for event in everything[:2]] == ["conversation.created", "message.posted"]
    payload = MessagePosted.model_validate(everything[1]["payload"])
    assert (str(payload.conversation_id), payload.message.body) == (conversation["id"], "Hello?")
    assert payload.sender == payload.customer
    assert (payload.customer.id, payload.customer.email) == ("anna", "anna@customer.test")
    assert [event["position"] for event in await items(after=1, limit=2)] == [2, 3]
    assert await items(after=4) == await items(after=2**63 - 1) == []


async def test_the_feed_stops_at_the_first_event_below_the_minimum_age(
    api: httpx2.AsyncClient, conversations: SessionFactory
) -> None:
    await append(conversations, "old", "young", "old again")
    await sequence(conversations)
    async with transaction(conversations) as session:
        long_ago = datetime.now(UTC) - timedelta(seconds=50)
        await session.execute(update(LoggedEvent).where(LoggedEvent.position != 2).values(numbered_at=long_ago))

    for min_age, expected in ((0, [1, 2, 3]), (40, [1]), (60, [])):
        answer = await api.get("/internal/events", headers=FEED, params={"min_age": min_age})
        assert [event["position"] for event in answer.json()["items"]] == expected


async def test_an_event_that_waited_for_its_number_is_as_old_as_its_number(conversations: SessionFactory) -> None:
    await append(conversations, "waited")
    async with transaction(conversations) as session:
        await session.execute(update(LoggedEvent).values(numbered_at=datetime.now(UTC) - timedelta(days=100)))
    await sequence(conversations)
    async with conversations() as session:
        numbered_at = (await session.scalars(select(LoggedEvent.numbered_at))).one()
    assert numbered_at is not None
    assert datetime.now(UTC) - numbered_at < timedelta(days=1)


async def test_the_epoch_stays_while_the_log_is_the_same(
    api: httpx2.AsyncClient, conversations: SessionFactory
) -> None:
    before = (await api.get("/internal/events", headers=FEED)).json()["epoch"]
    await append(conversations, "a")
    await sequence(conversations)
    assert (await api.get("/internal/events", headers=FEED)).json()["epoch"] == before
    async with conversations() as session:
        assert str(await session.scalar(select(FeedHead.epoch))) == before


@pytest.mark.parametrize("secret", [None, "", "Bearer", "Bearer ", f"Bearer {FEED_SECRET}x", FEED_SECRET, "Bearer é"])
async def test_the_feed_requires_its_own_secret(api: httpx2.AsyncClient, secret: str | None) -> None:
    headers = [] if secret is None else [(b"Authorization", secret.encode("latin-1"))]
    assert problem(await api.get("/internal/events", headers=headers)) == (401, "unauthenticated")


async def test_no_users_token_opens_the_feed_and_no_document_mentions_it(
    anna: Caller, sam: Caller, shop: Caller
) -> None:
    for caller in (anna, sam, shop):
        answer = await caller.api.get("/internal/events", headers=caller.headers)
        assert problem(answer) == (401, "unauthenticated")
    assert "/internal" not in (await anna.api.get("/openapi.json")).text


@pytest.mark.parametrize(
    "params", [{"after": -1}, {"after": 2**63}, {"after": "x"}, {"limit": 0}, {"limit": 1001}, {"min_age": "nan"}]
)
async def test_the_feed_rejects_invalid_parameters(api: httpx2.AsyncClient, params: dict[str, Any]) -> None:
    answer = await api.get("/internal/events", headers=FEED, params=params)
    assert problem(answer) == (422, "validation-failed")


async def test_the_logs_state_is_reported(conversations: SessionFactory) -> None:
    await append(conversations, "a", "b")
    await sequence(conversations, size=1)
    async with conversations() as session:
        state = await read_state(session)
        assert (state.head, state.unnumbered) == (1, 1)
        assert state.lag > 0
        assert await lag_after(session, 0) > 0
        assert await lag_after(session, 1) == 0
        assert [event.payload for event in await read_newest(session, 1)] == [{"name": "b"}]


async def test_the_head_of_the_log_is_the_last_position(conversations: SessionFactory) -> None:
    await append(conversations, "one", "two")
    for head in (0, 2):
        async with conversations() as session:
            assert (await read_head(session))[1] == head
        await sequence(conversations)
