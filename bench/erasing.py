"""Compare deleting large and small data: `python -m bench.erasing`, MESSAGES=500000, ROUNDS=3.

One API process, over HTTP: delete a conversation with that many messages, and a user with as many events. The yardstick
is the same request for a conversation of ten messages, and its user, in the same rounds. At the end everything is
erased as by the jobs, and the rows per second are counted.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import asyncpg
import httpx2

from bench.stores import Store, filled_stores, running_apis
from services.conversations.event_log.sequencer import number_events
from services.conversations.messaging.erasure_batches import erase_round
from shared.database.engine import create_engine
from shared.database.transactions import create_sessions, transaction, transaction_driver
from tests.system.helpers.product import headers_of

MESSAGES = int(os.environ.get("MESSAGES", "500000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SMALL = 10  # messages
PATHS = {
    "conversation": "/api/v1/admin/conversations/{conversation}",
    "user": "/api/v1/store/users/{user}",
    "user with content": "/api/v1/store/users/{user}?content=true",
}

_FILL = (
    "insert into users (id, role, name, email) values ($1, 'customer', $1, $1 || '@customer.test')",
    """
    insert into conversations (user_id, subject, status, is_read_by_admin, is_read_by_user, message_count, created_at,
        last_activity_at, changed_at)
    select $1, 'Where is it?', 'CLOSED', true, true, $2, now(), now(), now()
    """,
    """
    insert into messages (conversation_id, number, sender_id, sender_role, body, created_at)
    select c.id, n, $1, 'customer', repeat('Where is it? ', 10), now()
    from conversations as c, generate_series(1, $2::int) as n where c.user_id = $1
    """,
    """
    insert into events (type, user_id, conversation_id, payload)
    select 'message.posted', $1, c.id, jsonb_build_object(
        'message', jsonb_build_object('number', n, 'body', repeat('Where is it? ', 10)),
        'customer', jsonb_build_object('id', $1::text, 'name', $1::text))
    from conversations as c, generate_series(1, $2::int) as n where c.user_id = $1
    """,
)


async def main() -> None:
    """Print the medians of each request, large and small, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        async with filled_stores(Path(name), [10_000]) as [store], running_apis(Path(name), [store]) as [port]:
            await measure(store, f"http://127.0.0.1:{port}")
            await erase(store)


async def measure(store: Store, origin: str) -> None:
    """Delete small and large data in turn, of each kind in each round."""
    times: dict[tuple[str, int], list[float]] = {}
    async with httpx2.AsyncClient(base_url=origin, timeout=60) as client:
        for round_ in range(ROUNDS + 1):  # the first one is a warm-up
            for kind, path in PATHS.items():
                for size in (SMALL, MESSAGES if round_ else SMALL):
                    seconds = await delete(store, client, path, f"{kind.replace(' ', '-')}-{round_}-{size}", size)
                    if round_:
                        times.setdefault((kind, size), []).append(seconds * 1000)
    for kind in PATHS:
        small, big = (statistics.median(times[kind, size]) for size in (SMALL, MESSAGES))
        print(f"{kind:<18} {SMALL} messages {small:6.1f} ms, {MESSAGES:,} {big:6.1f} ms, ratio {big / small:.2f}")


async def delete(store: Store, client: httpx2.AsyncClient, path: str, user: str, size: int) -> float:
    """Create a user with a conversation of `size` messages; return how long its deletion takes, in seconds."""
    connection = await asyncpg.connect(store.superuser_url)
    try:
        if await connection.fetchval("select count(*) from users where id = $1", user):
            user += "-again"
        await connection.execute(_FILL[0], user)
        for statement in _FILL[1:]:
            await connection.execute(statement, user, size)
        conversation = await connection.fetchval("select id from conversations where user_id = $1", user)
        await connection.execute("checkpoint")
    finally:
        await connection.close()
    headers = headers_of("admin", "admin") if "/admin/" in path else headers_of("shop", "store")
    started = time.perf_counter()
    answer = await client.delete(path.format(conversation=conversation, user=user), headers=headers)
    seconds = time.perf_counter() - started
    assert answer.status_code in {202, 204}, answer.text
    return seconds


async def erase(store: Store) -> None:
    """Erase everything deleted, as one process does, and print the speed."""
    engine = create_engine(store.url, application="bench")
    sessions = create_sessions(engine)
    numbered = True
    while numbered:
        async with transaction(sessions) as session:
            numbered = bool(await number_events(await transaction_driver(session)))
    rows, started, more = 0, time.perf_counter(), 1
    while more:
        more = await erase_round(sessions)
        rows += more
    print(f"{'erased afterwards':<18} {rows:,} rows, {rows / (time.perf_counter() - started):,.0f} rows/s")
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
