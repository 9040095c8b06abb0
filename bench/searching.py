"""Measure search: `python -m bench.searching`, TALKS=100000, SEARCHES=40, POSTS=3000, ACTIVE=200, BULK=0, KEEP=.

A PostgreSQL of its own with TALKS conversations of ten messages, indexed by the real indexer. Each kind of search takes
turns with the yardstick, the first page of all conversations; both without HTTP, with all of their statements and their
Python. Then messages are posted to ACTIVE new conversations, ten to each, before another one takes its place; with
ACTIVE=0 to random old ones. Each is indexed alone: the CPU time and the write-ahead log of posting and of indexing,
with whole pages and a checkpoint before each hundred, as every five minutes at 28,000 a day. With BULK=1 all cores
write the documents, and their index is built at the end: for millions of messages. KEEP names a directory for that
data, which a later run with the same TALKS goes on with.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path
from uuid import UUID

import asyncpg
import psutil

from bench.search_data import MESSAGES_A_TALK, WORDS_A_MESSAGE, fill, sequences, words
from deploy.cli import SERVICES
from deploy.local.ports import free_ports
from deploy.local.postgres import THROWAWAY, Server, create_databases, prepare, running, throwaway_files
from services.conversations.event_log.sequencer import number_events
from services.conversations.messaging.listing import Filters, list_by_activity
from services.conversations.messaging.opening import NewConversation, create_conversation
from services.conversations.messaging.posting import Post, post_message
from services.conversations.rules import Side, Status
from services.conversations.search.finding import find_conversations
from services.conversations.search.indexer import index_conversations, index_round
from services.conversations.search.query import parse
from shared.database.engine import Driver, create_engine
from shared.database.migrations import upgrade
from shared.database.transactions import SessionFactory, create_sessions, transaction, transaction_driver
from shared.observability.logs import configure_logging

TALKS = int(os.environ.get("TALKS", "100000"))
SEARCHES = int(os.environ.get("SEARCHES", "40"))
POSTS = int(os.environ.get("POSTS", "3000"))
ACTIVE = int(os.environ.get("ACTIVE", "200"))
ROUND = 100  # messages posted, and then indexed
BULK = os.environ.get("BULK") == "1"
KEEP = os.environ.get("KEEP")
BATCH = 1_000  # conversations that a process indexes at once
PAGE = 25
COMMON, MIDDLE, RARE = range(15, 30), range(1_500, 2_500), range(100_000, 150_000)
# A word of about a hundredth of the conversations, for which neither the newest ones nor the index are at their best.
WORST = range(2_500, 3_500)


async def main() -> None:
    """Fill, index, measure and print."""
    configure_logging("bench", "warning")
    with tempfile.TemporaryDirectory() as directory:
        files = Path(KEEP or directory)
        async with _postgres(files / "postgres") as server:
            await create_databases(server, {"conversations": "bench"})
            url = server.url("conversations", "conversations", "bench")
            await asyncio.to_thread(upgrade, SERVICES / "conversations", url)
            samples = await _fill_once(server, files)
            engine = create_engine(url, application="bench", pool_size=4)
            sessions = create_sessions(engine)
            await _index(sessions, server, files)
            await _search(url, samples)
            if POSTS:
                await _post(server, sessions)
            await engine.dispose()


@contextlib.asynccontextmanager
async def _postgres(directory: Path) -> AsyncIterator[Server]:
    settings = THROWAWAY | {"full_page_writes": "on"}  # as in use: whole pages are most of the log
    async with contextlib.AsyncExitStack() as stack:
        if KEEP:
            directory.parent.mkdir(parents=True, exist_ok=True)
            server = prepare(directory, free_ports([0])[0], "bench", print)
        else:
            server = await stack.enter_async_context(throwaway_files(directory))
        # The documents to keep are in unlogged tables, which a stop without a checkpoint would empty.
        stop_signal = signal.SIGINT if KEEP else signal.SIGQUIT
        await stack.enter_async_context(running(server, settings, stop_signal=stop_signal))
        yield server


async def _fill_once(server: Server, files: Path) -> Sequence[str]:
    """Return some of the messages that the database was filled with, now or by an earlier run."""
    if (kept := files / "samples.json").exists():
        return list(json.loads(kept.read_text()))
    samples = await fill(server.url("conversations"), TALKS)
    kept.write_text(json.dumps(samples))
    return samples


async def _index(sessions: SessionFactory, server: Server, files: Path) -> None:
    superuser = await asyncpg.connect(server.url("conversations"))
    started = time.perf_counter()
    if BULK:
        if not (definition := files / "index.sql").exists():
            index = await superuser.fetchval("select pg_get_indexdef('conversation_search_idx'::regclass)")
            definition.write_text(index)
        missing = await superuser.fetch(_WITHOUT_DOCUMENT)
        if missing:
            await superuser.execute("drop index if exists conversation_search_idx")
            with ProcessPoolExecutor(os.cpu_count()) as processes:
                write = partial(_write_documents, server.url("conversations"))
                ids = [row["id"] for row in missing]
                batches = (ids[first : first + BATCH] for first in range(0, len(ids), BATCH))
                await asyncio.to_thread(list, processes.map(write, batches))
        if not await superuser.fetchval("select to_regclass('conversation_search_idx')"):
            await superuser.execute(f"set maintenance_work_mem = '1GB'; {definition.read_text()}")
        await superuser.execute(_FILLED)
    while await index_round(sessions):
        pass
    seconds = time.perf_counter() - started
    await superuser.execute("vacuum analyze conversation_search")
    sizes = await superuser.fetchrow("""
        select pg_relation_size('conversation_search') / 1e6, pg_relation_size('conversation_search_idx') / 1e6,
            pg_total_relation_size('conversation_search') / 1e6, (select count(*) from messages)
    """)
    await superuser.close()
    rows, index, total, messages = map(float, sizes or ())
    print(f"indexed {TALKS:,} conversations, {messages:,.0f} messages in {seconds:.0f} s")
    print(f"megabytes: rows {rows:.0f}, index {index:.0f}, all {total:.0f}", flush=True)


def _write_documents(url: str, ids: Sequence[UUID]) -> None:
    async def write() -> None:
        connection = await asyncpg.connect(url)
        await index_conversations(connection, ids)
        await connection.close()

    asyncio.run(write())


# After a run that was killed, there are neither documents nor progress.
_FILLED = """
    insert into search_progress (position) select head from feed
    on conflict (singleton) do update set fill_before = null
"""
_WITHOUT_DOCUMENT = """
    select id from conversations as c
    where not exists (select from conversation_search where conversation_id = c.id) order by id
"""


def _kinds(samples: Sequence[str]) -> Mapping[str, tuple[Filters, list[str]]]:
    vocabulary, generator = words(), random.Random(3)

    def some(places: range, beginning: int | None = None) -> list[str]:
        return [generator.choice(vocabulary[places.start : places.stop])[:beginning] for _ in range(SEARCHES)]

    def both(first: list[str], second: list[str], sign: str = "") -> list[str]:
        return [f"{one} {sign}{two}" for one, two in zip(first, second, strict=True)]

    phrases = list(sequences(samples, range(60), vocabulary))
    everything = Filters()
    return {
        "a common word": (everything, [f'"{word}"' for word in some(COMMON)]),
        "a word in 0.1 % of the messages": (everything, [f'"{word}"' for word in some(MIDDLE)]),
        "a word in 1 % of the conversations": (everything, [f'"{word}"' for word in some(WORST)]),
        "a rare word": (everything, some(RARE)),
        "a word that is nowhere": (everything, [f"qx{number}" for number in range(SEARCHES)]),
        "a phrase of two common words": (everything, [f'"{generator.choice(phrases)}"' for _ in range(SEARCHES)]),
        "a common and a less common word": (everything, both(some(COMMON), some(MIDDLE))),
        "a rare and a common word": (everything, both(some(RARE), some(COMMON))),
        "a word without a common one": (everything, both(some(MIDDLE), some(COMMON), "-")),
        "three letters": (everything, some(range(2_000), 3)),
        "three letters after a rare word": (everything, both(some(RARE), some(range(2_000), 3))),
        "a customer's name": (everything, [f"customer-{generator.randrange(TALKS // 3)}@" for _ in range(SEARCHES)]),
        "a name that all customers have": (everything, ["customer"] * SEARCHES),
        "a less common word, open": (Filters((Status.OPEN,)), [f'"{word}"' for word in some(MIDDLE)]),
        "a rare word, unread": (Filters(unread=True), some(RARE)),
    }


async def _search(url: str, samples: Sequence[str]) -> None:
    connection = await asyncpg.connect(url)

    async def yardstick() -> int:
        return len((await list_by_activity(connection, Filters(), Side.ADMIN, None, PAGE))[0])

    print(f"{'milliseconds':36} {'p50':>7} {'p95':>7} {'max':>7}   x yardstick   results")
    for name, (filters, queries) in _kinds(samples).items():
        times, yard, results = [], [], []
        for text in queries:
            yard.append((await _timed(yardstick))[0])
            seconds, count = await _timed(_searching(connection, text, filters))
            times.append(seconds)
            results.append(count)
        p95 = sorted(times)[int(len(times) * 0.95)]
        measured = f"{statistics.median(times) * 1e3:7.1f} {p95 * 1e3:7.1f} {max(times) * 1e3:7.1f}"
        ratios = f"{statistics.median(times) / statistics.median(yard):5.1f} {p95 / statistics.median(yard):6.1f}"
        print(f"{name:36} {measured}   {ratios}   {statistics.mean(results):7.1f}", flush=True)
    await connection.close()


def _searching(connection: Driver, text: str, filters: Filters) -> Callable[[], Awaitable[int]]:
    async def search() -> int:
        return len((await find_conversations(connection, parse(text), filters, Side.ADMIN, None, PAGE)).found)

    return search


async def _timed(work: Callable[[], Awaitable[int]]) -> tuple[float, int]:
    started = time.perf_counter()
    result = await work()
    return time.perf_counter() - started, result


async def _post(server: Server, sessions: SessionFactory) -> None:
    """Post messages and index them, in turn, and print what both cost."""
    superuser = await asyncpg.connect(server.url("conversations"))
    workload = _Workload([row["id"] for row in await superuser.fetch(_SOME)])
    await _measure(superuser, sessions, workload, 8 * ACTIVE)  # until conversations end as fast as they begin
    await superuser.execute("vacuum conversation_search")
    spent = await _measure(superuser, sessions, workload, POSTS)
    await superuser.close()
    for name, (python, postgres, wal) in spent.items():
        print(f"{name} a message: Python {python * 1e3:.2f} ms, PostgreSQL {postgres * 1e3:.2f} ms, {wal / 1e3:.1f} KB")


async def _measure(
    superuser: Driver, sessions: SessionFactory, workload: "_Workload", posts: int
) -> Mapping[str, Sequence[float]]:
    """Return the seconds of Python and of PostgreSQL and the bytes of the log, for each message."""

    async def post() -> None:
        for _ in range(ROUND):
            await workload.post(sessions)
        async with transaction(sessions) as session:
            await number_events(await transaction_driver(session))

    async def index() -> None:
        while await index_round(sessions, settle=-1):
            pass

    spent = {"posting": [0.0, 0.0, 0.0], "indexing": [0.0, 0.0, 0.0]}
    before = await _spent(superuser)
    for _ in range(posts // ROUND):
        await superuser.execute("checkpoint")  # after which each changed page is logged as a whole
        for total, work in zip(spent.values(), (post, index), strict=True):
            await work()
            after = await _spent(superuser)
            total[:] = [each + (one - other) / posts for each, one, other in zip(total, after, before, strict=True)]
            before = after
    return spent


class _Workload:
    """Messages to `ACTIVE` conversations at a time, which begin and end; without any, to random ones of `ids`."""

    def __init__(self, ids: Sequence[UUID]) -> None:
        self._ids, self._left, self._generator = ids, dict[UUID, int](), random.Random(5)
        self._vocabulary = words()
        self._weights = list(accumulate(1 / place for place in range(1, len(self._vocabulary) + 1)))

    async def post(self, sessions: SessionFactory) -> None:
        """Post a message, or open a conversation with one."""
        generator = self._generator
        async with sessions() as session:
            if len(self._left) < ACTIVE:
                new = NewConversation("C-0", self._text(4), "A-0", Side.ADMIN, body=self._text(WORDS_A_MESSAGE))
                talk, _ = await create_conversation(session, new)
                await session.commit()
                self._left[talk] = generator.randint(0, 2 * MESSAGES_A_TALK - 2)
            else:
                talk = generator.choice(list(self._left) if ACTIVE else self._ids)
                await post_message(session, Post(talk, "A-0", Side.ADMIN, self._text(WORDS_A_MESSAGE)))
                self._left[talk] = self._left.get(talk, 0) - 1
            if self._left[talk] <= 0:
                del self._left[talk]

    def _text(self, length: int) -> str:
        return " ".join(self._generator.choices(self._vocabulary, cum_weights=self._weights, k=length))


_SOME = "select id from conversations order by random() limit 20000"


async def _spent(superuser: Driver) -> tuple[float, float, float]:
    """Return the CPU seconds of this process and of PostgreSQL, and the bytes of write-ahead log."""
    wal = await superuser.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    backend = psutil.Process(await superuser.fetchval("select pg_backend_pid()"))
    postmaster = backend.parent()
    assert postmaster is not None
    spent = 0.0
    for process in (postmaster, *postmaster.children()):
        with_children = process.cpu_times()
        spent += with_children.user + with_children.system
    return time.process_time(), spent, float(wal)


if __name__ == "__main__":
    asyncio.run(main())
