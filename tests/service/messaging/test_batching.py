"""Posts of the same moment share a statement and a commit, and nothing of each other's faults."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from services.conversations.errors import IdempotencyKeyReused, NewerMessages
from services.conversations.messaging.batching import BATCH, GroupCommit
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting import Post, Posted
from services.conversations.models import LoggedEvent
from services.conversations.rules import Side
from shared import failpoints
from shared.database import SessionFactory, connection_provider, create_engine, create_sessions
from shared.events import EventType
from shared.problems import NotFound, Unauthenticated, Unavailable

TALKS = 30


@pytest.fixture
async def talks(conversations: SessionFactory) -> list[UUID]:
    """Conversations of Anna, with nothing in them yet."""
    async with conversations.begin() as session:
        await session.execute(text("insert into users (id, role) values ('anna', 'customer'), ('ben', 'customer')"))
        await session.execute(text("insert into users (id, role, deleted_at) values ('eve', 'customer', now())"))
        found = await session.scalars(
            text("""
                insert into conversations (user_id, subject, status, is_read_by_admin, is_read_by_user,
                    created_at, last_activity_at, changed_at)
                select 'anna', 'Where is my parcel?', 'OPEN', false, true, now(), now(), now()
                from generate_series(1, :count) returning id
            """),
            {"count": TALKS},
        )
        return list(found)


@pytest.fixture
def statements() -> Iterator[Counter[str]]:
    """How often each place in the code was passed."""
    passed: Counter[str] = Counter()
    failpoints.armed = lambda name: passed.update([name])
    yield passed
    failpoints.armed = None


@pytest.fixture
async def away() -> AsyncIterator[SessionFactory]:
    """A database that is not there."""
    engine = create_engine("postgresql://127.0.0.1:1/none", application="test")
    yield create_sessions(engine)
    await engine.dispose()


def by_anna(conversation: UUID, body: str = "Hello?", **more: Any) -> Post:
    return Post(conversation, "anna", Side.CUSTOMER, body, scope="anna", **more)


def group_commit(sessions: SessionFactory) -> GroupCommit:
    return GroupCommit(sessions, connection_provider(sessions.kw["bind"]))


async def outcomes(sessions: SessionFactory, *posts: Post) -> list[Posted | BaseException]:
    """Save these at the same moment."""
    group = group_commit(sessions)
    return await asyncio.gather(*(group.save(post) for post in posts), return_exceptions=True)


async def saved(sessions: SessionFactory, *posts: Post) -> list[Posted]:
    found = await outcomes(sessions, *posts)
    assert all(isinstance(one, Posted) for one in found), found
    return found  # type: ignore[return-value]


async def events(sessions: SessionFactory) -> int:
    async with sessions() as session:
        return int(await session.scalar(select(func.count()).where(LoggedEvent.type == EventType.MESSAGE_POSTED)) or 0)


async def test_those_that_come_together_go_in_one_statement(
    conversations: SessionFactory, talks: list[UUID], statements: Counter[str]
) -> None:
    posted = await saved(conversations, *(by_anna(talk, str(n)) for n, talk in enumerate(talks)))
    assert statements["posts-begun"] == 1
    assert statements["post-begun"] == 0
    assert [(one.conversation_id, one.body) for one in posted] == [(talk, str(n)) for n, talk in enumerate(talks)]
    assert {one.number for one in posted} == {1}
    assert await events(conversations) == TALKS


async def test_those_of_one_conversation_are_numbered_one_after_the_other(
    conversations: SessionFactory, talks: list[UUID]
) -> None:
    posted = await saved(conversations, *(by_anna(talks[n % 2]) for n in range(BATCH * 2)))
    for talk in talks[:2]:
        numbers = sorted(one.number for one in posted if one.conversation_id == talk)
        assert numbers == list(range(1, BATCH + 1))
    assert await events(conversations) == BATCH * 2


async def test_each_one_learns_what_is_wrong_with_its_own(conversations: SessionFactory, talks: list[UUID]) -> None:
    [first, *_] = await saved(
        conversations, by_anna(talks[0], idempotency_key=IdempotencyKey("key", "one")), by_anna(talks[1])
    )
    async with conversations.begin() as session:
        await session.execute(text("update conversations set last_admin_number = 1 where id = :id"), {"id": talks[1]})
    found = await outcomes(
        conversations,
        by_anna(talks[0], idempotency_key=IdempotencyKey("key", "one")),
        by_anna(talks[1], seen_number=0),
        by_anna(uuid4()),
        Post(talks[2], "ben", Side.CUSTOMER, "Mine?", scope="ben"),
        Post(talks[3], "eve", Side.CUSTOMER, "Still here"),
        by_anna(talks[4]),
    )
    replay, *refused, good = found
    assert isinstance(replay, Posted)
    assert (replay.id, replay.replayed) == (first.id, True)
    assert [type(one) for one in refused] == [NewerMessages, NotFound, NotFound, Unauthenticated]
    assert isinstance(good, Posted)
    [reused] = await outcomes(conversations, by_anna(talks[0], "Else", idempotency_key=IdempotencyKey("key", "other")))
    assert isinstance(reused, IdempotencyKeyReused)
    assert await events(conversations) == 3


async def test_one_that_spoils_the_statement_fails_alone(conversations: SessionFactory, talks: list[UUID]) -> None:
    *good, spoiled = await outcomes(conversations, *map(by_anna, talks[:5]), by_anna(talks[5], "no \x00 in a text"))
    assert all(isinstance(one, Posted) for one in good)
    assert isinstance(spoiled, Exception)
    assert await events(conversations) == 5


async def test_one_key_at_the_same_moment_is_one_message(conversations: SessionFactory, talks: list[UUID]) -> None:
    once = IdempotencyKey("key", "one")
    posted = await saved(conversations, *(by_anna(talks[0], idempotency_key=once) for _ in range(12)))
    assert len({one.id for one in posted}) == 1
    assert sum(not one.replayed for one in posted) == 1
    assert await events(conversations) == 1


@pytest.mark.parametrize("table", ["conversations", "users"])
async def test_one_whose_row_another_holds_keeps_nobody_else_waiting(
    conversations: SessionFactory, talks: list[UUID], table: str
) -> None:
    async with conversations.begin() as session:
        await session.execute(text("insert into users (id, role) values ('carl', 'customer')"))
        held = {"conversations": talks[0], "users": "carl"}[table]
        await session.execute(text("update conversations set user_id = 'carl' where id = :id"), {"id": talks[0]})
    group = group_commit(conversations)
    async with conversations.begin() as holder:
        await holder.execute(text(f"select from {table} where id = :held for update"), {"held": held})
        waiting = asyncio.create_task(group.save(Post(talks[0], "carl", Side.CUSTOMER, "Hello?")))
        await asyncio.gather(*(group.save(by_anna(talk)) for talk in talks[1:]))
        assert not waiting.done()
    assert (await waiting).number == 1


async def test_without_a_database_each_one_learns_it(away: SessionFactory) -> None:
    found = await outcomes(away, *(by_anna(uuid4()) for _ in range(5)))
    assert [type(one) for one in found] == [Unavailable] * 5


async def test_one_who_no_longer_waits_stops_nobody(conversations: SessionFactory, talks: list[UUID]) -> None:
    group = group_commit(conversations)
    tasks = [asyncio.create_task(group.save(by_anna(talk))) for talk in talks[:5]]
    await asyncio.sleep(0)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(one, Posted) for one in found[1:])
