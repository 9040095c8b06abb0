"""Measure saving posts without HTTP: `python -m bench.posting_statement`, POSTS=3000, ROUNDS=7.

One process, a PostgreSQL of its own, a thousand conversations, several posts in parallel: each through the single
statement over its own connection, and through the batcher, as the API does. The yardstick, in turn with them, inserts a
row of the same size in a transaction of its own. Run it in two checkouts to compare them.
"""

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from deploy.cli import SERVICES
from deploy.local.postgres import create_databases, throwaway_postgres
from services.conversations.messaging.batching import GroupCommit
from services.conversations.messaging.posting import Post, post_message
from services.conversations.rules import Side
from shared.database.engine import create_engine
from shared.database.migrations import upgrade
from shared.database.transactions import SessionFactory, connection_provider, create_sessions, driver_connection
from shared.observability.logs import configure_logging

POSTS = int(os.environ.get("POSTS", "3000"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
AT_ONCE = (1, 8, 32)
BODY = "Your parcel left our warehouse this morning and should be with you on Thursday. " * 3


async def main() -> None:
    """Print the medians of the rounds."""
    configure_logging("bench", "warning")
    with tempfile.TemporaryDirectory() as directory:
        async with throwaway_postgres(Path(directory) / "postgres") as server:
            await create_databases(server, {"conversations": "bench"})
            url = server.url("conversations", "conversations", "bench")
            await asyncio.to_thread(upgrade, SERVICES / "conversations", url)
            engine = create_engine(url, application="bench", pool_size=max(AT_ONCE))
            sessions = create_sessions(engine)
            talks = await _prepare(sessions)
            group = GroupCommit(sessions, connection_provider(engine))
            for at_once in AT_ONCE:
                await _compare(sessions, group, talks, at_once)
            await engine.dispose()


async def _compare(sessions: SessionFactory, group: GroupCommit, talks: list[UUID], at_once: int) -> None:
    async def by_itself(post: Post) -> None:
        async with sessions() as session:
            await post_message(session, post)

    async def by_group(post: Post) -> None:
        await group.save(post)

    async def bare(post: Post) -> None:
        async with sessions() as session:
            connection = await driver_connection(session)
            await connection.execute("insert into yardstick (body) values ($1)", post.body)

    ways = {"single statement": by_itself, "batcher": by_group, "bare inserts": bare}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append(await _rate(way, talks, at_once))
    for name, measured in rates.items():
        ratio = statistics.median(
            own / bare_rate for own, bare_rate in zip(measured, rates["bare inserts"], strict=True)
        )
        print(
            f"{at_once:3} at a time, {name:18} {statistics.median(measured):6.0f} a second, ratio {ratio:.2f}",
            flush=True,
        )


async def _rate(save: Callable[[Post], Awaitable[None]], talks: list[UUID], at_once: int) -> float:
    async def work() -> None:
        for _ in range(POSTS // at_once):
            await save(Post(random.choice(talks), "sam", Side.ADMIN, BODY))

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return POSTS // at_once * at_once / (time.perf_counter() - started)


async def _prepare(sessions: SessionFactory) -> list[UUID]:
    async with sessions() as session, session.begin():
        await session.execute(
            text("create table yardstick (id bigint generated always as identity primary key, body text)")
        )
        await session.execute(
            text("insert into users (id, role, name) values ('anna', 'customer', 'Anna'), ('sam', 'admin', 'Sam')")
        )
        rows = await session.execute(
            text("""
                insert into conversations (
                    user_id, subject, status, is_read_by_admin, is_read_by_user,
                    created_at, last_activity_at, changed_at
                )
                select 'anna', 'Where is my parcel?', 'OPEN', false, true, now(), now(), now()
                from generate_series(1, 1000)
                returning id
            """)
        )
        return list(rows.scalars())


if __name__ == "__main__":
    asyncio.run(main())
