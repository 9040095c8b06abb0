"""Concurrent posts share a statement and a commit, but not each other's failures."""

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
from shared.database.engine import create_engine
from shared.database.transactions import SessionFactory, connection_provider, create_sessions
from shared.events import EventType
from shared.problems import NotFound, Unauthenticated, Unavailable
from shared.process import failpoints
from tests.service.messaging.test_deleting import waiting_for_a_lock

CONVERSATION_COUNT = 30


@pytest.fixture
async def conversation_ids(conversations: SessionFactory) -> list[UUID]:
    """Conversations of Anna without messages."""
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
            {"count": CONVERSATION_COUNT},
        )
        return list(found)


@pytest.fixture
def statements() -> Iterator[Counter[str]]:
    """Count how often each failpoint is passed."""
    passed: Counter[str] = Counter()
    failpoints.armed = lambda name: passed.update([name])
    yield passed
    failpoints.armed = None


@pytest.fixture
async def unreachable() -> AsyncIterator[SessionFactory]:
    """Sessions on a database that is not running."""
    engine = create_engine("postgresql://127.0.0.1:1/none", application="test")
    yield create_sessions(engine)
    await engine.dispose()


def by_anna(conversation: UUID, body: str = "Hello?", **more: Any) -> Post:
    return Post(conversation, "anna", Side.CUSTOMER, body, scope="anna", **more)


def group_commit(sessions: SessionFactory) -> GroupCommit:
    return GroupCommit(sessions, connection_provider(sessions.kw["bind"]))


async def outcomes(sessions: SessionFactory, *posts: Post) -> list[Posted | BaseException]:
    """Save posts concurrently."""
    group = group_commit(sessions)
    return await asyncio.gather(*(group.save(post) for post in posts), return_exceptions=True)


async def saved(sessions: SessionFactory, *posts: Post) -> list[Posted]:
    found = await outcomes(sessions, *posts)
    assert all(isinstance(outcome, Posted) for outcome in found), found
    return found  # type: ignore[return-value]


async def events(sessions: SessionFactory) -> int:
    async with sessions() as session:
        return int(await session.scalar(select(func.count()).where(LoggedEvent.type == EventType.MESSAGE_POSTED)) or 0)


async def test_concurrent_posts_share_one_statement(
    conversations: SessionFactory, conversation_ids: list[UUID], statements: Counter[str]
) -> None:
    posted = await saved(
        conversations, *(by_anna(conversation_id, str(n)) for n, conversation_id in enumerate(conversation_ids))
    )
    assert statements["posts-begun"] == 1
    assert statements["post-begun"] == 0
    assert [(post.conversation_id, post.body) for post in posted] == [
        (conversation_id, str(n)) for n, conversation_id in enumerate(conversation_ids)
    ]
    assert {post.number for post in posted} == {1}
    assert await events(conversations) == CONVERSATION_COUNT


async def test_posts_to_one_conversation_are_numbered_consecutively(
    conversations: SessionFactory, conversation_ids: list[UUID]
) -> None:
    posted = await saved(conversations, *(by_anna(conversation_ids[n % 2]) for n in range(BATCH * 2)))
    for conversation_id in conversation_ids[:2]:
        numbers = sorted(post.number for post in posted if post.conversation_id == conversation_id)
        assert numbers == list(range(1, BATCH + 1))
    assert await events(conversations) == BATCH * 2


async def test_each_post_gets_its_own_error(conversations: SessionFactory, conversation_ids: list[UUID]) -> None:
    [first, *_] = await saved(
        conversations,
        by_anna(conversation_ids[0], idempotency_key=IdempotencyKey("key", "one")),
        by_anna(conversation_ids[1]),
    )
    async with conversations.begin() as session:
        await session.execute(
            text("update conversations set last_admin_number = 1 where id = :id"), {"id": conversation_ids[1]}
        )
    found = await outcomes(
        conversations,
        by_anna(conversation_ids[0], idempotency_key=IdempotencyKey("key", "one")),
        by_anna(conversation_ids[1], seen_number=0),
        by_anna(uuid4()),
        Post(conversation_ids[2], "ben", Side.CUSTOMER, "Mine?", scope="ben"),
        Post(conversation_ids[3], "eve", Side.CUSTOMER, "Still here"),
        by_anna(conversation_ids[4]),
    )
    replay, *refused, good = found
    assert isinstance(replay, Posted)
    assert (replay.id, replay.replayed) == (first.id, True)
    assert [type(error) for error in refused] == [NewerMessages, NotFound, NotFound, Unauthenticated]
    assert isinstance(good, Posted)
    [reused] = await outcomes(
        conversations, by_anna(conversation_ids[0], "Else", idempotency_key=IdempotencyKey("key", "other"))
    )
    assert isinstance(reused, IdempotencyKeyReused)
    assert await events(conversations) == 3


async def test_a_post_that_breaks_the_statement_fails_alone(
    conversations: SessionFactory, conversation_ids: list[UUID]
) -> None:
    *good, spoiled = await outcomes(
        conversations, *map(by_anna, conversation_ids[:5]), by_anna(conversation_ids[5], "no \x00 in a text")
    )
    assert all(isinstance(outcome, Posted) for outcome in good)
    assert isinstance(spoiled, Exception)
    assert await events(conversations) == 5


async def test_concurrent_posts_with_one_key_make_one_message(
    conversations: SessionFactory, conversation_ids: list[UUID]
) -> None:
    once = IdempotencyKey("key", "one")
    posted = await saved(conversations, *(by_anna(conversation_ids[0], idempotency_key=once) for _ in range(12)))
    assert len({post.id for post in posted}) == 1
    assert sum(not post.replayed for post in posted) == 1
    assert await events(conversations) == 1


@pytest.mark.parametrize("table", ["conversations", "users"])
async def test_a_post_that_waits_for_a_locked_row_delays_no_others(
    conversations: SessionFactory, conversation_ids: list[UUID], table: str
) -> None:
    async with conversations.begin() as session:
        await session.execute(text("insert into users (id, role) values ('carl', 'customer')"))
        held = {"conversations": conversation_ids[0], "users": "carl"}[table]
        await session.execute(
            text("update conversations set user_id = 'carl' where id = :id"), {"id": conversation_ids[0]}
        )
    group = group_commit(conversations)
    async with conversations.begin() as holder:
        await holder.execute(text(f"select from {table} where id = :held for update"), {"held": held})
        waiting = asyncio.create_task(group.save(Post(conversation_ids[0], "carl", Side.CUSTOMER, "Hello?")))
        await asyncio.gather(*(group.save(by_anna(conversation_id)) for conversation_id in conversation_ids[1:]))
        assert not waiting.done()
    assert (await waiting).number == 1


async def test_a_post_that_was_rolled_back_in_a_deadlock_is_posted_again(
    conversations: SessionFactory, conversation_ids: list[UUID]
) -> None:
    async with conversations.begin() as session:
        await session.execute(text("insert into users (id, role) values ('sam', 'admin')"))
    reply = Post(conversation_ids[0], "sam", Side.ADMIN, "Yes?")
    async with conversations.begin() as other:
        await other.execute(text("select from users where id = 'anna' for update"))
        # It has the conversation and waits for Anna, so it finds the deadlock before the other one does.
        posting = await waiting_for_a_lock(conversations, group_commit(conversations).save(reply))
        await other.execute(text("select from conversations where id = :id for update"), {"id": conversation_ids[0]})
    assert (await posting).number == 1


async def test_without_a_database_every_post_is_unavailable(unreachable: SessionFactory) -> None:
    found = await outcomes(unreachable, *(by_anna(uuid4()) for _ in range(5)))
    assert [type(outcome) for outcome in found] == [Unavailable] * 5


async def test_a_cancelled_post_stops_no_others(conversations: SessionFactory, conversation_ids: list[UUID]) -> None:
    group = group_commit(conversations)
    tasks = [asyncio.create_task(group.save(by_anna(conversation_id))) for conversation_id in conversation_ids[:5]]
    await asyncio.sleep(0)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(outcome, Posted) for outcome in found[1:])
