"""Measure how tables wear: `python -m bench.wear`, MESSAGES=1000000, UPDATES=1000000.

A filled store receives posts, by pgbench with the application's statement, to recently active conversations, until
enough rows are updated: a conversation by the post, its event by its numbering, which is done as the relay does.
PostgreSQL vacuums by its own defaults. With HOLD=1 a transaction stays open, as that of a `pg_dump`. The yardstick is
the same store before: the time of typical requests, the size of the tables, the pages of the indexes.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import asyncpg

from bench.growth import ADMIN, Client, find_thread
from bench.load import run_pgbench
from bench.posting import BODY, script_of
from bench.stores import Store, ask, filled_stores, running_apis
from services.conversations.event_log.sequencer import number_events
from shared.database.engine import create_engine
from shared.database.transactions import create_sessions, transaction, transaction_driver

MESSAGES = int(os.environ.get("MESSAGES", "1000000"))
UPDATES = int(os.environ.get("UPDATES", "1000000"))
CLIENTS = 8
HOLD = bool(os.environ.get("HOLD"))
ROUNDS = 9
SLICE = 30  # seconds of one pgbench run
State = Mapping[str, Mapping[str, float]]
TABLES = ("conversations", "messages", "events")


async def main() -> None:
    """Print the state before and after."""
    with tempfile.TemporaryDirectory() as name:
        async with filled_stores(Path(name), [MESSAGES]) as [store], running_apis(Path(name), [store]) as [port]:
            await _prepare(store)
            if HOLD:
                held = await asyncpg.connect(store.superuser_url)  # until the server ends
                await held.execute("begin isolation level repeatable read; select from users limit 1")
            client = Client(port)
            times, before = await _times(store, client), await _state(store)
            started = time.monotonic()
            numbering = asyncio.create_task(_number(store))
            script = Path(name) / "post.sql"
            pick = f"\\set number random(1, {before['talks']['picked']})\nselect id as talk, user_id as customer"
            pick += " from picked where number = :number \\gset\n"
            script.write_text(pick + script_of(":talk", ":customer"))
            state = before
            while _updates(state) - _updates(before) < UPDATES:
                await run_pgbench(store.url, CLIENTS, SLICE, script)
                state = await _state(store)
                print(f"  {_updates(state) - _updates(before):.0f} updates", flush=True)
            numbering.cancel()
            with suppress(asyncio.CancelledError):
                await numbering
            minutes = (time.monotonic() - started) / 60
            _print(before, await _state(store), minutes)
            for request, after in (await _times(store, client)).items():
                print(
                    f"{request:34} {times[request] * 1e3:7.2f} ms  {after * 1e3:7.2f} ms  {after / times[request]:5.2f}"
                )


async def _prepare(store: Store) -> None:
    connection = await asyncpg.connect(store.superuser_url)
    await connection.execute(_PREPARE)
    await connection.close()


async def _number(store: Store) -> None:
    """Number new events, as the relay does."""
    engine = create_engine(store.url, application="chats-relay", pool_size=1)
    try:
        while True:
            async with transaction(create_sessions(engine)) as session:
                numbered = await number_events(await transaction_driver(session))
            await asyncio.sleep(0 if numbered else 0.05)
    finally:
        await engine.dispose()


async def _times(store: Store, client: Client) -> Mapping[str, float]:
    """Return how long typical requests take, in seconds."""
    thread, inbox = await find_thread(store, 60), "/api/v1/admin/conversations"
    requests = {
        "inbox": ("GET", inbox, ADMIN, "admin"),
        "inbox, waiting view": ("GET", f"{inbox}?status=OPEN&status=AWAITING_ADMIN&sort=waiting", ADMIN, "admin"),
        "customer's list": ("GET", "/api/v1/conversations", "C-0", "customer"),
        "thread": ("GET", f"{inbox}/{thread['id']}/messages", ADMIN, "admin"),
        "admins' badge": ("GET", "/api/v1/unread", ADMIN, "admin"),
        "admin posts": ("POST", f"{inbox}/{thread['id']}/messages", ADMIN, "admin", f'{{"body": "{BODY}"}}'),
    }
    return {
        what: statistics.median(client.seconds(*request) for _ in range(ROUNDS)) for what, request in requests.items()
    }


async def _state(store: Store) -> State:
    """Return PostgreSQL's statistics of each table, and of the whole."""
    await ask(store, "select pg_stat_force_next_flush()")
    state = {table: dict(await ask(store, _STATE, table)) for table in TABLES}
    return state | {
        "talks": dict(await ask(store, "select count(*) as picked, pg_current_wal_lsn() - '0/0' as wal from picked"))
    }


def _updates(state: State) -> float:
    return sum(state[table]["updated"] for table in TABLES)


def _print(before: State, after: State, minutes: float) -> None:
    posts = after["conversations"]["updated"] - before["conversations"]["updated"]
    wal = (after["talks"]["wal"] - before["talks"]["wal"]) / posts
    print(f"{posts:.0f} posts in {minutes:.1f} minutes, {wal:.0f} bytes of write-ahead log each")
    for table in TABLES:
        one, two = before[table], after[table]
        updated, hot, vacuums = (two[name] - one[name] for name in ("updated", "hot", "vacuums"))
        rows, size, indexes = (two[name] / one[name] for name in ("live", "table_bytes", "index_bytes"))
        print(
            f"{table}: {rows:.2f} times the rows, {size:.2f} times the size; indexes {indexes:.2f} times, filled to"
            f" {one['density']:.0f} %, now {two['density']:.0f} %; {updated:.0f} updates, {hot / max(updated, 1):.0%}"
            f" of them in place; {vacuums:.0f} vacuums, dead rows {two['dead'] / two['live']:.1%}"
        )


_PREPARE = """
create extension pgstattuple;
create table picked as
    select row_number() over () as number, id, user_id from (
        select id, user_id from conversations order by last_activity_at desc limit 100000
    ) as latest;
alter table picked add primary key (number);
grant select on picked to public;
analyze picked
"""
_STATE = """
select n_tup_upd as updated, n_tup_hot_upd as hot, n_live_tup as live, n_dead_tup as dead,
    autovacuum_count + vacuum_count as vacuums, pg_table_size(relid) as table_bytes,
    pg_indexes_size(relid) as index_bytes,
    (
        select sum(leaf.avg_leaf_density * leaf.leaf_pages) / sum(leaf.leaf_pages)
        from pg_index join pg_class on pg_class.oid = indexrelid join pg_am on pg_am.oid = relam and amname = 'btree',
            pgstatindex(indexrelid) as leaf
        where indrelid = relid and leaf.leaf_pages > 0
    ) as density
from pg_stat_user_tables where relname = $1
"""

if __name__ == "__main__":
    asyncio.run(main())
