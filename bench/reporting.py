"""Measure reports and the audit: `python -m bench.reporting`, FACTS=1000,100000,1000000, READS=15.

A PostgreSQL of its own with a growing number of facts, spread evenly over time. A report of the same last 30 days, with
a thousand facts in them at each size of the table, shows whether its cost depends on the store's age; reports of
all facts show what a row costs, exactly and from buckets. Then the jobs count conversations that are new to them. At
last admins set statuses, by hand and with a reply: the CPU time and the write-ahead log, with and without the audit.
"""

import asyncio
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

from deploy.cli import SERVICES
from deploy.local.postgres import create_databases, throwaway_postgres
from services.conversations.event_log.sequencer import number_events
from services.conversations.messaging.posting import Post, post_messages
from services.conversations.reports.facts import count_round
from services.conversations.reports.numbers import By, Span, read_report
from services.conversations.rules import Side, Status
from shared.database.engine import create_engine
from shared.database.migrations import upgrade
from shared.database.transactions import SessionFactory, create_sessions, transaction, transaction_driver
from shared.observability.logs import Origin, configure_logging

FACTS = [int(number) for number in os.environ.get("FACTS", "1000,100000,1000000").split(",")]
READS = int(os.environ.get("READS", "15"))
IN_SPAN = 1_000  # facts in the last 30 days
TALKS = 20_000  # conversations that the jobs count
REPLIES = 2_000  # replies of each kind
DAYS = 30


async def main() -> None:
    """Fill, measure and print."""
    configure_logging("bench", "warning")
    with tempfile.TemporaryDirectory() as directory:
        async with throwaway_postgres(Path(directory) / "postgres") as server:
            await create_databases(server, {"conversations": "bench"})
            url = server.url("conversations", "conversations", "bench")
            await asyncio.to_thread(upgrade, SERVICES / "conversations", url)
            engine = create_engine(url, application="bench", pool_size=2)
            sessions = create_sessions(engine)
            superuser = await asyncpg.connect(server.url("conversations"))
            await _reports(superuser, sessions)
            await _count(superuser, sessions)
            await _audit(superuser, sessions)
            await superuser.close()
            await engine.dispose()


async def _reports(superuser: asyncpg.Connection, sessions: SessionFactory) -> None:
    today, first = datetime.now(UTC).date(), 0.0
    for facts in FACTS:
        await superuser.execute("truncate conversation_facts")
        await superuser.execute(_FILL, facts, DAYS * 86_400 / IN_SPAN)
        await superuser.execute("vacuum analyze conversation_facts")
        last_days = Span(today - timedelta(days=DAYS - 1), today, UTC)
        milliseconds = {by: await _read(sessions, last_days, by) for by in By}
        first = first or milliseconds[By.DAY]
        print(
            f"{facts:>9,} facts: the last {DAYS} days "
            + ", ".join(f"by {by} {each:.1f} ms" for by, each in milliseconds.items())
            + f"; by day {milliseconds[By.DAY] / first:.2f} times the first"
        )
        days = min(int(facts * DAYS / IN_SPAN), 3_650)
        whole = Span(today - timedelta(days=days - 1), today, UTC)
        print(f"{'':>9} {days} days by admin: {await _read(sessions, whole, By.ADMIN):.0f} ms")


async def _read(sessions: SessionFactory, span: Span, by: By) -> float:
    """Return the median time of a report in milliseconds."""
    times = []
    async with transaction(sessions) as session:
        driver = await transaction_driver(session)
        for _ in range(READS):
            started = time.perf_counter()
            await read_report(driver, span, by)
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


async def _count(superuser: asyncpg.Connection, sessions: SessionFactory) -> None:
    await superuser.execute("insert into users (id, role) values ('anna', 'customer'), ('sam', 'admin')")
    await superuser.execute(_TALKS, TALKS)
    await superuser.execute("vacuum analyze")
    async with transaction(sessions) as session:
        while await number_events(await transaction_driver(session)):
            pass
    started, before = time.perf_counter(), await superuser.fetchval("select pg_current_wal_insert_lsn()")
    while await count_round(sessions):
        pass
    seconds = time.perf_counter() - started
    written = await superuser.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", before)
    print(
        f"counting: {TALKS / seconds:,.0f} conversations a second, {written / TALKS:.0f} bytes of write-ahead log each"
    )


async def _audit(superuser: asyncpg.Connection, sessions: SessionFactory) -> None:
    ids = [row["id"] for row in await superuser.fetch("select id from conversations order by id limit $1", REPLIES)]
    async with sessions() as session:
        driver = await transaction_driver(session)
        await session.rollback()
        kinds = {
            "a reply": (None, None),
            "a reply with a status": (Status.RESOLVED, None),
            "the same, audited": (Status.CLOSED, Origin(str(UUID(int=1)), "203.0.113.9")),
        }
        for status, origin in kinds.values():  # prepares the statements
            await post_messages(driver, [_reply(ids[0], status, origin)])
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for turn in range(0, REPLIES, 100):
            for name, (status, origin) in kinds.items():
                await superuser.execute("checkpoint") if turn == 0 else None
                before = await superuser.fetchval("select pg_current_wal_insert_lsn()")
                started = time.perf_counter()
                for conversation_id in ids[turn : turn + 100]:
                    await post_messages(driver, [_reply(conversation_id, status, origin)])
                seconds = time.perf_counter() - started
                written = await superuser.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", before)
                costs[name].append((seconds * 10, float(written) / 100))
    for name, each in costs.items():
        milliseconds, written = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"{name}: {milliseconds:.2f} ms, {written:,.0f} bytes of write-ahead log")


def _reply(conversation_id: UUID, status: Status | None, origin: Origin | None) -> Post:
    return Post(conversation_id, "sam", Side.ADMIN, "We will look into it.", chosen_status=status, origin=origin)


# From now backwards, evenly.
_FILL = """
    insert into conversation_facts (
        conversation_id, cycle, number, opened_at, replied_at, replied_by, resolved_at, resolved_by
    )
    select uuidv7(), 1, 3, opened_at, opened_at + random() * interval '5 hours', 'admin-' || n % 10,
        opened_at + random() * interval '5 days', 'admin-' || n % 10
    from generate_series(1, $1) as n
        cross join lateral (select clock_timestamp() - n * $2::float8 * interval '1 second' as opened_at) as moment
"""
_TALKS = """
    with talks as (
        insert into conversations (
            user_id, subject, status, is_read_by_admin, is_read_by_user, created_at, last_activity_at, changed_at,
            message_count, last_customer_number
        )
        select 'anna', 'Where is it?', 'OPEN', false, true, now(), now(), now(), 10, 10
        from generate_series(1, $1) returning id, created_at
    ),
    messages as (
        insert into messages (conversation_id, number, sender_id, sender_role, body, created_at)
        select id, n, case n % 2 when 1 then 'anna' else 'sam' end, case n % 2 when 1 then 'customer' else 'admin' end,
            'Hello', created_at + n * interval '1 minute'
        from talks cross join generate_series(1, 10) as n
    )
    insert into events (type, user_id, conversation_id, payload)
    select 'message.posted', 'anna', id, '{}' from talks
"""


if __name__ == "__main__":
    asyncio.run(main())
