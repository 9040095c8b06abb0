"""Measure the posting statement alone: `python -m bench.posting_statement`, POSTS=3000, ROUNDS=7.

One connection, one conversation in a hundred, a PostgreSQL of its own. The yardstick, alternating with it in the same
run, inserts a row of the same size in a transaction of its own over the same connection. Run it in two checkouts to
compare them.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from deploy.cli import SERVICES
from deploy.local.postgres import create_databases, throwaway_postgres
from services.conversations.posting import Post, post_message
from services.conversations.rules import Side
from shared.database import Sessions, create_engine, create_sessions, driver_connection
from shared.migrations import upgrade
from shared.observability import configure_logging

POSTS = int(os.environ.get("POSTS", "3000"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
BODY = "Your parcel left our warehouse this morning and should be with you on Thursday. " * 3


async def main() -> None:
    """Print the median of the rounds."""
    configure_logging("bench", "warning")
    with tempfile.TemporaryDirectory() as directory:
        async with throwaway_postgres(Path(directory) / "postgres") as server:
            await create_databases(server, {"conversations": "bench"})
            url = server.url("conversations", "conversations", "bench")
            await asyncio.to_thread(upgrade, SERVICES / "conversations", url)
            engine = create_engine(url, application="bench", pool_size=1)
            sessions = create_sessions(engine)
            ours, yardstick = [], []
            talks = await _prepare(sessions)
            for _ in range(ROUNDS):
                ours.append(await _post(sessions, talks))
                yardstick.append(await _insert(sessions))
            await engine.dispose()
    ratio = statistics.median(one / two for one, two in zip(ours, yardstick, strict=True))
    print(f"posts          {statistics.median(ours):.0f} a second")
    print(f"bare inserts   {statistics.median(yardstick):.0f} a second")
    print(f"ratio          {ratio:.3f}")


async def _prepare(sessions: Sessions) -> list[UUID]:
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
                from generate_series(1, 100)
                returning id
            """)
        )
        return list(rows.scalars())


async def _post(sessions: Sessions, talks: list[UUID]) -> float:
    started = time.perf_counter()
    for number in range(POSTS):
        async with sessions() as session:
            await post_message(session, Post(talks[number % len(talks)], "sam", Side.ADMIN, BODY))
    return POSTS / (time.perf_counter() - started)


async def _insert(sessions: Sessions) -> float:
    started = time.perf_counter()
    for _ in range(POSTS):
        async with sessions() as session:
            connection = await driver_connection(session)
            await connection.execute("insert into yardstick (body) values ($1)", BODY)
    return POSTS / (time.perf_counter() - started)


if __name__ == "__main__":
    asyncio.run(main())
